// What is said of all jobs together.

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
