"""The result of a lesion study: one score per item, for every lesion and every task.

Only item scores are stored. Tables, intervals, tests, dissociations, verdicts and figures are computed from them,
without the model, and can be computed again with other options.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from modalnet._deprecation import renamed, renamed_option
from modalnet._validation import check_option
from modalnet.errors import InputError
from modalnet.lesion.design import Activity, Design
from modalnet.lesion.lesion import Control, Lesion, SetOfDraws, draws_by_set
from modalnet.results.result import Labelled, Result
from modalnet.stats.controls import RENAMED_MATCH, ratios_of, stored_match
from modalnet.tasks.base import TaskScores

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.table import Resamples


@dataclass(frozen=True, eq=False)
class LesionStudy(Result):
    """The item scores of a model under lesions; made by :func:`modalnet.lesion_study`.

    Attributes
    ----------
    model
        A readable name.
    base
        Scores without a lesion, by task.
    cells
        Item scores by (lesion, task), of the same items as ``base``. Cells that were not run are missing, and are
        reported as not tested.
    counts
        Number of units in each lesion.
    magnitudes
        Mean |activation| of the lesioned units over the mean of all units; NaN where unknown.
    failures
        Error messages, by (lesion, task).
    spare_first
        Number of tokens at the start of every text that were spared.
    seed
        Seed of the controls, and of all resampling here.
    settings
        All other arguments, as a JSON document.
    design
        By network and size, the sets of units: see :class:`modalnet.lesion.design.Design`.
    activity
        By lesion and task, the lesioned units at the tokens of the task: see
        :class:`modalnet.lesion.design.Activity`. Empty in files of version 0.1.

    Raises
    ------
    InputError
        If the parts are inconsistent.
    """

    NAME = "a lesion study"
    FORMAT = "modalnet.lesion_study"
    SOURCES = ("alkhamissi2025",)

    model: str
    base: dict[str, TaskScores]
    cells: dict[tuple[Lesion, str], Float[np.ndarray, " item"]]
    counts: dict[Lesion, int]
    magnitudes: dict[Lesion, float]
    failures: dict[tuple[Lesion, str], str]
    spare_first: int
    seed: int
    settings: dict[str, Any]
    design: dict[tuple[str, float], Design] = field(default_factory=dict)
    activity: dict[tuple[Lesion, str], Activity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cells = {key: np.asarray(scores, dtype=np.float64) for key, scores in self.cells.items()}
        for (lesion, task), scores in cells.items():
            if task not in self.base:
                raise InputError(f"{lesion} has scores on {task!r}, which has none without a lesion.")
            if scores.shape != np.shape(self.base[task].scores) or not scores.size:
                raise InputError(
                    f"{lesion} has scores {scores.shape} on {task!r}; without a lesion they are "
                    f"{np.shape(self.base[task].scores)}. Every lesion is scored on the same items."
                )
        for lesion, _ in [*cells, *self.failures]:
            if not math.isfinite(lesion.fraction):
                raise InputError(f"The size of a lesion must be a number, got {lesion}.")
        try:
            settings = json.loads(json.dumps(self.settings))  # compares equal after it was read from a file
        except (TypeError, ValueError) as error:
            raise InputError(f"The settings of a lesion study must be JSON: {error}") from error
        object.__setattr__(self, "cells", cells)
        object.__setattr__(self, "settings", settings)

    # -- what was run --------------------------------------------------------------------------------------------

    @cached_property
    def lesions(self) -> tuple[Lesion, ...]:
        """Every lesion that was run on a task, whether it failed or not."""
        return tuple(dict.fromkeys(lesion for lesion, _ in [*self.cells, *self.failures]))

    conditions = renamed("conditions", "lesions")

    @cached_property
    def networks(self) -> tuple[str, ...]:
        """The networks that were lesioned."""
        return tuple(dict.fromkeys(one.network for one in self.lesions))

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, including those that failed without a lesion."""
        return tuple(dict.fromkeys([*self.base, *(task for _, task in self.failures)]))

    @cached_property
    def operations(self) -> tuple[str, ...]:
        """The operations that were applied."""
        return tuple(dict.fromkeys(one.operation for one in self.lesions))

    def fractions(self, network: str) -> tuple[float, ...]:
        """The sizes at which a network was lesioned, smallest first."""
        return tuple(sorted({one.fraction for one in self.lesions if one.network == network}))

    def controls(self, lesion: Lesion, task: str, control: Control) -> list[Lesion]:
        """The controls of one kind that belong to a lesion and have scores on a task."""
        return self._controls.get(task, {}).get(lesion.controls(control), [])

    def match_ratios(
        self, lesion: Lesion, draws: Sequence[Lesion], task: str | None = None, *, sinks: bool = False
    ) -> Float[np.ndarray, " draw"]:
        """Mean |activation| of each control draw over that of the network that a lesion removes; NaN where unknown.

        At the ordinary tokens of a task that are lesioned, or at its sink tokens; without a task, or where that was not
        measured, where the network was localized.
        """
        everything = [lesion, *draws]
        sizes = [math.nan] * len(everything)
        if task is not None:
            found = [self.activity.get((one, task)) for one in everything]
            sizes = [math.nan if one is None else one.sink_mean_abs if sinks else one.mean_abs for one in found]
        if not sinks and not math.isfinite(sizes[0]):
            sizes = [self.magnitudes.get(one, math.nan) for one in everything]
        return ratios_of(sizes[0], sizes[1:])

    @cached_property
    def _controls(self) -> dict[str, dict[SetOfDraws, list[Lesion]]]:
        return {task: draws_by_set(lesion for lesion, name in self.cells if name == task) for task in self.base}

    # -- what follows from it ------------------------------------------------------------------------------------

    @cached_property
    def _resamples(self) -> Resamples:
        from modalnet.lesion.table import Resamples

        return Resamples(self)

    def table(self) -> pd.DataFrame:
        """One row per network, task, size and operation, with intervals and tests: see :mod:`.table`."""
        return self._resamples.table.copy()

    def dimensions(self) -> pd.DataFrame:
        """One row per network, task, size, operation and dimension left out, with what the rest costs.

        Returns
        -------
        DataFrame
            Columns network, task, fraction, operation, dimension, drop (of the whole network), drop_without (of the
            network without that dimension), drop_without_low, drop_without_high (95% interval over items), share
            (1 - drop_without / drop; NaN where the whole network costs nothing measurable).
        """
        from modalnet.lesion.dimensions import dimensions

        return dimensions(self)

    def selectivity(
        self,
        own: Mapping[str, str | Sequence[str]],
        fraction: float | None = None,
        operation: str | None = None,
        control: Control = "activation",
    ) -> pd.DataFrame:
        """Do networks cost their own tasks more than those of the others? See :func:`.selectivity.selectivity`."""
        from modalnet.lesion.selectivity import selectivity

        return selectivity(self, own, fraction=fraction, operation=operation, control=control)

    def at_chance(self, task: str) -> bool:
        """Whether the intact model may be guessing on a task: the 95% interval of its score reaches the chance level.

        Raises
        ------
        InputError
            For a task without scores.
        """
        check_option("task", task, list(self.base))
        return self._resamples.tasks[task].at_chance

    def selective_for(self, network: str, task: str, other: str, control: Control = "activation") -> pd.DataFrame:
        """Does a network cost one task more than another? See :func:`.dissociation.selective_for`."""
        from modalnet.lesion.dissociation import selective_for

        return selective_for(self, network, task, other, control=control)

    def costs_more(self, network: str, other: str, task: str, control: Control = "activation") -> pd.DataFrame:
        """Does a network cost a task more than another network? See :func:`.dissociation.costs_more`."""
        from modalnet.lesion.dissociation import costs_more

        return costs_more(self, network, other, task, control=control)

    def dissociation(
        self, fraction: float | None = None, operation: str | None = None, control: Control = "activation"
    ) -> pd.DataFrame:
        """Interactions of pairs of networks with pairs of tasks: see :func:`.dissociation.dissociation`."""
        from modalnet.lesion.dissociation import dissociation

        control = renamed_option("control", control, RENAMED_MATCH)
        return dissociation(self, fraction=fraction, operation=operation, control=control)

    def verdicts(self) -> pd.DataFrame:
        """One row per network, task and question: does the effect survive its controls? See :mod:`.verdicts`."""
        from modalnet.lesion.verdicts import verdicts

        return verdicts(self)

    def summary(self) -> str:
        """A report in words: an abridged table, the verdicts, and the failures."""
        from modalnet.lesion.verdicts import summary

        return summary(self)

    def plot(self, **options: Any) -> Any:
        """Draw scores against the size of the lesion: see :func:`modalnet.plotting.lesion.dose_curves`."""
        from modalnet.plotting.lesion import dose_curves

        return dose_curves(self, **options)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        tasks = [task for task in self.base for _ in self.base[task].items]
        scores = np.full((len(self.lesions), len(tasks)), np.nan)
        for row, lesion in enumerate(self.lesions):
            parts = [self.cells.get((lesion, task)) for task in self.base]
            empty = [np.full(len(self.base[task].items), np.nan) for task in self.base]
            scores[row] = np.concatenate([e if part is None else part for part, e in zip(parts, empty, strict=True)])
        arrays: Labelled = {
            "score": (("lesion", "item"), scores),
            "base": (("item",), np.concatenate([self.base[task].scores for task in self.base])),
            "n_units": (("lesion",), [self.counts[one] for one in self.lesions]),
            "magnitude": (("lesion",), [self.magnitudes[one] for one in self.lesions]),
        }
        coordinates: Labelled = {
            name: (("lesion",), [getattr(one, name) for one in self.lesions])
            for name in ("network", "fraction", "operation", "control", "draw")
        }
        coordinates["task"] = (("item",), tasks)
        coordinates["item_id"] = (("item",), [item for task in self.base for item in self.base[task].items])
        return arrays, coordinates

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} cells failed" if self.failures else ""
        return (
            f"LesionStudy({self.model}: {', '.join(self.networks)} on {', '.join(self.tasks)}; "
            f"{' and '.join(self.operations)} ablation, {len(self.cells)} cells{failed})"
        )

    # -- files ---------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the result as arrays and a JSON document, from which :meth:`_from_content` makes it again.

        Returns
        -------
        arrays
            ``base/<index of task>`` and ``cells/<index of cell>`` [item], ``chance`` [task],
            ``magnitudes`` [lesion with a magnitude], ``activity`` [lesion and task, 4]; all float64.
        document
            The rest. Lesions are listed once, cells and failures refer to them by position. ``"settings"`` is JSON
            within JSON, as settings may hold NaN.
        """
        measured = [lesion for lesion, _ in self.activity]
        lesions = list(dict.fromkeys([*self.lesions, *self.counts, *self.magnitudes, *measured]))
        place = {lesion: index for index, lesion in enumerate(lesions)}
        arrays = {
            "chance": np.array([scores.chance for scores in self.base.values()], dtype=np.float64),
            "magnitudes": np.array(list(self.magnitudes.values()), dtype=np.float64),
            "activity": np.array([astuple(one) for one in self.activity.values()], dtype=np.float64).reshape(-1, 4),
            **{f"base/{i}": np.asarray(one.scores, dtype=np.float64) for i, one in enumerate(self.base.values())},
            **{f"cells/{i}": scores for i, scores in enumerate(self.cells.values())},
        }
        document = {
            "model": self.model,
            "base": [[name, one.task, list(one.items), one.measure] for name, one in self.base.items()],
            "groups": [one.groups and list(one.groups) for one in self.base.values()],
            "lesions": [list(astuple(lesion)) for lesion in lesions],
            "cells": [[place[lesion], task] for lesion, task in self.cells],
            "counts": [[place[lesion], int(count)] for lesion, count in self.counts.items()],
            "magnitudes": [place[lesion] for lesion in self.magnitudes],
            "failures": [[place[lesion], task, message] for (lesion, task), message in self.failures.items()],
            "spare_first": int(self.spare_first),
            "seed": int(self.seed),
            "settings": json.dumps(self.settings),
            "design": [
                [network, size, one.n_dimensions, list(one.left_out), dict(one.overlap)]
                for (network, size), one in self.design.items()
            ],
            "activity": [[place[lesion], task] for lesion, task in self.activity],
        }
        return arrays, document

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> LesionStudy:
        lesions = [
            Lesion(network, fraction, operation, stored_match(control), draw)
            for network, fraction, operation, control, draw in document["lesions"]
        ]
        settings = json.loads(document["settings"])
        groups = [names and tuple(names) for names in document.get("groups", [None] * len(document["base"]))]
        if "matches" in settings:  # of modalnet 0.1
            settings["match"] = [stored_match(name) for name in settings.pop("matches")]
            settings["n_controls"] = settings.pop("controls", 0)
        return cls(
            model=document["model"],
            base={
                name: TaskScores(
                    task, tuple(items), arrays[f"base/{i}"], measure, float(arrays["chance"][i]), groups[i]
                )
                for i, (name, task, items, measure) in enumerate(document["base"])
            },
            cells={(lesions[at], task): arrays[f"cells/{i}"] for i, (at, task) in enumerate(document["cells"])},
            counts={lesions[at]: count for at, count in document["counts"]},
            magnitudes={
                lesions[at]: float(value)
                for at, value in zip(document["magnitudes"], arrays["magnitudes"], strict=True)
            },
            failures={(lesions[at], task): message for at, task, message in document["failures"]},
            spare_first=document["spare_first"],
            seed=document["seed"],
            settings=settings,
            design={
                (network, size): Design(count, tuple(left_out), overlap)
                for network, size, count, left_out, overlap in document.get("design", [])
            },
            activity={
                (lesions[at], task): Activity(*values)
                for (at, task), values in zip(
                    document.get("activity", []), arrays.get("activity", np.zeros((0, 4))).tolist(), strict=True
                )
            },
        )
