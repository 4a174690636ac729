// Keeps a page fresh while moves come in, and sends what its forms ask for. All that is shown is made by the server:
// the parts marked with data-fresh are taken from the page as it is now.
"use strict";

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

function toast(text) {
  const toast = $("#toast");
  toast.textContent = text;
  toast.classList.add("shown");
  setTimeout(() => toast.classList.remove("shown"), 4000);
}

// ---- what is fresh -------------------------------------------------------------------------------------------

let refreshing = false, again = false, putOff = false, asked = 0;

async function refresh() {
  if (refreshing) { again = true; return; }
  refreshing = true;
  const number = ++asked;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const text = await answer.text();
    // Not one that was asked for before a button did something.
    if (answer.ok && number === asked) {
      const page = new DOMParser().parseFromString(text, "text/html");
      putOff = false;
      for (const part of $$("[data-fresh]")) {
        const fresh = page.getElementById(part.id);
        if (!fresh || fresh.outerHTML === part.outerHTML) continue;
        if (inUse(part)) putOff = true; else replace(part, fresh);
      }
      countDown();
      if ($("[data-ended]")) stopListening();
    }
  } catch { /* The orchestrator is away: the next move, or a minute, tries again. */ }
  // Not more often than once a second, whatever happens.
  setTimeout(() => { refreshing = false; if (again) { again = false; refresh(); } }, 1000);
}

let pressed = null;

// Whether the reader is at work in a part, which is then left as it is: text is selected in it, a button is being
// pressed, a dialog is open, or the focus is on something that `replace` could not find again.
function inUse(part) {
  const selection = getSelection();
  const focus = document.activeElement;
  return (!selection.isCollapsed && selection.containsNode(part, true))
    || (pressed !== null && part.contains(pressed))
    || $("dialog[open]", part) !== null
    || (focus !== part && part.contains(focus) && !nameOf(focus));
}

// A part that was left as it was is made fresh as soon as the reader is done with it.
function catchUp() {
  if (putOff && !$$("[data-fresh]").some(inUse)) { putOff = false; refresh(); }
}
document.addEventListener("selectionchange", catchUp);
document.addEventListener("focusout", () => setTimeout(catchUp));
document.addEventListener("close", catchUp, true);
document.addEventListener("pointerdown", (event) => { if (event.button === 0) pressed = event.target; });
for (const end of ["pointerup", "pointercancel", "contextmenu"]) document.addEventListener(end, () => { pressed = null; setTimeout(catchUp); });

// What an element is called in another rendering of its part: buttons, links and summaries can be told apart.
const nameOf = (element) => element.dataset.open || element.getAttribute("href") || (element.matches("summary") ? element.textContent : null);
const sameIn = (part, element) => $$("[data-open], [href], summary", part).find((other) => nameOf(other) === nameOf(element));

// Keeps what is open open, and the focus where it is.
function replace(part, fresh) {
  const open = $$("details", part).map((details) => details.open);
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const adopted = document.adoptNode(fresh);
  $$("details", adopted).forEach((details, at) => { details.open = open[at] || details.open; });
  part.replaceWith(adopted);
  if (focused) sameIn(adopted, focused)?.focus({ preventScroll: true });
}

// ---- when to look --------------------------------------------------------------------------------------------

const live = document.body.dataset.live;
let source = null;

// A page that nobody sees listens to nothing: a browser has six connections to a host, for all its tabs together.
function listen() {
  if (!live || source || document.hidden || $("[data-ended]")) return;
  source = new EventSource(live);
  source.addEventListener("move", refresh);
  source.addEventListener("skipped", refresh);
}

function stopListening() {
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return stopListening();
  listen();
  if (source) refresh();
});
// Durations and countdowns go on even while nothing moves.
setInterval(() => { if (source) refresh(); }, 5000);
listen();

// ---- how long until ------------------------------------------------------------------------------------------

