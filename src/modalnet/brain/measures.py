"""Similarity of two sets of responses to the same stimuli: RSA and CKA, with jackknife and permutation.

Both measures are sums over pairs of stimuli. The jackknife is therefore one matrix product for all blocks, and a
permutation reorders the rows and columns of one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from modalnet.errors import InputError


def linear_cka(
    x: Float[np.ndarray, "stimulus feature"], y: Float[np.ndarray, "stimulus target"], *, debiased: bool = True
) -> float:
    """Compute the linear centred kernel alignment of two sets of responses to the same stimuli.

    Parameters
    ----------
    x, y
        Arrays [stimulus, feature] and [stimulus, target]; columns are centred internally.
    debiased
        Whether to use the unbiased estimator of HSIC, whose expectation is 0 for independent responses. The biased
        one grows towards 1 with the number of features: 0.32 for 115 units and 1,000 voxels of noise on 600 stimuli.

    Returns
    -------
    float
        At most 1. The debiased estimate is 0 on average for independent responses, and can be negative. NaN if the
        responses of one side are constant.

    Raises
    ------
    InputError
        If the numbers of stimuli differ or are below four, or a value is not finite.

    References
    ----------
    Kornblith, Norouzi, Lee & Hinton (2019), ICML, equation 2, for CKA; Song, Smola, Gretton, Bedo & Borgwardt (2012),
    JMLR 13:1393-1434, equation 5, for the unbiased HSIC; Murphy, Zylberberg & Fyshe (2024), arXiv:2405.01012, for the
    size of the bias with few stimuli and many features.
    """
    x, y = (np.asarray(part, dtype=np.float64) for part in (x, y))
    x, y = (part[:, None] if part.ndim == 1 else part for part in (x, y))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 4:
        raise InputError(
            f"`x` and `y` must be [stimulus, feature] and [stimulus, target] for the same stimuli, "
            f"at least four stimuli, got shapes {x.shape} and {y.shape}."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("`x` and `y` must be finite, got NaN or infinite values. Exclude their columns.")
    measure = Cka(y, np.zeros(len(x), dtype=int), debiased=debiased)
    return float(measure.bind(x).values(np.ones((1, len(x))))[0])


class Measure:
    """A similarity of features to fixed responses, as a function of the included stimuli."""

    def __init__(self, blocks: np.ndarray) -> None:
        self.blocks = np.unique(blocks, return_inverse=True)[1]

    def bind(self, features: np.ndarray) -> Bound:
        """Return the measure for given features."""
        raise NotImplementedError


@dataclass(frozen=True)
class Bound:
    """A similarity measure of given features.

    Attributes
    ----------
    values
        Maps weights [row, stimulus] of 0 and 1 to the similarity [row] over the stimuli with weight 1.
    permuted
        Maps an order of the stimuli to the similarity with the features in that order.
    """

    values: Callable[[np.ndarray], np.ndarray]
    permuted: Callable[[np.ndarray], float]


class Rsa(Measure):
    def __init__(  # as the settings of rsa
        self,
        responses: np.ndarray,
        blocks: np.ndarray,
        *,
        groups: Sequence[str] | None,
        own: str,
        brain: str,
        compare: str,
    ) -> None:
        super().__init__(blocks)
        n = len(responses)
        self.own, self.brain, self.compare = own, brain, compare
        counted = ~np.eye(n, dtype=bool)
        if groups is not None:
            labels = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
            counted &= labels[:, None] != labels[None, :]
        if counted.sum() < 6:
            raise InputError(
                "Fewer than 3 pairs of stimuli are of different groups; `within_groups=True` includes the others."
            )
        self.counted = counted.astype(np.float64)
        self.theirs = self._matrix(responses, brain)

    def _matrix(self, responses: np.ndarray, kind: str) -> np.ndarray:
        """Return the dissimilarities of all pairs, ranked and centred as ``compare`` requires; 0 for excluded pairs."""
        from scipy import stats

        found = dissimilarities(responses, kind)
        upper = np.triu(self.counted, 1) > 0
        values = found[upper]
        if self.compare == "spearman":
            values = stats.rankdata(values)
        if self.compare != "cosine":
            values = values - values.mean()
        size = np.sqrt((values**2).mean())
        matrix = np.zeros_like(found)
        matrix[upper] = values / size if size > 0 else 0.0
        return matrix + matrix.T

    def bind(self, features: np.ndarray) -> Bound:
        mine, theirs, counted = self._matrix(features, self.own), self.theirs, self.counted
        products = (mine, mine * mine, mine * theirs)
        fixed = (counted, theirs, theirs * theirs)
        centred = self.compare != "cosine"

        def values(weights: np.ndarray) -> np.ndarray:
            a, aa, ab = (np.einsum("bs,bs->b", weights @ part, weights) for part in products)
            n, b, bb = (np.einsum("bs,bs->b", weights @ part, weights) for part in fixed)
            with np.errstate(invalid="ignore", divide="ignore"):
                if centred:
                    return (ab - a * b / n) / np.sqrt((aa - a * a / n) * (bb - b * b / n))
                return ab / np.sqrt(aa * bb)

        def permuted(order: np.ndarray) -> float:
            # A pair is included if it is so both before and after permuting. Dissimilarities of excluded pairs are 0,
            # so each sum is one product of a permuted with a fixed matrix.
            a, there = mine[order][:, order].ravel(), counted[order][:, order].ravel()
            same, b, bb = (part.ravel() for part in fixed)
            n, x, y, xx, yy, xy = (
                float(one @ other)
                for one, other in ((same, there), (same, a), (b, there), (same, a * a), (bb, there), (a, b))
            )
            if centred:
                xy, xx, yy = xy - x * y / n, xx - x * x / n, yy - y * y / n
            return xy / math.sqrt(xx * yy) if xx > 0 and yy > 0 else math.nan

        return Bound(values, permuted)

    def ceiling(self, responses: np.ndarray, subjects: Sequence[str]) -> tuple[float, float]:
        """Return the noise ceiling: mean similarity of subjects to the mean of the others and of all."""
        names = np.asarray(subjects)
        people = [
            name
            for name in dict.fromkeys(subjects)
            if (names == name).sum() >= (3 if self.brain == "correlation" else 1)
        ]
        if len(people) < 2:
            return math.nan, math.nan
        each = [self._matrix(responses[:, names == name], self.brain) for name in people]
        total = np.sum(each, axis=0)

        def alike(one: np.ndarray, other: np.ndarray) -> float:
            x, y = (part[np.triu(self.counted, 1) > 0] for part in (one, other))
            if self.compare != "cosine":
                x, y = x - x.mean(), y - y.mean()
            return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))

        low = float(np.mean([alike(one, total - one) for one in each]))
        return low, float(np.mean([alike(one, total) for one in each]))


class Cka(Measure):
    def __init__(self, responses: np.ndarray, blocks: np.ndarray, *, debiased: bool) -> None:
        super().__init__(blocks)
        self.debiased = debiased
        self.theirs = self._kernel(responses)

    def _kernel(self, responses: np.ndarray) -> np.ndarray:
        centred = responses - responses.mean(axis=0)
        kernel = centred @ centred.T
        size = np.sqrt((kernel**2).mean())
        kernel = kernel / size if size > 0 else kernel
        if self.debiased:
            np.fill_diagonal(kernel, 0.0)
        return kernel

    def bind(self, features: np.ndarray) -> Bound:
        mine, theirs = self._kernel(features), self.theirs
        formula = self._unbiased if self.debiased else self._plain

        def hsic(k: np.ndarray, l: np.ndarray, s: np.ndarray) -> np.ndarray:  # noqa: E741
            return formula(*self._terms(k, l, s))

        def ratio(xy: Any, xx: Any, yy: Any) -> Any:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.where((xx > 0) & (yy > 0), xy / np.sqrt(np.abs(xx * yy)), np.nan)

        def values(weights: np.ndarray) -> np.ndarray:
            return ratio(hsic(mine, theirs, weights), hsic(mine, mine, weights), hsic(theirs, theirs, weights))

        whole = np.ones((1, len(theirs)))
        sizes = hsic(mine, mine, whole)[0], hsic(theirs, theirs, whole)[0]
        n, rows, columns = float(len(theirs)), mine.sum(1), theirs.sum(1)

        def permuted(order: np.ndarray) -> float:
            trace = mine[order][:, order].ravel() @ theirs.ravel()
            return float(ratio(formula(n, trace, rows.sum(), columns.sum(), rows[order] @ columns), *sizes))

        return Bound(values, permuted)

    @staticmethod
    def _terms(k: np.ndarray, l: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:  # noqa: E741
        """Per row of weights: n, tr(KL), 1'K1, 1'L1, 1'KL1 over the included stimuli."""
        ks, ls = s @ k, s @ l
        trace = np.einsum("bs,bs->b", s @ (k * l), s)
        return s.sum(1), trace, (ks * s).sum(1), (ls * s).sum(1), (ks * ls * s).sum(1)

    @staticmethod
    def _unbiased(n: Any, trace: Any, sum_k: Any, sum_l: Any, cross: Any) -> Any:
        return (trace + sum_k * sum_l / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))

    @staticmethod
    def _plain(n: Any, trace: Any, sum_k: Any, sum_l: Any, cross: Any) -> Any:
        """tr(KHLH) over the included stimuli, centred among them."""
        return (trace - 2 * cross / n + sum_k * sum_l / n**2) / (n - 1) ** 2


def dissimilarities(
    responses: Float[np.ndarray, "stimulus target"], kind: str
) -> Float[np.ndarray, "stimulus stimulus"]:
    """Return the dissimilarity of every pair of stimuli [stimulus, stimulus], computed by rsatoolbox."""
    data, calc_rdm = toolbox()
    found = calc_rdm(data(np.asarray(responses, dtype=np.float64)), method=kind)
    matrix = np.asarray(found.get_matrices()[0], dtype=np.float64)
    return np.nan_to_num(matrix, nan=1.0)  # a constant pattern correlates with nothing


def toolbox() -> tuple[Any, Any]:
    try:
        from rsatoolbox.data import Dataset
        from rsatoolbox.rdm import calc_rdm
    except ImportError as error:
        raise InputError("RSA requires rsatoolbox: pip install 'modalnet[brain]'.") from error
    return Dataset, calc_rdm
