"""Reliability of networks: split-half overlap and held-out selectivity.

Units that were selected for the largest t have a large t by construction: with thousands of units, noise alone gives a
highly significant top 1%. Reporting selectivity on the stimuli that selected the units is circular (Kriegeskorte et al.
2009). Two measures are not:

* *Split-half overlap*: the network is selected from each of two disjoint halves of the stimuli, and the two networks
  are compared. Localizers of the human language network are validated in this way (Mahowald & Fedorenko 2016).
* *Held-out selectivity*: the network is selected on most of the stimuli, and its t is measured on the others.

Both are compared with layer-matched random units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_int
from modalnet.errors import InputError
from modalnet.localization import selection
from modalnet.results.result import Labelled, Result
from modalnet.stats.controls import draw_in_layers
from modalnet.stats.resampling import interval

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.localization.result import Localization


@dataclass(frozen=True, eq=False)
class Reliability(Result):
    """Reliability of a network over stimuli, compared with that of random units.

    Attributes
    ----------
    towers, fraction, n_selected
        The towers in which the network was selected, the fraction of units, and the number of units.
    dice
        [split] Dice overlap of the networks from two halves of the stimuli.
    dice_random
        [split, draw] Dice overlap of the network of one half with random units matched to that of the other.
    t_selecting, g_selecting
        [group] Mean t and Hedges' g of the selected units on the stimuli that selected them: inflated, for comparison.
    t_held_out, g_held_out
        [group] Mean t and Hedges' g of the same units on the held-out stimuli.
    t_random, g_random
        [group, draw] Mean t and Hedges' g of matched random units on the held-out stimuli.
    """

    towers: tuple[str, ...]
    fraction: float
    n_selected: int
    dice: Float[np.ndarray, " split"]
    dice_random: Float[np.ndarray, "split draw"]
    t_selecting: Float[np.ndarray, " group"]
    g_selecting: Float[np.ndarray, " group"]
    t_held_out: Float[np.ndarray, " group"]
    g_held_out: Float[np.ndarray, " group"]
    t_random: Float[np.ndarray, "group draw"]
    g_random: Float[np.ndarray, "group draw"]

    NAME = "a reliability"
    FORMAT = "modalnet.reliability"
    SOURCES = ("kriegeskorte2009", "mahowald2016")

    def table(self) -> pd.DataFrame:
        """Return every measure for the network and for matched random units.

        Returns
        -------
        DataFrame
            Columns measure, units (``"network"`` or ``"random"``), mean, low, high (the 2.5th and 97.5th percentile
            over splits, groups and draws).
        """
        import pandas as pd

        rows = [
            ("split-half Dice", "network", self.dice),
            ("split-half Dice", "random", self.dice_random),
            ("t, held out", "network", self.t_held_out),
            ("t, held out", "random", self.t_random),
            ("t, same stimuli", "network", self.t_selecting),
            ("g, held out", "network", self.g_held_out),
            ("g, held out", "random", self.g_random),
            ("g, same stimuli", "network", self.g_selecting),
        ]
        return pd.DataFrame(
            [
                (measure, units, _mean(values), *interval(values.ravel(), skip_nan=True))
                for measure, units, values in rows
            ],
            columns=["measure", "units", "mean", "low", "high"],
        )

    def summary(self) -> str:
        """Return the table as text."""
        lines = [f"Reliability of the top {self.fraction:.3%} ({self.n_selected} units) of {', '.join(self.towers)}"]
        for measure, units, mean, low, high in self.table().itertuples(index=False):
            lines.append(f"  {measure:<16} {units:<8} {mean:8.3f}  [{low:.3f}, {high:.3f}]")
        return "\n".join(lines)

    __str__ = summary

    def plot(self, **options: Any) -> Any:
        """Draw every measure beside that of random units, with intervals."""
        from modalnet.plotting.intervals import reliability_intervals

        return reliability_intervals(self, **options)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        axes = {"dice": ("split",), "dice_random": ("split", "split_draw"), "t_random": ("group", "draw")}
        axes["g_random"] = ("group", "draw")
        names = [name for name in _ARRAYS if not name.startswith("dice")] + ["dice", "dice_random"]
        return {name: (axes.get(name, ("group",)), getattr(self, name)) for name in names}, {}

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {name: np.asarray(getattr(self, name), dtype=np.float64) for name in _ARRAYS}
        return arrays, {"towers": list(self.towers), "fraction": self.fraction, "n_selected": self.n_selected}

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Reliability:
        towers, fraction, n_selected = document["towers"], document["fraction"], document["n_selected"]
        return cls(tuple(towers), fraction, n_selected, **{name: arrays[name] for name in _ARRAYS})


_ARRAYS = (
    *("dice", "dice_random", "t_selecting", "g_selecting"),
    *("t_held_out", "g_held_out", "t_random", "g_random"),
)


@renamed_arguments(n_random="n_controls")
def reliability(
    localization: Localization,
    *,
    fraction: float = 0.01,
    n_splits: int = 20,
    k: int = 5,
    n_controls: int = 20,
    seed: int = 0,
    towers: str | Sequence[str] | None = None,
) -> Reliability:
    """Measure whether a network comes back on other stimuli.

    Parameters
    ----------
    localization
        A localization with two or more folds of stimuli.
    fraction
        Fraction of the units of ``towers`` in the network, as for ``Localization.top``.
    n_splits
        Number of random splits of the folds into halves (of 10 folds, 5 and 5).
    k
        Number of groups into which folds are merged for held-out selectivity; each is held out once.
    n_controls
        Number of sets of random units per split and group. They have as many units in every layer as the network,
        drawn from all units with a defined t. A draw may contain units of the network; excluding them would
        underestimate the chance overlap.
    seed
        A non-negative integer; the same seed gives the same result.
    towers
        The towers to select from jointly; by default all that were localized.

    Returns
    -------
    Reliability

    Raises
    ------
    InputError
        If there is a single fold, ``k`` exceeds the number of folds, a half or group (or its complement) has fewer than
        two stimuli on a side, or the fraction selects no unit.

    References
    ----------
    Kriegeskorte, Simmons, Bellgowan & Baker (2009), Circular analysis in systems neuroscience: the dangers of double
    dipping, Nature Neuroscience 12:535-540. Mahowald & Fedorenko (2016), Reliable individual-level neural markers of
    high-level language processing, NeuroImage 139:74-93.
    """
    towers = selection.check_towers(towers, localization.spaces)
    n_folds = localization.n_folds
    if n_folds < 2:
        raise InputError("`localization` must have at least two folds of stimuli, got a single fold.")
    check_int("k", k, minimum=2, maximum=n_folds)
    check_int("n_splits", n_splits, minimum=1)
    check_int("n_controls", n_controls, minimum=1)
    layers = _layers(localization, towers)
    n_selected = 0

    def select(t: np.ndarray) -> np.ndarray:
        nonlocal n_selected
        ranked = selection.rank(t)
        n_selected = selection.how_many(fraction, None, n_units=len(t), n_defined=len(ranked))
        return _as_mask(ranked[:n_selected], len(t))

    dice, dice_random = [], []
    for split in range(n_splits):
        rng = np.random.Generator(np.random.PCG64([seed, 0, split]))
        order = np.argsort(rng.random(n_folds), kind="stable")
        t_a, t_b = (
            _contrast(localization, towers, half, "Half of the stimuli")[0]
            for half in (order[: n_folds // 2], order[n_folds // 2 :])
        )
        a, b = select(t_a), select(t_b)
        dice.append((a & b).sum() / n_selected)  # both have n_selected units
        draws = [draw_in_layers(rng, b, layers, ~np.isnan(t_b)) for _ in range(n_controls)]
        dice_random.append([(a & draw).sum() / n_selected for draw in draws])

    selecting, held_out, random = [], [], []
    for group in range(k):
        rng = np.random.Generator(np.random.PCG64([seed, 1, group]))
        inside = range(group, n_folds, k)
        rest = [fold for fold in range(n_folds) if fold not in inside]
        t_rest, g_rest = _contrast(localization, towers, rest, f"What lies outside group {group} of {k}")
        t, g = _contrast(localization, towers, inside, f"Group {group} of {k}")
        chosen = select(t_rest)
        draws = [draw_in_layers(rng, chosen, layers, ~np.isnan(t_rest)) for _ in range(n_controls)]
        selecting.append((_mean(t_rest[chosen]), _mean(g_rest[chosen])))
        held_out.append((_mean(t[chosen]), _mean(g[chosen])))
        random.append([(_mean(t[draw]), _mean(g[draw])) for draw in draws])

    (t_selecting, g_selecting), (t_held_out, g_held_out) = np.array(selecting).T, np.array(held_out).T
    t_random, g_random = np.moveaxis(np.array(random), -1, 0)
    return Reliability(
        towers=towers,
        fraction=fraction,
        n_selected=n_selected,
        dice=np.array(dice),
        dice_random=np.array(dice_random),
        t_selecting=t_selecting,
        g_selecting=g_selecting,
        t_held_out=t_held_out,
        g_held_out=g_held_out,
        t_random=t_random,
        g_random=g_random,
    )


def _contrast(
    localization: Localization, towers: Sequence[str], folds: Iterable[int], what: str
) -> tuple[Float[np.ndarray, " unit"], Float[np.ndarray, " unit"]]:
    """Return t and g of all units of the towers, computed on some folds only."""
    t, g = [], []
    folds = [int(fold) for fold in folds]
    for tower in towers:
        positive, negative = (localization.moments(side, tower, folds) for side in ("positive", "negative"))
        if min(positive.n, negative.n) < 2 and not localization.parametric:
            raise InputError(
                f"{what} has {positive.n} positive and {negative.n} negative stimuli, but a t requires two of each. "
                "Use more stimuli or fewer groups."
            )
        found = localization.statistics(tower, folds)
        t.append(found.test.t.ravel())
        g.append(found.effect_size.ravel())
    return np.concatenate(t), np.concatenate(g)


def _layers(localization: Localization, towers: Sequence[str]) -> list[slice]:
    """Return where each layer of the towers lies in the flat array of units."""
    widths = [width for tower in towers for width in [localization.shapes[tower][1]] * localization.shapes[tower][0]]
    ends = np.cumsum(widths).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def _as_mask(positions: Int[np.ndarray, " chosen"], size: int) -> Bool[np.ndarray, " unit"]:
    mask = np.zeros(size, dtype=bool)
    mask[positions] = True
    return mask


def _mean(values: np.ndarray) -> float:
    """Mean over the defined values: a unit may be constant on the few stimuli of a group."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
