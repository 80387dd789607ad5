"""The n largest values of each row of a stream, in constant memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class RunningTop:
    """The n largest values of each row of a stream, with their indices in the stream.

    Ties are broken by index, so the result does not depend on the batches. Values that are not finite are left out;
    unfilled entries have index -1 and value NaN.

    Parameters
    ----------
    rows
        Number of rows.
    n
        Number of values per row.
    smallest
        Find the smallest values instead.
    """

    def __init__(self, rows: int, n: int, *, smallest: bool = False) -> None:
        self._sign = -1.0 if smallest else 1.0
        self._keys = np.full((rows, n), -np.inf)
        self._index = np.full((rows, n), -1, dtype=np.int64)

    def update(self, values: Float[np.ndarray, "item row"], indices: Sequence[int]) -> None:
        """Add the values of some items, in any order."""
        keys = np.where(np.isfinite(values), self._sign * values, -np.inf).T
        index = np.broadcast_to(np.asarray(indices, dtype=np.int64), keys.shape)
        n = self._keys.shape[1]
        # Most batches change few rows.
        rows = np.flatnonzero((keys >= self._keys[:, -1:]).any(1) & np.isfinite(keys).any(1))
        keys = np.concatenate([self._keys[rows], keys[rows]], axis=1)
        index = np.concatenate([self._index[rows], index[rows]], axis=1)
        order = np.lexsort((index, -keys), axis=1)[:, :n]
        keys, index = np.take_along_axis(keys, order, 1), np.take_along_axis(index, order, 1)
        self._keys[rows], self._index[rows] = keys, np.where(np.isfinite(keys), index, -1)

    @property
    def values(self) -> Float[np.ndarray, "row n"]:
        """The values, most extreme first."""
        return np.where(self._index >= 0, self._sign * self._keys, np.nan)

    @property
    def index(self) -> Int[np.ndarray, "row n"]:
        """The indices of the items with these values."""
        return self._index.copy()
