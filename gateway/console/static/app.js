/**
 * The page's frame: login, routing, keys, and the two sources of updates (the stream and a timer).
 *
 * `landing`, `topicView` and `causeView` make the views. A view is drawn when a report changes (live.js), and polls for
 * data that is not in reports. The flow: router.js -> the view -> api.js and live.js -> dom.js.
 */
import { guarded } from "./actions.js";
import { get, post, ApiError } from "./api.js";
import { live } from "./live.js";
import { plural } from "./model/format.js";
import { history as samples } from "./model/history.js";
import { parse } from "./router.js";
import { copy } from "./ui/copy.js";
import { setAttribute, setText } from "./ui/dom.js";
import { keys } from "./ui/keys.js";
import { tips } from "./ui/tip.js";
import { causeView } from "./views/cause.js";
import { landing } from "./views/landing.js";
import { topicView } from "./views/topic.js";

const POLL_MS = 2000;
const RETRY_MS = 3000;
const SAMPLE_MS = 1000;

/**
 * The context passed to every view.
 * @typedef {object} Context
 * @property {any} session  the login and its permissions
 * @property {ReturnType<typeof live>} live
 * @property {ReturnType<typeof samples>} history
 * @property {() => void} soon  polls now
 * @property {(name: string, button: HTMLElement) => HTMLElement} may  the button; without permission, it explains why
 */

/**
 * @typedef {object} View
 * @property {string[]} watches  topics with a report on every tab
 * @property {any[]} lists  the lists for j and k, in order of preference
 * @property {string[]} sections  ids, for the keys 1 to 9
 * @property {() => void} draw
 * @property {(signal: AbortSignal) => Promise<void>} poll
 * @property {() => void} [focusSearch]
 * @property {() => void} [onlyTrouble]
 * @property {() => void} [compare]
 * @property {() => void} [replay]
 * @property {() => void} [focusActions]
 */

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);
const mains = { login: element("login"), landing: element("landing"), topic: element("topic"), cause: element("why") };
const makers = { landing, topic: topicView, cause: causeView };

/** @type {View | null} */
let view = null;
/** @type {number | undefined} */
let timer;
let running = new AbortController();
/** Why the page is not current; empty: it is. */
let problem = "";
/** Whether the notice shows a failed request. A successful request clears it. */
let isTold = false;

const show = (/** @type {keyof typeof mains} */ name) => {
  for (const [key, main] of Object.entries(mains)) main.hidden = key !== name;
};

const notice = (/** @type {string} */ text) => {
  element("notice").hidden = !text;
  setText(element("notice"), text);
};

const freshness = (/** @type {string} */ status, /** @type {string} */ text, /** @type {string} */ why) => {
  setAttribute(element("freshness"), "data-status", status);
  setAttribute(element("freshness"), "data-why", why);
  setText(element("freshness-text"), text);
};

/** Shows whether the page is current: by the polls first, then the stream, then the gateways' own freshness. */
const showFrame = () => {
  const gateways = context.live.gateways();
  const status = context.live.status();
  const bad = gateways.filter(({ isSilent, report }) => isSilent || (report && !report.fresh));
  if (problem) freshness("offline", "No answer", `${problem} What is shown is old.`);
  else if (status === "denied") freshness("offline", "Denied", "The stream was refused: log in again.");
  else if (status === "offline" || status === "stale")
    freshness("stale", "Stale", "The stream was interrupted: reports are late, and are asked for again.");
  else if (status === "connecting") freshness("connecting", "Connecting", "The first reports are awaited.");
  else if (bad.length)
    freshness(
      "stale",
      `${plural(bad.length, "gateway")} in trouble`,
      `What is shown is live; ${bad.length} of ${gateways.length} gateways do not hear every change.`,
    );
  else freshness("fresh", "Live", "Reports come as things change, and every gateway hears every change.");
};

const draw = () => {
  showFrame();
  view?.draw();
};

/** Handles a failed request: shows the login if it is missing. Returns whether to continue polling. @param {unknown} error */
const failed = (error) => {
  if (error instanceof ApiError && error.status === 401) {
    context.live.stop();
    view = null;
    element("logout").hidden = true;
    freshness("connecting", "Not logged in", "");
    if (error.code === "token_expired") setText(element("login-problem"), "The login has ended.");
    show("login");
    element("token").focus();
    return false;
  }
  isTold = true;
  if (!(error instanceof ApiError)) {
    reportError(error);
    notice("This page has failed; the browser's console says where.");
  } else if (error.status >= 400 && error.status < 500) notice(`That cannot be shown: ${error.message}.`);
  else {
    problem = `The last request failed: ${error.message}.`;
    notice(`Not up to date. ${problem}`);
    showFrame();
  }
  return true;
};

