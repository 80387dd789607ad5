"""Specialization: each measure against what its definition says, on networks that are known."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import hypergeom

import modalnet as mn
from modalnet.execution.likelihood import Request
from modalnet.specialization import capacity, interference, overlap as places, permuted
from modalnet.specialization.selectivity import selectivity
from modalnet.stats.moments import standardized_difference

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tiny():
    return mn.load("tiny")


@pytest.fixture(scope="module")
def contrasts():
    return {"language": mn.stimuli.language(40, items=True), "vision": mn.stimuli.vision(n=40, size=64)}


@pytest.fixture(scope="module")
def localizations(tiny, contrasts):
    return {name: mn.localize(tiny, one, progress=False) for name, one in contrasts.items()}


@pytest.fixture(scope="module")
def result(tiny, localizations, contrasts):
    bundled = mn.tasks.bundled(8)
    tasks = {"language": bundled["grammar"], "vision": bundled["colour"]}
    return mn.specialization(
        tiny, localizations, contrasts, tasks, fraction=0.05, n_controls=3, n_interaction=15, progress=False
    )


def units(*places_, shape=(4, 20)) -> mn.Units:
    return mn.Units.from_indices({"decoder": shape}, [("decoder", layer, dim) for layer, dim in places_])


# -- overlap and separation --------------------------------------------------------------------------------------------


def test_overlap_beside_chance():
    a = units(*[(0, d) for d in range(8)], *[(2, d) for d in range(4)])
    b = units(*[(0, d) for d in range(4, 12)], *[(3, d) for d in range(4)])
    found = places.overlap(a, b, np.random.default_rng(0), draws=20000)
    assert (found["shared"], found["dice"]) == (4, pytest.approx(a.dice(b)))
    chance = hypergeom(20, 8, 8)
    assert found["chance_layer"] == pytest.approx(2 * chance.mean() / 24)
    assert not {"p_more", "p_less"} & set(found)  # random units say nothing about significance
    assert found["chance_tower"] == pytest.approx(2 * 12 * 12 / 80 / 24)
    low, high = chance.ppf([0.025, 0.975])
    assert (found["chance_layer_low"], found["chance_layer_high"]) == (2 * low / 24, 2 * high / 24)


def test_separation_over_layers_and_depth():
    early = units(*[(0, d) for d in range(10)])
    late = units(*[(3, d) for d in range(10)])
    found = places.separation(early, late)
    assert found["divergence"] == pytest.approx(1)
    assert (found["depth"], found["distance"]) == (1, 1)
    alike = places.separation(early, units(*[(0, d) for d in range(10, 20)]))
    assert (alike["divergence"], alike["depth"], alike["distance"]) == (0, 0, 0)
    mixed = units(*[(0, d) for d in range(5)], *[(1, d) for d in range(15)])
    shares = [np.array([1.0, 0, 0, 0]), np.array([0.25, 0.75, 0, 0])]
    expected = jensenshannon(*shares, base=2) ** 2
    assert places.separation(early, mixed)["divergence"] == pytest.approx(expected)


def test_networks_of_other_towers_have_no_depth_in_common():
    shapes = {"vision": (3, 10), "decoder": (4, 10)}
    a = mn.Units.from_indices(shapes, [("vision", 0, d) for d in range(5)])
    b = mn.Units.from_indices(shapes, [("decoder", 0, d) for d in range(5)])
    found = places.separation(a, b)
    assert found["divergence"] == pytest.approx(1)
    assert np.isnan(found["depth"])
    assert np.isnan(found["distance"])
    rows = places.per_layer({"a": a, "b": b})
    assert sum(row["share"] for row in rows if row["network"] == "a") == pytest.approx(1)


def test_networks_are_compared_with_those_of_permuted_labels():
    """p is the largest of three: either network stays while the other's labels are permuted, or both are."""
    a, b = units(*[(0, d) for d in range(4)]), units(*[(0, d) for d in range(2, 6)])
    rng = np.random.default_rng(0)
    of_a, of_b = (
        np.concatenate([first[None], np.sort([rng.choice(80, 4, replace=False) for _ in range(199)], axis=1)])
        for first in (np.arange(4), np.arange(2, 6))
    )
    overlap, separation = permuted.compared(a, b, of_a, of_b)
    nulls = [(of_a[1:], of_b[1:]), ([of_a[0]] * 199, of_b[1:]), (of_a[1:], [of_b[0]] * 199)]
    shared = [np.array([len(set(x) & set(y)) for x, y in zip(*null, strict=True)]) for null in nulls]
    assert overlap["p_more"] == max((1 + (one >= 2).sum()) / 200 for one in shared)
    assert overlap["p_less"] == max((1 + (one <= 2).sum()) / 200 for one in shared)
    assert overlap["dice_permuted"] == pytest.approx(shared[0].mean() / 4)
    assert separation["p"] == 1  # both lie in the first layer
    assert permuted.UNTESTED[0].keys() == overlap.keys()
    assert permuted.UNTESTED[1].keys() == separation.keys()


