"""The t of contrasts of pairs, of contrasts with covariates, and of slopes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from modalnet.stats.moments import fdr
from modalnet.stats.regression import CrossMoments, intercept, slope
from simulated.quantity import EFFECT, NOMINAL, NULL, Observed, quantity
from simulated.stats import UNITS, _activations

ALIKE = 0.7  # correlation between the members of a pair
LONGER = 1.0  # standard deviations by which the texts of one side are longer
BY_LENGTH = 0.7  # how much an activation changes with a standard deviation of length


def _cross(x: np.ndarray, y: np.ndarray) -> CrossMoments:
    made = CrossMoments.zeros(x.shape[1], y.shape[1:])
    made.update(x, y)
    return made


def _rejected(t: CrossMoments, *, pairs: bool = False) -> float:
    return float(((intercept(t) if pairs else slope(t)).p < NOMINAL).mean())


@quantity(
    {
        f"{n} pairs, {kind} units": {"n": n, "kind": kind}
        for n in (16, 40, 100)
        for kind in ("normal", "skewed", "correlated")
    },
    simulations=200,
)
def paired_t(rng: np.random.Generator, n: int, kind: str) -> Iterator[Observed]:
    """Pairs that are alike; sides differ in spread. The effect is half a standard deviation of the stimuli."""
    item = np.sqrt(ALIKE) * _activations(rng, (n, UNITS), kind)
    a, b = (item + spread * np.sqrt(1 - ALIKE) * _activations(rng, (n, UNITS), kind) for spread in (1.0, 2.0))
    for column, effect in ((NULL, 0.0), (EFFECT, 0.5)):
        yield "paired t of a unit", column, _rejected(_cross(np.zeros((n, 0)), a + effect - b), pairs=True)
        side = np.repeat([1.0, 0.0], n)[:, None]
        yield "paired t of a unit: the same unpaired", column, _rejected(_cross(side, np.concatenate([a + effect, b])))


@quantity(
    {
        f"{n} per side, {kind}": {"n": n, "kind": kind}
        for n in (16, 40, 100)
        for kind in ("normal units", "skewed units", "unequal variances")
    },
    simulations=200,
)
def adjusted_t(rng: np.random.Generator, n: int, kind: str) -> Iterator[Observed]:
    """Texts of one side are longer, units code length, and the covariate is skewed; unequal: one side varies twice."""
    side = np.repeat([1.0, 0.0], n)
    length = _activations(rng, (2 * n, 1), "skewed")[:, 0] + LONGER * side
    noise = _activations(rng, (2 * n, UNITS), "skewed" if kind == "skewed units" else "normal")
    if kind == "unequal variances":
        noise *= 1 + side[:, None]
    values = BY_LENGTH * length[:, None] + noise
    for column, effect in ((NULL, 0.0), (EFFECT, 0.75)):
        y = values + effect * side[:, None]
        yield "adjusted t of a unit", column, _rejected(_cross(np.column_stack([side, length]), y))
    yield "adjusted t of a unit: the same unadjusted", EFFECT, _rejected(_cross(side[:, None], values))
    # A slope of the length, adjusted for another number.
    other = length + rng.standard_normal(2 * n)
    for column, effect in ((NULL, 0.0), (EFFECT, 0.5)):
        x = np.column_stack([length, other])
        yield "slope of a unit", column, _rejected(_cross(x, noise + other[:, None] + effect * length[:, None]))


@quantity(
    {
        f"{n} pairs, {kind} gradients": {"n": n, "kind": kind}
        for n in (16, 40, 100)
        for kind in ("normal", "skewed", "correlated")
    },
    simulations=200,
)
def attributed_t(rng: np.random.Generator, n: int, kind: str) -> Iterator[Observed]:
    """Effects of units: differences of activations times gradients, of pairs some of which count more than others.

    Without an effect the answers say nothing of the pair, so each pair's gradient has a sign of its own.
    """
    size = rng.lognormal(sigma=0.5, size=(n, 1))
    difference = 1 + _activations(rng, (n, UNITS), kind)
    gradient = size * (1 + _activations(rng, (n, UNITS), kind))
    sign = rng.choice([-1.0, 1.0], size=(n, 1))
    for column, effects in ((NULL, sign * difference * gradient), (EFFECT, difference * gradient)):
        tested = intercept(_cross(np.zeros((n, 0)), effects))
        yield "t of effects over pairs of a unit", column, float((tested.p < NOMINAL).mean())
        if column == NULL:
            found = fdr(tested.p) < NOMINAL
            yield "units selected by their effect, q < 0.05", NULL, float(found.mean())
