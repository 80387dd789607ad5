"""Claims are judged twice, and why the verdicts differ is said with the numbers that it follows from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import lesion_studies
import modalnet as mn
from modalnet.protocols import Claim, Protocol, ProtocolContrast, ProtocolTask, RandomUnits, Source
from modalnet.replication.claims import Evidence, judge
from modalnet.replication.published import PublishedScores
from modalnet.replication.reasons import reasons_for

SOURCE = Source("nothing", generator="stimuli.language")
BOTH = ("zero", "mean")


DRAWS = RandomUnits(15)


def protocol(*claims, random_units=DRAWS):
    return Protocol(
        id="toy2026",
        title="a toy",
        citation="nobody (2026)",
        code="none",
        models="none",
        localizer=mn.protocols["alkhamissi2025"].localizer,
        contrasts=tuple(ProtocolContrast(name, SOURCE) for name in ("language", "vision")),
        tasks=tuple(ProtocolTask(name, SOURCE, "right or wrong") for name in ("blimp", "images")),
        claims=claims,
        random_units=random_units,
    )


def scores(task, intact, lesioned, draws, *, n=200, unparsed=()):
    def items(share):
        return (np.arange(n) < round(share * n)).astype(float)

    return PublishedScores(
        "language",
        0.01,
        task,
        "zero",
        100,
        "accuracy",
        0.5,
        items(intact),
        items(lesioned),
        np.stack([items(share) for share in draws]) if len(draws) else np.zeros((0, n)),
        np.array(unparsed),
    )


def test_a_loss_is_judged_by_the_publication_and_by_the_study():
    study = lesion_studies.study_of({("language", name): lesion_studies.LANGUAGE for name in BOTH})
    loss = Claim("it breaks", "loss", "language", "blimp")
    other = Claim("it breaks, too", "loss", "language", "images")
    published = [scores("blimp", 0.9, 0.6, [0.88]), scores("images", 0.9, 0.89, [0.7])]
    found = judge(protocol(loss, other), Evidence(published, study, {}, {}))
    assert [(one.published, one.refereed) for one in found] == [
        ("holds", "survives"),
        ("does not hold", "does not survive"),
    ]
    assert [one.supported for one in found] == [True, False]
    assert "accuracy 0.900 intact, 0.600 with the network lesioned, 0.880 with random units (1 draw)" in (
        found[0].published_numbers
    )


def test_a_loss_as_large_under_matched_units_is_not_specific_and_the_reason_says_so():
    alike = lesion_studies.effect(0.3, 0.02, norm=(0.28, 0.02))
    mild = lesion_studies.effect(0.01, 0.0, norm=(0.01, 0.0))
    study = lesion_studies.study_of({("language", "zero"): alike, ("language", "mean"): mild})
    found = judge(
        protocol(Claim("it breaks", "loss", "language", "blimp")),
        Evidence([scores("blimp", 0.9, 0.6, [0.89, 0.5, 0.88])], study, {}, {}),
    )[0]
    assert (found.published, found.supported) == ("holds", False)
    text = " ".join(found.reasons)
    assert "random units of the same layers and mean absolute activation cost 0.2" in text
    assert "Set to their mean over ordinary tokens the units cost" in text
    assert "3 random draws cannot show p <= 0.05; at least 19 are needed." in text
    assert "differ widely (0.500 to 0.890)" in text


def test_reasons_need_their_numbers():
    """A loss that survives everything gives no reason against it."""
    study = lesion_studies.study_of({("language", name): lesion_studies.LANGUAGE for name in BOTH})
    draws = [0.89] * 20
    assert reasons_for(protocol(), scores("blimp", 0.9, 0.6, draws), study, "language", "blimp") == []
    format_lost = scores("blimp", 0.9, 0.6, draws, unparsed=(0.0, 0.4, *[0.0] * 20))
    (only,) = reasons_for(protocol(), format_lost, study, "language", "blimp")
    assert only.startswith("40% of the answers under the lesion cannot be parsed (0% intact)")
    (chance,) = reasons_for(protocol(), scores("blimp", 0.5, 0.4, draws), study, "language", "blimp")
    assert chance.startswith("The intact model is not above chance")


def test_the_rule_of_the_publication_is_used():
    """Below the mean of the draws and not below their t interval."""
    data = [scores("blimp", 0.9, 0.60, [0.9, 0.3, 0.9, 0.9])]
    claim = Claim("it breaks", "loss", "language", "blimp")
    for judged, expected in (("below the mean", "holds"), ("below the t interval", "does not hold")):
        random_units = RandomUnits(4, judged=judged)
        found = judge(protocol(claim, random_units=random_units), Evidence(data, None, {}, {}))
        assert found[0].published == expected
        assert found[0].refereed == "cannot be tested"


def test_a_dissociation_is_an_interaction():
    claim = Claim("it breaks one alone", "dissociation", "language", "blimp", "images")
    selective = lesion_studies.study_of({("language", name): lesion_studies.LANGUAGE for name in BOTH})
    both = lesion_studies.effect(0.2, 0.35)  # as much of the score above chance
    general = lesion_studies.study_of({("language", name): both for name in BOTH})
    published = [scores("blimp", 0.9, 0.6, [0.9]), scores("images", 0.9, 0.8, [0.9])]
    for study, expected in ((selective, "selective"), (general, "not selective")):
        found = judge(protocol(claim), Evidence(published, study, {}, {}))[0]
        assert (found.published, found.refereed) == ("holds", expected)
    few = lesion_studies.study_of({("language", "mean"): lesion_studies.LANGUAGE}, draws=5)
    assert judge(protocol(claim), Evidence(published, few, {}, {}))[0].refereed == "cannot be tested"


def test_one_network_against_another():
    claim = Claim("the other costs more", "greater loss", "vision", "blimp", "language")
    small, large = lesion_studies.effect(0.05, 0.0), lesion_studies.effect(0.3, 0.0)
    published = [
        replace(scores("blimp", 0.9, share, [0.9]), network=name)
        for name, share in (("vision", 0.5), ("language", 0.8))
    ]
    for own, other, expected in ((large, small, "costs more"), (small, large, "does not cost more")):
        costs = {("vision", name): own for name in BOTH} | {("language", name): other for name in BOTH}
        found = judge(protocol(claim), Evidence(published, lesion_studies.study_of(costs), {}, {}))[0]
        assert (found.published, found.refereed) == ("holds", expected)


def test_what_is_spared_says_what_would_have_been_found():
    claims = Claim("it breaks", "loss", "language", "blimp"), Claim("it spares", "spared", "language", "images")
    published = [scores("blimp", 0.9, 0.6, [0.9]), scores("images", 0.9, 0.88, [0.9])]
    # A few items change under every lesion of these studies, which costs 0.014.
    mild = {("language", name): lesion_studies.effect(0.3, -0.014) for name in BOTH}
    found = judge(protocol(*claims), Evidence(published, lesion_studies.study_of(mild), {}, {}))[1]
    assert (found.published, found.refereed) == ("holds", "no measurable loss")
    assert "would have been found" in found.sentence
    heavy = {("language", name): lesion_studies.effect(0.3, 0.3) for name in BOTH}
    assert judge(protocol(*claims), Evidence(published, lesion_studies.study_of(heavy), {}, {}))[1].refereed == "loses"


@pytest.mark.parametrize(
    ("kind", "task", "other"),
    [
        ("loss", "blimp", ""),
        ("spared", "blimp", ""),
        ("greater loss", "blimp", "vision"),
        ("dissociation", "blimp", "images"),
        ("dissociation", "images", "blimp"),
    ],
)
@pytest.mark.parametrize("cost", [0.0, 0.2])
def test_no_claim_is_judged_by_an_ability_that_the_intact_model_lacks(kind, task, other, cost):
    """Neither "spared" nor "costs more" nor "no effect": what is not there can be neither lost nor kept."""
    own = lesion_studies.effect(cost, 0.3, layer=(0.0, 0.0), norm=(0.0, 0.0))
    none = lesion_studies.effect(0.0, 0.0, layer=(0.0, 0.0), norm=(0.0, 0.0))
    costs = {("language", name): own for name in BOTH} | {("vision", name): none for name in BOTH}
    study = lesion_studies.study_of(costs, level=0.5)
    assert study.at_chance("blimp")
    assert not study.at_chance("images")
    found = judge(protocol(Claim("it is so", kind, "language", task, other)), Evidence([], study, {}, {}))[0]
    assert found.refereed == "cannot be tested"
    assert "the intact model is at chance" in found.sentence


def test_an_effect_that_was_not_found_speaks_neither_for_nor_against_a_claim():
    none = lesion_studies.effect(-0.014, 0.0, layer=(0.0, 0.0), norm=(0.0, 0.0))
    study = lesion_studies.study_of({("language", name): none for name in BOTH})
    claim = Claim("it breaks", "loss", "language", "blimp")
    found = judge(protocol(claim), Evidence([scores("blimp", 0.9, 0.6, [0.9])], study, {}, {}))[0]
    assert (found.refereed, found.supported, found.undecided, found.differs) == (
        "no measurable effect",
        False,
        True,
        True,
    )
    same = lesion_studies.study_of({("language", name): lesion_studies.LANGUAGE for name in BOTH})
    found = judge(protocol(claim), Evidence([scores("blimp", 0.9, 0.6, [0.9])], same, {}, {}))[0]
    assert (found.refereed, found.undecided, found.differs) == ("survives", False, False)


def test_halves():
    claim = Claim("halves share units", "shared units", "language")
    shares = {"dice": 0.8, "dice_random": 0.01, "dice_tested": 0.7, "dice_permuted": 0.2, "p_more": 0.005}
    found = judge(protocol(claim), Evidence([], None, {"language": shares}, {}))[0]
    assert (found.published, found.refereed) == ("holds", "beyond chance")
    chance = judge(protocol(claim), Evidence([], None, {"language": shares | {"p_more": 0.3}}, {}))[0]
    assert (chance.published, chance.refereed) == ("holds", "not beyond chance")
    untested = judge(protocol(claim), Evidence([], None, {"language": shares | {"p_more": np.nan}}, {}))[0]
    assert untested.refereed == "cannot be tested"


def test_what_was_not_run_says_why():
    claim = Claim("it breaks", "loss", "language", "images")
    found = judge(protocol(claim), Evidence([], None, {}, {"images": "it shows pictures"}))[0]
    assert (found.published, found.refereed) == ("not run", "cannot be tested")
    assert found.sentence.endswith("images was not run: it shows pictures")


@pytest.mark.parametrize("method", ["selective_for", "costs_more"])
def test_tests_of_the_study_name_what_it_does_not_have(method):
    study = lesion_studies.study_of({("language", "mean"): lesion_studies.LANGUAGE})
    with pytest.raises(mn.InputError, match="`network` must be one of 'language', got 'faces'"):
        getattr(study, method)("faces", "blimp", "images")
    with pytest.raises(mn.InputError, match="must be one of"):
        getattr(study, method)("language", "blimp", "reading")


def test_a_difference_between_tasks_is_one_over_items_and_draws():
    """The selectivity is the difference of drops relative to the score above chance, computed here from item scores."""
    study = lesion_studies.study_of({("language", "mean"): lesion_studies.LANGUAGE})
    row = study.selective_for("language", "blimp", "images").iloc[0]
    lesion = next(one for one in study.lesions if not one.control)
    shares = [
        (study.base[task].mean - study.cells[lesion, task].mean()) / (study.base[task].mean - study.base[task].chance)
        for task in ("blimp", "images")
    ]
    assert row["selectivity"] == pytest.approx(shares[0] - shares[1])
    assert row["low"] < row["selectivity"] < row["high"]
