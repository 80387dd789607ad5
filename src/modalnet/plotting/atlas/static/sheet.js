// The map: every unit a cell, painted into one picture of the window's size however many units there are.

const GROUND = [87, 117], BASE = "#3b3b3b", UNDEFINED = pack(30, 30, 30);

function pack(r, g, b) { return (255 << 24) | (b << 16) | (g << 8) | r; }
function packed(colour) { const c = d3.rgb(colour); return pack(c.r, c.g, c.b); }

function ramp(colours, steps = 256) {
  const scale = d3.piecewise(d3.interpolateRgb, colours);
  return Uint32Array.from({ length: steps }, (_, i) => packed(scale(i / (steps - 1))) >>> 0);
}

class Sheet {
  constructor(canvas, atlas) {
    this.canvas = canvas;
    this.atlas = atlas;
    this.context = canvas.getContext("2d");
    this.cells = document.createElement("canvas");
    this.transform = d3.zoomIdentity;
    this.greys = Uint32Array.from({ length: 256 }, (_, i) => {
      const grey = Math.round(GROUND[0] + ((GROUND[1] - GROUND[0]) * i) / 255);
      return pack(grey, grey, grey) >>> 0;
    });
    const { networks, overlap, warm, cold } = atlas.colours;
    this.networks = networks.map((colour) => packed(colour) >>> 0);
    this.overlap = packed(overlap) >>> 0;
    this.warm = ramp(warm);
    this.cold = ramp(cold);
    this.times = Uint8Array.from({ length: 256 }, (_, i) => i.toString(2).replaceAll("0", "").length);
    this.layout = null;
  }

  // Fits the map to the window; keeps the zoom's meaning: the transform takes cells to CSS pixels.
  resize() {
    const box = this.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    this.width = box.width;
    this.height = box.height;
    this.ratio = ratio;
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    this.cells.width = this.canvas.width;
    this.cells.height = this.canvas.height;
    this.layout = layOut(this.atlas.towers, box.width / box.height);
  }

  fitted() {
    const { width, height, line } = this.layout, margin = 18;
    const k = Math.min((this.width - 2 * margin) / width, (this.height - 2 * margin) / (height + line));
    return d3.zoomIdentity.translate((this.width - k * width) / 2, (this.height - k * height) / 2).scale(k);
  }

  draw(state) {
    const { context, ratio, transform: view } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(ratio * view.k, 0, 0, ratio * view.k, ratio * view.x, ratio * view.y);
    const seen = this.layout.patches.filter((patch) => this.inWindow(patch));
    context.fillStyle = BASE;
    for (const patch of seen) {
      const [height, width] = patch.tower.size;
      context.beginPath();
      for (const [x, y] of patch.tower.rim) context.lineTo(patch.x + width / 2 + x, patch.y + height / 2 + y);
      context.fill();
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    this.paintCells(seen, state);
    context.drawImage(this.cells, 0, 0);
    this.write(seen);
    if (state.pinned >= 0) this.ring(state.pinned, 2.5, "#ffffff", "#000000");
    if (state.cursor >= 0) this.ring(state.cursor, 1.5, "#ffffff", "#000000");
  }

  inWindow(patch) {
    const [x, y] = this.transform.apply([patch.x, patch.y]), k = this.transform.k;
    return x < this.width && y < this.height && x + k * patch.tower.size[1] > 0 && y + k * patch.tower.size[0] > 0;
  }

  // A unit is painted over others in the same pixel if it is in more networks or has the larger |t|, so that far from
  // the map no unit of a network gets lost between pixels.
  paintCells(seen, state) {
    const wide = this.cells.width, high = this.cells.height;
    if (!this.pixels || this.pixels.length !== wide * high) {
      this.image = new ImageData(wide, high);
      this.pixels = new Uint32Array(this.image.data.buffer);
      this.ranks = new Uint8Array(wide * high);
    }
    const { pixels, ranks, greys, times } = this, { bits, negative, one, shown } = state;
    pixels.fill(0);
    ranks.fill(0);
    const k = this.transform.k * this.ratio, gap = k >= 6 ? 1 : 0;
    const strength = state.strength, scale = 255 / (one ? one.limit : 1);
    for (const { tower, block, x, y } of seen) {
      const left = this.transform.applyX(x) * this.ratio, upper = this.transform.applyY(y) * this.ratio;
      const first = tower.start + block * tower.width, at = tower.shared ? 0 : block * tower.width;
      for (let dim = 0; dim < tower.width; dim++) {
        const unit = first + dim;
        const x0 = Math.round(left + tower.columns[at + dim] * k), y0 = Math.round(upper + tower.rows[at + dim] * k);
        if (x0 >= wide || y0 >= high) continue;
        let x1 = Math.round(left + (tower.columns[at + dim] + 1) * k) - gap;
        let y1 = Math.round(upper + (tower.rows[at + dim] + 1) * k) - gap;
        if (x1 <= x0) x1 = x0 + 1;
        if (y1 <= y0) y1 = y0 + 1;
        if (x1 <= 0 || y1 <= 0) continue;
        let colour, rank = 1;
        const own = bits[unit] & shown;
        if (one) {
          if (own) {
            rank = Math.min(255, 2 + one.t[unit] * scale) | 0;
            colour = this.warm[Math.min(255, one.t[unit] * scale) | 0];
          } else if (negative[unit]) {
            rank = Math.min(255, 2 - one.t[unit] * scale) | 0;
            colour = this.cold[Math.min(255, -one.t[unit] * scale) | 0];
          }
        } else if (own) {
          const several = times[own] > 1;
          rank = several ? 255 : 2 + strength[unit];
          colour = several ? this.overlap : this.networks[31 - Math.clz32(own)];
        }
        if (colour === undefined) colour = tower.undefinedUnits[unit - tower.start] ? UNDEFINED : greys[tower.ground[unit - tower.start]];
        const xa = x0 < 0 ? 0 : x0, xb = x1 > wide ? wide : x1, yb = y1 > high ? high : y1;
        for (let py = y0 < 0 ? 0 : y0; py < yb; py++)
          for (let p = py * wide + xa, end = py * wide + xb; p < end; p++)
            if (rank >= ranks[p]) { pixels[p] = colour; ranks[p] = rank; }
      }
    }
    this.cells.getContext("2d").putImageData(this.image, 0, 0);
  }

  write(seen) {
    const { context, ratio, transform: view, layout } = this;
    const ink = getComputedStyle(this.canvas).color;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = ink;
    context.textBaseline = "middle";
    const size = Math.max(9, Math.min(15, 0.55 * layout.line * view.k));
    context.font = `600 ${Math.max(12, size)}px system-ui, sans-serif`;
    for (const { tower, y } of layout.titles) {
      const [x, at] = view.apply([0, y + 0.9 * layout.line]);
      context.textAlign = "left";
      context.fillText(tower.label, x, at);
      context.textAlign = "right";
      context.font = `${Math.max(10, size - 1)}px system-ui, sans-serif`;
      const about = `${tower.layers} blocks of ${tower.width.toLocaleString("en")} units, input to output →`;
      if (view.k * layout.width > 420) context.fillText(about, view.applyX(layout.width), at);
      context.font = `600 ${Math.max(12, size)}px system-ui, sans-serif`;
    }
    context.font = `${size}px system-ui, sans-serif`;
    context.textAlign = "center";
    for (const { tower, block, x, y } of seen) {
      if (view.k * tower.size[1] < 12) continue;
      const at = view.apply([x + tower.size[1] / 2, y + tower.size[0] + 0.85 * layout.line]);
      context.fillText(String(block), ...at);
    }
  }

  ring(unit, width, light, dark) {
    const [x, y] = this.screenOf(unit), { context, ratio } = this;
    const half = Math.max(5, this.transform.k / 2 + 2);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const [colour, thick] of [[dark, width + 2], [light, width]]) {
      context.strokeStyle = colour;
      context.lineWidth = thick;
      context.strokeRect(x - half, y - half, 2 * half, 2 * half);
    }
  }

