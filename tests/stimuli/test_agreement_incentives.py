"""Sets made from templates: what their sides share, and in what they differ."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import modalnet as mn
from modalnet.stimuli.agreement import LOCALIZER, TEST
from modalnet.stimuli.incentives import LARGEST, PREFIXES
from modalnet.stimuli.package_data import data_rows


def texts(contrast, condition):
    return [stimulus.text for stimulus in contrast.stimuli if stimulus.condition == condition]


# ------------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("attractors", [False, True])
@pytest.mark.parametrize(("n", "seed"), [(4, 0), (120, 0), (124, 3)])
def test_good_and_bad_sentences_have_the_same_words_and_lengths(attractors, n, seed):
    contrast = mn.stimuli.agreement(n, attractors=attractors, seed=seed)
    good, bad = (texts(contrast, side) for side in ("good", "bad"))
    assert Counter(" ".join(good).split()) == Counter(" ".join(bad).split())
    lengths = np.array([[len(text) for text in side] for side in (good, bad)])
    np.testing.assert_allclose(lengths.mean(1)[0], lengths.mean(1)[1])
    np.testing.assert_allclose(lengths.std(1)[0], lengths.std(1)[1])
    table = contrast.describe().drop(columns=["condition", "side"]).to_numpy(dtype=float)
    np.testing.assert_allclose(table[0], table[1])


@pytest.mark.parametrize("attractors", [False, True])
def test_a_pair_differs_in_the_form_of_the_verb_and_agrees_on_one_side(attractors):
    contrast = mn.stimuli.agreement(40, attractors=attractors)
    forms = {one: other for s, p, _ in (*LOCALIZER.regular, *LOCALIZER.auxiliary) for one, other in ((s, p), (p, s))}
    singular = {form for form, *_ in (*LOCALIZER.regular, *LOCALIZER.auxiliary)}
    assert len({stimulus.text for stimulus in contrast.stimuli}) == 80
    for good, bad in zip(texts(contrast, "good"), texts(contrast, "bad"), strict=True):
        (place,) = (i for i, (a, b) in enumerate(zip(good.split(), bad.split(), strict=True)) if a != b)
        verb, wrong = good.split()[place], bad.split()[place]
        assert forms[verb] == wrong
        subject = good.split()[1 if attractors else 2]
        assert (subject in LOCALIZER.subjects) == (verb in singular)
        if attractors:
            assert good.split()[place - 1].endswith("s") != subject.endswith("s")
    assert [stimulus.item for stimulus in contrast.stimuli[:40]] == [s.item for s in contrast.stimuli[40:]]
    shorter = mn.stimuli.agreement(8, attractors=attractors)
    assert texts(shorter, "good") == texts(contrast, "good")[:8]
    assert texts(mn.stimuli.agreement(8, attractors=attractors, seed=1), "good") != texts(shorter, "good")


def test_the_words_of_localizer_and_test_are_disjoint():
    for part in ("subjects", "attractors", "regular", "auxiliary"):
        assert not set(getattr(LOCALIZER, part)) & set(getattr(TEST, part))
    rests = [{rest for *_, rest in (*words.regular, *words.auxiliary)} for words in (LOCALIZER, TEST)]
    assert not rests[0] & rests[1]
    assert all(len(singular) == len(plural) + 1 for words in (LOCALIZER, TEST) for singular, plural, _ in words.regular)
    assert all(
        len(singular) == len(plural) - 1 for words in (LOCALIZER, TEST) for singular, plural, _ in words.auxiliary
    )


def test_agreement_refuses_what_would_not_be_matched():
    for n, message in [(6, "`n` must be a multiple of 4"), (0, "from 4 to 1000"), (1004, "from 4 to 1000")]:
        with pytest.raises(mn.InputError, match=message):
            mn.stimuli.agreement(n)
    with pytest.raises(mn.InputError, match="`attractors` must be True or False"):
        mn.stimuli.agreement(attractors="yes")
    with pytest.raises(mn.InputError, match="`seed` must be a non-negative integer"):
        mn.stimuli.agreement(seed=-1)


# ------------------------------------------------------------------------------------------------------ incentives


@pytest.mark.parametrize("domain", ["arithmetic", "geography"])
def test_the_same_questions_follow_sentences_of_equal_length(domain):
    questions = []
    for positive in ("reward", "money", "neutral_other"):
        contrast = mn.stimuli.incentives(domain=domain, positive=positive)
        assert contrast.n == {positive: 100, "neutral": 100}
        for condition in contrast.conditions:
            ends = []
            for number, text in enumerate(texts(contrast, condition)):
                prefix = PREFIXES[condition][number % 4]
                assert text.startswith(f"{prefix} ")
                ends.append(text.removeprefix(f"{prefix} "))
            assert len(set(ends)) == 100
            questions.append(ends)
        items = [stimulus.item for stimulus in contrast.stimuli]
        assert items[:100] == items[100:]
        table = contrast.describe()
        assert table["mean_words"].nunique() == 1
        assert np.ptp(table["mean_characters"]) < 1
    assert all(ends == questions[0] for ends in questions)
    other = mn.stimuli.incentives(200, domain=domain, seed=1)
    assert len(set(texts(other, "reward"))) == 200
    assert texts(mn.stimuli.incentives(5, domain=domain, seed=1), "reward") == texts(other, "reward")[:5]


def test_prefixes_have_ten_words_and_no_word_in_all_of_one_condition_alone():
    words = {name: [set(text.lower().strip(".").split()) for text in lines] for name, lines in PREFIXES.items()}
    assert {len(text.split()) for lines in PREFIXES.values() for text in lines} == {10}
    neutral = set.union(*words["neutral"], *words["neutral_other"])
    for name in ("reward", "money"):
        assert set.intersection(*words[name]) <= neutral


def test_capitals_are_named_once_and_sums_have_two_numbers():
    rows = data_rows("capitals.tsv")
    assert len({row["country"] for row in rows}) == len({row["capital"] for row in rows}) == len(rows) >= 100
    asked = [text.split("What is ")[1] for text in texts(mn.stimuli.incentives(200), "neutral")]
    assert Counter(text.split()[1] for text in asked) == {"plus": 67, "minus": 67, "times": 66}
    assert all(int(text.split()[0]) <= LARGEST[text.split()[1]] for text in asked)


def test_incentives_refuse_unknown_options():
    with pytest.raises(mn.InputError, match="`domain` must be one of 'arithmetic', 'geography', got 'history'"):
        mn.stimuli.incentives(domain="history")
    with pytest.raises(mn.InputError, match="`positive` must be one of 'neutral_other', 'reward', 'money'"):
        mn.stimuli.incentives(positive="neutral")
    with pytest.raises(mn.InputError, match="from 2 to 200, got 201"):
        mn.stimuli.incentives(201)
