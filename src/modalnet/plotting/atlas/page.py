"""The atlas as one self-contained HTML file: data, script and style, viewable offline."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet import _files
from modalnet._deprecation import renamed_arguments
from modalnet.errors import InputError
from modalnet.models.towers import modality_of, tower_of
from modalnet.plotting.arrangement import ARBITRARY, Arrangement, arrange
from modalnet.plotting.atlas.packing import Packing, rounded
from modalnet.plotting.atlas.panels import TopStimuliLike, lesion_panel, profile_panel, top_stimuli_panel
from modalnet.plotting.combined import Localizations, as_mapping, model_name, owner_of, space_label, towers_of
from modalnet.plotting.sheet import background_of, t_limit
from modalnet.plotting.style import COLD, MAX_NETWORKS, NETWORKS, OVERLAP, WARM
from modalnet.plotting.threshold import Threshold

if TYPE_CHECKING:
    from modalnet.lesion.result import LesionStudy
    from modalnet.localization.result import Localization
    from modalnet.profiles.result import Profile

SCRIPTS = ("unpack", "layout", "selection", "sheet", "glass", "charts", "panel", "main")


@dataclass(frozen=True, eq=False)
class Atlas:
    """An interactive map of a model; made by :func:`modalnet.atlas`, written by :meth:`save`.

    Attributes
    ----------
    title
        Title of the page.
    document
        Everything that the page shows except for arrays, as a JSON document.
    arrays
        Packed arrays by id (see :mod:`.packing`).
    """

    title: str
    document: dict[str, Any]
    arrays: dict[str, str]

    def html(self) -> str:
        """Return the page."""
        from jinja2 import Environment, PackageLoader, select_autoescape

        environment = Environment(
            loader=PackageLoader("modalnet.plotting.atlas", "static"),
            autoescape=select_autoescape(["html", "j2"]),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("atlas.html.j2").render(
            title=self.title,
            note=ARBITRARY,
            # Within a script element, only a closing tag or a comment could end it.
            document=json.dumps(self.document, allow_nan=False).replace("<", "\\u003c"),
            arrays=self.arrays,
            style=_text("static", "atlas.css"),
            library=_text("vendor", "d3.min.js"),
            license=_text("vendor", "d3-LICENSE.txt"),
            scripts=[_text("static", f"{name}.js") for name in SCRIPTS],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page atomically.

        Raises
        ------
        InputError
            For a suffix other than ``.html``.
        StoreError
            If the file cannot be written.
        """
        if Path(path).suffix.lower() not in {".html", ".htm"}:
            raise InputError(f"An atlas is saved as .html, got {os.fspath(path)!r}.")
        _files.write_bytes(path, self.html().encode())

    def __repr__(self) -> str:
        units = sum(tower["layers"] * tower["width"] for tower in self.document["towers"])
        names = ", ".join(one["name"] for one in self.document["localizations"])
        return f"Atlas({self.title}: {names}; {units:,} units)"


