// The page: data, controls, pointer and keyboard, drawing once per frame.

const started = performance.now();
const atlas = JSON.parse(document.getElementById("document").textContent);
const canvas = document.getElementById("map"), tooltip = document.getElementById("tooltip"), live = document.getElementById("live");
const byId = (id) => document.getElementById(id);
const state = { kind: "top", value: 100 * atlas.top, shown: (1 << atlas.localizations.length) - 1, one: null, both: false, cursor: -1, pinned: -1, glass: false };
let sheet, glass, panel, waiting = false;

function lay() {
  let start = 0;
  for (const tower of atlas.towers) {
    tower.start = start;
    tower.rim = rimOf(tower.size);
    start += tower.layers * tower.width;
  }
  atlas.units = start;
  atlas.towerOf = (unit) => atlas.towers.findLast((tower) => tower.start <= unit);
  atlas.placeOf = (unit) => {
    const tower = atlas.towerOf(unit), local = unit - tower.start;
    return { tower, layer: Math.floor(local / tower.width), dim: local % tower.width };
  };
  atlas.unitOf = (name, layer, dim) => {
    const tower = atlas.towers.find((one) => one.name === name);
    const inside = tower && layer >= 0 && layer < tower.layers && dim >= 0 && dim < tower.width;
    return inside ? tower.start + layer * tower.width + dim : -1;
  };
}

async function load() {
  lay();
  await Promise.all([
    ...atlas.towers.flatMap((tower) => ["rows", "columns", "ground"].map(async (part) => { tower[part] = await unpack(tower[part]); })),
    ...atlas.localizations.flatMap((one) => ["t", "q"].map(async (part) => { one[part] = await unpack(one[part]); })),
  ]);
  state.bits = new Uint8Array(atlas.units);
  state.negative = new Uint8Array(atlas.units);
  state.strength = new Uint8Array(atlas.units);
  for (const { t, limit } of atlas.localizations)
    for (let i = 0, scale = 250 / limit; i < t.length; i++) {
      const strength = Math.min(250, Math.abs(t[i]) * scale) | 0; // NaN becomes 0
      if (strength > state.strength[i]) state.strength[i] = strength;
    }
  for (const tower of atlas.towers) {
    tower.index = cellIndex(tower);
    const n = tower.layers * tower.width, own = atlas.localizations.filter((one) => one.towers.includes(tower.name));
    tower.undefinedUnits = new Uint8Array(n);
    for (let i = 0; i < n; i++) tower.undefinedUnits[i] = own.every((one) => Number.isNaN(one.t[tower.start + i])) ? 1 : 0;
  }
}

// -- drawing ----------------------------------------------------------------------------------------------------

function draw() {
  waiting = false;
  (state.glass ? glass : sheet).draw(state);
  byId("crowded").hidden = state.glass || sheet.transform.k * sheet.ratio >= 1;
}
function redraw() {
  if (!waiting) { waiting = true; requestAnimationFrame(draw); }
}

function reselect() {
  state.bits.fill(0);
  state.negative.fill(0);
  atlas.localizations.forEach((one, i) => { one.count = select(one, state.kind, state.value, state.bits, i); });
  if (state.one && state.both) select(state.one, state.kind, state.value, state.negative, 0, -1);
  let several = 0;
  for (let i = 0; i < state.bits.length; i++) if (sheet.times[state.bits[i] & state.shown] > 1) several++;
  atlas.localizations.forEach((one, i) => { byId(`count-${i}`).textContent = one.count.toLocaleString("en"); });
  if (byId("count-several")) byId("count-several").textContent = several.toLocaleString("en");
  redraw();
  later();
}

// Updates that may lag behind the slider.
let timer = 0;
function later() {
  const opening = !document.documentElement.dataset.drawn; // nothing has changed yet to be announced
  clearTimeout(timer);
  timer = setTimeout(() => {
    const shown = atlas.localizations.map((one, i) => ({ one, i })).filter(({ i }) => state.shown & (1 << i));
    const box = byId("histogram");
    box.replaceChildren();
    if (shown.length) histogram(box, shown.map(({ one, i }) => ({ ...countsOf(one), colour: atlas.colours.networks[i], cut: cutOf(one, state.kind, state.value) })));
    panel.layers();
    panel.strongest(ranked(25), go);
    if (!opening) live.textContent = `${shown.map(({ one }) => `${one.name}: ${one.count.toLocaleString("en")} units`).join("; ")} at ${spoken()}.`;
    const unit = state.pinned >= 0 ? state.pinned : state.cursor;
    if (unit >= 0) panel.show(unit);
  }, 120);
}

