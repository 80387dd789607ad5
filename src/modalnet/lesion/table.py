"""The table of a lesion study: the drop in score under each lesion and under its controls.

Columns of :meth:`modalnet.lesion.result.LesionStudy.table`, one row per network, task, size and operation. A *drop* is
the score without a lesion minus the score with it, in the task's measure: positive where the lesion impairs.

======================= ================================================================================================
network, task,          The cell of the study.
fraction, operation
measure, chance         Of the task.
units                   How many units were lesioned.
magnitude               Their mean |activation| over the mean of all units.
base, score             Mean over items without and with the lesion.
base_low, base_high     95% interval of base: a score interval of accuracies, else a bootstrap interval.
score_low, score_high   The same of score.
drop                    base - score.
drop_low, drop_high     95% bootstrap interval of the drop; a score interval where all items have the same drop.
failure                 The error message if there is no score; otherwise empty.
======================= ================================================================================================

Bootstrap intervals are expanded percentiles of 2,000 resamples of items, the same for all lesions of a task. Where
items are nested in groups (the paradigms of minimal pairs, test suites), groups are resampled in place of items, and
score intervals have the effective number of items: see :meth:`modalnet.tasks.TaskScores.interval`. With fewer than 5
groups items are resampled, with a warning. The tests over items take items as independent.

And for each kind of control K, ``layer``, ``activation`` and ``least`` (NaN where it was not run):

======================= ================================================================================================
n_K                     Number of draws with scores on the task.
magnitude_K             Mean of their magnitudes.
match_K                 Mean over draws of their magnitude over that of the network: 1 is a perfect match in activation.
match_K_low, _high      The lowest and highest draw.
drop_K                  Mean of their drops.
drop_K_low, _high       95% bootstrap interval: items (or groups) and draws resampled, 2,000 times.
excess_K                drop - drop_K: the drop in excess of the controls.
excess_K_low, _high     95% interval, over the same.
p_draws_K               (1 + draws that cost as much as the network) / (1 + n_K). One-sided; at least 1 / (n_K + 1).
p_items_K               Sign-flip permutation test over items of (mean score of the controls - score of the network).
                        One-sided: a network that costs less than its controls has a p near 1. At least 1 / 10,000.
q_draws_K, q_items_K    The same, Benjamini-Hochberg adjusted over all rows of the table.
z_K                     excess_K / standard deviation of the drops of the draws.
dz_K                    Mean / standard deviation over items of what p_items_K tests.
exceeds_K               Whether the network costs more than its controls: excess_K_low > 0, q_items_K < 0.05
                        and p_draws_K <= 0.05 (or the smallest value that so few draws allow: all of them cost less).
======================= ================================================================================================
"""

from __future__ import annotations

import math
import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from modalnet.lesion.lesion import Control, Lesion
from modalnet.stats import moments as statistics
from modalnet.stats.controls import average_ratio
from modalnet.stats.effect_sizes import paired_dz, standardized
from modalnet.stats.permutation import rank_p, sign_flip
from modalnet.stats.proportions import constant_difference, score_interval
from modalnet.stats.resampling import (
    LEVEL,
    bootstrap_excess,
    bootstrap_means,
    expanded,
    interval,
    item_groups,
    n_blocks,
)

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.result import LesionStudy

KINDS: tuple[Control, ...] = ("layer", "activation", "least")
N_RESAMPLES = 2_000
N_PERMUTATIONS = 9_999
ALPHA = 0.05

