export function responseOf(meter: string, { allowed, known, used, limit, remaining, resetsAt }: import("./server.js").Answer, amount?: number, now?: number): {
    status: number;
    headers: Record<string, string>;
    body?: object;
};
export function limit<Request>(planwire: Pick<ReturnType<typeof import("./server.js").server>, "consume">, meter: string, { tenant, amount, key }: {
    tenant: (req: Request) => string | null | Promise<string | null>;
    amount?: number | ((req: Request) => number) | undefined;
    key?: ((req: Request) => string | undefined) | undefined;
}): (req: Request, res: any, next: (error?: unknown) => void) => Promise<void>;
