"""A lesion study runs each lesion on each task, keeps what it has, and refuses what makes no sense."""

from __future__ import annotations

import numpy as np
import pytest

import modalnet as mn
from modalnet.activations import donors, token_statistics
from modalnet.execution.executor import Executor
from modalnet.lesion import Lesion, LesionStudy
from modalnet.lesion.reference import stimuli_of
from modalnet.tasks import GenerationTask, minimal_pairs
from modalnet.tasks.base import LikelihoodTask
from random_units import some_units
from reference import load, stimuli_for

PAIRS = [("a dog sleeps", "a dog sleep"), ("b c d", "d c b"), ("the cat", "the hat"), ("one two", "two one")]
OPTIONS = {"n_controls": 2, "progress": False, "leave_out": 0}


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
    given = ["a b", "c d e"]
    operations = ("zero", "mean", "resample", "scale")
    study = mn.lesion_study(
        model, {"some": units}, pairs(), operations=operations, reference=given, spare_first=1, scales=0.5, **OPTIONS
    )
    fraction = units.count / len(model.units())
    means = token_statistics(model, given, "decoder", spare_first=1).mean
    bank = donors(model, given, "decoder", seed=0, spare_first=1)
    there = at_the_tokens_of(model, pairs(), spare_first=1)
    alike = mn.Units(units.mask, mean_abs=there.mean_abs)
    sets = {"": [units], "layer": units.random(2, 0, "layer"), "activation": alike.random(2, 0, "activation")}
    made = {
        "zero": mn.zero,
        "mean": lambda one: mn.mean(one, over=means),
        "resample": lambda one: mn.resample(one, over=bank, seed=0),
        "scale 0.5": lambda one: mn.scale(one, 0.5),
    }
    assert study.operations == tuple(made)
    for operation, make in made.items():
        for control, members in sets.items():
            for draw, one in enumerate(members):
                expected = pairs().run(model, make(one).at("all", spare_first=1, spare_sinks=True)).scores
                lesion = Lesion("some", fraction, operation, control, draw)
                assert np.array_equal(study.cells[lesion, "pairs"], expected)
                assert study.counts[lesion] == one.count
    assert len(study.cells) == 4 * 5
    assert np.array_equal(study.base["pairs"].scores, pairs().run(model).scores)
    mean_abs = units.mean_abs["decoder"]
    ratio = mean_abs[units.mask["decoder"]].mean() / mean_abs.mean()
    assert study.magnitudes[Lesion("some", fraction, "zero")] == pytest.approx(ratio)


def at_the_tokens_of(model, task, **options):
    """What units do at the tokens of a task in the intact model."""
    requests = task.requests()
    stimuli = [one.stimulus or mn.Stimulus.blank() for one in requests]
    continuations = [one.continuation for one in requests]
    return token_statistics(model, stimuli, "decoder", continuations=continuations, **options)


def test_what_is_put_in_is_reported_in_standard_deviations(model):
    units = network(model)
    study = mn.lesion_study(model, {"some": units}, pairs(), operations=["zero", "mean", "resample"], **OPTIONS)
    there = at_the_tokens_of(model, pairs())
    mask = units.mask["decoder"]
    mean, sd, mean_abs = (getattr(there, name)["decoder"][mask] for name in ("mean", "sd", "mean_abs"))
    fraction = units.count / len(model.units())
    activity = {name: study.activity[Lesion("some", fraction, name), "pairs"] for name in study.operations}
    assert activity["zero"].mean_abs == pytest.approx(mean_abs.mean())
    assert activity["zero"].inserted == pytest.approx(np.median(np.abs(mean) / sd))
    assert activity["zero"].inserted_max == pytest.approx((np.abs(mean) / sd).max())
    assert activity["mean"].inserted_max == pytest.approx(0, abs=1e-9)
    assert activity["resample"].inserted == pytest.approx(1, abs=0.3)  # as far as another token
    row = study.table().iloc[0]
    assert row.inserted == activity["zero"].inserted
    draw = study.activity[Lesion("some", fraction, "zero", "activation", 1), "pairs"]
    ratios = [study.activity[Lesion("some", fraction, "zero", "activation", i), "pairs"].mean_abs for i in range(2)]
    assert row.match_activation == pytest.approx(np.mean(ratios) / mean_abs.mean())
    assert np.isnan(draw.sink_mean_abs)  # sinks are spared


def test_a_lesion_does_not_depend_on_the_other_tasks_of_a_study(model):
    """The reference of mean ablation and the donors of resampling are those of the task."""
    units = network(model)
    other = minimal_pairs([("e f g", "g f e"), ("d d d", "f f")], name="other")
    options = {"operations": ["mean", "resample"], "match": "layer", **OPTIONS}
    alone = mn.lesion_study(model, {"some": units}, pairs(), **options)
    both = mn.lesion_study(model, {"some": units}, [pairs(), other], **options)
    for key, scores in alone.cells.items():
        assert np.array_equal(both.cells[key], scores)
        assert both.activity[key] == alone.activity[key]


