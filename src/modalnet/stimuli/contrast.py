"""A contrast: positive conditions against negative ones.

A localizer asks which units respond more to one kind of stimulus than to another. The contrast is that question:
it keeps the stimuli of the conditions it names, in the order they came, and knows on which side each one stands.
"""

from __future__ import annotations

import difflib
from collections import Counter
from typing import TYPE_CHECKING

from modalnet.errors import InputError
from modalnet.stimuli.stimulus import Stimulus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

MINIMUM_PER_SIDE = 2
SHOWN = 5


class Contrast:
    """Stimuli of positive conditions against stimuli of negative ones.

    Parameters
    ----------
    stimuli
        :class:`~modalnet.stimuli.Stimulus` objects, each with a condition.
    positive
        The condition, or list of conditions, expected to drive the units more.
    negative
        The condition or conditions to compare with; None means all the others.
    name
        A name for reports; by default the conditions, as in ``"sentences > nonwords"``.

    Attributes
    ----------
    stimuli : tuple of Stimulus
        Those of the named conditions, in the order given.
    positive, negative : tuple of str
        Condition names.

    Raises
    ------
    InputError
        No stimuli; something else than a stimulus; a stimulus without condition; two stimuli with one id; a
        condition that no stimulus has; a condition on both sides; fewer than two stimuli on a side, where a
        variance needs two.

    Examples
    --------
    >>> texts = {"sentences": ["The dog sleeps.", "We ate soup."], "nonwords": ["Fla dob smeeps.", "Ba olt sarp."]}
    >>> stimuli = [Stimulus(text, condition=name) for name, group in texts.items() for text in group]
    >>> Contrast(stimuli, positive="sentences")
    Contrast('sentences > nonwords': 2 positive, 2 negative)
    """

    def __init__(
        self,
        stimuli: Iterable[Stimulus],
        positive: str | Sequence[str],
        negative: str | Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        given = _checked(stimuli)
        known = Counter(stimulus.condition for stimulus in given if stimulus.condition is not None)
        self.positive = _names(positive, "positive", known)
        self.negative = (
            tuple(condition for condition in known if condition not in self.positive)
            if negative is None
            else _names(negative, "negative", known)
        )
        both = [condition for condition in self.positive if condition in self.negative]
        if both:
            raise InputError(f"Conditions on both sides of the contrast: {', '.join(both)}. Each belongs on one side.")
        if not self.negative:
            raise InputError(
                f"The negative side of the contrast is empty: every stimulus is of the positive side "
                f"({_counts(known)}). Add stimuli of another condition to compare with."
            )
        side = dict.fromkeys(self.positive, "positive") | dict.fromkeys(self.negative, "negative")
        self.stimuli = tuple(stimulus for stimulus in given if stimulus.condition in side)
        self.sides = tuple(side[stimulus.condition or ""] for stimulus in self.stimuli)
        self._side_of_condition = side
        self._given_name = name
        self._known = known
        for which in ("positive", "negative"):
            if (count := self.sides.count(which)) < MINIMUM_PER_SIDE:
                raise InputError(
                    f"The {which} side of the contrast has {count} stimulus; a variance needs at least "
                    f"{MINIMUM_PER_SIDE}. Stimuli per condition: {_counts(known)}."
                )

    @property
    def name(self) -> str:
        """The given name, or ``"positive conditions > negative conditions"``."""
        return self._given_name or f"{','.join(self.positive)} > {','.join(self.negative)}"

    @property
    def conditions(self) -> tuple[str, ...]:
        """The condition names, positive ones first."""
        return self.positive + self.negative

    @property
    def n(self) -> dict[str, int]:
        """How many stimuli each condition has."""
        return {condition: self._known[condition] for condition in self.conditions}

    def side(self, index: int) -> str:
        """``"positive"`` or ``"negative"``: the side of the stimulus at this index; ``sides`` holds them all."""
        return self.sides[index]

    def flipped(self) -> Contrast:
        """The opposite contrast: the same stimuli with the sides exchanged. ``~contrast`` is the same."""
        suffix = " (flipped)"
        name = self._given_name
        if name is not None:
            name = name.removesuffix(suffix) if name.endswith(suffix) else name + suffix
        return Contrast(self.stimuli, self.negative, self.positive, name)

    __invert__ = flipped

    def describe(self, *, images: bool = True) -> pd.DataFrame:
        """The conditions and how well they are matched.

        Parameters
        ----------
        images
            Decode the images and measure them; False leaves those columns out, and is quick.

        Returns
        -------
        pandas.DataFrame
            One row per condition: ``condition``, ``side``, ``n`` stimuli; the columns of
            :func:`~modalnet.stimuli.matching.text_statistics` over the stimuli that have text (NaN where none has);
            ``n_images`` in all; and where the contrast has images, the columns of
            :func:`~modalnet.stimuli.matching.image_statistics` over them.

        Raises
        ------
        InputError
            An image cannot be decoded.
        """
        import pandas as pd

        from modalnet.stimuli.matching import image_statistics, text_statistics

        pictured = images and any(stimulus.n_images for stimulus in self.stimuli)
        rows = []
        for condition in self.conditions:
            group = [stimulus for stimulus in self.stimuli if stimulus.condition == condition]
            rows.append(
                {
                    "condition": condition,
                    "side": self._side_of_condition[condition],
                    "n": len(group),
                    **text_statistics([stimulus.text for stimulus in group if stimulus.text is not None]),
                    "n_images": sum(stimulus.n_images for stimulus in group),
                    **(image_statistics(image for one in group for image in one.images()) if pictured else {}),
                }
            )
        return pd.DataFrame(rows)

    def __len__(self) -> int:
        return len(self.stimuli)

    def __repr__(self) -> str:
        positive = self.sides.count("positive")
        return f"Contrast({self.name!r}: {positive} positive, {len(self) - positive} negative)"


def _checked(stimuli: Iterable[Stimulus]) -> list[Stimulus]:
    if isinstance(stimuli, Stimulus | str) or not hasattr(stimuli, "__iter__"):
        raise InputError(f"A contrast takes a list of Stimulus objects; this is a {type(stimuli).__name__}.")
    given = list(stimuli)
    if not given:
        raise InputError("A contrast needs stimuli; the list is empty.")
    ids: set[str] = set()
    for index, stimulus in enumerate(given):
        if not isinstance(stimulus, Stimulus):
            raise InputError(
                f"A contrast takes Stimulus objects; item {index} is a {type(stimulus).__name__}. "
                "Make it one: modalnet.Stimulus(text, condition=...)."
            )
        if stimulus.id is not None and stimulus.id in ids:
            raise InputError(f"Two stimuli have the id {stimulus.id!r} (item {index} is one). Ids name one each.")
        if stimulus.id is not None:
            ids.add(stimulus.id)
    bare = [stimulus.label for stimulus in given if stimulus.condition is None]
    if bare:
        raise InputError(
            f"{len(bare)} of {len(given)} stimuli have no condition: {_some(bare)}. Give each one, "
            "Stimulus(..., condition='...'), or leave it out."
        )
    return given


def _names(conditions: str | Sequence[str], side: str, known: Counter[str]) -> tuple[str, ...]:
    names = [conditions] if isinstance(conditions, str) else conditions
    if not isinstance(names, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"The {side} side of a contrast is a condition name or a list of them; this is {conditions!r}. "
            f"There are: {_counts(known)}."
        )
    if not names:
        raise InputError(f"The {side} side of the contrast names no condition. There are: {_counts(known)}.")
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(f"No stimulus has the {side} condition {name!r}.{hint} There are: {_counts(known)}.")
    return tuple(dict.fromkeys(names))


def _counts(known: Counter[str]) -> str:
    return ", ".join(f"{condition} ({count})" for condition, count in known.items())


def _some(labels: list[str]) -> str:
    return ", ".join(labels[:SHOWN]) + (", …" if len(labels) > SHOWN else "")
