export function tenantReference(secret: string, tenantId: string | number, environment?: string): Promise<string>;