  // The middle of a unit's cell in CSS pixels of the canvas.
  screenOf(unit) {
    const tower = this.atlas.towerOf(unit), local = unit - tower.start;
    const block = Math.floor(local / tower.width), dim = local % tower.width;
    const patch = this.layout.patches.find((one) => one.tower === tower && one.block === block);
    const at = tower.shared ? dim : local;
    return this.transform.apply([patch.x + tower.columns[at] + 0.5, patch.y + tower.rows[at] + 0.5]);
  }

  // The unit at a place in CSS pixels; -1 where there is none. Where a pixel holds several, the strongest of them.
  unitAt(px, py, state) {
    const [x, y] = this.transform.invert([px, py]);
    const reach = this.transform.k < 1.5 ? Math.ceil(1.5 / this.transform.k) : 0;
    for (const { tower, block, x: left, y: upper } of this.layout.patches) {
      const [height, width] = tower.size, column = Math.floor(x - left), row = Math.floor(y - upper);
      if (column < 0 || row < 0 || column >= width || row >= height) continue;
      let best = -1, highest = -1;
      for (let r = Math.max(0, row - reach); r <= Math.min(height - 1, row + reach); r++)
        for (let c = Math.max(0, column - reach); c <= Math.min(width - 1, column + reach); c++) {
          const dim = tower.index[((tower.shared ? 0 : block) * height + r) * width + c];
          if (dim < 0) continue;
          const unit = tower.start + block * tower.width + dim;
          const near = r === row && c === column ? 1 : 0;
          const rank = (state.bits[unit] & state.shown) || state.negative[unit] ? 2 + state.strength[unit] : near;
          if (rank > highest) { highest = rank; best = unit; }
        }
      return best;
    }
    return -1;
  }

  // The unit in the next cell of the same patch; stays where there is none.
  neighbour(unit, dx, dy) {
    const tower = this.atlas.towerOf(unit), local = unit - tower.start, [height, width] = tower.size;
    const block = Math.floor(local / tower.width), at = tower.shared ? local % tower.width : local;
    const row = tower.rows[at] + dy, column = tower.columns[at] + dx;
    if (row < 0 || column < 0 || row >= height || column >= width) return unit;
    const dim = tower.index[((tower.shared ? 0 : block) * height + row) * width + column];
    return dim < 0 ? unit : tower.start + block * tower.width + dim;
  }
}