function spoken() {
  return state.kind === "top" ? `the top ${formatNumber(state.value)}%` : state.kind === "q" ? `q below ${formatNumber(state.value)}` : `t of at least ${formatNumber(state.value)}`;
}

// The units with the largest t, each in the network in which its t is largest.
function ranked(most) {
  const found = [];
  atlas.localizations.forEach((one, i) => {
    const flag = 1 << i;
    if (!(state.shown & flag) || !one.count) return;
    // Only those that can be among the first: t of the last that fits.
    const sorted = sortedOf(one), cut = sorted[Math.max(0, sorted.length - most)];
    for (let unit = 0; unit < one.t.length; unit++) if (one.t[unit] >= cut && state.bits[unit] & flag) found.push({ unit, i, t: one.t[unit] });
  });
  return found.sort((a, b) => b.t - a.t || a.unit - b.unit).slice(0, most);
}

// -- threshold and networks -------------------------------------------------------------------------------------

const SCALES = {
  top: { label: "% of units with the largest t", from: () => Math.log10(Math.max(1e-4, 100 / atlas.units)), to: () => 2, there: (x) => 10 ** x, back: (v) => Math.log10(v) },
  t: { label: "t at least", from: () => 0, to: () => Math.max(...atlas.localizations.map((one) => sortedOf(one).at(-1) ?? 1)), there: (x) => x, back: (v) => v },
  q: { label: "q (false discovery rate) below", from: () => -30, to: () => 0, there: (x) => 10 ** x, back: (v) => Math.log10(v) },
};

function setThreshold(kind, value, { keep = null } = {}) {
  const scale = SCALES[kind];
  state.kind = kind;
  state.value = value;
  byId("kind").value = kind;
  byId("threshold-label").textContent = scale.label;
  if (keep !== "slider") byId("slider").value = 1000 * ((scale.back(value) - scale.from()) / (scale.to() - scale.from()));
  if (keep !== "number") byId("value").value = Number(value.toPrecision(3));
  byId("slider").setAttribute("aria-valuetext", spoken());
  reselect();
}

function controls() {
  const list = byId("networks");
  atlas.localizations.forEach((one, i) => {
    const box = element("input", { type: "checkbox", checked: true, id: `network-${i}` });
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = atlas.colours.networks[i];
    const label = element("label", { htmlFor: box.id, title: one.contrast }, [swatch, one.name]);
    list.append(element("li", {}, [box, label, element("output", { id: `count-${i}` })]));
    byId("view").append(element("option", { value: String(i), textContent: `t of ${one.name}` }));
    box.addEventListener("change", () => {
      state.shown = box.checked ? state.shown | (1 << i) : state.shown & ~(1 << i);
      reselect();
    });
  });
  if (atlas.localizations.length > 1) {
    const swatch = element("span", { className: "swatch overlap" });
    list.append(element("li", {}, [element("span"), element("span", { className: "label" }, [swatch, "in several networks"]), element("output", { id: "count-several" })]));
  }
  byId("view").addEventListener("change", () => view(byId("view").value));
  byId("kind").addEventListener("change", () => setThreshold(byId("kind").value, { top: 100 * atlas.top, t: 5, q: 0.05 }[byId("kind").value]));
  byId("slider").addEventListener("input", () => {
    const scale = SCALES[state.kind];
    setThreshold(state.kind, scale.there(scale.from() + (byId("slider").value / 1000) * (scale.to() - scale.from())), { keep: "slider" });
  });
  byId("value").addEventListener("input", () => {
    const value = Number(byId("value").value), most = { top: 100, t: Infinity, q: 1 }[state.kind];
    const right = Number.isFinite(value) && value > 0 && value <= most;
    byId("value").setAttribute("aria-invalid", String(!right));
    if (right) setThreshold(state.kind, value, { keep: "number" });
  });
  byId("both").addEventListener("change", () => { state.both = byId("both").checked; reselect(); });
  byId("glass").addEventListener("click", () => turnGlass(!state.glass));
  byId("fit").addEventListener("click", fit);
  byId("closer").addEventListener("click", () => zoomBy(1.6));
  byId("farther").addEventListener("click", () => zoomBy(1 / 1.6));
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement, dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
    root.dataset.theme = dark ? "light" : "dark";
    redraw();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  byId("find-tower").append(...atlas.towers.map((tower) => element("option", { value: tower.name, textContent: tower.name })));
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const unit = atlas.unitOf(byId("find-tower").value, Number(byId("find-block").value), Number(byId("find-dim").value));
    if (unit < 0) live.textContent = "There is no such unit.";
    else go(unit);
  });
}

