"use strict";
// One rollout: its prompt, passages, response, tokens with their numbers, and its prompt's others.

const CITATION = /\[(\d+)\]/g;
let colouredBy = ""; // key of the number that colours tokens; kept from rollout to rollout
let wanted = -1; // the rollout that was asked for last

async function openRollout(facts, row, show) {
  wanted = row;
  const update = facts.numbers.update[row];
  const tokens = await readTokens(facts, update);
  if (wanted !== row) return; // another was asked for meanwhile
  const pane = document.getElementById("detail");
  pane.replaceChildren(
    heading(facts, row),
    asked(facts, row),
    make("h3", {}, "Response"),
    make("p", { class: "text", dir: "auto", id: "response" }, ...withCitations(facts, row)),
    ...turnsOf(facts, row),
    ...tokenView(facts, row, tokens),
    ...samePrompt(facts, row, show),
  );
  pane.scrollTop = 0;
}

function heading(facts, row) {
  const numbers = facts.numbers;
  const about = facts.about[numbers.update[row]] || {};
  const list = make("dl", { class: "numbers" });
  const say = (name, value) => value !== "" && list.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  for (const name of ["score", "gold", "gap", "kl", "length"]) if (numbers[name]) say(name, shown(numbers[name][row]));
  if (facts.rawScore) say("sum of terms", shown(facts.rawScore[row]));
  for (const [name, values] of Object.entries(facts.terms)) if (name !== "gold" || !numbers.gold) say(name, shown(values[row]));
  say("ended", { true: "yes", false: "cut at the limit", null: "" }[facts.finished[row]]);
  say("sampler", about.sampler && about.sampler !== "own" ? about.sampler : "");
  say("policy older by", about.staleness ? `${about.staleness} updates` : "");
  const title = `Update ${numbers.update[row]}, row ${numbers.place[row] + 1}`;
  return make("div", {}, make("h2", {}, title),
    make("p", { class: "meaning" }, "prompt ", make("bdi", {}, visible(facts.texts[facts.prompt[row]]))), list);
}

function asked(facts, row) {
  const passages = facts.passages[row];
  const cited = new Set([...facts.texts[facts.text[row]].matchAll(CITATION)].map((found) => Number(found[1])));
  const parts = [make("h3", {}, "Prompt"), make("p", { class: "text", dir: "auto", id: "asked" }, visible(facts.texts[facts.asked[row]]))];
  if (passages.length) {
    const list = make("ol", { class: "passages", id: "passages" });
    passages.forEach((place, n) => list.append(make("li", { dir: "auto", class: cited.has(n + 1) ? "cited" : "", id: `passage-${n + 1}` }, visible(facts.texts[place]))));
    parts.push(make("h3", {}, `${passages.length} passage${passages.length > 1 ? "s" : ""} shown`), list);
  }
  const query = facts.texts[facts.query[row]];
  if (query && query !== facts.texts[facts.asked[row]]) {
    parts.push(make("details", {}, make("summary", {}, "As the policy read it"), make("p", { class: "text", dir: "auto" }, visible(query))));
  }
  return make("div", {}, ...parts);
}

// The response, each [n] marked: of a passage that was shown, or of none.
function withCitations(facts, row) {
  const text = facts.texts[facts.text[row]];
  const count = facts.passages[row].length;
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(CITATION)) {
    const real = Number(found[1]) >= 1 && Number(found[1]) <= count;
    const title = real ? "a passage that was shown" : "no passage of that number was shown";
    parts.push(visible(text.slice(end, found.index)), make("mark", { class: real ? "cited" : "uncited", title }, found[0]));
    end = found.index + found[0].length;
  }
  parts.push(visible(text.slice(end)));
  return text ? parts : [make("em", { class: "meaning" }, "(empty)")];
}

// Of a policy that may search: each turn as it was sampled, and behind it the query it asked.
function turnsOf(facts, row) {
  const turns = facts.turns[row];
  if (!turns.length) return [];
  const list = make("ol", { class: "passages", id: "turns" });
  turns.forEach((place, n) => {
    const item = make("li", { dir: "auto" }, visible(facts.texts[place]));
    const query = facts.searches[row][n];
    if (query !== undefined) item.append(make("p", { class: "meaning" }, "searched for ", make("bdi", { class: "query" }, visible(facts.texts[query]) || "(nothing)")));
    list.append(item);
  });
  const title = `${turns.length} turn${turns.length > 1 ? "s" : ""}; the last is the response`;
  return [make("h3", {}, title), list];
}

function tokenView(facts, row, tokens) {
  const size = facts.positions[row];
  if (!facts.tokenFields.length || !size) return [];
  const begin = facts.begins[row];
  const keys = facts.tokenFields.map((field) => field.key);
  if (!keys.includes(colouredBy)) colouredBy = keys.includes("advantages") ? "advantages" : keys[0];
  const strip = make("p", { class: "tokens", dir: "ltr" });
  const legend = make("p", { class: "legend scale" });
  const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "token"),
    ...facts.tokenFields.map((field) => make("th", { class: "n", title: field.title }, field.label)))));
  const body = table.appendChild(make("tbody"));
  for (let n = 0; n < size; n++) {
    const at = begin + n;
    const sampled = tokens.masks[at] & 1;
    const id = tokens.ids[at];
    const text = id < 0 ? "(after the response)" : visible(facts.vocabulary[id]).replaceAll("\n", "⏎\n");
    const line = make("tr", { class: sampled || id < 0 ? "" : "masked" }, make("td", { class: "token" }, make("bdi", {}, text)));
    facts.tokenFields.forEach((_, c) => line.append(make("td", { class: "n" }, shown(tokens.columns[c][at]))));
    body.append(line);
    if (id >= 0) {
      const token = make("span", { class: sampled ? "" : "masked" }, text);
      token.addEventListener("click", () => {
        for (const other of body.querySelectorAll(".here")) other.classList.remove("here");
        line.classList.add("here");
        line.scrollIntoView({ block: "nearest" });
      });
      strip.append(token);
    }
  }
  const colour = () => colourTokens(facts, tokens, begin, strip, legend);
  const choice = make("select", { id: "colour", onchange: (event) => { colouredBy = event.target.value; colour(); } });
  for (const field of facts.tokenFields) choice.append(make("option", { value: field.key }, field.label));
  choice.value = colouredBy;
  colour();
  return [make("h3", {}, "Tokens, coloured by ", choice), strip, legend, make("div", { class: "scroll token-table" }, table)];
}

