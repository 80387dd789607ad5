"""What units do in the intact model at the tokens of a task: what lesions put in, and what controls are matched in.

Each task and tower has a reference of its own, so that no task changes what a lesion does on another. Sink tokens, of
which no ordinary token has the activations, are left out of it where lesions spare them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from modalnet.activations import TokenStatistics, donors, token_statistics
from modalnet.errors import InputError
from modalnet.interventions.operations import Intervention, mean, resample, scale, zero
from modalnet.lesion.design import Activity
from modalnet.models.towers import modality_of
from modalnet.tasks.base import LikelihoodTask, Task
from modalnet.units import Units

if TYPE_CHECKING:
    from modalnet.model import Model
    from modalnet.results.cache import CacheLike
    from modalnet.stimuli import Stimulus

# Stimuli of a task over which its reference is taken.
REFERENCE = 100

PerUnit = Mapping[str, Float[np.ndarray, "layer unit"]]


@dataclass
class Reference:
    """What units do at the tokens of one task, as far as it was asked for.

    Attributes
    ----------
    model, stimuli, continuations
        What runs: stimuli of the task, with a continuation each, or stimuli that the user gave.
    given
        Whether the user gave stimuli that means and donors are taken from instead.
    """

    model: Model
    stimuli: Sequence[Stimulus]
    continuations: Sequence[str] | None
    given: Sequence[Stimulus] | None
    spare_first: int
    spare_sinks: bool
    seed: int
    batch_size: int | Literal["auto"]
    cache: CacheLike
    statistics: dict[str, TokenStatistics] = field(default_factory=dict)
    _means: dict[str, Float[np.ndarray, "layer unit"]] = field(default_factory=dict)
    _donors: dict[str, Float[np.ndarray, "donor layer unit"]] = field(default_factory=dict)

    def reached(self, spaces: Sequence[str]) -> list[str]:
        """Those of some spaces that every stimulus of the task reaches."""
        return self.model._executor.reached_spaces(list(self.stimuli), list(spaces))

    def measure(self, spaces: Sequence[str]) -> None:
        """Run the stimuli of the task and take the statistics of all units of some spaces."""
        for reads_text in (True, False):
            some = [space for space in spaces if self._reads_text(space) == reads_text]
            if some:
                found = token_statistics(
                    self.model,
                    list(self.stimuli),
                    some,
                    continuations=self.continuations if reads_text else None,
                    **self._options(some[0]),
                )
                self.statistics |= dict.fromkeys(some, found)

    def means(self, space: str) -> Float[np.ndarray, "layer unit"]:
        """What mean ablation sets units to."""
        if space not in self._means:
            statistics = self.statistics[space]
            if self.given is not None:
                statistics = token_statistics(self.model, self._given(space), [space], **self._options(space))
            self._means[space] = statistics.mean[space]
        return self._means[space]

    def donors(self, space: str) -> Float[np.ndarray, "donor layer unit"]:
        """Tokens whose activations stand for those of others."""
        if space not in self._donors:
            own = self.given is None
            self._donors |= donors(
                self.model,
                list(self.stimuli) if own else self._given(space),
                [space],
                continuations=self.continuations if own and self._reads_text(space) else None,
                spare_sinks=self.spare_sinks,
                spare_first=self._spared(space),
                seed=self.seed,
            )
        return self._donors[space]

    def intervention(self, units: Units, operation: str) -> Intervention:
        """The intervention that lesions units of one space, at the tokens that it acts on."""
        (space,) = (name for name, mask in units.mask.items() if mask.any())
        if operation == "zero":
            made = zero(units)
        elif operation == "mean":
            made = mean(units, over={space: self.means(space)})
        elif operation == "resample":
            made = resample(units, over={space: self.donors(space)}, seed=self.seed)
        else:
            made = scale(units, float(operation.removeprefix("scale ")))
        return made.at("all", spare_first=self._spared(space), spare_sinks=self.spare_sinks)

    def activity(self, units: Units, operation: str) -> Activity | None:
        """What lesioned units do in the intact model, and what is put in; None where nothing is lesioned."""
        spaces = [space for space, mask in units.mask.items() if mask.any() and space in self.statistics]
        if not spaces:
            return None

        mean_abs, sd, sinks = (
            np.concatenate([getattr(self.statistics[space], name)[space][units.mask[space]] for space in spaces])
            for name in ("mean_abs", "sd", "sink_mean_abs")
        )
        squares = np.concatenate([self._change(space, units.mask[space], operation) for space in spaces])
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.sqrt(squares) / sd
        known = distance[np.isfinite(distance)]
        return Activity(
            float(np.nanmean(mean_abs)) if np.isfinite(mean_abs).any() else math.nan,
            float(np.nanmean(sinks)) if not self.spare_sinks and np.isfinite(sinks).any() else math.nan,
            float(np.median(known)) if known.size else math.nan,
            float(known.max()) if known.size else math.nan,
        )

    def _change(
        self, space: str, mask: Bool[np.ndarray, "layer unit"], operation: str
    ) -> Float[np.ndarray, " selected"]:
        """How far a lesion takes units of a space from their means: the mean squared distance, of vectors as well."""

        def of(values: Float[np.ndarray, "... layer number"]) -> Float[np.ndarray, "... unit size"]:
            return self.model.spaces[space].of_units(values)[..., mask, :].astype(np.float64)

        statistics = self.statistics[space]
        centre = of(statistics.mean[space])
        if operation == "mean":
            return ((of(self.means(space)) - centre) ** 2).sum(-1)
        if operation == "resample":
            return ((of(self.donors(space)) - centre) ** 2).sum(-1).mean(axis=0)
        factor = 0.0 if operation == "zero" else float(operation.removeprefix("scale "))
        return ((factor - 1) * centre**2 * (factor - 1)).sum(-1) + (factor * statistics.sd[space][mask]) ** 2

    def _given(self, space: str) -> list[Stimulus]:
        return fitting(self.model, self.given or (), space)

    def _options(self, space: str) -> dict[str, Any]:
        return {
            "spare_first": self._spared(space),
            "spare_sinks": self.spare_sinks,
            "batch_size": self.batch_size,
            "cache": self.cache,
        }

    def _spared(self, space: str) -> int:
        return self.spare_first if self._reads_text(space) else 0

    def _reads_text(self, space: str) -> bool:
        return modality_of(self.model.spaces[space].tower.name) != "image"


def check_given(model: Model, given: Sequence[Stimulus], spaces: Sequence[str]) -> None:
    """Refuse stimuli of the user of which none reaches a space that is lesioned."""
    for space in spaces:
        if not fitting(model, given, space):
            raise InputError(
                f"Mean ablation and resampling in {space} require stimuli with {model.spaces[space].tower.noun}, but "
                f"none of the {len(given)} in `reference` has any. Give some, or choose other `operations`."
            )


def fitting(model: Model, given: Sequence[Stimulus], space: str) -> list[Stimulus]:
    """Those of some stimuli that reach a space."""
    return [one for one in given if model._executor.reached_spaces([one], space)]


def stimuli_of(task: Task, most: int | None = None) -> tuple[list[Stimulus], list[str] | None]:
    """The stimuli that a task asks about, or so many evenly from all, with the continuations that are scored."""
    from modalnet.stimuli import Stimulus

    asked = task.requests() if isinstance(task, LikelihoodTask) else task.stimuli()  # type: ignore[attr-defined]
    places = np.linspace(0, len(asked) - 1, min(len(asked), most or len(asked))).round().astype(int)
    chosen = [asked[place] for place in places.tolist()]
    if not isinstance(task, LikelihoodTask):
        return chosen, None
    return [one.stimulus or Stimulus.blank() for one in chosen], [one.continuation for one in chosen]


def pooled(references: Sequence[Reference], quantity: str) -> PerUnit:
    """The geometric mean over tasks of a positive statistic of every unit, by space."""
    found: dict[str, list[np.ndarray]] = {}
    for one in references:
        for space, statistics in one.statistics.items():
            found.setdefault(space, []).append(getattr(statistics, quantity)[space])
    tiny = np.finfo(np.float64).tiny
    return {space: np.exp(np.mean(np.log(np.maximum(each, tiny)), axis=0)) for space, each in found.items()}
