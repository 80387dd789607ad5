"""Verdicts on tables of published accuracies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from modalnet.replication.reported import ReportedLesion, reported_verdict
from modalnet.replication.reported_tables import shared_units
from simulated.quantity import COVERS, EFFECT, NOMINAL, NULL, Observed, covers, quantity

ITEMS = 540
INTACT, COST, SPREAD = 0.65, 0.08, 0.04  # accuracy, and what random units cost on average, with its SD over sets
PAIRS = 500  # of each paradigm
KINDS = ("normal", "skewed", "two kinds of sets")
ABOVE = {"normal": 1.645, "skewed": (np.exp(0.75 * 1.645) - np.exp(0.75**2 / 2)) / 1.15}  # 95th percentile of sets


def _sets(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """What sets of units cost, of mean 0 and standard deviation 1; of two kinds, one in seven destroys the output."""
    if kind == "skewed":
        return (rng.lognormal(sigma=0.75, size=shape) - np.exp(0.75**2 / 2)) / 1.15
    if kind == "two kinds of sets":
        return (rng.standard_normal(shape) + 8 * (rng.random(shape) < 1 / 7) - 8 / 7) / 2.97
    return rng.standard_normal(shape)


def _accuracy(rng: np.random.Generator, expected: np.ndarray | float, n: int = ITEMS) -> np.ndarray:
    return np.asarray(rng.binomial(n, np.clip(expected, 0, 1)) / n)


def _rejected(p: float) -> float:
    return float(p <= NOMINAL) if np.isfinite(p) else np.nan


def _reported(intact: np.ndarray, lesioned: np.ndarray, draws: np.ndarray) -> ReportedLesion:
    return ReportedLesion("simulated", intact, lesioned, draws, n_items=ITEMS, matched=True)


@quantity(
    {f"{n} draws, {kind}": {"n": n, "kind": kind} for n in (4, 15, 19, 40) for kind in KINDS},
    simulations=1500,
)
def reported_draws(rng: np.random.Generator, n: int, kind: str) -> Iterator[Observed]:
    """Selected units that are one more random set, or cost 0.3 more; and ones that one set in twenty reaches."""
    draws = _accuracy(rng, INTACT - COST - SPREAD * _sets(rng, (1, n), kind))
    intact = _accuracy(rng, np.array([INTACT]))
    for column, effect in ((NULL, 0.0), (EFFECT, 0.3)):
        lesioned = _accuracy(rng, INTACT - COST - effect - SPREAD * _sets(rng, (1,), kind))
        found = reported_verdict(_reported(intact, lesioned, draws))
        yield "reported lesion: survives", column, found.verdict == "survives"
    normal = NULL if kind == "normal" else EFFECT
    yield "reported lesion: draws are not normal", normal, found.p_normal_draws <= NOMINAL
    if n < 19 and kind in ABOVE:
        # Exact accuracies, as the noise of items would make the share of sets that reach the selected ones larger.
        draws = INTACT - COST - SPREAD * _sets(rng, (1, n), kind)
        lesioned = np.array([INTACT - COST - SPREAD * ABOVE[kind]])
        found = reported_verdict(_reported(intact, lesioned, np.clip(draws, 0, 1)))
        yield "reported lesion: does not survive few draws", NULL, found.verdict == "does not survive"


@quantity(
    {f"{n} paradigms, {kind}": {"n": n, "kind": kind} for n in (10, 20, 67) for kind in KINDS},
    simulations=800,
)
def reported_paradigms(rng: np.random.Generator, n: int, kind: str) -> Iterator[Observed]:
    """Every paradigm has selected units, which are one more set or cost 0.1 more, and the mean of four sets."""
    hard = np.clip(0.8 + 0.12 * rng.standard_normal(n), 0.3, 1)
    intact = _accuracy(rng, hard, PAIRS)
    costs = COST + SPREAD * _sets(rng, (n, 5), kind)
    draws = _accuracy(rng, hard[:, None] - costs[:, 1:], PAIRS).mean(axis=1, keepdims=True)
    for column, effect in ((NULL, 0.0), (EFFECT, 0.1)):
        lesioned = _accuracy(rng, hard - costs[:, 0] - effect, PAIRS)
        found = reported_verdict(
            ReportedLesion("simulated", intact, lesioned, draws, mean_of=4, apart=True, matched=True)
        )
        yield "reported paradigms: survives", column, found.verdict == "survives"
        if column == NULL:
            yield "reported paradigms: random units cost more", NULL, _rejected(found.p_other)
            yield "reported paradigms: interval of the drop", COVERS, covers(found.drop_low, found.drop_high, COST)


@quantity(
    {
        f"accuracy {level}, {alike:.0%} of items alike": {"level": level, "alike": alike}
        for level in (0.5, 0.75, 0.95)
        for alike in (0.0, 0.7)
    },
    simulations=2000,
)
def reported_drops(rng: np.random.Generator, level: float, alike: float) -> Iterator[Observed]:
    """A lesion that costs nothing: items keep their score, or have it drawn anew."""
    before = rng.random(ITEMS) < level
    after = np.where(rng.random(ITEMS) < alike, before, rng.random(ITEMS) < level)
    found = reported_verdict(_reported(*(np.array([one.mean()]) for one in (before, after)), np.empty((1, 0))))
    yield "reported lesion: a drop is measurable", NULL, found.drop_low > 0
    yield "reported lesion: interval of the drop", COVERS, covers(found.drop_low, found.drop_high, 0.0)


@quantity(
    {f"{share:.0%} of answers without a form": {"share": share} for share in (0.1, 0.3, 0.6, 0.9)}, simulations=2000
)
def reported_form(rng: np.random.Generator, share: float) -> Iterator[Observed]:
    """The selected units cost the form of some answers and nothing else, or as many right answers of a valid form."""
    intact = _accuracy(rng, np.array([INTACT]))
    draws = _accuracy(rng, np.full((1, 40), INTACT))
    right = rng.random(ITEMS) < INTACT
    lost = rng.random(ITEMS) < share
    for column, invalid in ((NULL, float(lost.mean())), (EFFECT, 0.0)):
        lesion = ReportedLesion(
            "simulated",
            intact,
            np.array([(right & ~lost).mean()]),
            draws,
            n_items=ITEMS,
            matched=True,
            invalid=invalid,
            invalid_intact=0.0,
        )
        yield "reported lesion: survives, where form is lost", column, reported_verdict(lesion).verdict == "survives"


@quantity({f"{n} paradigms": {"n": n} for n in (5, 10, 67)}, simulations=2000)
def units_shared(rng: np.random.Generator, n: int) -> Iterator[Observed]:
    """Folds share as many units as with shuffled labels, or a tenth of them more."""
    shares, control = rng.beta(2, 60, (2, n))
    for column, effect in ((NULL, 0.0), (EFFECT, 0.1)):
        yield (
            "units shared over folds",
            column,
            shared_units("simulated", shares + effect, control).verdict == "survives",
        )
