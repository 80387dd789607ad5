"""The look that the map figures share: themes, colours, legends and titles."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from modalnet._validation import check_option
from modalnet.plotting.combined import model_name

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Patch

    from modalnet.localization.result import Localization
    from modalnet.units import Units

Theme = Literal["light", "dark"]

PAGE = {"light": "#FFFFFF", "dark": "#101317"}
INK = {"light": "#222222", "dark": "#E6E6E6"}
# Warm and cold differ under every common kind of colour blindness, and both grow lighter with |t|.
WARM = ("#8E1616", "#D9401C", "#F99A2B", "#FFF2A6")
COLD = ("#1D3E99", "#2C7FCC", "#69C3EE", "#DDF7FF")
# Okabe & Ito (2008), the light ones first: they stand on grey.
NETWORKS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
OVERLAP = "#FFFFFF"
MAX_NETWORKS = len(NETWORKS)


def check_theme(theme: str) -> None:
    """Raise an InputError for an unknown theme."""
    check_option("theme", theme, tuple(PAGE))


def colour_map(colours: Sequence[str]) -> LinearSegmentedColormap:
    """Make a colour map that interpolates between colours."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("modalnet", list(colours))


def network_handles(networks: Mapping[str, Units], *, overlap: str = OVERLAP) -> list[Patch]:
    """Make the legend handles of networks, and one for units of several."""
    from matplotlib.patches import Patch

    handles = [
        Patch(color=colour, label=f"{shorten(name)}: {units.count:,} unit{'s' * (units.count != 1)}")
        for (name, units), colour in zip(networks.items(), NETWORKS, strict=False)
    ]
    if len(handles) > 1:
        times: dict[str, np.ndarray] = {}
        for units in networks.values():
            for space, mask in units.mask.items():
                times[space] = times.get(space, np.zeros(mask.shape, dtype=int)) + mask
        several = sum(int((count > 1).sum()) for count in times.values())
        handles.append(Patch(facecolor=overlap, edgecolor="#888888", label=f"in several networks: {several:,} units"))
    return handles


def map_title(found: Mapping[str, Localization], shown: str) -> str:
    """Return the title of a map: the model, the contrast or the number of networks, and the threshold."""
    what = shorten(next(iter(found)), 80) if len(found) == 1 else f"{len(found)} networks"
    return f"{shorten(model_name(found), 40)}: {what}, {shown}"


def shorten(name: str, width: int = 36) -> str:
    """Shorten a name for a legend or title."""
    return textwrap.shorten(name.replace(",", ", "), width, placeholder=" …")
