// A row for each job, a page of them at a time.

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
      make("tr", {}, make("td", {colspan: columns.length}, total ? "No job is like that." : "There are no jobs yet.")),
    );
  $("rows").replaceChildren(...rows);
  $("page-says").textContent = selected.length
    ? `${from + 1}–${Math.min(from + PAGE, selected.length)} of ${selected.length.toLocaleString("en")}`
    : "";
  $("before").disabled = view.page === 0;
  $("after").disabled = view.page >= pages - 1;
  document.querySelector(".pages").hidden = selected.length <= PAGE;
};
