"""What every result can do: files, tables, labelled arrays, a summary, a picture, and what to cite."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import modalnet as mn
from modalnet.brain.similarity import Similarity
from modalnet.features.optimized import Optimized
from modalnet.features.result import TopStimuli
from modalnet.lenses import Fit
from modalnet.localization.reliability import Reliability
from modalnet.patching.modality import ModalityProfile
from modalnet.profiles.human import HumanComparison
from modalnet.results.result import Result, _references

matplotlib.use("Agg")

OLD = Path(__file__).parent / "old"


def modality() -> ModalityProfile:
    rng = np.random.default_rng(0)
    values = {group: -rng.random((3, 4)) - 1 for group in ("image", "text", "last")}
    return ModalityProfile("toy", "mean", "log-probability", ("a", "b", "c"), -rng.random(3), values)


def reliability() -> Reliability:
    rng = np.random.default_rng(1)
    groups = [rng.random(5) for _ in range(4)]
    return Reliability(
        ("decoder",), 0.01, 7, rng.random(3), rng.random((3, 2)), *groups, rng.random((5, 2)), rng.random((5, 2))
    )


def human() -> HumanComparison:
    row = {"higher": "sentences", "lower": "nonwords", "difference": 1.0, "low": 0.5, "high": 1.5, "holds": "yes"}
    return HumanComparison((row | {"controls": 0.25, "source": "a paper"},), 4, 1, float("nan"))


def lens() -> mn.Lens:
    rng = np.random.default_rng(2)
    shape = (2, 3, 4)
    ids = rng.integers(0, 5, (*shape, 2))
    named = {token: f"token {token}" for token in range(5)}
    likely, words = rng.random((*shape, 2)), rng.random((*shape, 1))
    return mn.Lens(
        *("toy", "decoder", (), "all tokens", ("a", "b"), (0, 2, 5), ("plain", "tuned")),
        *(np.repeat([0, 1], 2), np.tile([0, 1], 2), tuple("wxyz"), ids, likely, rng.random(shape)),
        *(named, {" red": 7}, words, np.ones((*shape, 1), dtype=int), Fit(5, 20, 0, (0.1, float("inf")))),
    )


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    files = {
        "localization": mn.Localization,
        "lesion_study": mn.LesionStudy,
        "patching": mn.Patching,
        "attribution": mn.Patching,
        "alignment": mn.brain.Alignment,
        "rsa": Similarity,
        "cka": Similarity,
        "profile": mn.Profile,
        "specialization": mn.Specialization,
        "top_stimuli": TopStimuli,
        "optimized": Optimized,
    }
    found: dict[str, Result] = {name: kind.load(OLD / f"{name}.safetensors") for name, kind in files.items()}
    return found | {"reliability": reliability(), "modality": modality(), "human": human(), "lens": lens()}


NAMES = (
    *("localization", "lesion_study", "patching", "attribution", "alignment", "rsa", "cka", "profile"),
    *("specialization", "top_stimuli", "optimized", "reliability", "modality", "human", "lens"),
)


@pytest.mark.parametrize("name", NAMES)
def test_every_result_has_the_same_members(results, name, tmp_path):
    result = results[name]
    assert isinstance(result, Result)
    table, frame, dataset = result.table(), result.to_frame(), result.to_xarray()
    assert isinstance(table, pd.DataFrame)
    assert len(table)
    assert isinstance(frame, pd.DataFrame)
    assert isinstance(dataset, xr.Dataset)
    text = result.summary()
    assert isinstance(text, str)
    assert text.strip()
    for entry in result.cite().split("\n\n"):
        assert not entry or entry.startswith("@")
    path = tmp_path / "result.safetensors"
    result.save(path)
    back = type(result).load(path)
    assert type(back) is type(result)
    pd.testing.assert_frame_equal(back.table(), table)
    assert back.summary() == text
    xr.testing.assert_identical(back.to_xarray(), dataset)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_array_is_what_the_long_table_lists(results, name):
    result = results[name]
    dataset = result.to_xarray()
    first = dataset[next(iter(dataset.data_vars))]
    assert len(result.to_frame()) == first.size


@pytest.mark.parametrize("name", ["localization", "reliability", "modality", "human", "lens", "profile", "rsa"])
def test_every_result_draws_itself(results, name):
    from matplotlib import pyplot

    assert results[name].plot() is not None
    pyplot.close("all")


def test_units_are_the_rows_of_a_localization(results):
    localization = results["localization"]
    frame = localization.to_frame()
    assert len(frame) == localization.n_units
    for space, t in localization.t.items():
        here = frame[frame["space"] == space]
        np.testing.assert_array_equal(here["t"].to_numpy().reshape(t.shape), t)
        assert here["layer"].max() == t.shape[0] - 1
        assert here["index"].max() == t.shape[1] - 1


def test_items_under_lesions_are_the_rows_of_a_study(results):
    study = results["lesion_study"]
    frame = study.to_frame()
    for (lesion, task), scores in study.cells.items():
        here = frame[
            (frame["network"] == lesion.network)
            & (frame["fraction"] == lesion.fraction)
            & (frame["operation"] == lesion.operation)
            & (frame["control"] == lesion.control)
            & (frame["draw"] == lesion.draw)
            & (frame["task"] == task)
        ]
        np.testing.assert_array_equal(here["score"], scores)


def test_references_are_whole_entries():
    entries = _references()
    assert len(entries) >= 10
    for key, entry in entries.items():
        assert entry.startswith("@")
        assert entry.count("{") == entry.count("}")
        assert f"{{{key}," in entry
        assert "year" in entry
        assert "author" in entry
        assert "title" in entry


def test_every_source_has_an_entry():
    def classes(kind: type[Result]) -> list[type[Result]]:
        return [kind, *(found for each in kind.__subclasses__() for found in classes(each))]

    assert {key for kind in classes(Result) for key in kind.SOURCES} <= set(_references())
