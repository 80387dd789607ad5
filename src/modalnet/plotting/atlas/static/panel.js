// The panels beside the map: the inspected unit, networks over layers, lesions, profiles.

function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const child of [].concat(children)) made.append(child);
  return made;
}

function tableOf(head, rows) {
  const cells = (tag, row) => row.map((cell) => (cell instanceof Node ? element(tag, {}, [cell]) : element(tag, { textContent: cell })));
  return element("table", {}, [
    element("thead", {}, [element("tr", {}, head.map((name) => element("th", { textContent: name, scope: "col" })))]),
    element("tbody", {}, rows.map((row) => element("tr", {}, cells("td", row)))),
  ]);
}

class Panel {
  constructor(atlas, state, detail) {
    this.atlas = atlas;
    this.state = state;
    this.detail = detail;
    this.unitBox = document.getElementById("unit");
    this.requested = 0;
  }

  nameOf(unit) {
    const { tower, layer, dim } = this.atlas.placeOf(unit);
    return `${tower.name} block ${layer}, dimension ${dim}`;
  }

  // One line for the screen reader.
  say(unit) {
    const { localizations } = this.atlas, { bits } = this.state;
    const parts = localizations.map((one, i) => {
      if (Number.isNaN(one.t[unit])) return `${one.name}: no t`;
      return `${one.name}: t ${formatT(one.t[unit])}, q ${formatQ(one.q[unit])}${bits[unit] & (1 << i) ? ", in the network" : ""}`;
    });
    return `${this.nameOf(unit)}. ${parts.join("; ")}.`;
  }

  async show(unit) {
    const turn = ++this.requested, { atlas, state } = this, { tower, layer, dim } = atlas.placeOf(unit);
    const rows = await Promise.all(atlas.localizations.map(async (one) => {
      const block = one.blocks[tower.name];
      if (!block) return null;
      const values = await this.detail(block[layer]);
      return (field) => values[field * tower.width + dim];
    }));
    if (turn !== this.requested) return; // another unit was requested since
    const box = element("div");
    box.dataset.unit = `${tower.name}/${layer}/${dim}`;
    box.append(element("h3", { textContent: `${this.nameOf(unit)}${unit === state.pinned ? " · pinned" : ""}` }));
    box.append(this.numbers(unit, rows));
    this.responses(box, rows);
    this.topStimuli(box, `${tower.name}/${layer}/${dim}`);
    this.unitBox.replaceChildren(box);
  }

  numbers(unit, rows) {
    const { localizations, colours } = this.atlas, { bits } = this.state;
    const table = tableOf(["", "t", "q", "g", "network"], localizations.map((one, i) => {
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = colours.networks[i];
      const name = element("span", {}, [swatch, cut(one.name, 22)]);
      name.title = one.name;
      if (!rows[i]) return [name, "–", "–", "–", "not localized"];
      return [name, formatT(one.t[unit]), formatQ(one.q[unit]), formatNumber(rows[i](0)), bits[unit] & (1 << i) ? "yes" : "no"];
    }));
    table.className = "numbers";
    table.tHead.rows[0].cells[3].title = "Hedges' g";
    return table;
  }

  // One chart per set of stimuli: contrasts of the same stimuli share their means.
  responses(box, rows) {
    const seen = new Map();
    this.atlas.localizations.forEach((one, i) => {
      if (!rows[i]) return;
      const n = one.conditions.length, colour = this.atlas.colours.networks[i];
      const list = one.conditions.map(({ name }, c) => {
        const mean = rows[i](1 + c), error = rows[i](1 + n + c);
        return { name, mean, low: mean - error, high: mean + error, colour: one.positive.includes(name) ? colour : null };
      });
      const key = list.map((row) => `${row.name} ${row.mean}`).sort().join();
      const same = seen.get(key);
      if (!same) return void seen.set(key, { one, list, names: [one.name] });
      same.names.push(one.name);
      for (const row of list) if (row.colour) { const there = same.list.find((other) => other.name === row.name); there.colour = there.colour || row.colour; }
    });
    for (const { one, list, names } of seen.values()) {
      if (!list.length || !list.every((row) => Number.isFinite(row.mean))) continue;
      const what = one.magnitude === "absolute" ? "|activation|" : "activation";
      const figure = element("figure", { className: "responses" }, [element("figcaption", { textContent: `${names.join(", ")}: mean ${what} ± standard error` })]);
      bars(figure, list, "", `Mean ${what} by condition: ${list.map((row) => `${row.name} ${formatNumber(row.mean)}`).join(", ")}`);
      box.append(figure);
    }
  }

  topStimuli(box, key) {
    const list = this.atlas.top_stimuli[key];
    if (!list) return;
    const items = list.map((one) => {
      const item = element("li");
      if (one.picture) item.append(element("img", { src: one.picture, alt: one.text || one.condition || "a maximally activating image" }));
      if (one.text) item.append(element("span", { textContent: one.text }));
      const facts = [one.condition, one.activation === undefined ? null : formatNumber(one.activation)].filter(Boolean).join(" · ");
      if (facts) item.append(element("small", { textContent: facts }));
      return item;
    });
    box.append(element("h3", { textContent: "Maximally activating stimuli" }), element("ol", { className: "top-stimuli" }, items));
  }

