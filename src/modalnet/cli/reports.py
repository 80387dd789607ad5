"""The report of a localization: its files, its JSON document, and its tables.

The t of units on the stimuli that selected them is inflated, so the report also gives the effect size on held-out
stimuli and the overlap of networks from two halves of the stimuli.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet import _files
from modalnet._version import __version__
from modalnet.cli.console import number, small, table
from modalnet.cli.parsing import Size
from modalnet.cli.running import print_files
from modalnet.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from modalnet.localization import Localization, Reliability
    from modalnet.model import Model
    from modalnet.stimuli import Contrast
    from modalnet.units import Units

N_PRINTED = 10  # top units in the tables
N_LISTED = 50  # top units in the JSON document
LENGTH_DIFFERENCE = 0.1  # relative difference in text length between the sides that the report points out
DESCRIPTIONS = {
    "localization": "all statistics, for modalnet.Localization.load",
    "units": "the network, for modalnet.Units.load",
    "summary": "one row per layer",
    "layers": "share of each layer in the network, beside random units",
}


@dataclass
class LocalizationReport:
    """A localization with everything that its report needs.

    Attributes
    ----------
    model, contrast, localization
        The model, the stimuli, and the result.
    network
        The units selected from it.
    size
        How they were selected: ``{"fraction": …}`` or ``{"k": …}``.
    """

    model: Model
    contrast: Contrast
    localization: Localization
    network: Units
    size: Size

    # -- files -------------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> dict[str, Path]:
        """Write all files, each atomically.

        Raises
        ------
        StoreError
            If one cannot be written.
        """
        from modalnet.plotting import save_layer_profile

        files = {
            "localization": folder / "localization.safetensors",
            "units": folder / "units.json",
            "summary": folder / "summary.csv",
            "layers": folder / "layers.png",
        }
        self.localization.save(files["localization"])
        self.network.save(files["units"])
        _files.write_bytes(files["summary"], self.localization.table(self.network).to_csv(index=False).encode())
        save_layer_profile(self.localization, files["layers"], self.network)
        return files

    @cached_property
    def reliability(self) -> tuple[Reliability | None, str]:
        """Reliability of the network, or why it cannot be measured."""
        try:
            return self.localization.reliability(fraction=self.network.count / self.localization.n_units), ""
        except InputError as error:
            return None, str(error)

    # -- for programs ------------------------------------------------------------------------------------------------

    def document(self, files: dict[str, Path]) -> dict[str, Any]:
        """Everything in the report, as JSON values."""
        result, (reliability, why_not) = self.localization, self.reliability
        summary = result.table(self.network)
        significant, selected = result.significant(), self.network
        network = {
            "requested": dict(self.size),
            "selected": selected.count,
            "units": result.n_units,
            "towers": {
                tower: {
                    "units": int(result.exists[tower].sum()),
                    "selected": int(selected.mask[tower].sum()),
                    "significant": int(significant.mask[tower].sum()),
                    "undefined": result.undefined[tower],
                    "layers": _records(summary[summary["tower"] == tower].drop(columns="tower")),
                }
                for tower in result.spaces
            },
        }
        return {
            "modalnet": __version__,
            "model": {
                "name": self.model.name,
                "class": type(self.model.module).__name__,
                "fingerprint": result.meta["model"],
                "towers": {
                    name: {"layers": tower.n_layers, "width": tower.width} for name, tower in self.model.towers.items()
                },
            },
            "contrast": {
                "name": self.contrast.name,
                "conditions": _records(self.contrast.describe()),
                "mean_text_tokens": result.meta["text_tokens"],
                "test": result.test,
            },
            "settings": {name: result.meta[name] for name in ("tokens", "magnitude", "protocol")},
            "network": network,
            "top_units": _records(result.top_units(N_LISTED)),
            "reliability": _records(reliability.table()) if reliability else None,
            "reliability_missing": why_not or None,
            "files": {name: str(path) for name, path in files.items()},
        }

    # -- for people --------------------------------------------------------------------------------------------------

    def print(self, console: Console, files: dict[str, Path], *, model: bool = True) -> None:
        """Print the report, optionally with the towers of the model."""
        if model:
            console.print(str(self.model))
        self._print_contrast(console)
        self._print_network(console)
        self._print_top_units(console)
        self._print_reliability(console)
        print_files(files, DESCRIPTIONS)

    def _print_contrast(self, console: Console) -> None:
        console.print(f"\nContrast: {self.contrast.name}", style="bold")
        described = self.contrast.describe(images=False)
        columns: dict[str, list[Any]] = {
            "condition": list(described["condition"]),
            "side": list(described["side"]),
            "stimuli": list(described["n"]),
        }
        if described["mean_words"].notna().any():
            for name in ("mean_words", "mean_characters"):
                columns[name.replace("_", " ")] = [number(value, 1) for value in described[name]]
        lengths = self.localization.meta["text_tokens"]
        if lengths:
            columns["mean tokens"] = [number(lengths.get(name, np.nan), 1) for name in described["condition"]]
        if described["n_images"].any():
            columns["images"] = list(described["n_images"])
        rows = list(zip(*columns.values(), strict=True))
        console.print(table(list(columns), rows, numbers_from=2))
        positive, negative = ([lengths[c] for c in side if c in lengths] for side in self._sides)
        if positive and negative and abs(np.mean(positive) / np.mean(negative) - 1) > LENGTH_DIFFERENCE:
            cure = "" if self.localization.meta["protocol"] else " --protocol alkhamissi2025 cuts texts to 12 tokens."
            console.print(f"Positive and negative texts differ in number of tokens, which units may respond to.{cure}")

    @property
    def _sides(self) -> tuple[list[str], list[str]]:
        contrast = self.localization.meta["contrast"]
        return contrast["positive"], contrast["negative"]

    def _print_network(self, console: Console) -> None:
        result, count, total = self.localization, self.network.count, self.localization.n_units
        share = f"{100 * count / total:.3g}%"
        console.print(f"\nNetwork: the {count:,} of {total:,} units ({share}) with the largest t", style="bold")
        console.print(self.localization.summary().splitlines()[1].strip())
        console.print(f"{self._settings()}; q < 0.05: number of units with t > 0 and FDR-adjusted p < 0.05")
        summary = result.table(self.network)
        counts = ["units", "selected", "significant"]
        # Layer 0 is the first block, as in every index of a unit.
        for tower in result.spaces:
            rows = summary[summary["tower"] == tower]
            cells = [[row["layer"], *(row[name] for name in counts), number(row["max_t"])] for row in _records(rows)]
            cells.append(["all", *(int(rows[name].sum()) for name in counts), number(rows["max_t"].max())])
            console.print()
            console.print(table((f"{tower} layer", "units", "selected", "q < 0.05", "largest t"), cells))
        undefined = sum(result.undefined.values())
        if undefined:
            console.print(
                f"{undefined:,} units have no t-value: their activation is constant over all stimuli, or not finite."
            )

    def _settings(self) -> str:
        meta = self.localization.meta
        pooled = ", ".join(f"{choice} in {tower}" for tower, choice in meta["tokens"].items())
        protocol = f"; protocol {meta['protocol']}" if meta["protocol"] else ""
        return f"tokens: {pooled}; {meta['magnitude']} activation{protocol}"

    def _print_top_units(self, console: Console) -> None:
        console.print(
            "\nTop units (t and g are inflated: computed on the stimuli that selected the units)", style="bold"
        )
        rows = [
            [row["tower"], row["layer"], row["dim"], number(row["t"]), small(row["q"]), number(row["effect_size"])]
            for row in _records(self.localization.top_units(N_PRINTED))
        ]
        size = "partial r" if self.localization.parametric else "Hedges' g"
        console.print(table(("tower", "layer", "dim", "t", "q", size), rows))

    def _print_reliability(self, console: Console) -> None:
        console.print("\nReliability", style="bold")
        reliability, why_not = self.reliability
        if reliability is None:
            console.print(f"not measured, so selectivity on new stimuli is unknown. {why_not}")
            return
        r = reliability
        console.print(
            f"Held out (5 folds): units selected on four fifths of the stimuli have a mean Hedges' "
            f"g = {np.nanmean(r.g_held_out):.2f} on the remaining fifth\n"
            f"  (selecting stimuli: g = {np.nanmean(r.g_selecting):.2f}; layer-matched random units: "
            f"g = {np.nanmean(r.g_random):.2f}); mean t = {np.nanmean(r.t_held_out):.1f} "
            f"(random units {np.nanmean(r.t_random):.1f}).\n"
            f"Split-half: networks from two halves of the stimuli overlap with Dice = {r.dice.mean():.2f} "
            f"(layer-matched random units {r.dice_random.mean():.2f})."
        )


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
