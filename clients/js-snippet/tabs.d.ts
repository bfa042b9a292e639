export function tabs({ subject, socket }: {
    subject: string;
    socket?: ((url: string) => import("./planwire.js").Socket) | undefined;
}, answerMs?: number): (url: string) => import("./planwire.js").Socket;
