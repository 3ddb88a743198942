// The labelling page: one question at a time. The server keeps everything; what is here may be lost.
//
// A ranking is the order of the cards, best first, and for each card whether it is tied with the one
// above it. Until all cards have a place there are only the ranks that were typed, in `typed`.
"use strict";

const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token");
const REMEMBERED = "plumbrule annotator";

let session = null; // what is asked and judged, as the server says
let shown = null; // the question on the page
let order = []; // numbers of its answers, top card first
let tied = new Set(); // numbers of answers tied with the card above them
let typed = new Map(); // number of an answer -> rank, while some have none
let isRanked = false;
let isBusy = false;
let visited = []; // ids of the questions judged on this page, in that order

// Talking to the server

async function call(path, body) {
  const headers = { ...(token && { "X-Token": token }), ...(body && { "Content-Type": "application/json" }) };
  const options = body ? { method: "POST", body: JSON.stringify(body), headers } : { headers };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. What stands on this page is not saved yet; start the server again and save once more.");
  }
  const found = await answer.json().catch(() => ({ error: "the server failed; see what it printed" }));
  if (!answer.ok) throw Object.assign(new Error(found.error), { status: answer.status });
  return found;
}

async function attempt(work) {
  if (isBusy) return;
  isBusy = true;
  try {
    await work();
  } catch (error) {
    complain(error.message);
  } finally {
    isBusy = false;
  }
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
  if (text) $("problem").scrollIntoView({ block: "nearest" });
}

const speak = (text) => ($("spoken").textContent = text);
const asAnnotator = () => "?annotator=" + encodeURIComponent(session.annotator);

// Which page

async function begin(name) {
  session = await call("api/session" + (name ? "?annotator=" + encodeURIComponent(name) : ""));
  if (!session.annotator) {
    only("start");
    $("name").focus();
    return;
  }
  localStorage.setItem(REMEMBERED, session.annotator);
  await next();
}

function only(id) {
  for (const main of document.querySelectorAll("main")) main.hidden = main.id !== id;
}

async function next() {
  const judged = new Set(session.judged);
  const id = session.questions.find((q) => !judged.has(q));
  await (id ? open(id) : finish());
  showProgress();
}

function showProgress() {
  const { judged, questions, agreement, people } = session;
  $("who").textContent = session.annotator;
  $("who").hidden = $("done").hidden = false;
  $("leave").hidden = session.only !== null;
  $("count").textContent = `${judged.length} of ${questions.length} judged`;
  $("bar").max = questions.length;
  $("bar").value = judged.length;
  $("agreement").textContent =
    agreement === null || people < 2 ? "" : `agreement with others ${Math.round(100 * agreement)} % of pairs`;
}

function finish() {
  shown = null;
  only("end");
  $("end-count").textContent = `You have judged all ${session.questions.length} questions.`;
  $("command").textContent = session.command ?? "the plumbrule command that asked for these labels";
  $("end-people").textContent =
    "If more people were asked for, the command says who is still awaited.";
  $("copy").focus();
}

async function open(id) {
  const question = await call("api/question/" + id + asAnnotator());
  shown = question;
  order = question.answers.map(([k]) => k);
  tied = new Set();
  typed = new Map();
  isRanked = false;
  if (question.ranks) sortBy(new Map(order.map((k) => [k, question.ranks[k]])));
  only("question");
  fill($("messages"), question.messages, ({ role, content }) => {
    const box = element("div", "message " + role);
    const names = { user: "User", assistant: "Assistant", system: "Instructions" };
    box.append(element("b", "", names[role] ?? role), content);
    return box;
  });
  const number = question.passages.length;
  $("passages").hidden = number === 0;
  $("passages").open = false;
  const what = number === 1 ? "1 passage" : `${number} passages`;
  $("passages-title").replaceChildren(what + " shown with the last message ", element("kbd", "", "p"));
  fill($("passages-list"), question.passages, (text) => element("li", "", text));
  fill($("cards"), order, (k) => card(k, question.answers.find(([n]) => n === k)[1]));
  $("comment").value = question.comment;
  $("remark").open = question.comment !== "";
  $("cant-say").setAttribute("aria-pressed", question.cant_say);
  $("back").disabled = before() === undefined;
  show();
  scrollTo(0, 0);
  choose($("cards").firstChild);
  $("cards").firstChild.focus({ preventScroll: true });
}

function before() {
  const earlier = [...session.judged.filter((id) => !visited.includes(id)), ...visited];
  const i = earlier.indexOf(shown?.id);
  return i < 0 ? earlier.at(-1) : earlier[i - 1];
}

// Cards

