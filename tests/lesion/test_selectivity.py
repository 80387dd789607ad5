"""The interaction over a whole matrix of networks and tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modalnet.errors import InputError
from modalnet.lesion.result import Lesion, LesionStudy
from modalnet.tasks.base import TaskScores

SIZE = 0.01
CATEGORIES = ("faces", "places", "bodies", "words")
OWN = {name: name for name in CATEGORIES}


def matrix_study(own, other, *, draws=20, seed=0, n=120):
    """Networks of categories, each of which costs its own category ``own`` and the others ``other``."""
    source = np.random.default_rng(seed)
    cells, base = {}, {}
    for task in CATEGORIES:
        luck = source.random(n)
        base[task] = TaskScores(task, tuple(map(str, range(n))), (luck < 0.9) * 1.0, "accuracy", 0.25)
        for network in CATEGORIES:
            for control, count in (("", 1), ("activation", draws)):
                for draw in range(count):
                    cost = 0.05 if control else own if network == task else other
                    noise = source.normal(0, 0.02)
                    cells[Lesion(network, SIZE, "zero", control, draw), task] = (luck < 0.9 - cost - noise) * 1.0
    return LesionStudy("toy", base, cells, {}, {}, {}, 0, seed, {})


def test_networks_that_cost_their_own_tasks_are_selective():
    (row,) = matrix_study(0.35, 0.1).selectivity(OWN).to_dict("records")
    assert row["verdict"] == "selective"
    assert row["p"] == pytest.approx(1 / 24)
    assert row["diagonal"] == pytest.approx(0.35 / 0.65, abs=0.06)
    assert row["interaction"] == pytest.approx(row["diagonal"] - row["off_diagonal"])
    (row,) = matrix_study(0.3, 0.3).selectivity(OWN).to_dict("records")
    assert row["verdict"] == "not selective"
    (row,) = matrix_study(0.35, 0.1, draws=0).selectivity(OWN, control="layer").to_dict("records")
    assert (row["verdict"], row["p"]) == ("selective", pytest.approx(1 / 24))
    assert math.isnan(row["p_new_draw"])


def test_main_effects_are_no_selectivity():
    """Some networks cost more and some tasks are more fragile: every assignment of tasks has the same sum."""
    n = 120
    base = {task: TaskScores(task, tuple(map(str, range(n))), np.ones(n), "accuracy", 0.0) for task in CATEGORIES}
    cells = {}
    for i, network in enumerate(CATEGORIES):
        for j, task in enumerate(CATEGORIES):
            scores = np.ones(n)
            scores[: 10 * (i + 1) + 5 * (j + 1)] = 0
            cells[Lesion(network, SIZE, "zero"), task] = scores
    (row,) = LesionStudy("toy", base, cells, {}, {}, {}, 0, 0, {}).selectivity(OWN).to_dict("records")
    assert row["p"] == 1
    assert row["verdict"] == "not selective"


def test_many_networks_are_assigned_at_random():
    from modalnet.lesion.selectivity import _p_of_assignment

    matrix = np.random.default_rng(0).normal(size=(10, 10))
    assert _p_of_assignment(matrix + 3 * np.eye(10), 0) == 1 / 10_000
    exact = [_p_of_assignment(matrix[:6, :6] + shift * np.eye(6), 0) for shift in (0.0, 0.5)]
    assert exact[1] < exact[0]
    assert _p_of_assignment(matrix, 0) == pytest.approx(_p_of_assignment(matrix, 1), abs=0.03)


def test_selectivity_that_cannot_be_asked_for():
    study = matrix_study(0.3, 0.1)
    three = {name: name for name in CATEGORIES[:3]}
    assert study.selectivity(three).sentence[0].startswith("cannot be tested: 3 networks")
    for own, message in (
        ({"faces": "faces"}, "at least two networks, got 1"),
        ({"faces": "faces", "cars": "places"}, "must name networks of the study .* got 'cars'"),
        ({"faces": "faces", "places": "cars"}, "must name tasks with scores .* got 'cars'"),
        ({"faces": "faces", "places": "faces"}, "'faces' has not"),
    ):
        with pytest.raises(InputError, match=message):
            study.selectivity(own)
    with pytest.raises(InputError, match="`fraction` must be a size of all of"):
        study.selectivity(three, fraction=0.5)
