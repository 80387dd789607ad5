"""Arrays in an HTML page, compressed so that a browser unpacks them without a library.

Each array is its bytes, shuffled (all first bytes, then all second ones, ..., which compresses better), gzipped and
base64-encoded. The data of the map are few large arrays; the data of single units are one array per block, unpacked
when a unit of that block is inspected.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

KINDS = {"float32": "<f4", "uint16": "<u2", "uint8": "|u1"}
LEVEL = 4  # of gzip: higher levels cost much time and save little on numbers
MANTISSA = 10  # bits of the mantissa of rounded numbers: 0.05%


@dataclass
class Packing:
    """The packed arrays of a page, by the ids that its script uses."""

    arrays: dict[str, str] = field(default_factory=dict)

    def add(self, values: np.ndarray, kind: str) -> dict[str, Any]:
        """Pack an array and return what the script needs to unpack it."""
        plain = np.ascontiguousarray(values, dtype=KINDS[kind])
        shuffled = plain.reshape(-1).view(np.uint8).reshape(-1, plain.itemsize).T
        packed = gzip.compress(shuffled.tobytes(), LEVEL, mtime=0)
        name = f"array-{len(self.arrays)}"
        self.arrays[name] = base64.b64encode(packed).decode("ascii")
        return {"id": name, "kind": kind, "count": int(plain.size)}


def rounded(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Round to a mantissa of 10 bits (three digits), which halves the compressed size; not finite becomes NaN."""
    drop = 23 - MANTISSA
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    up = (bits + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))
    return np.where(np.isfinite(values), up.view(np.float32), np.float32(np.nan))
