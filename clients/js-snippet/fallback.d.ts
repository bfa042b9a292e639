export function fallback({ socket }?: {
    socket?: ((url: string) => WebSocket) | undefined;
}): (url: string) => import("./planwire.js").Socket;