function countDown() {
  for (const element of $$(".countdown")) {
    const seconds = Math.round((new Date(element.dataset.until) - Date.now()) / 1000);
    element.textContent = seconds > 0 ? `in ${seconds} s` : "now";
  }
}
countDown();
setInterval(countDown, 1000);

// ---- dialogs and forms ---------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  const dialog = opener && document.getElementById(opener.dataset.open);
  if (dialog) {
    // The saga may have moved since the page was made.
    const step = $("input[name=step]", dialog), saga = $("#saga");
    if (step && saga) step.value = saga.dataset.step;
    // Whoever opens it again means another one; sent twice from here, it counts once.
    const key = $("input[name=key]", dialog);
    if (key) key.value = `dashboard-${[...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
    dialog.showModal();
    show(dialog);
  }
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
});

// The request that a form sends: what is shown is what is sent.
function request(form) {
  const fields = Object.fromEntries(new FormData(form));
  if (form.hasAttribute("data-checkout")) {
    const { force, items, ...body } = fields;
    const lines = items.split(",").map((line) => line.trim()).filter((line) => line !== "");
    // "blue-mug 2, teapot": the answer says what is wrong with anything else.
    if (lines.length) body.items = lines.map((line) => { const [sku, qty = "1"] = line.split(/\s+/); return { sku, qty: json(qty) }; });
    if (force) body[force] = true;
    return { path: "/checkout", headers: { "Content-Type": "application/json", Prefer: "respond-async" }, body };
  }
  if (form.hasAttribute("data-start")) {
    const filled = $$("[data-type]", form).filter((field) => field.value !== "");
    const body = Object.fromEntries(filled.map((field) => [field.name, field.dataset.type === "json" ? json(field.value) : field.value]));
    return { path: form.dataset.start, headers: { "Content-Type": "application/json", Prefer: "respond-async" }, body };
  }
  if (form.hasAttribute("data-publish")) {
    const { by, reason, file, activate } = fields;
    const query = new URLSearchParams(activate ? { by, reason } : { by, reason, activate: "false" });
    return { path: `/flows?${query}`, headers: { "Content-Type": "application/yaml" }, text: file };
  }
  if (form.hasAttribute("data-acts")) {
    const { limit, ...body } = fields;
    return actOn(form, body, Math.min(limit, form.dataset.permitted));
  }
  return { path: form.dataset.post, headers: { "Content-Type": "application/json" }, body: fields };
}

// What is no JSON is sent as it is: the answer says what is wrong with it.
function json(text) {
  try { return JSON.parse(text); } catch { return text; }
}

const SENT = "[data-post], [data-checkout], [data-start], [data-publish], [data-acts]";

// How many sagas one request looks at.
const PAGE = 500;

// The request of a page, on however many it is still done: those that are refused do not count.
function actOn(form, { by, reason }, left) {
  const { acts, before } = form.dataset;
  const body = { by, reason, atMost: Math.min(PAGE, left) };
  return { path: `${acts}limit=${PAGE}&before=${before}`, headers: { "Content-Type": "application/json" }, body };
}

function show(within) {
  const form = within?.matches?.("form") ? within : $(`form:is(${SENT})`, within || document);
  const preview = form && $("[data-request]", form);
  if (!preview) return;
  const { path, headers, body } = request(form);
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  preview.textContent = `POST ${path}\n${lines.join("\n")}${body ? `\n\n${JSON.stringify(body, null, 2)}` : ""}`;
}

document.addEventListener("input", (event) => { const form = event.target.closest("form"); if (form) show(form); });
$$("form:is([data-checkout], [data-start], [data-publish], [data-acts])").forEach(show);

// A file that was chosen is put where it can be read and mended.
document.addEventListener("change", async (event) => {
  const field = event.target.dataset.into && event.target.form.elements[event.target.dataset.into];
  if (field && event.target.files[0]) field.value = await event.target.files[0].text();
});

// The lines of a file, each with what was found there.
function showFindings(form, text, findings) {
  const lines = text.split("\n");
  const part = (tag, content, name = "") => Object.assign(document.createElement(tag), { textContent: content, className: name });
  const items = lines.map((line, at) => {
    const item = part("li", "");
    item.append(part("code", line || " "));
    const here = findings.filter((found) => Math.min(found.line, lines.length) === at + 1);
    for (const { column, message, rule } of here) item.append(part("p", `Column ${column}: ${message} (${rule})`, "error"));
    if (here.length) item.className = "wrong";
    return item;
  });
  const list = $("[data-findings]", form);
  list.replaceChildren(...(findings.length ? items : []));
  $(".wrong", list)?.scrollIntoView({ block: "center" });
}

// What an answer says that is no success.
function refusal(answer, told) {
  const id = told.errorId ? ` (errorId ${told.errorId})` : "";
  return new Error(`${answer.status}: ${told.detail || told.title}${id}`);
}

let stopped = false;
document.addEventListener("click", (event) => { if (event.target.closest("[data-stop]")) stopped = true; });

// Acts page by page, until none is left, it is done on as many as the page has counted or the limit permits, or the reader
// stops it. The form keeps where it is: sent again, it goes on there.
async function actOnAll(form) {
  const [bar, sums, stop, send] = ["progress", "[data-sums]", "[data-stop]", "[type=submit]"].map((part) => $(part, form));
  const fields = Object.fromEntries(new FormData(form)), refused = new Map();
  const wanted = Math.min(fields.limit, form.dataset.permitted);
  let done = 0, next = null;
  bar.value = 0;
  bar.max = wanted;
  stopped = bar.hidden = stop.hidden = false;
  try {
    do {
      const { path, headers, body } = actOn(form, fields, wanted - done);
      const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
      const told = await answer.json();
      if (!answer.ok) throw refusal(answer, told);
      done += told.done;
      form.dataset.permitted -= told.done;
      next = told.next;
      if (next) form.dataset.before = next;
      for (const { reason, sagas } of told.refused) refused.set(reason, (refused.get(reason) || 0) + sagas);
      bar.value = done;
      const lines = [...refused].map(([reason, sagas]) => `, ${sagas} refused: ${reason}`);
      sums.textContent = `${done} done${lines.join("")}`;
    } while (next && done < wanted && !stopped);
    // What fits now has to be seen first.
    send.hidden = !next || form.dataset.permitted < 1;
    const more = send.hidden ? "others may fit: load this page again" : "the limit is reached, and others may fit";
    sums.textContent += !next ? "; no more fit" : stopped ? "; stopped" : `; ${more}`;
  } finally {
    bar.hidden = stop.hidden = true;
    if (!send.hidden) show(form);
  }
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches(SENT)) return;
  event.preventDefault();
  const { path, headers, body, text } = request(form);
  const startsSaga = form.matches("[data-checkout], [data-start]");
  const wrong = $(".error", form);
  wrong.hidden = true;
  const send = $("button[type=submit]", form);
  send.disabled = true;
  try {
    if (form.hasAttribute("data-acts")) return await actOnAll(form);
    const answer = await fetch(path, { method: "POST", headers, body: text ?? JSON.stringify(body) });
    const told = await answer.json();
    if (form.hasAttribute("data-publish")) showFindings(form, text, told.findings || []);
    if (!answer.ok && !(startsSaga && told.sagaId)) {
      throw refusal(answer, told);
    }
    if (startsSaga || form.hasAttribute("data-publish")) {
      location.href = startsSaga ? `/dashboard/sagas/${told.sagaId}` : `/dashboard/flows/${told.name}/${told.version}`;
      return;
    }
    form.closest("dialog")?.close();
    toast(`${answer.status}: done`);
    again = false; refreshing = false;
    refresh();
  } catch (error) {
    wrong.textContent = error.message;
    wrong.hidden = false;
  } finally {
    send.disabled = false;
  }
});
