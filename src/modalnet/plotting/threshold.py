"""Which units a picture colours: a threshold on t, on q, or on the rank of t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.units import Units

if TYPE_CHECKING:
    from jaxtyping import Bool

    from modalnet.localization.result import Localization

Kind = Literal["t", "q", "top"]
DEFAULTS: dict[Kind, float] = {"t": 5.0, "q": 0.05, "top": 0.01}


@dataclass(frozen=True)
class Threshold:
    """A kind of threshold and its value; ``str`` says it in words."""

    kind: Kind
    value: float

    @classmethod
    def of(cls, *, t: float | None, q: float | None, top: float | None, default: Kind) -> Threshold:
        """The one that is given, else the default kind at its usual value.

        Raises
        ------
        InputError
            For more than one, or a value out of range.
        """
        kinds: tuple[tuple[Kind, float | None], ...] = (("t", t), ("q", q), ("top", top))
        given = [(kind, value) for kind, value in kinds if value is not None]
        if len(given) > 1:
            raise InputError(f"Give one threshold: t=, q= or top=; got {', '.join(kind for kind, _ in given)}.")
        kind, value = given[0] if given else (default, DEFAULTS[default])
        number = isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(value)
        if not number or value <= 0 or (kind != "t" and value > 1):
            ranges = {"t": "above 0", "q": "above 0, at most 1", "top": "a share above 0, at most 1"}
            raise InputError(f"The threshold {kind}= is {ranges[kind]}; got {value!r}.")
        return cls(kind, float(value))

    def units(self, localization: Localization) -> Units:
        """The units that prefer the positive side and pass."""
        if self.kind == "top":
            return localization.top(fraction=self.value)
        if self.kind == "q":
            return localization.significant(self.value)
        mask = {tower: np.nan_to_num(t) >= self.value for tower, t in localization.t.items()}
        return Units(mask, mean_abs=localization.mean_abs, model=localization.meta.get("model"))

    def passes(self, localization: Localization, *, both_signs: bool) -> dict[str, Bool[np.ndarray, "layer dim"]]:
        """Which units pass, by tower; with ``both_signs`` also those that prefer the negative side as clearly."""
        passed = dict(self.units(localization).mask)
        if not both_signs:
            return passed
        if self.kind == "top":
            other = dict(localization.bottom(fraction=self.value).mask)
        else:
            strong = {
                "t": {tower: t <= -self.value for tower, t in localization.t.items()},
                "q": {tower: q < self.value for tower, q in localization.q.items()},
            }[self.kind]
            other = {tower: strong[tower] & (np.nan_to_num(t) < 0) for tower, t in localization.t.items()}
        return {tower: mask | other[tower] for tower, mask in passed.items()}

    def least_t(self, localization: Localization, *, both_signs: bool) -> float:
        """The smallest \\|t\\| of a unit that passes; infinite where none does."""
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
    networks: Mapping[str, Units] | Sequence[Units] | Units | None,
    *,
    most: int,
) -> dict[str, Units]:
    """The network of each localization: as given, else what passes the threshold.

    Parameters
    ----------
    most
        How many networks can be told apart.

    Raises
    ------
    InputError
        If there are more localizations than can be told apart, or the networks do not fit them.
    """
    if len(found) > most:
        raise InputError(f"A map tells up to {most} networks apart; got {len(found)}. Draw fewer at once.")
    if networks is None:
        return {name: rule.units(one) for name, one in found.items()}
    if isinstance(networks, Mapping):
        given = dict(networks)
    else:
        listed = [networks] if isinstance(networks, Units) else list(networks)
        if len(listed) != len(found):
            raise InputError(f"Give one network for each of the {len(found)} localizations; got {len(listed)}.")
        given = dict(zip(found, listed, strict=True))
    if set(given) != set(found):
        raise InputError(f"Networks go by the names of the localizations, {list(found)}; got {list(given)}.")
    for name, one in found.items():
        if not isinstance(given[name], Units) or given[name].shapes != one.shapes:
            shapes = getattr(given[name], "shapes", type(given[name]).__name__)
            raise InputError(f"The network {name!r} must be Units of the towers {one.shapes}; got {shapes}.")
    return {name: given[name] for name in found}
