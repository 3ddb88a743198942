"use strict";
// The list of rollouts: only the lines in sight are in the document, so a hundred thousand scroll.

const LINE = 30; // pixels of a line, as the style sheet has it
const COLUMNS = [
  { key: "update", label: "update", number: true },
  { key: "asked", label: "prompt" },
  { key: "text", label: "response" },
  { key: "score", label: "score", number: true },
  { key: "gold", label: "gold", number: true },
  { key: "gap", label: "gap", number: true },
  { key: "kl", label: "KL", number: true },
  { key: "length", label: "length", number: true },
];
const BOUND = /^([^<>=\s]+)(<=|>=|<|>|=)(-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)$/i;
const HOLDS = {
  "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b,
};

function makeList(facts) {
  const box = document.getElementById("list");
  const body = document.getElementById("rows");
  const find = document.getElementById("find");
  const trouble = document.getElementById("trouble");
  const columns = COLUMNS.filter((column) => !column.number || facts.numbers[column.key]);
  const haystack = facts.text.map((text, row) =>
    [facts.prompt[row], facts.asked[row], text].map((place) => facts.texts[place]).join("\n").toLowerCase());
  let order = []; // rows in the list, in its order
  let chosen = -1;
  let sorted = { key: "update", down: false };
  const scatter = makeScatter(facts, show);

  function filter() {
    const tests = find.value.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const bound = BOUND.exec(word);
      const values = bound && numbersCalled(facts, bound[1]);
      if (!values) return (row) => haystack[row].includes(word);
      return (row) => values[row] !== null && HOLDS[bound[2]](values[row], Number(bound[3]));
    });
    order = [];
    for (let row = 0; row < facts.count; row++) if (tests.every((test) => test(row))) order.push(row);
    sort();
  }

  function sort() {
    const { key, down } = sorted;
    const values = facts.numbers[key];
    const sign = down ? -1 : 1;
    order.sort((a, b) => {
      if (values) {
        const [x, y] = [values[a], values[b]];
        if (x === null || y === null) return (x === null) - (y === null) || a - b; // unknown last
        return sign * (x - y) || a - b;
      }
      return sign * facts.texts[facts[key][a]].localeCompare(facts.texts[facts[key][b]]) || a - b;
    });
    for (const head of document.querySelectorAll("#heads th")) {
      if (head.dataset.key === key) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    document.getElementById("count").textContent = `${order.length.toLocaleString("en")} of ${facts.count.toLocaleString("en")}`;
    box.scrollTop = 0;
    draw();
    scatter.rows(order);
  }

  function draw() {
    const from = Math.max(0, Math.floor(box.scrollTop / LINE) - 5);
    const to = Math.min(order.length, Math.ceil((box.scrollTop + box.clientHeight) / LINE) + 5);
    const spacer = (lines) => make("tr", { class: "spacer", "aria-hidden": "true", style: `height:${lines * LINE}px` });
    body.replaceChildren(spacer(from), ...order.slice(from, to).map(line), spacer(order.length - to));
  }

  function line(row) {
    const element = make("tr", { class: row === chosen ? "row here" : "row", onclick: () => show(row) });
    element.dataset.row = row;
    for (const { key, number } of columns) {
      if (number) element.append(make("td", { class: "n" }, shown(facts.numbers[key][row], 3)));
      else element.append(make("td", {}, make("bdi", { class: "snippet" }, visible(facts.texts[facts[key][row]]).slice(0, 200))));
    }
    return element;
  }

  function show(row) {
    chosen = row;
    trouble.hidden = true;
    history.replaceState(null, "", `#${facts.numbers.update[row]}/${facts.numbers.place[row] + 1}`);
    bringIntoSight(order.indexOf(row));
    draw();
    scatter.choose(row);
    return openRollout(facts, row, show);
  }

  function bringIntoSight(index) {
    if (index < 0) return; // the search leaves it out
    const most = index * LINE;
    const least = (index + 2) * LINE - box.clientHeight; // the head covers one line
    const far = box.scrollTop > most + LINE || box.scrollTop < least - LINE;
    if (far) box.scrollTop = (least + most) / 2; // in the middle, with what stands around it
    else box.scrollTop = Math.max(least, Math.min(most, box.scrollTop));
  }

  // Show the rollout that the address names, as #update/place; if this page lacks it, say so and show `otherwise`.
  function showLinked(otherwise) {
    const [named, update, place] = /^#(\d+)\/(\d+)$/.exec(location.hash) || [];
    const linked = facts.numbers.update.findIndex((u, row) => u === Number(update) && facts.numbers.place[row] === place - 1);
    const opened = show(linked >= 0 ? linked : otherwise);
    trouble.hidden = !named || linked >= 0;
    trouble.textContent = `This page has no row ${place} of update ${update}.`;
    return opened;
  }

  for (const { key, label, number } of columns) {
    const sortBy = () => {
      sorted = { key, down: sorted.key === key ? !sorted.down : Boolean(number) && key !== "update" };
      sort();
    };
    const head = make("th", { class: number ? "n" : "words", tabindex: "0", onclick: sortBy, onkeydown: (event) => event.key === "Enter" && sortBy() }, label);
    head.dataset.key = key;
    document.getElementById("heads").append(head);
  }
  for (const button of document.querySelectorAll(".presets button")) {
    button.addEventListener("click", () => {
      const { sort: key, down, find: words } = button.dataset;
      if (key) sorted = { key, down: Boolean(down) };
      if (words || button.id === "all") find.value = words || "";
      if (button.id === "all") sorted = { key: "update", down: false };
      filter();
      if (key && order.length) show(order[0]);
    });
  }
  let waiting = 0;
  find.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 60); });
  box.addEventListener("scroll", () => requestAnimationFrame(draw));
  window.addEventListener("resize", draw);
  box.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !order.length) return;
    event.preventDefault();
    show(order[Math.min(order.length - 1, Math.max(0, order.indexOf(chosen) + step))]);
  });
  window.addEventListener("hashchange", () => showLinked(chosen)); // an address that is typed or pasted
  filter();
  return showLinked(order[0]);
}

// The numbers that a word in the search field names: a column's, a token sum's or a reward term's.
function numbersCalled(facts, word) {
  const same = (name) => name.toLowerCase() === word;
  const column = Object.keys(facts.numbers).find(same);
  const term = Object.keys(facts.terms).find(same);
  return column ? facts.numbers[column] : term ? facts.terms[term] : null;
}

readFacts().then(makeList).then(
  () => { document.body.dataset.ready = "1"; },
  (error) => {
    const trouble = document.getElementById("trouble");
    trouble.hidden = false;
    trouble.textContent = typeof DecompressionStream === "undefined"
      ? "This page needs a browser of 2023 or later."
      : `The rollouts could not be shown: ${error.message}`;
    throw error;
  },
);
