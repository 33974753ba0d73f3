// Metrics over the steps at which they were emitted, and those that are lists of numbers.

const setUpCurves = () => {
  if (!data.series.length) return;
  $("curves").hidden = false;
  let series = data.series[0];
  const flat = (jobs, lists) => jobs.flatMap((job) => lists[job]).filter((value) => typeof value === "number");
  $("series").replaceChildren(...data.series.map((one, i) => make("option", {value: i}, one.name)));
  let frame = null;
  const plot = chart(
    $("curve-plot"),
    (width) => [width, Math.min(380, Math.max(240, width * 0.45))],
    (context, width, height, one) => {
      const jobs = selected.filter((job) => series.values[job]);
      const points = flat(jobs, series.values);
      const steps = flat(jobs, series.steps);
      frame = null;
      if (!points.length || !steps.length) return;
      const first = minimum(steps),
        final = maximum(steps);
      const low = minimum(points),
        high = maximum(points);
      const log = low > 0 && high / low >= 50;
      const scale = log ? Math.log : (value) => value;
      const marks = ticks(low, high, log, 5);
      const room = Math.max(...marks.map((value) => context.measureText(number(value)).width)) + 14;
      const across = (step) => room + 4 + ((step - first) / (final - first || 1)) * (width - room - 24);
      const down = (value) => 14 + (1 - (scale(value) - scale(low)) / (scale(high) - scale(low) || 1)) * (height - 50);
      frame = {jobs, across, down};
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
      const whole = steps.every(Number.isInteger);
      for (const step of ticks(first, final, false, Math.max(2, Math.floor(width / 110))))
        if (!whole || Number.isInteger(step)) text(context, number(step), across(step), height - 20, "center");
      const line = (job) => {
        context.strokeStyle = paintOf(job);
        context.beginPath();
        let pen = false;
        series.values[job].forEach((value, i) => {
          const step = series.steps[job][i];
          if (typeof value !== "number" || typeof step !== "number") pen = false;
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
        series.values[job].forEach((value, i) => {
          if (i === 0) return;
          const [x0, x1] = [i - 1, i].map((at) => frame.across(series.steps[job][at]));
          const [y0, y1] = [series.values[job][i - 1], value].map((end) => frame.down(end));
          if (!(x0 <= px && px <= x1)) return;
          const far = Math.abs(y0 + ((px - x0) / (x1 - x0 || 1)) * (y1 - y0) - py);
          if (far < near) [best, near] = [job, far];
        });
      }
      return best === null ? null : {key: best, text: tellJob(best), click: () => openJob(best)};
    },
  );
  const say = () => $("curve-plot").setAttribute("aria-label", `Curves of ${series.name} by step, one for each job`);
  $("series").addEventListener("change", () => {
    series = data.series[Number($("series").value)];
    say();
    plot.draw();
  });
  say();
};