function view(which) {
  state.one = which === "networks" ? null : atlas.localizations[Number(which)];
  state.shown = state.one ? 1 << Number(which) : (1 << atlas.localizations.length) - 1;
  byId("view").value = which;
  byId("both-box").hidden = !state.one;
  atlas.localizations.forEach((_, i) => {
    byId(`network-${i}`).checked = Boolean(state.shown & (1 << i));
    byId(`network-${i}`).disabled = Boolean(state.one);
  });
  const scale = byId("scale");
  scale.hidden = !state.one;
  if (state.one) {
    const { warm, cold } = atlas.colours, limit = formatNumber(state.one.limit);
    byId("scale-bar").style.background = `linear-gradient(to right, ${[...cold].reverse().join(",")}, #666 50%, #666 50%, ${warm.join(",")})`;
    byId("scale-low").textContent = `t ≤ −${limit}`;
    byId("scale-high").textContent = `t ≥ ${limit}`;
  }
  reselect();
}

// -- moving about -----------------------------------------------------------------------------------------------

const zoom = d3.zoom().scaleExtent([0.02, 60]).filter((event) => !state.glass && (!event.ctrlKey || event.type === "wheel") && !event.button)
  .on("zoom", (event) => { sheet.transform = event.transform; hide(); redraw(); });

function fit() {
  if (state.glass) { glass.zoom = 1; glass.turn = -0.62; glass.tilt = 0.28; redraw(); }
  else d3.select(canvas).call(zoom.transform, sheet.fitted());
}
function zoomBy(factor) {
  if (state.glass) { glass.zoom *= factor; redraw(); }
  else d3.select(canvas).call(zoom.scaleBy, factor);
}
function turnGlass(on) {
  state.glass = on;
  byId("glass").setAttribute("aria-pressed", String(on));
  hide();
  redraw();
}

function resize() {
  const untouched = !sheet.layout || sheet.transform.toString() === sheet.fitted().toString();
  sheet.resize();
  if (untouched) fit();
  redraw();
}

function unitUnder(event) {
  const [x, y] = d3.pointer(event, canvas);
  return state.glass ? glass.unitAt(x, y) : sheet.unitAt(x, y, state);
}

function hide() { tooltip.hidden = true; }

function point(event) {
  if (event.buttons) return;
  const unit = unitUnder(event);
  if (unit === state.cursor && !tooltip.hidden) return;
  state.cursor = unit;
  redraw();
  if (unit < 0) return hide();
  const lines = atlas.localizations.filter((one, i) => state.shown & (1 << i) && !Number.isNaN(one.t[unit]))
    .map((one) => element("div", { textContent: `${cut(one.name, 28)}: t = ${formatT(one.t[unit])}, q = ${formatQ(one.q[unit])}` }));
  tooltip.replaceChildren(element("strong", { textContent: panel.nameOf(unit) }), ...lines);
  tooltip.dataset.unit = String(unit);
  tooltip.hidden = false;
  const box = canvas.parentElement.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  tooltip.style.left = `${Math.min(x + 14, box.width - tooltip.offsetWidth - 6)}px`;
  tooltip.style.top = `${y + 18 + tooltip.offsetHeight > box.height ? y - tooltip.offsetHeight - 10 : y + 18}px`;
  if (state.pinned < 0) panel.show(unit);
}

function pin(unit) {
  state.pinned = unit;
  byId("unpin").hidden = unit < 0;
  if (unit >= 0) panel.show(unit);
  redraw();
}

