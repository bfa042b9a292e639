/**
 * Event streams and long polling where WebSockets are blocked: pass `fallback()` to `planwire` or `tabs` as `socket`.
 *
 * Role: a Socket that is a WebSocket until two in a row close without a frame. Then it is one event stream per topic,
 * or long polling where streams are refused or a proxy buffers them. HTTP answers are turned into frames, so the core
 * sees no difference. Over HTTP there are no acks, and `expect` only waits: the gateway does not ask the provider.
 */

/** Failed WebSockets in a row before HTTP is tried. */
const SILENT_SOCKETS = 2;
/** A stream that is silent for this long after its start is buffered by a proxy, ms. */
const STREAM_MS = 5000;
/** Time a poll may wait for a new version, ms; well below the silence that the welcome allows. */
const POLL_MS = 20000;
/** Pause after a poll without a new version, ms, in case the gateway answers early. */
const PAUSE_MS = 500;
/** The close codes for a lost connection (reconnect) and for a refused token. */
const LOST = 4000;
const TOKEN_REFUSED = 4401;

const WELCOME = {
  type: "welcome",
  session: "http",
  heartbeat_ms: 15000,
  reconnect: { min_ms: 500, max_ms: 30000 },
  ack: { share: 0 },
};

/** A Socket over HTTP. @param {string} url of the WebSocket @param {() => void} onNews called when data arrives */
const createHttpSocket = (url, onNews) => {
  const base = url.replace(/^ws/, "http").replace(/connect$/, "state/");
  /** @type {Record<string, AbortController>} topic -> the controller of its request */
  const requests = { __proto__: /** @type {any} */ (null) };
  /** @type {"stream" | "poll"} one failed stream moves all topics to polling */
  let mode = "stream";
  let token = "";
  let isOver = false;

  /** @param {any} frame */
  const deliver = (frame) => {
    if (!isOver) self.onmessage({ data: JSON.stringify(frame) });
  };

  /** Ends every request. @param {number} [code] for the core; none when the core itself has closed the socket */
  const end = (code) => {
    if (isOver) return;
    isOver = true;
    for (const topic in requests) requests[topic].abort();
    if (code) self.onclose({ code });
  };

  /** Fetches a topic. @param {string} topic @param {string} path @param {AbortSignal} signal @param {any} [headers] */
  const get = async (topic, path, signal, headers) => {
    const answer = await fetch(base + topic + path, {
      headers: { Authorization: "Bearer " + token, ...headers },
      signal,
    });
    if (answer.status == 401) end(TOKEN_REFUSED);
    if (answer.status == 403) {
      deliver({ type: "gone", topic, reason: "forbidden" });
      requests[topic].abort();
    }
    return answer;
  };

  /** Handles one event of a stream. @param {string} event as text */
  const takeEvent = (event) => {
    const data = /^data: (.*)/m.exec(event)?.[1];
    if (!data) return;
    const frame = JSON.parse(data);
    if (frame.reason == "expired") end(TOKEN_REFUSED);
    else deliver(frame);
  };

  /** Reads a topic's event stream to its end. @param {string} topic @param {number} version @param {AbortSignal} signal @param {() => void} onBytes */
  const stream = async (topic, version, signal, onBytes) => {
    const { body, ok } = await get(topic, "/events", signal, version && { "Last-Event-ID": version });
    const reader = ok && body?.pipeThrough(new TextDecoderStream()).getReader();
    if (!reader) return;
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      onBytes();
      onNews();
      const events = (text + value).split("\n\n");
      text = events.pop() ?? "";
      events.forEach(takeEvent);
    }
  };

  /** Polls a topic until a poll fails. @param {string} topic @param {number} version @param {AbortSignal} signal */
  const poll = async (topic, version, signal) => {
    for (let path = ""; ; path = `?min_version=${version + 1}&wait_ms=${POLL_MS}`) {
      const answer = await get(topic, path, signal);
      const { ok } = answer;
      if (!ok && answer.status != 504) return;
      const news = await answer.json();
      onNews();
      ({ version } = news);
      // Fresh, because the gateway has read the answer from the store just now.
      deliver({ ...(ok ? { ...news, type: "snapshot" } : { type: "current", version }), topic, fresh: true });
      if (!ok) await new Promise((next) => setTimeout(next, PAUSE_MS));
    }
  };

  /** Follows a topic from a version on, in the current mode. @param {string} topic @param {number} [version] */
  const follow = async (topic, version = 0) => {
    requests[topic]?.abort();
    const { signal } = (requests[topic] = new AbortController());
    let canFallBack = mode == "stream"; // until the stream's first bytes
    const fallBack = () => {
      mode = "poll";
      follow(topic, version);
    };
    const timer = canFallBack ? setTimeout(fallBack, STREAM_MS) : undefined;
    const onBytes = () => {
      canFallBack = false;
      clearTimeout(timer);
    };
    try {
      await (canFallBack ? stream(topic, version, signal, onBytes) : poll(topic, version, signal));
    } catch {}
    clearTimeout(timer);
    if (signal.aborted) return;
    if (canFallBack) fallBack();
    else end(LOST);
  };

  /** @type {any} */
  const self = {
    send: (/** @type {string} */ text) => {
      const frame = JSON.parse(text);
      token = frame.token ?? token;
      if (frame.type == "hello") {
        deliver(WELCOME);
        for (const [topic, version] of Object.entries(frame.topics)) follow(topic, version);
      }
      if (frame.type == "subscribe") follow(frame.topic, frame.version);
      if (frame.type == "unsubscribe") requests[frame.topic]?.abort();
    },
    close: () => end(),
  };
  queueMicrotask(() => isOver || self.onopen({}));
  return self;
};

/**
 * The `socket` option for `planwire`: a WebSocket with HTTP as its fallback.
 * @param {object} [options]
 * @param {(url: string) => WebSocket} [options.socket]  how to connect first; default: a WebSocket
 * @returns {(url: string) => import("./planwire.js").Socket}
 */
export const fallback = ({ socket = (to) => new WebSocket(to, "planwire.v1") } = {}) => {
  let silent = 0; // sockets in a row without a frame
  return (url) => {
    if (silent == SILENT_SOCKETS) {
      silent = 0;
      // After a connection over HTTP that worked, only one WebSocket is tried, not two.
      return createHttpSocket(url, () => (silent = 1));
    }
    silent++;
    const real = socket(url);
    real.addEventListener("message", () => (silent = 0), { once: true });
    return real;
  };
};
