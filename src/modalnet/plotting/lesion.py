"""Dose curves: the score on a task by lesion size, beside the scores under lesions of random controls."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.lesion.lesion import LEAST
from modalnet.plotting.layers import SMALL, TEXT
from modalnet.plotting.saving import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from modalnet.lesion.lesion import Lesion
    from modalnet.lesion.result import LesionStudy

# Okabe & Ito (2008), without the greys of the controls.
NETWORKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LAYER, ACTIVATION, LINE = "#D0D0D0", "#8A8A8A", "#444444"
SIZE = (2.3, 1.9)  # inches per panel
ENTRIES, LEGEND_COLUMNS = 7, 3  # typical number of legend entries, and maximal number of columns
TITLE_WIDTH = 34  # characters that fit above a panel
HATCHES = ("\\\\\\\\", "....", "xxxx", "----", "||||")  # of further kinds of controls
STUB = 1.12  # factor by which the band of a single size extends to either side


def dose_curves(
    study: LesionStudy,
    *,
    networks: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    operations: Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw score by lesion size: one column of panels per task, one row per operation and network.

    Parameters
    ----------
    study
        The lesion study.
    networks, tasks, operations
        Which to draw, in this order; by default all.
    ax
        One axes per panel, row by row. A new figure is made if None.

    Returns
    -------
    array of Axes
        [row, task]; rows are the networks of the first operation, then of the next. The x axis is the percentage of
        units lesioned (logarithmic), the y axis the task's measure.

    Raises
    ------
    InputError
        For a name that the study does not have, or another number of axes.

    Notes
    -----
    The interval of the network is that of its score. A band is the range of scores over the draws of a control.
    """
    rows, tasks = _rows_and_tasks(study, networks, tasks, operations)
    if ax is None:
        from matplotlib import pyplot

        panels = _panels(pyplot.figure, len(rows), len(tasks))
    else:
        flat = np.atleast_1d(np.array(ax, dtype=object)).ravel()
        if len(flat) != len(rows) * len(tasks):
            raise InputError(f"`ax` must be {len(rows)} x {len(tasks)} axes, got {len(flat)}.")
        panels = flat.reshape(len(rows), len(tasks))
    _draw_all(study, panels, rows, tasks)
    _legend(panels, outside=ax is None)
    return panels


def save_dose_curves(
    study: LesionStudy,
    path: str | os.PathLike[str],
    *,
    networks: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    operations: Sequence[str] | None = None,
) -> None:
    """Save the figure of :func:`dose_curves` atomically, without a window.

    Parameters
    ----------
    study, networks, tasks, operations
        As for :func:`dose_curves`.
    path
        The file; its suffix is the format: ``.png``, ``.pdf``, ``.svg``.

    Raises
    ------
    InputError
        For a format that matplotlib does not support.
    StoreError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows, tasks = _rows_and_tasks(study, networks, tasks, operations)
    panels = _panels(Figure, len(rows), len(tasks))
    _draw_all(study, panels, rows, tasks)
    _legend(panels, outside=True)
    write_figure(panels[0, 0].figure, path)


def _rows_and_tasks(
    study: LesionStudy,
    networks: Sequence[str] | None,
    tasks: Sequence[str] | None,
    operations: Sequence[str] | None,
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the (operation, network) of each row of panels and the task of each column."""
    networks = _chosen("network", networks, study.networks)
    operations = _chosen("operation", operations, study.operations)
    rows = [(operation, network) for operation in operations for network in networks]
    return rows, _chosen("task", tasks, study.tasks)


def _chosen(what: str, names: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    chosen = list(known) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise InputError(f"`{what}s` must be among {', '.join(known) or '(none)'}, got {chosen!r}.")
    return chosen


def _panels(make_figure: Callable[..., Figure], n_rows: int, n_columns: int) -> np.ndarray:
    legend = 0.16 * (ENTRIES / min(n_columns, LEGEND_COLUMNS)) + 0.3  # below the panels
    size = (SIZE[0] * n_columns + 0.4, SIZE[1] * n_rows + legend)
    figure = make_figure(figsize=size, layout="constrained")
    return figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey="col")


