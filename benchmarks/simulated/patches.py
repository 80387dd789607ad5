"""Patching results and modality profiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from modalnet.patching import modality, result
from modalnet.patching.modality import ModalityProfile
from modalnet.patching.result import NetworkPatch, Patching
from simulated.quantity import COVERS, EFFECT, NULL, Observed, covers, quantity

SHARE, SPREAD, STRONG = 0.3, 0.08, 0.32


def _patching(rng: np.random.Generator, n: int, draws: int, direction: str, effect: float) -> tuple[Patching, float]:
    """A result in which a network carries as much of the answer as a random set, plus an effect; and that share."""
    shares = SHARE + SPREAD * rng.standard_normal(1 + draws)
    shares[0] += effect
    corrupt = rng.standard_normal(n)
    # A few pairs that the model tells apart well carry much of the sums.
    whole = rng.gamma(1.5, 2.0, n)
    moved = whole * (shares[:, None] + 0.2 * rng.standard_t(4, (1 + draws, n)))
    # Clean into corrupt restores the share; corrupt into clean removes it.
    values = corrupt + (moved if direction == "denoise" else whole - moved)
    network = NetworkPatch(10, {}, values[0], {"activation": values[1:]})
    made = Patching(
        model="simulated",
        metric="logit difference",
        direction=direction,
        estimated=False,
        labels=tuple(map(str, range(n))),
        columns={},
        layers={},
        clean=corrupt + whole,
        corrupt=corrupt,
        values={},
        networks={"A": network},
    )
    return made, float(shares[0])


@quantity(
    {
        f"{n} pairs, {draws} draws, {direction}": {"n": n, "draws": draws, "direction": direction}
        for n, draws in ((16, 4), (16, 20), (40, 20), (100, 20), (40, 39))
        for direction in ("denoise", "noise")
    },
    simulations=1000,
)
def network_table(rng: np.random.Generator, n: int, draws: int, direction: str) -> Iterator[Observed]:
    """A network's rank among random sets, and the interval of its share; an effect is four SDs of the draws."""
    for column, effect in ((NULL, 0.0), (EFFECT, STRONG)):
        made, truth = _patching(rng, n, draws, direction, effect)
        row = made.network_table().iloc[0]
        # Either finding is false under the null; under the effect, only that the network carries more is true.
        yield (
            "patching: finding of network_table",
            column,
            row["finding"] in ({"more", "less"} if not effect else {"more"}),
        )
        if column == NULL:
            yield "patching: interval of a network's share", COVERS, covers(row["low"], row["high"], truth)


@quantity({f"{n} pairs": {"n": n} for n in (16, 40, 100)}, simulations=1000)
def site_intervals(rng: np.random.Generator, n: int) -> Iterator[Observed]:
    """The interval of the effect of a site that carries nothing."""
    made, _ = _patching(rng, n, 1, "denoise", 0.0)
    values = made.corrupt + (made.clean - made.corrupt) * 0.2 * rng.standard_t(4, n)
    low, high = made._bounds(values[:, None, None], n_resamples=result.RESAMPLES // 2)[:, 0, 0]
    yield "patching: interval of a site", NULL, not low <= 0 <= high
    yield "patching: interval of a site", COVERS, covers(float(low), float(high), 0.0)


@quantity({f"{n} stimuli": {"n": n} for n in (16, 40, 100)}, simulations=1000)
def modality_profile(rng: np.random.Generator, n: int) -> Iterator[Observed]:
    """The interval of the loss in nats when the tokens of one modality are ablated; a few stimuli lose most."""
    whole = -2 + 0.5 * rng.standard_normal(n)
    loss, noise = rng.exponential(0.3, n), 0.1 * rng.standard_t(4, (2, n))
    values = {"image": (whole - loss + noise[0])[:, None], "text": (whole + noise[1])[:, None]}
    made = ModalityProfile("simulated", "mean", "log-probability", tuple(map(str, range(n))), whole, values)
    table = made.table(n_resamples=modality.RESAMPLES // 2).set_index("tokens")
    name = "modality profile: interval of a loss"
    yield name, COVERS, covers(table.loc["image", "low"], table.loc["image", "high"], 0.3)
    yield name, EFFECT, table.loc["image", "low"] > 0
    yield name, NULL, not table.loc["text", "low"] <= 0 <= table.loc["text", "high"]
