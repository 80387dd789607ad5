"""The panels beside the map, as JSON: lesions, response profiles and maximally activating stimuli."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from modalnet.features.response import Unit
    from modalnet.features.result import TopStimuli
    from modalnet.lesion.result import LesionStudy
    from modalnet.profiles.result import Profile
    from modalnet.stimuli import Stimulus

#: Maximally activating stimuli: a result, several, or stimuli by unit.
TopStimuliLike: TypeAlias = "TopStimuli | Sequence[TopStimuli | Mapping[Unit, Any]] | Mapping[Unit, Any]"

THUMBNAIL = 96  # pixels
MAX_TEXT = 300  # characters of a text
LESION = (
    ("network", "task", "fraction", "operation", "units", "measure", "base", "score", "drop", "drop_low", "drop_high"),
    ("drop", "drop_low", "drop_high", "exceeds"),  # beside each kind of control
)
CONTROLS = ("layer", "activation", "least")
PROFILE = ("condition", "n", "mean", "low", "high", "control", "control_low", "control_high")


def lesion_panel(study: LesionStudy | None) -> dict[str, Any] | None:
    """Return the drops of a lesion study with their intervals, beside controls, and the verdicts.

    Raises
    ------
    InputError
        If it is not a lesion study.
    """
    if study is None:
        return None
    if not callable(getattr(study, "table", None)) or not callable(getattr(study, "verdicts", None)):
        raise InputError(f"`study` must be a LesionStudy, the result of mn.lesion_study, got {type(study).__name__}.")
    table = study.table()
    columns = [*LESION[0]]
    for kind in CONTROLS:
        columns += [f"drop_{kind}", f"drop_{kind}_low", f"drop_{kind}_high", f"exceeds_{kind}"]
    rows = _records(table[[column for column in columns if column in table]])
    return {"rows": rows, "verdicts": list(study.verdicts()["sentence"])}


def profile_panel(profiles: Mapping[str, Profile] | None) -> list[dict[str, Any]]:
    """Return the rows of each profile.

    Raises
    ------
    InputError
        If it is not a mapping of profiles.
    """
    if profiles is None:
        return []
    if not isinstance(profiles, Mapping) or not all(callable(getattr(one, "table", None)) for one in profiles.values()):
        raise InputError('`profiles` must map names to profiles, such as {"language": mn.profile(...)}.')
    panels = []
    for name, profile in profiles.items():
        table = profile.table()
        missing = {"condition", "mean"} - set(table)
        if missing:
            raise InputError(f"profile {name!r} has no column {', '.join(sorted(missing))}; it has {list(table)}.")
        unit = {"z": "z", "minmax": "share of range"}.get(str(getattr(profile, "normalize", "")), "response")
        rows = _records(table[[column for column in PROFILE if column in table]])
        notes = [str(note) for note in getattr(profile, "notes", ())]
        panels.append({"name": str(name), "unit": unit, "rows": rows, "notes": notes})
    return panels


def top_stimuli_panel(
    top_stimuli: TopStimuliLike | None, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the stimuli of each unit, ``"space/layer/index"``, most activating first; images are small data URLs.

    Raises
    ------
    InputError
        For units that the map does not have, or stimuli that are neither text nor image.
    """
    if top_stimuli is None:
        return {}
    listed: Sequence[Any] = top_stimuli if isinstance(top_stimuli, list | tuple) else [top_stimuli]
    entries: dict[int, tuple[Any, dict[str, Any]]] = {}  # an image of several units is made small once
    panel: dict[str, list[dict[str, Any]]] = {}
    for each in listed:
        for unit, stimuli in _by_unit(each).items():
            space, layer, index = unit
            layers, width = shapes.get(space, (0, 0))
            if not (0 <= layer < layers and 0 <= index < width):
                raise InputError(f"`top_stimuli` has the unit {unit!r}, which the map does not have: {dict(shapes)}.")
            panel[f"{space}/{layer}/{index}"] = [_entry(stimulus, entries) for stimulus in stimuli]
    return panel


def _by_unit(top_stimuli: TopStimuli | Mapping[Unit, Any]) -> dict[Unit, list[Any]]:
    if isinstance(top_stimuli, Mapping):
        units = {}
        for unit, stimuli in top_stimuli.items():
            if not (isinstance(unit, tuple) and len(unit) == 3):
                raise InputError(f"`top_stimuli` must map (space, layer, index) to stimuli, got the key {unit!r}.")
            several = isinstance(stimuli, Sequence) and not isinstance(stimuli, str)
            units[unit] = list(stimuli) if several else [stimuli]
        return units
    result = top_stimuli
    if not all(hasattr(result, part) for part in ("units", "index", "activation", "stimuli")):
        raise InputError(
            "`top_stimuli` must be the result of mn.features.top_stimuli, a list of such results, or a mapping from "
            f"(space, layer, index) to stimuli, got {type(result).__name__}."
        )
    return {
        (str(unit[0]), int(unit[1]), int(unit[2])): [
            (result.stimuli[int(index)], float(activation))
            for index, activation in zip(indices, activations, strict=True)
            if int(index) >= 0
        ]
        for unit, indices, activations in zip(result.units, result.index, result.activation, strict=True)
    }


def _entry(stimulus: Any, known: dict[int, tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    activation = None
    if isinstance(stimulus, tuple) and len(stimulus) == 2:
        stimulus, activation = stimulus
    if id(stimulus) not in known:
        # Holding the stimulus keeps its id from being used again.
        known[id(stimulus)] = stimulus, _text_and_picture(stimulus)
    return known[id(stimulus)][1] | ({} if activation is None else {"activation": _number(activation)})


def _text_and_picture(stimulus: Stimulus | str | Any) -> dict[str, Any]:
    from modalnet.stimuli import Stimulus

    if isinstance(stimulus, str):
        return {"text": stimulus[:MAX_TEXT]}
    if not isinstance(stimulus, Stimulus):
        stimulus = Stimulus(image=stimulus)
    shown: dict[str, Any] = {}
    if stimulus.text or not stimulus.n_images:  # a sound is named
        shown["text"] = (stimulus.text or stimulus.label)[:MAX_TEXT]
    if stimulus.condition:
        shown["condition"] = str(stimulus.condition)
    if stimulus.n_images:
        shown["picture"] = _thumbnail(stimulus.images()[0])
    return shown


def _thumbnail(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): _number(value) for name, value in row.items()} for row in table.to_dict("records")]


def _number(value: Any) -> Any:
    """Return a value for JSON; undefined numbers are null."""
    import pandas as pd

    if value is None or value is pd.NA:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