def test_permuted_networks_do_not_depend_on_how_they_are_read(tiny, localizations, contrasts, monkeypatch):
    localization = localizations["language"]
    network = localization.top(fraction=0.05)
    options = {"n_permutations": 19, "seed": 0, "options": {"cache": False, "progress": False}}
    whole = permuted.permuted_networks(tiny, network, localization, contrasts["language"], **options)
    assert whole.shape == (20, network.count)
    np.testing.assert_array_equal(whole[0], np.flatnonzero(network.mask["decoder"].ravel()))
    monkeypatch.setattr(permuted, "LARGEST", 200_000)
    monkeypatch.setattr(permuted, "STATISTICS", 700)
    parts = permuted.permuted_networks(tiny, network, localization, contrasts["language"], **options)
    np.testing.assert_array_equal(parts, whole)
    for other, message in (
        (mn.stimuli.language(30), "other stimuli"),
        (~contrasts["language"], "other conditions"),
        (
            mn.Contrast(
                [mn.Stimulus(s.text, condition=s.condition) for s in contrasts["language"].stimuli], "sentences"
            ),
            "paired",
        ),
    ):
        with pytest.raises(mn.InputError, match=message):
            permuted.permuted_networks(tiny, network, localization, other, **options)
    with pytest.raises(mn.InputError, match="not the top units"):
        permuted.permuted_networks(tiny, localization.bottom(k=20), localization, contrasts["language"], **options)


# -- selectivity -------------------------------------------------------------------------------------------------------


def test_selectivity_is_held_out(localizations):
    """By hand: g of the units selected without a fold, on that fold, averaged over units and folds."""
    rows, notes = selectivity(localizations, 0.02, draws=0, seed=0)
    language = localizations["language"]
    values = []
    for fold in range(10):
        mask = language.without(fold).top(fraction=0.02).mask["decoder"]
        sides = [language.moments(side, "decoder", [fold]) for side in ("positive", "negative")]
        # The pairs of the fold are correlated: the correction of g has 2 (n - 1) / (1 + r²) degrees of freedom.
        a, b = (side.variance for side in sides)
        r = (a + b - language._cross["decoder"][fold].yy / (sides[0].n - 1)) / (2 * np.sqrt(a * b))
        values.append(standardized_difference(sides[0].mean - sides[1].mean, *sides, r)[mask].mean())
    own = next(row for row in rows if row["network"] == row["domain"] == "language")
    assert own["g"] == pytest.approx(np.mean(values))
    assert notes == []
    assert own["low"] < own["g"] < own["high"]
    # In sample, the same units look better than they are.
    whole = language.top(fraction=0.02).mask["decoder"]
    assert language.effect_size["decoder"][whole].mean() > own["g"]


def test_shared_stimuli_are_said(tiny):
    contrast = mn.stimuli.language_conditions(20)
    words = mn.Contrast(contrast.stimuli, ["sentences", "word-lists"], ["jabberwocky", "nonwords"])
    found = {
        name: mn.localize(tiny, one, towers="decoder", progress=False) for name, one in (("a", contrast), ("b", words))
    }
    _, notes = selectivity(found, 0.02, draws=0, seed=0)
    assert "80 stimuli of b also selected the network a" in notes[0]


