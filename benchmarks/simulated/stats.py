"""The tests and intervals of modalnet.stats, which every analysis takes from there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from modalnet.specialization.capacity import wilson
from modalnet.stats.moments import Moments, fdr, welch
from modalnet.stats.new_draw import beside_draws
from modalnet.stats.permutation import label_permutation, rank_p, sign_flip
from modalnet.stats.resampling import t_interval
from simulated.data import Scores
from simulated.quantity import COVERS, EFFECT, NOMINAL, NULL, Observed, covers, quantity, rejects

UNITS = 200
DRAWS = (1, 4, 5, 10, 19, 20)
PERMUTATIONS = 999


def moments(values: np.ndarray) -> Moments:
    """Moments of values ``[stimulus, unit]``."""
    made = Moments.zeros(values.shape[1:])
    made.update(values)
    return made


def _activations(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Values of mean 0 and standard deviation 1, of units that may share factors or be skewed."""
    if kind == "skewed":
        return (rng.lognormal(sigma=0.75, size=shape) - np.exp(0.75**2 / 2)) / 1.15
    if kind == "correlated":
        factors, loadings = rng.standard_normal((shape[0], 5)), rng.standard_normal((5, shape[1])) / np.sqrt(5)
        return np.sqrt(0.5) * (factors @ loadings + rng.standard_normal(shape))
    return rng.standard_normal(shape)


@quantity(
    {f"{n} per side, {kind} units": {"n": n, "kind": kind} for kind in ("normal", "skewed") for n in (16, 40, 100)}
    | {"16 and 100 per side, skewed units": {"n": 16, "kind": "skewed", "other": 100}},
    simulations=100,
)
def welch_t(rng: np.random.Generator, n: int, kind: str, other: int = 0) -> Iterator[Observed]:
    """The p value of a unit; the effect is half a standard deviation."""
    a, b = _activations(rng, (n, UNITS), kind), _activations(rng, (other or n, UNITS), kind)
    for column, effect in ((NULL, 0.0), (EFFECT, 0.5)):
        yield "Welch t of a unit", column, float((welch(moments(a + effect), moments(b)).p < NOMINAL).mean())


@quantity(
    {
        f"{kind} units, {share:.0%} with an effect": {"kind": kind, "share": share}
        for kind in ("normal", "skewed", "correlated")
        for share in (0.0, 0.1)
    },
    simulations=400,
)
def false_discoveries(rng: np.random.Generator, kind: str, share: float) -> Iterator[Observed]:
    """The proportion of false discoveries at q < 0.05, 40 stimuli per side; effects of one standard deviation."""
    real = np.arange(UNITS) < share * UNITS
    a, b = _activations(rng, (40, UNITS), kind) + real, _activations(rng, (40, UNITS), kind)
    found = fdr(welch(moments(a), moments(b)).p) < NOMINAL
    yield "FDR over units, q < 0.05", NULL, float((found & ~real).sum() / max(found.sum(), 1))
    if share:
        yield "FDR over units, q < 0.05", EFFECT, float(found[real].mean())


_SCORES = {
    f"{n} items, {name}": {"scores": Scores(n, level)}
    for name, level in (("accuracy 0.75", 0.75), ("accuracy 0.95", 0.95), ("nats", None))
    for n in (16, 40, 100)
} | {
    f"{n} items in {n // 5} paradigms, {name}": {"scores": Scores(n, level, paradigms=True)}
    for name, level in (("accuracy 0.75", 0.75), ("nats", None))
    for n in (40, 100)
}


@quantity(_SCORES, simulations=3000)
def mean_scores(rng: np.random.Generator, scores: Scores) -> Iterator[Observed]:
    """The interval of a task's mean score."""
    values = scores.draw(rng, np.zeros(0))
    found = scores.described(values[:, 0]).interval(seed=int(rng.integers(2**31)))
    yield "TaskScores.interval", COVERS, covers(*found, scores.expected(0.0))


@quantity(
    {f"{n} items, accuracy {share}": {"n": n, "share": share} for n in (16, 40, 100) for share in (0.75, 0.95)},
    simulations=4000,
)
def wilson_interval(rng: np.random.Generator, n: int, share: float) -> Iterator[Observed]:
    """The score interval of a proportion, of independent items."""
    yield "Wilson interval", COVERS, covers(*wilson(rng.binomial(n, share) / n, n), share)


@quantity(
    {f"{n} {kind} values": {"n": n, "kind": kind} for n in (5, 16) for kind in ("normal", "skewed")}, simulations=4000
)
def t_of_folds(rng: np.random.Generator, n: int, kind: str) -> Iterator[Observed]:
    """The t interval of a mean, of independent values."""
    yield "t interval", COVERS, covers(*t_interval(_activations(rng, (n, 1), kind)[:, 0]), 0.0)


