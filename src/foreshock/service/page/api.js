// Asking the service. The token is asked for once, kept for this tab alone, and sent with writes only.

import { h } from "./dom.js";

const TOKEN = "foreshock-token";

export class Failed extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

async function answer(response) {
  let body = null;
  try { body = await response.json(); } catch { /* not ours: a proxy's page, perhaps */ }
  if (!response.ok) throw new Failed(response.status, body?.detail ?? `the service answered ${response.status}`);
  return body;
}

export async function get(path, values = {}) {
  const query = new URLSearchParams(Object.entries(values).filter(([, v]) => v !== null && v !== undefined && v !== ""));
  const control = new AbortController();
  const timer = setTimeout(() => control.abort(), 30_000);
  try {
    const text = query.toString();
    return await answer(await fetch(`/api/v1/${path}${text ? `?${text}` : ""}`, { signal: control.signal, credentials: "omit" }));
  } finally { clearTimeout(timer); }
}

// null when the reader changed their mind about the token.
export async function post(path, body = {}) {
  for (let again = false; ; again = true) {
    const token = sessionStorage.getItem(TOKEN) ?? await ask(again);
    if (token === null) return null;
    const response = await fetch(`/api/v1/${path}`, {
      method: "POST", credentials: "omit", body: JSON.stringify(body),
      headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
    });
    if (response.status !== 401) {
      if (response.ok) sessionStorage.setItem(TOKEN, token);
      return answer(response);
    }
    sessionStorage.removeItem(TOKEN);
  }
}

function ask(again) {
  return new Promise((resolve) => {
    const field = h("input", { type: "password", name: "token", autocomplete: "off", required: true });
    const dialog = h("dialog", { "aria-labelledby": "ask-title" },
      h("form", { method: "dialog" },
        h("h2", { id: "ask-title" }, "Token"),
        h("p", { class: "muted small" }, again ? "That token was not right. " : "",
          "Changing something needs the service's token. It is kept until this tab is closed."),
        h("label", {}, "Token", field),
        h("div", { class: "actions" },
          h("button", { class: "first", value: "ok" }, "Go on"),
          h("button", { type: "button", onclick: () => dialog.close("") }, "Cancel"))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "ok" && field.value ? field.value.trim() : null);
    });
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  });
}
