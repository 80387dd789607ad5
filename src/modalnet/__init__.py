"""modalnet: functional localizers, lesions and patching for vision-language models, on nnsight traces.

>>> import modalnet as mn
>>> model = mn.load("google/gemma-3-270m")  # doctest: +SKIP
>>> language = mn.localize(model, mn.stimuli.language())  # doctest: +SKIP
>>> network = language.top(fraction=0.01)  # doctest: +SKIP

Names are handed on when they are first asked for, so that ``import modalnet`` costs no import of torch or transformers.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalnet import brain, features, interop, patching, plotting, stimuli, tasks
    from modalnet.errors import InputError, ModalnetError, StoreError
    from modalnet.execution.likelihood import Request
    from modalnet.interventions.operations import (
        Intervention,
        add,
        direction,
        mean,
        patch,
        resample,
        scale,
        set_to,
        site,
        zero,
    )
    from modalnet.lesion import LesionStudy, lesion_study
    from modalnet.localization import Localization, Reliability, localize, pick_up
    from modalnet.model import Model, Run, load
    from modalnet.models.towers import Tower
    from modalnet.patching import (
        ModalityProfile,
        Patching,
        activation_patching,
        attribution_patching,
        profile_modality,
    )
    from modalnet.plotting.atlas import Atlas, atlas
    from modalnet.profiles import Profile, profile
    from modalnet.results.store import Store
    from modalnet.specialization import Specialization, specialization
    from modalnet.stimuli import Contrast, Stimulus, corrupt
    from modalnet.units import Units

try:
    __version__ = _version("modalnet")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0.0.0"

_WHERE = {
    "Atlas": "modalnet.plotting.atlas",
    "Contrast": "modalnet.stimuli",
    "InputError": "modalnet.errors",
    "Intervention": "modalnet.interventions.operations",
    "LesionStudy": "modalnet.lesion",
    "Localization": "modalnet.localization",
    "ModalnetError": "modalnet.errors",
    "ModalityProfile": "modalnet.patching",
    "Model": "modalnet.model",
    "Patching": "modalnet.patching",
    "Profile": "modalnet.profiles",
    "Reliability": "modalnet.localization",
    "Request": "modalnet.execution.likelihood",
    "Run": "modalnet.model",
    "Specialization": "modalnet.specialization",
    "Stimulus": "modalnet.stimuli",
    "Store": "modalnet.results.store",
    "StoreError": "modalnet.errors",
    "Tower": "modalnet.models.towers",
    "Units": "modalnet.units",
    "activation_patching": "modalnet.patching",
    "add": "modalnet.interventions.operations",
    "atlas": "modalnet.plotting.atlas",
    "attribution_patching": "modalnet.patching",
    "direction": "modalnet.interventions.operations",
    "lesion_study": "modalnet.lesion",
    "load": "modalnet.model",
    "localize": "modalnet.localization",
    "mean": "modalnet.interventions.operations",
    "patch": "modalnet.interventions.operations",
    "pick_up": "modalnet.localization",
    "profile": "modalnet.profiles",
    "profile_modality": "modalnet.patching",
    "resample": "modalnet.interventions.operations",
    "scale": "modalnet.interventions.operations",
    "set_to": "modalnet.interventions.operations",
    "site": "modalnet.interventions.operations",
    "specialization": "modalnet.specialization",
    "zero": "modalnet.interventions.operations",
}

__all__ = [
    "Atlas",
    "Contrast",
    "InputError",
    "Intervention",
    "LesionStudy",
    "Localization",
    "ModalityProfile",
    "ModalnetError",
    "Model",
    "Patching",
    "Profile",
    "Reliability",
    "Request",
    "Run",
    "Specialization",
    "Stimulus",
    "Store",
    "StoreError",
    "Tower",
    "Units",
    "activation_patching",
    "add",
    "atlas",
    "attribution_patching",
    "brain",
    "corrupt",
    "direction",
    "features",
    "interop",
    "lesion_study",
    "load",
    "localize",
    "mean",
    "patch",
    "patching",
    "pick_up",
    "plotting",
    "profile",
    "profile_modality",
    "resample",
    "scale",
    "set_to",
    "site",
    "specialization",
    "stimuli",
    "tasks",
    "zero",
]


def __getattr__(name: str) -> Any:
    if name in ("brain", "features", "interop", "patching", "plotting", "stimuli", "tasks"):
        return importlib.import_module(f"modalnet.{name}")
    if name == "corrupt":
        return importlib.import_module("modalnet.stimuli.corrupt")
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'modalnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
