"""Response profiles: held out, equal to what numpy says, and honest about what selected the units."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from scipy import stats

import modalnet as mn
from modalnet.profiles.result import Profile

FOUR = ("sentences", "word-lists", "jabberwocky", "nonwords")


@pytest.fixture(scope="module")
def tiny():
    return mn.load("tiny")


@pytest.fixture(scope="module")
def language(tiny):
    return mn.localize(tiny, mn.stimuli.language(60), towers="decoder", progress=False)


@pytest.fixture(scope="module")
def profile(tiny, language):
    return mn.profile.language(tiny, language.top(fraction=0.02), n=60, n_controls=10, progress=False)


def made(responses, controls=None, items=None, conditions=FOUR) -> Profile:
    """A profile of given responses [item, condition]."""
    responses = np.asarray(responses, dtype=float)
    n, k = responses.shape
    return Profile(
        "model",
        "network",
        tuple(conditions[:k]),
        np.repeat(np.arange(k), n),
        None if items is None else tuple(str(item) for item in np.tile(items, k)),
        responses.T.ravel(),
        np.zeros((0, n * k)) if controls is None else np.stack([np.asarray(c).T.ravel() for c in controls]),
        "z",
        (),
        {"seed": 0},
    )


# -- held out ----------------------------------------------------------------------------------------------------------


def by_hand(model, localization, stimuli, fraction) -> np.ndarray:
    """Each stimulus by the network selected without its fold; z-scored |activation| of the last token."""
    run = np.abs(model.run(list(stimuli), read="decoder", tokens="last").residual["decoder"].numpy().astype(float))
    z = (run - run.mean(0)) / run.std(0)
    fold_of = localization.stimuli
    of_item: dict[str, set[int]] = {}
    for stimulus in stimuli:
        if stimulus.inspect().digest in fold_of:
            of_item.setdefault(stimulus.id.rsplit("-", 1)[1], set()).add(fold_of[stimulus.inspect().digest])
    responses = []
    for index, stimulus in enumerate(stimuli):
        folds = of_item[stimulus.id.rsplit("-", 1)[1]]  # of the sentence and of the nonwords made from it
        mask = localization.without(*folds).top(fraction=fraction).mask["decoder"]
        responses.append(z[index][mask].mean())
    return np.array(responses)


def test_every_stimulus_is_measured_by_a_network_that_has_not_seen_it(tiny, language, profile):
    stimuli = mn.stimuli.language_conditions(60).stimuli
    expected = by_hand(tiny, language, stimuli, 0.02)
    np.testing.assert_allclose(profile.responses, expected, atol=1e-4)
    assert "120 of 240 stimuli are of the localizer" in profile.notes[0]
    assert profile.paired
    assert profile.n_controls == 10


def test_selecting_and_measuring_on_the_same_noise_is_prevented(tiny):
    """Labels at random: units selected on them prefer 'positive' in sample, not held out."""
    rng = np.random.default_rng(0)
    sentences = [s.text for s in mn.stimuli.language(120).stimuli if s.condition == "sentences"]
    labels = rng.permutation(["a"] * 60 + ["b"] * 60)
    stimuli = [
        mn.Stimulus(t, condition=c, id=f"{c}{i}") for i, (t, c) in enumerate(zip(sentences, labels, strict=True))
    ]
    noise = mn.localize(tiny, mn.Contrast(stimuli, positive="a"), towers="decoder", progress=False)
    units = noise.top(fraction=0.02)
    held_out = mn.profile(tiny, units, stimuli, progress=False, n_controls=0)
    forgetful = mn.Units(units.mask, model=units.model)  # nothing is known of its selection
    circular = mn.profile(tiny, forgetful, stimuli, progress=False, n_controls=0)
    inside, outside = (one.contrast("a", "b")["difference"] for one in (circular, held_out))
    assert inside > 0.3
    assert outside < inside / 2
    assert held_out.contrast("a", "b")["p"] > 0.01
    assert "if they include these, the profile is circular" in circular.notes[0]


def test_units_that_lost_their_selection_are_measured_on_other_stimuli(tiny, language, tmp_path):
    units = language.top(fraction=0.02)
    units.save(tmp_path / "u.json")
    back = mn.Units.load(tmp_path / "u.json")
    with pytest.raises(mn.InputError, match="'sentences' has 0 stimuli that did not select these units"):
        mn.profile.language(tiny, back, n=60, progress=False)
    others = [s for s in mn.stimuli.language_conditions(80).stimuli]
    found = mn.profile(tiny, back, others, progress=False, n_controls=0)
    assert [len(found.values(c)) for c in found.conditions] == [20, 80, 80, 20]
    assert "120 of 320 stimuli selected these units and were left out" in found.notes[1]
    fresh = [s for s in others if s.condition in ("word-lists", "jabberwocky")]
    assert "did not select them" in mn.profile(tiny, units | back, fresh, progress=False, n_controls=0).notes[0]


def test_the_reading_is_that_of_the_localization(tiny):
    found = mn.localize(tiny, mn.stimuli.language(20), towers="decoder", protocol="alkhamissi2025", progress=False)
    profile = mn.profile.language(tiny, found, n=20, progress=False, n_controls=0)
    assert (profile.settings["max_tokens"], profile.settings["raw"], profile.settings["magnitude"]) == (
        12,
        True,
        "absolute",
    )
    signed = mn.localize(
        tiny, mn.stimuli.language(20), towers="decoder", magnitude="signed", tokens="mean", progress=False
    )
    profile = mn.profile.language(tiny, signed, n=20, progress=False, n_controls=0)
    assert (profile.settings["magnitude"], profile.settings["tokens"]) == ("signed", {"decoder": "mean"})
    assert (
        mn.profile.language(tiny, signed, n=20, progress=False, n_controls=0, tokens="last").settings["tokens"]
        == "last"
    )


def test_pictures_have_profiles(tiny):
    vision = mn.localize(tiny, mn.stimuli.vision(n=12, size=64), towers="vision", progress=False)
    found = mn.profile(tiny, vision, mn.stimuli.categories(n=8, size=64), fraction=0.05, progress=False, n_controls=3)
    assert found.conditions == tuple(mn.stimuli.categories(n=8, size=64).conditions)
    assert len(found.responses) == 32


def test_the_second_call_runs_nothing(tiny, language, profile):
    with mock.patch.object(type(tiny._executor), "stream", side_effect=AssertionError("a forward pass")):
        again = mn.profile.language(tiny, language.top(fraction=0.02), n=60, n_controls=10, progress=False)
    assert again.table().equals(profile.table())


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_normalizing(tiny, language):
    units = language.top(k=5)
    stimuli = mn.stimuli.language_conditions(10).stimuli
    plain = mn.Units(units.mask, model=units.model)
    found = {
        kind: mn.profile(tiny, plain, stimuli, normalize=kind, progress=False, n_controls=0)
        for kind in ("none", "z", "minmax")
    }
    mask = units.mask["decoder"]
    values = np.abs(tiny.run(list(stimuli), read="decoder").residual["decoder"].numpy().astype(float))[:, mask]
    np.testing.assert_allclose(found["none"].responses, values.mean(1), rtol=1e-5)
    np.testing.assert_allclose(found["z"].responses, ((values - values.mean(0)) / values.std(0)).mean(1), atol=1e-5)
    means = np.stack([values[i * 10 : (i + 1) * 10].mean(0) for i in range(4)])
    low, span = means.min(0), np.ptp(means, axis=0)
    np.testing.assert_allclose(found["minmax"].responses, ((values - low) / span).mean(1), atol=1e-4)
    assert found["z"].responses.mean() == pytest.approx(0, abs=1e-6)


def test_contrasts_of_paired_items():
    rng = np.random.default_rng(1)
    responses = rng.standard_normal((40, 4)) + np.array([1.0, 0.4, 0.3, 0.0]) + rng.standard_normal((40, 1)) * 3
    profile = made(responses, items=[str(i) for i in range(40)])
    assert profile.paired
    found = profile.contrast(("sentences", "word-lists"), ("jabberwocky", "nonwords"))
    differences = responses[:, :2].mean(1) - responses[:, 2:].mean(1)
    assert found["difference"] == pytest.approx(differences.mean())
    low, high = stats.t.interval(0.95, 39, differences.mean(), stats.sem(differences))
    assert found["low"] == pytest.approx(low, abs=0.05)
    assert found["high"] == pytest.approx(high, abs=0.05)
    assert found["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_contrasts_of_separate_stimuli():
    rng = np.random.default_rng(2)
    profile = made(rng.standard_normal((30, 2)) + np.array([0.5, 0.0]), conditions=("a", "b"))
    found = profile.contrast("a", "b")
    a, b = profile.values("a"), profile.values("b")
    assert found["difference"] == pytest.approx(a.mean() - b.mean())
    assert found["p"] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, abs=0.02)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert found["low"] == pytest.approx(expected.low, abs=0.1)
    assert found["high"] == pytest.approx(expected.high, abs=0.1)


def test_random_units_stand_beside():
    rng = np.random.default_rng(3)
    controls = [rng.standard_normal((20, 4)) * 0.1 for _ in range(9)]
    profile = made(rng.standard_normal((20, 4)) * 0.1 + np.array([2, 1, 1, 0]), controls=controls)
    found = profile.contrast("sentences", "nonwords")
    draws = [c[:, 0].mean() - c[:, 3].mean() for c in controls]
    assert (found["control"], found["control_high"]) == (pytest.approx(np.mean(draws)), pytest.approx(max(draws)))
    assert found["p_rank"] == 0.1
    table = profile.table().set_index("condition")
    assert table.loc["sentences", "control_low"] == pytest.approx(min(c[:, 0].mean() for c in controls))


def test_the_lexical_and_the_syntactic_contrast():
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((50, 4)) * 0.2
    words, order = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    table = made(noise + 0.5 * words, items=range(50)).contrasts().set_index("contrast")
    assert table.loc["lexical", "q"] < 0.01 < table.loc["syntactic", "q"]
    table = made(noise + 0.5 * order, items=range(50)).contrasts().set_index("contrast")
    assert table.loc["syntactic", "q"] < 0.01 < table.loc["lexical", "q"]
    assert len(table) == 2 + 6


# -- the human pattern -------------------------------------------------------------------------------------------------


def test_the_human_pattern_is_found_where_it_is():
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((60, 4)) * 0.3
    pattern = np.array([1.0, 0.5, 0.4, 0.0])
    others = [noise + gain * pattern for gain in [*rng.normal(0.3, 0.05, 19), -0.2]]
    alike = made(noise + pattern, controls=others, items=range(60))
    found = alike.compare_to_human({"sentences": 2.0, "word-lists": 1.0, "jabberwocky": 0.8, "nonwords": 0.1})
    assert found.n_shown == found.n_holding == 5
    assert found.controls_alike == 19
    assert found.n_controls == 20
    assert found.correlation > 0.99
    assert "5 of 5 hold" in str(found)
    assert "19 of 20 draws of random units above 0" in str(found)
    assert "Fedorenko et al. (2010)" in found.summary()
    assert list(found.table()["holds"]) == ["yes"] * 5
    opposite = made(noise + np.array([0.0, 0.5, 0.5, 1.0]), items=range(60)).compare_to_human()
    assert opposite.n_holding == 0
    assert set(opposite.table()["holds"]) == {"no"}
    assert np.isnan(opposite.correlation)
    assert set(made(noise, items=range(60)).compare_to_human().table()["holds"]) <= {"unclear", "no"}


def test_a_pattern_that_random_units_show_as_well_does_not_hold():
    rng = np.random.default_rng(6)
    pattern, holding, any_holding = np.array([1.0, 0.5, 0.4, 0.0]), [], []
    with mock.patch.multiple("modalnet.profiles.result", RESAMPLES=200, PERMUTATIONS=19):
        for _ in range(150):
            gains = rng.normal(1, 0.3, 21)
            responses = gains[:, None, None] * pattern + 0.3 * rng.standard_normal((21, 40, 4))
            found = made(responses[0], controls=list(responses[1:]), items=range(40)).compare_to_human()
            holding.append(found.n_holding == 5)
            any_holding.append(found.n_holding > 0)
    assert np.mean(holding) <= 0.05
    assert np.mean(any_holding) <= 0.06
    few = made(responses[0], controls=list(responses[1:19]), items=range(40)).compare_to_human()
    assert (few.n_shown, few.n_holding) == (5, 0)
    assert set(few.table()["holds"]) == {"cannot be tested"}
    assert "cannot be tested: 19 draws are needed, and there are only 18" in few.summary()


def test_the_pattern_needs_its_conditions():
    profile = made(np.random.default_rng(0).standard_normal((5, 2)))
    with pytest.raises(mn.InputError, match="lacks jabberwocky, nonwords"):
        profile.compare_to_human()
    whole = made(np.random.default_rng(0).standard_normal((5, 4)))
    with pytest.raises(mn.InputError, match=r"`values` must have .*, but lacks word-lists"):
        whole.compare_to_human({"sentences": 1, "jabberwocky": 1, "nonwords": 0})


# -- results and bad input ---------------------------------------------------------------------------------------------


def test_a_profile_goes_through_a_file(profile, tmp_path):
    profile.save(tmp_path / "p.safetensors")
    back = mn.Profile.load(tmp_path / "p.safetensors")
    assert back.summary() == profile.summary()
    assert back.contrasts().equals(profile.contrasts())
    assert repr(back).startswith("Profile(network of tiny: sentences ")
    with pytest.raises(mn.InputError, match=r"must end in \.safetensors"):
        profile.save(tmp_path / "p.csv")
    mn.Units({"decoder": np.ones((1, 2), dtype=bool)}).save(tmp_path / "u.safetensors")
    with pytest.raises(mn.InputError, match="Expected a profile in the format"):
        mn.Profile.load(tmp_path / "u.safetensors")


def test_the_plot(profile):
    import matplotlib

    matplotlib.use("Agg")
    ax = profile.plot()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(FOUR)
    assert ax.get_ylabel() == "response (z-scored over stimuli)"
    assert len(ax.patches) == 4
    heights = [patch.get_height() for patch in ax.patches]
    np.testing.assert_allclose(heights, profile.table()["mean"])


def test_items_are_found_by_number_and_can_be_given():
    stimuli = mn.stimuli.language_conditions(5).stimuli
    from modalnet.profiles.profiler import _numbered

    assert _numbered(stimuli)[:2] == ("001", "002")
    assert _numbered([*stimuli[:-1]]) is None
    assert _numbered([mn.Stimulus("a", condition="x"), mn.Stimulus("b", condition="y")]) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "x"}, "`units` must be Units"),
        ({"conditions": ["text"]}, "must be a Stimulus with a condition"),
        ({"conditions": 3}, "`conditions` must be a Contrast"),
        ({"conditions": {"a": "text"}}, "'a' must be a list of texts"),
        ({"conditions": {"a": ["one"], "b": ["two", "three"]}}, "'a' has 1 stimulus"),
        ({"normalize": "percent"}, "`normalize` must be one of .*, got 'percent'"),
        ({"magnitude": "squared"}, "`magnitude` must be one of .*, got 'squared'"),
        ({"n_controls": -1}, "`n_controls` must be a non-negative integer"),
        ({"items": ["1"]}, "`items` must have one entry per stimulus, got 1"),
    ],
)
def test_bad_questions_are_refused(tiny, language, options, message):
    given = {"units": language.top(k=5), "conditions": {"a": ["one", "two"], "b": ["three", "four"]}} | options
    with pytest.raises(mn.InputError, match=message):
        mn.profile(tiny, given.pop("units"), given.pop("conditions"), progress=False, **given)


def test_the_language_profile_wants_four_conditions(tiny, language):
    with pytest.raises(mn.InputError, match="but lacks word-lists, jabberwocky"):
        mn.profile.language(tiny, language, mn.stimuli.language(5), progress=False)
    assert "modalnet.profile(model, units, conditions)" in repr(mn.profile)
