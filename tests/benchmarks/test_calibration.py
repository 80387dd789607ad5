"""The instrument of benchmarks/calibration.py: it reads what is known of a test, and prints what it documents."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import calibration
from modalnet.lesion.lesion import Lesion
from simulated.data import Scores, lesion_study
from simulated.quantity import COVERS, EFFECT, NULL, QUANTITIES, Quantity, covers

KEYS = {"name", "nominal", "false_positive_rate", "coverage", "power", "simulations"}
N = 1000


def p_values(rng, tests):
    """t tests of normal values, without an effect."""
    a, b = rng.standard_normal((2, 20, tests))
    return ttest_ind(a, b).pvalue


def best_of(rng, tests):
    yield "best of several", NULL, p_values(rng, tests).min() < 0.05


def standard_error(rate):
    return math.sqrt(rate * (1 - rate) / N)


@pytest.mark.parametrize("tests", [1, 4])
def test_rate_of_a_known_test_is_within_simulation_error(tests):
    """One t test rejects in 5%; the best of four in 1 - 0.95 ** 4, which must show as a miscalibration."""
    (row,) = Quantity(best_of, {"": {"tests": tests}}, N).rows("", N)
    expected = 1 - 0.95**tests
    assert abs(row["false_positive_rate"] - expected) < 3 * standard_error(expected)
    assert (row["false_positive_rate"] > 0.15) == (tests == 4)
    assert row["nominal"] == 0.05
    assert row["simulations"] == N
    assert row["coverage"] is row["power"] is None
    assert calibration.miscalibrated({**row, "false_positive_rate": 0.061})


def normal_interval(rng, reach):
    mean = rng.standard_normal()
    yield "an interval", COVERS, covers(mean - reach, mean + reach, 0.0)
    yield "an interval", EFFECT, np.nan


def test_coverage_of_a_known_interval():
    quantity = Quantity(normal_interval, {"wide": {"reach": 1.96}, "narrow": {"reach": 1.0}}, N)
    (wide,), (narrow,) = (quantity.rows(label, N) for label in ("wide", "narrow"))
    assert wide["name"] == "an interval (wide)"
    assert abs(wide["coverage"] - 0.95) < 3 * standard_error(0.95)
    assert abs(narrow["coverage"] - 0.6827) < 3 * standard_error(0.6827)
    assert calibration.miscalibrated(narrow)
    assert wide["power"] is None, "NaN is no observation"


def test_equal_settings_give_equal_rows():
    quantity = Quantity(best_of, {"": {"tests": 1}}, 50)
    assert quantity.rows("", 50) == quantity.rows("", 50)


def test_json_has_the_documented_keys(capsys):
    calibration.main(["--short", "--json", "--only", "rank_among_draws"])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 12
    assert all(set(row) == KEYS for row in rows)
    by_name = {row["name"]: row for row in rows}
    # With 5 draws the smallest p is 1/6.
    assert by_name["rank_p (5 draws, greater)"]["false_positive_rate"] == 0
    assert by_name["rank_p (19 draws, greater)"]["power"] > 0.9
    assert calibration.table(rows).count("\n") == len(rows) + 1


def test_quantities_do_not_share_their_seeds():
    names = [(one.measure.__module__, one.measure.__name__) for one in QUANTITIES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("scores", [Scores(40_000), Scores(40_000, 0.95, paradigms=True), Scores(40_000, None)])
def test_simulated_scores_have_the_expected_means(scores):
    drawn = scores.draw(np.random.default_rng(0), np.array([0.5, -0.2]))
    expected = [scores.expected(shift) for shift in (0.0, 0.5, -0.2)]
    np.testing.assert_allclose(drawn.mean(axis=0), expected, atol=0.02)


def test_a_network_without_an_effect_is_one_more_draw():
    """Over many studies its impairment has the mean and the spread of those of its controls."""
    rng = np.random.default_rng(0)
    own, drawn = [], []
    for _ in range(300):
        found = lesion_study(rng, {"a": Scores(2)}, {"A": {}}, 1).impairments
        own.append(found[Lesion("A", 0.01, "zero"), "a"])
        drawn.append(found[Lesion("A", 0.01, "zero", "activation"), "a"])
    assert ttest_ind(own, drawn).pvalue > 0.01
    assert 0.8 < np.std(own) / np.std(drawn) < 1.25
