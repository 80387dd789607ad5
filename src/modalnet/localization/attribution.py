"""Localization by causal effect: the units whose patching moves a metric, pair by pair.

A contrast of activations asks which units respond to a condition. Attribution asks which units an answer depends on:
the stimuli of a pair are a clean (positive) and a corrupt (negative) run, and a unit's value is the estimated change of
the metric when its clean activation is patched into the corrupt run. Its t is that of these effects over pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from modalnet.errors import InputError
from modalnet.interventions.operations import Site
from modalnet.localization.design import Design, design_of
from modalnet.stats.regression import CrossMoments
from modalnet.stimuli.contrast import Contrast

if TYPE_CHECKING:
    from jaxtyping import Float

    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

#: Yields the index of each pair with the effect of each unit per space.
Effects = Iterator[tuple[int, "dict[str, Float[np.ndarray, 'layer dim']]"]]


class EffectMetric(Protocol):
    """What a metric of :mod:`modalnet.patching` gives: estimates of the effects of units."""

    kind: Any
    answers: Any
    distractors: Any
    function: Callable[..., Any] | None

    def unit_effects(self, model: Model, clean: Any, corrupt: Any, *, sites: Any, **options: Any) -> Effects:
        """See :meth:`modalnet.patching.Metric.unit_effects`."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """The pairs of a contrast, and how the effects of units are estimated.

    Attributes
    ----------
    contrast, design
        With an item for each pair, and its paired design.
    metric
        The metric of the answer.
    options
        ``method``, ``steps`` and ``align`` of :func:`modalnet.attribution_patching`.
    """

    contrast: Contrast
    design: Design
    metric: EffectMetric
    options: dict[str, Any]

    @classmethod
    def of(cls, contrast: Contrast, metric: Any, **options: Any) -> Attribution:
        """Pair the stimuli of a contrast.

        Raises
        ------
        InputError
            If the stimuli do not pair, or the metric is none of :mod:`modalnet.patching`.
        """
        if not callable(getattr(metric, "unit_effects", None)):
            raise InputError(
                "by='attribution' needs a `metric` of modalnet.patching, such as logit_difference(answers, "
                f"distractors), or custom(function), got {metric!r:.80}."
            )
        paired = _paired(contrast)
        return cls(paired, replace(design_of(paired, paired=True), test="attribution"), metric, options)

    def meta(self) -> dict[str, Any]:
        """What a result says of it."""
        answers, distractors = (list(one) if isinstance(one, tuple) else one for one in self._texts)
        return {"metric": self.metric.kind, "answers": answers, "distractors": distractors} | self.options

    @property
    def _texts(self) -> tuple[Any, Any]:
        return self.metric.answers, self.metric.distractors

    @property
    def storable(self) -> bool:
        """Whether the metric has an identity, which a function has not."""
        return self.metric.function is None

    def effects(self, model: Model, spaces: Sequence[str], batch_size: int | Literal["auto"]) -> Effects:
        """Validate the pairs; then yield the effects of each."""
        sides: dict[str, dict[int, Stimulus]] = {"positive": {}, "negative": {}}
        for stimulus, side, item in zip(
            self.contrast.stimuli, self.contrast.sides, self.design.of_stimulus.tolist(), strict=True
        ):
            sides[side][item] = stimulus
        order = list(sides["positive"])  # answers are in the order of the positive stimuli
        clean, corrupt = ([sides[side][item] for item in order] for side in ("positive", "negative"))
        # Some blocks may have no units of a space.
        layers = {space: list(model.spaces[space].layers) for space in spaces}
        sites = [Site(space, tuple(own)) for space, own in layers.items()]
        found = self.metric.unit_effects(model, clean, corrupt, sites=sites, batch_size=batch_size, **self.options)

        def whole(space: str, values: Float[np.ndarray, "some dim"]) -> Float[np.ndarray, "layer dim"]:
            full = np.full(model.spaces[space].shape, np.nan)
            full[layers[space]] = values
            return full

        return ((order[pair], {space: whole(space, own) for space, own in units.items()}) for pair, units in found)

    def cross(
        self, effects: Effects, folds: Sequence[int], n_folds: int, shapes: dict[str, tuple[int, int]], progress: bool
    ) -> dict[str, list[CrossMoments]]:
        """The moments of the effects over the pairs of each fold, per space, with the covariates of the pairs."""
        from tqdm.auto import tqdm

        fold_of = dict(zip(self.design.of_stimulus.tolist(), folds, strict=True))
        x = self.design.x
        cross = {
            name: [CrossMoments.zeros(x.shape[1], shape) for _ in range(n_folds)] for name, shape in shapes.items()
        }
        for pair, units in tqdm(effects, total=len(x), desc="attributing", unit="pair", disable=not progress):
            for name, values in units.items():
                cross[name][fold_of[pair]].update(x[[pair]], values[None])
        return cross


def _paired(contrast: Contrast) -> Contrast:
    """A contrast whose items are pairs: one positive and one negative stimulus, of one item or in their order.

    Raises
    ------
    InputError
        If the stimuli do not pair.
    """
    if contrast.regressor is not None:
        raise InputError("by='attribution' needs a contrast of two sides, got a parametric one.")
    ours = {side: [n for n, one in enumerate(contrast.sides) if one == side] for side in ("positive", "negative")}
    n_positive, n_negative = map(len, ours.values())
    items = contrast.items
    missing = [stimulus.label for stimulus in contrast.stimuli if stimulus.item is None]
    advice = "Give the stimuli of each pair an item of their own, Stimulus(..., item=...)."
    if missing and len(missing) < len(contrast):
        raise InputError(
            f"by='attribution' pairs stimuli by their items, but {len(missing)} of {len(contrast)} have none, such as "
            f"{missing[0]}. {advice}"
        )
    if n_positive != n_negative:
        raise InputError(
            f"by='attribution' pairs each positive with a negative stimulus, got {n_positive} positive and "
            f"{n_negative} negative stimuli. {advice}"
        )
    if not missing:
        for side, own in ours.items():
            for item in {items[n] for n in own}:
                count = sum(items[n] == item for n in own)
                if count > 1:
                    raise InputError(
                        f"by='attribution' pairs one positive with one negative stimulus, but item {item!r} has "
                        f"{count} {side} stimuli. {advice}"
                    )
        unpaired = {items[n] for n in ours["positive"]} ^ {items[n] for n in ours["negative"]}
        if unpaired:
            raise InputError(
                f"by='attribution' needs every item on both sides, but {len(unpaired)} are on one side only, such as "
                f"{min(map(str, unpaired))!r}."
            )
        return contrast
    place = {n: number for own in ours.values() for number, n in enumerate(own)}
    stimuli = [replace(one, item=f"pair {place[n] + 1}") for n, one in enumerate(contrast.stimuli)]
    return Contrast(
        stimuli, contrast.positive, contrast.negative, contrast.name, covariates=contrast.covariates or None
    )
