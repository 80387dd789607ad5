"""Lesion studies: the columns of the table, the verdicts, and the dissociations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np

from modalnet.lesion import table as lesion_table
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
    """Fewer resamples and permutations than modalnet takes, for speed: the error rates are those of the tests."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(lesion_table, "N_RESAMPLES", 1000))
        stack.enter_context(mock.patch.object(lesion_table, "N_PERMUTATIONS", 999))
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
        yield "lesion table: p_items", column, row["p_items_activation"] < lesion_table.ALPHA
        own = made.impairments[Lesion("A", 0.01, "zero"), "a"]
        base, controls = scores.expected(0.0), scores.expected(MEAN, SPREAD)
        if column == NULL:
            for name, truth in (
                ("base", base),
                ("drop", base - scores.expected(own)),
                ("drop_activation", base - controls),
                ("excess_activation", controls - scores.expected(own)),
            ):
                yield (
                    f"lesion table: interval of {name}",
                    COVERS,
                    covers(row[f"{name}_low"], row[f"{name}_high"], truth),
                )


def survives(study: LesionStudy) -> bool:
    """Whether the first verdict says that the effect survives."""
    return "; the effect survives: " in study.verdicts()[0]


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
    """Four sizes under zero and mean ablation: the verdict takes the best."""
    how = {"kinds": kinds, "sizes": (0.4, 0.6, 0.8, 1.0), "operations": ("zero", "mean")}
    for column, effect in ((NULL, 0.0), (EFFECT, STRONG)):
        made = lesion_study(rng, {"a": scores}, {"A": {"a": effect}}, draws, **how)
        with few_resamples():
            yield "verdict: survives", column, survives(made.study)


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
    verdicts = {}
    for case, (one, other) in cases.items():
        made = lesion_study(rng, {"a": scores, "b": scores}, {"A": one, "B": other}, draws)
        with few_resamples():
            row = made.study.dissociation().iloc[0]
        verdicts[case] = row["verdict"]
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
        for kind in ("single", "double"):
            yield f"{kind} dissociation, {case}", NULL, verdicts[case].startswith(kind)
            yield f"{kind} dissociation, {case}", EFFECT, verdicts[kind].startswith(kind)