# -- capacity ----------------------------------------------------------------------------------------------------------


def test_capacity_counts_the_units_that_tell():
    """Three weak units out of 64: three suffice, one does not, random ones need many."""
    rng = np.random.default_rng(1)
    positive = np.arange(300) < 150
    values = rng.standard_normal((300, 64))
    values[:, :4] += 1.6 * positive[:, None]
    rows, found = capacity.capacity(values, positive, np.where(positive, "a", "b"), draws=5, seed=0)
    by_k = {row["k"]: row for row in rows}
    assert by_k[1]["accuracy"] < by_k[4]["accuracy"] - 0.05
    assert found["k_enough"] in (2.0, 4.0)
    assert np.isnan(found["k_enough_random"]) or found["k_enough_random"] > 16
    assert by_k[4]["control"] < 0.75
    assert sorted(by_k) == [1, 2, 4, 8, 16, 32, 64]


def test_capacity_of_noise_is_chance():
    rng = np.random.default_rng(2)
    positive = np.arange(400) % 2 == 0
    rows, _ = capacity.capacity(rng.standard_normal((400, 200)), positive, ["x"] * 400, draws=2, seed=0)
    assert all(abs(row["accuracy"] - 0.5) < 0.11 for row in rows)


def test_the_decoder_is_that_of_scikit_learn_where_they_agree():
    """With equal variances, a diagonal discriminant classifies by the nearest mean."""
    from sklearn.neighbors import NearestCentroid

    rng = np.random.default_rng(3)
    positive = np.arange(60) < 30
    values = rng.standard_normal((60, 3)) + positive[:, None]
    values[:30] += 0.0
    for side in (positive, ~positive):  # unit variance of every column within sides, and means far from 0 alike
        centred = values[side] - values[side].mean(0)
        values[side] = values[side].mean(0) + centred / centred.std(0)
    values += 100
    train = np.ones(60, dtype=bool)
    ours = capacity._decode(values, positive, train, train)
    theirs = NearestCentroid().fit(values, positive).predict(values) == positive
    assert (ours == theirs).mean() > 0.95


def test_massive_units_do_not_drown_the_others():
    rng = np.random.default_rng(4)
    positive = np.arange(200) < 100
    values = rng.standard_normal((200, 10)) + positive[:, None]
    loud = values.copy()
    loud[:, 3] *= 1e4
    one, other = (capacity.decoded_by(part, positive, ["x"] * 200, 0) for part in (values, loud))
    assert other > one - 0.05


def test_the_wilson_interval():
    from statistics import NormalDist

    low, high = capacity.wilson(0.8, 50)
    z = NormalDist().inv_cdf(0.975)
    for bound in (low, high):  # where the score test is just significant
        assert abs(0.8 - bound) == pytest.approx(z * np.sqrt(bound * (1 - bound) / 50), abs=1e-4)
    assert capacity.wilson(1.0, 10)[1] == pytest.approx(1.0)


# -- interference ------------------------------------------------------------------------------------------------------


def test_what_is_shown_at_once():
    text, image = mn.Stimulus("the dog"), mn.Stimulus(image=np.zeros((4, 4, 3), dtype=np.uint8))
    both = interference.combine(text, image)
    assert (both.text, both.n_images) == ("the dog", 1)
    assert interference.combine(image, mn.Stimulus("a cat")).text == "a cat"
    assert interference.combine(text, mn.Stimulus("a cat")).text == "a cat the dog"
    assert interference.combine(image, image) is None
    assert interference.combine(None, image).n_images == 1


def test_the_cost_of_a_known_interference():
    own = np.repeat([True, True, False, False], 50)
    driven = np.tile(np.repeat([True, False], 50), 2)
    rng = np.random.default_rng(5)
    responses = rng.standard_normal(200) + own * np.where(driven, 0.5, 2.0)
    found = interference._cost(responses, own, driven, [], 0)
    assert found["g_off"] == pytest.approx(2.0, abs=0.5)
    assert found["g_on"] == pytest.approx(0.5, abs=0.5)
    assert found["low"] < found["cost"] < found["high"]
    assert found["low"] > 0
    from modalnet.stats.moments import Moments, hedges_g

    sides = []
    for side in (True, False):
        moments = Moments.zeros(1)
        moments.update(responses[(own == side) & driven][:, None])
        sides.append(moments)
    assert found["g_on"] == pytest.approx(float(hedges_g(*sides)[0]), rel=1e-3)


