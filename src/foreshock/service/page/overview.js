// What is going on now: open incidents, services against time, the system's score, how the service is.

import { get } from "./api.js";
import { heatMap, lineChart } from "./charts.js";
import { counted, digits, duration, empty, h, plain } from "./dom.js";
import { incidentList } from "./incidents.js";

export const title = "Live";
const SPANS = [[1, "1 h"], [6, "6 h"], [24, "24 h"]];

export function make(main) {
  const hours = Number(sessionStorage.getItem("foreshock-hours")) || 6;
  const state = { hours, seen: "" };
  state.say = h("p", {});
  state.title = h("h1", { tabindex: "-1" }, "Looking …");
  state.spans = h("div", { class: "segments", role: "group", "aria-label": "Time range" }, SPANS.map(([n, name]) =>
    h("button", { type: "button", "aria-pressed": String(n === hours), onclick: (event) => choose(state, n, event.target) }, name)));
  state.body = h("div", { class: "stack" });
  main.replaceChildren(h("div", { class: "head" }, h("div", {}, state.title, state.say), state.spans), state.body);
  return state;
}

async function choose(state, hours, pressed) {
  sessionStorage.setItem("foreshock-hours", hours);
  state.hours = hours; state.seen = "";
  for (const one of state.spans.children) one.setAttribute("aria-pressed", String(one === pressed));
  if (state.status) await update(state, state.status);
}

export async function update(state, status) {
  state.status = status;
  const columns = innerWidth < 640 ? 72 : 180;
  const [data, list] = await Promise.all([get("overview", { hours: state.hours, columns }), get("incidents", { limit: 200 })]);
  const open = list.incidents.filter((one) => one.state === "open");
  headline(state, status, open, list.incidents);
  const seen = JSON.stringify([data, list, status.health]);
  if (seen === state.seen) return;
  state.seen = seen;
  if (!data.rows.length) {
    state.body.replaceChildren(h("section", { class: "box" }, empty("No rows yet",
      "As soon as metrics arrive, services and their scores appear here. foreshock doctor tells what can be reached.")), health(status));
    return;
  }
  const inside = state.body.contains(document.activeElement) && document.activeElement.classList.contains("heat");
  const recent = list.incidents.filter((one) => one.state !== "open").slice(0, 6);
  state.body.replaceChildren(
    open.length ? h("section", { class: "box flush", "aria-label": "Open incidents" }, h("h2", {}, counted(open.length, "open incident")), incidentList(open)) : null ?? "",
    h("section", { class: "box", "aria-label": "Services" },
      h("div", { class: "line" }, h("h2", {}, "Services"), h("span", { class: "scale", "aria-hidden": "true" }, "usual", h("i", {}), "very unusual")),
      heatMap(data, { label: `How unusual each of ${data.rows.length} services was over the last ${state.hours} hours`, onpick: (id) => { location.hash = `#/incident/${id}`; } }),
      data.hidden ? h("p", { class: "muted small" }, `${counted(data.hidden, "quieter service")} not shown`) : null),
    h("section", { class: "box", "aria-label": "System score" },
      h("div", { class: "line" }, h("h2", {}, "System score"),
        h("div", { class: "legend" }, h("span", {}, h("i", {}), "score"), h("span", {}, h("i", { class: "l" }), "threshold"), h("span", {}, h("i", { class: "s" }), "incident"))),
      systemChart(data)),
    h("div", { class: "two" },
      h("section", { class: "box flush", "aria-label": "Recent incidents" }, h("div", { class: "line" }, h("h2", {}, "Recently ended"), h("a", { href: "#/incidents", class: "small" }, "all incidents")),
        recent.length ? incidentList(recent) : empty("None so far", "Ended incidents are listed here.", true)),
      health(status)));
  if (inside) state.body.querySelector(".heat").focus({ preventScroll: true });
}

function headline(state, status, open, all) {
  const named = open.filter((one) => one.service);
  let text = "All calm", say = all.length ? "No incident is open." : "No incident so far.";
  if (status.state === "waiting") [text, say] = ["Waiting for metrics", "Nothing has been scored yet, so nothing can be said about health."];
  else if (status.state === "warming") [text, say] = ["Learning what is usual", "A few more rows are needed before the first alarm can be raised."];
  else if (status.state === "late") [text, say] = ["Metrics are late", "The newest row is old. What is shown may not be how things are now."];
  if (open.length) {
    text = open.length === 1 ? (named.length ? `${named[0].service} is in trouble` : "Something is wrong") : counted(open.length, "open incident");
    say = plain(open[0].headline, open.length === 1 ? open[0].service : null);
  }
  if (state.title.textContent !== text) state.title.textContent = text;
  state.say.textContent = say;
}

function systemChart(data) {
  const score = data.system, high = data.high;
  const top = Math.max(...score.filter((v) => v !== null), 0), usual = high.filter((v) => v !== null).at(-1) ?? 1;
  return lineChart({
    times: data.starts_ms, height: 190, steep: top > 8 * usual,
    lines: [{ values: high, kind: "limit", name: "threshold" }, { values: score, kind: "value", name: "score" }],
    shades: data.incidents.map((one) => ({ start: Date.parse(one.start), end: one.end ? Date.parse(one.end) : null, href: `#/incident/${one.id}`, label: `Incident since ${one.start}` })),
    label: `System score, highest ${digits(top)}, threshold now ${digits(usual)}`,
  });
}

function health(status) {
  const of = status.health, rows = [];
  const add = (name, value, bad = false) => { if (value !== null && value !== undefined) rows.push(h("tr", {}, h("td", { class: "muted" }, name), h("td", { class: `right ${bad ? "bad-news" : ""}` }, value))); };
  add("Behind by", of.lag_s === undefined || of.lag_s === null ? null : duration(1000 * of.lag_s), status.state === "late");
  add("Score and threshold", status.score === null ? null : `${digits(status.score)} of ${digits(status.high)}`);
  add("Watched", `${counted(status.kpis, "KPI")}, ${counted(status.services, "service")}`);
  add("Kept", status.step_s ? `${counted(status.rows, "row")}, ${duration(1000 * status.rows * status.step_s)}` : null);
  add("Last cycle took", of.last_cycle_s === undefined || of.last_cycle_s === null ? null : duration(1000 * of.last_cycle_s));
  add("Dropped points", of.dropped_points ? of.dropped_points.toLocaleString("en") : null, true);
  add("Memory", of.resident_bytes ? `${Math.round(of.resident_bytes / 2 ** 20).toLocaleString("en")} MiB` : null);
  for (const [name, source] of Object.entries(of.sources ?? {})) {
    const up = typeof source === "object" ? source.up : source;
    add(`Source ${name}`, up ? "up" : "down", !up);
  }
  add("Detector", status.detector + (status.adapter ? `, adapter ${status.adapter}` : ", zero-shot"));
  add("Last error", of.last_error || null, true);
  return h("section", { class: "box", "aria-label": "Health" }, h("h2", {}, "How foreshock is"), h("table", {}, h("tbody", {}, rows)));
}
