"""The position of each unit on the sheet: one flat patch per block, on which neighbouring units respond alike.

A residual stream has no geometry: permuting its dimensions does not change the model. For a figure, each dimension is
described by its t-values in all blocks and all contrasts shown, and the dimensions are laid out on a round patch so
that neighbours have similar descriptions. A dimension is the same throughout a residual stream, so all blocks share one
arrangement, and a network that persists through depth stays in place. Proximity on the sheet therefore means "responds
alike", never "is connected" or "lies close in the model".

The layout is linear assignment sorting (Barthel, Hezel, Jung & Schall 2023, Improved evaluation and generation of grid
layouts using distance preservation quality and linear assignment sorting, Computer Graphics Forum 42(1)), a
self-organizing map (Kohonen 1982) in which every position holds exactly one unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_seed
from modalnet.errors import InputError
from modalnet.plotting.combined import Localizations, as_mapping, towers_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: The note under every map.
ARBITRARY = "Position within a block is arbitrary: units are arranged so that neighbours respond alike. Depth is real."

ASPECT = 1.15  # of a patch: height over width
ROUND = 2.6  # exponent of the superellipse: 2 is an ellipse, infinity a rectangle
COMPONENTS = 24  # principal components of the descriptions; later ones are noise and cost time
SHRINK = 0.86  # of the neighbourhood, from one round to the next
EXACT = 700  # up to so many dimensions are assigned at once, more of them in random parts
PART = 320


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The position of each dimension of each space on a patch of cells.

    Made by :func:`arrange`; pass it to several figures to compare them.

    Attributes
    ----------
    rows, columns
        Row and column of each dimension by space, ``[block or 1, dim]``; one row if all blocks share it.
    sizes
        (rows, columns) of each space's patch.
    """

    rows: dict[str, Int[np.ndarray, "block dim"]]
    columns: dict[str, Int[np.ndarray, "block dim"]]
    sizes: dict[str, tuple[int, int]]

    def cells(self, tower: str, block: int) -> tuple[Int[np.ndarray, " dim"], Int[np.ndarray, " dim"]]:
        """Return row and column of each dimension in a block."""
        shared = len(self.rows[tower]) == 1
        return self.rows[tower][0 if shared else block], self.columns[tower][0 if shared else block]

    def check(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Raise an InputError if this is an arrangement of other spaces."""
        widths = {tower: places.shape[1] for tower, places in self.rows.items()}
        if widths != {tower: width for tower, (_, width) in shapes.items()}:
            raise InputError(
                f"`arrangement` has the widths {widths}, but the localizations have the shapes {dict(shapes)}."
            )


def arrange(
    localizations: Localizations,
    *,
    shared: bool = True,
    seed: int = 0,
) -> Arrangement:
    """Arrange the dimensions of each space on a patch so that neighbours respond alike.

    Parameters
    ----------
    localizations
        Localizations of one model; the t-values of all of them describe the dimensions.
    shared
        One arrangement for all blocks (a dimension of the residual stream is the same throughout), or one for each
        block, from its own t-values.
    seed
        Seed of the order in which wide spaces are sorted.

    Returns
    -------
    Arrangement

    Raises
    ------
    InputError
        For no localization, or localizations of different models.

    Notes
    -----
    Takes under a second for a width up to 1,000 and about ten seconds for 8,000. The result depends on the contrasts;
    its rotation and reflection are meaningless.
    """
    check_seed(seed)
    found = as_mapping(localizations)
    rows, columns, sizes = {}, {}, {}
    for tower, (n_layers, width) in towers_of(found).items():
        described = np.stack(
            [_scaled(one.t[tower]) for one in found.values() if tower in one.t]
        )  # [contrast, layer, dim]
        places = patch(width)
        sizes[tower] = (int(places[:, 0].max()) + 1, int(places[:, 1].max()) + 1)
        parts = [described] if shared else [described[:, [layer]] for layer in range(n_layers)]
        orders = [sort_on(places, part.reshape(-1, width).T, seed) for part in parts]
        rows[tower] = np.stack([places[order, 0] for order in orders])
        columns[tower] = np.stack([places[order, 1] for order in orders])
    return Arrangement(rows, columns, sizes)


def patch(n: int) -> Int[np.ndarray, "n 2"]:
    """Return the n cells of a round patch as (row, column), row by row."""
    half = int(np.ceil(np.sqrt(n * ASPECT))) + 2
    row, column = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, -1).astype(float) + 0.001
    distance = (np.abs(row) / ASPECT**0.5) ** ROUND + (np.abs(column) * ASPECT**0.5) ** ROUND
    chosen = np.sort(np.argsort(distance, kind="stable")[:n])
    cells = np.stack([row[chosen], column[chosen]], axis=1).round().astype(int)
    return cells - cells.min(axis=0)


def sort_on(places: Int[np.ndarray, "n 2"], described: Float[np.ndarray, "n feature"], seed: int) -> np.ndarray:
    """Assign items to positions so that neighbours have similar descriptions, by linear assignment sorting.

    Returns
    -------
    array [n]
        ``places[result[i]]`` is the position of item i.
    """
    from scipy.optimize import linear_sum_assignment

    features = _components(described)
    n = len(features)
    rng = np.random.Generator(np.random.PCG64([seed, n]))
    at = _start(places, features)  # at[place] = item
    reach = max(places.max(axis=0) + 1) / 2
    weight = _on_grid(places, np.ones((n, 1)))
    while n > 1:
        # The target of a position is the mean of its neighbourhood; items are assigned to the targets at least cost.
        wanted = _smooth(_on_grid(places, features[at]), reach) / np.maximum(_smooth(weight, reach), 1e-9)
        wanted = wanted[places[:, 0], places[:, 1]]
        parts = [np.arange(n)] if n <= EXACT else np.array_split(rng.permutation(n), -(-n // PART))
        for part in parts:
            items = at[part]
            cost = ((wanted[part][:, None] - features[items][None]) ** 2).sum(-1)
            at[part] = items[linear_sum_assignment(cost)[1]]
        if reach <= 0.7:
            break
        reach *= SHRINK
    order = np.empty(n, dtype=int)
    order[at] = np.arange(n)
    return order


def _scaled(t: Float[np.ndarray, "layer dim"]) -> Float[np.ndarray, "layer dim"]:
    """Scale and clip t, so that a few extreme units do not dominate; undefined is 0."""
    defined = np.nan_to_num(t)
    limit = np.percentile(np.abs(defined), 99) or 1.0
    return np.clip(defined / limit, -1, 1)


def _components(described: Float[np.ndarray, "n feature"]) -> Float[np.ndarray, "n component"]:
    """Return the leading principal components, each with the sign that makes its largest loading positive."""
    centred = described - described.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, : min(COMPONENTS, len(values))]
    return centred @ (axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])]))


def _start(places: Int[np.ndarray, "n 2"], features: Float[np.ndarray, "n component"]) -> np.ndarray:
    """Sort into columns by the first component, and within a column by the second."""
    by_column = np.lexsort((places[:, 0], places[:, 1]))
    items = np.argsort(features[:, 0], kind="stable")
    second = features[:, 1] if features.shape[1] > 1 else np.zeros(len(features))
    at = np.empty(len(features), dtype=int)
    ends = np.cumsum(np.bincount(places[:, 1]))
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        inside = items[start:end]
        at[by_column[start:end]] = inside[np.argsort(second[inside], kind="stable")]
    return at


def _on_grid(places: Int[np.ndarray, "n 2"], values: Float[np.ndarray, "n feature"]) -> np.ndarray:
    grid = np.zeros((*(places.max(axis=0) + 1), values.shape[1]))
    grid[places[:, 0], places[:, 1]] = values
    return grid


def _smooth(grid: np.ndarray, reach: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(grid, (reach / 2, reach / 2, 0), mode="constant", truncate=3)