_PLAIN: tuple[str, ...] = (
    "network",
    "task",
    "fraction",
    "operation",
    "measure",
    "chance",
    "units",
    "magnitude",
    "base",
    "base_low",
    "base_high",
    "score",
    "score_low",
    "score_high",
)
_PLAIN += ("drop", "drop_low", "drop_high", "failure")
_PER_KIND: tuple[str, ...] = (
    "n",
    "magnitude",
    "match",
    "match_low",
    "match_high",
    "drop",
    "drop_low",
    "drop_high",
    "excess",
    "excess_low",
    "excess_high",
    "p_draws",
    "p_items",
    "q_draws",
)
_PER_KIND += ("q_items", "z", "dz", "exceeds")


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
        lesions = [lesion for lesion, name in study.cells if name == task]
        self._columns = {lesion: column for column, lesion in enumerate(lesions, start=1)}
        columns = [study.base[task].scores, *(study.cells[lesion, task] for lesion in lesions)]
        self.scores: Float[np.ndarray, "item cell"] = np.stack(columns, axis=1).astype(np.float64)
        # Depends on the study and the task alone: no other task changes its numbers.
        self._seed = [study.seed, zlib.crc32(task.encode())]
        base = study.base[task]
        self._accuracy = base.measure == "accuracy"
        self._groups = item_groups(base.groups, f"The items of {task!r}")
        self._blocks = n_blocks(len(self.scores), self._groups)
        self.means = bootstrap_means(self.scores, N_RESAMPLES, self.chance(0), self._groups)

    def chance(self, stream: int) -> np.random.Generator:
        """A random generator that depends on the study and the task alone."""
        return np.random.Generator(np.random.PCG64([*self._seed, stream]))

    def column(self, lesion: Lesion | None) -> int:
        """The column of a lesion; None is the intact model."""
        return 0 if lesion is None else self._columns[lesion]

    def interval(self, samples: Float[np.ndarray, " resample"]) -> tuple[float, float]:
        """Return the expanded percentile interval of a statistic over the resamples."""
        return interval(samples, expanded(LEVEL, self._blocks))

    def score_interval(self, lesion: Lesion | None) -> tuple[float, float]:
        """Return the interval of the mean score under a lesion."""
        column = self.column(lesion)
        if self._accuracy:
            return score_interval(self.scores[:, column], self._groups)
        return self.interval(self.means[:, column])

    def drop_interval(self, lesion: Lesion) -> tuple[float, float]:
        """Return the interval of the drop under a lesion, paired by item."""
        column = self.column(lesion)
        with np.errstate(invalid="ignore"):
            differences = self.scores[:, 0] - self.scores[:, column]
            drops = self.means[:, 0] - self.means[:, column]
        if self._accuracy and differences[0] in {-1.0, 0.0, 1.0} and (differences == differences[0]).all():
            return constant_difference(float(differences[0]), self._blocks)
        return self.interval(drops)


