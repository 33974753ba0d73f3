// Which jobs are selected, and in which order. All pictures and the table show the same ones.

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
  if (!found) throw new Error(`There is no column “${name}”; there are: ${columns.map((one) => one.name).join(", ")}`);
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
    (filters ? `${plural(selected.length, "job")} of ${total.toLocaleString("en")} shown` : `${plural(total, "job")}`);
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
