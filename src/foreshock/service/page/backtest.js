// What another threshold would have told in the kept window, and what reading it would cost.

import { get } from "./api.js";
import { lineChart } from "./charts.js";
import { counted, digits, duration, empty, facts, h, plain, when, words } from "./dom.js";

export const title = "Backtest";
const BUDGETS = [0.1, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 48];
const RANGES = [[1, "1 h"], [6, "6 h"], [24, "24 h"], [0, "All kept"]];
const nice = (n) => (n < 1 ? `1 in ${Math.round(1 / n)} days` : `${n} a day`);

export function make(main) {
  const state = { hours: 0, at: 3, asked: 0, seen: "" };
  state.told = h("output", { for: "budget" }, nice(BUDGETS[state.at]));
  const slider = h("input", { type: "range", id: "budget", min: "0", max: String(BUDGETS.length - 1), step: "1", value: String(state.at), "aria-valuetext": nice(BUDGETS[state.at]) });
  let pause = 0;
  slider.addEventListener("input", () => {
    state.at = Number(slider.value);
    state.told.textContent = nice(BUDGETS[state.at]);
    slider.setAttribute("aria-valuetext", nice(BUDGETS[state.at]));
    clearTimeout(pause);
    pause = setTimeout(() => ask(state), 150);
  });
  state.minutes = h("input", { type: "number", min: "0", max: "1440", step: "1", value: "15", oninput: () => { clearTimeout(pause); pause = setTimeout(() => ask(state), 300); } });
  state.ranges = h("div", { class: "segments", role: "group", "aria-label": "Range" }, RANGES.map(([n, name]) =>
    h("button", { type: "button", "aria-pressed": String(n === state.hours), onclick: (event) => {
      state.hours = n;
      for (const b of state.ranges.children) b.setAttribute("aria-pressed", String(b === event.target));
      ask(state);
    } }, name)));
  state.body = h("div", { class: "stack", "aria-live": "polite" });
  main.replaceChildren(
    h("div", { class: "head" }, h("div", {}, h("h1", { tabindex: "-1" }, "Backtest"), h("p", {}, "What another false-alarm budget would have told, from the scores that are kept.")), state.ranges),
    h("section", { class: "box", "aria-label": "Budget" }, h("div", { class: "fields" },
      h("label", { for: "budget" }, h("span", { class: "line" }, "False alarms allowed", state.told), slider),
      h("label", {}, "Minutes to look into one", state.minutes))),
    state.body);
  return state;
}

// The window moves slowly; looking again is the reader's choice, but for the first time.
export async function update(state, status) {
  state.status = status;
  if (!state.asked) await ask(state, true);
}

async function ask(state, strict = false) {
  const mine = ++state.asked;
  state.body.setAttribute("aria-busy", "true");
  const newest = state.status?.newest;
  const since = state.hours && newest ? new Date(Date.parse(newest) - state.hours * 3600e3).toISOString() : null;
  try {
    const told = await get("backtest", { since, false_alarms_per_day: BUDGETS[state.at], minutes_each: state.minutes.value || 0 });
    if (mine === state.asked) draw(state, told);
  } catch (error) {
    if (strict) { state.asked = 0; throw error; }
    if (mine === state.asked) state.body.replaceChildren(h("section", { class: "box bad-news" }, error.message));
  } finally { if (mine === state.asked || strict) state.body.removeAttribute("aria-busy"); }
}

function draw(state, told) {
  if (!told.since) {
    state.body.replaceChildren(h("section", { class: "box" }, empty("No scored rows in this range", "Choose a longer one.")));
    return;
  }
  const perDay = told.incidents_per_day;
  const known = told.confirmed_found + told.confirmed_missed.length;
  const top = Math.max(...told.system.filter((v) => v !== null), 0);
  state.body.replaceChildren(
    facts([
      ["Incidents", told.count, `in ${duration(told.days * 86400e3)}`], ["A day", digits(perDay, 2)],
      ["Time for them", `${digits(told.minutes_a_day / 60, 2)} h`, "a day"],
      ["Real ones found", known ? `${told.confirmed_found} of ${known}` : "—", known ? "" : "none confirmed yet", told.confirmed_missed.length > 0],
      ["False ones again", told.false_alarms_again.length], ["Threshold", digits(told.high)],
    ]),
    h("section", { class: "box", "aria-label": "Scores" }, h("div", { class: "line" }, h("h2", {}, "Score and threshold"),
      h("div", { class: "legend" }, h("span", {}, h("i", {}), "score"), h("span", {}, h("i", { class: "l" }), "threshold"), h("span", {}, h("i", { class: "s" }), "incident"))),
      lineChart({ times: told.starts_ms, height: 190, steep: told.high !== null && top > 8 * told.high,
        lines: [{ values: told.starts_ms.map(() => told.high), kind: "limit", name: "threshold" }, { values: told.system, kind: "value", name: "score" }],
        shades: told.incidents.map((one) => ({ start: Date.parse(one.start), end: one.end ? Date.parse(one.end) : null, label: `Incident since ${one.start}` })),
        label: `Highest score ${digits(top)}, threshold ${digits(told.high)}, ${counted(told.count, "incident")}` }),
      h("p", { class: "muted small" }, told.reason)),
    h("div", { class: "two" },
      h("section", { class: "box", "aria-label": "Incidents" }, h("h2", {}, "What would have been told"),
        told.incidents.length ? h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "Since"), h("th", {}, "Where"), h("th", {}, "Verdict"))),
          h("tbody", {}, told.incidents.map((one) => h("tr", {}, h("td", {}, when(one.start)),
            h("td", {}, h("b", {}, one.service ?? "unknown"), h("br", {}), h("span", { class: "muted small" }, plain(one.headline, one.service))),
            h("td", {}, one.known ? h("a", { href: `#/incident/${one.known}` }, one.verdict ? words(one.verdict) : "not judged") : h("span", { class: "muted" }, "new"))))))
          : empty("Nothing", "This threshold tells nothing in this range.", true)),
      h("section", { class: "box", "aria-label": "Budgets" }, h("h2", {}, "Budgets compared"),
        h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "False alarms allowed"), h("th", { class: "right" }, "Threshold"), h("th", { class: "right" }, "Incidents"))),
          h("tbody", {}, told.budgets.map((b) => h("tr", { "aria-current": b.false_alarms_per_day === told.false_alarms_per_day ? "true" : null },
            h("td", {}, nice(b.false_alarms_per_day)), h("td", { class: "right" }, digits(b.high)), h("td", { class: "right" }, b.incidents))))),
        h("p", { class: "muted small" }, "One threshold for the whole range, from all its scores; live, each row is held against what was known before it."))));
}
