"""The table of a lesion study: the drop in score under each lesion and under its controls.

Columns of :meth:`modalnet.lesion.result.LesionStudy.table`, one row per network, task, size and operation. A *drop* is
the score without a lesion minus the score with it, in the task's measure: positive where the lesion impairs. Where
graded lesions were run (``"scale 0.25"`` ...), rows with the operation ``"slope"`` give the drop per unit of dose.

======================= ================================================================================================
network, task,          The cell of the study.
fraction, operation
measure, chance         Of the task.
units, dimensions       How many units were lesioned, and in how many distinct dimensions.
magnitude               Their mean |activation| over the mean of all units, where the network was localized.
inserted, inserted_max  How far the inserted values lie from those of ordinary tokens of the task, in standard
                        deviations of the unit: the median over units, and the largest. 1 is what another token has.
base, score             Mean over items without and with the lesion.
base_low, base_high     95% interval of base: a score interval of accuracies, else a bootstrap interval.
score_low, score_high   The same of score.
drop                    base - score.
drop_low, drop_high     95% interval of the drop: a score interval of accuracies, else a bootstrap interval.
failure                 The error message if there is no score; otherwise empty.
======================= ================================================================================================

Bootstrap intervals are expanded percentiles of 2,000 resamples of items, the same for all lesions of a task. Where
items are nested in groups (the paradigms of minimal pairs, test suites), groups are resampled in place of items, and
score intervals have the effective number of items: see :meth:`modalnet.tasks.TaskScores.interval`. With fewer than 5
groups items are resampled, with a warning.

And for each kind of control K (NaN where it was not run):

======================= ================================================================================================
n_K                     Number of draws with scores on the task.
magnitude_K             Mean of their magnitudes.
match_K                 Mean |activation| of a draw over that of the network, at the ordinary tokens of the task that
                        are lesioned (where it was localized, if that is not known), mean over draws: 1 is a perfect
                        match.
match_K_low, _high      The lowest and highest draw.
match_K_sinks           The same at sink tokens, where these are lesioned.
overlap_K               Mean overlap (Dice) of two draws.
drop_K                  Mean of their drops.
drop_K_low, _high       95% interval of that mean, for other draws and items.
excess_K                drop - drop_K: the drop in excess of the controls.
excess_K_low, _high     95% interval of the drop in excess of *one more draw*: see :mod:`modalnet.stats.new_draw`.
p_draws_K               (1 + draws that cost as much as the network) / (1 + n_K). One-sided; at least 1 / (n_K + 1).
p_K                     Whether the network costs more than one more draw: the larger of p_draws_K and of the two-sided
                        p value of one more normal draw.
q_K                     The same, Benjamini-Hochberg adjusted over all rows of the table.
z_K                     excess_K / standard deviation of the drops of the draws.
detectable_K            The smallest excess that would be found with a probability of 0.8.
exceeds_K               Whether p_K <= 0.05 and the network costs more; missing with fewer than 19 draws, which cannot
                        tell.
======================= ================================================================================================
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.lesion.lesion import ALL_SIZES, LEAST, SLOPE, WITHOUT, Control, Lesion
from modalnet.lesion.resamples import TaskResamples
from modalnet.stats import moments as statistics
from modalnet.stats.controls import average_ratio
from modalnet.stats.effect_sizes import standardized

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.result import LesionStudy

KINDS: tuple[Control, ...] = ("layer", "activation", LEAST)  # every table has columns for these

_PLAIN: tuple[str, ...] = (
    *("network", "task", "fraction", "operation", "measure", "chance", "units", "dimensions", "magnitude"),
    *("inserted", "inserted_max", "base", "base_low", "base_high", "score", "score_low", "score_high"),
    *("drop", "drop_low", "drop_high", "failure"),
)
_PER_KIND: tuple[str, ...] = (
    *("n", "magnitude", "match", "match_low", "match_high", "match_sinks", "overlap"),
    *("drop", "drop_low", "drop_high", "excess", "excess_low", "excess_high"),
    *("p_draws", "p", "q", "z", "detectable", "exceeds"),
)


class Resamples:
    """The resamples and the table of a study, each computed once."""

    def __init__(self, study: LesionStudy) -> None:
        self.study = study
        self._rows: dict[tuple[Lesion, str], dict[str, Any]] = {}

    @cached_property
    def tasks(self) -> dict[str, TaskResamples]:
        """By name, for the tasks that have scores."""
        return {task: TaskResamples(self.study, task) for task in self.study.base}

    @cached_property
    def kinds(self) -> tuple[Control, ...]:
        """The kinds of controls that have columns."""
        run = {one.control for one in self.study.lesions} - {"", WITHOUT}
        return (*KINDS[:2], *sorted(run.difference(KINDS)), LEAST)

    @cached_property
    def table(self) -> pd.DataFrame:
        """See the module."""
        import pandas as pd

        study = self.study
        rows: list[dict[str, Any]] = []
        for network in study.networks:
            for task in study.tasks:
                for size in study.fractions(network):
                    for lesion in [Lesion(network, size, name) for name in (*study.operations, SLOPE)]:
                        if (lesion, task) in study.failures or self.has(lesion, task):
                            rows.append(self.row(lesion, task))
        columns = [*_PLAIN, *(_name(column, kind) for kind in self.kinds for column in _PER_KIND)]
        table = pd.DataFrame(rows, columns=columns)
        for kind in self.kinds:
            p = table[f"p_{kind}"].to_numpy(dtype=np.float64)
            table[f"q_{kind}"] = statistics.fdr(p)
            table[f"exceeds_{kind}"] = pd.array(list(table[f"exceeds_{kind}"]), dtype="boolean")
        return table

    def has(self, lesion: Lesion, task: str) -> bool:
        """Whether a lesion has scores on a task."""
        return task in self.tasks and lesion in self.tasks[task]

    def row(self, lesion: Lesion, task: str) -> dict[str, Any]:
        """One row, without what needs the others; also of the mean over sizes (``ALL_SIZES``).

        It is computed once: the table has it, and a verdict rests on it.
        """
        if (lesion, task) not in self._rows:
            self._rows[lesion, task] = self._row(lesion, task)
        return dict(self._rows[lesion, task])

    def _row(self, lesion: Lesion, task: str) -> dict[str, Any]:
        study = self.study
        row: dict[str, Any] = {name: math.nan for name in _PLAIN}
        row |= {_name(column, kind): math.nan for kind in self.kinds for column in _PER_KIND}
        row |= {f"n_{kind}": 0 for kind in self.kinds} | {f"exceeds_{kind}": None for kind in self.kinds}
        shown = self._shown(lesion)
        design = study.design.get((shown.network, shown.fraction))
        activity = study.activity.get((shown, task))
        row |= {
            "network": lesion.network,
            "task": task,
            "fraction": lesion.fraction,
            "operation": lesion.operation,
            "units": study.counts.get(shown, math.nan),
            "dimensions": design.n_dimensions if design else math.nan,
            "magnitude": study.magnitudes.get(shown, math.nan),
            "inserted": activity.inserted if activity else math.nan,
            "inserted_max": activity.inserted_max if activity else math.nan,
            "failure": study.failures.get((shown, task), ""),
            "measure": "",
        }
        if task in study.base:
            base = study.base[task]
            row |= {"measure": base.measure, "chance": base.chance, "base": base.mean}
            row["base_low"], row["base_high"] = self.tasks[task].score_interval(None)
        if self.has(lesion, task):
            resamples = self.tasks[task]
            row["score"] = resamples.score(lesion)
            row["score_low"], row["score_high"] = resamples.score_interval(lesion)
            row["drop"] = resamples.drop(lesion)
            row["drop_low"], row["drop_high"] = resamples.drop_interval(lesion)
            for kind in self.kinds:
                row |= self._against(row, lesion, shown, kind)
        return row

    def _shown(self, lesion: Lesion) -> Lesion:
        """The lesion that was run whose units and values stand for this one: the largest size, the full dose."""
        size = self.study.fractions(lesion.network)[-1] if lesion.fraction == ALL_SIZES else lesion.fraction
        return Lesion(lesion.network, size, "zero" if lesion.operation == SLOPE else lesion.operation)

    def _against(self, row: dict[str, Any], lesion: Lesion, shown: Lesion, kind: Control) -> dict[str, Any]:
        """The columns of one kind of control, except those that need all rows."""
        study, resamples = self.study, self.tasks[row["task"]]
        beside = resamples.beside(lesion, kind)
        if beside is None:
            return {}
        controls = resamples.controls(lesion, kind)
        draws = [Lesion(shown.network, shown.fraction, shown.operation, kind, one.draw) for one in controls]
        with np.errstate(invalid="ignore"):
            drops = np.array([resamples.drop(one) for one in controls])
        match, low, high = average_ratio(study.match_ratios(shown, draws, row["task"]))
        sinks, _, _ = average_ratio(study.match_ratios(shown, draws, row["task"], sinks=True))
        design = study.design.get((shown.network, shown.fraction))
        return {
            f"n_{kind}": beside.n,
            f"magnitude_{kind}": float(np.mean([study.magnitudes.get(one, math.nan) for one in draws])),
            f"match_{kind}": match,
            f"match_{kind}_low": low,
            f"match_{kind}_high": high,
            f"match_{kind}_sinks": sinks,
            f"overlap_{kind}": design.overlap.get(kind, math.nan) if design else math.nan,
            f"drop_{kind}": beside.control,
            f"drop_{kind}_low": beside.control_low,
            f"drop_{kind}_high": beside.control_high,
            f"excess_{kind}": beside.excess,
            f"excess_{kind}_low": beside.low,
            f"excess_{kind}_high": beside.high,
            f"p_draws_{kind}": beside.p_rank,
            f"p_{kind}": beside.p,
            f"z_{kind}": standardized(row["drop"], drops),
            f"detectable_{kind}": beside.detectable,
            f"exceeds_{kind}": beside.exceeds,
        }


def _name(column: str, kind: str) -> str:
    """``excess_low`` of ``activation`` is ``excess_activation_low``."""
    first, _, rest = column.partition("_")
    return f"{first}_{kind}_{rest}" if rest in {"low", "high", "sinks"} else f"{column}_{kind}"
