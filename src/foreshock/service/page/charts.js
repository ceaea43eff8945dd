// Pictures: a heat map on canvas that the keyboard can walk, and line charts in SVG.

import { atClock, atDay, atSecond, digits, h, s } from "./dom.js";

const LEFT_MIN = 46;
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function rgb(hex) {
  const whole = hex.length === 4 ? `#${[...hex.slice(1)].map((c) => c + c).join("")}` : hex;
  return [1, 3, 5].map((i) => parseInt(whole.slice(i, i + 2), 16));
}

// 0..1 → a colour whose lightness changes in one direction only, so it reads without hues.
function ramp() {
  const stops = [0, 1, 2, 3].map((i) => rgb(color(`--heat-${i}`)));
  return (share) => {
    const at = Math.min(0.9999, Math.max(0, share)) * 3, i = Math.floor(at), part = at - i;
    return `rgb(${stops[i].map((c, k) => Math.round(c + (stops[i + 1][k] - c) * part)).join(" ")})`;
  };
}

// A tick each 1, 2, 5 ... so that about `most` of them fit between two moments.
export function timeTicks(first, last, most) {
  const steps = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
  const step = 1000 * (steps.find((t) => (last - first) / 1000 / t <= most) ?? 1209600);
  const shift = new Date(first).getTimezoneOffset() * 60_000;
  const out = [];
  for (let t = Math.ceil((first - shift) / step) * step + shift; t <= last; t += step) out.push(t);
  return { ticks: out, label: step < 60_000 ? atSecond : step >= 86_400_000 ? atDay : atClock };
}

function valueTicks(low, high, most) {
  const rough = (high - low || 1) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
  const out = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step / 1e6 ? 0 : v);
  return out;
}

// Draws now, and again when the width or the theme changes.
function responsive(host, draw) {
  let width = 0;
  const again = () => { if (host.isConnected && host.clientWidth) { width = host.clientWidth; draw(width); } };
  new ResizeObserver(() => { if (host.clientWidth !== width) again(); }).observe(host);
  document.addEventListener("themed", function themed() {
    if (host.isConnected) again(); else document.removeEventListener("themed", themed);
  });
  queueMicrotask(again);
}

function shortName(name, room) {
  const most = Math.max(4, Math.floor(room / 6.9));
  return name.length <= most ? name : `${name.slice(0, most - 1)}…`;
}

// ---------------------------------------------------------------------------------------- heat map

