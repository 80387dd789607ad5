"""A lesion study runs each lesion on each task, keeps what it has, and refuses what makes no sense."""

from __future__ import annotations

import numpy as np
import pytest

import modalnet as mn
from modalnet.execution.executor import Executor
from modalnet.lesion import Lesion, LesionStudy
from modalnet.tasks import GenerationTask, minimal_pairs
from modalnet.tasks.base import LikelihoodTask
from random_units import some_units
from reference import load, stimuli_for

PAIRS = [("a dog sleeps", "a dog sleep"), ("b c d", "d c b"), ("the cat", "the hat"), ("one two", "two one")]
OPTIONS = {"n_controls": 2, "progress": False}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALNET_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def model():
    return load("llama")


def network(model, share=0.1, seed=3):
    rng = np.random.default_rng(seed)
    mean_abs = {name: rng.uniform(0.5, 2, tower.shape) for name, tower in model.towers.items()}
    return mn.Units(some_units(model, ["decoder"], share, seed).mask, mean_abs=mean_abs)


def pairs(name="pairs"):
    return minimal_pairs(PAIRS, name=name)


def contrast():
    words = ["a", "b", "c", "d", "e", "f"]
    made = [mn.Stimulus(f"{w} {v}", condition="x" if i % 2 else "y") for i, w in enumerate(words) for v in words]
    return mn.Contrast(made, positive="x", negative="y")


def test_every_cell_is_what_the_task_gives_under_that_lesion(model):
    units = network(model)
    study = mn.lesion_study(model, {"some": units}, pairs(), reference=["a b", "c d e"], spare_first=1, **OPTIONS)
    fraction = units.count / len(model.units())
    means = model.means(["a b", "c d e"], spaces="decoder", spare_first=1)
    sets = {"": [units], "layer": units.random(2, 0, "layer"), "activation": units.random(2, 0, "activation")}
    for operation in ("zero", "mean"):
        for control, members in sets.items():
            for draw, one in enumerate(members):
                edit = mn.zero(one) if operation == "zero" else mn.mean(one, over=means)
                expected = pairs().run(model, edit.at("all", spare_first=1)).scores
                lesion = Lesion("some", fraction, operation, control, draw)
                assert np.array_equal(study.cells[lesion, "pairs"], expected)
                assert study.counts[lesion] == one.count
    assert len(study.cells) == 2 * 5
    assert np.array_equal(study.base["pairs"].scores, pairs().run(model).scores)
    mean_abs = units.mean_abs["decoder"]
    ratio = mean_abs[units.mask["decoder"]].mean() / mean_abs.mean()
    assert study.magnitudes[Lesion("some", fraction, "zero")] == pytest.approx(ratio)


def test_localizations_are_lesioned_at_every_size_beside_the_least_selective(model):
    localization = mn.localize(model, contrast(), progress=False)
    study = mn.lesion_study(
        model, {"x": localization}, [pairs()], (0.05, 0.1), operations=["zero"], match=["layer"], **OPTIONS
    )
    assert study.fractions("x") == (0.05, 0.1)
    least = localization.least_selective(fraction=0.1)
    assert study.counts[Lesion("x", 0.1, "zero", "least")] == least.count
    t = np.abs(localization.t["decoder"])
    assert t[least.mask["decoder"]].max() <= np.sort(t.ravel())[least.count]
    table = study.table()
    assert list(table["fraction"]) == [0.05, 0.1]
    assert study.verdicts()
    assert not (localization.top(fraction=0.1) & least)


def test_units_can_be_chosen_by_effect_size_and_without_massive_ones(model):
    localization = mn.localize(model, contrast(), progress=False)
    options = {"operations": ["zero"], "match": [], **OPTIONS}
    study = mn.lesion_study(
        model, {"x": localization}, [pairs()], (0.1,), by="effect_size", exclude_massive=2.0, **options
    )
    massive = localization.massive(2.0)
    median = np.median(localization.mean_abs["decoder"], axis=1, keepdims=True)
    assert massive.count
    assert np.array_equal(massive.mask["decoder"], localization.mean_abs["decoder"] > 2 * median)
    chosen = localization.top(fraction=0.1, by="effect_size", exclude=massive)
    assert not (chosen & massive)
    g = np.where(massive.mask["decoder"], -np.inf, localization.effect_size["decoder"])
    assert g[chosen.mask["decoder"]].min() >= np.sort(g.ravel())[-chosen.count]
    expected = pairs().run(model, mn.zero(chosen)).scores
    assert np.array_equal(study.cells[Lesion("x", 0.1, "zero"), "pairs"], expected)
    with pytest.raises(mn.InputError, match="`by` must be one of"):
        localization.top(k=3, by="size")
    with pytest.raises(mn.InputError, match="above 1"):
        localization.massive(0.5)


