// Small charts beside the map, drawn as SVG that a style sheet colours.

const SVG_WIDTH = 348;

function formatT(value) { return Number.isNaN(value) ? "–" : value.toFixed(2).replace("-", "−"); }
function formatNumber(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return Number(value.toPrecision(3)).toString().replace("-", "−");
}
// From log10 q, which is in the page because q itself may be too small for a number.
function formatQ(logarithm) {
  if (Number.isNaN(logarithm)) return "–";
  if (logarithm === -Infinity) return "< 1e−307";
  if (logarithm >= -3) return (10 ** logarithm).toFixed(3);
  let exponent = Math.floor(logarithm), digits = (10 ** (logarithm - exponent)).toFixed(1);
  if (digits === "10.0") { digits = "1.0"; exponent += 1; }
  return `${digits}e−${-exponent}`;
}

function chart(parent, height, label) {
  return d3.select(parent).append("svg").attr("viewBox", `0 0 ${SVG_WIDTH} ${height}`).attr("role", "img").attr("aria-label", label);
}

// Means with whiskers, one bar per row: {name, mean, low, high, colour, control, controlLow, controlHigh}.
function bars(parent, rows, unit, label) {
  const left = Math.min(130, 14 + 6.2 * d3.max(rows, (row) => row.name.length)), right = 12, line = 19;
  const svg = chart(parent, rows.length * line + 30, label);
  const ends = rows.flatMap((row) => [0, row.mean, row.low, row.high, row.controlLow, row.controlHigh]).filter(Number.isFinite);
  const x = d3.scaleLinear(d3.extent(ends), [left, SVG_WIDTH - right - 44]).nice(4);
  const g = svg.selectAll("g").data(rows).join("g").attr("transform", (_, i) => `translate(0,${i * line})`);
  g.append("text").attr("x", left - 6).attr("y", 12).attr("text-anchor", "end").text((row) => cut(row.name, 20));
  g.filter((row) => Number.isFinite(row.controlLow)).append("rect").attr("class", "control")
    .attr("x", (row) => x(row.controlLow)).attr("width", (row) => Math.max(1, x(row.controlHigh) - x(row.controlLow))).attr("y", 1).attr("height", 15);
  g.append("rect").attr("x", (row) => Math.min(x(0), x(row.mean))).attr("width", (row) => Math.abs(x(row.mean) - x(0)))
    .attr("y", 4).attr("height", 9).attr("fill", (row) => row.colour || "var(--muted)");
  g.filter((row) => Number.isFinite(row.low)).append("line").attr("class", "whisker")
    .attr("x1", (row) => x(row.low)).attr("x2", (row) => x(row.high)).attr("y1", 8.5).attr("y2", 8.5);
  g.append("text").attr("class", "value").attr("x", SVG_WIDTH - 2).attr("y", 12).attr("text-anchor", "end").text((row) => formatNumber(row.mean));
  svg.append("g").attr("class", "axis").attr("transform", `translate(0,${rows.length * line + 2})`).call(d3.axisBottom(x).ticks(4).tickSize(3));
  svg.append("text").attr("class", "value").attr("x", 0).attr("y", rows.length * line + 16).text(unit);
}

function cut(text, length) { return text.length > length ? `${text.slice(0, length - 1)}…` : text; }

// Share of the units of every block that each network takes.
function layerProfile(parent, tower, networks) {
  const height = 96, left = 30, svg = chart(parent, height + 30, `Share of selected units in each block: ${tower.label}`);
  const highest = d3.max(networks, (one) => d3.max(one.share)) || 1;
  const x = d3.scaleLinear([-0.5, tower.layers - 0.5], [left, SVG_WIDTH - 6]), y = d3.scaleLinear([0, highest], [height - 4, 16]).nice(3);
  svg.append("text").attr("class", "value").attr("x", 0).attr("y", 9).text(`% of each block, ${tower.label}`);
  svg.append("g").attr("class", "axis").attr("transform", `translate(0,${height})`).call(d3.axisBottom(x).ticks(Math.min(tower.layers, 8), "d").tickSize(3));
  svg.append("g").attr("class", "axis").attr("transform", `translate(${left},0)`).call(d3.axisLeft(y).ticks(3).tickSize(3));
  for (const one of networks) {
    svg.append("path").attr("fill", "none").attr("stroke", one.colour).attr("stroke-width", 1.8)
      .attr("d", d3.line().x((_, block) => x(block)).y((share) => y(share))(one.share));
    svg.selectAll(null).data(one.share).join("circle").attr("r", 2).attr("fill", one.colour).attr("cx", (_, block) => x(block)).attr("cy", (share) => y(share));
  }
  svg.append("text").attr("class", "value").attr("x", SVG_WIDTH - 6).attr("y", height + 28).attr("text-anchor", "end").text("block, input to output");
}

