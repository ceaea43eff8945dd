// One incident: what, where, since when, what changed first, and what the reader makes of it.

import { get, post } from "./api.js";
import { lineChart } from "./charts.js";
import { atSecond, digits, duration, empty, facts, h, metric, percent, plain, quantity, when, words } from "./dom.js";

export const title = "Incident";

export function make(main, id) {
  const state = { id, seen: "", form: null };
  state.title = h("h1", { tabindex: "-1" }, "Incident");
  state.say = h("p", {});
  state.tags = h("div", { class: "tags" });
  const head = h("div", { class: "head" }, h("div", {}, state.title, state.say, state.tags));
  state.top = h("div", {});
  state.rank = h("section", { class: "box rank", "aria-label": "Where it comes from" });
  state.first = h("section", { class: "box first-seen", "aria-label": "What changed first" });
  state.time = h("section", { class: "box time", "aria-label": "Timeline" });
  state.feedback = h("section", { class: "box feedback", "aria-label": "Feedback" });
  state.parts = h("div", { class: "case" }, state.rank, state.first, state.time, state.feedback);
  state.parts.hidden = true;
  main.replaceChildren(head, state.top, state.parts);
  return state;
}

export function fail(state, error) {
  state.title.textContent = "No such incident";
  state.say.textContent = error.message;
  state.tags.replaceChildren(); state.top.replaceChildren();
  state.parts.hidden = true;
}

export async function update(state, status) {
  const one = await get(`incidents/${encodeURIComponent(state.id)}`);
  const seen = JSON.stringify(one);
  if (!state.form) state.form = makeForm(state, one, status);
  if (seen === state.seen) return;
  state.seen = seen;
  const isOpen = one.state === "open";
  document.title = `${one.service ?? "Unknown origin"} · foreshock`;
  const lasts = (one.end ? Date.parse(one.end) : Date.now()) - Date.parse(one.start);
  const late = Date.parse(one.found) - Date.parse(one.start);
  state.title.textContent = one.service ?? "Unknown origin";
  state.say.textContent = plain(one.headline, one.service);
  state.tags.replaceChildren(h("span", { class: `tag ${isOpen ? "open" : ""}` }, isOpen ? "open" : "ended"),
    h("span", { class: `tag ${one.severity}` }, one.severity), said(one.verdict) ?? "");
  state.top.replaceChildren(facts([
    ["Since", when(one.start)], [isOpen ? "Running for" : "Lasted", duration(Math.max(lasts, 1000))],
    ["Noticed", late > 0 ? `after ${duration(late)}` : "at once"],
    ["Sure", one.confidence === null ? "—" : one.confidence > 0.99 ? "over 99 %" : percent(one.confidence)],
    ["Highest score", digits(one.peak_score), `of ${digits(one.threshold)}`],
    ["KPIs changed", one.changed],
  ]));
  state.parts.hidden = false;
  state.time.replaceChildren(...timelineParts(one));
  state.first.replaceChildren(...firstParts(one));
  state.rank.replaceChildren(...rankParts(one));
  state.feedback.replaceChildren(h("h2", {}, "Was this real?"), state.form, history(one));
}

const said = (verdict) => !verdict ? null : verdict.verdict === "confirmed"
  ? h("span", { class: "tag real" }, `real${verdict.fault_type ? `: ${words(verdict.fault_type)}` : ""}`)
  : h("span", { class: "tag" }, "judged a false alarm");

// ---------------------------------------------------------------------------------------- timeline

function timelineParts(one) {
  const line = one.timeline;
  if (!line) return [h("h2", {}, "Timeline"), empty("The rows are no longer kept", "Newer incidents have taken their place. Ranking and verdicts stay.")];
  const shade = [{ start: Date.parse(one.start), end: one.end ? Date.parse(one.end) : null, label: "incident" }];
  const found = Object.fromEntries(one.kpis.map((kpi) => [kpi.name, kpi]));
  const top = Math.max(...line.system.filter((v) => v !== null), 0), usual = line.high.filter((v) => v !== null).at(-1) ?? 1;
  return [
    h("div", { class: "line" }, h("h2", {}, "Timeline"), h("div", { class: "legend" },
      h("span", {}, h("i", {}), "value"), h("span", {}, h("i", { class: "b" }), "expected"), h("span", {}, h("i", { class: "l" }), "threshold"), h("span", {}, h("i", { class: "s" }), "incident"))),
    h("div", { class: "stack" },
      h("div", { class: "panel" }, h("h3", {}, "System score"),
        lineChart({ times: line.times_ms, height: 130, shades: shade, steep: top > 8 * usual,
          lines: [{ values: line.high, kind: "limit", name: "threshold" }, { values: line.system, kind: "value", name: "score" }],
          label: `System score from ${atSecond(line.times_ms[0])}, highest ${digits(top)}, threshold ${digits(usual)}` })),
      h("div", { class: "panels" }, line.kpis.map((kpi) => {
        const text = found[kpi.name]?.text ?? "";
        return h("div", { class: "panel" }, h("h3", {}, `${kpi.service} · ${metric(kpi)}`), h("p", {}, text),
          lineChart({ times: line.times_ms, height: 112, shades: shade, band: kpi, say: (v) => quantity(v, kpi.unit),
            marks: found[kpi.name]?.since ? [Date.parse(found[kpi.name].since)] : [],
            lines: [{ values: kpi.expected, kind: "expected", name: "expected" }, { values: kpi.values, kind: "value", name: "value" }],
            label: `${kpi.service} ${metric(kpi)}: ${text}` }));
      })))];
}

