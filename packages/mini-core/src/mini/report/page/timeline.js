// When each worker ran which job.

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
      const room = Math.min(width * 0.3, Math.max(...lanes.map((lane) => context.measureText(lane.label).width)) + 10);
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
            text: tellJob(bar.job, [`attempt ${bar.nr}: ${bar.state}, ${span(seconds(bar))}`, workerName(bar.worker)]),
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
