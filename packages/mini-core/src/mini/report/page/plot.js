// Inputs against metrics: parallel coordinates, or a scatter plot.

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
