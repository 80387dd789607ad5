"""Which stimuli are held out together: the choice that decides whether a score means anything.

Neighbours in time share slow drifts of the scanner, and sentences of one passage share their topic. If some of them are
in the training set and others in the test set, a model is rewarded for knowing where a stimulus stands and not for what
it says. So stimuli of one group, or neighbours in time, are held out together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from modalnet._warnings import warn
from modalnet.errors import InputError

Scheme = Literal["grouped", "contiguous", "shuffled"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
RUN = 10  # neighbours in time that are resampled together
FEWEST = 4  # blocks in a fold, so that they can be dealt out anew


def deal(cv: str, n: int, n_folds: int, *, groups: Sequence[str] | None, seed: int) -> Int[np.ndarray, " stimulus"]:
    """Deal stimuli into folds.

    Parameters
    ----------
    cv
        ``"grouped"``: stimuli of one group are never in two folds; groups are dealt, the largest first, to the
        smallest fold. ``"contiguous"``: each fold is one run of neighbours. ``"shuffled"``: at random.
    n, n_folds
        How many stimuli, and folds.
    groups
        The group of each stimulus, for ``"grouped"``.
    seed
        A non-negative integer; the same seed gives the same folds on every machine.

    Returns
    -------
    array
        int64 [stimulus]

    Raises
    ------
    InputError
        For an unknown scheme, groups that are missing or fewer than folds, or fewer stimuli than folds.

    References
    ----------
    Roberts et al. (2017), Ecography 40(8):913-929, for blocks in cross-validation of structured data. Kamali Hadidi,
    Feghhi, Song, Blank & Kao (2024), arXiv:2406.01538, for what shuffled folds did to Pereira2018 and others.
    """
    if cv not in SCHEMES:
        raise InputError(f"cv={cv!r} is not known. Give one of {', '.join(SCHEMES)}.")
    if n < 2 * n_folds:
        raise InputError(
            f"{n} stimuli are too few for {n_folds} folds: a fold needs two or more. Give a smaller n_folds."
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
            'cv="grouped" holds out whole groups, and these data name none. Give each stimulus its passage, story or '
            'topic (groups=..., or dataset.with_groups(modalnet.brain.topics(dataset))), or cv="contiguous" where the '
            "stimuli are in the order in which they were shown."
        )
    labels, members, sizes = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    if len(labels) < n_folds:
        raise InputError(
            f"{len(labels)} groups cannot be dealt into {n_folds} folds. Give n_folds={max(len(labels), 2)}"
            f"{' or more groups' if len(labels) < 2 else ''}."
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
    """Say what shuffled folds do to a score."""
    warn(
        'cv="shuffled" puts neighbours in time and stimuli of one passage on both sides of the split. Where responses '
        "or stimuli are alike within these, the score is inflated, for any features that tell where a stimulus stands. "
        'Report cv="grouped" or "contiguous".'
    )


def training(folds: Int[np.ndarray, " stimulus"], fold: int, gap: int = 0) -> Bool[np.ndarray, " stimulus"]:
    """Which stimuli train for a fold: those of the other folds, less ``gap`` neighbours of each that is held out."""
    held = folds == fold
    near = held.copy()
    for shift in range(1, gap + 1):
        near[shift:] |= held[:-shift]
        near[:-shift] |= held[shift:]
    return ~near


def exchangeable(
    cv: str, folds: Int[np.ndarray, " stimulus"], *, groups: Sequence[str] | None, ordered: bool
) -> tuple[Int[np.ndarray, " stimulus"], str]:
    """Which stimuli are resampled and permuted together, inside their fold.

    Returns
    -------
    blocks
        int64 [stimulus]; a block lies in one fold.
    what
        What a block is, in words.
    """
    n = len(folds)
    if cv == "grouped" and groups is not None:
        labels = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
        per_fold = [len(np.unique(labels[folds == fold])) for fold in np.unique(folds)]
        if min(per_fold) >= FEWEST:
            return labels, "groups"
        if ordered:
            return _runs(labels), f"runs of {RUN} neighbours within a group"
        return np.arange(n), "single stimuli (too few groups in a fold to deal them out)"
    if cv == "contiguous":
        return _runs(folds), f"runs of {RUN} neighbours"
    return np.arange(n), "single stimuli"


def _runs(labels: Int[np.ndarray, " stimulus"]) -> Int[np.ndarray, " stimulus"]:
    """Cut every stretch of one label into runs of equal length, none longer than RUN by more than half."""
    blocks = np.zeros(len(labels), dtype=np.int64)
    following = 0
    for label in dict.fromkeys(labels.tolist()):
        members = np.flatnonzero(labels == label)
        parts = max(1, round(len(members) / RUN))
        blocks[members] = following + (np.arange(len(members)) * parts) // len(members)
        following += parts
    return blocks
