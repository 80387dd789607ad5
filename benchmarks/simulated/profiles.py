"""Response profiles: contrasts between conditions, and the comparison with the human language network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np

from modalnet.profiles import result
from modalnet.profiles.human import LANGUAGE
from modalnet.profiles.result import Profile
from simulated.quantity import COVERS, EFFECT, NOMINAL, NULL, Observed, covers, quantity, rejects

#: What every unit of a model may show, as text drives all of them; in the order of LANGUAGE.
COMMON = np.array([1.0, 0.5, 0.5, 0.0])
GAIN = 0.3  # SD over sets of units of how strongly they show it


def _profile(
    rng: np.random.Generator, n: int, common: float, effect: float, *, draws: int = 20, paired: bool = True
) -> tuple[Profile, float]:
    """A profile of a network that is one more random set, plus an effect; and its true gain.

    Stimuli differ in what they evoke in all units alike (by item, and by stimulus), and each set adds its noise.
    """
    of_condition = np.repeat(np.arange(4), n)
    gains = common * (1 + GAIN * rng.standard_normal(1 + draws))
    gains[0] += effect
    of_item = np.tile(rng.standard_normal(n), 4) if paired else rng.standard_normal(4 * n)
    stimulus = 0.5 * of_item + 0.4 * rng.standard_normal(4 * n)
    responses = gains[:, None] * COMMON[of_condition] + stimulus + 0.3 * rng.standard_normal((1 + draws, 4 * n))
    made = Profile(
        model="simulated",
        network="A",
        conditions=LANGUAGE,
        of_stimulus=of_condition,
        items=tuple(map(str, np.tile(np.arange(n), 4))) if paired else None,
        responses=responses[0],
        controls=responses[1:],
        normalize="z",
        notes=(),
        settings={"seed": int(rng.integers(2**31))},
    )
    return made, float(gains[0])


@contextmanager
def _few_resamples() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(result, "RESAMPLES", 1000))
        stack.enter_context(mock.patch.object(result, "PERMUTATIONS", 999))
        yield


@quantity(
    {
        f"{n} {'items' if paired else 'stimuli per condition'}": {"n": n, "paired": paired}
        for n in (16, 40, 100)
        for paired in (True, False)
    },
    simulations=800,
)
def contrasts(rng: np.random.Generator, n: int, paired: bool) -> Iterator[Observed]:
    """One contrast of a network that no condition drives, or that one drives by 0.3."""
    with _few_resamples():
        for column, effect in ((NULL, 0.0), (EFFECT, 0.3)):
            made, truth = _profile(rng, n, 0.0, effect, paired=paired)
            found = made.contrast("sentences", "nonwords")
            yield "profile: p of a contrast", column, rejects(found["p"])
            yield "profile: interval of a contrast", COVERS, covers(found["low"], found["high"], truth)
        made, _ = _profile(rng, n, 0.0, 0.0, paired=paired)
        yield "profile: any contrast at q < 0.05", NULL, bool((made.contrasts()["q"] < NOMINAL).any())


@quantity({f"40 items, {draws} draws": {"draws": draws} for draws in (1, 4, 10, 19, 20)}, simulations=800)
def rank_of_a_contrast(rng: np.random.Generator, draws: int) -> Iterator[Observed]:
    """A contrast that all units show: the rank of one more random set, and of one that shows it twice as strongly."""
    with _few_resamples():
        for column, effect in ((NULL, 0.0), (EFFECT, 1.0)):
            made, _ = _profile(rng, 40, 1.0, effect, draws=draws)
            yield "profile: p_rank", column, rejects(made.contrast("sentences", "nonwords")["p_rank"])


@quantity(
    {
        f"{n} items, {'all units show the pattern' if common else 'no unit shows it'}": {"n": n, "common": common}
        for n in (16, 40, 100)
        for common in (1.0, 0.0)
    },
    simulations=500,
)
def like_humans(rng: np.random.Generator, n: int, common: float) -> Iterator[Observed]:
    """Five of five differences hold: in one more random set, and in one that shows the pattern more strongly by 1."""
    with _few_resamples():
        for column, effect in ((NULL, 0.0), (EFFECT, 1.0)):
            made, _ = _profile(rng, n, common, effect)
            found = made.compare_to_human()
            yield "compare_to_human: 5 of 5 hold", column, found.n_holding == 5
            yield "compare_to_human: any difference holds", column, found.n_holding > 0
