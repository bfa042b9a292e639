/** The page's frame: what the hash names is shown and polled once a second, while the page is visible. */
import { get, post, Refused } from "./api.js";
import { say, set, span } from "./dom.js";
import { landing } from "./landing.js";
import { topicView } from "./topic.js";

const POLL_MS = 1000;
const RETRY_MS = 3000;

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);
const views = { login: element("login"), landing: element("landing"), topic: element("topic") };

/** @type {{poll: (signal: AbortSignal) => Promise<any>, onChange: (soon: () => void) => void, focusSearch?: () => void} | null} */
let view = null;
/** @type {number | undefined} */
let timer;
let running = new AbortController();
let gateway = "";
let isLoggedIn = false;

const show = (/** @type {keyof typeof views} */ name) => {
  for (const [key, main] of Object.entries(views)) main.hidden = key !== name;
};

const notice = (/** @type {string} */ text) => {
  element("notice").hidden = !text;
  say(element("notice"), text);
};

const freshness = (/** @type {string} */ status, /** @type {string} */ text, /** @type {string} */ title) => {
  set(element("freshness"), "data-status", status);
  set(element("freshness"), "title", title);
  say(element("freshness-text"), text);
};

const showFrame = (/** @type {any} */ counters) => {
  if (gateway && gateway !== counters.gateway) {
    notice("Several gateways answer at this address: each second shows one of them, with its own tabs only.");
  }
  gateway = counters.gateway;
  element("logout").hidden = !counters.has_login;
  say(element("gateway"), `Gateway ${gateway}`);
  const age = counters.probe_age_s == null ? "never" : `${span(counters.probe_age_s)} ago`;
  const title = `The bus was last proved to deliver ${age}.`;
  if (counters.draining) freshness("stale", "Stopping", "This gateway is closing its sockets.");
  else if (counters.fresh) freshness("fresh", "Fresh", title);
  else freshness("stale", "Stale", `${title} Tabs are told that what they show may be old.`);
};

const failed = (/** @type {any} */ error) => {
  if (error instanceof Refused && error.status === 401) {
    isLoggedIn = false;
    element("logout").hidden = true;
    freshness("connecting", "Not logged in", "");
    if (error.code === "token_expired") say(element("login-problem"), "The login has ended.");
    show("login");
    element("token").focus();
    return false;
  }
  if (error instanceof Refused && error.status === 422) {
    notice(`That cannot be shown: ${error.message}.`);
    return true;
  }
  const why = error instanceof Refused ? error.message : "it does not answer";
  freshness("offline", "No answer", `This gateway: ${why}. What is shown is old.`);
  notice(`Not up to date: ${why}.`);
  return true;
};

const poll = async () => {
  clearTimeout(timer);
  running.abort();
  if (document.hidden || !view) return;
  const mine = (running = new AbortController());
  let wait_ms = POLL_MS;
  try {
    const counters = await view.poll(mine.signal);
    if (mine.signal.aborted) return;
    if (element("freshness").dataset.status === "offline") notice("");
    showFrame(counters);
  } catch (error) {
    if (mine.signal.aborted || !failed(error)) return;
    wait_ms = RETRY_MS;
  }
  timer = setTimeout(poll, wait_ms);
};

const route = () => {
  const [, name] = /^#\/topics\/(.+)$/.exec(location.hash) ?? [];
  notice("");
  let wanted = "";
  try {
    wanted = decodeURIComponent(name ?? "");
  } catch {
    notice("That link names no topic.");
  }
  const main = wanted ? views.topic : views.landing;
  view = wanted ? topicView(main, wanted) : landing(main);
  document.title = wanted ? `${wanted} - Planwire console` : "Planwire console";
  view.onChange(poll);
  show(wanted ? "topic" : "landing");
  window.scrollTo(0, 0);
  poll();
};

const enter = () => {
  isLoggedIn = true;
  route();
};

element("login-form").addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  const input = element("token");
  try {
    await post("login", { token: input.value });
    input.value = "";
    say(element("login-problem"), "");
    enter();
  } catch (error) {
    say(element("login-problem"), error instanceof Refused ? `${error.message}.` : "The gateway does not answer.");
    input.select();
  }
});

element("logout").addEventListener("click", async () => {
  await post("logout", {}).catch(() => {});
  location.hash = "#/";
  poll();
});

addEventListener("hashchange", () => isLoggedIn && route());
document.addEventListener("visibilitychange", poll);
document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !target.matches("input, select, textarea")) {
    event.preventDefault();
    if (view?.focusSearch) view.focusSearch();
    else location.hash = "#/";
  } else if (event.key === "Escape" && views.login.hidden) {
    if (target.matches("input, select")) target.blur();
    else location.hash = "#/";
  }
});

get("counters").then(enter, (error) => (failed(error) ? enter() : undefined));
