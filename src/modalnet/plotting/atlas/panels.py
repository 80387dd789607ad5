"""What stands beside the map: lesions, response profiles and favourite stimuli, as JSON."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.result import LesionStudy

THUMBNAIL = 96  # pixels
MOST_TEXT = 300  # characters of a favourite text
LESION = (
    ("network", "task", "fraction", "operation", "units", "measure", "base", "score", "drop", "drop_low", "drop_high"),
    ("drop", "drop_low", "drop_high", "exceeds"),  # beside each kind of control
)
CONTROLS = ("layer", "activation", "least")
PROFILE = ("condition", "n", "mean", "low", "high", "control", "control_low", "control_high")


def of_study(study: LesionStudy | None) -> dict[str, Any] | None:
    """Drops with their intervals, beside controls, and the verdicts.

    Raises
    ------
    InputError
        For what is no lesion study.
    """
    if study is None:
        return None
    if not callable(getattr(study, "table", None)) or not callable(getattr(study, "verdicts", None)):
        raise InputError(f"study= is what mn.lesion_study returns; got {type(study).__name__}.")
    table = study.table()
    columns = [*LESION[0]]
    for kind in CONTROLS:
        columns += [f"drop_{kind}", f"drop_{kind}_low", f"drop_{kind}_high", f"exceeds_{kind}"]
    rows = _records(table[[column for column in columns if column in table]])
    return {"rows": rows, "verdicts": [str(line) for line in study.verdicts()]}


def of_profiles(profiles: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The rows of each profile.

    Raises
    ------
    InputError
        For what is no mapping of profiles.
    """
    if profiles is None:
        return []
    if not isinstance(profiles, Mapping) or not all(callable(getattr(one, "table", None)) for one in profiles.values()):
        raise InputError('profiles= maps names to profiles: {"language": mn.profile(...)}.')
    found = []
    for name, one in profiles.items():
        table = one.table()
        missing = {"condition", "mean"} - set(table)
        if missing:
            raise InputError(f"The profile {name!r} has no column {', '.join(sorted(missing))}; it has {list(table)}.")
        unit = {"z": "z", "minmax": "share of range"}.get(str(getattr(one, "normalize", "")), "response")
        rows = _records(table[[column for column in PROFILE if column in table]])
        found.append(
            {"name": str(name), "unit": unit, "rows": rows, "notes": [str(n) for n in getattr(one, "notes", ())]}
        )
    return found


def of_favourites(favourites: Any, shapes: Mapping[str, tuple[int, int]]) -> dict[str, list[dict[str, Any]]]:
    """``"tower/layer/dim"``, then the stimuli of that unit, best first; pictures are small data URLs.

    Raises
    ------
    InputError
        For units that the map does not have, or stimuli that are neither text nor picture.
    """
    if favourites is None:
        return {}
    listed = favourites if isinstance(favourites, list | tuple) else [favourites]
    shown: dict[int, dict[str, Any]] = {}  # a picture that many units like is made small once
    found: dict[str, list[dict[str, Any]]] = {}
    for one in listed:
        for unit, stimuli in _by_unit(one).items():
            tower, layer, dim = unit
            layers, width = shapes.get(tower, (0, 0))
            if not (0 <= layer < layers and 0 <= dim < width):
                raise InputError(f"favourites= names the unit {unit!r}, which the map does not have: {dict(shapes)}.")
            found[f"{tower}/{layer}/{dim}"] = [_shown(stimulus, shown) for stimulus in stimuli]
    return found


def _by_unit(one: Any) -> dict[tuple[str, int, int], list[Any]]:
    if isinstance(one, Mapping):
        units = {}
        for unit, stimuli in one.items():
            if not (isinstance(unit, tuple) and len(unit) == 3):
                raise InputError(f"favourites= maps (tower, layer, dim) to stimuli; got the key {unit!r}.")
            many = isinstance(stimuli, Sequence) and not isinstance(stimuli, str)
            units[unit] = list(stimuli) if many else [stimuli]
        return units
    if not all(hasattr(one, part) for part in ("units", "index", "activation", "stimuli")):
        raise InputError(
            "favourites= is what mn.features.top_stimuli returns, or maps (tower, layer, dim) to stimuli; got "
            f"{type(one).__name__}."
        )
    return {
        tuple(unit): [
            (one.stimuli[int(index)], float(activation))
            for index, activation in zip(indices, activations, strict=True)
            if int(index) >= 0
        ]
        for unit, indices, activations in zip(one.units, one.index, one.activation, strict=True)
    }


def _shown(stimulus: Any, seen: dict[int, dict[str, Any]]) -> dict[str, Any]:
    activation = None
    if isinstance(stimulus, tuple) and len(stimulus) == 2:
        stimulus, activation = stimulus
    key = id(stimulus)
    if key not in seen:
        # The stimulus is kept beside what is shown of it, so that its id stays its own.
        seen[key] = {"of": stimulus, "shown": _text_and_picture(stimulus)}
    return seen[key]["shown"] | ({} if activation is None else {"activation": _number(activation)})


def _text_and_picture(stimulus: Any) -> dict[str, Any]:
    from modalnet.stimuli import Stimulus

    if isinstance(stimulus, str):
        return {"text": stimulus[:MOST_TEXT]}
    if not isinstance(stimulus, Stimulus):
        stimulus = Stimulus(image=stimulus)
    shown: dict[str, Any] = {}
    if stimulus.text:
        shown["text"] = stimulus.text[:MOST_TEXT]
    if stimulus.condition:
        shown["condition"] = str(stimulus.condition)
    if stimulus.n_images:
        shown["picture"] = _thumbnail(stimulus.images()[0])
    return shown


def _thumbnail(picture: Any) -> str:
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): _number(value) for name, value in row.items()} for row in table.to_dict("records")]


def _number(value: Any) -> Any:
    """A value for JSON; what is not defined is null."""
    import pandas as pd

    if value is None or value is pd.NA:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
