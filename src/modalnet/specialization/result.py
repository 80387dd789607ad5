"""Results of a specialization analysis: one table per measure, and the reasons for missing measures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._validation import check_option
from modalnet.errors import InputError
from modalnet.results.result import Labelled, Result
from modalnet.stats.controls import match_columns, shown_ratio
from modalnet.stats.permutation import p_in_words

if TYPE_CHECKING:
    import pandas as pd

#: Every measure, in the order of the report, with a description.
MEASURES = {
    "overlap": "shared units of the networks",
    "separation": "difference of their distributions over layers and towers",
    "layers": "number of units per layer",
    "selectivity": "held-out effect of each domain in each network",
    "interference": "effect of a domain while another domain is driven",
    "dual_task": "cost for a task while another domain is driven",
    "capacity": "number of units that suffice to decode a domain",
    "capacity_curve": "accuracy by number of units",
    "transfer": "decoding of a domain from the network of another",
}
Rows = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Specialization(Result):
    """Measures of the specialization of networks of one model.

    Made by :func:`modalnet.specialization`.

    Attributes
    ----------
    model
        Name of the model, for display.
    networks
        Names of the networks.
    tables
        Rows of each measure that was taken (see :data:`MEASURES`).
    missing
        Reasons for the measures that were not taken.
    notes
        Caveats on the measures.
    settings
        The settings of the analysis, as a JSON document.

    Raises
    ------
    InputError
        If a measure is unknown.
    """

    NAME = "a specialization"
    FORMAT = "modalnet.specialization"
    SOURCES = ("vallortigara2005", "rogers2004", "kriegeskorte2009")

    model: str
    networks: tuple[str, ...]
    tables: dict[str, Rows]
    missing: dict[str, str]
    notes: tuple[str, ...]
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.tables, *self.missing) if name not in MEASURES]
        if unknown:
            raise InputError(f"There is no measure {unknown[0]!r}; there are {', '.join(MEASURES)}.")
        object.__setattr__(self, "settings", json.loads(json.dumps(self.settings)))

    def table(self, measure: str = "selectivity") -> pd.DataFrame:
        """Return the rows of one measure; docs/brain.md describes its columns.

        Raises
        ------
        InputError
            If the measure is unknown or was not taken; the message gives the reason.
        """
        import pandas as pd

        check_option("measure", measure, tuple(MEASURES))
        if measure not in self.tables:
            raise InputError(f"{measure} was not measured: {self.missing.get(measure, 'it was not requested')}.")
        return pd.DataFrame(self.tables[measure])

    def summary(self) -> str:
        """Return a summary as text: every measure, or the reason why it is missing."""
        lines = [f"{self.model}: {', '.join(self.networks)}"]
        for name, description in MEASURES.items():
            if name in ("layers", "capacity_curve"):
                continue
            if name not in self.tables:
                lines.append(f"{name} ({description}): not measured, {self.missing.get(name, 'it was not requested')}")
                continue
            lines.append(f"{name} ({description})")
            lines += [f"  {_line(name, row)}" for row in self.tables[name]]
        lines += [f"Note: {note}" for note in self.notes]
        return "\n".join(lines)

    def plot(self, **options: Any) -> Any:
        """Draw the measures: see :func:`modalnet.plotting.profiles.specialization_panels`."""
        from modalnet.plotting.profiles import specialization_panels

        return specialization_panels(self, **options)

    def to_frame(self) -> pd.DataFrame:
        """Return every measure in one table, one row per row of :meth:`table` and its column ``measure``."""
        import pandas as pd

        parts = [self.table(name).assign(measure=name) for name in self.tables]
        whole = pd.concat(parts, ignore_index=True)
        return whole[["measure", *(name for name in whole.columns if name != "measure")]]

    def _labelled(self) -> tuple[Labelled, Labelled]:
        frame = self.to_frame()
        arrays: Labelled = {
            str(name): (("row",), column.to_numpy()) for name, column in frame.items() if name != "measure"
        }
        return arrays, {"measure": (("row",), list(frame["measure"]))}

    def __repr__(self) -> str:
        return f"Specialization({self.model}: {', '.join(self.networks)}; measured {', '.join(self.tables)})"

    # -- files ---------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return a placeholder array and a JSON document, from which :meth:`_from_content` makes the result again."""
        return {"measures": np.arange(len(self.tables))}, {
            "model": self.model,
            "networks": list(self.networks),
            # JSON within JSON: rows may hold NaN.
            "tables": json.dumps(self.tables, default=_plain),
            "missing": self.missing,
            "notes": list(self.notes),
            "settings": self.settings,
        }

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Specialization:
        return cls(
            document["model"],
            tuple(document["networks"]),
            _with_match(json.loads(document["tables"])),
            dict(document["missing"]),
            tuple(document["notes"]),
            document["settings"],
        )


