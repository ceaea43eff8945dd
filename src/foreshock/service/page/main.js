// The frame: which view is shown, when it looks again, what it says when the service is gone, the theme.

import { get } from "./api.js";
import { atClock, atSecond, h } from "./dom.js";
import * as adapters from "./adapters.js";
import * as backtest from "./backtest.js";
import * as incident from "./incident.js";
import * as incidents from "./incidents.js";
import * as overview from "./overview.js";

const VIEWS = { "": overview, incidents, incident, backtest, adapters };
const POLL_MS = 15_000, MOST_WAIT_MS = 60_000, CLOSE_MS = 1500;
const main = document.getElementById("content"), pulse = document.getElementById("pulse"), lost = document.getElementById("lost");

let shown = null; // { name, id, view, state }
let timer = 0, failures = 0, lastGood = 0, looking = false, again = false, lastLook = 0;

// ------------------------------------------------------------------------------------------- views

async function route(isFirst = false) {
  const [name, id] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  const view = name === "incident" && !id ? incidents : VIEWS[name] ?? overview;
  shown = { name, id, view, state: view.make(main, id) };
  for (const link of document.querySelectorAll(".top nav a")) {
    const own = link.dataset.view === (name || "overview") || (name === "incident" && link.dataset.view === "incidents");
    if (own) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = `${view.title} · foreshock`;
  if (!isFirst) { scrollTo(0, 0); main.querySelector("h1")?.focus({ preventScroll: true }); }
  await look();
}

async function look() {
  if (looking) { again = true; return; }
  looking = true; again = false; lastLook = Date.now();
  clearTimeout(timer);
  const now = shown;
  try {
    const status = await get("status");
    await now.view.update(now.state, status);
    failures = 0; lastGood = Date.now();
    tell(status);
  } catch (error) {
    if (error.status === 404 || error.status === 422) {
      now.view.fail?.(now.state, error);
      failures = 0; lastGood = Date.now();
    } else {
      failures += 1;
      tellLost(error);
    }
  } finally {
    looking = false;
    const wait = failures ? Math.min(MOST_WAIT_MS, 1000 * 2 ** failures) : POLL_MS;
    timer = setTimeout(look, again || now !== shown ? 50 : wait);
  }
}

function tell(status) {
  lost.hidden = true;
  const words = { waiting: "Waiting for the first rows", warming: "Learning what is usual", late: "Late", ok: "Live" };
  pulse.className = `pulse ${status.state === "ok" ? "ok" : status.state === "late" ? "bad" : ""}`;
  pulse.title = status.newest ? `newest row ${status.newest}` : "";
  const text = words[status.state] + (status.newest ? ` · ${atSecond(Date.parse(status.newest))}` : "");
  if (pulse.lastElementChild.textContent !== text) pulse.lastElementChild.textContent = text;
}

function tellLost(error) {
  pulse.className = "pulse bad";
  pulse.lastElementChild.textContent = "Connection lost";
  const wait = Math.round(Math.min(MOST_WAIT_MS, 1000 * 2 ** failures) / 1000);
  const since = lastGood ? ` What you see is from ${atClock(lastGood)}.` : "";
  const why = error.status ? ` (${error.message})` : "";
  lost.replaceChildren(h("b", {}, "Connection lost. "), `The service does not answer${why}.${since} Trying again in ${wait} s.`);
  lost.hidden = false;
}

// One message a cycle says that there is something new; without it, polling does.
function listen() {
  const source = new EventSource("/api/v1/events");
  source.onmessage = () => {
    if (document.hidden || Date.now() - lastLook < CLOSE_MS) return;
    look();
  };
}

// ------------------------------------------------------------------------------------------- theme

const wish = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");

function paint() {
  const chosen = localStorage.getItem("foreshock-theme");
  const isDark = chosen ? chosen === "dark" : wish.matches;
  document.documentElement.classList.toggle("dark", isDark);
  button.textContent = isDark ? "☀" : "☾";
  button.title = isDark ? "Light" : "Dark";
  document.dispatchEvent(new Event("themed"));
}

button.addEventListener("click", () => {
  localStorage.setItem("foreshock-theme", document.documentElement.classList.contains("dark") ? "light" : "dark");
  paint();
});
wish.addEventListener("change", paint);
addEventListener("hashchange", () => route());
addEventListener("online", look);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
paint();
route(true).then(listen);
