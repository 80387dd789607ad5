"""Cross-validation folds that respect the dependence between stimuli.

Neighbours in time share slow scanner drifts, and sentences of one passage share their topic. If such stimuli are split
between training and test set, a model is rewarded for encoding the position of a stimulus rather than its content.
Stimuli of one group, or neighbours in time, are therefore held out together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from modalnet._validation import check_option
from modalnet._warnings import warn
from modalnet.errors import InputError

Scheme = Literal["grouped", "contiguous", "shuffled"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
RUN = 10  # neighbours in time that are resampled together
FEWEST = 4  # blocks per fold, so that they can be resampled


def deal(cv: str, n: int, n_folds: int, *, groups: Sequence[str] | None, seed: int) -> Int[np.ndarray, " stimulus"]:
    """Assign stimuli to folds.

    Parameters
    ----------
    cv
        ``"grouped"``: each group lies in one fold; groups are assigned, the largest first, to the smallest fold.
        ``"contiguous"``: each fold is one run of consecutive stimuli. ``"shuffled"``: random folds.
    n, n_folds
        Number of stimuli, and of folds.
    groups
        The group of each stimulus, for ``"grouped"``.
    seed
        A non-negative integer; the same seed gives the same folds on every machine.

    Returns
    -------
    array
        int64 [stimulus], the fold of each stimulus.

    Raises
    ------
    InputError
        If the scheme is unknown, groups are missing or fewer than folds, or there are fewer than two stimuli per fold.

    References
    ----------
    Roberts et al. (2017), Ecography 40(8):913-929, for block cross-validation of structured data. Kamali Hadidi,
    Feghhi, Song, Blank & Kao (2024), arXiv:2406.01538, for the effect of shuffled folds on published datasets.
    """
    check_option("cv", cv, SCHEMES)
    if n < 2 * n_folds:
        raise InputError(
            f"`n_folds` must leave at least two stimuli per fold, at most {n // 2} for {n} stimuli, got {n_folds}."
        )
    if cv == "contiguous":
        return (np.arange(n) * n_folds) // n
    rng = np.random.Generator(np.random.PCG64(seed))
    if cv == "shuffled":
        folds = np.empty(n, dtype=np.int64)
        folds[np.argsort(rng.random(n), kind="stable")] = np.arange(n) % n_folds
        return folds
    if groups is None:
        raise InputError(
            '`cv="grouped"` holds out whole groups, but the dataset has none. Give each stimulus its passage, story or '
            "topic (`groups`, or dataset.with_groups(modalnet.brain.topics(dataset))), or use "
            '`cv="contiguous"` if the stimuli are in presentation order.'
        )
    labels, members, sizes = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    if len(labels) < n_folds:
        raise InputError(
            f"`n_folds` must be at most the number of groups, {len(labels)}, got {n_folds}."
            f"{' Use more groups.' if len(labels) < 2 else ''}"
        )
    order = np.argsort(rng.random(len(labels)), kind="stable")
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = np.zeros(n_folds, dtype=np.int64)
    of_group = np.empty(len(labels), dtype=np.int64)
    for group in order:
        of_group[group] = int(filled.argmin())
        filled[of_group[group]] += sizes[group]
    return of_group[members]


def warn_of_shuffling() -> None:
    """Warn that shuffled folds inflate scores."""
    warn(
        '`cv="shuffled"` puts neighbours in time and stimuli of one passage in both training and test set. Where '
        "responses or stimuli are similar within these, the score of any features that encode the position of a "
        'stimulus is inflated. Report `cv="grouped"` or `cv="contiguous"`.'
    )


def training(folds: Int[np.ndarray, " stimulus"], fold: int, gap: int = 0) -> Bool[np.ndarray, " stimulus"]:
    """Return the training stimuli of a fold: those of other folds, except ``gap`` neighbours of held-out stimuli."""
    held = folds == fold
    near = held.copy()
    for shift in range(1, gap + 1):
        near[shift:] |= held[:-shift]
        near[:-shift] |= held[shift:]
    return ~near


def exchangeable(
    cv: str, folds: Int[np.ndarray, " stimulus"], *, groups: Sequence[str] | None, ordered: bool
) -> tuple[Int[np.ndarray, " stimulus"], str]:
    """Return blocks of stimuli that are resampled as wholes, within their fold.

    Returns
    -------
    blocks
        int64 [stimulus]; each block lies in one fold.
    what
        A description of the blocks.
    """
    n = len(folds)
    if cv == "grouped" and groups is not None:
        labels = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
        per_fold = [len(np.unique(labels[folds == fold])) for fold in np.unique(folds)]
        if min(per_fold) >= FEWEST:
            return labels, "groups"
        if ordered:
            return _runs(labels), f"runs of {RUN} neighbours within a group"
        return np.arange(n), "single stimuli (too few groups per fold to resample)"
    if cv == "contiguous":
        return _runs(folds), f"runs of {RUN} neighbours"
    return np.arange(n), "single stimuli"


def permutable(cv: str, n: int, groups: Sequence[str] | None) -> tuple[Int[np.ndarray, " stimulus"] | None, str]:
    """Return blocks of stimuli whose responses are permuted as wholes, over all folds; see :func:`.null.orders`.

    Returns
    -------
    blocks
        int64 [stimulus]: groups or single stimuli; None for runs of stimuli in presentation order.
    what
        A description of the blocks.
    """
    if cv == "grouped" and groups is not None:
        labels = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
        return labels, f"{labels.max() + 1} groups"
    if cv == "contiguous":
        return None, "runs of neighbours"
    return np.arange(n), "single stimuli"


def _runs(labels: Int[np.ndarray, " stimulus"]) -> Int[np.ndarray, " stimulus"]:
    """Cut the stimuli of each label into runs of equal length, at most 1.5 times RUN."""
    blocks = np.zeros(len(labels), dtype=np.int64)
    following = 0
    for label in dict.fromkeys(labels.tolist()):
        members = np.flatnonzero(labels == label)
        parts = max(1, round(len(members) / RUN))
        blocks[members] = following + (np.arange(len(members)) * parts) // len(members)
        following += parts
    return blocks
