"""Scores of encoding models under permuted responses, with models refit to every permutation.

The held-out prediction for one fold comes from responses that another fold holds out. Products of responses of two
folds therefore enter the scores of both, which are positively correlated even where features and responses are
independent. Permuting responses against given predictions removes that correlation and makes p values too small: at a
nominal 0.05, 0.09 to 0.13 of independent targets were significant. Refitting keeps it.

With the kernel and penalty of a fold given, held-out predictions are a linear function of the training responses,

    prediction = mean(y) + H y,   H = K_test (K_train + I)^-1,   K = sum over bands b of w_b K_b

(w_b: the weight of the band over the penalty), and permuted responses are further columns of one matrix product. The
penalties (and band weights) are those that cross-validation selected for the responses as measured. Selecting them anew
for every permutation gives the same error rate (0.053 and 0.054 of 2,500 independent targets) and takes about 40
times as many operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from modalnet.brain.encoding import EXACT, Bands, Fitted, Split, checked, patterns, solver, standardized

if TYPE_CHECKING:
    import torch

RUN = 20  # neighbours in time that are permuted together
HELD = 2_000_000  # array elements per step
CONSTANT = 1e-6  # predictions whose sd is below this fraction of that of the responses are constant
NEAR = 1e-5  # scores that differ by less may be those of one order, and count as equal


def orders(
    blocks: Int[np.ndarray, " stimulus"] | None, n: int, n_permutations: int, seed: int
) -> Int[np.ndarray, "permutation stimulus"]:
    """Draw orders of the stimuli, the first one as measured.

    Parameters
    ----------
    blocks
        The block of each stimulus, [stimulus]: whole blocks are concatenated in a random order, so that neighbours
        within a block stay neighbours even if blocks differ in size. None for stimuli in presentation order: the
        sequence, closed to a ring, is cut into runs of about 20 from a random place on, and their concatenation in a
        random order begins at a random place. Folds are then cut at random places of the runs, and what is alike on
        both sides of a fold's edge stays so in most permutations, as it is in the data.
    n
        Number of stimuli.
    n_permutations
        How many orders are drawn; the result has one row more.
    seed
        Seed of the orders.

    Returns
    -------
    array
        int64 [1 + permutation, stimulus]: the row of the responses that each stimulus receives.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    found = np.empty((1 + n_permutations, n), dtype=np.int64)
    found[0] = np.arange(n)
    if blocks is None:
        n_runs = max(2, round(n / RUN))
        labels = (np.arange(n) * n_runs) // n
        first, begin = rng.integers(0, n, (2, n_permutations, 1))
        keys = rng.random((n_permutations, n_runs))[:, labels]
        place = (np.argsort(keys, axis=1, kind="stable") + first) % n
        found[1:] = np.take_along_axis(place, (np.arange(n) + begin) % n, axis=1)
        return found
    names, labels = np.unique(blocks, return_inverse=True)
    keys = rng.random((n_permutations, len(names)))[:, labels]
    # Blocks whose stimuli are scattered are permuted as if they lay side by side.
    laid = np.argsort(labels, kind="stable")
    found[1:, laid] = np.argsort(keys, axis=1, kind="stable")
    return found


