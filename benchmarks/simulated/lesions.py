"""Lesion studies: the columns of the table, the verdicts, and the dissociations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from modalnet.lesion import resamples as lesion_resamples
from modalnet.lesion.lesion import Lesion
from modalnet.lesion.result import LesionStudy
from simulated.data import MEAN, SPREAD, Scores, lesion_study
from simulated.quantity import COVERS, EFFECT, NULL, Observed, covers, quantity, rejects

STRONG = 1.2  # an effect: four standard deviations of the controls
MODERATE = 0.5  # one that is significant about half of the time
MID, CEILING = 0.75, 0.95

_ITEMS = {
    f"{n} items, {name}, 19 draws": {"scores": Scores(n, level), "draws": 19}
    for name, level in (("accuracy 0.75", MID), ("accuracy 0.95", CEILING), ("nats", None))
    for n in (16, 40, 100)
}
_PARADIGMS = {
    f"40 items in 8 paradigms, {name}, 19 draws": {"scores": Scores(40, level, paradigms=True), "draws": 19}
    for name, level in (("accuracy 0.75", MID), ("accuracy 0.95", CEILING), ("nats", None))
}
_DRAWS = {
    f"40 items, {name}, {draws} draw{'s' * (draws > 1)}": {"scores": Scores(40, level), "draws": draws}
    for name, level in (("accuracy 0.75", MID), ("nats", None))
    for draws in (1, 4, 5, 10, 20)
}


@contextmanager
def few_resamples() -> Iterator[None]:
    """Fewer resamples than modalnet takes, for speed: the error rates are those of the tests."""
    with mock.patch.object(lesion_resamples, "N_RESAMPLES", 1000):
        yield


@quantity(_ITEMS | _DRAWS | _PARADIGMS, simulations=600)
def table_of_one_lesion(rng: np.random.Generator, scores: Scores, draws: int) -> Iterator[Observed]:
    """One network on one task under one operation: the network is one more draw, or costs more."""
    for column, effect in ((NULL, 0.0), (EFFECT, STRONG)):
        made = lesion_study(rng, {"a": scores}, {"A": {"a": effect}}, draws)
        with few_resamples():
            table = made.study.table()
        row = table.iloc[0]
        # What could not be tested is missing, and not a positive.
        yield "lesion table: exceeds_activation", column, bool(table["exceeds_activation"].fillna(False).iloc[0])
        yield "lesion table: p_draws", column, rejects(row["p_draws_activation"])
        yield "lesion table: p", column, rejects(row["p_activation"])
        own = made.impairments[Lesion("A", 0.01, "zero"), "a"]
        base, controls = scores.expected(0.0), scores.expected(MEAN, SPREAD)
        if column == NULL:
            for name, truth in (
                ("base", base),
                ("drop", base - scores.expected(own)),
                ("drop_activation", base - controls),
                ("excess_activation", controls - scores.expected(own)),
            ):
                low, high = row[f"{name}_low"], row[f"{name}_high"]
                # What cannot be given, such as the spread of a single draw, is no interval.
                if np.isfinite([low, high]).all():
                    yield f"lesion table: interval of {name}", COVERS, covers(low, high, truth)
        else:
            truth = controls - scores.expected(own)
            low, high = row["excess_activation_low"], row["excess_activation_high"]
            if np.isfinite([low, high]).all():
                yield "lesion table: interval of excess_activation, an effect", COVERS, covers(low, high, truth)


def survives(study: LesionStudy) -> dict[str, bool]:
    """Question → whether the effect of the only network on the only task survives."""
    return dict(study.verdicts().set_index("question")["verdict"] == "survives")


@quantity(
    {
        f"4 sizes, {items}, {draws} draws, {'one kind' if len(kinds) == 1 else 'two kinds'}": {
            "scores": scores,
            "draws": draws,
            "kinds": kinds,
        }
        for items, scores in (("40 items, accuracy 0.75", Scores(40)), ("40 items, nats", Scores(40, None)))
        for draws, kinds in (
            (4, ("activation",)),
            (10, ("activation",)),
            (20, ("activation",)),
            (4, ("layer", "activation")),
            (20, ("layer", "activation")),
        )
    }
    | {
        f"4 sizes, {items}, 10 draws, one kind": {"scores": scores, "draws": 10, "kinds": ("activation",)}
        for items, scores in (
            ("16 items, accuracy 0.95", Scores(16, CEILING)),
            ("40 items in 8 paradigms, accuracy 0.75", Scores(40, paradigms=True)),
        )
    },
    simulations=400,
)
def verdict_survives(
    rng: np.random.Generator, scores: Scores, draws: int, kinds: tuple[str, ...]
) -> Iterator[Observed]:
    """Four sizes under zero and mean ablation and two doses: one question each, and one for all."""
    how = {"kinds": kinds, "sizes": (0.4, 0.6, 0.8, 1.0), "operations": ("zero", "mean", "scale 0.5")}
    for column, effect in ((NULL, 0.0), (EFFECT, STRONG)):
        made = lesion_study(rng, {"a": scores}, {"A": {"a": effect}}, draws, **how)
        with few_resamples():
            found = survives(made.study)
        for question in ("zero", "mean", "slope", "all"):
            yield f"verdict: survives, {question}", column, found[question]


_TASKS = {
    f"{n} items, {name}, {draws} draws": {"scores": Scores(n, level), "draws": draws}
    for n, name, level in ((40, "accuracy 0.75", MID), (100, "accuracy 0.75", MID), (40, "nats", None))
    for draws in (4, 20)
}


@quantity(_TASKS, simulations=400)
def dissociations(rng: np.random.Generator, scores: Scores, draws: int) -> Iterator[Observed]:
    """Two networks and two tasks: random sets, lesions that hurt both tasks alike, or a network's own task only."""
    alike = {"a": MODERATE, "b": MODERATE}
    cases = {
        "both are random sets": ({}, {}),
        "both lesions hurt both tasks": (alike, alike),
        "single": ({"a": STRONG}, {}),
        "double": ({"a": STRONG}, {"b": STRONG}),
    }
    verdicts, reject = {}, {}
    for case, (one, other) in cases.items():
        made = lesion_study(rng, {"a": scores, "b": scores}, {"A": one, "B": other}, draws)
        with few_resamples():
            row = made.study.dissociation().iloc[0]
        verdicts[case] = row["verdict"]
        reject[case] = rejects(row["p_interaction" if np.isfinite(row["p_interaction"]) else "p_interaction_raw"])
        if case == "both lesions hurt both tasks":
            score = {
                network + task: scores.expected(made.impairments[Lesion(network, 0.01, "zero"), task])
                for network in "AB"
                for task in "ab"
            }
            of_a, of_b = score["Ba"] - score["Aa"], score["Ab"] - score["Bb"]
            for name, truth in (("difference_a", of_a), ("difference_b", of_b), ("interaction_raw", of_a + of_b)):
                covered = covers(row[f"{name}_low"], row[f"{name}_high"], truth)
                yield f"dissociation: interval of {name}", COVERS, covered
    for case in list(cases)[:2]:
        yield f"dissociation: p of the interaction, {case}", NULL, reject[case]
        yield f"dissociation: p of the interaction, {case}", EFFECT, reject["double"]
        for kind in ("single", "double"):
            yield f"{kind} dissociation, {case}", NULL, verdicts[case].startswith(kind)
            yield f"{kind} dissociation, {case}", EFFECT, verdicts[kind].startswith(kind)