const poll = async () => {
  clearTimeout(timer);
  running.abort();
  if (document.hidden || !view) return;
  const mine = (running = new AbortController());
  let wait_ms = POLL_MS;
  try {
    await view.poll(mine.signal);
    if (mine.signal.aborted) return;
    if (isTold) notice("");
    isTold = false;
    problem = "";
    draw();
  } catch (error) {
    if (mine.signal.aborted || !failed(error)) return;
    wait_ms = RETRY_MS;
  }
  timer = setTimeout(poll, wait_ms);
};

/** @type {Context} */
const context = {
  session: {},
  live: live(draw, failed),
  history: samples(),
  soon: () => void poll(),
  may: (name, button) => guarded(context.session, name, button),
};

let shownPath = "";
/** The target of Escape: the landing page as it was left, with its search. */
let landingHash = "#/";

const route = () => {
  const place = parse(location.hash) ?? {
    view: /** @type {const} */ ("landing"),
    name: "",
    query: new URLSearchParams(),
  };
  notice(parse(location.hash) ? "" : "That link names nothing.");
  const main = mains[place.view];
  view = makers[place.view](main, context, place);
  document.title = place.name ? `${place.name} - Planwire console` : "Planwire console";
  show(place.view);
  const path = `${place.view} ${place.name}`;
  if (path !== shownPath) window.scrollTo(0, 0);
  shownPath = path;
  context.live.look(view.watches);
  draw();
  poll();
};

const enter = async () => {
  context.session = await get("session");
  element("logout").hidden = !context.session.has_login;
  element("read-only").hidden = context.session.scopes.includes("admin");
  setText(element("gateway"), `Gateway ${context.session.gateway}`);
  route();
};

const start = () => enter().catch((error) => failed(error) && setTimeout(start, RETRY_MS));

element("login-form").addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  const input = element("token");
  try {
    await post("login", { token: input.value });
    input.value = "";
    setText(element("login-problem"), "");
  } catch (error) {
    setText(element("login-problem"), error instanceof Error ? `${error.message}.` : "");
    return input.select();
  }
  start();
});

element("logout").addEventListener("click", async () => {
  await post("logout", {}).catch(() => {});
  location.hash = "#/";
  start();
});

addEventListener("hashchange", (event) => {
  const left = new URL(event.oldURL).hash;
  if (parse(left)?.view === "landing") landingHash = left;
  if (view) route();
});
document.addEventListener("visibilitychange", poll);
setInterval(() => {
  if (document.hidden || !view) return;
  const reports = context.live.gateways().filter(({ isSilent, report }) => report && !isSilent);
  context.history.add(
    reports.map(({ report }) => report),
    Date.now() / 1000,
  );
  draw();
}, SAMPLE_MS);

tips();

/** The list with the focus, or in the section with the focus; else the first list. */
const list = () => {
  const focus = document.activeElement;
  const near =
    focus !== document.body && view?.lists.find((each) => each.element.contains(focus) || focus?.contains(each.element));
  return near || view?.lists.find((each) => each.element.checkVisibility());
};

const jump = (/** @type {string | undefined} */ id) => {
  const section = id && document.getElementById(id);
  if (!section) return;
  section.scrollIntoView({ block: "start" });
  section.focus({ preventScroll: true });
};

/** @type {Record<string, () => void>} */
const KEYS = {
  "/": () => (view?.focusSearch ? view.focusSearch() : (location.hash = "#/")),
  j: () => list()?.move(1),
  k: () => list()?.move(-1),
  t: () => view?.onlyTrouble?.(),
  d: () => view?.compare?.(),
  r: () => view?.replay?.(),
  a: () => view?.focusActions?.(),
  c: async () => setText(element("said"), `${await copy(() => location.href)}: the link of this view`),
};

const { help } = keys(
  (key) => {
    if (!view) return false;
    if (/^[1-9]$/.test(key)) jump(view.sections[Number(key) - 1]);
    else if (KEYS[key]) KEYS[key]();
    else return false;
    return true;
  },
  () => mains.login.hidden && mains.landing.hidden && (location.hash = landingHash),
);
element("help-button").addEventListener("click", help);

start();