// How t is distributed, and where the threshold cuts: one line per network.
function histogram(parent, lines) {
  const height = 74, svg = chart(parent, height + 18, "How t is distributed over units; a vertical line marks the threshold of each network");
  const ends = [d3.min(lines, (one) => one.from), d3.max(lines, (one) => one.to)];
  const x = d3.scaleLinear(ends, [4, SVG_WIDTH - 4]), y = d3.scaleSymlog([0, d3.max(lines, (one) => d3.max(one.counts))], [height, 6]);
  for (const one of lines) {
    const width = (one.to - one.from) / one.counts.length;
    const area = d3.area().x((_, i) => x(one.from + (i + 0.5) * width)).y0(height).y1((count) => y(count)).curve(d3.curveStep);
    svg.append("path").attr("d", area(one.counts)).attr("fill", one.colour).attr("fill-opacity", 0.22).attr("stroke", one.colour);
    if (Number.isFinite(one.cut)) svg.append("line").attr("class", "cut").attr("stroke", one.colour).attr("x1", x(one.cut)).attr("x2", x(one.cut)).attr("y1", 0).attr("y2", height);
  }
  svg.append("g").attr("class", "axis").attr("transform", `translate(0,${height})`).call(d3.axisBottom(x).ticks(6).tickSize(3));
}

function countsOf(one, bins = 120) {
  if (!one.histogram) {
    let from = -4, to = 4;
    for (const value of one.t) { if (value < from) from = value; if (value > to) to = value; }
    const counts = new Array(bins).fill(0), scale = bins / (to - from);
    for (const value of one.t) if (!Number.isNaN(value)) counts[Math.min(bins - 1, Math.floor((value - from) * scale))]++;
    one.histogram = { from, to, counts };
  }
  return one.histogram;
}

// What lesions cost: a chart per measure, since drops in accuracy and in nats have no scale in common.
function lesionCharts(parent, rows, colourOf) {
  const measured = rows.filter((row) => Number.isFinite(row.drop));
  for (const [measure, own] of d3.group(measured, (row) => row.measure)) lesionChart(parent, measure, own, colourOf);
}

// Every network has a line under every task, with its controls in grey.
function lesionChart(parent, measure, rows, colourOf) {
  const tasks = d3.groups(rows, (row) => row.task), line = 14, head = 15, left = 118;
  const heights = tasks.map(([, own]) => head + own.length * line + 5), height = d3.sum(heights);
  const svg = chart(parent, height + 42, `Drop in ${measure} under lesions, by task and network; the table below has the numbers`);
  const all = rows.flatMap((row) => [0, row.drop_low, row.drop_high, row.drop, row.drop_activation, row.drop_activation_low, row.drop_activation_high]).filter(Number.isFinite);
  const x = d3.scaleLinear(d3.extent(all), [left, SVG_WIDTH - 8]).nice(4);
  let top = 0;
  tasks.forEach(([task, own], i) => {
    svg.append("text").attr("class", "task").attr("x", 0).attr("y", top + 11).text(cut(task, 40));
    svg.append("line").attr("class", "zero").attr("x1", x(0)).attr("x2", x(0)).attr("y1", top + head - 2).attr("y2", top + heights[i] - 2);
    own.forEach((row, j) => {
      const y = top + head + j * line + 5;
      svg.append("text").attr("class", "value").attr("x", left - 8).attr("y", y + 3).attr("text-anchor", "end").text(cut(row.network, 18));
      const dot = (low, high, value, colour, dy, radius) => {
        if (!Number.isFinite(value)) return;
        if (Number.isFinite(low)) svg.append("line").attr("stroke", colour).attr("stroke-width", 2).attr("x1", x(low)).attr("x2", x(high)).attr("y1", y + dy).attr("y2", y + dy);
        svg.append("circle").attr("fill", colour).attr("cx", x(value)).attr("cy", y + dy).attr("r", radius);
      };
      dot(row.drop_activation_low, row.drop_activation_high, row.drop_activation, "var(--muted)", 4.5, 2.2);
      dot(row.drop_low, row.drop_high, row.drop, colourOf(row.network), 0, 3.2);
    });
    top += heights[i];
  });
  svg.append("g").attr("class", "axis").attr("transform", `translate(0,${height})`).call(d3.axisBottom(x).ticks(5).tickSize(3));
  svg.append("text").attr("class", "value").attr("x", SVG_WIDTH - 8).attr("y", height + 30).attr("text-anchor", "end").text(cut(`drop in ${measure}; grey: activation-matched random units`, 62));
}
