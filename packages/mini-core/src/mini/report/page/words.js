// Numbers and times as people read them.

const number = (value) => {
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e6 || size < 1e-3)
    ? value.toExponential(3).replace(/\.?0+e/, "e")
    : String(Number(value.toPrecision(5)));
};
const shown = (value) =>
  value === null || value === undefined ? "" : typeof value === "number" ? number(value) : String(value);
const span = (seconds) => {
  if (seconds < 0.1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const two = (n) => String(Math.floor(n)).padStart(2, "0");
  const days = Math.floor(seconds / 86400);
  const clock = `${Math.floor((seconds % 86400) / 3600)}:${two((seconds % 3600) / 60)}:${two(seconds % 60)}`;
  return days ? `${days} d ${clock}` : clock;
};
const moment = (seconds) => {
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) return "";
  const two = (n) => String(n).padStart(2, "0");
  return (
    `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
  );
};
const bytes = (count) => {
  const unit = [
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
  ].find(([size]) => count >= size);
  return unit ? `${(count / unit[0]).toFixed(1)} ${unit[1]}` : `${count} B`;
};
