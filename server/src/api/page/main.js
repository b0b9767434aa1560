// The page: a conversation, what it is asked with, and what it shows. All of it lives in this tab:
// the conversation as long as the tab, settings in the browser, the key until the page is left.

import { answer, model } from "./api.js";
import { show } from "./markdown.js";

const $ = id => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];
const KEPT = [...NUMBERS, "system"];

/** Turns of the conversation: {role, content} with thoughts and a note beside. */
let turns = [];
/** What ends the answer that is coming, if one is. */
let running = null;

// ---------------------------------------------------------------- what is kept

/** A store that may be closed to this page, or full; then nothing is kept. */
const store = name => ({
  read: key => { try { return window[name].getItem("imp." + key); } catch { return null; } },
  write: (key, value) => { try { window[name].setItem("imp." + key, value); } catch { /* not kept */ } },
});
const [settings, session] = [store("localStorage"), store("sessionStorage")];

function restore() {
  for (const id of KEPT) {
    $(id).value = settings.read(id) ?? "";
    $(id).addEventListener("input", () => settings.write(id, $(id).value));
  }
  try { turns = JSON.parse(session.read("turns") ?? "[]"); } catch { turns = []; }
  if (turns.at(-1)?.role === "user") $("prompt").value = turns.at(-1).content; // to be sent again
  turns = turns.filter((turn, index) => turn.role !== "user" || turns[index + 1]?.role === "assistant");
  for (const turn of turns) turn.role === "user" ? showUser(turn) : new AnswerView().restore(turn);
}

const keep = () => session.write("turns", JSON.stringify(turns));

// ---------------------------------------------------------------- the model

let known = null;

/** Shows the model; asks again while the server loads it or cannot be reached. */
async function connect() {
  clearTimeout(connect.again);
  const status = { text: "", bad: true, hint: "" };
  try {
    known = await model($("key").value.trim());
    const context = known.max_model_len?.toLocaleString("en");
    Object.assign(status, { text: known.id, bad: false, hint: `${known.id}, with a context of ${context} tokens` });
  } catch (error) {
    const asksKey = error.status === 401;
    status.text = asksKey ? "needs an API key" : error.status === 503 ? "loading the model…" : "not connected";
    status.hint = error.message;
    status.bad = error.status !== 503;
    if (!asksKey) connect.again = setTimeout(connect, 2000);
    $("enter-key").hidden = !asksKey;
  }
  if (!status.bad) $("enter-key").hidden = true;
  $("model").textContent = status.text;
  $("model").title = status.hint;
  $("model").className = status.bad ? "bad" : "";
  $("hint").textContent = status.hint;
  document.title = known ? `${known.id} - imp` : "imp";
}

// ---------------------------------------------------------------- turns on the page

const copyOf = id => $(id).content.firstElementChild.cloneNode(true);

function showUser(turn) {
  const node = copyOf("user-turn");
  node.querySelector(".text").textContent = turn.content;
  node.querySelector(".copy").text = () => turn.content;
  add(node);
}

