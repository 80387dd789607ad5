"""The threshold of a map: on t, on q, or on the rank of t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal

import numpy as np

from modalnet._validation import check_type
from modalnet.errors import InputError
from modalnet.units import Units, as_units_within

if TYPE_CHECKING:
    from jaxtyping import Bool

    from modalnet.localization.result import Localization

Kind = Literal["t", "q", "top"]
DEFAULTS: dict[Kind, float] = {"t": 5.0, "q": 0.05, "top": 0.01}


def largest(localization: Localization, fraction: float, *, positive: bool = True) -> Units:
    """The units with the largest t, or the smallest, a share of all and at least one: 1% of 48 heads is one head."""
    select = localization.top if positive else localization.bottom
    none = isinstance(fraction, Real) and 0 < fraction * localization.n_units < 1
    return select(k=1) if none else select(fraction=fraction)


@dataclass(frozen=True)
class Threshold:
    """A kind of threshold and its value; ``str`` is its label."""

    kind: Kind
    value: float

    @classmethod
    def of(cls, *, t: float | None, q: float | None, top: float | None, default: Kind) -> Threshold:
        """Return the threshold that is given, or the default kind at its default value.

        Raises
        ------
        InputError
            For more than one, or a value out of range.
        """
        kinds: tuple[tuple[Kind, float | None], ...] = (("t", t), ("q", q), ("top", top))
        given = [(kind, value) for kind, value in kinds if value is not None]
        if len(given) > 1:
            raise InputError(f"Only one of `t`, `q` and `top` can be given, got {', '.join(dict(given))}.")
        kind, value = given[0] if given else (default, DEFAULTS[default])
        number = isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(value)
        if not number or value <= 0 or (kind != "t" and value > 1):
            expected = {"t": "a positive number", "q": "a number above 0 and at most 1"}
            raise InputError(
                f"`{kind}` must be {expected.get(kind, 'a fraction above 0 and at most 1')}, got {value!r}."
            )
        return cls(kind, float(value))

    def units(self, localization: Localization) -> Units:
        """Return the units that pass in favour of the positive side."""
        if self.kind == "top":
            return largest(localization, self.value)
        if self.kind == "q":
            return localization.significant(self.value)
        mask = {tower: np.nan_to_num(t) >= self.value for tower, t in localization.t.items()}
        return localization.units_of(mask)

    def passes(self, localization: Localization, *, both_signs: bool) -> dict[str, Bool[np.ndarray, "layer dim"]]:
        """Return which units pass, by space; with ``both_signs`` also in favour of the negative side."""
        passed = dict(self.units(localization).mask)
        if not both_signs:
            return passed
        if self.kind == "top":
            other = dict(largest(localization, self.value, positive=False).mask)
        else:
            strong = {
                "t": {tower: t <= -self.value for tower, t in localization.t.items()},
                "q": {tower: q < self.value for tower, q in localization.q.items()},
            }[self.kind]
            other = {tower: strong[tower] & (np.nan_to_num(t) < 0) for tower, t in localization.t.items()}
        return {tower: mask | other[tower] for tower, mask in passed.items()}

    def least_t(self, localization: Localization, *, both_signs: bool) -> float:
        """Return the smallest \\|t\\| of the units that pass; infinite if none does."""
        passed = self.passes(localization, both_signs=both_signs)
        values = np.concatenate([np.abs(t[passed[tower]]) for tower, t in localization.t.items()])
        return float(values.min()) if values.size else np.inf

    def __str__(self) -> str:
        if self.kind == "top":
            return f"top {100 * self.value:.3g}% by t"
        return f"q < {self.value:g}" if self.kind == "q" else f"|t| ≥ {self.value:g}"


def selected(
    found: Mapping[str, Localization],
    rule: Threshold,
    units: Mapping[str, Units] | Sequence[Units] | Units | None,
    *,
    most: int,
) -> dict[str, Units]:
    """Return the network of each localization: the given one, or the units that pass the threshold.

    Parameters
    ----------
    most
        Number of networks that the figure can show.

    Raises
    ------
    InputError
        For more localizations than that, or networks that do not fit them.
    """
    if len(found) > most:
        raise InputError(f"A map shows up to {most} networks, got {len(found)}.")
    if units is None:
        return {name: rule.units(one) for name, one in found.items()}
    if isinstance(units, Mapping):
        given = dict(units)
    else:
        check_type("units", units, (Units, Sequence), "Units, a sequence of Units, or a mapping of names to these")
        listed = [units] if isinstance(units, Units) else list(units)
        if len(listed) != len(found):
            raise InputError(f"`units` must be one network per localization ({len(found)}), got {len(listed)}.")
        given = dict(zip(found, listed, strict=True))
    if set(given) != set(found):
        raise InputError(f"`units` must have the names of the localizations, {list(found)}, got {list(given)}.")
    return {name: as_units_within(given[name], one.shapes, f"localization {name!r}") for name, one in found.items()}
