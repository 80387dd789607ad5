// The model in depth: blocks as panes one behind the other, selected units glowing in place. Drag to turn.

const MOST_POINTS = 60000;

class Glass {
  constructor(canvas, atlas) {
    this.canvas = canvas;
    this.atlas = atlas;
    this.context = canvas.getContext("2d");
    this.turn = -0.62;
    this.tilt = 0.28;
    this.zoom = 1;
    const widest = Math.max(...atlas.towers.map((tower) => tower.size[1]));
    const most = Math.max(...atlas.towers.map((tower) => tower.layers));
    this.step = (3.2 * widest) / Math.max(1, most - 1);
    let x = 0;
    this.depths = atlas.towers.map((tower) => {
      const start = x;
      x += this.step * (tower.layers - 1) + 0.6 * widest;
      return start;
    });
    this.length = x - 0.6 * widest;
    this.high = Math.max(...atlas.towers.map((tower) => tower.size[0]));
  }

  place(x, y, z) {
    const a = x - this.length / 2;
    const along = a * Math.cos(this.turn) - y * Math.sin(this.turn);
    const away = a * Math.sin(this.turn) + y * Math.cos(this.turn);
    const up = z * Math.cos(this.tilt) - away * Math.sin(this.tilt);
    const far = z * Math.sin(this.tilt) + away * Math.cos(this.tilt);
    const scale = this.scale / (1 + far / (3 * (this.length + this.high)));
    return [this.width / 2 + along * scale, this.height / 2 + up * scale, far];
  }

  draw(state) {
    const { canvas, context, atlas } = this, ratio = window.devicePixelRatio || 1;
    const box = canvas.getBoundingClientRect();
    this.width = box.width;
    this.height = box.height;
    this.scale = this.zoom * Math.min((1.15 * box.width) / (this.length + this.high), (0.6 * box.height) / this.high);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, box.width, box.height);
    const ink = d3.rgb(getComputedStyle(canvas).color);
    atlas.towers.forEach((tower, i) => {
      const rim = tower.rim;
      for (let block = tower.layers - 1; block >= 0; block--) {
        const x = this.depths[i] + block * this.step;
        this.outline(rim.map(([y, z]) => this.place(x, y, z)), ink, 0.035, 1.2 / (2 + tower.layers) ** 0.5);
      }
      const [x, y] = this.place(this.depths[i] + (this.step * (tower.layers - 1)) / 2, 0, tower.size[0] * 0.68);
      context.fillStyle = ink.formatRgb();
      context.font = "600 13px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText(tower.label, x, y);
    });
    this.connector(ink);
    this.points = this.pointsOf(state);
    this.glow(state);
  }

  outline(points, ink, fill, stroke) {
    const { context } = this;
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x, y);
    context.closePath();
    context.fillStyle = `rgba(${ink.r},${ink.g},${ink.b},${fill})`;
    context.strokeStyle = `rgba(${ink.r},${ink.g},${ink.b},${Math.min(0.5, stroke)})`;
    context.lineWidth = 0.8;
    context.fill();
    context.stroke();
  }

  connector(ink) {
    const { towers } = this.atlas;
    // Between a tower of another modality and the text tower that reads it.
    const to = towers.findIndex((tower, i) => i && tower.modality === "text" && towers[i - 1].modality !== "text"), from = to - 1;
    if (to < 0) return;
    const x0 = this.depths[from] + this.step * (towers[from].layers - 1), x1 = this.depths[to];
    for (let i = 0; i < 120; i += 6) {
      const a = towers[from].rim[i], b = towers[from].rim[(i + 6) % 120], c = towers[to].rim[(i + 6) % 120], d = towers[to].rim[i];
      this.outline([this.place(x0, ...a), this.place(x0, ...b), this.place(x1, ...c), this.place(x1, ...d)], ink, 0.02, 0.08);
    }
    const [x, y] = this.place((x0 + x1) / 2, 0, -0.62 * this.high);
    this.context.font = "12px system-ui, sans-serif";
    this.context.fillStyle = ink.formatRgb();
    this.context.fillText("connector", x, y);
  }

  pointsOf({ bits, negative, shown, one }) {
    const found = [];
    this.atlas.towers.forEach((tower, i) => {
      const [height, width] = tower.size, n = tower.layers * tower.width;
      for (let local = 0; local < n && found.length < MOST_POINTS; local++) {
        const unit = tower.start + local, own = bits[unit] & shown;
        if (!own && !(one && negative[unit])) continue;
        const block = Math.floor(local / tower.width), at = tower.shared ? local % tower.width : local;
        const y = tower.columns[at] + 0.5 - width / 2, z = tower.rows[at] + 0.5 - height / 2;
        const [px, py, far] = this.place(this.depths[i] + block * this.step, y, z);
        const goesOn = tower.residual && block + 1 < tower.layers && (bits[unit + tower.width] & own);
        const next = goesOn ? this.place(this.depths[i] + (block + 1) * this.step, y, z) : null;
        found.push({ unit, own, x: px, y: py, far, next });
      }
    });
    return found.sort((a, b) => b.far - a.far);
  }

  colourOf(own, unit, state) {
    const { networks, overlap, warm, cold } = this.atlas.colours;
    if (state.one) return own ? warm[2] : cold[2];
    const single = (own & (own - 1)) === 0;
    return single ? networks[31 - Math.clz32(own)] : overlap;
  }

  glow(state) {
    const { context, points } = this, crowd = Math.min(1, (400 / Math.max(points.length, 1)) ** 0.4);
    context.lineWidth = 0.9;
    context.globalAlpha = 0.4;
    for (const { x, y, next, own, unit } of points) {
      if (!next) continue;
      context.strokeStyle = this.colourOf(own, unit, state);
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(next[0], next[1]);
      context.stroke();
    }
    for (const [radius, alpha] of [[7, 0.1], [4, 0.25], [2.1, 1]]) {
      context.globalAlpha = alpha;
      for (const { x, y, own, unit } of points) {
        context.fillStyle = this.colourOf(own, unit, state);
        context.beginPath();
        context.arc(x, y, radius * crowd, 0, 2 * Math.PI);
        context.fill();
        if (alpha < 1 || state.one || (own & (own - 1)) === 0) continue;
        context.strokeStyle = getComputedStyle(this.canvas).color; // white would be lost on a light page
        context.stroke();
      }
    }
    context.globalAlpha = 1;
    for (const point of points)
      if (point.unit === state.cursor || point.unit === state.pinned) {
        context.strokeStyle = getComputedStyle(this.canvas).color;
        context.lineWidth = 2;
        context.strokeRect(point.x - 6, point.y - 6, 12, 12);
      }
  }

  unitAt(px, py) {
    let best = -1, least = 10 * 10;
    for (const { x, y, unit } of this.points || []) {
      const distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance <= least) { least = distance; best = unit; }
    }
    return best;
  }
}
