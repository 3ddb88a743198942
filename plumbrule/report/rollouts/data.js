"use strict";
// What the page holds (packing.py): `facts` of all rollouts at once, tokens of an update when asked.

async function unpack(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function readFacts() {
  const facts = JSON.parse(new TextDecoder().decode(await unpack("facts")));
  facts.count = facts.text.length;
  facts.numbers.ended = facts.finished.map((ended) => (ended === null ? null : Number(ended)));
  facts.begins = new Int32Array(facts.count); // first position of a rollout in its update's tokens
  facts.sizes = {}; // update -> positions of all its rollouts
  facts.positions.forEach((size, row) => {
    const update = facts.numbers.update[row];
    facts.begins[row] = facts.sizes[update] || 0;
    facts.sizes[update] = facts.begins[row] + size;
  });
  return facts;
}

const tokensOf = new Map(); // update -> promise of its tokens; the last few are kept

function readTokens(facts, update) {
  if (!tokensOf.has(update)) {
    if (tokensOf.size >= 8) tokensOf.delete(tokensOf.keys().next().value);
    tokensOf.set(update, unpack(`tokens-${update}`).then((buffer) => {
      const size = facts.sizes[update];
      const at = (n) => 4 * size * n;
      return {
        ids: new Int32Array(buffer, 0, size),
        columns: facts.tokenFields.map((_, n) => new Float32Array(buffer, at(n + 1), size)),
        masks: new Uint8Array(buffer, at(facts.tokenFields.length + 1), size),
      };
    }));
  }
  return tokensOf.get(update);
}

// A number as the report writes it: four significant digits, or as many as there is room for.
function shown(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e5 ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

// Text with the characters made visible that would hide, or turn around, what stands beside them.
const HIDDEN = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}]/gu;

function visible(text) {
  return text.replace(HIDDEN, (sign) => {
    const code = sign.codePointAt(0);
    if (code < 32) return String.fromCharCode(0x2400 + code);
    return `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

// An element; text goes in as text, never as markup.
function make(tag, about = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
