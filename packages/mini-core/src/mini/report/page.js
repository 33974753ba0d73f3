"use strict";
// The data comes from untrusted places: it reaches the page as text only, never as markup.
(() => {
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

  // --- numbers and times ---

  const number = (value) => {
    if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
    const size = Math.abs(value);
    return size !== 0 && (size >= 1e6 || size < 1e-3)
      ? value.toExponential(3).replace(/\.?0+e/, "e")
      : String(Number(value.toPrecision(5)));
  };
  const shown = (value) =>
    value === null || value === undefined ? "" : typeof value === "number" ? number(value) : String(value);
  const span = (seconds) => {
    if (seconds < 0.1) return `${Math.round(seconds * 1000)} ms`;
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const two = (n) => String(Math.floor(n)).padStart(2, "0");
    const days = Math.floor(seconds / 86400);
    const clock = `${Math.floor((seconds % 86400) / 3600)}:${two((seconds % 3600) / 60)}:${two(seconds % 60)}`;
    return days ? `${days} d ${clock}` : clock;
  };
  const moment = (seconds) => {
    const date = new Date(seconds * 1000);
    if (Number.isNaN(date.getTime())) return "";
    const two = (n) => String(n).padStart(2, "0");
    return (
      `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
      `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
    );
  };
  const bytes = (count) => {
    const unit = [
      [1e9, "GB"],
      [1e6, "MB"],
      [1e3, "kB"],
    ].find(([size]) => count >= size);
    return unit ? `${(count / unit[0]).toFixed(1)} ${unit[1]}` : `${count} B`;
  };

  // --- attempts ---

  const attempts = data.attempts.map(([job, nr, state, worker, created, start, end, failure]) => ({
    job,
    nr,
    state,
    worker,
    created,
    start,
    end,
    failure,
  }));
  const ofJob = range(total).map(() => []);
  for (const attempt of attempts) ofJob[attempt.job].push(attempt);
  const current = (job) => ofJob[job][ofJob[job].length - 1];
  const seconds = (attempt) =>
    attempt.start === null ? null : Math.max(0, (attempt.end ?? data.now) - attempt.start);
  const workerName = (worker) => {
    const {host, pid, id} = data.workers[worker];
    return `${host} · ${id || `pid ${pid}`}`;
  };

  // --- columns ---

  const numeric = (values) => {
    let found = false;
    for (const value of values) {
      if (typeof value === "number") found = true;
      else if (value !== null && !["NaN", "Infinity", "-Infinity"].includes(value)) return false;
    }
    return found;
  };
  const column = (kind, name, values) => ({kind, name, values, numeric: numeric(values)});
  const given = (kind, list) => list.map((one) => column(kind, one.name, one.values));
  const inputs = given("input", data.inputs);
  const metrics = given("metric", data.metrics);
  const indexes = column("fixed", "#", data.index);
  const states = column("fixed", "state", data.state);
  const times = column(
    "fixed",
    "seconds",
    range(total).map((job) => seconds(current(job))),
  );
  const counts = column(
    "fixed",
    "attempts",
    range(total).map((job) => ofJob[job].length),
  );
  const workers = column(
    "fixed",
    "worker",
    range(total).map((job) => (current(job).worker === null ? null : workerName(current(job).worker))),
  );
  const launches = column(
    "fixed",
    "launch",
    data.launch.map((launch) => data.launches[launch].group),
  );
  const columns = [
    indexes,
    states,
    ...(data.launches.length > 1 ? [launches] : []),
    ...inputs,
    ...metrics,
    times,
    ...(counts.values.some((n) => n > 1) ? [counts] : []),
    workers,
  ];
  times.format = (value) => (value === null ? "" : span(value));

  // --- what is selected: all pictures and the table show the same jobs ---

  const view = {
    query: "",
    states: new Set(),
    brushes: new Map(),
    failure: null,
    sort: null,
    down: false,
    page: 0,
    open: new Set(),
  };
  let selected = range(total);
  const OPERATORS = {
    "=": (a, b) => a === b,
    "!=": (a, b) => a !== b,
    "<": (a, b) => a < b,
    "<=": (a, b) => a <= b,
    ">": (a, b) => a > b,
    ">=": (a, b) => a >= b,
  };
  const haystack = range(total).map((job) =>
    `${data.id[job]} ${data.input[job]} ${data.state[job]} ${workers.values[job] ?? ""}`.toLowerCase(),
  );

  const condition = (term) => {
    const match = /^(.+?)(!=|<=|>=|=|<|>)(.*)$/.exec(term);
    if (!match) {
      const word = term.toLowerCase();
      return (job) => haystack[job].includes(word);
    }
    const [, name, operator, text] = match;
    const wanted = name.toLowerCase();
    const found = columns.find((one) => one.name === name) ?? columns.find((one) => one.name.toLowerCase() === wanted);
    if (!found)
      throw new Error(`There is no column “${name}”; there are: ${columns.map((one) => one.name).join(", ")}`);
    const compare = OPERATORS[operator];
    if (found.numeric) {
      const bound = Number(text);
      if (text === "") throw new Error(`${name}${operator} what?`);
      if (Number.isNaN(bound) && text.toLowerCase() !== "nan")
        throw new Error(`${name} is a number, and “${text}” is none`);
      return (job) =>
        found.values[job] !== null &&
        (Number.isNaN(bound)
          ? (found.values[job] === "NaN") === (operator === "=")
          : compare(Number(found.values[job]), bound));
    }
    const low = text.toLowerCase();
    return (job) => found.values[job] !== null && compare(String(found.values[job]).toLowerCase(), low);
  };

  const select = () => {
    let conditions = [];
    const says = $("query-says");
    says.classList.remove("bad");
    let complaint = "";
    try {
      conditions = (view.query.match(/"[^"]*"|\S+/g) ?? []).map((term) => condition(term.replace(/^"(.*)"$/, "$1")));
    } catch (error) {
      complaint = error.message;
    }
    if (view.states.size) conditions.push((job) => view.states.has(data.state[job]));
    if (view.failure !== null) {
      const members = new Set([...data.failures[view.failure].jobs, ...data.failures[view.failure].earlier]);
      conditions.push((job) => members.has(job));
    }
    for (const [axis, [low, high]] of view.brushes) {
      conditions.push((job) => {
        const at = axis.at(job);
        return at !== null && at >= low && at <= high;
      });
    }
    selected = range(total).filter((job) => conditions.every((holds) => holds(job)));
    if (view.sort) {
      const {values, numeric: isNumber} = view.sort;
      const sign = view.down ? -1 : 1;
      const key = (value) => (isNumber ? (value === "NaN" ? null : Number(value)) : String(value));
      selected.sort((a, b) => {
        const [left, right] = [values[a], values[b]].map((value) => (value === null ? null : key(value)));
        // What is not there comes last.
        if (left === null || right === null) return (left === null) - (right === null) || a - b;
        if (isNumber) return sign * (left - right) || a - b;
        return sign * left.localeCompare(right, "en", {numeric: true}) || a - b;
      });
    }
    const filters = conditions.length > 0;
    says.textContent =
      complaint ||
      (filters
        ? `${plural(selected.length, "job")} of ${total.toLocaleString("en")} shown`
        : `${plural(total, "job")}`);
    if (complaint) says.classList.add("bad");
    $("clear").disabled = !filters && !view.query;
  };

  let pending = false;
  const refresh = (part = "all") => {
    if (part === "all") view.page = 0;
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      select();
      drawChips();
      drawTable();
      for (const chart of charts) chart.draw();
    });
  };

  // --- the head ---

  const drawChips = () => {
    for (const chip of $("states").children)
      chip.setAttribute("aria-pressed", String(view.states.has(chip.dataset.state)));
    for (const button of document.querySelectorAll("[data-failure]")) {
      button.textContent = view.failure === Number(button.dataset.failure) ? "Show all jobs" : "Show only these jobs";
    }
  };
  const head = () => {
    for (const state of STATES.filter((one) => data.counts[one])) {
      const share = make("i", {class: `bg-${state}`});
      share.style.flexGrow = data.counts[state];
      $("share").append(share);
      const chip = make(
        "button",
        {type: "button", class: `chip ${state}`, "data-state": state, "aria-pressed": "false"},
        `${SIGNS[state]} ${state}`,
        make("b", {}, data.counts[state].toLocaleString("en")),
      );
      chip.addEventListener("click", () => {
        if (!view.states.delete(state)) view.states.add(state);
        refresh();
      });
      $("states").append(chip);
    }
    const fact = (name, value) =>
      value && $("facts").append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
    const starts = attempts.map((a) => a.start).filter((t) => t !== null);
    const ends = attempts.filter((a) => a.start !== null).map((a) => a.end ?? data.now);
    const worked = attempts.reduce((sum, attempt) => sum + (seconds(attempt) ?? 0), 0);
    const functions = [...new Set(data.launches.map((launch) => launch.function))];
    fact("function", functions.slice(0, 4).join(", ") + (functions.length > 4 ? ", …" : ""));
    if (data.launches.length) fact("launched", moment(Math.min(...data.launches.map((launch) => launch.launched))));
    if (starts.length) fact("elapsed", span(Math.max(0, maximum(ends) - minimum(starts))));
    if (worked) fact("time on workers", span(worked));
    if (data.workers.length) fact("workers", data.workers.length.toLocaleString("en"));
    const again = attempts.length - total;
    if (again > 0) fact("retried", plural(again, "attempt"));
    fact("read", moment(data.now));
    $("subtitle").textContent = `${plural(total, "job")} on ${data.backend}`;
  };
  const minimum = (values) => values.reduce((a, b) => (a < b ? a : b), Infinity);
  const maximum = (values) => values.reduce((a, b) => (a > b ? a : b), -Infinity);

  // --- the table ---

  const heads = () => {
    for (const one of columns) {
      const button = make("button", {type: "button", title: `Sort by ${one.name}`}, one.name);
      button.addEventListener("click", () => {
        // A metric or a time is first wanted from its best or worst end; a third click gives the old order back.
        if (view.sort !== one) [view.sort, view.down] = [one, false];
        else if (!view.down) view.down = true;
        else view.sort = null;
        refresh();
      });
      one.head = make(
        "th",
        {scope: "col", class: `${one.numeric ? "num" : ""} ${one.kind}`, "aria-sort": "none"},
        button,
      );
      $("heads").append(one.head);
    }
  };
  const stateMark = (state) => make("span", {class: `state ${state}`}, `${SIGNS[state]} ${state}`);
  const cell = (one, job) => {
    const value = one.values[job];
    if (one === indexes) {
      const open = view.open.has(job);
      const button = make(
        "button",
        {type: "button", class: "open", "aria-expanded": String(open), "aria-label": `Details of job ${data.id[job]}`},
        `${open ? "▾" : "▸"} ${value}`,
      );
      button.addEventListener("click", () => {
        if (!view.open.delete(job)) view.open.add(job);
        drawTable();
        document.querySelector(`tr[data-job="${job}"] .open`).focus();
      });
      return make("td", {class: "num"}, button);
    }
    if (one === states) {
      const progress = data.state[job] === "RUNNING" ? data.progress[job] : null;
      return make(
        "td",
        {},
        stateMark(value),
        progress
          ? make(
              "span",
              {class: "count"},
              ` ${shown(progress[0])}${progress[1] === null ? "" : `/${shown(progress[1])}`} ${progress[2]}`,
            )
          : null,
      );
    }
    const text = one.format ? one.format(value) : shown(value);
    return make("td", {class: one.numeric ? "num" : "text", title: text.length > 24 ? text : null}, text);
  };
  const pair = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  const about = (job) => {
    const inner = make("td", {colspan: columns.length});
    const facts = make(
      "dl",
      {class: "grid"},
      pair("id", data.id[job]),
      pair("function", data.launches[data.launch[job]].function),
      pair("input", data.input[job] || "none"),
    );
    if (data.size[job] !== null) facts.append(pair("outcome", bytes(data.size[job])));
    const progress = data.progress[job];
    if (progress)
      facts.append(
        pair(
          "progress",
          `${shown(progress[0])}${progress[1] === null ? "" : ` of ${shown(progress[1])}`} ${progress[2]}`,
        ),
      );
    inner.append(facts);
    for (const attempt of ofJob[job]) {
      const parts = [`attempt ${attempt.nr}: `, stateMark(attempt.state)];
      if (attempt.start !== null)
        parts.push(
          ` · began ${moment(attempt.start)}, ${span(attempt.start - attempt.created)} after it was asked for`,
          ` · ${span(seconds(attempt))}`,
        );
      if (attempt.worker !== null) parts.push(` · ${workerName(attempt.worker)}`);
      inner.append(make("div", {}, ...parts));
      if (attempt.failure !== null) {
        const failure = data.failures[attempt.failure];
        inner.append(make("pre", {tabindex: "0"}, failure.traceback || `${failure.type}: ${failure.message}`));
      }
    }
    return make("tr", {class: "about"}, inner);
  };
  const drawTable = () => {
    for (const one of columns)
      one.head.setAttribute("aria-sort", view.sort === one ? (view.down ? "descending" : "ascending") : "none");
    const pages = Math.max(1, Math.ceil(selected.length / PAGE));
    view.page = Math.min(view.page, pages - 1);
    const from = view.page * PAGE;
    const rows = [];
    for (const job of selected.slice(from, from + PAGE)) {
      rows.push(make("tr", {"data-job": job}, ...columns.map((one) => cell(one, job))));
      if (view.open.has(job)) rows.push(about(job));
    }
    if (!rows.length)
      rows.push(
        make(
          "tr",
          {},
          make("td", {colspan: columns.length}, total ? "No job is like that." : "There are no jobs yet."),
        ),
      );
    $("rows").replaceChildren(...rows);
    $("page-says").textContent = selected.length
      ? `${from + 1}–${Math.min(from + PAGE, selected.length)} of ${selected.length.toLocaleString("en")}`
      : "";
    $("before").disabled = view.page === 0;
    $("after").disabled = view.page >= pages - 1;
    document.querySelector(".pages").hidden = selected.length <= PAGE;
  };

  // --- pictures ---

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

  // --- inputs against metrics ---

  const axes = [...inputs, ...metrics].map(axisOf).filter((axis) => axis && axis.varies);
  const colours = [axisOf(states), ...axes, axisOf(times)].filter(
    (axis) => axis && (axis.one === states || axis.varies),
  );
  let colour = axes.find((axis) => axis.one.kind === "metric" && axis.one.numeric) ?? colours[0];
  const paintOf = (job) => {
    if (!colour || colour.one === states) return ink[data.state[job]];
    const at = colour.at(job);
    if (at === null) return ink.line;
    return colour.one.numeric ? ramp(at) : WORDS[colour.words.indexOf(String(colour.one.values[job])) % WORDS.length];
  };
  const choose = (element, list, chosen, changed) => {
    element.replaceChildren(...list.map((axis, i) => make("option", {value: i}, axis.one.name)));
    element.value = String(Math.max(0, list.indexOf(chosen)));
    element.addEventListener("change", () => changed(list[Number(element.value)]));
  };
  const legend = () => {
    const parts = [];
    if (colour && colour.one === states)
      for (const state of STATES.filter((s) => data.counts[s]))
        parts.push(make("span", {}, make("i", {class: `bg-${state}`}), state));
    else if (colour && colour.one.numeric)
      parts.push(
        make(
          "span",
          {},
          number(colour.low),
          make("i", {class: "ramp"}),
          number(colour.high),
          colour.log ? " (log)" : "",
        ),
      );
    else if (colour)
      for (const [i, word] of colour.words.slice(0, 10).entries()) {
        const mark = make("i");
        mark.style.background = WORDS[i % WORDS.length];
        parts.push(make("span", {}, mark, word.slice(0, 24)));
      }
    $("legend").replaceChildren(...parts);
  };
  // Of many jobs each is faint, so that what many share stands out.
  const strength = () => Math.max(0.06, Math.min(0.75, 40 / Math.sqrt(selected.length || 1) / 10));

  const setUpPlot = () => {
    if (axes.length < 2) return;
    $("metrics").hidden = false;
    const all = axes.slice(0, 12);
    const metricAxes = axes.filter((axis) => axis.one.kind === "metric");
    let kind = "parallel";
    let x = axes.find((axis) => axis.one.kind === "input") ?? axes[0];
    let y = metricAxes[0] ?? axes.find((axis) => axis !== x);
    const top = 34,
      bottom = 22,
      side = 34;
    let paths = [];

    const parallel = (context, width, height, one) => {
      const gap = (width - 2 * side - 40) / (all.length - 1);
      const left = (i) => side + 10 + i * gap;
      const down = (at) => top + (1 - at) * (height - top - bottom);
      paths = {left, down, gap, height};
      context.lineWidth = 1.2;
      context.globalAlpha = strength();
      const line = (job) => {
        context.strokeStyle = paintOf(job);
        context.beginPath();
        let pen = false;
        for (const [i, axis] of all.entries()) {
          const at = axis.at(job);
          if (at === null) pen = false;
          else {
            if (pen) context.lineTo(left(i), down(at));
            else context.moveTo(left(i), down(at));
            pen = true;
          }
        }
        context.stroke();
      };
      for (const job of selected) line(job);
      context.globalAlpha = 1;
      if (one.over !== null) {
        context.lineWidth = 3;
        line(one.over);
      }
      for (const [i, axis] of all.entries()) {
        context.strokeStyle = ink.soft;
        context.lineWidth = 1;
        context.beginPath();
        context.moveTo(left(i), down(0));
        context.lineTo(left(i), down(1));
        context.stroke();
        context.fillStyle = axis.one.kind === "metric" ? ink.accent : ink.ink;
        text(
          context,
          `${axis.one.kind === "metric" ? "◆ " : ""}${axis.one.name}`,
          left(i),
          12,
          i === 0 ? "left" : i === all.length - 1 ? "right" : "center",
          gap - 8,
        );
        const marks = axis.ticks(5);
        const every = Math.ceil(marks.length / Math.max(2, Math.floor((height - top - bottom) / 18)));
        for (const [nr, [at, label]] of marks.entries()) {
          if (nr % every) continue;
          // A halo keeps labels readable over the lines.
          context.strokeStyle = ink.card;
          context.lineWidth = 3;
          context.textAlign = i === all.length - 1 ? "right" : "left";
          const spot = left(i) + (i === all.length - 1 ? -5 : 5);
          context.strokeText(label, spot, down(at));
          context.fillStyle = ink.soft;
          context.fillText(label, spot, down(at));
        }
        const brush = view.brushes.get(axis);
        if (brush) {
          context.fillStyle = ink.accent;
          context.globalAlpha = 0.35;
          context.fillRect(left(i) - 6, down(brush[1]), 12, Math.max(2, down(brush[0]) - down(brush[1])));
          context.globalAlpha = 1;
        }
      }
    };
    const pickParallel = (px, py) => {
      const {left, down, gap} = paths;
      const i = Math.max(0, Math.min(all.length - 2, Math.floor((px - left(0)) / gap)));
      const part = Math.min(1, Math.max(0, (px - left(i)) / gap));
      let best = null,
        near = 9;
      for (const job of selected) {
        const a = all[i].at(job),
          b = all[i + 1].at(job);
        if (a === null || b === null) continue;
        const far = Math.abs(down(a + (b - a) * part) - py);
        if (far < near) [best, near] = [job, far];
      }
      return best === null ? null : {key: best, text: tellJob(best)};
    };

    let frame = {};
    const scatter = (context, width, height, one) => {
      const marks = y.ticks(5);
      const room = Math.max(...marks.map(([, label]) => context.measureText(label).width)) + 14;
      const across = (at) => room + 8 + at * (width - room - 30);
      const down = (at) => 26 + (1 - at) * (height - 26 - 52);
      frame = {across, down};
      context.strokeStyle = ink.line;
      context.fillStyle = ink.soft;
      context.lineWidth = 1;
      for (const [at, label] of marks) {
        context.beginPath();
        context.moveTo(room, down(at));
        context.lineTo(width - 12, down(at));
        context.stroke();
        text(context, label, room - 6, down(at), "right");
      }
      let last = -Infinity;
      for (const [at, label] of x.ticks(Math.max(2, Math.floor(width / 110)))) {
        const half = context.measureText(label).width / 2;
        if (across(at) - half < last + 8) continue;
        last = across(at) + half;
        text(context, label, across(at), height - 36, "center");
      }
      context.fillStyle = ink.ink;
      text(context, `${y.one.name}${y.log ? " (log)" : ""}`, 4, 10);
      text(context, `${x.one.name}${x.log ? " (log)" : ""}`, (room + width) / 2, height - 12, "center");
      const size = selected.length > 2000 ? 2.5 : 4.5;
      const dot = (job, radius) => {
        const [at, up] = [x.at(job), y.at(job)];
        if (at === null || up === null) return;
        context.fillStyle = paintOf(job);
        context.beginPath();
        context.arc(across(at), down(up), radius, 0, 7);
        context.fill();
      };
      context.globalAlpha = Math.max(0.35, strength());
      for (const job of selected) dot(job, size);
      context.globalAlpha = 1;
      if (one.over !== null) {
        dot(one.over, size + 3);
        context.strokeStyle = ink.ink;
        context.stroke();
      }
    };
    const pickScatter = (px, py) => {
      let best = null,
        near = 14;
      for (const job of selected) {
        const [at, up] = [x.at(job), y.at(job)];
        if (at === null || up === null) continue;
        const far = Math.hypot(frame.across(at) - px, frame.down(up) - py);
        if (far < near) [best, near] = [job, far];
      }
      return best === null ? null : {key: best, text: `${tellJob(best)}`, click: () => openJob(best)};
    };

    const canvas = $("plot");
    const plot = chart(
      canvas,
      (width) =>
        kind === "parallel"
          ? [Math.max(width, all.length * 92), 320]
          : [width, Math.min(420, Math.max(260, width * 0.55))],
      (...rest) => (kind === "parallel" ? parallel : scatter)(...rest),
      (...rest) => (kind === "parallel" ? pickParallel : pickScatter)(...rest),
    );
    // Dragging along an axis keeps the jobs in that range; a click on it lets them go.
    canvas.addEventListener("pointerdown", (event) => {
      if (kind !== "parallel") return;
      const [px, py] = plot.where(event);
      const i = all.findIndex((_, nr) => Math.abs(paths.left(nr) - px) < 12);
      if (i < 0) return;
      event.preventDefault();
      hideTip();
      const axis = all[i];
      const value = (y) => Math.min(1, Math.max(0, 1 - (y - top) / (paths.height - top - bottom)));
      const first = value(py);
      plot.dragging = true;
      canvas.setPointerCapture(event.pointerId);
      const move = (later) => {
        const now = value(plot.where(later)[1]);
        view.brushes.set(axis, [Math.min(first, now), Math.max(first, now)]);
        refresh();
      };
      const up = (later) => {
        plot.dragging = false;
        canvas.removeEventListener("pointermove", move);
        if (Math.abs(value(plot.where(later)[1]) - first) < 0.02) view.brushes.delete(axis);
        refresh();
      };
      canvas.addEventListener("pointermove", move);
      canvas.addEventListener("pointerup", up, {once: true});
      canvas.addEventListener("pointercancel", up, {once: true});
    });
    const say = () => {
      const names = (list) => list.map((axis) => axis.one.name).join(", ");
      canvas.setAttribute(
        "aria-label",
        kind === "parallel"
          ? `Parallel coordinates of ${names(all)}, a line for each job. The table below has the same numbers.`
          : `${y.one.name} against ${x.one.name}, a dot for each job. The table below has the same numbers.`,
      );
      $("plot-hint").textContent =
        kind === "parallel"
          ? "Drag along an axis to keep the jobs in that range; click it to let them go." +
            (axes.length > all.length ? ` The first ${all.length} of ${axes.length} are shown.` : "")
          : "Click a dot to see its job.";
    };
    const turn = (to) => {
      kind = to;
      plot.over = null;
      $("show-parallel").setAttribute("aria-pressed", String(to === "parallel"));
      $("show-scatter").setAttribute("aria-pressed", String(to === "scatter"));
      document.querySelector(".for-scatter").hidden = to !== "scatter";
      say();
      plot.draw();
    };
    $("show-parallel").addEventListener("click", () => turn("parallel"));
    $("show-scatter").addEventListener("click", () => turn("scatter"));
    choose($("colour"), colours, colour, (axis) => {
      colour = axis;
      legend();
      refresh("same");
    });
    choose($("x"), axes, x, (axis) => {
      x = axis;
      turn("scatter");
    });
    choose($("y"), axes, y, (axis) => {
      y = axis;
      turn("scatter");
    });
    legend();
    turn(all.length > 2 ? "parallel" : "scatter");
  };

  // --- curves ---

  const setUpCurves = () => {
    if (!data.series.length) return;
    $("curves").hidden = false;
    let series = data.series[0];
    $("series").replaceChildren(...data.series.map((one, i) => make("option", {value: i}, one.name)));
    let frame = null;
    const plot = chart(
      $("curve-plot"),
      (width) => [width, Math.min(380, Math.max(240, width * 0.45))],
      (context, width, height, one) => {
        const jobs = selected.filter((job) => series.values[job]);
        const points = jobs.flatMap((job) => series.values[job]).filter((value) => typeof value === "number");
        const longest = maximum(jobs.map((job) => series.values[job].length));
        frame = null;
        if (!points.length) return;
        const low = minimum(points),
          high = maximum(points);
        const log = low > 0 && high / low >= 50;
        const scale = log ? Math.log : (value) => value;
        const marks = ticks(low, high, log, 5);
        const room = Math.max(...marks.map((value) => context.measureText(number(value)).width)) + 14;
        const across = (step) => room + 4 + (step / Math.max(1, longest - 1)) * (width - room - 24);
        const down = (value) =>
          14 + (1 - (scale(value) - scale(low)) / (scale(high) - scale(low) || 1)) * (height - 50);
        frame = {jobs, across, down, longest};
        context.strokeStyle = ink.line;
        context.fillStyle = ink.soft;
        context.lineWidth = 1;
        for (const value of marks) {
          context.beginPath();
          context.moveTo(room, down(value));
          context.lineTo(width - 12, down(value));
          context.stroke();
          text(context, number(value), room - 6, down(value), "right");
        }
        for (const step of ticks(1, longest, false, Math.max(2, Math.floor(width / 110))).filter(Number.isInteger))
          text(context, String(step), across(step - 1), height - 20, "center");
        const line = (job) => {
          context.strokeStyle = paintOf(job);
          context.beginPath();
          let pen = false;
          series.values[job].forEach((value, step) => {
            if (typeof value !== "number") pen = false;
            else {
              if (pen) context.lineTo(across(step), down(value));
              else context.moveTo(across(step), down(value));
              pen = true;
            }
          });
          context.stroke();
        };
        context.lineWidth = 1.4;
        context.globalAlpha = Math.max(0.15, strength());
        for (const job of jobs) line(job);
        context.globalAlpha = 1;
        context.lineWidth = 3;
        if (one.over !== null) line(one.over);
      },
      (px, py) => {
        if (!frame) return null;
        let best = null,
          near = 10;
        for (const job of frame.jobs) {
          const values = series.values[job];
          const step = Math.round((px - frame.across(0)) / (frame.across(1) - frame.across(0) || 1));
          if (step < 0 || step >= values.length || typeof values[step] !== "number") continue;
          const far = Math.abs(frame.down(values[step]) - py);
          if (far < near) [best, near] = [job, far];
        }
        return best === null ? null : {key: best, text: tellJob(best), click: () => openJob(best)};
      },
    );
    const say = () => $("curve-plot").setAttribute("aria-label", `Curves of ${series.name}, one for each job`);
    $("series").addEventListener("change", () => {
      series = data.series[Number($("series").value)];
      say();
      plot.draw();
    });
    say();
  };

  // --- failures ---

  const setUpFailures = () => {
    if (!data.failures.length) return;
    $("failures").hidden = false;
    const order = range(data.failures.length).sort(
      (a, b) => data.failures[b].jobs.length - data.failures[a].jobs.length || a - b,
    );
    for (const nr of order) {
      const failure = data.failures[nr];
      const words = [];
      if (failure.jobs.length) words.push(plural(failure.jobs.length, "job"));
      if (failure.earlier.length) words.push(`${plural(failure.earlier.length, "earlier attempt")}`);
      const kind = failure.kind === "user" ? "" : ` (${failure.kind})`;
      const one = make(
        "details",
        {open: order.length === 1 || nr === order[0]},
        make(
          "summary",
          {},
          make("b", {class: failure.jobs.length ? "FAILED" : "PENDING"}, failure.type),
          `${kind}: ${failure.message.split("\n")[0].slice(0, 200)} `,
          make("span", {class: "count"}, `— ${words.join(", ")}`),
        ),
      );
      one.append(
        make(
          "button",
          {
            type: "button",
            class: "more",
            "data-failure": nr,
            onclick: () => {
              view.failure = view.failure === nr ? null : nr;
              refresh();
            },
          },
          "Show only these jobs",
        ),
      );
      if (failure.traceback || failure.message)
        one.append(make("pre", {tabindex: "0"}, failure.traceback || failure.message));
      $("failure-groups").append(one);
    }
  };

  // --- workers over time ---

  const setUpTimeline = () => {
    const bars = attempts.filter((attempt) => attempt.start !== null);
    if (!bars.length) return;
    $("timeline").hidden = false;
    const from = minimum(bars.map((bar) => bar.start));
    const to = Math.max(maximum(bars.map((bar) => bar.end ?? data.now)), from + 1e-3);
    // A lane for each worker; where there are many that came and went, for as many as there were at a time.
    const few = data.workers.length <= 32;
    const lanes = [];
    const free = new Map();
    for (const bar of [...bars].sort((a, b) => a.start - b.start)) {
      const worker = data.workers[bar.worker];
      const key = few ? bar.worker : worker.host;
      const own = free.get(key) ?? [];
      free.set(key, own);
      let lane = own.find((one) => one.until <= bar.start + 1e-6);
      if (!lane) {
        lane = {
          label: few
            ? workerName(bar.worker) + (own.length ? ` (${own.length + 1})` : "")
            : `${worker.host} ${own.length + 1}`,
          until: 0,
          bars: [],
          order: `${worker.host} ${few ? String(worker.pid).padStart(9) : String(own.length).padStart(6)}`,
        };
        own.push(lane);
        lanes.push(lane);
      }
      lane.until = bar.end ?? data.now;
      lane.bars.push(bar);
    }
    lanes.sort((a, b) => a.order.localeCompare(b.order, "en", {numeric: true}));
    const ROW = lanes.length > 60 ? 10 : 20;
    let frame = {};
    chart(
      $("time-plot"),
      (width) => [width, lanes.length * ROW + 34],
      (context, width, height, one) => {
        context.font = context.font.replace("12px", "11px");
        const room = Math.min(
          width * 0.3,
          Math.max(...lanes.map((lane) => context.measureText(lane.label).width)) + 10,
        );
        const across = (time) => room + ((time - from) / (to - from)) * (width - room - 14);
        frame = {across, room};
        context.lineWidth = 1;
        const shownJobs = selected.length === total ? null : new Set(selected);
        const unit = to - from < 120 ? 1 : to - from < 7200 ? 60 : 3600;
        context.strokeStyle = ink.line;
        context.fillStyle = ink.soft;
        for (const mark of ticks(0, (to - from) / unit, false, Math.max(2, Math.floor(width / 130)))) {
          const x = across(from + mark * unit);
          context.beginPath();
          context.moveTo(x, 0);
          context.lineTo(x, height - 24);
          context.stroke();
          text(
            context,
            `${number(mark)} ${{1: "s", 60: "min", 3600: "h"}[unit]}`,
            Math.min(x, width - 16),
            height - 12,
            "center",
          );
        }
        for (const [row, lane] of lanes.entries()) {
          context.fillStyle = ink.soft;
          if (ROW > 12) text(context, lane.label, room - 8, row * ROW + ROW / 2, "right", room - 10);
          for (const bar of lane.bars) {
            const x = across(bar.start);
            const wide = Math.max(1, across(bar.end ?? data.now) - x - 0.5);
            context.globalAlpha = shownJobs && !shownJobs.has(bar.job) ? 0.15 : 1;
            context.fillStyle = ink[bar.state];
            context.fillRect(x, row * ROW + 2, wide, ROW - 4);
            if (one.over === bar) {
              context.strokeStyle = ink.ink;
              context.lineWidth = 2;
              context.strokeRect(x - 1, row * ROW + 1, wide + 2, ROW - 2);
              context.lineWidth = 1;
            }
          }
          context.globalAlpha = 1;
        }
      },
      (px, py) => {
        const lane = lanes[Math.floor(py / ROW)];
        if (!lane || px < frame.room) return null;
        const bar = lane.bars.find(
          (one) => px >= frame.across(one.start) - 2 && px <= frame.across(one.end ?? data.now) + 2,
        );
        return bar
          ? {
              key: bar,
              text: tellJob(bar.job, [
                `attempt ${bar.nr}: ${bar.state}, ${span(seconds(bar))}`,
                workerName(bar.worker),
              ]),
              click: () => openJob(bar.job),
            }
          : null;
      },
    );
    $("time-plot").setAttribute(
      "aria-label",
      `When each worker ran which job: ${plural(bars.length, "attempt")} over ${span(to - from)}`,
    );
    const busy = bars.reduce((sum, bar) => sum + seconds(bar), 0) / ((to - from) * lanes.length);
    $("time-hint").textContent =
      `${plural(data.workers.length, "worker")}, at most ${plural(lanes.length, "job")} at a time, ` +
      `busy ${Math.round(Math.min(1, busy) * 100)} % of ${span(to - from)}. Click a bar to see its job.`;
  };

  // --- where it comes from ---

  const setUpOrigin = () => {
    const first = data.launches[0];
    if (!first) $("launches").append(make("p", {class: "hint"}, "Nothing was launched yet."));
    data.launches.forEach((launch, nr) => {
      const differs = (key) => nr > 0 && JSON.stringify(launch[key]) !== JSON.stringify(first[key]);
      const put = (name, key, value) =>
        pair(name, make("span", {class: differs(key) ? "differs" : ""}, value ?? "unknown"));
      const commit =
        launch.git_commit === null
          ? null
          : launch.git_commit.slice(0, 12) + (launch.git_dirty ? ", with changes" : "");
      const options = Object.entries(launch.options ?? {})
        .map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)
        .join(", ");
      const facts = make(
        "dl",
        {class: "grid"},
        pair("launched", moment(launch.launched)),
        put("by", "launched_by", launch.launched_by),
        put("function", "function", launch.function),
        put("git commit", "git_commit", commit),
        put("source", "source_digest", launch.source_digest?.slice(0, 16)),
        put("uv.lock", "lock_digest", launch.lock_digest?.slice(0, 16)),
        put("Python", "python", launch.python),
        put("options", "options", options || "none"),
      );
      const names = Object.keys(launch.packages).sort();
      const changed = nr > 0 ? names.filter((name) => first.packages[name] !== launch.packages[name]) : [];
      const list = make(
        "ul",
        {class: "versions"},
        ...names.map((name) =>
          make("li", {class: changed.includes(name) ? "differs" : ""}, `${name} ${launch.packages[name]}`),
        ),
      );
      const packages = names.length
        ? make(
            "details",
            {},
            make(
              "summary",
              {},
              plural(names.length, "package"),
              changed.length ? ` (${changed.length} unlike the first launch)` : "",
            ),
            list,
          )
        : null;
      $("launches").append(
        data.launches.length === 1
          ? make("div", {}, facts, packages)
          : make(
              "details",
              {open: nr === 0},
              make(
                "summary",
                {},
                make("b", {}, launch.group),
                ` · ${launch.function} · ${plural(launch.jobs, "job")} `,
                make("span", {class: "count"}, moment(launch.launched)),
              ),
              facts,
              packages,
            ),
      );
    });
  };

  // --- begin ---

  readInk();
  head();
  heads();
  setUpPlot();
  setUpCurves();
  setUpFailures();
  setUpTimeline();
  setUpOrigin();
  $("query").addEventListener("input", () => {
    view.query = $("query").value;
    refresh();
  });
  $("clear").addEventListener("click", () => {
    $("query").value = view.query = "";
    view.states.clear();
    view.brushes.clear();
    view.failure = null;
    refresh();
    $("query").focus();
  });
  for (const [id, step] of [
    ["before", -1],
    ["after", 1],
  ]) {
    $(id).addEventListener("click", () => {
      view.page += step;
      drawTable();
      $("jobs").scrollIntoView();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readInk();
    refresh("same");
  });
  refresh();
})();
