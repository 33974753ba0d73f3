// What the jobs were launched from.

const setUpOrigin = () => {
  const first = data.launches[0];
  if (!first) $("launches").append(make("p", {class: "hint"}, "Nothing was launched yet."));
  data.launches.forEach((launch, nr) => {
    const differs = (key) => nr > 0 && JSON.stringify(launch[key]) !== JSON.stringify(first[key]);
    const put = (name, key, value) =>
      pair(name, make("span", {class: differs(key) ? "differs" : ""}, value ?? "unknown"));
    const commit =
      launch.git_commit === null ? null : launch.git_commit.slice(0, 12) + (launch.git_dirty ? ", with changes" : "");
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
