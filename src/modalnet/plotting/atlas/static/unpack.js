// Arrays out of the page: base64, gzip, bytes put back in order.

const KINDS = { float32: Float32Array, uint16: Uint16Array, uint8: Uint8Array };

function decodeBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

async function unpack(packed) {
  const bytes = decodeBase64(document.getElementById(packed.id).textContent.trim());
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const shuffled = new Uint8Array(await new Response(stream).arrayBuffer());
  const Kind = KINDS[packed.kind], size = Kind.BYTES_PER_ELEMENT, count = packed.count;
  if (size === 1) return shuffled;
  const plain = new Uint8Array(count * size);
  for (let part = 0; part < size; part++) {
    const start = part * count;
    for (let i = 0, to = part; i < count; i++, to += size) plain[to] = shuffled[start + i];
  }
  return new Kind(plain.buffer);
}

// What is asked of one unit: unpacked block by block, when a unit of the block is looked at, and kept for a while.
function lazily(most = 64) {
  const kept = new Map();
  return (packed) => {
    if (!kept.has(packed.id)) {
      if (kept.size >= most) kept.delete(kept.keys().next().value);
      kept.set(packed.id, unpack(packed));
    }
    return kept.get(packed.id);
  };
}