@quantity(
    {
        f"{n} draws, {kind}": {"n": n, "kind": kind}
        for n in (4, 10, 19, 20, 40)
        for kind in ("normal", "skewed", "two kinds of sets", "overlapping draws")
    },
    simulations=4000,
)
def network_beside_draws(rng: np.random.Generator, n: int, kind: str) -> Iterator[Observed]:
    """A network that is one more draw, or four standard deviations above; draws may destroy a model now and then."""
    overlap = 0.25 if kind == "overlapping draws" else 0.0
    values = _activations(rng, (n + 1, 1), "skewed" if kind == "skewed" else "normal")[:, 0]
    mean = 0.0
    if kind == "two kinds of sets":
        values += 8 * (rng.random(n + 1) < 0.15)
        mean = 8 * 0.15
    # Draws that share units share part of what they cost; the network shares no units with them.
    draws = math.sqrt(1 - overlap) * values[1:] + math.sqrt(overlap) * rng.standard_normal()
    for column, effect in ((NULL, 0.0), (EFFECT, 4.0)):
        beside = beside_draws(values[0] + effect, draws, overlap=overlap)
        yield "beside_draws: exceeds", column, beside.exceeds is True
        yield "beside_draws: p", column, rejects(beside.p)
        yield "beside_draws: p_two_sided", column, rejects(beside.p_two_sided)
    yield "beside_draws: interval of the excess", COVERS, covers(beside.low - 4, beside.high - 4, values[0] - mean)


def _differences(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    """Paired differences of mean 0."""
    if kind == "accuracy 0.95":
        drawn = Scores(n, 0.95).draw(rng, np.zeros(1))
        return drawn[:, 0] - drawn[:, 1]
    if kind == "paradigms":
        return rng.standard_normal(n) + 0.7 * rng.standard_normal(-(-n // 5)).repeat(5)[:n]
    return _activations(rng, (n, 1), kind)[:, 0]


@quantity(
    {
        f"{n} items, {kind}, {alternative}": {"n": n, "kind": kind, "alternative": alternative}
        for n in (16, 40, 100)
        for kind, alternative in (
            ("normal", "two-sided"),
            ("skewed", "greater"),
            ("accuracy 0.95", "greater"),
            ("paradigms", "greater"),
        )
    },
    simulations=1500,
)
def sign_flips(rng: np.random.Generator, n: int, kind: str, alternative: Any) -> Iterator[Observed]:
    """Paired differences; the effect is half a standard deviation, or a tenth of all items."""
    null = _differences(rng, kind, n)
    for column, effect in ((NULL, 0.0), (EFFECT, 0.1 if kind == "accuracy 0.95" else 0.5)):
        values = np.where(rng.random(n) < effect, 1.0, null) if kind == "accuracy 0.95" else null + effect
        groups = np.arange(n) // 5 if kind == "paradigms" else None
        p = sign_flip(values, PERMUTATIONS, rng, alternative=alternative, groups=groups)
        yield "sign_flip", column, rejects(float(p))


@quantity(
    {
        f"{n} and {m} values, {kind}": {"n": n, "m": m, "kind": kind}
        for n, m in ((16, 16), (40, 40), (16, 100))
        for kind in ("normal", "skewed", "unequal variances")
    },
    simulations=1500,
)
def label_permutations(rng: np.random.Generator, n: int, m: int, kind: str) -> Iterator[Observed]:
    """Two groups; the effect is half a standard deviation. The smaller group varies three times as much if unequal."""
    a, b = _activations(rng, (n, 1), kind)[:, 0], _activations(rng, (m, 1), kind)[:, 0]
    a *= 3 if kind == "unequal variances" else 1
    for column, effect in ((NULL, 0.0), (EFFECT, 0.5)):
        p = label_permutation(a + effect, b, PERMUTATIONS, rng, alternative="two-sided")
        yield "label_permutation", column, rejects(p)


@quantity(
    {f"{n} draws, {side}": {"draws": n, "alternative": side} for n in DRAWS for side in ("greater", "two-sided")},
    simulations=4000,
)
def rank_among_draws(rng: np.random.Generator, draws: int, alternative: Any) -> Iterator[Observed]:
    """The rank of a network that is one more draw; the effect is four standard deviations of the draws."""
    values = rng.standard_normal(draws)
    for column, effect in ((NULL, 0.0), (EFFECT, 4.0)):
        yield "rank_p", column, rejects(rank_p(rng.standard_normal() + effect, values, alternative=alternative))