def test_requests_of_one_item_are_shown_with_one_other_stimulus(contrasts):
    task = mn.tasks.bundled(6)["colour"]
    off, on = (interference._beside(task, contrasts["language"], state) for state in (False, True))
    assert len(off) == len(on) == len(task.requests())
    each = len(off) // len(task)
    texts = [request.stimulus.text for request in on]
    assert all(len(set(texts[i : i + each])) == 1 for i in range(0, len(texts), each))
    assert texts[0].startswith(contrasts["language"].stimuli[0].text)
    assert off[0].stimulus.text != texts[0]
    assert off[0].continuation == task.requests()[0].continuation
    assert isinstance(on[0], Request)


def test_the_cost_of_a_task_is_over_its_paradigms(tiny, contrasts, localizations):
    """Ten copies of an item in a paradigm say no more about other paradigms than the item does."""
    pairs = mn.tasks.bundled(12)["grammar"].pairs
    lesion = {"language": localizations["language"].top(k=5)}
    rows = []
    for copies in (1, 10):
        items = [f"{pair}/{copy}" for pair in range(len(pairs)) for copy in range(copies)]
        groups = [item.split("/")[0] for item in items]
        task = mn.tasks.MinimalPairs("grammar", items, [pairs[int(one)] for one in groups], groups)
        with mock.patch.object(interference, "_beside", lambda task, _, on, n=copies: _words_before(task, on, n)):
            found, _ = interference.in_tasks(tiny, lesion, contrasts, {"vision": task}, seed=0, batch_size="auto")
        rows.append(found[0])  # without a lesion
    one, ten = rows
    assert ten["cost"] == pytest.approx(one["cost"])
    assert ten["cost"] != 0
    assert [ten["low"], ten["high"]] == pytest.approx([one["low"], one["high"]], abs=0.06)


