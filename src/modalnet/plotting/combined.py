"""Several localizations of one model on one map.

A contrast of texts reaches the decoder alone, one of images the vision tower, too; a map shows every space that any of
them reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.errors import InputError

if TYPE_CHECKING:
    from modalnet.localization.result import Localization

Localizations: TypeAlias = "Localization | Sequence[Localization] | Mapping[str, Localization]"


def as_mapping(localizations: Localizations) -> dict[str, Localization]:
    """Return localizations by name: the given name, or that of their contrast.

    Raises
    ------
    InputError
        For no localization, anything else, or localizations of different models.
    """
    if isinstance(localizations, Mapping):
        named = {str(name): one for name, one in localizations.items()}
    else:
        listed: list[Any] = list(localizations) if isinstance(localizations, list | tuple) else [localizations]
        named = {}
        for one in listed:
            name = _contrast_name(one)
            count = sum(other == name or other.startswith(f"{name} (") for other in named)
            named[f"{name} ({count + 1})" if count else name] = one
    if not named:
        raise InputError("`localizations` is empty.")
    for name, one in named.items():
        if not all(hasattr(one, part) for part in ("t", "q", "effect_size", "shapes", "meta")):
            raise InputError(
                f"`localizations` must be a Localization, a list of them or a mapping by name; {name!r} is a "
                f"{type(one).__name__}."
            )
    _check_one_model(named)
    return named


def towers_of(found: Mapping[str, Localization]) -> dict[str, tuple[int, int]]:
    """Return (layers, width) of every space that any localization has, in forward order."""
    from modalnet.models.towers import in_forward_order

    shapes = {tower: shape for one in found.values() for tower, shape in one.shapes.items()}
    return {tower: shapes[tower] for tower in in_forward_order(shapes)}


def space_label(name: str) -> str:
    """Return the label of a space in figures: "decoder tower" for its residual stream, else its name."""
    from modalnet.models.towers import tower_of

    return f"{name} tower" if name == tower_of(name) else name


def model_name(found: Mapping[str, Localization]) -> str:
    """Return the model's name without folders."""
    first = next(iter(found.values()))
    return str(first.meta.get("source") or "model").rstrip("/").rsplit("/", 1)[-1]


def owner_of(found: Mapping[str, Localization], tower: str) -> Localization:
    """Return the first localization that has a space."""
    return next(one for one in found.values() if tower in one.shapes)


def _contrast_name(one: object) -> str:
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
                why = f" (shapes differ: {clash})" if clash else ""
                raise InputError(
                    f"A map shows one model, but {name!r} and {other_name!r} are of different models{why}. "
                    "Draw one map for each."
                )
