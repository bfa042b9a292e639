export function injected(id?: string): (topic: string) => import("./planwire.js").FirstPaint | undefined;
export function forget(subject: string): void | undefined;
export function stored({ subject, initial, ...options }: import("./planwire.js").Options & {
    subject: string;
}): import("./planwire.js").Planwire;