function element(name, kind, text) {
  const made = document.createElement(name);
  made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function fill(parent, values, make) {
  parent.replaceChildren(...values.map(make));
}

function card(k, text) {
  const box = element("li", "card");
  box.tabIndex = -1;
  box.dataset.answer = k;
  const grip = element("div", "grip");
  grip.title = "drag to its place";
  grip.append(element("span", "rank"), element("span", "dots"));
  const moves = element("div", "moves");
  for (const [sign, label, act] of [
    ["↑", "Move up", () => move(k, order.indexOf(k) - 1)],
    ["=", "Tie with the answer above", () => tie(k)],
    ["↓", "Move down", () => move(k, order.indexOf(k) + 1)],
  ]) {
    const button = element("button", "", sign);
    button.type = "button";
    button.title = label;
    button.setAttribute("aria-label", label);
    button.addEventListener("click", act);
    moves.append(button);
  }
  const body = text.trim() ? element("div", "text", text) : element("div", "text empty", "(an empty answer)");
  body.id = "answer-" + k;
  box.setAttribute("aria-describedby", body.id);
  box.append(grip, body, moves);
  box.addEventListener("focusin", () => choose(box));
  box.addEventListener("pointerdown", () => choose(box));
  grip.addEventListener("pointerdown", (event) => drag(event, box, k));
  return box;
}

const boxOf = (k) => $("cards").querySelector(`[data-answer="${k}"]`);
const chosen = () => $("cards").querySelector('.card[tabindex="0"]') ?? $("cards").firstChild;

function choose(box) {
  for (const other of $("cards").children) other.tabIndex = other === box ? 0 : -1;
}

// Ranking

function ranks() {
  let rank = 0;
  return new Map(order.map((k) => [k, tied.has(k) ? rank : ++rank]));
}

function sortBy(given) {
  order.sort((a, b) => given.get(a) - given.get(b));
  tied = new Set(order.filter((k, i) => i > 0 && given.get(k) === given.get(order[i - 1])));
  isRanked = true;
}

function move(k, place) {
  const from = order.indexOf(k);
  if (place < 0 || place >= order.length) return;
  if (place !== from) {
    const under = order[from + 1];
    if (!tied.has(k)) tied.delete(under); // the first of a tie leaves; the next one leads it
    order.splice(from, 1);
    order.splice(place, 0, k);
    // into the middle of a tie means into the tie
    if (tied.has(order[place + 1])) tied.add(k);
    else tied.delete(k);
  }
  isRanked = true;
  rearrange();
  announce(k);
}

function tie(k) {
  if (order.indexOf(k) === 0) return;
  isRanked = true;
  if (!tied.delete(k)) tied.add(k);
  rearrange();
  announce(k);
}

function give(k, rank) {
  if (rank > order.length) return;
  if (isRanked) {
    sortBy(new Map([...ranks()].map(([n, r]) => [n, n === k ? rank : r])));
  } else {
    typed.set(k, rank);
    if (typed.size === order.length) sortBy(typed);
  }
  rearrange();
  const waiting = isRanked ? undefined : order.find((n) => !typed.has(n));
  if (waiting !== undefined) boxOf(waiting).focus();
  announce(k);
}

function announce(k) {
  const rank = isRanked ? ranks().get(k) : typed.get(k);
  const alike = isRanked && [...ranks().values()].filter((r) => r === rank).length > 1;
  const rest = order.length - typed.size;
  speak(`rank ${rank} of ${order.length}${alike ? ", tied" : ""}${isRanked ? "" : `; ${rest} without a rank`}`);
}

// Put the cards in order, each gliding from where it was, and write the ranks.
function rearrange() {
  const was = new Map(order.map((k) => [k, boxOf(k).getBoundingClientRect().top]));
  const fixed = chosen(); // stays in the document, or it would lose the focus and the pointer
  const i = order.indexOf(Number(fixed.dataset.answer));
  fixed.before(...order.slice(0, i).map(boxOf));
  fixed.after(...order.slice(i + 1).map(boxOf));
  show();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const k of order) {
    const box = boxOf(k);
    const by = was.get(k) - box.getBoundingClientRect().top;
    if (by && !box.classList.contains("dragged"))
      box.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 160, easing: "ease-out" });
  }
}

function show() {
  const now = isRanked ? ranks() : typed;
  order.forEach((k, i) => {
    const box = boxOf(k);
    const badge = box.querySelector(".rank");
    const rank = now.get(k);
    badge.textContent = rank ?? "";
    badge.classList.toggle("none", rank === undefined);
    box.classList.toggle("tied", isRanked && tied.has(k));
    box.classList.toggle("tied-below", isRanked && tied.has(order[i + 1]));
    const [up, same, down] = box.querySelectorAll(".moves button");
    up.disabled = same.disabled = i === 0;
    down.disabled = i === order.length - 1;
    same.setAttribute("aria-pressed", isRanked && tied.has(k));
    box.setAttribute("aria-label", `answer at place ${i + 1}, ${rank ? "rank " + rank : "no rank yet"}`);
  });
  $("save-text").textContent = isRanked ? "Save" : "Take this order";
  $("save").disabled = !isRanked && typed.size > 0;
  $("state").textContent = isRanked
    ? "Ranked. Save, or change it."
    : typed.size
      ? `${order.length - typed.size} still without a rank.`
      : "Not ranked yet: drag the answers into order, or give each a rank by its number.";
  if (shown.cant_say && !isRanked && !typed.size) $("state").textContent = "You said “can’t say”. Rank the answers to change that.";
}

