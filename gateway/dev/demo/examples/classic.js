/* The plan in a classic script: no modules; the client is the global `Planwire`. */
(() => {
  const tenant = new URLSearchParams(location.search).get("tenant") || "demo";
  /** @param {string} id @returns {any} */
  const element = (id) => document.getElementById(id);
  /** @param {string} path @param {object} [more] */
  const post = (path, more) =>
    fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ tenant, ...more }),
    }).then((answer) => answer.json());

  const client = Planwire.stored({
    url: new URL("../..", location.href).href.slice(0, -1),
    subject: tenant,
    token: () => post("../token").then(({ token }) => token),
    socket: Planwire.tabs({ subject: tenant, socket: Planwire.fallback() }),
  });
  const topic = client.topic(Planwire.topic("tenant", tenant));

  topic.subscribe((/** @type {any} */ { state, status }) => {
    element("plan").textContent = state?.plan.name ?? (status == "fresh" ? "Free" : "…");
    element("status").textContent = status;
    document.body.dataset.status = status;
  });

  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("button[data-action]")))
    button.addEventListener("click", () =>
      post("../simulate/" + button.dataset.action, { plan: button.dataset.plan, when: button.dataset.when }),
    );
})();
