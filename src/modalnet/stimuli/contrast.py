"""Contrasts: positive conditions against negative ones.

A localizer selects units that respond more to one kind of stimulus than to another. A contrast states which: it holds
the stimuli of its conditions, in the order given, and the side of each. A *parametric* contrast has a number for every
stimulus instead, and asks which units respond more the larger it is.
"""

from __future__ import annotations

import difflib
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli.covariates import check_separable, covariate_values, numbers
from modalnet.stimuli.stimulus import Stimulus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from jaxtyping import Float

    from modalnet.stimuli.covariates import CovariatesLike, NumbersLike

MINIMUM_PER_SIDE = 2
WITHOUT_CONDITION = "stimuli"
SHOWN = 5


class Contrast:
    """Stimuli of positive conditions against stimuli of negative conditions, or along a number.

    Parameters
    ----------
    stimuli
        :class:`~modalnet.stimuli.Stimulus` objects, each with a condition.
    positive
        The condition, or list of conditions, expected to evoke the larger response.
    negative
        The condition or conditions to compare with; None means all others.
    name
        Name for reports; by default the conditions, as in ``"sentences > nonwords"``.
    covariates
        Numbers for which the contrast is adjusted: a mapping from names to one number per stimulus (in the order of
        `stimuli`, or a mapping from ids), or to a measure of the text, ``"length"`` (characters) or ``"words"``. A list
        of measures is enough: ``covariates=["length"]``.
    regressor
        The number of a parametric contrast, given in the same ways; instead of `positive` and `negative`. Stimuli need
        no condition then. ``"positive"`` is the side of the stimuli above the median, for tables and plots; the test is
        of the slope.

    Attributes
    ----------
    stimuli : tuple of Stimulus
        The stimuli of the named conditions, in the order given.
    sides : tuple of str
        ``"positive"`` or ``"negative"`` for each stimulus.
    positive, negative : tuple of str
        Names of the conditions; of a parametric contrast all are in ``positive``.
    covariates : dict of str to array
        One float64 per stimulus; empty without covariates.
    regressor : array or None
        One float64 per stimulus of a parametric contrast.
    items : tuple of str or None
        The item of each stimulus.

    Raises
    ------
    InputError
        `stimuli` is empty, or holds something other than stimuli, a stimulus without a condition, or two with the same
        id; a condition has no stimuli or is on both sides; a side has fewer than two stimuli, which a variance needs;
        both or neither of `positive` and `regressor` are given; a covariate is constant, or collinear with the sides,
        the regressor or other covariates.

    Examples
    --------
    >>> texts = {"sentences": ["The dog sleeps.", "We ate soup."], "nonwords": ["Fla dob smeeps.", "Ba olt sarp."]}
    >>> stimuli = [Stimulus(text, condition=name) for name, group in texts.items() for text in group]
    >>> Contrast(stimuli, positive="sentences")
    Contrast('sentences > nonwords': 2 positive, 2 negative)
    >>> Contrast(stimuli, regressor="length")
    Contrast('slope of length': 4 stimuli)
    """

    def __init__(
        self,
        stimuli: Iterable[Stimulus],
        positive: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        name: str | None = None,
        *,
        covariates: CovariatesLike | None = None,
        regressor: NumbersLike | None = None,
    ) -> None:
        if regressor is None and positive is None:
            raise InputError(
                "`positive` must be a condition or a list of conditions where no `regressor` is given, got None."
            )
        if regressor is not None and (positive is not None or negative is not None):
            raise InputError(
                "`regressor` must not be given together with `positive` or `negative`: it is a contrast itself."
            )
        self._given_name = name
        if positive is not None:
            listed = self._set_sides(stimuli, positive, negative)
        else:
            assert regressor is not None
            listed = self._set_slope(stimuli, regressor)
        kept = {id(stimulus) for stimulus in self.stimuli}
        chosen = [place for place, stimulus in enumerate(listed) if id(stimulus) in kept]
        self.covariates: dict[str, Float[np.ndarray, " stimulus"]] = {
            name: values[chosen] for name, values in covariate_values(covariates, listed).items()
        }
        self.items = tuple(stimulus.item for stimulus in self.stimuli)
        self._check_covariates()

    def _set_sides(
        self, stimuli: Iterable[Stimulus], positive: str | Sequence[str], negative: str | Sequence[str] | None
    ) -> list[Stimulus]:
        """Set the stimuli, conditions and sides of a contrast of conditions; return all stimuli that were given."""
        checked = _checked(stimuli)
        known = Counter(stimulus.condition for stimulus in checked if stimulus.condition is not None)
        self.positive = _names(positive, "positive", known)
        self.negative = (
            tuple(condition for condition in known if condition not in self.positive)
            if negative is None
            else _names(negative, "negative", known)
        )
        both = [condition for condition in self.positive if condition in self.negative]
        if both:
            raise InputError(f"Conditions on both sides of the contrast: {', '.join(both)}.")
        if not self.negative:
            raise InputError(
                f"The negative side of the contrast is empty: all stimuli are on the positive side "
                f"({_counts(known)}). Add stimuli of another condition."
            )
        side = dict.fromkeys(self.positive, "positive") | dict.fromkeys(self.negative, "negative")
        self.stimuli = tuple(stimulus for stimulus in checked if stimulus.condition in side)
        self.sides = tuple(side[stimulus.condition or ""] for stimulus in self.stimuli)
        self.labels = tuple(stimulus.condition or "" for stimulus in self.stimuli)
        self.regressor: Float[np.ndarray, " stimulus"] | None = None
        self._side_of_condition = side
        self._known = known
        for which in ("positive", "negative"):
            if (count := self.sides.count(which)) < MINIMUM_PER_SIDE:
                raise InputError(
                    f"The {which} side of the contrast needs at least {MINIMUM_PER_SIDE} stimuli, got {count}. "
                    f"Stimuli per condition: {_counts(known)}."
                )
        return checked

    def _set_slope(self, stimuli: Iterable[Stimulus], regressor: NumbersLike) -> list[Stimulus]:
        """Set the stimuli, the number and the sides of a parametric contrast; return the stimuli."""
        checked = _checked(stimuli, labelled=False)
        self.stimuli = tuple(checked)
        self.labels = tuple(stimulus.condition or WITHOUT_CONDITION for stimulus in checked)
        self._known = Counter(self.labels)
        self.positive, self.negative = tuple(self._known), ()
        self.regressor = values = numbers("regressor", regressor, checked)
        check_separable({"regressor": values}, "; a slope needs numbers that differ")
        middle = float(np.median(values))
        above = values > middle if (values > middle).any() else values >= middle
        self.sides = tuple("positive" if one else "negative" for one in above)
        self._side_of_condition = dict.fromkeys(self.positive, "positive")
        if self._given_name is None and isinstance(regressor, str):
            self._given_name = f"slope of {regressor}"
        return checked

    def _check_covariates(self) -> None:
        if not self.covariates:
            return
        tested = (
            {"sides of the contrast": np.array([side == "positive" for side in self.sides], dtype=np.float64)}
            if self.regressor is None
            else {"regressor": self.regressor}
        )
        columns = tested | {f"covariate {name!r}": values for name, values in self.covariates.items()}
        check_separable(columns)
        if len(self) < len(columns) + 2:
            raise InputError(
                f"{len(self.covariates)} covariates need at least {len(columns) + 2} stimuli, got {len(self)}."
            )

    @property
    def name(self) -> str:
        """The given name, or ``"positive conditions > negative conditions"``; ``"slope"`` of a parametric contrast."""
        if self._given_name:
            return self._given_name
        return f"{','.join(self.positive)} > {','.join(self.negative)}" if self.regressor is None else "slope"

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions, positive ones first."""
        return self.positive + self.negative

    @property
    def n(self) -> dict[str, int]:
        """Condition -> number of stimuli."""
        return {condition: self._known[condition] for condition in self.conditions}

    def side(self, index: int) -> str:
        """Side of the stimulus at this index, ``"positive"`` or ``"negative"``; ``sides`` holds all of them."""
        return self.sides[index]

    def flipped(self) -> Contrast:
        """Return the contrast with the sides exchanged, or the regressor negated; ``~contrast`` is equivalent."""
        suffix = " (flipped)"
        name = self._given_name
        if name is not None:
            name = name.removesuffix(suffix) if name.endswith(suffix) else name + suffix
        if self.regressor is not None:
            return Contrast(self.stimuli, name=name, covariates=self.covariates, regressor=-self.regressor)
        return Contrast(self.stimuli, self.negative, self.positive, name, covariates=self.covariates)

    __invert__ = flipped

    def describe(self, *, images: bool = True) -> pd.DataFrame:
        """Describe the conditions and how well they are matched.

        Parameters
        ----------
        images
            Decode and measure the images; False omits their columns and is fast.

        Returns
        -------
        pandas.DataFrame
            One row per condition: ``condition``, ``side``, ``n``; the columns of
            :func:`~modalnet.stimuli.matching.text_statistics` over the stimuli with text (NaN where there are none);
            ``n_images``; ``n_sounds`` where there are any; and for contrasts with images, the columns of
            :func:`~modalnet.stimuli.matching.image_statistics`.

        Raises
        ------
        InputError
            An image cannot be decoded.
        """
        import pandas as pd

        from modalnet.stimuli.matching import image_statistics, text_statistics

        has_images = images and any(stimulus.n_images for stimulus in self.stimuli)
        has_sounds = any(stimulus.n_sounds for stimulus in self.stimuli)
        rows = []
        for condition in self.conditions:
            group = [stimulus for stimulus, label in zip(self.stimuli, self.labels, strict=True) if label == condition]
            rows.append(
                {
                    "condition": condition,
                    "side": self._side_of_condition[condition],
                    "n": len(group),
                    **text_statistics([stimulus.text for stimulus in group if stimulus.text is not None]),
                    "n_images": sum(stimulus.n_images for stimulus in group),
                    **({"n_sounds": sum(stimulus.n_sounds for stimulus in group)} if has_sounds else {}),
                    **(
                        image_statistics(image for stimulus in group for image in stimulus.images())
                        if has_images
                        else {}
                    ),
                }
            )
        return pd.DataFrame(rows)

    def __len__(self) -> int:
        return len(self.stimuli)

    def __repr__(self) -> str:
        if self.regressor is not None:
            return f"Contrast({self.name!r}: {len(self)} stimuli)"
        positive = self.sides.count("positive")
        return f"Contrast({self.name!r}: {positive} positive, {len(self) - positive} negative)"


def _checked(stimuli: Iterable[Stimulus], *, labelled: bool = True) -> list[Stimulus]:
    if isinstance(stimuli, Stimulus | str) or not hasattr(stimuli, "__iter__"):
        raise InputError(f"`stimuli` must be a list of Stimulus objects, got a {type(stimuli).__name__}.")
    listed = list(stimuli)
    if not listed:
        raise InputError("`stimuli` is empty; a contrast needs stimuli.")
    ids: set[str] = set()
    for index, stimulus in enumerate(listed):
        if not isinstance(stimulus, Stimulus):
            raise InputError(
                f"`stimuli[{index}]` must be a Stimulus, got a {type(stimulus).__name__}. Make one with "
                "modalnet.Stimulus(text, condition=...)."
            )
        if stimulus.id is not None and stimulus.id in ids:
            raise InputError(f"Two stimuli have the id {stimulus.id!r} (one is item {index}). Ids must be unique.")
        if stimulus.id is not None:
            ids.add(stimulus.id)
    unlabelled = [stimulus.label for stimulus in listed if stimulus.condition is None]
    if unlabelled and labelled:
        raise InputError(
            f"{len(unlabelled)} of {len(listed)} stimuli have no condition: {_some(unlabelled)}. Give each one, "
            "Stimulus(..., condition='...'), or omit it."
        )
    return listed


def _names(conditions: str | Sequence[str], side: str, known: Counter[str]) -> tuple[str, ...]:
    names = [conditions] if isinstance(conditions, str) else conditions
    if not isinstance(names, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"`{side}` must be a condition or a list of conditions, got {conditions!r}. Conditions: {_counts(known)}."
        )
    if not names:
        raise InputError(f"The {side} side names no condition. Conditions: {_counts(known)}.")
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(f"No stimulus has the {side} condition {name!r}.{hint} Conditions: {_counts(known)}.")
    return tuple(dict.fromkeys(names))


def _counts(known: Counter[str]) -> str:
    return ", ".join(f"{condition} ({count})" for condition, count in known.items())


def _some(labels: list[str]) -> str:
    return ", ".join(labels[:SHOWN]) + (", …" if len(labels) > SHOWN else "")
