"""The study's own figures: where networks sit, how they overlap, what lesions cost, and how brains are predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modalnet.plotting.saving import write_figure
from modalnet.stats.new_draw import ALPHA

SMALL = 7
NETWORK, CONTROL = "#0072B2", "#B0B0B0"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def exceeds(row: Mapping[str, Any], kind: str = "activation") -> bool:
    """Whether a lesion costs more than its controls of a kind, in a table or in its file."""
    return not pd.isna(row[f"exceeds_{kind}"]) and bool(row[f"exceeds_{kind}"])


def layers(shares: Mapping[str, Mapping[str, np.ndarray]], path: Path, selected: float) -> None:
    """Share of the units of each layer that are in each network, one panel per tower."""
    towers = {tower: networks for tower, networks in shares.items() if networks}
    depths = [len(next(iter(networks.values()))) for networks in towers.values()]
    tallest = max(len(networks) for networks in towers.values())
    figure = _figure(3 + 0.32 * sum(depths), 1.2 + 0.26 * tallest)
    axes = np.atleast_1d(figure.subplots(1, len(towers), width_ratios=depths))
    for ax, (tower, networks) in zip(axes, towers.items(), strict=True):
        values = 100 * np.array(list(networks.values()))
        image = ax.imshow(values, cmap="magma", aspect="auto", vmin=0)
        ax.set_yticks(range(len(networks)), list(networks), fontsize=SMALL)
        ax.set_xticks(range(values.shape[1]), range(values.shape[1]), fontsize=SMALL - 1)
        ax.set_xlabel("block", fontsize=SMALL)
        ax.set_title(f"{tower}: % of a block's units in the top {selected:.0%}", fontsize=SMALL + 1, loc="left")
        figure.colorbar(image, ax=ax, shrink=0.7).ax.tick_params(labelsize=SMALL - 1)
    write_figure(figure, path)


def overlap(table: pd.DataFrame, path: Path) -> None:
    """Dice of each pair of networks, one panel per tower; a star where permuted labels seldom share as much."""
    towers = list(dict.fromkeys(table["tower"]))
    names = {
        tower: list(dict.fromkeys([*(part := table[table["tower"] == tower])["network A"], *part["network B"]]))
        for tower in towers
    }
    figure = _figure(
        1.5 + sum(1.4 + 0.42 * len(one) for one in names.values()), 1.6 + 0.36 * max(map(len, names.values()))
    )
    axes = np.atleast_1d(figure.subplots(1, len(towers), width_ratios=[len(one) + 2 for one in names.values()]))
    for ax, tower in zip(axes, towers, strict=True):
        own = names[tower]
        values = np.full((len(own), len(own)), np.nan)
        for row in table[table["tower"] == tower].to_dict("records"):
            at = own.index(row["network B"]), own.index(row["network A"])
            values[at] = row["Dice"]
            star = "*" if row["p_more"] <= ALPHA else ""
            light = "white" if row["Dice"] < 0.5 else "black"
            ax.text(at[1], at[0], f"{row['Dice']:.2f}{star}", ha="center", va="center", fontsize=SMALL - 1, color=light)
        ax.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        ax.set_yticks(range(1, len(own)), own[1:], fontsize=SMALL)
        ax.set_xticks(range(len(own) - 1), own[:-1], fontsize=SMALL, rotation=40, ha="right")
        ax.set_ylim(len(own) - 0.5, 0.5)
        ax.set_xlim(-0.5, len(own) - 1.5)
        ax.set_title(f"{tower}: Dice (* p <= 0.05, permuted labels)", fontsize=SMALL + 1, loc="left")
        ax.spines[:].set_visible(False)
    write_figure(figure, path)


def costs(table: pd.DataFrame, path: Path) -> None:
    """Drop of each network on each task, a panel per operation and size; bold above activation-matched controls.

    Colours are drops over what could be lost: the score above chance, or a nat per token.
    """
    operations = list(dict.fromkeys(table["operation"]))
    sizes = sorted(set(table["fraction"].round(6)))
    rows, tasks = list(dict.fromkeys(table["network"])), list(dict.fromkeys(table["task"]))
    panels = [(operation, size) for operation in operations for size in sizes]
    figure = _figure(2.2 + len(panels) * (0.5 + 0.62 * len(tasks)), 1.9 + 0.3 * len(rows))
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for ax, (operation, size) in zip(axes, panels, strict=True):
        part = table[(table["operation"] == operation) & (table["fraction"].round(6) == size)]
        values = np.full((len(rows), len(tasks)), np.nan)
        for row in part.to_dict("records"):
            at = rows.index(row["network"]), tasks.index(row["task"])
            could = row["base"] - row["chance"] if np.isfinite(row["chance"]) else 1.0
            values[at] = row["drop"] / could if could > 0 else np.nan
            weight = "bold" if exceeds(row) else "normal"
            strong = np.isfinite(values[at]) and abs(values[at]) > 0.6
            ax.text(
                at[1],
                at[0],
                f"{row['drop']:.2f}",
                ha="center",
                va="center",
                fontsize=SMALL - 1,
                weight=weight,
                color="white" if strong else "black",
            )
        image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        ax.set_xticks(range(len(tasks)), tasks, fontsize=SMALL, rotation=45, ha="right")
        ax.set_yticks(range(len(rows)), rows, fontsize=SMALL)
        what = "zeroed" if operation == "zero" else "set to their mean"
        ax.set_title(f"{size:.2%} of the units {what}", fontsize=SMALL + 1, loc="left")
    bar = figure.colorbar(image, ax=list(axes), shrink=0.8)
    bar.ax.tick_params(labelsize=SMALL - 1)
    bar.set_label("drop / (score - chance)", fontsize=SMALL)
    write_figure(figure, path)


def brains(table: pd.DataFrame, path: Path) -> None:
    """Scores of every set of features with their intervals, one panel per data set."""
    sets = list(dict.fromkeys(table["data"]))
    figure = _figure(1.8 + 2.8 * len(sets), 0.9 + 0.22 * table.groupby("data").size().max())
    axes = np.atleast_1d(figure.subplots(1, len(sets)))
    for ax, name in zip(axes, sets, strict=True):
        part = table[table["data"] == name].reset_index(drop=True)
        for place, row in part.iterrows():
            color = NETWORK if row["kind"] == part["kind"][0] else CONTROL
            ax.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2)
            ax.plot(row["score"], place, "o", color=color, markersize=4)
        ax.set_yticks(range(len(part)), part["features"], fontsize=SMALL - 1)
        ax.invert_yaxis()
        ax.axvline(0, color="#DDDDDD", linewidth=0.8, zorder=0)
        ax.tick_params(axis="x", labelsize=SMALL)
        ax.set_xlabel("correlation, held-out topics", fontsize=SMALL)
        ax.set_title(name, fontsize=SMALL + 1, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)
