// What the page is made from: the data, and elements. The data comes from untrusted places: it reaches the page as
// text only, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const total = data.id.length;
const STATES = ["DONE", "RUNNING", "PENDING", "FAILED", "LOST", "CANCELLED"];
const SIGNS = {DONE: "✓", RUNNING: "▸", PENDING: "·", FAILED: "✗", LOST: "?", CANCELLED: "–"};
const PAGE = 50;
const $ = (id) => document.getElementById(id);

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};
const range = (count) => Array.from({length: count}, (_, i) => i);
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
