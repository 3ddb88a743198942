"use strict";
// A dot per rollout in the list: gold against reward, or score against KL where gold is not known.

function makeScatter(facts, show) {
  const canvas = document.getElementById("scatter");
  const numbers = facts.numbers;
  const axes = numbers.goldZ ? ["proxyZ", "goldZ"] : numbers.kl ? ["kl", "score"] : ["length", "score"];
  const labels = { proxyZ: "reward", goldZ: "gold", kl: "KL, nats per response", score: "score", length: "length, tokens" };
  document.getElementById("scatter-title").textContent = `${labels[axes[1]].split(",")[0]} against ${labels[axes[0]].split(",")[0]}`;
  const [xs, ys] = axes.map((name) => numbers[name]);
  const updates = numbers.update;
  const known = (values) => values.filter((value) => value !== null);
  const ends = [known(xs), known(ys)].map((values) => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]));
  const [first, last] = updates.reduce(([a, b], u) => [Math.min(a, u), Math.max(b, u)], [Infinity, -Infinity]);
  let shownRows = [];
  let chosen = -1;
  let place = () => [0, 0];

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    if (!wide) return;
    [canvas.width, canvas.height] = [wide * ratio, high * ratio];
    const at = canvas.getContext("2d");
    at.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const [line, soft, mark, bad] = ["--line", "--soft", "--mark", "--bad"].map((name) => style.getPropertyValue(name).trim());
    const [left, foot, edge] = [44, 30, 10];
    const scale = ([low, top], from, to) => (value) => from + ((value - low) / (top - low || 1)) * (to - from);
    const [x, y] = [scale(ends[0], left + edge, wide - edge), scale(ends[1], high - foot - edge, edge)];
    place = (row) => [x(xs[row]), y(ys[row])];
    at.strokeStyle = line;
    at.strokeRect(left, 0.5, wide - left - 1, high - foot);
    at.fillStyle = soft;
    at.font = "10px ui-sans-serif, system-ui, sans-serif";
    at.textAlign = "right";
    for (const value of ends[1]) at.fillText(shown(Number(value.toPrecision(2))), left - 5, y(value) + 3);
    at.textAlign = "center";
    for (const value of ends[0]) at.fillText(shown(Number(value.toPrecision(2))), x(value), high - foot + 14);
    at.fillText(labels[axes[0]], (left + wide) / 2, high - 4);
    at.save();
    at.translate(10, (high - foot) / 2);
    at.rotate(-Math.PI / 2);
    at.fillText(labels[axes[1]], 0, 0);
    at.restore();
    at.fillStyle = mark;
    for (const row of shownRows) {
      if (xs[row] === null || ys[row] === null) continue;
      at.globalAlpha = 0.2 + 0.6 * ((updates[row] - first) / (last - first || 1));
      const [px, py] = place(row);
      at.fillRect(px - 2, py - 2, 4, 4);
    }
    at.globalAlpha = 1;
    if (chosen >= 0 && xs[chosen] !== null && ys[chosen] !== null) {
      const [px, py] = place(chosen);
      at.strokeStyle = bad;
      at.lineWidth = 2;
      at.beginPath();
      at.arc(px, py, 6, 0, 7);
      at.stroke();
    }
  }

  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    let [best, distance] = [-1, 400]; // within 20 pixels
    for (const row of shownRows) {
      const [px, py] = place(row);
      const off = (px - event.clientX + box.left) ** 2 + (py - event.clientY + box.top) ** 2;
      if (off < distance) [best, distance] = [row, off];
    }
    if (best >= 0) show(best);
  });
  window.addEventListener("resize", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return {
    rows(rows) { shownRows = rows; draw(); },
    choose(row) { chosen = row; draw(); },
  };
}
