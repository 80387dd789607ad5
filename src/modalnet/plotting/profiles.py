"""Figures of response profiles and of specialization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.plotting.layers import CHANCE, SMALL, TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from modalnet.profiles.result import Profile
    from modalnet.specialization.result import Specialization

# Okabe & Ito (2008).
COLOURS = ("#D55E00", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7")
AXIS = {
    "z": "response (z-scored over stimuli)",
    "minmax": "response (min-max scaled over conditions)",
    "none": "mean |activation|",
}
BAR = 0.62
MAX_DOTS = 250  # stimuli drawn per condition


def response_profile(profile: Profile, *, ax: Axes | None = None, dots: bool = True) -> Axes:
    """Draw the mean response to each condition as a bar with its 95% interval.

    Parameters
    ----------
    profile
        The profile.
    ax
        Axes to draw on. A new figure is made if None.
    dots
        Also draw single stimuli.

    Returns
    -------
    Axes
        Conditions on the x axis. The grey line beside each bar is the range of random controls, the tick their mean.
    """
    table = profile.table()
    rows: list[dict[Any, Any]] = table.to_dict("records")
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure(figsize=(0.85 * len(table) + 1.3, 2.8), layout="constrained").subplots()
    rng = np.random.default_rng(0)
    for place, row in enumerate(rows):
        colour = COLOURS[place % len(COLOURS)]
        ax.bar(place, row["mean"], width=BAR, color=colour, alpha=0.85, zorder=1)
        if dots:
            values = profile.values(str(row["condition"]))
            shown = values if len(values) <= MAX_DOTS else rng.choice(values, MAX_DOTS, replace=False)
            spread = rng.uniform(-0.22, 0.22, size=len(shown))
            ax.plot(place + spread, shown, ".", color="black", markersize=1.4, alpha=0.25, zorder=2)
        ax.errorbar(
            [place],
            [row["mean"]],
            yerr=[[row["mean"] - row["low"]], [row["high"] - row["mean"]]],
            color="black",
            capsize=3,
            zorder=4,
        )
        if profile.n_controls:
            at = place + BAR / 2 + 0.08
            ax.plot([at, at], [row["control_low"], row["control_high"]], color=CHANCE, linewidth=2.5, zorder=3)
            label = f"random units (n = {profile.n_controls})" if place == 0 else None
            ax.plot([at], [row["control"]], "_", color="#444444", markersize=6, zorder=4, label=label)
    ax.axhline(0, color="#444444", linewidth=0.7, zorder=0)
    ax.set_xticks(range(len(table)), [str(one) for one in table["condition"]], fontsize=SMALL)
    ax.tick_params(axis="y", labelsize=SMALL)
    ax.set_ylabel(AXIS[profile.normalize], fontsize=TEXT)
    ax.set_title(f"{profile.network}, {profile.model}", fontsize=TEXT, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    if profile.n_controls:
        ax.legend(fontsize=SMALL, frameon=False, loc="upper right")
    return ax


def specialization_panels(result: Specialization, *, ax: Sequence[Axes] | None = None) -> np.ndarray:
    """Draw one panel per measure: layers, selectivity, capacity and interference.

    Parameters
    ----------
    result
        The result.
    ax
        One axes per measure. A new figure is made if None.

    Returns
    -------
    array of Axes

    Raises
    ------
    InputError
        For another number of axes.
    """
    panels = [(name, draw) for name, draw in _PANELS.items() if name in result.tables]
    if ax is None:
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(3.1 * len(panels), 2.7), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
    else:
        axes = np.atleast_1d(np.array(ax, dtype=object)).ravel()
        if len(axes) != len(panels):
            raise InputError(f"`ax` must be {len(panels)} axes, one per measure, got {len(axes)}.")
    for one, (name, draw) in zip(axes, panels, strict=True):
        draw(one, result.tables[name])
        one.tick_params(labelsize=SMALL)
        one.spines[["top", "right"]].set_visible(False)
    return axes


def _colour(names: list[str], name: str) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def _layers(ax: Axes, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["network"] for row in rows))
    places = list(dict.fromkeys((row["tower"], row["layer"]) for row in rows))
    for name in names:
        share = [100 * row["share"] for row in rows if row["network"] == name]
        ax.plot(range(len(places)), share, ".-", color=_colour(names, name), linewidth=1, label=name)
    starts = [i for i, place in enumerate(places) if place[1] == 0]
    for start in starts[1:]:
        ax.axvline(start - 0.5, color="#BBBBBB", linewidth=0.8)
    ax.set_xticks(starts, [places[i][0] for i in starts])
    ax.set_ylabel("units of the network (%)", fontsize=TEXT)
    ax.set_xlabel("layer, input to output", fontsize=TEXT)
    ax.set_title("distribution over layers", fontsize=TEXT, loc="left")
    ax.legend(fontsize=SMALL, frameon=False)


def _selectivity(ax: Axes, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["network"] for row in rows))
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    grid = np.full((len(names), len(domains)), np.nan)
    for row in rows:
        grid[names.index(row["network"]), domains.index(row["domain"])] = row["g"]
    limit = float(np.nanmax(np.abs(grid))) or 1.0
    ax.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (i, j), g in np.ndenumerate(grid):
        ax.text(
            j, i, f"{g:.2f}", ha="center", va="center", fontsize=SMALL, color="white" if abs(g) > limit / 2 else "black"
        )
    ax.set_xticks(range(len(domains)), domains)
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("contrast", fontsize=TEXT)
    ax.set_ylabel("network", fontsize=TEXT)
    ax.set_title("held-out selectivity (Hedges' g)", fontsize=TEXT, loc="left")


def _capacity(ax: Axes, rows: list[dict[str, Any]]) -> None:
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    for name in domains:
        own = [row for row in rows if row["domain"] == name]
        k = [row["k"] for row in own]
        colour = _colour(domains, name)
        ax.plot(k, [row["accuracy"] for row in own], ".-", color=colour, linewidth=1.2, label=name)
        ax.plot(k, [row["control"] for row in own], ":", color=colour, linewidth=1, label=f"{name}, random units")
    ax.axhline(0.5, color="#444444", linewidth=0.7, linestyle=(0, (4, 3)))
    ax.set_xscale("log", base=2)
    ax.set_ylim(0.35, 1.03)
    ax.set_xlabel("number of units", fontsize=TEXT)
    ax.set_ylabel("held-out accuracy", fontsize=TEXT)
    ax.set_title("decoding accuracy by number of units", fontsize=TEXT, loc="left")
    ax.legend(fontsize=SMALL - 1, frameon=False, loc="lower right")


def _interference(ax: Axes, rows: list[dict[str, Any]]) -> None:
    for place, row in enumerate(rows):
        ax.plot([place - 0.15, place + 0.15], [row["g_off"], row["g_on"]], "o-", color=COLOURS[place % len(COLOURS)])
        text = f"{row['cost']:+.2f}\n[{row['low']:.2f}, {row['high']:.2f}]"
        ax.annotate(text, (place, max(row["g_off"], row["g_on"])), ha="center", va="bottom", fontsize=SMALL - 1)
    ax.set_xticks(range(len(rows)), [f"{row['domain']}\nother off / on" for row in rows])
    ax.set_xlim(-0.6, len(rows) - 0.4)
    ax.margins(y=0.3)
    ax.set_ylabel("selectivity for own contrast (g)", fontsize=TEXT)
    ax.set_title("interference: cost of co-activation", fontsize=TEXT, loc="left")


_PANELS = {"layers": _layers, "selectivity": _selectivity, "capacity_curve": _capacity, "interference": _interference}