function firstParts(one) {
  return [h("h2", {}, "What changed first"),
    one.first.length ? h("ol", { class: "order" }, one.first.slice(0, 12).map((kpi) =>
      h("li", { class: kpi.role === "origin" ? "origin" : "" }, when(kpi.since, "second"), h("i", { "aria-hidden": "true" }),
        h("span", {}, h("b", {}, kpi.service), ` ${kpi.text}`, kpi.role === "symptom" ? h("small", {}, " · symptom") : null))))
      : h("p", { class: "muted" }, "No KPI left its usual range for long.")];
}

// ----------------------------------------------------------------------------------------- ranking

function rankParts(one) {
  const kind = one.kinds[0];
  return [
    h("h2", {}, "Likely fault"),
    kind ? h("div", {}, h("p", { class: "kind" }, h("b", {}, words(kind.name)), h("span", { class: "muted" }, `${percent(kind.probability)} likely`)),
      one.kinds.length > 1 ? h("p", { class: "muted small" }, `or ${one.kinds.slice(1, 4).map((k) => `${words(k.name)} ${percent(k.probability)}`).join(", ")}`) : null)
      : h("div", {}, h("p", { class: "kind" }, h("b", {}, "unknown"))),
    h("p", { class: "muted small" }, one.kinds_from && one.kinds_from !== "labels" ? `Learned from ${one.kinds_from}; your verdicts teach it better.` : "Fault types are learned from your verdicts."),
    h("h2", {}, one.service ? "Where it comes from" : "Where it may come from"),
    one.services.length ? h("ol", { class: "who" }, one.services.slice(0, 6).map((service) => {
      const bar = h("i", {});
      bar.style.width = `${100 * Math.min(1, service.confidence ?? 0)}%`;
      return h("li", {}, h("div", { class: "line" }, h("b", {}, service.name), h("span", { class: "muted small" }, `${percent(service.confidence ?? 0)} sure`)),
        h("div", { class: "bar", "aria-hidden": "true" }, bar),
        h("p", { class: "muted small" }, service.why, service.since ? [" · since ", when(service.since, "second")] : null));
    })) : h("p", { class: "muted" }, "No service stands out."),
    one.first_headline && one.first_headline !== one.headline ? h("p", { class: "muted small" }, `First told as: ${plain(one.first_headline)}`) : null,
  ].filter(Boolean);
}

// ---------------------------------------------------------------------------------------- feedback

function makeForm(state, one, status) {
  const list = (id, values) => h("datalist", { id }, values.map((v) => h("option", { value: v })));
  const kind = h("input", { list: "kinds", name: "kind", maxlength: "200", placeholder: "such as memory_leak", value: one.verdict?.fault_type || one.kinds[0]?.name || "" });
  const service = h("input", { list: "names", name: "service", maxlength: "200", placeholder: "where it began", value: one.verdict?.service || one.service || "" });
  const note = h("textarea", { name: "note", maxlength: "2000", rows: "2" });
  const answer = h("p", { class: "small", role: "status" });
  const send = async (verdict) => {
    const buttons = form.querySelectorAll("button");
    for (const b of buttons) b.disabled = true;
    answer.className = "small muted"; answer.textContent = "Sending …";
    try {
      const real = verdict === "confirmed";
      const kept = await post(`incidents/${encodeURIComponent(state.id)}/verdict`, {
        verdict, fault_type: real ? kind.value.trim() : "", service: real ? service.value.trim() : "", note: note.value });
      answer.textContent = kept ? `Kept: ${real ? "real" : "false alarm"}. The newest verdict counts; earlier ones stay.` : "Not sent.";
      if (kept) { note.value = ""; state.seen = ""; await update(state, status); }
    } catch (error) { answer.className = "bad-news"; answer.textContent = error.message; }
    for (const b of buttons) b.disabled = false;
  };
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); send("confirmed"); } },
    h("div", { class: "fields" }, h("label", {}, "Fault type", kind), h("label", {}, "Service", service)),
    h("label", {}, "Note", note), list("kinds", status.fault_types), list("names", status.service_names),
    h("div", { class: "actions" }, h("button", { class: "first" }, "It was real"),
      h("button", { type: "button", onclick: () => send("false_alarm") }, "False alarm")), answer);
  if (!status.can_write) {
    form.replaceChildren(h("p", { class: "muted" }, "This service has no token, so the page can't keep verdicts. ",
      h("code", {}, "foreshock label"), " on the machine can."));
  }
  return form;
}

function history(one) {
  if (!one.verdicts.length) return "";
  return h("ol", { class: "said", reversed: true }, [...one.verdicts].reverse().map((v, i) => h("li", { class: i ? "muted" : "" },
    h("span", {}, h("b", {}, v.verdict === "confirmed" ? "Real" : "False alarm"), v.fault_type ? ` · ${words(v.fault_type)}` : "", v.service ? ` · ${v.service}` : "",
      " · ", when(v.given), v.author ? ` · ${v.author}` : ""), v.note ? h("span", { class: "muted" }, v.note) : null)));
}
