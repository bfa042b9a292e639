/** Why a tenant may still see the old plan: each cause, how to recognise it, and what ends it. Text only. */

/** @typedef {{title: string, means: string, look: string, ends: string}} Cause */

/** The causes, by the kind in the link. @type {Record<string, Cause>} */
export const CAUSES = {
  parked: {
    title: "Parked events",
    means: "The event is genuine and is kept, but it cannot be used yet: what it belongs to is not known.",
    look: "Its reason says what is missing. A subscription that names no tenant waits until any event of it, or of its customer, names one.",
    ends: "Set custom_data.tenant_id at the provider, or send an event that names the tenant; the events that wait on it are then used by themselves. Retry tries one at once.",
  },
  catalog: {
    title: "Prices that the catalog does not know",
    means:
      "A customer has bought a price of which the catalog does not say what it grants. Nothing is guessed: the tenant keeps what it had.",
    look: "The reason names the price. Prices of live and of sandbox are different. The environment is that of the secret that signed the event: where it is the wrong one, so is the secret of that endpoint.",
    ends: "Add the price to its plan or add-on in the catalog, or to [ignore] if other software sells it. Workers notice the edit, and use the events that wait on it.",
  },
  items: {
    title: "Dead letters and parked items",
    means:
      "Work of the worker's failed eight times, or at once for good, and is not tried again by itself. In a queue webhooks:NAME it is a message that the endpoint NAME did not take.",
    look: "The reason is what the last attempt said. Several of one endpoint: it is down, its secret differs, or its address is gone. A further change of the tenant is one more attempt.",
    ends: "Remove the reason, then: planwire parked retry ITEM --queue QUEUE. Or drop it: planwire parked drop ITEM --queue QUEUE --reason TEXT.",
  },
  webhooks: {
    title: "Rejected webhooks",
    means:
      "A webhook was rejected, so the change that it reports is not known here. The provider sends it again for days; each try fails until the cause is removed.",
    look: "signature_invalid: no configured secret made the signature. Most often the endpoint's secret was replaced, or the provider's sandbox sends to the live address, or the other way round. signature_expired: one of the two clocks is wrong, or it is a replay. signature_malformed: something on the way changed the header.",
    ends: "Put the endpoint's own secret into PLANWIRE_PADDLE_SECRETS, under its environment. Then have the provider send again, or reconcile the tenant.",
  },
  refused: {
    title: "Ignored events",
    means:
      "The event was understood and changes nothing, because something newer about the same subscription is known already.",
    look: "That is right for an event that came late. It is wrong where the newer one was wrong: a clock that ran ahead, or a test event with a date in the future.",
    ends: "Reconcile the tenant: the provider is asked what is true now, and its answer counts more than the order of events.",
  },
  drift: {
    title: "Drift",
    means:
      "What was published differed from what the provider says. The comparison has repaired it; the record shows what was wrong.",
    look: "missed_event: a webhook never came. differs: one came and was not used, or something was changed by hand. second_customer: somebody else than the tenant's own customer pays for it, too; that only adds to its plan. published: the application had published more than is paid for; a higher plan was granted until it is bought, the rest was replaced. money: a bill is not what the confirmed preview quoted, or none has come. shadow: the system in whose shadow billing runs says something else; nothing was repaired.",
    ends: "Nothing is left to do for the tenant, except to confirm or remove a grant of a published plan, and to grant what else should stay. What was billed otherwise than quoted stays billed: correct it at the provider. If it goes on, look at the provider's list of failed webhooks.",
  },
  shadow: {
    title: "Differences from the other system",
    means:
      "Billing runs in the shadow of an entitlement system that exists, and computes something else for these tenants than that system answers.",
    look: "Many tenants and one field: a word is missing in [shadow.values], or the catalog grants something else. The default plan here: billing does not know the tenant, and its subscription names none. A field that was compared of no tenant: its path in [shadow.fields] is wrong.",
    ends: "Edit the catalog: all tenants are compared again. Grant what one tenant should keep. The record goes when both agree; pages see nothing of it until the tenant is switched.",
  },
  gateway: {
    title: "Gateways that do not hear every change",
    means:
      "A gateway is fresh while a canary, committed like any change, comes back over the bus. One that is not fails /readyz, and its tabs show their state as stale.",
    look: "Silent: it has not reported for 3 s; it is cut off from the store, stopping, or gone. Stale: it reports, and its bus does not deliver.",
    ends: "It goes on trying by itself, and reads every topic again when it is back: nothing is lost. Look at its network and at the store's client-output-buffer-limit, or take it out of the balancer.",
  },
  audit: {
    title: "Audit log",
    means: "What was done from a console, and what was denied, the newest first. About 1,000 entries are kept.",
    look: "",
    ends: "",
  },
  BEHIND: {
    title: "Tabs that are behind",
    means: "The newest version has not reached the tab, or the tab has not said that it shows it.",
    look: "Buffered bytes and “takes no more data”: the browser or the network is slow or frozen, and the tab gets only the newest version when it drains. Sent and not acknowledged: the page is busy, asleep, or runs old code.",
    ends: "It gets the newest version by itself; nothing older is sent to it. A socket without any progress is closed and connects anew.",
  },
  NACKED: {
    title: "Tabs that could not use a version",
    means: "The page received the newest version, and one of its listeners failed with it.",
    look: "The tab's reason is the error that its listener raised.",
    ends: "Mend the page's code; a reload takes the same version again. To put the last good state back meanwhile, replay its version.",
  },
  STALE: {
    title: "Tabs that cannot be sure",
    means: "The tab shows what its gateway has, but the gateway is not proved to have the newest.",
    look: "The gateway's own line says why.",
    ends: "It ends with the gateway's trouble.",
  },
};

/** The kind of cause of a parked event. @param {{reason: string, waits_on?: readonly string[]}} event */
export const causeOfParked = ({ waits_on = [] }) => (waits_on.includes("catalog") ? "catalog" : "parked");
