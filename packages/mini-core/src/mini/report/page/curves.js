// Metrics that are lists of numbers.

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
      const down = (value) => 14 + (1 - (scale(value) - scale(low)) / (scale(high) - scale(low) || 1)) * (height - 50);
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