@quantity(_TASKS, simulations=400)
def claims_of_replications(rng: np.random.Generator, scores: Scores, draws: int) -> Iterator[Observed]:
    """One network on two tasks, and two networks on one: random sets, effects that are alike, or real differences."""
    alike = {"a": MODERATE, "b": MODERATE}
    for case, one, other in (
        ("random sets", {}, {}),
        ("alike", alike, alike),
        ("real", {"a": STRONG}, {}),
    ):
        made = lesion_study(rng, {"a": scores, "b": scores}, {"A": one, "B": other}, draws)
        with few_resamples():
            selective = made.study.selective_for("A", "a", "b").iloc[0]["verdict"] == "selective"
            costs_more = made.study.costs_more("A", "B", "a").iloc[0]["verdict"] == "costs more"
        for null in ("random sets", "alike") if case == "real" else (case,):
            column = EFFECT if case == "real" else NULL
            yield f"selective for one task, {null}", column, selective
            yield f"costs more than another network, {null}", column, costs_more


_MATRIX = {
    f"{n} networks, {items} items each, {draws} draws": {"n": n, "items": items, "draws": draws}
    for n in (4, 5)
    for items in (16, 40)
    for draws in (0, 20)
}


@quantity(_MATRIX, simulations=300)
def selectivity(rng: np.random.Generator, n: int, items: int, draws: int) -> Iterator[Observed]:
    """Networks that are random sets, or all of which hurt all tasks alike; or each costs its own task more."""
    tasks = {f"task {i}": Scores(items) for i in range(n)}
    own = {f"network {i}": f"task {i}" for i in range(n)}
    cases = {
        "random sets": (NULL, {name: {} for name in own}),
        "all tasks alike": (NULL, {name: dict.fromkeys(tasks, MODERATE) for name in own}),
        "own task": (EFFECT, {name: {task: STRONG} for name, task in own.items()}),
    }
    for case, (column, networks) in cases.items():
        made = lesion_study(rng, tasks, networks, draws)
        with few_resamples():
            row = made.study.selectivity(own).iloc[0]
        for null in ("random sets", "all tasks alike") if column == EFFECT else (case,):
            yield f"selectivity over a matrix, {null}", column, row["verdict"] == "selective"
