"""From results to one self-contained page: data, script and style in one file that needs no network."""

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
from modalnet.errors import InputError
from modalnet.plotting.arrangement import ARBITRARY, Arrangement, arrange
from modalnet.plotting.atlas import panels as evidence
from modalnet.plotting.atlas.packing import Packing, rounded
from modalnet.plotting.combined import Localizations, as_mapping, owner_of, towers_of
from modalnet.plotting.sheet import COLD, MOST, NETWORKS, OVERLAP, WARM, ground_of, t_limit
from modalnet.plotting.threshold import Threshold

if TYPE_CHECKING:
    from modalnet.lesion.result import LesionStudy
    from modalnet.localization.result import Localization

SCRIPTS = ("unpack", "layout", "selection", "sheet", "glass", "charts", "panel", "main")


@dataclass(frozen=True, eq=False)
class Atlas:
    """A page; made by :func:`modalnet.atlas`, written by :meth:`save`.

    Attributes
    ----------
    title
        Of the page.
    document
        What the page shows, but for the arrays: a JSON document.
    arrays
        Name, then the packed array (see :mod:`.packing`).
    """

    title: str
    document: dict[str, Any]
    arrays: dict[str, str]

    def html(self) -> str:
        """The whole page."""
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
            # Within a script element only a closing tag or a comment could end it.
            document=json.dumps(self.document, allow_nan=False).replace("<", "\\u003c"),
            arrays=self.arrays,
            style=_text("static", "atlas.css"),
            library=_text("vendor", "d3.min.js"),
            license=_text("vendor", "d3-LICENSE.txt"),
            scripts=[_text("static", f"{name}.js") for name in SCRIPTS],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, whole or not at all.

        Raises
        ------
        InputError
            For a suffix other than ``.html``.
        StoreError
            If the file cannot be written.
        """
        if Path(path).suffix.lower() not in {".html", ".htm"}:
            raise InputError(f"An atlas is written as .html; {os.fspath(path)!r} ends otherwise.")
        _files.write_bytes(path, self.html().encode())

    def __repr__(self) -> str:
        units = sum(tower["layers"] * tower["width"] for tower in self.document["towers"])
        names = ", ".join(one["name"] for one in self.document["localizations"])
        return f"Atlas({self.title}: {names}; {units:,} units)"


def atlas(
    localizations: Localizations,
    *,
    study: LesionStudy | None = None,
    profiles: Mapping[str, Any] | None = None,
    favourites: Any = None,
    top: float = 0.01,
    arrangement: Arrangement | None = None,
    title: str | None = None,
) -> Atlas:
    """Make an interactive map of a model: one HTML file that needs no network.

    The page shows the model as :func:`modalnet.plotting.sheet` and :func:`modalnet.plotting.glass` do. It has a slider
    for the threshold (t, q or the share of units), the numbers of the unit under the pointer or the keyboard's cursor,
    its mean response to each condition, and, where they are given, lesions, profiles and favourite stimuli.

    Parameters
    ----------
    localizations
        Of one model: one, a list, or a mapping that names them; up to 6, over up to 10 million units.
    study
        A lesion study of the same model, shown beside the map; a network that has the name of a localization, alone or
        with a tower behind it such as ``"faces (vision)"``, also has its colour.
    profiles
        Name, then the result of ``mn.profile``: anything with a ``.table()`` whose rows have condition, mean, low and
        high, and may have control, control_low and control_high.
    favourites
        What units like: the result of ``mn.features.top_stimuli``, a list of such results, or a mapping from
        (tower, layer, dim) to its stimuli: texts, images, ``Stimulus`` objects, or pairs of one and an activation.
    top
        The share of units that are shown at first; the page can change it.
    arrangement
        As for :func:`modalnet.plotting.sheet`.
    title
        Of the page; the model's name if None.

    Returns
    -------
    Atlas
        ``.save("atlas.html")`` writes it.

    Raises
    ------
    InputError
        For localizations of different models, more than 6 of them, or a study, profiles or favourites of another kind.

    Notes
    -----
    t and q are in the page as float32; a share of units selects what ``Localization.top`` does of them.
    Effect sizes, condition means and standard errors are rounded to 0.05%.

    Examples
    --------
    >>> atlas({"language": language, "vision": vision}, study=study).save("atlas.html")  # doctest: +SKIP
    """
    found = as_mapping(localizations)
    if len(found) > MOST:
        raise InputError(f"An atlas tells up to {MOST} networks apart; got {len(found)} localizations.")
    Threshold.of(t=None, q=None, top=top, default="top")
    shapes = towers_of(found)
    placed = arrange(found) if arrangement is None else arrangement
    placed.check(shapes)
    packing = Packing()
    model = str(next(iter(found.values())).meta.get("source") or "model").rstrip("/").rsplit("/", 1)[-1]
    document = {
        "model": model,
        "title": title or model,
        "top": float(top),
        "towers": [_tower(packing, found, placed, tower, shape) for tower, shape in shapes.items()],
        "localizations": [_localization(packing, one, name, shapes) for name, one in found.items()],
        "colours": {"networks": list(NETWORKS), "overlap": OVERLAP, "warm": list(WARM), "cold": list(COLD)},
        "study": evidence.of_study(study),
        "profiles": evidence.of_profiles(profiles),
        "favourites": evidence.of_favourites(favourites, shapes),
    }
    return Atlas(str(document["title"]), document, packing.arrays)


def _tower(
    packing: Packing, found: Mapping[str, Localization], placed: Arrangement, tower: str, shape: tuple[int, int]
) -> dict[str, Any]:
    mean_abs = owner_of(found, tower).mean_abs[tower]
    ground = np.stack([np.round(255 * ground_of(row)) for row in mean_abs])
    return {
        "name": tower,
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
    """All units of the map in order, NaN where this one has no tower."""
    parts = [values[tower] if tower in values else np.full(shape, np.nan) for tower, shape in shapes.items()]
    return np.concatenate([part.ravel() for part in parts])


def _listed(names: Any) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else [str(name) for name in names] if isinstance(names, Sequence) else []


def _text(*parts: str) -> str:
    return resources.files("modalnet.plotting.atlas").joinpath(*parts).read_text(encoding="utf-8")
