"""Files that versions before 0.2 wrote are read as they were: see old/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import modalnet as mn
from modalnet.brain import Alignment, Similarity
from modalnet.features import Optimized, TopStimuli
from modalnet.stats.controls import match_columns

FOLDER = Path(__file__).resolve().parent / "old"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
#: Places of the decoder at which expected.json has values of a localization and of units.
AT = ((0, 3), (1, 7), (3, 20))
#: What a control matched by mean absolute activation was called.
RENAMED = {"norm": "activation"}


def same(found, expected) -> None:
    """Numbers to 1e-9, everything else equal; a NaN was written as null."""
    if isinstance(expected, dict):
        assert {str(key) for key in found} == set(expected)
        for key, value in found.items():
            same(value, expected[str(key)])
    elif isinstance(expected, list):
        found = found.tolist() if isinstance(found, np.ndarray) else list(found)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif expected is None:
        assert found is None or np.isnan(found)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    else:
        assert found == expected


def columns(table, expected):
    return {name: table[name].tolist()[: len(values)] for name, values in expected.items()}


def at(arrays):
    return [arrays["decoder"][place] for place in AT]


def read_localization(path, _expected):
    one = mn.Localization.load(path)
    return {
        **{name: at(getattr(one, name)) for name in ("t", "p", "q", "effect_size", "mean_abs")},
        "means": {condition: at(towers) for condition, towers in one.means.items()},
        "n": one.n,
        "n_folds": one.n_folds,
        "n_units": one.n_units,
        "top": sorted(one.top(k=5).indices()),
        "without_fold_0": sorted(one.without(0).top(k=5).indices()),
        "meta": {name: one.meta[name] for name in ("model", "source", "contrast", "tokens", "magnitude", "protocol")},
        "n_stimuli": len(one.stimuli),
    }


def read_units(path, expected):
    one = mn.Units.load(path)
    found = {"indices": one.indices(), "shapes": one.shapes}
    if "model" in expected:
        found |= {
            "model": one.model,
            "selected_on": sorted(one.selected_on)[:3],
            "n_selected_on": len(one.selected_on),
            "mean_abs": None if one.mean_abs is None else at(one.mean_abs),
        }
    return found


def lesion_key(lesion):
    """As expected.json names a lesion."""
    old = {new: old for old, new in RENAMED.items()}
    control = old.get(lesion.control, lesion.control)
    return f"{lesion.network} {lesion.fraction} {lesion.operation} {control} {lesion.draw}"


def read_study(path, expected):
    one = mn.LesionStudy.load(path)
    cells = {f"{lesion_key(lesion)} {task}": list(scores) for (lesion, task), scores in one.cells.items()}
    return {
        **{name: getattr(one, name) for name in ("model", "networks", "tasks", "operations", "spare_first", "seed")},
        "base": {task: scores.scores for task, scores in one.base.items()},
        "cells": {name: scores for name, scores in cells.items() if name in expected["cells"]},
        "n_cells": len(cells),
        "counts": {lesion_key(lesion): count for lesion, count in one.counts.items()},
        "magnitudes": {lesion_key(lesion): size for lesion, size in one.magnitudes.items()},
        "table": columns(one.table(), expected["table"]),
        "n_verdicts": int((one.verdicts()["question"] == "all").sum()),
    }


def read_patching(path, _expected):
    one = mn.Patching.load(path)
    old = {new: old for old, new in RENAMED.items()}
    return {
        **{name: getattr(one, name) for name in ("model", "metric", "direction", "estimated", "labels", "layers")},
        **{name: getattr(one, name) for name in ("clean", "corrupt", "effect")},
        "columns": {space: [column.name for column in columns] for space, columns in one.columns.items()},
        "joint": {name: patch.joint for name, patch in one.networks.items()},
        "counts": {name: patch.count for name, patch in one.networks.items()},
        "controls": {
            name: {old.get(kind, kind): draws for kind, draws in patch.controls.items()}
            for name, patch in one.networks.items()
        },
        "unit_effect": {space: [effect[0, 1], effect.sum()] for space, effect in one.unit_effect.items()},
        "picture": None if one.picture is None else [one.picture.shape, one.picture.sum()],
    }


def read_profile(path, _expected):
    one = mn.Profile.load(path)
    difference = one.contrast("sentences", "nonwords")
    assert difference.pop("p_new_draw") == 1  # neither was written then
    assert difference.pop("finding") == ""
    return {
        **{name: getattr(one, name) for name in ("model", "network", "conditions", "n_controls", "normalize", "notes")},
        "responses": one.responses[:8],
        "controls": one.controls[:, 5],
        "mean": {condition: one.mean(condition) for condition in one.conditions},
        "difference": difference,
    }


def read_specialization(path, expected):
    one = mn.Specialization.load(path)
    selectivity = one.table("selectivity").iloc[0].to_dict()
    assert np.isnan([selectivity.pop(name) for name in match_columns(np.zeros(0))]).all()  # not written then
    overlap = one.table("overlap").iloc[0].to_dict()
    # What was written took units as independent, and is not kept.
    assert np.isnan([overlap.pop(name) for name in ("p_more", "p_less", "dice_permuted")]).all()
    return {
        **{name: getattr(one, name) for name in ("model", "networks", "missing", "notes")},
        "measures": sorted(one.tables),
        "overlap": overlap | {name: expected["overlap"][name] for name in ("p_more", "p_less")},
        "selectivity": selectivity,
    }


def brain(one, expected):
    return {
        "model": one.model,
        "dataset": one.dataset,
        "sets": [(part.name, part.kind, part.n_features) for part in one.sets],
        "table": columns(one.table(), expected["table"]),
        "notes": one.notes,
    }


def read_alignment(path, expected):
    one = Alignment.load(path)
    found = brain(one, expected)
    # An interval over fewer than 5 draws of random units was written, and is not given any more.
    assert len(one.controls) < 5
    for name in ("low", "high"):
        assert np.isnan(found["table"][name][1])
        found["table"][name][1] = expected["table"][name][1]
    if "shares" in expected:
        return found | {"shares": one["network + baselines"].shares}
    return found | {"subjects": one.subjects, "verdict_of": one.metric}


def read_similarity(path, expected):
    return brain(Similarity.load(path), expected)


def read_top(path, expected):
    one = TopStimuli.load(path)
    names = ("model", "units", "magnitude", "bottom", "scaled", "n_stimuli", "index", "activation")
    return {
        **{name: getattr(one, name) for name in (*names, "network_index", "network_activation")},
        "texts": {index: stimulus.text for index, stimulus in one.stimuli.items()},
        "sizes": {index: [image.size for image in stimulus.images()] for index, stimulus in one.stimuli.items()},
        "n_shades": len(one.token_activations.activations),
        **({"share": one.share("odd")} if "share" in expected else {}),
    }


def read_optimized(path, _expected):
    one = Optimized.load(path)
    return {
        **{name: getattr(one, name) for name in ("model", "units", "scaled", "text", "frame", "path", "response")},
        "match": {new: old for old, new in RENAMED.items()}.get(one.match, one.match),
        "shape": one.pictures.shape,
        "sum": one.pictures.astype(int).sum(),
        "natural": one.natural.response,
        "best": one.natural.best,
        "labels": one.natural.labels,
    }


READ = {
    "localization.safetensors": read_localization,
    "localization_protocol.safetensors": read_localization,
    "units.safetensors": read_units,
    "units.json": read_units,
    "units_bare.safetensors": read_units,
    "lesion_study.safetensors": read_study,
    "patching.safetensors": read_patching,
    "attribution.safetensors": read_patching,
    "profile.safetensors": read_profile,
    "specialization.safetensors": read_specialization,
    "alignment.safetensors": read_alignment,
    "alignment_banded.safetensors": read_alignment,
    "rsa.safetensors": read_similarity,
    "cka.safetensors": read_similarity,
    "top_stimuli.safetensors": read_top,
    "top_tokens.safetensors": read_top,
    "optimized.safetensors": read_optimized,
}


def test_every_file_is_read():
    assert set(READ) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_old_file_holds_what_was_written(name):
    expected = EXPECTED[name]
    same(READ[name](FOLDER / name, expected), expected)