// Colour tokens: above the middle (0; of a ratio 1) in one colour, below in another, strength by size.
function colourTokens(facts, tokens, begin, strip, legend) {
  const place = facts.tokenFields.findIndex((field) => field.key === colouredBy);
  const field = facts.tokenFields[place];
  const middle = colouredBy === "ratio" ? 1 : 0;
  const spans = [...strip.children];
  const values = spans.map((_, n) => tokens.columns[place][begin + n]);
  const most = Math.max(...values.map((value) => Math.abs(value - middle)).filter(Number.isFinite), 0);
  spans.forEach((span, n) => {
    const off = most ? (values[n] - middle) / most : 0;
    span.style.setProperty("--strength", `${Math.round(55 * Math.abs(off || 0))}%`);
    span.classList.toggle("above", off > 0);
    span.classList.toggle("below", off < 0);
    span.title = `${field.label} ${shown(values[n])}`;
  });
  const end = (side, sign) => make("span", { class: `tokens ${side}`, style: "--strength:55%" }, shown(middle + sign * most));
  legend.replaceChildren(`${field.label}: ${field.title}. `, end("below", -1), ` ${middle} `, end("above", 1));
}

// All rollouts of the prompt, over the updates: a small chart, and a line each.
function samePrompt(facts, row, show) {
  const rows = [];
  for (let other = 0; other < facts.count; other++) if (facts.prompt[other] === facts.prompt[row]) rows.push(other);
  if (rows.length < 2) return [make("p", { class: "meaning" }, "No other rollout of this prompt is on the page.")];
  const columns = ["update", "score", "gold", "gap", "length"].filter((name) => facts.numbers[name]);
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { class: "n" }, name)), make("th", {}, "response"))));
  const body = table.appendChild(make("tbody"));
  for (const other of rows) {
    const line = make("tr", { class: other === row ? "here" : "", tabindex: "0", onclick: () => show(other), onkeydown: (event) => event.key === "Enter" && show(other) });
    for (const name of columns) line.append(make("td", { class: "n" }, shown(facts.numbers[name][other])));
    line.append(make("td", {}, make("bdi", { class: "snippet" }, visible(facts.texts[facts.text[other]]))));
    body.append(line);
  }
  const found = [make("h3", {}, `The same prompt, ${rows.length} rollouts`)];
  const updates = new Set(rows.map((other) => facts.numbers.update[other]));
  if (updates.size > 1) found.push(overUpdates(facts, rows, row));
  return [...found, make("div", { class: "scroll others", id: "others" }, table)];
}

function overUpdates(facts, rows, row) {
  const [wide, high, left, foot] = [460, 120, 46, 18];
  const names = facts.numbers.goldZ ? [["proxyZ", "c0", "reward"], ["goldZ", "c1", "gold"]] : [["score", "c0", "score"]];
  const updates = rows.map((other) => facts.numbers.update[other]);
  const values = names.flatMap(([name]) => rows.map((other) => facts.numbers[name][other])).filter((value) => value !== null);
  const [first, last] = [Math.min(...updates), Math.max(...updates)];
  const [low, top] = [Math.min(...values), Math.max(...values)];
  const x = (update) => left + ((update - first) / (last - first || 1)) * (wide - left - 10);
  const y = (value) => 8 + ((top - value) / (top - low || 1)) * (high - foot - 14);
  const svg = (tag, about, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(about)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const chart = svg("svg", { class: "plot", id: "over-updates", viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": "this prompt over updates" });
  for (const value of [low, top]) {
    chart.append(svg("line", { class: "grid", x1: left, x2: wide - 10, y1: y(value), y2: y(value) }));
    chart.append(svg("text", { x: left - 6, y: y(value) + 3, "text-anchor": "end" }, shown(value)));
  }
  for (const [update, anchor] of [[first, "start"], [last, "end"]]) chart.append(svg("text", { x: x(update), y: high - 4, "text-anchor": anchor }, `update ${update}`));
  for (const [name, colour, label] of names) {
    for (const other of rows) {
      const value = facts.numbers[name][other];
      if (value === null) continue;
      const dot = svg("circle", { class: colour, cx: x(facts.numbers.update[other]), cy: y(value), r: other === row ? 5 : 3 });
      dot.append(svg("title", {}, `${label}, update ${facts.numbers.update[other]}: ${shown(value)}`));
      chart.append(dot);
    }
  }
  const keys = names.map(([, colour, label]) => make("span", {}, make("i", { class: `key ${colour}` }), label));
  const unit = facts.numbers.goldZ ? "standard deviations of the first update" : "reward";
  return make("figure", {}, chart, make("figcaption", {}, make("span", { class: "keys" }, ...keys), unit));
}
