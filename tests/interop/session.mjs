// One sitting with npm's ws: `node session.mjs URL HELLO DEFLATE`. Prints what came, as one line of JSON.
import WebSocket from "ws";

const [url, hello, deflate] = process.argv.slice(2);
const socket = new WebSocket(url, ["planwire.v1"], { perMessageDeflate: deflate === "deflate" });
const frames = [];

socket.on("open", () => socket.send(hello));
socket.on("message", (data) => {
  const frame = JSON.parse(data.toString());
  frames.push(frame);
  if (frame.type === "snapshot" && frame.version > 0) {
    socket.send(JSON.stringify({ type: "ack", topic: frame.topic, version: frame.version }));
    socket.ping("alive");
  }
});
socket.on("pong", (data) => data.toString() === "alive" && socket.close(3001, "done"));
socket.on("close", (code, reason) => {
  console.log(JSON.stringify({ frames, code, reason: reason.toString(), extensions: socket.extensions }));
});
socket.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