export function heatMap(data, { onpick, label }) {
  const { rows, starts_ms: starts, bucket_s: bucket } = data;
  const canvas = h("canvas", { "aria-hidden": "true" });
  const cursor = h("div", { class: "cursor", hidden: true });
  const readout = h("p", { class: "readout", "aria-live": "polite" }, h("span", { class: "keys" }, "Arrow keys walk the cells; Enter opens the incident there."));
  const host = h("div", { class: "heat", tabindex: "0", role: "application", "aria-roledescription": "heat map", "aria-label": label }, canvas, cursor);
  const columns = starts.length, cell = rows.length > 24 ? 16 : 22;
  let left = 0, wide = 1, at = null;

  const incidentAt = (column) => data.incidents.find((one) =>
    Date.parse(one.start) < starts[column] + bucket * 1000 && (one.end ? Date.parse(one.end) : Infinity) >= starts[column]);

  responsive(host, (width) => {
    const ratio = devicePixelRatio || 1, height = rows.length * cell + 22;
    left = Math.min(Math.max(...rows.map((r) => r.service.length)) * 7 + 12, width * 0.32);
    wide = (width - left) / columns;
    canvas.width = width * ratio; canvas.height = height * ratio; canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d"), tint = ramp();
    pen.scale(ratio, ratio);
    pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "middle";
    rows.forEach((row, r) => {
      pen.fillStyle = color("--ink"); pen.textAlign = "right";
      pen.fillText(shortName(row.service, left - 12), left - 10, r * cell + cell / 2);
      row.strength.forEach((share, c) => {
        pen.fillStyle = share === null ? color("--veil") : tint(share);
        const x0 = Math.round(left + c * wide), x1 = Math.round(left + (c + 1) * wide);
        pen.fillRect(x0, r * cell, x1 - x0, cell - 2);
      });
    });
    pen.fillStyle = color("--muted"); pen.textAlign = "center";
    const first = starts[0], last = starts[columns - 1] + bucket * 1000;
    const { ticks, label: say } = timeTicks(first, last, Math.max(2, (width - left) / 90));
    for (const t of ticks) {
      const x = left + ((t - first) / (last - first)) * (width - left);
      if (x > left + 14 && x < width - 14) pen.fillText(say(t), x, rows.length * cell + 12);
    }
    pen.fillStyle = color("--alarm");
    for (const one of data.incidents) {
      const start = left + Math.max(0, (Date.parse(one.start) - first) / (last - first)) * (width - left);
      const end = one.end ? left + ((Date.parse(one.end) - first) / (last - first)) * (width - left) : width;
      if (end >= left) pen.fillRect(start, rows.length * cell - 1, Math.max(end - start, 3), 3);
    }
    if (at) place();
  });

  function place() {
    const [r, c] = at, row = rows[r], strength = row.strength[c], incident = incidentAt(c);
    Object.assign(cursor.style, { left: `${left + c * wide - 2}px`, top: `${r * cell - 2}px`, width: `${Math.max(wide + 4, 8)}px`, height: `${cell + 2}px` });
    cursor.hidden = false;
    const level = strength === null ? "not observed" : strength < 0.05 ? "as usual" : strength < 0.4 ? "a little unusual" : strength < 0.75 ? "unusual" : "very unusual";
    readout.replaceChildren(h("b", {}, row.service), ` ${atClock(starts[c])}–${atClock(starts[c] + bucket * 1000)}: ${level}`,
      strength === null ? "" : `, score ${digits(row.score[c])}`, incident ? `; incident since ${atClock(Date.parse(incident.start))}` : "");
  }
  const find = (event) => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left - left, y = event.clientY - box.top;
    const r = Math.floor(y / cell), c = Math.floor(x / wide);
    return r >= 0 && r < rows.length && c >= 0 && c < columns ? [r, c] : null;
  };
  canvas.addEventListener("pointermove", (event) => { const found = find(event); if (found) { at = found; place(); } });
  canvas.addEventListener("click", (event) => { const found = find(event); if (found) { at = found; place(); pick(); } });
  host.addEventListener("focus", () => { if (!at) { at = [0, columns - 1]; place(); } });
  const pick = () => { const found = incidentAt(at[1]); if (found) onpick(found.id); };
  host.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [0, -10], PageDown: [0, 10], Home: [0, -columns], End: [0, columns] };
    const move = moves[event.key];
    if (event.key === "Enter" && at) pick();
    if (!move) return;
    event.preventDefault();
    at ??= [0, columns - 1];
    at = [Math.min(rows.length - 1, Math.max(0, at[0] + move[0])), Math.min(columns - 1, Math.max(0, at[1] + move[1]))];
    place();
  });
  return h("div", {}, host, readout);
}

// ------------------------------------------------------------------------------------------- lines

