"""Units with the selection that they come from, which can be repeated without some of the stimuli."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet.units import Units

if TYPE_CHECKING:
    from modalnet.activations import Selection
    from modalnet.localization.result import Localization


class SelectedUnits(Units):
    """Units with the selection that they come from.

    Attributes
    ----------
    selection
        Repeats the selection without some stimuli; see :class:`modalnet.activations.Selection`. Set algebra and files
        do not preserve it and give plain :class:`~modalnet.Units`.
    """

    selection: Selection

    @classmethod
    def of(cls, units: Units, selection: Selection) -> SelectedUnits:
        """Return the units with their selection."""
        made = cls(
            units.mask,
            mean_abs=units.mean_abs,
            model=units.model,
            selected_on=units.selected_on,
            widths=units.widths,
        )
        made.selection = selection
        return made

    def over(self, shapes: Mapping[str, tuple[int, int]]) -> Units:
        """As :meth:`modalnet.Units.over`; the selection is preserved."""
        return SelectedUnits.of(super().over(shapes), _Over(self.selection, dict(shapes)))


@dataclass(frozen=True)
class Choice:
    """A method of a localization that selects units, with its arguments."""

    localization: Localization
    method: str
    options: Mapping[str, Any]

    @property
    def n_folds(self) -> int:
        """Number of folds of the stimuli."""
        return self.localization.n_folds

    @property
    def reading(self) -> dict[str, Any]:
        """How the localization read the units."""
        meta = self.localization.meta
        return {
            "tokens": meta.get("tokens"),
            "magnitude": meta.get("magnitude", "absolute"),
            "max_tokens": meta.get("max_tokens"),
            "raw": bool(meta.get("raw")),
        }

    def fold_of(self, digest: str) -> int | None:
        """Return the fold of a stimulus by its content digest; -1 if it is in several, None if in none."""
        return self.localization.stimuli.get(digest)

    def without(self, *folds: int) -> Units:
        """Return the units that the same method selects from the stimuli of the other folds."""
        return getattr(self.localization.without(*folds), self.method)(**self.options)


@dataclass(frozen=True)
class _Over:
    """A selection whose units have masks for more spaces."""

    selection: Selection
    shapes: dict[str, tuple[int, int]]

    @property
    def n_folds(self) -> int:
        return self.selection.n_folds

    @property
    def reading(self) -> Mapping[str, Any]:
        return self.selection.reading

    def fold_of(self, digest: str) -> int | None:
        return self.selection.fold_of(digest)

    def without(self, *folds: int) -> Units:
        return self.selection.without(*folds).over(self.shapes)