class Resamples:
    """The resamples and the table of a study, each computed once."""

    def __init__(self, study: LesionStudy) -> None:
        self.study = study

    @cached_property
    def tasks(self) -> dict[str, TaskResamples]:
        """By name, for the tasks that have scores."""
        return {task: TaskResamples(self.study, task) for task in self.study.base}

    @cached_property
    def table(self) -> pd.DataFrame:
        """See the module."""
        import pandas as pd

        study = self.study
        rows: list[dict[str, Any]] = []
        for network in study.networks:
            sizes = study.fractions(network)
            for task in study.tasks:
                for lesion in [Lesion(network, size, name) for size in sizes for name in study.operations]:
                    if (lesion, task) in study.cells or (lesion, task) in study.failures:
                        rows.append(self._row(lesion, task))
        for task in study.tasks:
            self._test_items([row for row in rows if row["task"] == task])
        columns = [*_PLAIN, *(_name(column, kind) for kind in KINDS for column in _PER_KIND)]
        table = pd.DataFrame(rows, columns=columns)
        for kind in KINDS:
            for test in ("draws", "items"):
                p = table[f"p_{test}_{kind}"].to_numpy(dtype=np.float64)
                table[f"q_{test}_{kind}"] = statistics.fdr(p)
            table[f"exceeds_{kind}"] = _exceeds(table, kind)
        return table

    def _row(self, lesion: Lesion, task: str) -> dict[str, Any]:
        study = self.study
        row: dict[str, Any] = {name: math.nan for name in _PLAIN}
        row |= {_name(column, kind): math.nan for kind in KINDS for column in _PER_KIND}
        row |= {f"n_{kind}": 0 for kind in KINDS}
        row |= {
            "network": lesion.network,
            "task": task,
            "fraction": lesion.fraction,
            "operation": lesion.operation,
            "units": study.counts.get(lesion, math.nan),
            "magnitude": study.magnitudes.get(lesion, math.nan),
            "failure": study.failures.get((lesion, task), ""),
            "measure": "",
        }
        if task in study.base:
            base = study.base[task]
            row |= {"measure": base.measure, "chance": base.chance, "base": base.mean}
            row["base_low"], row["base_high"] = self.tasks[task].score_interval(None)
        if (lesion, task) in study.cells:
            resamples = self.tasks[task]
            row["score"] = _mean(resamples.scores[:, resamples.column(lesion)])
            row["score_low"], row["score_high"] = resamples.score_interval(lesion)
            row["drop"] = _less(row["base"], row["score"])
            row["drop_low"], row["drop_high"] = resamples.drop_interval(lesion)
            for kind in KINDS:
                row |= self._against(row, lesion, kind)
        return row

    def _against(self, row: dict[str, Any], lesion: Lesion, kind: Control) -> dict[str, Any]:
        """The columns of one kind of control, except those that need all rows."""
        study, resamples = self.study, self.tasks[row["task"]]
        controls = study.controls(lesion, row["task"], kind)
        if not controls:
            return {}
        columns = [resamples.column(control) for control in controls]
        own = resamples.column(lesion)
        with np.errstate(invalid="ignore"):
            drops = row["base"] - resamples.scores[:, columns].mean(axis=0)
            # Over the same resamples: the excess of the network over its controls, and the drop of the controls.
            excess, above_base = (
                bootstrap_excess(resamples.means[:, one], resamples.means[:, columns], resamples.chance(1))
                for one in (own, resamples.column(None))
            )
        low, high = resamples.interval(excess)
        drop_low, drop_high = resamples.interval(0.0 - above_base)
        drop = _mean(drops)
        match, match_low, match_high = average_ratio(study.match_ratios(lesion, controls))
        return {
            f"n_{kind}": len(controls),
            f"magnitude_{kind}": _mean(np.array([study.magnitudes.get(one, math.nan) for one in controls])),
            f"match_{kind}": match,
            f"match_{kind}_low": match_low,
            f"match_{kind}_high": match_high,
            f"drop_{kind}": drop,
            f"drop_{kind}_low": drop_low,
            f"drop_{kind}_high": drop_high,
            f"excess_{kind}": _less(row["drop"], drop),
            f"excess_{kind}_low": low,
            f"excess_{kind}_high": high,
            f"p_draws_{kind}": rank_p(row["drop"], drops, alternative="greater"),
            f"z_{kind}": standardized(row["drop"], drops),
            f"dz_{kind}": paired_dz(self._differences(lesion, controls, row["task"])),
        }

    def _differences(self, lesion: Lesion, controls: list[Lesion], task: str) -> Float[np.ndarray, " item"]:
        resamples = self.tasks[task]
        columns = [resamples.column(control) for control in controls]
        with np.errstate(invalid="ignore"):
            return resamples.scores[:, columns].mean(axis=1) - resamples.scores[:, resamples.column(lesion)]

    def _test_items(self, rows: list[dict[str, Any]]) -> None:
        """Fill in the sign-flip tests of a task's rows, all over the same flips."""
        tests = [(row, kind) for row in rows for kind in KINDS if row[f"n_{kind}"]]
        if not tests:
            return
        task = rows[0]["task"]
        differences = []
        for row, kind in tests:
            lesion = Lesion(row["network"], row["fraction"], row["operation"])
            differences.append(self._differences(lesion, self.study.controls(lesion, task, kind), task))
        p = sign_flip(np.stack(differences, axis=1), N_PERMUTATIONS, self.tasks[task].chance(2), alternative="greater")
        for (row, kind), value in zip(tests, p, strict=True):
            row[f"p_items_{kind}"] = float(value)


def _name(column: str, kind: str) -> str:
    """``excess_low`` of ``activation`` is ``excess_activation_low``."""
    first, _, rest = column.partition("_")
    return f"{first}_{kind}_{rest}" if rest in {"low", "high"} else f"{column}_{kind}"


def _exceeds(table: pd.DataFrame, kind: str) -> Any:
    import pandas as pd

    names = (f"excess_{kind}_low", f"q_items_{kind}", f"p_draws_{kind}")
    low, q, p = (table[name].to_numpy(dtype=np.float64) for name in names)
    least = np.maximum(ALPHA, 1 / (table[f"n_{kind}"].to_numpy(dtype=np.float64) + 1))
    tested = np.isfinite(low) & np.isfinite(q) & np.isfinite(p)
    return pd.arrays.BooleanArray((low > 0) & (q < ALPHA) & (p <= least), mask=~tested)


def _mean(values: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        return float(values.mean())


def _less(one: float, other: float) -> float:
    return one - other if math.isfinite(one) and math.isfinite(other) else math.nan
