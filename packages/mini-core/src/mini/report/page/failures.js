// Failures, those of one place together.

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