// Dragging, by mouse, pen or finger, at the grip

function drag(event, box, k) {
  if (event.button !== 0) return;
  event.preventDefault();
  const grip = event.currentTarget;
  grip.setPointerCapture(event.pointerId);
  let start = event.clientY + scrollY;
  let isMoving = false;
  const follow = ({ clientY }) => {
    const y = clientY + scrollY;
    if (!isMoving && Math.abs(y - start) < 4) return;
    isMoving = true;
    box.classList.add("dragged");
    if (clientY < 60) scrollBy(0, -12);
    if (clientY > innerHeight - 110) scrollBy(0, 12);
    const middle = (other) => other.offsetTop + other.offsetHeight / 2;
    const mine = middle(box) + y - start;
    const i = order.indexOf(k);
    const above = order[i - 1];
    const below = order[i + 1];
    const top = box.offsetTop;
    if (above !== undefined && mine < middle(boxOf(above))) move(k, i - 1);
    else if (below !== undefined && mine > middle(boxOf(below))) move(k, i + 1);
    start += box.offsetTop - top; // it stays under the pointer when its place changes
    box.style.transform = `translateY(${y - start}px)`;
  };
  const drop = () => {
    grip.removeEventListener("pointermove", follow);
    box.classList.remove("dragged");
    box.style.transform = "";
    box.focus({ preventScroll: true });
    if (isMoving) move(k, order.indexOf(k));
  };
  grip.addEventListener("pointermove", follow);
  grip.addEventListener("lostpointercapture", drop, { once: true });
}

// Saving

async function save(isSayable) {
  if (isSayable && !isRanked) {
    if (typed.size) return;
    isRanked = true; // the order as it stands; saved by the next press
    rearrange();
    speak("Ranked in this order; press again to save.");
    return;
  }
  const now = ranks();
  const body = {
    annotator: session.annotator,
    revision: shown.revision,
    ranks: isSayable ? order.map((_, k) => now.get(k)) : null,
    comment: $("comment").value,
  };
  const id = shown.id;
  try {
    session = { ...session, ...(await call("api/question/" + id, body)) };
  } catch (error) {
    if (error.status !== 409) throw error;
    await open(id);
    throw new Error("Another tab or person judged this question under your name meanwhile. Your ranking was not saved; here is theirs. Change it if you like, and save.");
  }
  complain("");
  visited = [...visited.filter((v) => v !== id), id];
  speak("saved");
  await next();
}

async function undo() {
  const id = before();
  if (id === undefined) return;
  complain("");
  await open(id);
}

// Events

$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    complain("");
    await begin($("name").value);
  });
});
$("save").addEventListener("click", () => attempt(() => save(true)));
$("cant-say").addEventListener("click", () => attempt(() => save(false)));
$("back").addEventListener("click", () => attempt(undo));
$("leave").addEventListener("click", () => {
  localStorage.removeItem(REMEMBERED);
  location.reload();
});
$("review").addEventListener("click", () => attempt(undo));
$("copy").addEventListener("click", () => {
  getSelection().selectAllChildren($("command"));
  navigator.clipboard?.writeText($("command").textContent);
  $("copy").textContent = "Copied";
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Enter" && event.target === $("comment")) attempt(() => save(true));
    return;
  }
  if (event.target.matches("input, textarea")) {
    if (event.key === "Escape" && shown) chosen().focus();
    return;
  }
  if (event.key === "u" && session?.annotator) return act(event, () => attempt(undo));
  if (!shown || $("question").hidden || isBusy) return; // keys belong to the question that is seen
  const k = Number(chosen().dataset.answer);
  const place = order.indexOf(k);
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (step && event.shiftKey) act(event, () => keepFocus(k, () => move(k, place + step)));
  else if (step) act(event, () => boxOf(order[place + step] ?? k).focus());
  else if (/^[1-9]$/.test(event.key)) act(event, () => give(k, Number(event.key)));
  else if (event.key === "t") act(event, () => tie(k));
  else if (event.key === "x") act(event, () => attempt(() => save(false)));
  else if (event.key === "Enter" && !event.target.matches("button, summary")) act(event, () => attempt(() => save(true)));
  else if (event.key === "p") act(event, () => ($("passages").open = !$("passages").open));
  else if (event.key === "?") act(event, () => ($("keys").open = !$("keys").open));
  else if (event.key === "c")
    act(event, () => {
      $("remark").open = true;
      $("comment").focus();
    });
});

function act(event, work) {
  event.preventDefault();
  if (!event.repeat || event.key.startsWith("Arrow")) work();
}

function keepFocus(k, work) {
  work();
  boxOf(k).focus();
}

attempt(async () => {
  const { only } = await call("api/session");
  await begin(only ?? localStorage.getItem(REMEMBERED));
});
