"""All lesions of a task, with the resamples of items that they share, and each network beside its controls.

Slopes over graded lesions and means over sizes are linear in the item scores, so they are item scores themselves, of
lesions that were not run: slope rows have the operation ``"slope"``, means over sizes the size ``ALL_SIZES``.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from modalnet.lesion.lesion import ALL_SIZES, SLOPE, Control, Lesion, dose, draws_by_set
from modalnet.stats.new_draw import NewDraw, beside_draws
from modalnet.stats.proportions import difference_interval, score_interval
from modalnet.stats.resampling import (
    LEVEL,
    block_values,
    bootstrap_means,
    expanded,
    interval,
    item_groups,
    mean_intervals,
    n_blocks,
)

if TYPE_CHECKING:
    from modalnet.lesion.result import LesionStudy

N_RESAMPLES = 2_000


class TaskResamples:
    """All lesions of a study on one task, with resamples of the items that they share.

    Attributes
    ----------
    scores
        [item, cell]; the first cell is the intact model.
    means
        [resample, cell]
    """

    def __init__(self, study: LesionStudy, task: str) -> None:
        base = study.base[task]
        cells = {lesion: scores for (lesion, name), scores in study.cells.items() if name == task}
        cells |= _slopes(np.asarray(base.scores, dtype=np.float64), cells)
        cells |= _over_sizes(cells)
        self._columns = {lesion: column for column, lesion in enumerate(cells, start=1)}
        self._draws = draws_by_set(cells)
        self._study = study
        self.scores: Float[np.ndarray, "item cell"] = np.stack([base.scores, *cells.values()], axis=1).astype(
            np.float64
        )
        # Depends on the study and the task alone: no other task changes its numbers.
        self._seed = [study.seed, zlib.crc32(task.encode())]
        self._accuracy = base.measure == "accuracy"
        self._chance = base.chance
        doses = [amount for amount in map(dose, study.operations) if amount is not None]
        self._steepest = sum(doses) / sum(amount**2 for amount in doses) if doses else 1.0
        groups = item_groups(base.groups, f"The items of {task!r}")
        self._groups = groups
        self.n_blocks = n_blocks(len(self.scores), groups)
        chance = np.random.Generator(np.random.PCG64([*self._seed, 0]))
        self.means = bootstrap_means(self.scores, N_RESAMPLES, chance, groups)

    def __contains__(self, lesion: Lesion | None) -> bool:
        return lesion is None or lesion in self._columns

    def column(self, lesion: Lesion | None) -> int:
        """The column of a lesion; None is the intact model."""
        return 0 if lesion is None else self._columns[lesion]

    def score(self, lesion: Lesion | None) -> float:
        """Mean score over items."""
        with np.errstate(invalid="ignore"):
            return float(self.scores[:, self.column(lesion)].mean())

    def drop(self, lesion: Lesion) -> float:
        """Mean score of the intact model minus that under the lesion; NaN where one is not finite."""
        base, score = self.score(None), self.score(lesion)
        return base - score if math.isfinite(base) and math.isfinite(score) else math.nan

    def controls(self, lesion: Lesion, kind: Control) -> list[Lesion]:
        """The draws of one kind of control that belong to a network's lesion and have scores, in order."""
        return self._draws.get(lesion.controls(kind), [])

    def interval(self, samples: Float[np.ndarray, " resample"]) -> tuple[float, float]:
        """Return the expanded percentile interval of a statistic over the resamples."""
        return interval(samples, expanded(LEVEL, self.n_blocks))

    def score_interval(self, lesion: Lesion | None) -> tuple[float, float]:
        """Return the interval of the mean score under a lesion, or of the intact model."""
        column = self.column(lesion)
        # A slope is no score between 0 and 1.
        if self._accuracy and (lesion is None or lesion.operation != SLOPE):
            return score_interval(self.scores[:, column], self._groups)
        return self._mean_interval(self.scores[:, column], 1)

    @property
    def at_chance(self) -> bool:
        """Whether the intact model may be guessing: then there is no ability that a lesion could take or spare."""
        return math.isfinite(self._chance) and self.score_interval(None)[0] <= self._chance

    def _mean_interval(self, values: Float[np.ndarray, " item"], stream: int) -> tuple[float, float]:
        """The bootstrap-t interval of a mean over items, or over groups."""
        chance = np.random.Generator(np.random.PCG64([*self._seed, stream]))
        low, high = mean_intervals(block_values(values[:, None], self._groups), N_RESAMPLES, chance)[:, 0]
        return float(low), float(high)

    def drop_interval(self, lesion: Lesion, other: Lesion | None = None) -> tuple[float, float]:
        """Return the interval of the drop under a lesion, or of its drop less that of another one, paired by item."""
        column, beside = self.column(lesion), self.column(other)
        with np.errstate(invalid="ignore"):
            drops = self.scores[:, beside] - self.scores[:, column]
        return self._change_interval(drops, lesion.operation)

    def _change_interval(self, changes: Float[np.ndarray, " item"], operation: str) -> tuple[float, float]:
        """The interval of a mean change of scores, or of a slope, over items."""
        if not self._accuracy:
            return self._mean_interval(changes, 2)
        # A slope of accuracies lies between that of no item changing and of all at every dose.
        most = self._steepest if operation == SLOPE else 1.0
        low, high = difference_interval(changes / most, self._groups)
        return most * low, most * high

    def beside(self, lesion: Lesion, kind: Control) -> NewDraw | None:
        """Compare the drop of a network with those of a kind of control; None where these were not run."""
        controls = self.controls(lesion, kind)
        if not controls:
            return None
        columns = np.array([self._columns[one] for one in controls])
        own = self._columns[lesion]
        with np.errstate(invalid="ignore", over="ignore"):
            drops = self.score(None) - self.scores[:, columns].mean(axis=0)
            means = self.means[:, columns]
            centre = means.mean(axis=1)
            n = len(columns)
            # A draw minus the mean of the others varies as the network minus the mean of all does, where items say the
            # same of both.
            of_a_draw = (means - centre[:, None]).var(axis=0).mean() * (n / (n - 1)) ** 2 if n > 1 else math.nan
            of_network = (self.means[:, own] - centre).var()
            items = of_network - of_a_draw
            # Resamples of few blocks vary too little.
            items_of_mean = (self.means[:, 0] - centre).var() * self.n_blocks / max(1, self.n_blocks - 1)
            if self._accuracy and self._groups is not None:
                # At ceiling only a few groups change at all, and resamples of them say too little.
                changes = (self.scores[:, [0]] - self.scores[:, columns]).mean(axis=1)
                low, high = difference_interval(changes, self._groups)
                items_of_mean = max(items_of_mean, ((high - low) / 2 / _quantile(self.n_blocks)) ** 2)
            if self._accuracy and of_network == 0 and np.ptp(drops) == 0:
                # No set of units changes any item otherwise than others do, which says nothing for certain.
                changes = self.scores[:, columns].mean(axis=1) - self.scores[:, own]
                low, high = self._change_interval(changes, lesion.operation)
                items = ((high - low) / 2 / _quantile(n)) ** 2
        finite = math.isfinite(items) and math.isfinite(items_of_mean)
        return beside_draws(
            self.drop(lesion),
            drops,
            overlap=self._overlap(lesion, kind),
            items=max(0.0, float(items)) if finite else 0.0,
            items_of_mean=float(items_of_mean) if finite else 0.0,
            blocks=self.n_blocks,
        )

    def _overlap(self, lesion: Lesion, kind: Control) -> float:
        """The mean overlap of two draws; over all sizes the largest."""
        sizes = self._study.fractions(lesion.network) if lesion.fraction == ALL_SIZES else [lesion.fraction]
        known = [self._study.design.get((lesion.network, size)) for size in sizes]
        return max((one.overlap.get(kind, 0.0) for one in known if one), default=0.0)


