"""Pairs of networks: overlap, separation, and interference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from modalnet.specialization.interference import _cost
from modalnet.specialization.permuted import compared
from modalnet.stats.label_permutation import PermutedLabels, PermutedNetworks
from modalnet.units import Units
from simulated.quantity import COVERS, EFFECT, NULL, Observed, covers, quantity, rejects

LAYERS, DIMS, FACTORS, TOP = 8, 64, 5, 26  # the networks are the top 5%
STIMULI, PERMUTATIONS = 40, 199
SHIFT = 1.5  # standard deviations of the latent factors


def _loadings(rng: np.random.Generator) -> np.ndarray:
    """How strongly each unit follows each latent factor ``[factor, layer, dim]``: each is strongest at some depth.

    A dimension keeps its loading from layer to layer, as the residual stream does.
    """
    depth = np.exp(-(((np.arange(LAYERS) - rng.uniform(0, LAYERS - 1, (FACTORS, 1))) / 2) ** 2))
    return rng.standard_normal((FACTORS, 1, DIMS)) * depth[:, :, None]


def _activations(rng: np.random.Generator, loadings: np.ndarray, kind: str, shift: np.ndarray | float) -> np.ndarray:
    """Activations ``[stimulus, unit]``; the positive half of the stimuli has the latent factors shifted."""
    if kind == "independent units":
        return rng.standard_normal((STIMULI, LAYERS * DIMS))
    stream = np.sqrt(0.5) * (rng.standard_normal((STIMULI, 1, DIMS)) + rng.standard_normal((STIMULI, LAYERS, DIMS)))
    factors = rng.standard_normal((STIMULI, FACTORS))
    factors[: STIMULI // 2] += shift
    return (np.einsum("sf,fld->sld", factors, loadings) + stream).reshape(STIMULI, -1)


def _networks(rng: np.random.Generator, values: np.ndarray, test: str) -> tuple[Units, np.ndarray]:
    """The top units of a contrast, and those of permuted labels; pairs are of the first and the second half."""
    side = np.repeat([1.0, 0.0], STIMULI // 2)[:, None]
    if test == "paired":
        values, side = values[: STIMULI // 2] - values[STIMULI // 2 :], np.zeros((STIMULI // 2, 0))
    labels = PermutedLabels.draw(test, side, PERMUTATIONS, int(rng.integers(2**31)))
    made = PermutedNetworks(labels, TOP)
    made.add(np.arange(values.shape[1]), values)
    mask = np.zeros(LAYERS * DIMS, dtype=bool)
    mask[made.networks[0]] = True
    return Units({"decoder": mask.reshape(LAYERS, DIMS)}), made.networks


def _direction(rng: np.random.Generator) -> np.ndarray:
    """An effect on the latent factors, of SHIFT standard deviations in a random direction."""
    drawn = rng.standard_normal(FACTORS)
    return SHIFT * drawn / np.linalg.norm(drawn)


@quantity(
    {
        f"{kind}, {test}": {"kind": kind, "test": test}
        for kind in ("independent units", "correlated units")
        for test in ("welch", "paired")
    },
    simulations=600,
)
def pairs_of_networks(rng: np.random.Generator, kind: str, test: str) -> Iterator[Observed]:
    """Two contrasts that are unrelated: without effects, one with an effect, or both with effects of their own.

    With power: both have the same effect on the latent factors, or the effects are on factors of other depths.
    """
    loadings = _loadings(rng)
    deep = np.argsort(np.square(loadings).sum(axis=2) @ np.arange(LAYERS) / np.square(loadings).sum(axis=(1, 2)))
    same, ends = _direction(rng), [SHIFT * np.eye(FACTORS)[deep[place]] for place in (0, -1)]
    pairs = [("no effects", NULL, 0.0, 0.0)]
    if kind == "correlated units":
        pairs += [
            ("one effect", NULL, _direction(rng), 0.0),
            ("unrelated effects", NULL, _direction(rng), _direction(rng)),
        ]
        pairs += [("overlap", EFFECT, same, same), ("separation", EFFECT, *ends)]
    for name, column, *shifts in pairs:
        (a, of_a), (b, of_b) = (_networks(rng, _activations(rng, loadings, kind, shift), test) for shift in shifts)
        shared, apart = compared(a, b, of_a, of_b)
        if column == NULL:
            yield f"overlap: p_more, {name}", NULL, rejects(shared["p_more"])
            yield f"overlap: p_less, {name}", NULL, rejects(shared["p_less"])
            yield f"separation: p, {name}", NULL, rejects(apart["p"])
        elif name == "overlap":
            yield "overlap: p_more, one effect in both", EFFECT, rejects(shared["p_more"])
        else:
            yield "separation: p, effects at two depths", EFFECT, rejects(apart["p"])


@quantity({f"{n} stimuli per side": {"n": n} for n in (16, 40, 100)}, simulations=600)
def interference(rng: np.random.Generator, n: int) -> Iterator[Observed]:
    """The interval of the loss of effect size while another domain is driven: none, or half of an effect of 1."""
    own, driven = np.repeat([True, False], 2 * n), np.tile(np.repeat([True, False], n), 2)
    # A stimulus is seen with the other domain off and on.
    stimulus = rng.standard_normal((2, 1, n)).repeat(2, axis=1).ravel()
    noise = np.sqrt(0.5) * (stimulus + rng.standard_normal(4 * n))
    for column, lost in ((NULL, 0.0), (EFFECT, 0.5)):
        found = _cost(noise + own * (1 - lost * driven), own, driven, [], int(rng.integers(2**31)))
        yield "interference: interval of cost", column, not found["low"] <= 0 <= found["high"]
        yield "interference: interval of cost", COVERS, covers(found["low"], found["high"], lost)
