export function fallback({ socket }?: {
    socket?: ((url: string) => import("./planwire.js").Socket) | undefined;
}): (url: string) => import("./planwire.js").Socket;
