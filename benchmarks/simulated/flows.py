"""Information flow: whether a set of edges is said to be needed where it is like random edges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from modalnet.patching.flow_result import InformationFlow
from simulated.quantity import COVERS, EFFECT, NULL, Observed, covers, quantity

WINDOWS, DRAWS = 8, 3
#: What a set costs where it is needed, in the unit of the usual cost of random edges.
STRONG = 3.0


def _drops(rng: np.random.Generator, n: int, scale: np.ndarray) -> np.ndarray:
    """What random edges cost ``[window, run, stimulus]``: more for some stimuli, and much for a few.

    Drops in three real models have skews between -1.2 and 2.7, with a median size of 0.7; these have 2.3.
    """
    runs = rng.gamma(2.0, 0.5, (WINDOWS, 1 + DRAWS, n)) - 0.2 * rng.exponential(size=(WINDOWS, 1 + DRAWS, n))
    # Windows overlap, so that neighbours are alike.
    runs[1:] = 0.6 * runs[1:] + 0.4 * runs[:-1]
    return runs * scale


@quantity(
    {
        f"{n} stimuli, {like}": {"n": n, "like": like}
        for n in (6, 16, 40)
        for like in ("like all random edges", "beyond those of equal number")
    },
    simulations=400,
)
def flow_verdict(rng: np.random.Generator, n: int, like: str) -> Iterator[Observed]:
    """The verdict on a set that is one more draw of random edges, and on one that costs more in two of eight windows.

    The harder null is a set that is far beyond random edges of one kind, so that the other decides alone.
    """
    scale = rng.gamma(4.0, 0.25, n)
    number, attention = _drops(rng, n, scale), _drops(rng, n, scale)
    own = attention[:, 0]
    if like != "like all random edges":
        number = number - 10.0
    for column, effect in ((NULL, 0.0), (EFFECT, STRONG)):
        cost = own.copy()
        cost[2:4] += effect * scale
        made = InformationFlow(
            "simulated",
            "decoder",
            "logit difference",
            tuple(map(str, range(n))),
            ("A to B",),
            tuple((at, at + 2) for at in range(WINDOWS)),
            np.zeros(n),
            -cost[None],
            {"number": -number[None, :, 1:], "attention": -attention[None, :, 1:]},
            np.ones((1, WINDOWS, n)),
            {kind: np.ones((1, WINDOWS, DRAWS, n)) for kind in ("number", "attention")},
            np.ones((1, n), dtype=np.int64),
        )
        row = made.verdicts(n_permutations=999).iloc[0]
        yield "information flow: a set of edges is needed", column, row["verdict"] == "needed"
    table = made.table(n_resamples=500, n_permutations=19)
    truth = 1.0 - 0.2  # of other stimuli, too
    low, high = table["low"][0], table["high"][0]
    yield "information flow: interval of a drop", COVERS, covers(float(low), float(high), truth)
