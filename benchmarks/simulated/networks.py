"""Pairs of networks: overlap, separation, and interference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from modalnet.specialization.interference import _cost
from modalnet.specialization.overlap import overlap, separation
from modalnet.stats.moments import welch
from modalnet.units import Units
from simulated.quantity import COVERS, EFFECT, NULL, Observed, covers, quantity, rejects
from simulated.stats import moments

LAYERS, DIMS, FACTORS, TOP = 8, 64, 5, 26  # the networks are the top 5%
DRAWS = 1000


def _loadings(rng: np.random.Generator) -> np.ndarray:
    """How strongly each unit follows each latent factor ``[factor, layer, dim]``: each is strongest at some depth.

    A dimension keeps its loading from layer to layer, as the residual stream does.
    """
    depth = np.exp(-(((np.arange(LAYERS) - rng.uniform(0, LAYERS - 1, (FACTORS, 1))) / 2) ** 2))
    return rng.standard_normal((FACTORS, 1, DIMS)) * depth[:, :, None]


def _network(rng: np.random.Generator, loadings: np.ndarray, kind: str, n: int = 40) -> Units:
    """The top units of a contrast of labels that mean nothing, over stimuli that drive units by shared factors."""
    if kind == "independent units":
        values = rng.standard_normal((n, LAYERS, DIMS))
    else:
        stream = np.sqrt(0.5) * (rng.standard_normal((n, 1, DIMS)) + rng.standard_normal((n, LAYERS, DIMS)))
        values = np.einsum("sf,fld->sld", rng.standard_normal((n, FACTORS)), loadings) + stream
    t = welch(moments(values[: n // 2]), moments(values[n // 2 :])).t
    return _top(t)


def _top(t: np.ndarray) -> Units:
    mask = np.zeros(LAYERS * DIMS, dtype=bool)
    mask[np.argsort(-t.ravel())[:TOP]] = True
    return Units({"decoder": mask.reshape(LAYERS, DIMS)})


@quantity({kind: {"kind": kind} for kind in ("independent units", "correlated units")}, simulations=1000)
def pairs_of_networks(rng: np.random.Generator, kind: str) -> Iterator[Observed]:
    """Two contrasts without effects; with one, a sixth of the units is shared, or one network lies deeper."""
    loadings = _loadings(rng)
    a, b = (_network(rng, loadings, kind) for _ in range(2))
    score = rng.random((LAYERS, DIMS))
    sharing, deep = _top(score + (a.mask["decoder"] & (rng.random((LAYERS, DIMS)) < 1 / 6))), rng.random((LAYERS, DIMS))
    deep[LAYERS // 2 :] += 0.1
    for column, other in ((NULL, b), (EFFECT, sharing)):
        found = overlap(a, other, rng, DRAWS)
        yield "overlap: p_more", column, rejects(found["p_more"])
        if column == NULL:
            yield "overlap: p_less", column, rejects(found["p_less"])
    for column, other in ((NULL, b), (EFFECT, _top(deep))):
        yield "separation: p", column, rejects(separation(a, other, rng, DRAWS)["p"])


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
