// What pictures have in common: colours, axes, tips, and a canvas that is drawn again when something changes.

const charts = [];
const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let ink = {};
const readInk = () => {
  ink = Object.fromEntries(
    ["--ink", "--soft", "--line", "--faint", "--card", "--accent"].map((name) => [name.slice(2), colourOf(name)]),
  );
  for (const state of STATES) ink[state] = colourOf(`--${state}`);
  dark = matchMedia("(prefers-color-scheme: dark)").matches;
  $("legend").style.setProperty("--ramp", [0, 0.2, 0.4, 0.6, 0.8, 1].map(ramp).join(", "));
};
// Viridis, but for the end that is as dark, or as light, as the page.
let dark = false;
const LIGHT = [
  [68, 1, 84],
  [65, 68, 135],
  [42, 120, 142],
  [34, 158, 125],
  [105, 185, 62],
  [222, 196, 0],
];
const DARK = [
  [132, 84, 190],
  [88, 108, 200],
  [48, 142, 170],
  [40, 178, 138],
  [122, 209, 81],
  [253, 231, 37],
];
const ramp = (part) => {
  const stops = dark ? DARK : LIGHT;
  const place = Math.min(Math.max(part, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const rgb = stops[low].map((value, i) => Math.round(value + (stops[low + 1][i] - value) * (place - low)));
  return `rgb(${rgb.join(" ")})`;
};
const WORDS = [
  "#4e79a7",
  "#f28e2b",
  "#59a14f",
  "#e15759",
  "#b07aa1",
  "#76b7b2",
  "#edc948",
  "#ff9da7",
  "#9c755f",
  "#8a8f98",
];

// An axis says where a job is on it, from 0 to 1, or null.
const axisOf = (one) => {
  if (one.numeric) {
    const values = one.values.map((value) => (typeof value === "number" ? value : null));
    const known = values.filter((value) => value !== null);
    const low = minimum(known),
      high = maximum(known);
    // Inputs are mostly chosen by factors, and metrics come as they come.
    const log = low > 0 && high / low >= (one.kind === "input" ? 10 : 50);
    const different = [...new Set(known)].sort((a, b) => a - b);
    const scale = log ? Math.log : (value) => value;
    const [from, to] = [scale(low), scale(high)];
    const place = (value) => (from === to ? 0.5 : (scale(value) - from) / (to - from));
    return {
      one,
      log,
      low,
      high,
      varies: low < high,
      place,
      at: (job) => (values[job] === null ? null : place(values[job])),
      ticks: (count) =>
        (different.length <= 7 && one.kind === "input" ? different : ticks(low, high, log, count)).map((value) => [
          place(value),
          number(value),
        ]),
    };
  }
  const words = [...new Set(one.values.filter((value) => value !== null).map(String))].sort((a, b) =>
    a.localeCompare(b, "en", {numeric: true}),
  );
  if (!words.length || words.length > 30) return null;
  const places = new Map(words.map((word, i) => [word, words.length === 1 ? 0.5 : i / (words.length - 1)]));
  return {
    one,
    words,
    varies: words.length > 1,
    at: (job) => (one.values[job] === null ? null : places.get(String(one.values[job]))),
    ticks: () => words.map((word) => [places.get(word), word.length > 14 ? `${word.slice(0, 13)}…` : word]),
  };
};
const ticks = (low, high, log, count) => {
  if (low === high) return [low];
  if (log) {
    const decades = [];
    for (let power = Math.ceil(Math.log10(low) - 1e-9); power <= Math.log10(high) + 1e-9; power++)
      decades.push(10 ** power);
    const every = Math.ceil(decades.length / count);
    return decades.length > 1 ? decades.filter((_, i) => i % every === 0) : [low, high];
  }
  const rough = (high - low) / Math.max(1, count);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= rough) ?? rough;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && found.length < 50; i++)
    found.push(Number((i * step).toPrecision(12)));
  return found;
};

const tip = $("tip");
const showTip = (event, text) => {
  tip.textContent = text;
  tip.hidden = false;
  const {width, height} = tip.getBoundingClientRect();
  tip.style.transform =
    `translate(${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 6))}px, ` +
    `${event.clientY + height + 22 > innerHeight ? Math.max(4, event.clientY - height - 12) : event.clientY + 16}px)`;
};
const hideTip = () => {
  tip.hidden = true;
};
const tellJob = (job, more = []) =>
  [
    `${data.id[job]}  ${SIGNS[data.state[job]]} ${data.state[job]}`,
    ...[...inputs, ...metrics]
      .filter((one) => one.values[job] !== null)
      .slice(0, 12)
      .map((one) => `${one.name}: ${shown(one.values[job]).slice(0, 80)}`),
    ...more,
  ].join("\n");

// Draws on a canvas as wide as its parent, sharp on any screen; again whenever width or colours change.
const chart = (canvas, size, paint, pick) => {
  const one = {canvas, over: null};
  one.draw = () => {
    const parent = canvas.parentElement;
    const style = getComputedStyle(parent);
    const inner = parent.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (inner <= 0) return;
    const [width, height] = size(inner);
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    context.textBaseline = "middle";
    paint(context, width, height, one);
  };
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointermove", (event) => {
    if (one.dragging) return;
    const found = pick(...where(event));
    const over = found ? found.key : null;
    if (over !== one.over) {
      one.over = over;
      one.draw();
    }
    if (found) showTip(event, found.text);
    else hideTip();
    canvas.style.cursor = found ? (found.click ? "pointer" : "default") : "";
  });
  canvas.addEventListener("pointerleave", () => {
    hideTip();
    if (one.over !== null) {
      one.over = null;
      one.draw();
    }
  });
  canvas.addEventListener("click", (event) => {
    const found = pick(...where(event));
    if (found && found.click) found.click();
  });
  new ResizeObserver(() => one.draw()).observe(canvas.parentElement);
  one.where = where;
  charts.push(one);
  return one;
};
const openJob = (job) => {
  view.open.add(job);
  view.page = Math.max(0, Math.floor(selected.indexOf(job) / PAGE));
  drawTable();
  const row = document.querySelector(`tr[data-job="${job}"]`);
  if (row) {
    row.scrollIntoView({block: "center"});
    row.querySelector(".open").focus({preventScroll: true});
  }
};
const text = (context, words, x, y, align = "left", room = Infinity) => {
  context.textAlign = align;
  let cut = words;
  while (cut.length > 1 && context.measureText(cut).width > room)
    cut = `${cut.slice(0, cut.endsWith("…") ? -2 : -1)}…`;
  context.fillText(cut, x, y);
};
