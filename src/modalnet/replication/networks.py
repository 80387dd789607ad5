"""The networks of a protocol: what its selection makes of its localizations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.protocols.protocol import Selection
from modalnet.replication.experts import ExpertNetwork
from modalnet.replication.selection import select
from modalnet.stats.controls import distinct_dimensions

if TYPE_CHECKING:
    from modalnet.localization.result import Localization
    from modalnet.units import Units


@dataclass(frozen=True)
class ProtocolNetwork:
    """Units by the selection of a protocol; like a localization, it gives them at any size.

    Attributes
    ----------
    localizations
        The localizations that units are selected from; several where a rule needs them jointly.
    selection
        The rule.
    sheet
        For a smoothing rule, the positions of units by space.
    """

    localizations: Mapping[str, Localization]
    selection: Selection
    sheet: Mapping[str, Any] | None = None

    @property
    def first(self) -> Localization:
        """The first of its localizations."""
        return next(iter(self.localizations.values()))

    @property
    def has_sizes(self) -> bool:
        """Whether units are selected by a fraction; a threshold gives one set."""
        return self.selection.rule != "threshold in every contrast" and self.selection.q is None

    def top(self, fraction: float | None = None) -> Units:
        """The units of the network at a size."""
        return select(
            self.localizations, self.selection, fraction=fraction if self.has_sizes else None, sheet=self.sheet
        )

    def least_selective(self, fraction: float | None = None) -> Units:
        """As many units with the smallest absolute statistic."""
        return self.first.least_selective(k=max(1, self.top(fraction=fraction).count))

    def for_study(self, fraction: float | None) -> ProtocolNetwork | Units | None:
        """What a lesion study takes: the network at its sizes, or its units where it has one; None without units."""
        units = self.top(fraction=fraction)
        if not units.count:
            return None
        return self if self.has_sizes else units


UNSMOOTHED = " (no sheet was given, so t is not smoothed)"
#: What a protocol lesions: units that contrasts select, or experts.
Network: TypeAlias = "ProtocolNetwork | ExpertNetwork"


def describe(network: Network, fraction: float | None) -> dict[str, Any]:
    """What a report says of the units of a network.

    Returns
    -------
    dict
        units: their number; dimensions: how many distinct ones, in the residual stream (else 0); layers: space -> count
        of each layer; of: number of units that they were selected from; note.
    """
    units = network.top(fraction=fraction)
    residual = all("." not in space for space, mask in units.mask.items() if mask.any())
    layers = {space: mask.sum(axis=1).astype(int).tolist() for space, mask in units.mask.items() if mask.any()}
    asked = math.floor((fraction or 0) * units.n_units + 1e-9)
    unsmoothed = isinstance(network, ProtocolNetwork) and network.selection.rule == "smoothed" and network.sheet is None
    extra = units.count - asked if network.has_sizes else 0
    return {
        "units": units.count,
        "of": units.n_units,
        "dimensions": len(distinct_dimensions(units)) if residual and units.count else 0,
        "layers": layers,
        "note": (f" ({extra:+d} by ties)" if extra else "") + (UNSMOOTHED if unsmoothed else ""),
    }
