"""The n largest of a stream of values, row by row, in memory that does not grow with the stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class RunningTop:
    """The largest values of each row, with the index that each had in the stream.

    Equal values are ordered by index, so the batches that they came in do not matter. A value that is not finite is
    never among them; places that nothing fills have index -1 and value NaN.

    Parameters
    ----------
    rows
        How many rows.
    n
        How many values of each are kept.
    smallest
        Keep the smallest instead.
    """

    def __init__(self, rows: int, n: int, *, smallest: bool = False) -> None:
        self._sign = -1.0 if smallest else 1.0
        self._keys = np.full((rows, n), -np.inf)
        self._index = np.full((rows, n), -1, dtype=np.int64)

    def update(self, values: Float[np.ndarray, "item row"], indices: Sequence[int]) -> None:
        """Take in the values of some items, in any order."""
        keys = np.where(np.isfinite(values), self._sign * values, -np.inf).T
        index = np.broadcast_to(np.asarray(indices, dtype=np.int64), keys.shape)
        n = self._keys.shape[1]
        # Most batches hold nothing new for most rows.
        rows = np.flatnonzero((keys >= self._keys[:, -1:]).any(1) & np.isfinite(keys).any(1))
        keys = np.concatenate([self._keys[rows], keys[rows]], axis=1)
        index = np.concatenate([self._index[rows], index[rows]], axis=1)
        order = np.lexsort((index, -keys), axis=1)[:, :n]
        keys, index = np.take_along_axis(keys, order, 1), np.take_along_axis(index, order, 1)
        self._keys[rows], self._index[rows] = keys, np.where(np.isfinite(keys), index, -1)

    @property
    def values(self) -> Float[np.ndarray, "row n"]:
        """The values, the most extreme first."""
        return np.where(self._index >= 0, self._sign * self._keys, np.nan)

    @property
    def index(self) -> Int[np.ndarray, "row n"]:
        """The items that they belong to."""
        return self._index.copy()
