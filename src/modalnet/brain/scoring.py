"""Scores of held-out predictions, with bootstrap intervals.

A score is computed per fold and target and averaged over folds. Pooling the predictions of all folds first would be
biased: without signal, the prediction for a fold is the mean of the other folds, which is high where the mean of the
held-out fold is low, so that pooled predictions correlate negatively with noise.

Intervals resample *blocks* of stimuli (see :mod:`.folds`) within folds, without refitting: they quantify how much the
score of the fitted models would vary over other stimuli of the same kind. All feature sets share their resamples, which
keeps comparisons paired. Permutations, which refit the models, are in :mod:`.null`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from modalnet.brain.null import CONSTANT
from modalnet.stats.resampling import bootstrap_counts

METRICS = ("pearson", "r2")
TOGETHER = 500  # targets per step


@dataclass(frozen=True, eq=False)
class Resampling:
    """Bootstrap resamples, shared by all feature sets.

    Attributes
    ----------
    folds, blocks
        int64 [stimulus].
    counts
        [resample, block]: how often each block is drawn; each fold keeps its number of blocks.
    """

    folds: Int[np.ndarray, " stimulus"]
    blocks: Int[np.ndarray, " stimulus"]
    counts: Int[np.ndarray, "resample block"]

    @classmethod
    def draw(
        cls,
        folds: Int[np.ndarray, " stimulus"],
        blocks: Int[np.ndarray, " stimulus"],
        *,
        n_resamples: int,
        seed: int,
    ) -> Resampling:
        """Draw the bootstrap resamples."""
        rng = np.random.Generator(np.random.PCG64([seed, 1]))
        names, blocks = np.unique(blocks, return_inverse=True)
        counts = np.zeros((n_resamples, len(names)), dtype=np.int32)
        for fold in np.unique(folds):
            members = np.unique(blocks[folds == fold])
            counts[:, members] = bootstrap_counts(len(members), n_resamples, rng)
        return cls(folds, np.asarray(blocks), counts)


def fold_scores(
    predictions: Float[np.ndarray, "stimulus target"],
    responses: Float[np.ndarray, "stimulus target"],
    folds: Int[np.ndarray, " stimulus"],
    metric: str,
) -> Float[np.ndarray, "fold target"]:
    """Compute the score of each fold and target.

    Returns
    -------
    array
        float64. ``"pearson"``: the correlation; 0 where the prediction is constant. ``"r2"``: 1 - squared error /
        squared deviation from the mean of the fold. NaN where a fold has fewer than three responses, or they are
        constant.
    """
    rows = []
    for fold in np.unique(folds):
        sums, shift = _sums(predictions[folds == fold], responses[folds == fold])
        rows.append(_score(tuple(part.sum(axis=0) for part in sums), shift, metric))
    return np.stack(rows)


def bootstrap(
    predictions: Float[np.ndarray, "stimulus target"],
    responses: Float[np.ndarray, "stimulus target"],
    resampling: Resampling,
    metric: str,
) -> Float[np.ndarray, "resample target"]:
    """Compute the score of each target, averaged over folds, in each bootstrap resample (float32)."""
    n_resamples = len(resampling.counts)
    found = np.empty((n_resamples, responses.shape[1]), dtype=np.float32)
    for start in range(0, responses.shape[1], TOGETHER):
        some = slice(start, start + TOGETHER)
        total = np.zeros((n_resamples, found[:, some].shape[1]))
        n_folds = np.zeros_like(total)
        for fold in np.unique(resampling.folds):
            held = np.flatnonzero(resampling.folds == fold)
            blocks, place = np.unique(resampling.blocks[held], return_inverse=True)
            member = np.zeros((len(blocks), len(held)))
            member[place, np.arange(len(held))] = 1
            counts = resampling.counts[:, blocks].astype(np.float64)
            sums, shift = _sums(predictions[held][:, some], responses[held][:, some])
            score = _score(tuple(counts @ (member @ part) for part in sums), shift, metric)
            there = np.isfinite(score)
            total += np.where(there, score, 0)
            n_folds += there
        with np.errstate(invalid="ignore", divide="ignore"):
            found[:, some] = total / n_folds
    return found


def summarize(scores: Float[np.ndarray, "row target"], subjects: Sequence[str] | None) -> Float[np.ndarray, " row"]:
    """Median over targets per subject, averaged over subjects; targets without a score are ignored."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row of NaN alone has the median NaN
        if subjects is None or len(set(subjects)) < 2:
            return np.nanmedian(scores, axis=1)
        names = np.asarray(subjects)
        return np.nanmean([np.nanmedian(scores[:, names == name], axis=1) for name in dict.fromkeys(subjects)], axis=0)


def summarize_resampled(
    scores: Float[np.ndarray, "resample target"], subjects: Sequence[str] | None, seed: int
) -> Float[np.ndarray, " resample"]:
    """:func:`summarize` per resample, with subjects resampled as well if there are several."""
    import warnings

    if subjects is None or len(set(subjects)) < 2:
        return summarize(scores, None)
    names = np.asarray(subjects)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        medians = np.stack([np.nanmedian(scores[:, names == name], axis=1) for name in dict.fromkeys(subjects)])
    rng = np.random.Generator(np.random.PCG64([seed, 3]))
    counts = bootstrap_counts(len(medians), scores.shape[0], rng).T.astype(np.float64)
    there = np.isfinite(medians)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts * np.where(there, medians, 0)).sum(0) / (counts * there).sum(0)


def _sums(predictions: np.ndarray, responses: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return 1, p, y, p², y², py per stimulus and target, centred within the fold, and mean(p) - mean(y).

    Entries without a response are 0.
    """
    there = np.isfinite(predictions) & np.isfinite(responses)
    n = np.maximum(there.sum(axis=0), 1)
    p, y = (np.where(there, part, 0.0) for part in (predictions, responses))
    middle_p, middle_y = p.sum(axis=0) / n, y.sum(axis=0) / n
    p, y = np.where(there, p - middle_p, 0.0), np.where(there, y - middle_y, 0.0)
    return (there.astype(np.float64), p, y, p * p, y * y, p * y), middle_p - middle_y


def _score(sums: tuple[np.ndarray, ...], shift: np.ndarray, metric: str) -> np.ndarray:
    n, p, y, pp, yy, py = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_y, spread_p = yy - y * y / n, pp - p * p / n
        few = (n < 3) | ~(spread_y > 1e-12 * np.maximum(yy, 1e-300))
        if metric == "r2":
            error = yy - 2 * py + pp - 2 * shift * (y - p) + n * shift**2
            return np.where(few, np.nan, 1 - error / spread_y)
        flat = spread_p <= CONSTANT**2 * spread_y
        score = (py - p * y / n) / np.sqrt(np.where(flat, 1.0, spread_p) * spread_y)
        return np.where(few, np.nan, np.where(flat, 0.0, score))
