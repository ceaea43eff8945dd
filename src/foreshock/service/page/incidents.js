// All incidents, newest first, and the line that stands for one wherever incidents are listed.

import { get } from "./api.js";
import { duration, empty, h, percent, plain, when, words } from "./dom.js";

export const title = "Incidents";
const STATES = [["", "All"], ["open", "Open"], ["closed", "Ended"]];

export function incidentList(incidents) {
  return h("ul", { class: "list" }, incidents.map((one) => h("li", {}, line(one))));
}

function line(one) {
  const said = one.verdict?.verdict;
  const kind = one.kinds[0];
  const lasts = (one.end ? Date.parse(one.end) : Date.now()) - Date.parse(one.start);
  return h("a", { class: "row", href: `#/incident/${one.id}` },
    h("span", { class: `mark ${one.state === "open" ? "open" : said === "false_alarm" ? "false" : ""}`, "aria-hidden": "true" }),
    h("span", {}, h("b", {}, one.service ?? "Unknown origin"), h("span", { class: "say" }, plain(one.headline, one.service)),
      h("span", { class: "tags" }, one.state === "open" ? h("span", { class: "tag open" }, "open") : null,
        one.severity === "critical" ? h("span", { class: "tag" }, "critical") : null,
        kind ? h("span", { class: "tag" }, `${words(kind.name)} ${percent(kind.probability)}`) : null,
        said === "confirmed" ? h("span", { class: "tag real" }, `real${one.verdict.fault_type ? `: ${words(one.verdict.fault_type)}` : ""}`) : null,
        said === "false_alarm" ? h("span", { class: "tag" }, "false alarm") : null)),
    h("span", { class: "when" }, when(one.start), h("br", {}), one.state === "open" ? "still running" : duration(Math.max(lasts, 1000))));
}

export function make(main) {
  const state = { filter: "", seen: "" };
  state.body = h("section", { class: "box flush", "aria-label": "Incidents" });
  state.buttons = h("div", { class: "segments", role: "group", "aria-label": "Which" }, STATES.map(([value, name]) =>
    h("button", { type: "button", "aria-pressed": String(value === ""), onclick: async (event) => {
      state.filter = value; state.seen = "";
      for (const b of state.buttons.children) b.setAttribute("aria-pressed", String(b === event.target));
      await update(state);
    } }, name)));
  main.replaceChildren(h("div", { class: "head" }, h("div", {}, h("h1", { tabindex: "-1" }, "Incidents"),
    h("p", {}, "Your verdicts are what the next adapter learns from.")), state.buttons), state.body);
  return state;
}

export async function update(state) {
  const { incidents } = await get("incidents", { state: state.filter, limit: 500 });
  const seen = JSON.stringify(incidents);
  if (seen === state.seen) return;
  state.seen = seen;
  state.body.replaceChildren(incidents.length ? incidentList(incidents)
    : empty("No incident here", state.filter === "open" ? "Nothing is going on right now." : "As soon as one is found it is listed here.", true));
}
