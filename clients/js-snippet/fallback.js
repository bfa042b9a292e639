/**
 * The same surface where WebSockets are blocked: pass `fallback()` to `planwire`, or to `tabs`, as its `socket`.
 *
 * Role: a Socket that is a WebSocket until two in a row said nothing; then one event stream for each topic, or long
 * polling where streams are refused or a proxy holds them back. What the HTTP side says is turned into frames, so the core cannot tell.
 * Over HTTP nothing is acked and `expect` does not hurry the provider; it only waits.
 */

/** A stream that is silent for this long after its start is held back by a proxy, ms. */
const STREAM_MS = 5000;
/** How long a poll may wait for news, ms; well within the patience that the welcome promises. */
const POLL_MS = 20000;
/** Between a poll without news and the next, ms. */
const PAUSE_MS = 500;

const WELCOME = {
  type: "welcome",
  session: "http",
  heartbeat_ms: 15000,
  reconnect: { min_ms: 500, max_ms: 30000 },
  ack: { share: 0 },
};

/** A Socket over HTTP. @param {string} url of the WebSocket @param {() => void} onnews called when something arrived */
const http = (url, onnews) => {
  const base = url.replace(/^ws/, "http").replace(/connect$/, "state/");
  /** @type {Record<string, AbortController>} */
  const streams = { __proto__: /** @type {any} */ (null) };
  let /** @type {any} */ token;
  let /** @type {any} */ polls;
  let /** @type {any} */ over;

  /** @param {any} frame */
  const hand = (frame) => over || self.onmessage({ data: JSON.stringify(frame) });

  /** @param {number} [code] */
  const end = (code) => {
    if (over) return;
    over = 1;
    for (const topic in streams) streams[topic].abort();
    code && self.onclose({ code });
  };

  /** @param {string} topic @param {number} version */
  const follow = async (topic, version = 0) => {
    streams[topic]?.abort();
    const { signal } = (streams[topic] = new AbortController());
    /** @param {string} path @param {any} [headers] */
    const get = async (path, headers) => {
      const answer = await fetch(base + topic + path, { headers: { Authorization: "Bearer " + token, ...headers }, signal });
      if (answer.status == 401) end(4401);
      if (answer.status == 403) {
        hand({ type: "gone", topic, reason: "forbidden" });
        streams[topic].abort();
      }
      return answer;
    };
    const stream = async () => {
      const { body, ok } = await get("/events", version && { "Last-Event-ID": version });
      const reader = ok && body?.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; reader; ) {
        const { value, done } = await reader.read();
        if (done) return;
        patience = clearTimeout(patience);
        onnews();
        const events = (text += value).split("\n\n");
        text = /** @type {string} */ (events.pop());
        for (const event of events) {
          const data = /^data: (.*)/m.exec(event)?.[1];
          const frame = data && JSON.parse(data);
          if (frame?.reason == "expired") end(4401);
          else if (frame) hand(frame);
        }
      }
    };
    const poll = async () => {
      for (let path = ""; ; path = `?min_version=${version + 1}&wait_ms=${POLL_MS}`) {
        const answer = await get(path);
        if (!answer.ok && answer.status != 504) return;
        const news = await answer.json();
        onnews();
        ({ version } = news);
        // The answer was read from the store just now: it vouches for itself.
        hand({ ...(answer.ok ? { ...news, type: "snapshot" } : { type: "current", version }), topic, fresh: true });
        // A gateway that waits less, or not at all, is not stormed.
        if (!answer.ok) await new Promise((again) => setTimeout(again, PAUSE_MS));
      }
    };
    const giveUp = () => {
      polls = 1;
      follow(topic, version);
    };
    let /** @type {any} */ patience = polls ? undefined : setTimeout(giveUp, STREAM_MS);
    try {
      await (polls ? poll() : stream());
    } catch {}
    clearTimeout(patience);
    signal.aborted || (patience ? giveUp() : end(4000));
  };

  /** @type {any} */
  const self = {
    send(/** @type {string} */ text) {
      const frame = JSON.parse(text);
      token = frame.token ?? token;
      if (frame.type == "hello") {
        hand(WELCOME);
        for (const [topic, version] of Object.entries(frame.topics)) follow(topic, version);
      }
      if (frame.type == "subscribe") follow(frame.topic, frame.version);
      if (frame.type == "unsubscribe") streams[frame.topic]?.abort();
    },
    close: () => end(),
  };
  queueMicrotask(() => over || self.onopen({}));
  return self;
};

/**
 * How to connect: hand it to `planwire` as `socket`.
 * @param {object} [options]
 * @param {(url: string) => WebSocket} [options.socket]  what is tried first
 * @returns {(url: string) => import("./planwire.js").Socket}
 */
export const fallback = ({ socket = (to) => new WebSocket(to, "planwire.v1") } = {}) => {
  let silent = 0; // sockets in a row
  return (url) => {
    if (silent++ > 1) {
      silent = 0;
      return http(url, () => (silent = 1));
    }
    const real = socket(url);
    real.addEventListener("message", () => (silent = 0), { once: true });
    return real;
  };
};