def _quantile(n: int) -> float:
    """The quantile of t that makes a 95% interval over n blocks as wide as it is."""
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, max(1, n - 1)))


def _slopes(
    base: Float[np.ndarray, " item"], cells: dict[Lesion, Float[np.ndarray, " item"]]
) -> dict[Lesion, Float[np.ndarray, " item"]]:
    """The score without a lesion minus the drop per unit of dose, of every set with two or more doses.

    The slope is that of least squares through the origin, as dose 0 is the intact model: sum(dose * drop) / sum(dose²).
    """
    doses: dict[Lesion, dict[float, np.ndarray]] = {}
    for one, scores in cells.items():
        amount = dose(one.operation)
        if amount is not None:
            key = Lesion(one.network, one.fraction, SLOPE, one.control, one.draw)
            doses.setdefault(key, {})[amount] = scores
    most = max((len(each) for each in doses.values()), default=0)
    with np.errstate(invalid="ignore"):
        return {
            key: base - sum(d * (base - scores) for d, scores in each.items()) / sum(d * d for d in each)
            for key, each in doses.items()
            if len(each) == most > 1
        }


def _over_sizes(cells: dict[Lesion, Float[np.ndarray, " item"]]) -> dict[Lesion, Float[np.ndarray, " item"]]:
    """The mean over sizes of every set that has scores at all sizes of its network."""
    sizes: dict[tuple[str, str], set[float]] = {}
    parts: dict[Lesion, list[np.ndarray]] = {}
    for one, scores in cells.items():
        sizes.setdefault((one.network, one.operation), set()).add(one.fraction)
        parts.setdefault(Lesion(one.network, ALL_SIZES, one.operation, one.control, one.draw), []).append(scores)
    return {
        key: np.mean(scores, axis=0)
        for key, scores in parts.items()
        if len(scores) == len(sizes[key.network, key.operation]) > 1
    }