def _words_before(task, on, copies):
    """Where the other domain is on, the good sentences of every second paradigm follow words that do not fit."""
    return [
        replace(
            one, stimulus=mn.Stimulus("of of red of was" if on and not place % 2 and place // 2 // copies % 2 else "so")
        )
        for place, one in enumerate(task.requests())
    ]


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_everything_is_measured_in_the_bundled_model(result, tiny, localizations):
    assert result.missing == {}
    assert set(result.tables) == {
        "overlap",
        "separation",
        "layers",
        "selectivity",
        "interference",
        "dual_task",
        "capacity",
        "capacity_curve",
        "transfer",
    }
    own = result.table("selectivity").set_index(["network", "domain"])
    assert own.loc[("language", "language"), "low"] > 0
    assert own.loc[("vision", "vision"), "g"] > own.loc[("vision", "language"), "g"]
    overlap = result.table("overlap").iloc[0]
    tops = [one.top(fraction=0.05) for one in localizations.values()]
    separation = result.table("separation").iloc[0]
    assert min(overlap["p_more"], overlap["p_less"], separation["p"]) >= 1 / 200
    assert 0 < overlap["dice_permuted"] < 1
    assert "permuted labels" in result.summary()
    assert (overlap["units_a"], overlap["units_b"]) == tuple(one.count for one in tops)
    assert result.settings["units"] == {"language": tops[0].count, "vision": tops[1].count}
    # Each network responds to its own contrast at its own tokens; those of a picture come before any text.
    crossed = result.table("interference").set_index("domain")
    assert (crossed["g_off"] > 0.5).all()
    assert crossed.loc["vision", "cost"] == pytest.approx(0, abs=1e-3)
    assert crossed.loc["language", "cost"] != pytest.approx(0, abs=1e-3)
    assert [note for note in result.notes if "language cannot interfere" in note]
    lesions = result.table("dual_task")
    assert set(lesions["lesion"]) == {"", "language", "vision"}
    assert lesions["cost"].between(-1, 1).all()
    text = result.summary()
    for word in ("shared units of the networks", "suffice (random:", "cost", "decoded from"):
        assert word in text


def test_what_cannot_be_measured_is_said(tiny, localizations):
    found = mn.specialization(tiny, localizations, progress=False)
    assert set(found.tables) == {"overlap", "separation", "layers", "selectivity"}
    assert np.isnan(found.table("overlap")[["p_more", "p_less", "dice_permuted"]].to_numpy(float)).all()
    assert np.isnan(found.table("separation").loc[0, "p"])
    assert found.summary().count("cannot be tested") == 4  # of two measures, and the reason for two domains
    assert found.missing["capacity"] == "it requires the contrast of every domain (`contrasts`)"
    assert "not measured, it requires a task of each domain" in found.summary()
    with pytest.raises(mn.InputError, match="capacity was not measured: it requires the contrast"):
        found.table("capacity")
    with pytest.raises(mn.InputError, match=r"`measure` must be one of .*, got 'speed'"):
        found.table("speed")
    fixed = {name: one.top(k=9) for name, one in localizations.items()}
    assert "given as fixed Units" in mn.specialization(tiny, fixed, progress=False).missing["selectivity"]


def test_two_domains_of_texts_are_not_shown_at_once(tiny):
    texts = {"language": mn.stimuli.language(10), "reasoning": mn.stimuli.multiple_demand(10)}
    found = {name: mn.localize(tiny, one, progress=False) for name, one in texts.items()}
    both = mn.specialization(tiny, found, texts, n_controls=2, progress=False)
    assert "cannot be presented simultaneously" in both.missing["interference"]
    assert set(both.table("transfer")["network"]) == set(texts)


def test_a_result_goes_through_a_file_and_the_store(result, tiny, localizations, contrasts, tmp_path):
    result.save(tmp_path / "s.safetensors")
    back = mn.Specialization.load(tmp_path / "s.safetensors")
    assert back.summary() == result.summary()
    assert repr(back) == repr(result)
    with pytest.raises(mn.InputError, match=r"must end in \.safetensors"):
        result.save(tmp_path / "s.txt")
    bundled = mn.tasks.bundled(8)
    tasks = {"language": bundled["grammar"], "vision": bundled["colour"]}
    options = {"fraction": 0.05, "n_controls": 3, "n_interaction": 15, "progress": False}
    with mock.patch.object(type(tiny._executor), "stream", side_effect=AssertionError("a forward pass")):
        again = mn.specialization(tiny, localizations, contrasts, tasks, **options)
    assert again.summary() == result.summary()


def test_the_panels(result):
    import matplotlib

    matplotlib.use("Agg")
    axes = result.plot()
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles == [
        "distribution over layers",
        "held-out selectivity (Hedges' g)",
        "decoding accuracy by number of units",
        "interference: cost of co-activation",
    ]
    with pytest.raises(mn.InputError, match="must be 4 axes, one per measure, got 1"):
        result.plot(ax=[axes[0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": {}}, "`units` is empty"),
        ({"networks": {"a": units((0, 1))}}, "at least two domains, .* got one network"),
        ({"networks": units((0, 1))}, "at least two domains, .* got one network"),
        ({"networks": {"a": units((0, 1)), "b": "x"}}, r"`units\['b'\]` must be Units or a localization, got str"),
        (
            {"networks": {"a": units((0, 1)), "b": units((0, 2))}},
            "belong to another model than tiny: decoder has shape",
        ),
        (
            {"contrasts": {"music": mn.stimuli.language(4)}},
            r"`contrasts` must have keys among the networks .*, got 'music'",
        ),
        ({"contrasts": {"language": "x"}}, "must be a Contrast, got a str"),
        ({"tasks": [1]}, "`tasks` must be a mapping from domains"),
        ({"n_permutations": 18}, "`n_permutations` must be an integer of at least 19"),
        ({"n_interaction": 1}, "`n_interaction` must be an integer of at least 2"),
    ],
)
def test_bad_questions_are_refused(tiny, localizations, options, message):
    given = {"networks": localizations} | options
    with pytest.raises(mn.InputError, match=message):
        mn.specialization(tiny, given.pop("networks"), progress=False, **given)
