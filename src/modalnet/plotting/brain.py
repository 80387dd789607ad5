"""Figures of brain alignment: every set of features with its interval, beside random controls."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.plotting.layers import SMALL, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from modalnet.brain.result import Alignment
    from modalnet.brain.similarity import Similarity

# Okabe & Ito (2008): distinguishable under every common kind of colour blindness, and in grey.
COLOURS = {
    "network": "#0072B2",
    "control": "#999999",
    "whole layer": "#56B4E9",
    "untrained": "#E69F00",
    "baseline": "#CC79A7",
    "beyond": "#009E73",
    "features": "#0072B2",
}
WIDTH, ROW = 4.6, 0.26  # inches
TITLE_WIDTH = 70


def alignment_scores(result: Alignment | Similarity, *, ax: Axes | None = None) -> Axes:
    """Draw one row per set of features: its score with its 95% interval.

    Parameters
    ----------
    result
        The result of :func:`modalnet.brain.align`, ``encode``, ``rsa`` or ``cka``.
    ax
        Axes to draw on. A new figure is made if None.

    Returns
    -------
    Axes
        The score on the x axis. Each random control is a small dot, and the band is their range. A dashed line is the
        noise ceiling (median over targets; both bounds for RSA), if known.
    """
    table = result.table()
    rows: list[dict[Any, Any]] = table.to_dict("records")
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure(figsize=(WIDTH, ROW * len(table) + 1.1), layout="constrained").subplots()
    controls = _draws(result)
    if len(controls):
        ax.axvspan(controls.min(), controls.max(), color=COLOURS["control"], alpha=0.25, linewidth=0, zorder=0)
    for place, row in enumerate(rows):
        colour = COLOURS.get(str(row["kind"]), "black")
        ends = np.array([[row["score"] - row["low"]], [row["high"] - row["score"]]])
        known = bool(np.isfinite(ends).all())
        ax.errorbar(
            [row["score"]],
            [place],
            xerr=np.maximum(ends, 0) if known else None,
            fmt="o",
            color=colour,
            markersize=4.5,
            linewidth=1.2,
            capsize=2,
            zorder=3,
        )
        if row["kind"] == "control":
            ax.plot(controls, np.full(len(controls), place), ".", color=colour, markersize=3, zorder=2)
    for bound in _ceilings(result):
        ax.axvline(bound, color="black", linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
    ax.axvline(0, color="#444444", linewidth=0.6, zorder=0)
    labels = [
        f"{row['features']} x{row['draws']}" if row["kind"] == "control" else str(row["features"]) for row in rows
    ]
    ax.set_yticks(range(len(table)), [f"{text} ({n:,})" for text, n in zip(labels, table["n_features"], strict=True)])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel(_measure(result), fontsize=TEXT)
    title = textwrap.shorten(f"{result.model} and {result.dataset}", TITLE_WIDTH, placeholder=" …")
    ax.set_title(title, fontsize=TEXT, loc="left")
    return ax


def _draws(result: Alignment | Similarity) -> np.ndarray:
    from modalnet.brain.result import Alignment

    if isinstance(result, Alignment):
        return np.array([result.score(control) for control in result.controls])
    return np.array([control.value for control in result.controls])


def _ceilings(result: Alignment | Similarity) -> list[float]:
    from modalnet.brain.result import Alignment

    bounds = np.asarray(result.ceiling, dtype=float)
    if isinstance(result, Alignment):
        there = bounds[np.isfinite(bounds)]
        bounds = np.array([np.median(there**2 if result.metric == "r2" else there)]) if len(there) else there
    return [float(bound) for bound in bounds if np.isfinite(bound)]


def _measure(result: Alignment | Similarity) -> str:
    from modalnet.brain.result import Alignment

    if isinstance(result, Alignment):
        word = {"pearson": "held-out correlation", "r2": "held-out R²"}[result.metric]
        return f"{word} ({result.settings['cv']} folds)" + (", median over targets" if result.n_targets > 1 else "")
    return str(result.measure)