@renamed_arguments(favourites="top_stimuli")
def atlas(
    localizations: Localizations,
    *,
    study: LesionStudy | None = None,
    profiles: Mapping[str, Profile] | None = None,
    top_stimuli: TopStimuliLike | None = None,
    top: float = 0.01,
    arrangement: Arrangement | None = None,
    title: str | None = None,
) -> Atlas:
    """Make an interactive map of a model: one HTML file, viewable offline.

    The page shows the model as :func:`modalnet.plotting.sheet` and :func:`modalnet.plotting.glass` do. It has a slider
    for the threshold (t, q or the share of units), the statistics of the unit under the pointer or the keyboard's
    cursor, its mean response to each condition, and, if given, lesions, profiles and maximally activating stimuli.

    Parameters
    ----------
    localizations
        Localizations of one model: one, a list, or a mapping by name; up to 6, with up to 10 million units.
    study
        A lesion study of the same model, shown beside the map; a network with the name of a localization, alone or
        followed by a tower as in ``"faces (vision)"``, has the same colour.
    profiles
        Results of ``mn.profile`` by name: anything with a ``.table()`` whose rows have condition, mean, low and high,
        and optionally control, control_low and control_high.
    top_stimuli
        Maximally activating stimuli of units: the result of ``mn.features.top_stimuli``, a list of such results, or a
        mapping from (space, layer, index) to stimuli (texts, images, ``Stimulus`` objects, or pairs of one of these and
        an activation).
    top
        The share of units that is shown initially; it can be changed in the page.
    arrangement
        As for :func:`modalnet.plotting.sheet`.
    title
        Title of the page; by default the model's name.

    Returns
    -------
    Atlas
        ``.save("atlas.html")`` writes it.

    Raises
    ------
    InputError
        For localizations of different models, more than 6 of them, or a study, profiles or top stimuli of another kind.

    Notes
    -----
    The page holds t and q as float32; a share of units selects the same units as ``Localization.top``. Effect sizes,
    condition means and standard errors are rounded to 0.05%.

    Examples
    --------
    >>> atlas({"language": language, "vision": vision}, study=study).save("atlas.html")  # doctest: +SKIP
    """
    found = as_mapping(localizations)
    if len(found) > MAX_NETWORKS:
        raise InputError(f"An atlas shows up to {MAX_NETWORKS} networks, got {len(found)} localizations.")
    Threshold.of(t=None, q=None, top=top, default="top")
    shapes = towers_of(found)
    placed = arrange(found) if arrangement is None else arrangement
    placed.check(shapes)
    packing = Packing()
    model = model_name(found)
    document = {
        "model": model,
        "title": title or model,
        "top": float(top),
        "towers": [_tower(packing, found, placed, tower, shape) for tower, shape in shapes.items()],
        "localizations": [_localization(packing, one, name, shapes) for name, one in found.items()],
        "colours": {"networks": list(NETWORKS), "overlap": OVERLAP, "warm": list(WARM), "cold": list(COLD)},
        "study": lesion_panel(study),
        "profiles": profile_panel(profiles),
        "top_stimuli": top_stimuli_panel(top_stimuli, shapes),
    }
    return Atlas(str(document["title"]), document, packing.arrays)


def _tower(
    packing: Packing, found: Mapping[str, Localization], placed: Arrangement, tower: str, shape: tuple[int, int]
) -> dict[str, Any]:
    mean_abs = owner_of(found, tower).mean_abs[tower]
    ground = np.stack([np.round(255 * background_of(row)) for row in mean_abs])
    return {
        "name": tower,
        "label": space_label(tower),
        "modality": modality_of(tower),
        "residual": tower == tower_of(tower),
        "layers": shape[0],
        "width": shape[1],
        "size": list(placed.sizes[tower]),
        "shared": len(placed.rows[tower]) == 1,
        "rows": packing.add(placed.rows[tower], "uint16"),
        "columns": packing.add(placed.columns[tower], "uint16"),
        "ground": packing.add(ground, "uint8"),
    }


def _localization(
    packing: Packing, one: Localization, name: str, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    with np.errstate(divide="ignore"):
        q = {tower: np.log10(values) for tower, values in one.q.items()}
    conditions = list(one.n)
    blocks: dict[str, list[Any]] = {}
    for tower, (layers, _) in one.shapes.items():
        blocks[tower] = []
        for layer in range(layers):
            rows = [one.effect_size[tower][layer]]
            rows += [one.means[condition][tower][layer] for condition in conditions]
            rows += [one.sds[condition][tower][layer] / one.n[condition] ** 0.5 for condition in conditions]
            blocks[tower].append(packing.add(rounded(np.stack(rows)), "float32"))
    contrast = one.meta.get("contrast") or {}
    return {
        "name": name,
        "contrast": str(contrast.get("name") or ""),
        "positive": _listed(contrast.get("positive")),
        "negative": _listed(contrast.get("negative")),
        "magnitude": str(one.meta.get("magnitude") or "activation"),
        "conditions": [{"name": condition, "n": int(one.n[condition])} for condition in conditions],
        "towers": list(one.spaces),
        "units": one.n_units,
        "limit": t_limit(one),
        "t": packing.add(_flat(one.t, shapes), "float32"),
        "q": packing.add(_flat(q, shapes), "float32"),
        "blocks": blocks,
    }


def _flat(values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, int]]) -> np.ndarray:
    """Concatenate all units of the map in order; NaN in spaces that were not localized."""
    parts = [values[tower] if tower in values else np.full(shape, np.nan) for tower, shape in shapes.items()]
    return np.concatenate([part.ravel() for part in parts])


def _listed(names: Any) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else [str(name) for name in names] if isinstance(names, Sequence) else []


def _text(*parts: str) -> str:
    return resources.files("modalnet.plotting.atlas").joinpath(*parts).read_text(encoding="utf-8")
