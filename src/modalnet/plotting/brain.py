"""Brain alignment as a picture: every set of features with its interval, and where random units lie."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.plotting.layers import SMALL, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from modalnet.brain.result import Alignment
    from modalnet.brain.similarity import Similarity

# Okabe & Ito (2008): told apart under every common kind of colour blindness, and in grey.
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
        Of :func:`modalnet.brain.align`, ``encode``, ``rsa`` or ``cka``.
    ax
        Where to draw; a new figure, if None.

    Returns
    -------
    Axes
        The score on the x axis. Every draw of random units is a small dot; the band from the lowest to the highest of
        them runs through all rows, since that is what the network has to leave. A dashed line is the noise ceiling
        (median over targets; both bounds, for RSA), where it is known.
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


def _draws(result: Any) -> np.ndarray:
    if hasattr(result, "score"):
        return np.array([result.score(one) for one in result.controls])
    return np.array([one.value for one in result.controls])


def _ceilings(result: Any) -> list[float]:
    bounds = np.asarray(result.ceiling, dtype=float)
    if hasattr(result, "metric"):
        there = bounds[np.isfinite(bounds)]
        bounds = np.array([np.median(there**2 if result.metric == "r2" else there)]) if len(there) else there
    return [float(bound) for bound in bounds if np.isfinite(bound)]


def _measure(result: Any) -> str:
    if hasattr(result, "metric"):
        word = {"pearson": "correlation, held out", "r2": "R², held out"}[result.metric]
        return f"{word} ({result.settings['cv']} folds)" + (", median of targets" if result.n_targets > 1 else "")
    return str(result.measure)