// times (ms), lines [{values, kind, name}], band {low, high}, shades [{start, end, href, label}], marks [ms]
export function lineChart({ times, lines, band = null, shades = [], marks = [], height = 200, say = digits, label, steep = false }) {
  const host = h("div", { class: "chart" });
  responsive(host, (width) => {
    const finite = [...lines.flatMap((l) => l.values), ...(band ? [...band.low, ...band.high] : [])].filter((v) => v !== null && Number.isFinite(v));
    const first = times[0], last = times[times.length - 1] + (times.length > 1 ? times[1] - times[0] : 1000);
    let low = Math.min(...finite), high = Math.max(...finite);
    if (!finite.length) { low = 0; high = 1; }
    if (low >= 0 && low < 0.6 * high) low = 0;
    if (high === low) { high += Math.abs(high) * 0.1 || 1; low -= low > 0 ? Math.abs(low) * 0.1 : 0; }
    high += (high - low) * 0.06;
    const bottom = height - 20, bend = steep && low >= 0 ? Math.sqrt : (v) => v;
    let ticks = valueTicks(low, high, height > 150 ? 4 : 3);
    if (bend === Math.sqrt) ticks = [...new Set([0, ...valueTicks(0, high, 3), ...valueTicks(0, high / 8, 2)])];
    const left = Math.max(LEFT_MIN, ...ticks.map((t) => say(t).length * 6.6 + 10));
    const x = (t) => left + ((t - first) / (last - first)) * (width - left - 2);
    const y = (v) => bottom - ((bend(v) - bend(low)) / (bend(high) - bend(low))) * (bottom - 8);
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
    let beneath = Infinity;
    for (const t of ticks.sort((a, b) => a - b)) {
      if (t > high) continue;
      svg.append(s("line", { class: "grid", x1: left, x2: width, y1: y(t), y2: y(t) }));
      if (beneath - y(t) > 13) { svg.append(s("text", { x: left - 8, y: y(t) + 4, "text-anchor": "end" }, say(t))); beneath = y(t); }
    }
    const clockTicks = timeTicks(first, last, Math.max(2, (width - left) / 84));
    for (const t of clockTicks.ticks) {
      if (x(t) > left + 12 && x(t) < width - 16) svg.append(s("text", { x: x(t), y: height - 3, "text-anchor": "middle" }, clockTicks.label(t)));
    }
    for (const shade of shades) {
      const from = Math.max(left, x(shade.start)), to = Math.min(width - 2, x(shade.end ?? last));
      if (to < left || from > width) continue;
      const rect = s("rect", { class: "shade", x: from, y: 4, width: Math.max(to - from, 3), height: bottom - 4 }, s("title", {}, shade.label));
      svg.append(shade.href ? s("a", { href: shade.href, "aria-label": shade.label }, rect) : rect);
    }
    if (band) svg.append(s("path", { class: "band", d: area(times, band.low, band.high, x, y) }));
    for (const line of lines) svg.append(s("path", { class: line.kind, d: path(times, line.values, x, y) }));
    for (const mark of marks) if (mark >= first && mark <= last) svg.append(s("line", { class: "onset", x1: x(mark), x2: x(mark), y1: 4, y2: bottom }));
    const hair = s("line", { class: "hair", y1: 4, y2: bottom, visibility: "hidden" });
    svg.append(hair);
    const tip = h("div", { class: "tip", hidden: true });
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), want = first + ((event.clientX - box.left - left) / (width - left - 2)) * (last - first);
      let i = times.findIndex((t) => t > want); i = Math.max(0, (i < 0 ? times.length : i) - 1);
      hair.setAttribute("x1", x(times[i])); hair.setAttribute("x2", x(times[i])); hair.setAttribute("visibility", "visible");
      tip.textContent = `${atSecond(times[i])}  ${lines.map((l) => `${l.name} ${say(l.values[i])}`).join(" · ")}`;
      tip.hidden = false;
      tip.style.left = `${Math.min(Math.max(0, x(times[i]) + 8), Math.max(0, width - tip.offsetWidth))}px`;
    });
    svg.addEventListener("pointerleave", () => { hair.setAttribute("visibility", "hidden"); tip.hidden = true; });
    host.replaceChildren(svg, tip);
  });
  host.style.minHeight = `${height}px`;
  return host;
}

function path(times, values, x, y) {
  let out = "", pen = false;
  values.forEach((v, i) => {
    if (v === null || !Number.isFinite(v)) { pen = false; return; }
    out += `${pen ? "L" : "M"}${x(times[i]).toFixed(1)} ${y(v).toFixed(1)}`;
    if (!pen && (values[i + 1] ?? null) === null) out += "h1.5"; // a lone value can be seen
    pen = true;
  });
  return out;
}

function area(times, low, high, x, y) {
  let out = "", start = null;
  const close = (end) => {
    if (start === null) return;
    let top = "", under = "";
    for (let i = start; i < end; i++) {
      top += `${i === start ? "M" : "L"}${x(times[i]).toFixed(1)} ${y(high[i]).toFixed(1)}`;
      under = `L${x(times[i]).toFixed(1)} ${y(low[i]).toFixed(1)}${under}`;
    }
    out += `${top}${under}Z`; start = null;
  };
  for (let i = 0; i < times.length; i++) {
    if (low[i] === null || high[i] === null) close(i); else start ??= i;
  }
  close(times.length);
  return out;
}