class Counting(LikelihoodTask):
    """Pairs that count how often they are graded, and fail at some time."""

    def __init__(self, name="pairs", fail_at=None):
        self.inner, self.name, self.graded, self.fail_at = pairs(name), name, 0, fail_at

    @property
    def items(self):
        return self.inner.items

    def requests(self):
        return self.inner.requests()

    def grade(self, likelihoods):
        self.graded += 1
        if self.graded == self.fail_at:
            raise RuntimeError("the disk is on fire")
        return self.inner.grade(likelihoods)


def test_a_second_study_answers_from_the_store_and_runs_nothing(model, monkeypatch):
    units = network(model)
    first = mn.lesion_study(model, {"some": units}, Counting(), operations=["zero"], **OPTIONS)
    task = Counting()
    monkeypatch.setattr(Executor, "likelihoods_under", None)
    second = mn.lesion_study(model, {"some": units}, task, operations=["zero"], **OPTIONS)
    assert task.graded == 0
    assert all(np.array_equal(first.cells[key], second.cells[key]) for key in first.cells)
    assert first.cells.keys() == second.cells.keys()


def test_a_task_that_fails_loses_nothing_that_was_computed(model, monkeypatch):
    monkeypatch.setattr("modalnet.lesion.study.TOGETHER", 2)
    units = network(model)
    tasks = [Counting("good"), Counting("bad", fail_at=4), Counting("late")]
    with pytest.warns(UserWarning, match="Task 'bad' failed and is skipped: the disk is on fire"):
        study = mn.lesion_study(model, {"some": units}, tasks, operations=["zero"], **OPTIONS)
    done = {task: sum(name == task for _, name in study.cells) for task in ("good", "bad", "late")}
    # Of the second task the base, and two lesions that were graded before; the rest says why not.
    assert done == {"good": 5, "bad": 2, "late": 5}
    assert len(study.failures) == 3
    assert set(study.failures.values()) == {"RuntimeError: the disk is on fire"}
    again = Counting("bad")
    whole = mn.lesion_study(model, {"some": units}, [Counting("good"), again], operations=["zero"], **OPTIONS)
    assert again.graded == 3
    assert not whole.failures


def test_a_study_that_is_stopped_goes_on(model, monkeypatch):
    monkeypatch.setattr("modalnet.lesion.study.TOGETHER", 2)
    units = network(model)
    task = Counting()

    def grade(likelihoods, keep=task.grade):
        if task.graded == 4:
            raise KeyboardInterrupt
        return keep(likelihoods)

    task.grade = grade
    with pytest.raises(KeyboardInterrupt):
        mn.lesion_study(model, {"some": units}, task, operations=["zero"], **OPTIONS)
    again = Counting()
    study = mn.lesion_study(model, {"some": units}, again, operations=["zero"], **OPTIONS)
    assert again.graded == 2
    assert len(study.cells) == 5


def test_a_tower_that_a_task_does_not_reach_changes_nothing_there():
    model = load("llava_clip")
    vision = some_units(model, ["vision"], 0.3)
    both = some_units(model, ["vision", "decoder"], 0.3)
    pictures = stimuli_for("llava_clip", n=2)

    class Pictured(Counting):
        def requests(self):
            return [mn.Request(stimulus, f" {word}") for stimulus in pictures for word in ("a", "b")]

        @property
        def items(self):
            return ("0", "1")

        def grade(self, likelihoods):
            return np.array([likelihoods[0].logprob, likelihoods[2].logprob])

    study = mn.lesion_study(
        model,
        {"vision": vision, "both": both},
        [pairs(), Pictured("pictures")],
        operations=["zero"],
        match=["layer"],
        **OPTIONS,
    )
    found = {(one.network, task): scores for (one, task), scores in study.cells.items() if not one.control}
    assert np.array_equal(found["vision", "pairs"], study.base["pairs"].scores)
    assert not np.allclose(found["vision", "pictures"], study.base["pictures"].scores)
    alone = Pictured("pictures").run(model, mn.zero(both)).scores
    np.testing.assert_allclose(found["both", "pictures"], alone, atol=1e-5)


