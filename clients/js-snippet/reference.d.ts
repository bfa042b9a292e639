export function tenantReference(secret: string, tenantId: string, environment?: string): Promise<string>;
