"""Localizations of one model, side by side on one map. A contrast of texts reaches the decoder alone, one of pictures
both towers: a map shows every tower that any of them reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.errors import InputError

if TYPE_CHECKING:
    from modalnet.localization.result import Localization

Localizations: TypeAlias = "Localization | Sequence[Localization] | Mapping[str, Localization]"


def as_mapping(localizations: Localizations) -> dict[str, Localization]:
    """Localizations by name: the given one, else that of their contrast.

    Raises
    ------
    InputError
        If there is none, something else is among them, or they are of different models.
    """
    if isinstance(localizations, Mapping):
        named = {str(name): one for name, one in localizations.items()}
    else:
        listed: list[Any] = list(localizations) if isinstance(localizations, list | tuple) else [localizations]
        named = {}
        for one in listed:
            name = _own_name(one)
            count = sum(other == name or other.startswith(f"{name} (") for other in named)
            named[f"{name} ({count + 1})" if count else name] = one
    if not named:
        raise InputError("There is no localization to draw.")
    for name, one in named.items():
        if not all(hasattr(one, part) for part in ("t", "q", "effect_size", "shapes", "meta")):
            raise InputError(
                f"This takes localizations (mn.localize(...)), alone, in a list or by name; {name!r} is a "
                f"{type(one).__name__}."
            )
    _check_one_model(named)
    return named


def towers_of(found: Mapping[str, Localization]) -> dict[str, tuple[int, int]]:
    """(layers, width) of every tower that any of them has, in forward order."""
    from modalnet.models.towers import in_forward_order

    shapes = {tower: shape for one in found.values() for tower, shape in one.shapes.items()}
    return {tower: shapes[tower] for tower in in_forward_order(shapes)}


def owner_of(found: Mapping[str, Localization], tower: str) -> Localization:
    """The first that has a tower."""
    return next(one for one in found.values() if tower in one.shapes)


def _own_name(one: object) -> str:
    contrast = getattr(one, "meta", {}).get("contrast") or {}
    return str(contrast.get("name") or "contrast")


def _check_one_model(named: Mapping[str, Localization]) -> None:
    for name, one in named.items():
        for other_name, other in named.items():
            clash = {
                tower: (shape, other.shapes[tower])
                for tower, shape in one.shapes.items()
                if other.shapes.get(tower, shape) != shape
            }
            models = one.meta.get("model"), other.meta.get("model")
            if clash or (None not in models and models[0] != models[1]):
                why = f" (towers of other shapes: {clash})" if clash else ""
                raise InputError(
                    f"One map shows one model; {name!r} and {other_name!r} are of different ones{why}. "
                    "Draw a map for each."
                )