  // Counts per block of every network shown, as lines and as a table.
  layers() {
    const { atlas, state } = this, box = document.getElementById("layers");
    const shown = atlas.localizations.map((one, i) => ({ one, i })).filter(({ i }) => state.shown & (1 << i));
    const table = [];
    box.replaceChildren();
    for (const tower of atlas.towers) {
      const networks = shown.map(({ one, i }) => {
        if (!one.towers.includes(tower.name)) return null; // not localized there, which is not the same as none
        const share = new Array(tower.layers).fill(0), flag = 1 << i;
        for (let local = 0; local < tower.layers * tower.width; local++) if (state.bits[tower.start + local] & flag) share[(local / tower.width) | 0]++;
        return { name: one.name, colour: atlas.colours.networks[i], counts: share, share: share.map((count) => (100 * count) / tower.width) };
      });
      const localized = networks.filter(Boolean);
      if (localized.length) layerProfile(box, tower, localized);
      for (let block = 0; block < tower.layers; block++) table.push([`${tower.name} ${block}`, ...networks.map((one) => (one ? String(one.counts[block]) : "–"))]);
    }
    const details = element("details", {}, [element("summary", { textContent: "Units in each block, as a table" })]);
    details.append(tableOf(["block", ...shown.map(({ one }) => one.name)], table));
    box.append(details);
  }

  // The units with the largest t, as buttons that go to them.
  strongest(units, go) {
    const { atlas } = this;
    const rows = units.map(({ unit, i }) => {
      const button = element("button", { type: "button", textContent: this.nameOf(unit) });
      button.addEventListener("click", () => go(unit));
      return [button, cut(atlas.localizations[i].name, 16), formatT(atlas.localizations[i].t[unit])];
    });
    document.getElementById("strongest").replaceChildren(tableOf(["unit", "network", "t"], rows));
  }

  lesions() {
    const { study, localizations, colours, towers } = this.atlas, section = document.getElementById("lesions");
    if (!study) return;
    section.hidden = false;
    const values = (name) => [...new Set(study.rows.map((row) => row[name]))];
    const sizes = values("fraction").sort((a, b) => a - b), operations = values("operation");
    const size = document.getElementById("lesion-size"), operation = document.getElementById("lesion-operation");
    size.append(...sizes.map((one) => element("option", { value: one, textContent: `${formatNumber(100 * one)}% of units` })));
    operation.append(...operations.map((one) => element("option", { value: one, textContent: /^(zero|mean)$/.test(one) ? `${one} ablation` : one })));
    size.value = sizes[sizes.length - 1];
    // A lesion of the units of one tower may say so behind the network's name: "faces (vision)".
    const namesOf = (one) => [one.name, ...towers.map((tower) => `${one.name} (${tower.name})`)];
    const colourOf = (name) => colours.networks[localizations.findIndex((one) => namesOf(one).includes(name))] || "var(--ink)";
    const redraw = () => {
      const rows = study.rows.filter((row) => String(row.fraction) === size.value && row.operation === operation.value);
      const box = document.getElementById("lesion-chart");
      box.replaceChildren();
      lesionCharts(box, rows, colourOf);
      const fixed = (value) => (Number.isFinite(value) ? value.toFixed(3).replace("-", "−") : "–");
      const range = (row, end) => `${fixed(row[`drop${end}`])} [${fixed(row[`drop${end}_low`])}, ${fixed(row[`drop${end}_high`])}]`;
      const table = tableOf(["network, task", "drop", "activation-matched", "exceeds activation-matched"], rows.map((row) => [
        `${row.network}, ${row.task}`, range(row, ""), range(row, "_activation"), row.exceeds_activation === true ? "yes" : row.exceeds_activation === false ? "no" : "–"]));
      table.className = "compact";
      box.append(element("details", {}, [element("summary", { textContent: "Table" }), table]));
    };
    size.addEventListener("change", redraw);
    operation.addEventListener("change", redraw);
    redraw();
    document.getElementById("verdicts").append(...study.verdicts.map((line) => element("li", { textContent: line })));
  }

  profiles() {
    const { profiles, localizations, colours } = this.atlas;
    if (!profiles.length) return;
    document.getElementById("profiles").hidden = false;
    for (const profile of profiles) {
      const colour = colours.networks[localizations.findIndex((one) => one.name === profile.name)] || "var(--ink)";
      const rows = profile.rows.map((row) => ({ ...row, name: row.condition, colour, controlLow: row.control_low ?? NaN, controlHigh: row.control_high ?? NaN, low: row.low ?? NaN, high: row.high ?? NaN }));
      const figure = element("figure", {}, [element("figcaption", { textContent: `${profile.name}: response of the network; grey: random units` })]);
      bars(figure, rows, profile.unit, `Response of ${profile.name}: ${rows.map((row) => `${row.name} ${formatNumber(row.mean)}`).join(", ")}`);
      for (const note of profile.notes) figure.append(element("p", { className: "note", textContent: note }));
      document.getElementById("profile-charts").append(figure);
    }
  }
}
