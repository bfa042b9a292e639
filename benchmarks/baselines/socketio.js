// The usual Socket.IO gateway, as its documentation has it: connection state recovery on, a room per topic, and the
// current state read from Redis for a socket that could not be recovered. One process, the built-in adapter. No auth.
//   node socketio.js PORT STORE_PORT
const { createServer } = require("node:http");
const { createClient } = require("redis");
const { Server } = require("socket.io");

const [port, storePort] = process.argv.slice(2).map(Number);

async function main() {
  const reader = createClient({ socket: { host: "127.0.0.1", port: storePort } });
  const listener = reader.duplicate();
  await Promise.all([reader.connect(), listener.connect()]);

  const http = createServer();
  const io = new Server(http, {
    transports: ["websocket"],
    connectionStateRecovery: { maxDisconnectionDuration: 120000 },
  });
  io.on("connection", async (socket) => {
    if (socket.recovered) return; // its room is restored and what it missed is sent
    const topic = socket.handshake.auth.topic;
    socket.join(topic);
    socket.emit("state", JSON.parse(await reader.get(`state:${topic}`)));
  });
  await listener.pSubscribe("state:*", (message, channel) => {
    io.to(channel.slice(6)).emit("state", JSON.parse(message));
  });
  http.listen({ port, host: "127.0.0.1", backlog: 4096 });
}

main();
