// What was learned from verdicts: how each did on held-back incidents, and its way into use and out again.

import { get, post } from "./api.js";
import { digits, empty, h, when, words } from "./dom.js";

export const title = "Adapters";

export function make(main) {
  const state = { seen: "" };
  state.say = h("p", { role: "status" });
  state.body = h("div", { class: "stack" });
  main.replaceChildren(h("div", { class: "head" }, h("div", {}, h("h1", { tabindex: "-1" }, "Adapters"),
    h("p", {}, "Learned from your verdicts with ", h("code", {}, "foreshock adapt --from-labels"), "; in use only when better on incidents that were held back."))), state.say, state.body);
  return state;
}

export async function update(state, status) {
  const told = await get("adapters");
  const seen = JSON.stringify([told, status.can_write]);
  if (seen === state.seen) return;
  state.seen = seen;
  state.body.replaceChildren(told.adapters.length ? h("div", { class: "stack" }, told.adapters.map((one) => card(state, one, status)))
    : h("section", { class: "box" }, empty("No adapter yet", "Judge some incidents, at least two real ones, then run foreshock adapt --from-labels.")));
}

async function act(state, path, body, status) {
  state.say.className = "muted"; state.say.textContent = "Working; scoring the kept window may take a while …";
  try {
    const done = await post(path, body);
    state.say.textContent = done ? "Done." : "Nothing was changed.";
    state.seen = "";
    await update(state, status);
  } catch (error) { state.say.className = "bad-news"; state.say.textContent = error.message; }
}

function card(state, one, status) {
  const { exam, trial } = one.facts, use = one.state === "promoted";
  const line = (name, e) => h("tr", {}, h("td", {}, name), h("td", { class: "right" }, `${e.found} of ${e.confirmed}`), h("td", { class: "right" }, e.false_alarms), h("td", { class: "right" }, e.kinds_right));
  return h("section", { class: "box", "aria-label": `Adapter ${one.id}` },
    h("div", { class: "line" }, h("h2", {}, one.id), h("span", { class: `tag ${use ? "calm" : ""}` }, use ? "in use" : words(one.state))),
    h("p", { class: "muted small" }, "made ", when(one.made, "day"), ` · ${one.facts.learned_from?.length ?? 0} incidents learned from, ${one.facts.held_back?.length ?? 0} held back`,
      one.facts.is_better === undefined ? "" : one.facts.is_better ? " · better than what was in use" : " · not better than what was in use"),
    exam ? h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "On held-back incidents"), h("th", { class: "right" }, "Found"), h("th", { class: "right" }, "False alarms"), h("th", { class: "right" }, "Type right"))),
      h("tbody", {}, line("this adapter", exam.candidate), line(one.facts.compared_with ?? "in use", exam.in_use))) : null,
    trial ? h("p", { class: "small" }, `On the last ${digits(trial.days * 24, 2)} h: told ${trial.incidents_told_again} of ${trial.incidents_known} known incidents again, `
      + `${trial.extra_alarms} more beside them (${trial.is_passed ? "passed" : "not passed"}).`) : null,
    status.can_write ? h("div", { class: "actions" },
      use ? h("button", { type: "button", onclick: () => act(state, "adapters/roll-back", {}, status) }, "Roll back")
        : [h("button", { type: "button", onclick: () => act(state, `adapters/${one.id}/trial`, {}, status) }, "Try on recent data"),
          h("button", { type: "button", class: "first", onclick: () => act(state, `adapters/${one.id}/promote`, {}, status) }, "Put into use")]) : null);
}
