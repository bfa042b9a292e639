/** The gateways, each with its freshness and its number of tabs by state. */
import { ago, coarse, plural } from "../model/format.js";
import { toCause } from "../model/links.js";
import { TROUBLE } from "../model/status.js";
import { h, keyed, setAttribute, setText } from "../ui/dom.js";
import { pill, setStatus } from "../ui/pill.js";

/** A gateway's status, the reason, and the colour. @param {any} gateway @param {number} now seconds since 1970 @returns {[string, string, string]} */
const judged = ({ isSilent, age_s, report }, now) => {
  if (isSilent)
    return [
      "SILENT",
      `It has not reported for ${coarse(age_s)}: it is cut off from the store, stopping or gone.`,
      "red",
    ];
  if (!report) return ["…", "Its first report is awaited.", "NONE"];
  const proved = report.verified_at_us
    ? `The bus was last proved to deliver ${ago(now - report.verified_at_us / 1e6)}.`
    : "The bus was never proved to deliver.";
  if (report.draining) return ["STOPPING", "It is closing its sockets.", "amber"];
  if (!report.fresh) return ["DEAF", `${proved} Its tabs show their state as stale.`, "red"];
  return ["FRESH", proved, "SYNCED"];
};

/** The list of gateways, each with its state. */
export const gatewayList = () => {
  const element = h("ul", { class: "gateways" });
  return {
    element,
    /** @param {any[]} gateways */
    show: (gateways) =>
      keyed(
        element,
        gateways,
        ({ name }) => name,
        ({ name }) =>
          h("li", {}, h("a", { href: toCause("gateway", { name }) }, name), pill(), h("span", { class: "quiet" })),
        (item, gateway) => {
          const [, state, detail] = item.children;
          setStatus(state, ...judged(gateway, Date.now() / 1000));
          const { report } = gateway;
          const bad = TROUBLE.filter((status) => report?.tabs?.[status]).map(
            (status) => `${report.tabs[status]} ${status}`,
          );
          setText(
            detail,
            report
              ? [plural(report.sockets ?? 0, "socket"), plural(report.topics ?? 0, "topic"), ...bad].join(" · ")
              : "",
          );
          setAttribute(item, "data-gateway", gateway.name);
        },
      ),
  };
};
