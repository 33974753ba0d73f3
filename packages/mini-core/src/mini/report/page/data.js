// The jobs, their attempts, and the columns of what is known of each.

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
const seconds = (attempt) => (attempt.start === null ? null : Math.max(0, (attempt.end ?? data.now) - attempt.start));
const workerName = (worker) => {
  const {host, pid, id} = data.workers[worker];
  return `${host} · ${id || `pid ${pid}`}`;
};

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
