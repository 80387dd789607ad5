// Where everything stands, in cells: one unit takes one cell, one block one patch, towers one below the other.

const GAP = 0.14, ROUND = 2.6;

// Wraps the patches of each tower into rows so that the whole has about the shape of the window.
function layOut(towers, shape) {
  const step = (tower) => tower.size[1] + Math.max(2, Math.round(GAP * tower.size[1]));
  const widest = Math.max(...towers.map(step));
  const limits = new Set();
  for (const tower of towers) for (let n = 1; n <= tower.layers; n++) limits.add(n * step(tower));
  let best = null;
  for (const limit of limits) {
    if (limit < widest) continue;
    const one = wrap(towers, step, limit);
    one.misfit = Math.abs(Math.log(one.width / one.height / shape));
    if (!best || one.misfit < best.misfit) best = one;
  }
  return best;
}

function wrap(towers, step, limit) {
  const perRow = towers.map((tower) => {
    const rows = Math.ceil(tower.layers / Math.max(1, Math.floor(limit / step(tower))));
    return Math.ceil(tower.layers / rows);
  });
  const width = Math.max(...towers.map((tower, i) => (perRow[i] - 1) * step(tower) + tower.size[1]));
  const line = Math.max(1, width / 45);
  const patches = [], titles = [];
  let y = 0;
  towers.forEach((tower, i) => {
    titles.push({ tower, y });
    y += 2 * line;
    const down = tower.size[0] + 2 * line;
    for (let block = 0; block < tower.layers; block++) {
      const x = (block % perRow[i]) * step(tower);
      patches.push({ tower, block, x, y: y + Math.floor(block / perRow[i]) * down });
    }
    y += Math.ceil(tower.layers / perRow[i]) * down;
  });
  return { patches, titles, width, height: y, line };
}

// The rim of a patch around its middle.
function rimOf(size) {
  const margin = 0.4 + 0.02 * size[1], points = [];
  for (let i = 0; i < 120; i++) {
    const angle = (i / 120) * 2 * Math.PI, c = Math.cos(angle), s = Math.sin(angle);
    points.push([
      Math.sign(c) * Math.abs(c) ** (2 / ROUND) * (size[1] / 2 + margin),
      Math.sign(s) * Math.abs(s) ** (2 / ROUND) * (size[0] / 2 + margin),
    ]);
  }
  return points;
}

// The unit of a tower (from 0 within it) in a cell of a block; -1 where there is none.
function cellIndex(tower) {
  const [height, width] = tower.size, blocks = tower.shared ? 1 : tower.layers;
  const index = new Int32Array(blocks * height * width).fill(-1);
  for (let block = 0; block < blocks; block++)
    for (let dim = 0; dim < tower.width; dim++) {
      const at = block * tower.width + dim;
      index[(block * height + tower.rows[at]) * width + tower.columns[at]] = dim;
    }
  return index;
}