def _with_match(tables: dict[str, Rows]) -> dict[str, Rows]:
    """Complete the rows of older files: how well controls match, and tests with permuted labels, are unknown there.

    The p values of overlap and separation in files of modalnet 0.1 take units as independent and are not kept.
    """
    unknown = match_columns(np.zeros(0))
    untested = {"overlap": ("dice_permuted", "p_more", "p_less"), "separation": ("divergence_permuted", "p")}

    def completed(name: str, row: dict[str, Any]) -> dict[str, Any]:
        if name in untested and untested[name][0] not in row:
            return row | dict.fromkeys(untested[name], math.nan)
        return unknown | row if name in ("selectivity", "transfer") else row

    return {name: [completed(name, row) for row in rows] for name, rows in tables.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _line(measure: str, row: Mapping[str, Any]) -> str:  # noqa: PLR0911  # one per measure
    """Format one row of a measure as text."""
    if measure == "overlap":
        return (
            f"{row['a']} and {row['b']}: Dice {row['dice']:.3f} ({row['shared']} units; random units of those layers "
            f"{row['chance_layer']:.3f} [{row['chance_layer_low']:.3f}, {row['chance_layer_high']:.3f}]; "
            f"{_permuted(row, 'dice_permuted', ('p_more', 'p more'), ('p_less', 'p less'))})"
        )
    if measure == "separation":
        depth = "" if _nan(row["depth"]) else f"; depth {row['depth']:+.2f}, distance {row['distance']:.2f}"
        return (
            f"{row['a']} and {row['b']}: divergence {row['divergence']:.3f} bits "
            f"({_permuted(row, 'divergence_permuted', ('p', 'p'))}){depth}"
        )
    if measure == "selectivity":
        own = " (its own)" if row["own"] else ""
        return (
            f"{row['network']} for {row['domain']}{own}: g = {row['g']:.2f} [{row['low']:.2f}, {row['high']:.2f}], "
            f"random units {row['control']:.2f}{_match(row)}"
        )
    if measure == "interference":
        return (
            f"{row['domain']} while {row['other']} is driven: g {row['g_off']:.2f} -> {row['g_on']:.2f}, cost "
            f"{row['cost']:+.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        )
    if measure == "dual_task":
        lesion = f", {row['lesion']} lesioned" if row["lesion"] else ""
        alone = "" if _nan(row["alone"]) else f"alone {row['alone']:.2f}, "
        return (
            f"task of {row['domain']} with {row['other']}{lesion}: {alone}off {row['off']:.2f}, on {row['on']:.2f}, "
            f"cost {row['cost']:+.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        )
    if measure == "capacity":
        random = "never" if _nan(row["k_enough_random"]) else f"{row['k_enough_random']:.0f}"
        return (
            f"{row['domain']}: {row['k_enough']:.0f} units of {row['n_units']} suffice (random: {random}); "
            f"best {row['best']:.3f}"
        )
    return (
        f"{row['domain']} decoded from {row['network']}: accuracy {row['accuracy']:.3f}, "
        f"random units {row['control']:.3f}{_match(row)}"
    )


def _permuted(row: Mapping[str, Any], mean: str, *tests: tuple[str, str]) -> str:
    """The mean under permuted labels with p values, or that there are none."""
    if _nan(row.get(mean)):
        return "cannot be tested"
    return f"permuted labels {row[mean]:.3f}, " + ", ".join(f"{word} {p_in_words(row[p])}" for p, word in tests)


def _match(row: Mapping[str, Any]) -> str:
    """How well the random units match the network in activation, where that is known."""
    ratio = row.get("match_ratio", math.nan)
    return "" if _nan(ratio) else f" (mean |activation| {shown_ratio(ratio)} of the network's)"


def _nan(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