function add(node) {
  $("welcome").hidden = true;
  $("chat").append(node);
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

/** An answer on the page, drawn at most once a frame while it comes. */
class AnswerView {
  constructor() {
    this.node = copyOf("answer-turn");
    this.part = name => this.node.querySelector(name);
    this.turn = { role: "assistant", content: "", thoughts: "", note: "" };
    this.part(".below > .copy").text = () => this.turn.content;
    this.part(".again").addEventListener("click", () => this.again());
    add(this.node);
  }

  begin() {
    this.node.classList.add("running");
    this.began = performance.now();
  }

  take(delta) {
    if (this.turn.thoughts && !this.turn.content && delta.content) this.thought = performance.now();
    this.turn.content += delta.content ?? "";
    this.turn.thoughts += delta.reasoning_content ?? "";
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = null;
    const scroll = $("scroll");
    const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
    const { content, thoughts } = this.turn;
    if (content.trim()) show(this.part(".markdown"), content);
    this.part(".thoughts").hidden = !thoughts.trim();
    this.part(".thoughts .text").textContent = thoughts.trim();
    const seconds = this.thought && Math.round((this.thought - this.began) / 1000);
    this.part("summary").textContent = this.node.classList.contains("running") && !content ? "Thinking…"
      : seconds ? `Thought for ${seconds} s` : "Thoughts";
    if (atEnd) scroll.scrollTop = scroll.scrollHeight;
  }

  end(note) {
    cancelAnimationFrame(this.frame);
    this.node.classList.remove("running");
    this.turn.note = note;
    this.part(".note").textContent = note;
    this.part(".below").hidden = false;
    this.part(".below > .copy").hidden = !this.turn.content;
    this.draw();
  }

  fail(error) {
    const [label, act] = error.status === 401 ? ["Enter the API key", () => openSettings("key")]
      : error.code === "context_length_exceeded" ? ["New chat", clear]
      : ["Try again", () => this.again()];
    this.end(this.turn.content ? "cut off" : "");
    this.part(".below").hidden = !this.turn.content;
    this.part(".failure p").textContent = error.message;
    this.part(".failure button").textContent = label;
    this.part(".failure button").addEventListener("click", act);
    this.part(".failure").hidden = false;
    $("scroll").scrollTop = $("scroll").scrollHeight;
  }

  restore(turn) {
    this.turn = turn;
    this.end(turn.note);
  }

  /** Asks for this answer anew; it is the last one. */
  again() {
    if (running) return;
    this.node.remove();
    turns = turns.filter(turn => turn !== this.turn);
    run();
  }
}

/** Buttons that copy are many and come and go: one listener serves all. */
document.addEventListener("click", async event => {
  const button = event.target.closest(".copy");
  if (!button) return;
  const code = button.closest(".code")?.querySelector("code");
  const copied = await copy(code ? code.textContent : button.text());
  button.textContent = copied ? "Copied" : "Not copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

/** The clipboard is closed to pages that did not come over TLS or from this machine. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

// ---------------------------------------------------------------- asking

/** What is sent: turns that got no answer are left out, since templates want them to alternate. */
function request() {
  const system = $("system").value.trim();
  const said = turns.filter((turn, index) => turn.role !== "user" || turns[index + 1]?.role !== "user");
  const body = {
    model: known?.id ?? "",
    messages: [
      ...(system ? [{ role: "system", content: system }] : []),
      ...said.map(({ role, content }) => ({ role, content })),
    ],
    stream: true,
  };
  for (const id of NUMBERS) if ($(id).value !== "") body[id] = Number($(id).value);
  return body;
}

/** Answers the conversation as it stands. */
async function run() {
  const conversation = turns; // "New chat" begins another list
  const view = new AnswerView();
  const stop = running = new AbortController();
  update();
  view.begin();
  const kept = () => { if (view.turn.content) conversation.push(view.turn); };
  let note = "";
  try {
    for await (const chunk of answer(request(), $("key").value.trim(), stop.signal)) {
      const choice = chunk.choices[0];
      if (choice) view.take(choice.delta);
      if (choice?.finish_reason === "length") note = "cut off: the longest answer was reached";
      if (chunk.timings) note = [speed(chunk.timings), note].filter(Boolean).join(" · ");
    }
    kept();
    view.end(view.turn.content || view.turn.thoughts ? note : "The model had nothing to say.");
  } catch (error) {
    kept();
    error.name === "AbortError" ? view.end("stopped") : view.fail(error);
  }
  if (running === stop) running = null;
  if (turns === conversation) keep();
  update();
}

const speed = ({ predicted_n: count, predicted_per_second: rate }) =>
  `${count} tokens · ${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`;

/** Makes the composer fit what is going on. */
function update() {
  const box = $("prompt");
  box.style.height = "auto";
  box.style.height = box.scrollHeight + "px";
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
  $("send").disabled = !box.value.trim();
  $("chat").setAttribute("aria-busy", String(running !== null)); // read aloud when it is complete
}

// ---------------------------------------------------------------- events

function openSettings(focus) {
  $("settings").showModal();
  if (focus) $(focus).focus();
}

/** Begins a new conversation. */
function clear() {
  running?.abort();
  running = null;
  turns = [];
  keep();
  $("chat").replaceChildren();
  $("welcome").hidden = false;
  update();
  $("prompt").focus();
}

$("composer").addEventListener("submit", event => {
  event.preventDefault();
  const content = $("prompt").value;
  if (!content.trim() || running) return;
  if (!$("settings-form").checkValidity()) {
    openSettings();
    $("settings-form").reportValidity();
    return;
  }
  $("prompt").value = "";
  const turn = { role: "user", content };
  turns.push(turn);
  keep();
  showUser(turn);
  run();
});
$("prompt").addEventListener("input", update);
$("prompt").addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && !$("settings").open) running?.abort();
});
$("stop").addEventListener("click", () => {
  running?.abort();
  $("prompt").focus();
});
$("clear").addEventListener("click", clear);
$("open-settings").addEventListener("click", () => openSettings());
$("enter-key").addEventListener("click", () => openSettings("key"));
$("settings-form").addEventListener("submit", event => {
  event.preventDefault();
  $("settings").close();
});
$("settings").addEventListener("click", event => {
  if (event.target === $("settings")) $("settings").close(); // beside the drawer
});
$("settings").addEventListener("close", () => $("prompt").focus());
$("reset").addEventListener("click", () => {
  for (const id of KEPT) {
    $(id).value = "";
    settings.write(id, "");
  }
});
$("key").addEventListener("change", connect);

restore();
update();
connect();
