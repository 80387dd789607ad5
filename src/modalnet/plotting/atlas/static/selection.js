// Which units pass the threshold, in each localization.

const SLACK = 1e-9; // share of a unit that rounding may take, as in the package

// Values of t in order, made once: the share of units is a rank.
function sortedOf(one) {
  if (!one.sorted) {
    one.sorted = one.t.filter((value) => !Number.isNaN(value)).sort();
  }
  return one.sorted;
}

function howMany(one, share) {
  return Math.min(Math.floor((share / 100) * one.units + SLACK), sortedOf(one).length);
}

// Writes bit `bit` of `bits` for the units that pass; sign -1 for those that prefer the negative side. Returns their count.
function select(one, kind, value, bits, bit, sign = 1) {
  const { t, q } = one, n = t.length, flag = 1 << bit;
  let count = 0;
  if (kind === "t") {
    for (let i = 0; i < n; i++) if (sign * t[i] >= value) { bits[i] |= flag; count++; }
  } else if (kind === "q") {
    const least = Math.log10(value);
    for (let i = 0; i < n; i++) if (q[i] < least && sign * t[i] > 0) { bits[i] |= flag; count++; }
  } else {
    const sorted = sortedOf(one), k = howMany(one, value);
    if (k === 0) return 0;
    const cut = sign > 0 ? sorted[sorted.length - k] : sorted[k - 1];
    // Exactly k units: of those at the cut, the first in order.
    let ties = k;
    for (let i = 0; i < n; i++) if (sign * t[i] > sign * cut) ties--;
    for (let i = 0; i < n; i++) {
      const above = sign * (t[i] - cut);
      if (above > 0 || (above === 0 && ties-- > 0)) { bits[i] |= flag; count++; }
    }
  }
  return count;
}

// The smallest t that passes, to be drawn into a histogram of t.
function cutOf(one, kind, value) {
  if (kind === "t") return value;
  let least = Infinity;
  if (kind === "top") {
    const k = howMany(one, value);
    return k ? sortedOf(one)[sortedOf(one).length - k] : Infinity;
  }
  const limit = Math.log10(value);
  for (let i = 0; i < one.t.length; i++) if (one.q[i] < limit && one.t[i] > 0 && one.t[i] < least) least = one.t[i];
  return least;
}
