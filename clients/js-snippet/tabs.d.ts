export function tabs({ subject, socket }: {
    subject: string;
    socket?: ((url: string) => import("./planwire.js").Socket) | undefined;
}): (url: string) => import("./planwire.js").Socket;