def _draw_all(study: LesionStudy, panels: np.ndarray, rows: list[tuple[str, str]], tasks: Sequence[str]) -> None:
    table = study.table()
    sizes = sorted({size for _, network in rows for size in study.fractions(network)})
    colours = {name: NETWORKS[i % len(NETWORKS)] for i, name in enumerate(study.networks)}
    for i, (operation, network) in enumerate(rows):
        for j, task in enumerate(tasks):
            ax = panels[i, j]
            where = (table["network"] == network) & (table["task"] == task) & (table["operation"] == operation)
            _draw(ax, study, table[where & table["score"].notna()], (network, task), colours[network])
            _scale(ax, sizes)
            lines = [task] if i == 0 else []
            done = operation.replace("scale", "scaled by") if operation.startswith("scale") else f"{operation} ablation"
            lines += textwrap.wrap(f"{network}, {done}", TITLE_WIDTH)
            ax.set_title("\n".join(lines), fontsize=TEXT, loc="left")
            if i == len(rows) - 1:
                ax.set_xlabel("lesion size (% of all units)", fontsize=TEXT)
            if task in study.base:
                ax.set_ylabel(study.base[task].measure, fontsize=TEXT)


def _draw(ax: Axes, study: LesionStudy, rows: Any, names: tuple[str, str], colour: str) -> None:
    from modalnet.lesion.lesion import Lesion

    network, task = names
    if task in study.base:
        base = study.base[task]
        ax.axhline(base.mean, color=LINE, linewidth=0.9, label="no lesion", zorder=2)
        if not np.isnan(base.chance):
            ax.axhline(base.chance, color=LINE, linewidth=0.9, linestyle=(0, (4, 3)), label="chance", zorder=2)
    own = [Lesion(*row) for row in rows[["network", "fraction", "operation"]].itertuples(index=False, name=None)]
    for control, (shade, hatch) in _looks(study).items():
        band = [(one.fraction, *_range(study, one, task, control)) for one in own]
        band = [point for point in band if np.isfinite(point).all()]
        if band:
            x, low, high = _widened(np.array(band)).T
            look: dict[str, Any] = {"color": shade, "alpha": 0.75, "linewidth": 0}
            if hatch:
                look = {"facecolor": "none", "edgecolor": shade, "hatch": hatch, "linewidth": 0.5}
            label = f"{control}-matched random units, range"
            ax.fill_between(x, low, high, label=label, zorder=1, **look)
    least = [(one.fraction, _range(study, one, task, "least")[0]) for one in own]
    least = [point for point in least if np.isfinite(point[1])]
    if least:
        x, y = _widened(np.array(least)).T
        ax.plot(x, y, linestyle=(0, (1, 1.4)), color="black", linewidth=1.3, label="least selective units", zorder=3)
    x, y = rows["fraction"].to_numpy(float), rows["score"].to_numpy(float)
    low, high = (rows[f"score_{end}"].to_numpy(float) for end in ("low", "high"))
    error = np.abs(np.stack([low, high]) - y)
    ax.errorbar(
        x,
        y,
        yerr=error,
        fmt="o-",
        color=colour,
        markersize=3.4,
        linewidth=1.3,
        elinewidth=1.3,
        label=f"{network}, 95% interval",
        zorder=4,
    )


def _looks(study: LesionStudy) -> dict[str, tuple[str, str | None]]:
    """The shade and the hatch of the band of each kind of random control, the same whichever others were run."""
    looks: dict[str, tuple[str, str | None]] = {"layer": (LAYER, None), "activation": (ACTIVATION, "////")}
    others = [kind for kind in study._resamples.kinds if kind not in {*looks, LEAST}]
    return looks | {kind: (ACTIVATION, HATCHES[i % len(HATCHES)]) for i, kind in enumerate(others)}


def _range(study: LesionStudy, own: Lesion, task: str, control: Any) -> tuple[float, float]:
    means = [study.cells[one, task].mean() for one in study.controls(own, task, control)]
    return (min(means), max(means)) if means else (np.nan, np.nan)


def _widened(points: np.ndarray) -> np.ndarray:
    """Extend a single point to a short line, so that it is visible."""
    if len(points) > 1:
        return points
    left, right = points.copy(), points.copy()
    left[:, 0] /= STUB
    right[:, 0] *= STUB
    return np.concatenate([left, right])


def _scale(ax: Axes, sizes: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(sizes)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{100 * size:.3g}"))
    ax.set_xlim(min(sizes) / STUB**2, max(sizes) * STUB**2)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)


def _legend(panels: np.ndarray, *, outside: bool) -> None:
    """Draw one legend for all panels: below a new figure, or in the last of the given axes."""
    found: dict[str, Any] = {}
    for panel in panels.ravel():
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if outside:
        panels[0, 0].figure.legend(
            found.values(),
            found.keys(),
            loc="outside lower center",
            ncols=min(panels.shape[1], LEGEND_COLUMNS),
            fontsize=SMALL,
            frameon=False,
        )
    else:
        panels[-1, -1].legend(found.values(), found.keys(), fontsize=SMALL, frameon=False)