class Written(GenerationTask):
    name = "written"
    max_new_tokens = 3

    @property
    def items(self):
        return ("0",)

    def stimuli(self):
        return [mn.Stimulus("a b c")]

    def grade(self, texts):
        return np.array([float(len(texts[0]))])


def test_tasks_that_write_can_be_studied_and_a_study_can_be_kept(model, tmp_path):
    units = network(model, 0.4)
    study = mn.lesion_study(model, {"some": units}, Written(), operations=["zero"], match=["layer"], **OPTIONS)
    edit = mn.zero(units)
    expected = float(len(model.generate("a b c", edit, max_new_tokens=3)))
    assert study.cells[Lesion("some", units.count / len(model.units()), "zero"), "written"] == [expected]
    study.save(tmp_path / "study.safetensors")
    kept = LesionStudy.load(tmp_path / "study.safetensors")
    assert kept.cells.keys() == study.cells.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": {}}, "`units` is empty"),
        ({"units": {"a": 3}}, r"`units\['a'\]` must be Units or a localization, got int"),
        ({"tasks": []}, "or several, got"),
        ({"tasks": ["blimp"]}, "got a str"),
        ({"tasks": [pairs(), pairs()]}, "same name"),
        ({"n_controls": -1}, "`n_controls` must be a non-negative integer"),
        ({"operations": ["melt"]}, "`operations` must be one of 'zero', 'mean', got 'melt'"),
        ({"operations": 3}, "`operations` must be one or several of"),
        ({"operations": []}, "`operations` must name at least one of"),
        ({"match": ["size"]}, "`match` must be one of 'layer', 'activation', got 'size'"),
        ({"match": "tower"}, "`match` must be one of 'layer', 'activation', got 'tower'"),
        ({"fractions": ()}, "`fractions` must not be empty"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(model, monkeypatch, change, message):
    monkeypatch.setattr(Executor, "likelihoods_under", None)
    given = {"units": {"some": network(model)}, "tasks": [pairs()]} | change
    with pytest.raises(mn.InputError, match=message):
        mn.lesion_study(model, progress=False, **given)


@pytest.mark.parametrize(
    ("shapes", "fingerprint", "message"),
    [
        (
            {"decoder": (4, 48)},
            "another",
            "network 'foreign' belong to another model than Llama.*: the fingerprints differ",
        ),
        ({"decoder": (4, 47)}, None, r"shape \(4, 47\) \[layer, unit\] for the units and \(4, 48\) in the model"),
        (
            {"vision": (4, 48)},
            None,
            "than LlamaForCausalLM: they are in the space 'vision', but its spaces are decoder",
        ),
    ],
)
def test_units_of_another_model_are_refused_before_anything_runs(model, monkeypatch, shapes, fingerprint, message):
    for name in ("likelihoods_under", "means"):
        monkeypatch.setattr(Executor, name, None)
    foreign = mn.Units({tower: np.eye(*shape, dtype=bool) for tower, shape in shapes.items()}, model=fingerprint)
    with pytest.raises(mn.InputError, match=message):
        mn.lesion_study(model, {"own": network(model), "foreign": foreign}, pairs(), match=["layer"], progress=False)


def test_units_without_norms_have_no_norm_matched_controls_and_that_is_said(model):
    bare = some_units(model, ["decoder"], 0.1)
    with pytest.warns(UserWarning, match="has no `mean_abs`"):
        study = mn.lesion_study(model, {"bare": bare}, pairs(), operations=["zero"], **OPTIONS)
    assert {one.control for one, _ in study.cells} == {"", "layer"}
    with pytest.raises(mn.InputError, match="got an empty set"):
        mn.lesion_study(model, {"none": bare - bare}, pairs(), progress=False)
