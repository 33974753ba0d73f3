// Begin.

readInk();
head();
heads();
setUpPlot();
setUpCurves();
setUpFailures();
setUpTimeline();
setUpOrigin();
$("query").addEventListener("input", () => {
  view.query = $("query").value;
  refresh();
});
$("clear").addEventListener("click", () => {
  $("query").value = view.query = "";
  view.states.clear();
  view.brushes.clear();
  view.failure = null;
  refresh();
  $("query").focus();
});
for (const [id, step] of [
  ["before", -1],
  ["after", 1],
]) {
  $(id).addEventListener("click", () => {
    view.page += step;
    drawTable();
    $("jobs").scrollIntoView();
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readInk();
  refresh("same");
});
refresh();