def permuted_scores(
    bands: Bands,
    responses: Float[np.ndarray, "stimulus target"],
    split: Split,
    fitted: Fitted,
    blocks: Int[np.ndarray, " stimulus"] | None,
    *,
    metric: str,
    n_permutations: int,
    device: str = "cpu",
) -> Float[np.ndarray, "permutation target"]:
    """Compute the score of each target, averaged over folds, for permuted responses to which models are refit.

    Parameters
    ----------
    bands, responses, split, device
        As for :func:`.encoding.fit_predict`.
    fitted
        What it returned; its penalties and band weights are retained.
    blocks
        As for :func:`orders`. Responses are permuted over all stimuli, and all targets share their permutations. A
        target that was not measured for some stimuli is permuted among the others.
    metric
        ``"pearson"`` or ``"r2"``, as for :func:`.scoring.fold_scores`.
    n_permutations
        How many permutations are drawn, by the seed of the split.

    Returns
    -------
    array
        float32 [1 + permutation, target]; the first row is the score of the responses as measured.

    References
    ----------
    Winkler, Ridgway, Webster, Smith & Nichols (2014), NeuroImage 92:381-397, for permutations in linear models and
    of whole blocks. Saunders, Gammerman & Vovk (1998), ICML, for kernel ridge regression.
    """
    import torch

    given = checked(bands, len(responses))
    total = np.zeros((1 + n_permutations, responses.shape[1]), dtype=np.float32)
    n_folds = np.zeros(total.shape, dtype=np.uint16)
    with solver(device) as place:
        for rows, columns in patterns(responses):
            members = np.flatnonzero(rows)
            order = torch.from_numpy(
                orders(None if blocks is None else blocks[members], len(members), n_permutations, split.seed)
            ).to(place.device)
            position = np.cumsum(rows) - 1
            for fold, train_all, test_all in split.outer():
                train, test = train_all[rows[train_all]], test_all[rows[test_all]]
                if len(test) < 3:
                    continue
                exact = len(train) * len(columns) <= EXACT and place.device.type != "mps"
                dtype = torch.float64 if exact else torch.float32
                features = standardized(given, train, test, place)
                weights, of_target = np.unique(fitted.weights[fold][:, columns], axis=1, return_inverse=True)
                for kind in range(weights.shape[1]):
                    some = columns[np.ravel(of_target) == kind]
                    y = responses[np.ix_(members, some)]
                    spread = y.std(axis=0)
                    y = torch.from_numpy((y - y.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
                    solution = _Solution(
                        _operator(features, weights[:, kind]).to(dtype),
                        torch.from_numpy(position[train]).to(place.device),
                        torch.from_numpy(position[test]).to(place.device),
                    )
                    for part, score in solution.scores(y.to(place.device, dtype), order, metric):
                        valid = np.isfinite(score)
                        total[part, some] += np.where(valid, score, 0.0)
                        n_folds[part, some] += valid
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / n_folds


def reaching(
    scores: Float[np.ndarray, "permutation target"],
) -> Float[np.ndarray, " target"]:
    """Return how many permutations reach the first row, which is the score as measured."""
    near = NEAR * np.maximum(1.0, np.abs(scores[0]))
    with np.errstate(invalid="ignore"):
        return (scores[1:] >= scores[0] - near).sum(axis=0).astype(np.float64)


def _operator(features: list[tuple[Any, Any]], weights: Float[np.ndarray, " band"]) -> torch.Tensor:
    """Return the matrix H [held-out, training] that maps training responses to predictions, less their mean."""
    import torch

    precise = torch.float32 if features[0][0].device.type == "mps" else torch.float64
    own: Any = 0.0
    other: Any = 0.0
    for (train, test), weight in zip(features, weights.tolist(), strict=True):
        if weight > 0:
            own = own + weight * (train @ train.T).to(precise)
            other = other + weight * (test @ train.T).to(precise)
    own.diagonal().add_(1.0)
    return torch.cholesky_solve(other.T, torch.linalg.cholesky(own)).T.contiguous()


class _Solution:
    """The regression of one fold, for targets with the same penalties."""

    def __init__(self, operator: torch.Tensor, train: torch.Tensor, test: torch.Tensor) -> None:
        self.operator, self.train, self.test = operator, train, test

    def scores(
        self, y: torch.Tensor, order: torch.Tensor, metric: str
    ) -> Iterator[tuple[slice, Float[np.ndarray, "permutation target"]]]:
        """Yield scores for a few permutations of the rows of standardized responses at a time."""
        step = max(1, HELD // (y.shape[0] * y.shape[1]))
        for start in range(0, len(order), step):
            some = order[start : start + step]
            fit = y[some[:, self.train].T]  # [training stimulus, permutation, target]
            p = (self.operator @ fit.reshape(len(self.train), -1)).reshape(len(self.test), *fit.shape[1:])
            yield slice(start, start + len(some)), _score(p, y[some[:, self.test].T], fit.mean(0), metric)


def _score(p: torch.Tensor, y: torch.Tensor, middle: torch.Tensor, metric: str) -> Float[np.ndarray, "row target"]:
    """Return the score over the first axis of predictions ``p``, less ``middle``, and responses ``y``."""
    import torch

    shift = p.mean(0) + middle - y.mean(0)
    p, y = p - p.mean(0), y - y.mean(0)
    pp, yy, py = (torch.einsum("spt,spt->pt", one, other) for one, other in ((p, p), (y, y), (p, y)))
    if metric == "r2":
        score = 1 - (yy - 2 * py + pp + len(p) * shift**2) / yy
    else:
        flat = pp <= CONSTANT**2 * yy
        score = torch.where(flat, 0.0, py / (torch.where(flat, 1.0, pp) * yy).sqrt())
    # Standardized responses that do not vary in this fold have no score.
    return torch.where(yy > 1e-12 * len(y), score, torch.nan).cpu().numpy()
