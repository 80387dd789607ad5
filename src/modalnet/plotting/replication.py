"""A replication as a figure and as one HTML page: as published, refereed, and why they differ."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet import _files
from modalnet._version import __version__
from modalnet.errors import InputError
from modalnet.lesion.lesion import Lesion
from modalnet.plotting.layers import CHANCE, SMALL, TEXT
from modalnet.plotting.lesion import ACTIVATION, LINE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from modalnet.replication.published import PublishedScores
    from modalnet.replication.result import Replication

NETWORK = "#0072B2"
WIDTH, ROW = 5.6, 0.24  # inches of a panel, and of one of its rows
#: Below this many panels a figure fits on a page.
PANELS = 12
CONTROL = "activation"


def claim_figure(replication: Replication, *, ax: Axes | Sequence[Axes] | None = None) -> np.ndarray:
    """Draw every network and task of a replication: scores as published, and under each ablation of the refereed run.

    Parameters
    ----------
    replication
        The replication.
    ax
        One axes per pair of network and task; a new figure, if None.

    Returns
    -------
    array of Axes
        One per pair of network and task. Each row of a panel is one run: the score with the network lesioned (with its
        95% interval in the refereed runs), the scores of random units (activation-matched in the refereed runs), and
        the intact score by the scoring of that run; the broken line is chance.

    Raises
    ------
    InputError
        If nothing was scored, or for another number of axes.
    """
    pairs = _pairs(replication)
    if not pairs:
        raise InputError(f"The replication of {replication.id} has no scores to draw; see .summary().")
    pairs = pairs[:PANELS]
    n_rows = 1 + (0 if replication.study is None else len(replication.study.operations))
    if ax is None:
        from modalnet.plotting.saving import new_figure

        figure = new_figure(figsize=(WIDTH, len(pairs) * (ROW * n_rows + 0.62) + 0.5), layout="constrained")
        panels = figure.subplots(len(pairs), 1, squeeze=False)[:, 0]
    else:
        panels = np.atleast_1d(np.array(ax, dtype=object)).ravel()
        if len(panels) != len(pairs):
            raise InputError(f"`ax` must be {len(pairs)} axes, got {len(panels)}.")
    for panel, (network, task) in zip(panels, pairs, strict=True):
        _panel(panel, replication, network, task)
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    if ax is None:
        panels[0].figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False
        )
    return panels


def _pairs(replication: Replication) -> list[tuple[str, str]]:
    """Networks and tasks with scores, those that claims are about first."""
    known = [(each.network, each.task) for each in replication.published]
    claimed = [(claim.network, task) for claim in replication.claims for task in (claim.task, claim.other)]
    return list(dict.fromkeys([*[pair for pair in claimed if pair in known], *known]))


def _panel(ax: Axes, replication: Replication, network: str, task: str) -> None:
    published = next(each for each in replication.published if (each.network, each.task) == (network, task))
    study = replication.study
    rows = ["as published"]
    _row_of_scores(ax, 0, published)
    _intact(ax, 0, float(published.intact.mean()))
    if study is not None and task in study.base:
        table = study.table()
        table = table[(table["network"] == network) & (table["task"] == task)]
        for row in table[table["operation"] != "slope"].to_dict("records"):
            rows.append(f"refereed, {row['operation']}")
            place = len(rows) - 1
            lesion = Lesion(network, row["fraction"], row["operation"])
            draws = [study.cells[each, task].mean() for each in study.controls(lesion, task, CONTROL)]
            ax.plot(draws, [place] * len(draws), "|", color=ACTIVATION, markersize=7, zorder=2)
            ax.plot([row["score_low"], row["score_high"]], [place, place], color=NETWORK, linewidth=1.4, zorder=3)
            ax.plot([row["score"]], [place], "o", color=NETWORK, markersize=4.5, zorder=4)
            _intact(ax, place, study.base[task].mean)
    if np.isfinite(published.chance):
        ax.axvline(published.chance, color=LINE, linewidth=0.9, linestyle=(0, (4, 3)), label="chance", zorder=1)
    ax.set_yticks(range(len(rows)), rows, fontsize=SMALL)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_title(f"{network}: {task} ({published.measure})", fontsize=TEXT, loc="left")
    ax.tick_params(axis="x", labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)


def _intact(ax: Axes, place: int, score: float) -> None:
    """The score without a lesion, for one row: generated answers and likelihoods differ in it."""
    label = "no lesion" if place == 0 else None
    ax.plot([score, score], [place - 0.42, place + 0.42], color=LINE, linewidth=1.0, label=label, zorder=1)


def _row_of_scores(ax: Axes, place: int, scores: PublishedScores) -> None:
    means = scores.draws.mean(axis=1) if len(scores.draws) else np.zeros(0)
    ax.plot(means, [place] * len(means), "|", color=CHANCE, markersize=7, zorder=2, label="random units")
    ax.plot([scores.lesioned.mean()], [place], "o", color=NETWORK, markersize=4.5, zorder=4, label="network lesioned")


# -- the page ----------------------------------------------------------------------------------------------------------


def write_page(replication: Replication, path: str | os.PathLike[str]) -> None:
    """Write one self-contained HTML page; raises as :meth:`modalnet.replication.Replication.report`."""
    if Path(path).suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"A report is saved as .html, got {os.fspath(path)!r}.")
    _files.write_bytes(path, page(replication).encode())


def page(replication: Replication) -> str:
    """Return the page of a replication."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("modalnet.plotting", "static"),
        autoescape=select_autoescape(["html", "j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    study = replication.study
    return environment.get_template("replication.html.j2").render(
        made=replication,
        about=replication.about,
        figure=_picture(replication),
        published=_records(replication.published_table(), _SHOWN),
        verdicts=[]
        if study is None
        else _records(study.verdicts(), ("network", "task", "question", "verdict", "sentence")),
        # The sentence names the layers of the windows, which the table numbers.
        flows={task: _records(flow.verdicts().drop(columns="windows")) for task, flow in replication.flow.items()},
        reported=[{name: _text(value) for name, value in row.items()} for row in replication.reported],
        version=__version__,
    )


_SHOWN = (
    *(
        "network",
        "fraction",
        "units",
        "task",
        "operation",
        "items",
        "intact",
        "lesioned",
        "random",
        "random_low",
        "random_high",
    ),
    *("n_draws", "unparsed_lesioned"),
)


def _records(table: pd.DataFrame, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Rows as texts."""
    rows = table[[name for name in columns if name in table]] if columns and len(table) else table
    return [{str(name): _text(value) for name, value in row.items()} for row in rows.to_dict("records")]


def _text(value: Any) -> str:
    if not isinstance(value, float | np.floating):
        return "" if value is None else str(value)
    number = float(value)
    return "" if np.isnan(number) else f"{number:.4g}" if abs(number) < 1 else f"{number:,.3f}"


def _picture(replication: Replication) -> str:
    """The figure as a data URL; empty where nothing was scored."""
    from modalnet.plotting.saving import DPI, to_bare_figures

    if not _pairs(replication):
        return ""
    with to_bare_figures():
        figure = claim_figure(replication)[0].figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
