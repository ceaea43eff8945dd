// Small words for making elements and writing numbers and times; nothing here knows a view.

export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false));
  return made;
}

export function s(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((c) => c !== null && c !== undefined));
  return made;
}

const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const clockS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

export const atClock = (ms) => clock.format(new Date(ms));
export const atSecond = (ms) => clockS.format(new Date(ms));
export const atDay = (ms) => `${day.format(new Date(ms))}, ${clock.format(new Date(ms))}`;

// A time in the reader's zone, with UTC on hover.
export function when(iso, style = "short") {
  if (!iso) return h("span", { class: "muted" }, "—");
  const ms = Date.parse(iso);
  const near = Math.abs(Date.now() - ms) < 18 * 3600e3;
  const text = style === "second" ? atSecond(ms) : near && style !== "day" ? atClock(ms) : atDay(ms);
  return h("time", { datetime: iso, title: `${iso.replace("T", " ").replace("Z", "")} UTC` }, text);
}

export function duration(ms) {
  if (ms > 0 && ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 90) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60 ? `${minutes % 60} min` : ""}`.trim();
  return `${Math.round(minutes / 1440)} days`;
}

export function digits(value, most = 3) {
  if (value === null || value === undefined) return "—";
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e7)) return value.toExponential(1);
  return Number(value.toPrecision(most)).toLocaleString("en");
}

const STEPS = {
  s: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]],
  B: [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]],
  bytes: [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]],
  MiB: [[1024, "GiB"], [1, "MiB"]],
};

export function quantity(value, unit = "") {
  if (value === null || value === undefined) return "—";
  if (unit === "ratio") return `${digits(100 * value, 2)} %`;
  for (const [size, name] of STEPS[unit] ?? []) if (Math.abs(value) >= size) return `${digits(value / size)} ${name}`;
  return `${digits(value)} ${unit}`.trim();
}

// A headline without its clock times, which are UTC; the page tells them in the reader's zone beside it.
export function plain(headline, service = null) {
  let text = headline.replace(/ since \d\d:\d\d(:\d\d)?/, "").replace(/^unknown origin: /, "");
  if (service && text.startsWith(`${service}: `)) text = text.slice(service.length + 2);
  return text ? text[0].toUpperCase() + text.slice(1) : text;
}

export const percent = (share) => `${Math.round(100 * share)} %`;
export const words = (name) => name.replaceAll("_", " ");
// A metric's name without the unit at its end, which stands beside the numbers.
export const metric = (kpi) => kpi.unit ? words(kpi.metric).replace(/ (s|ms|us|mi|mib|gib|pct|percent|bytes|seconds|ratio)$/, "") : words(kpi.metric);
export const counted = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

export function empty(title, text, calm = false) {
  return h("div", { class: `empty ${calm ? "calmly" : ""}` }, h("b", {}, title), text);
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value, more, bad]) =>
    h("div", { class: bad ? "bad" : "" }, h("dt", {}, name), h("dd", {}, value, more ? h("small", {}, ` ${more}`) : null))));
}
