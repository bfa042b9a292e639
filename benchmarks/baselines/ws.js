// The usual Node gateway: ws, a set of sockets per topic, send() to each. No auth, no heartbeats.
//   node ws.js PORT STORE_PORT
const net = require("node:net");
const { WebSocketServer } = require("ws");

const [port, storePort] = process.argv.slice(2).map(Number);
const topics = new Map();

const server = new WebSocketServer({ port, host: "127.0.0.1", backlog: 4096, perMessageDeflate: false });
server.on("connection", (socket, request) => {
  const topic = request.url.slice(4);
  if (!topics.has(topic)) topics.set(topic, new Set());
  const sockets = topics.get(topic).add(socket);
  socket.on("close", () => sockets.delete(socket));
  socket.on("error", () => {});
  socket.send('{"t":0}');
});

// Just enough of RESP to hear pmessage: [pmessage, pattern, pw:{bench:N}, "... \n state"].
const store = net.connect(storePort, "127.0.0.1", () => store.write("PSUBSCRIBE pw:{bench:*\r\n"));
let heard = Buffer.alloc(0);
store.on("data", (data) => {
  heard = heard.length ? Buffer.concat([heard, data]) : data;
  let at = 0;
  for (;;) {
    const parts = [];
    let next = line(at);
    if (next < 0) break;
    const count = Number(heard.toString("latin1", at + 1, next - 2));
    while (parts.length < count && next >= 0) next = part(next, parts);
    if (next < 0) break;
    if (count === 4) announce(parts[2], parts[3]);
    at = next;
  }
  heard = heard.subarray(at);
});

function line(from) {
  const end = heard.indexOf("\r\n", from);
  return end < 0 ? -1 : end + 2;
}

function part(from, parts) {
  const start = line(from);
  if (start < 0) return -1;
  if (heard[from] === 0x3a) return parts.push(null), start;
  const end = start + Number(heard.toString("latin1", from + 1, start - 2));
  if (heard.length < end + 2) return -1;
  parts.push(heard.subarray(start, end));
  return end + 2;
}

function announce(channel, payload) {
  const sockets = topics.get(channel.toString("latin1", 10, channel.length - 1));
  if (!sockets) return;
  const state = payload.toString("utf8", payload.indexOf(10) + 1);
  for (const socket of sockets) socket.send(state);
}
