"""Encoding models and noise ceilings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from modalnet.brain.ceiling import ceiling_interval, noise_ceiling
from modalnet.brain.result import RELIABLE, Alignment, FeatureScores
from modalnet.stats.resampling import FEWEST_GROUPS
from simulated.quantity import COVERS, EFFECT, NOMINAL, NULL, Observed, covers, quantity, rejects

TARGETS, FEATURES = 10, 40


def _smooth(values: np.ndarray, cv: str) -> np.ndarray:
    """Stimuli on their own, in time (a first-order autoregression of 0.5), or in passages of five that are alike."""
    if cv == "shuffled":
        return values
    if cv == "grouped":
        return np.sqrt(0.5) * (values + values[::5].repeat(5, axis=0)[: len(values)])
    made = values.copy()
    for at in range(1, len(made)):
        made[at] = 0.5 * made[at - 1] + np.sqrt(0.75) * values[at]
    return made


@quantity(
    {
        f"{n} stimuli, {cv} folds": {"n": n, "cv": cv}
        for n, cv in ((100, "shuffled"), (100, "contiguous"), (100, "grouped"), (200, "contiguous"))
    },
    simulations=200,
)
def encoding(rng: np.random.Generator, n: int, cv: Any) -> Iterator[Observed]:
    """Responses that have nothing to do with the features, or of which these explain a fifth of the variance."""
    from modalnet.brain import BrainDataset, encode
    from modalnet.stimuli import Stimulus

    stimuli = tuple(Stimulus(text=f"sentence {i}") for i in range(n))
    features = _smooth(rng.standard_normal((n, FEATURES)), cv)
    noise = _smooth(rng.standard_normal((n, TARGETS)), cv)
    signal = features @ rng.standard_normal((FEATURES, TARGETS)) / np.sqrt(FEATURES)
    for column, share in ((NULL, 0.0), (EFFECT, 0.2)):
        responses = np.sqrt(share) * signal + np.sqrt(1 - share) * noise
        groups = tuple(str(i // 5) for i in range(n)) if cv == "grouped" else None
        data = BrainDataset("simulated", stimuli, responses, groups, ordered=cv == "contiguous")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that shuffled folds inflate scores, where stimuli are alike
            found = encode(features, data, cv=cv, n_permutations=399, n_resamples=50, cache=False, progress=False)
        targets = found.targets()
        yield "encoding: p of a target", column, float((targets["p"] <= NOMINAL).mean())
        yield "encoding: any target at q < 0.05", column, bool((targets["q"] < NOMINAL).any())
        yield "encoding: p of the median target", column, rejects(found.table()["p"].iloc[0])


def _feature_scores(rng: np.random.Generator, name: str, score: float, shared: np.ndarray) -> FeatureScores:
    """Scores of one target, with an error that sets of features share (the stimuli) and one of their own."""
    error = 0.015 * rng.standard_normal(len(shared))
    resampled = score + shared[0] + error[0] + shared[1:] + error[1:]
    scores = np.full((5, 1), score + shared[0] + error[0])
    return FeatureScores(
        name, "network" if name == "A" else "control", 10, scores, resampled, np.zeros(0), np.zeros(0), np.ones(5), {}
    )


@quantity({f"{draws} draws": {"draws": draws} for draws in (1, 4, 5, 10, 19, 20)}, simulations=1500)
def alignment_verdict(rng: np.random.Generator, draws: int) -> Iterator[Observed]:
    """A network that is one more draw, or whose score is higher by 0.12, four standard deviations of the draws."""
    for column, effect in ((NULL, 0.0), (EFFECT, 0.12)):
        true = 0.2 + 0.03 * rng.standard_normal(1 + draws)
        true[0] += effect
        shared = 0.03 * rng.standard_normal(501)
        sets = [_feature_scores(rng, "A", true[0], shared)]
        sets += [_feature_scores(rng, "random", one, shared) for one in true[1:]]
        settings = {"metric": "pearson", "seed": int(rng.integers(2**31))}
        made = Alignment("simulated", "simulated", tuple(sets), np.full(1, np.nan), None, None, (), settings)
        verdict = made.verdict()
        # Either finding is false under the null; under the effect, only that the network is better is true.
        found = ", better than" in verdict or (column == NULL and ", worse than" in verdict)
        yield "alignment verdict: better or worse than controls", column, found
        row = made.table().iloc[1]
        yield "alignment: p_rank", column, rejects(row["p_rank"])
        low, high = row["network_minus_low"], row["network_minus_high"]
        if draws >= FEWEST_GROUPS:  # not given with fewer
            yield "alignment: interval of network_minus", COVERS, covers(low, high, true[0] - 0.2)


@quantity(
    {f"{name}, {n} stimuli": {"name": name, "n": n} for name in ("RSA", "debiased CKA") for n in (40, 100)},
    simulations=400,
)
def similarities(rng: np.random.Generator, name: str, n: int) -> Iterator[Observed]:
    """Responses that have nothing to do with the features, or of which these explain a fifth of the variance."""
    from modalnet.brain.alignment import FeatureSet
    from modalnet.brain.measures import Cka, Rsa
    from modalnet.brain.similarity import Similarity, _scored

    features, noise = rng.standard_normal((n, FEATURES)), rng.standard_normal((n, TARGETS))
    signal = features @ rng.standard_normal((FEATURES, TARGETS)) / np.sqrt(FEATURES)
    blocks = np.arange(n)
    sets = [FeatureSet("A", "network", {"units": features})]
    for column, share in ((NULL, 0.0), (EFFECT, 0.2)):
        responses = np.sqrt(share) * signal + np.sqrt(1 - share) * noise
        measure: Any = Cka(responses, blocks, debiased=True)
        if name == "RSA":
            measure = Rsa(responses, blocks, groups=None, own="correlation", brain="correlation", compare="spearman")
        scored = tuple(_scored(measure, sets, "", 199, int(rng.integers(2**31)), progress=False))
        made = Similarity("simulated", "simulated", scored, (np.nan, np.nan), (), {"measure": name})
        row = made.table().iloc[0]
        yield "similarity: p", column, rejects(row["p"])
        if column == NULL:
            yield "similarity: jackknife interval", COVERS, covers(row["low"], row["high"], 0.0)


@quantity(
    {
        f"{method}, {repeats} repeats, {n} stimuli": {"method": method, "repeats": repeats, "n": n}
        for method in ("split-half", "variance")
        for repeats, n in ((3, 100), (4, 40), (10, 100))
    },
    simulations=100,
)
def ceilings(rng: np.random.Generator, method: str, repeats: int, n: int) -> Iterator[Observed]:
    """The share of targets that count as reliable: pure noise, or with a tenth of the variance of one repeat signal."""
    noise, signal = rng.standard_normal((repeats, n, 50)), rng.standard_normal((n, 50))
    for column, share in ((NULL, 0.0), (EFFECT, 0.1)):
        measured = np.sqrt(share) * signal + np.sqrt(1 - share) * noise
        ceiling = noise_ceiling(measured, method, n_splits=20)
        true = np.sqrt(share / (share + (1 - share) / repeats))
        low, high = ceiling_interval(measured)
        yield "noise ceiling: interval", COVERS, float(((low <= true) & (true <= high)).mean())
        yield f"noise ceiling of at least {RELIABLE}", column, float((ceiling >= RELIABLE).mean())