def test_the_sets_that_are_drawn(model):
    units = network(model)
    other = {"decoder": np.random.default_rng(1).normal(size=(4, 48))}
    kinds = ("layer", "activation", "variance", "readout", "dimension", "tower")
    study = mn.lesion_study(
        model,
        {"some": units},
        pairs(),
        operations=["zero"],
        match=kinds,
        match_on={"another contrast": other},
        **OPTIONS | {"leave_out": 2},
    )
    fraction = units.count / len(model.units())
    kinds += ("another contrast",)
    assert study._resamples.kinds == ("layer", "activation", *sorted(kinds[2:]), "least")
    table = study.table()
    for kind in kinds:
        assert table[f"n_{kind}"][0] == 2
        assert 0 <= table[f"overlap_{kind}"][0] < 1
        assert study.counts[Lesion("some", fraction, "zero", kind)] == units.count
    mask = units.mask["decoder"]
    there = at_the_tokens_of(model, pairs())
    head = model.module.lm_head.weight.detach().double().norm(dim=0).numpy()
    quantities = {"variance": there.sd["decoder"], "readout": np.broadcast_to(head, (4, 48))}
    quantities["another contrast"] = np.abs(other["decoder"])
    for kind, values in quantities.items():
        (expected,) = mn.Units(units.mask, mean_abs={"decoder": values}).random(1, 0, "activation")
        scores = pairs().run(model, mn.zero(expected).at("all", spare_sinks=True)).scores
        assert np.array_equal(study.cells[Lesion("some", fraction, "zero", kind), "pairs"], scores)
    design = study.design["some", fraction]
    assert design.n_dimensions == mask.any(axis=0).sum()
    # The dimensions that are left out are those with the largest activations.
    sizes = (there.mean_abs["decoder"] * mask).sum(axis=0)
    largest = np.argsort(-sizes)[:2]
    assert design.left_out == tuple(f"decoder[{dim}]" for dim in largest)
    rest = mask.copy()
    rest[:, largest[1]] = False
    expected = pairs().run(model, mn.zero(mn.Units({"decoder": rest})).at("all", spare_sinks=True)).scores
    assert np.array_equal(study.cells[Lesion("some", fraction, "zero", "without", 1), "pairs"], expected)
    assert list(study.dimensions().dimension) == list(design.left_out)


def test_dimension_controls_have_as_many_dimensions_in_the_same_layers(model):
    units = network(model)
    mask = units.mask["decoder"]
    for one in units.random(3, 0, "dimension"):
        drawn = one.mask["decoder"]
        assert not (drawn.any(axis=0) & mask.any(axis=0)).any()
        assert np.array_equal(drawn.sum(axis=1), mask.sum(axis=1))
        columns, own = ({tuple(each) for each in m.T if each.any()} for m in (drawn, mask))
        assert columns == own
    with pytest.raises(mn.InputError, match="only 8 are free"):
        mn.Units({"decoder": np.eye(4, 48, dtype=bool) | (np.arange(48) < 40)}).random(1, 0, "dimension")


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
    assert len(study.verdicts()) == 2
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
    monkeypatch.setattr("modalnet.lesion.scores.TOGETHER", 2)
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
    monkeypatch.setattr("modalnet.lesion.scores.TOGETHER", 2)
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


def test_references_are_evenly_from_all_items_of_any_task():
    class Long(Written):
        def stimuli(self):
            return [mn.Stimulus(f"a {i}") for i in range(250)]

    for task in (Long(), minimal_pairs([(f"a {i}", f"b {i}") for i in range(125)])):
        every, _ = stimuli_of(task)
        some, continuations = stimuli_of(task, most=5)
        assert (len(every), len(some)) == (250, 5)
        if continuations is None:
            assert [one.text for one in some] == ["a 0", "a 62", "a 124", "a 187", "a 249"]
        else:
            assert continuations == ["a 0", "a 31", "a 62", "b 93", "b 124"]


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
        ({"operations": ["melt"]}, "`operations` must be one of 'zero', 'mean', 'resample', 'scale', got 'melt'"),
        ({"operations": 3}, "`operations` must be one or several of"),
        ({"operations": []}, "`operations` must name at least one of"),
        ({"match": ["size"]}, "`match` must be one of 'layer', 'activation', .*, got 'size'"),
        ({"operations": "scale", "scales": ()}, "`scales` must not be empty"),
        ({"operations": "scale", "scales": [0.5, 1]}, "`scales` must be factors from 0 to below 1, got 1"),
        ({"leave_out": -1}, "`leave_out` must be a non-negative integer"),
        ({"match_on": {"layer": {}}}, "`match_on` must have names of its own, got 'layer'"),
        ({"match_on": {"mine": 3}}, r"`match_on\['mine'\]` must be a localization, or a mapping"),
        ({"match_on": {"mine": {"decoder": np.ones((2, 2))}}}, r"array of shape \(4, 48\) for 'decoder', got \(2, 2\)"),
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


def test_units_without_mean_abs_are_matched_in_what_was_measured(model):
    bare = some_units(model, ["decoder"], 0.1)
    study = mn.lesion_study(model, {"bare": bare}, pairs(), operations=["zero"], **OPTIONS)
    assert {one.control for one, _ in study.cells} == {"", "layer", "activation"}
    assert study.table().magnitude.isna().all()
    assert study.table().match_activation.notna().all()
    with pytest.raises(mn.InputError, match="must not be an empty set"):
        mn.lesion_study(model, {"none": bare - bare}, pairs(), progress=False)