// Moves to a unit, as the keyboard and the lists do: scrolls it into view, announces it, shows its statistics.
function go(unit) {
  state.cursor = unit;
  if (!state.glass) {
    const [x, y] = sheet.screenOf(unit);
    if (x < 20 || y < 20 || x > sheet.width - 20 || y > sheet.height - 20) d3.select(canvas).call(zoom.translateTo, ...sheet.transform.invert([x, y]));
  }
  hide();
  live.textContent = panel.say(unit);
  if (state.pinned >= 0) pin(unit);
  else panel.show(unit);
  redraw();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const first = state.cursor >= 0 ? state.cursor : (ranked(1)[0] ?? { unit: 0 }).unit, { tower, layer, dim } = atlas.placeOf(first);
  const to = (other) => atlas.unitOf(tower.name, Math.max(0, Math.min(tower.layers - 1, other)), dim);
  const list = () => ranked(500).map((one) => one.unit);
  const step = (by) => { const all = list(), at = all.indexOf(state.cursor); return all.length ? all[(at + by + all.length) % all.length] : first; };
  const moves = {
    ArrowLeft: () => sheet.neighbour(first, -1, 0), ArrowRight: () => sheet.neighbour(first, 1, 0),
    ArrowUp: () => sheet.neighbour(first, 0, -1), ArrowDown: () => sheet.neighbour(first, 0, 1),
    PageUp: () => to(layer - 1), PageDown: () => to(layer + 1), Home: () => to(0), End: () => to(tower.layers - 1),
    n: () => step(1), p: () => (state.cursor < 0 ? first : step(-1)),
  };
  const others = { "+": () => zoomBy(1.6), "=": () => zoomBy(1.6), "-": () => zoomBy(1 / 1.6), 0: fit, g: () => turnGlass(!state.glass), Escape: () => pin(-1),
    Enter: () => state.cursor >= 0 && pin(state.cursor), " ": () => state.cursor >= 0 && pin(state.cursor) };
  if (moves[event.key]) go(state.cursor < 0 ? first : moves[event.key]());
  else if (others[event.key]) others[event.key]();
  else return;
  event.preventDefault();
}

function pointers() {
  d3.select(canvas).call(zoom).on("dblclick.zoom", null);
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerleave", hide);
  canvas.addEventListener("click", (event) => { const unit = unitUnder(event); if (unit >= 0) pin(unit === state.pinned ? -1 : unit); });
  canvas.addEventListener("keydown", keys);
  canvas.addEventListener("wheel", (event) => {
    if (!state.glass) return;
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? 1.1 : 1 / 1.1);
  }, { passive: false });
  let from = null;
  canvas.addEventListener("pointerdown", (event) => { from = state.glass ? [event.clientX, event.clientY] : null; });
  window.addEventListener("pointerup", () => { from = null; });
  canvas.addEventListener("pointermove", (event) => {
    if (!from || !event.buttons) return;
    glass.turn += (event.clientX - from[0]) / 200;
    glass.tilt = Math.max(-1.2, Math.min(1.2, glass.tilt + (event.clientY - from[1]) / 300));
    from = [event.clientX, event.clientY];
    hide();
    redraw();
  });
  byId("unpin").addEventListener("click", () => pin(-1));
  new ResizeObserver(resize).observe(canvas);
}

async function main() {
  if (!("DecompressionStream" in window)) throw new Error("This page needs a browser from 2023 or later.");
  await load();
  sheet = new Sheet(canvas, atlas);
  glass = new Glass(canvas, atlas);
  panel = new Panel(atlas, state, lazily());
  controls();
  sheet.resize();
  pointers();
  fit();
  byId("both-box").hidden = true;
  setThreshold("top", 100 * atlas.top);
  view(atlas.localizations.length > 1 ? "networks" : "0");
  draw();
  panel.lesions();
  panel.profiles();
  byId("loading").remove();
  window.modalnetAtlas = { atlas, state, sheet: () => sheet, glass: () => glass, setThreshold, draw };
  document.documentElement.dataset.drawn = String(Math.round(performance.now()));
}

main().catch((error) => {
  byId("loading").textContent = `The atlas could not be opened: ${error.message}`;
  throw error;
});
