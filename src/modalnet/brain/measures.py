"""How alike two sets of responses to the same stimuli are: RSA and CKA as functions of which stimuli count.

Leaving stimuli out and permuting them is all that inference on a similarity needs. Both measures are sums over pairs of
stimuli, so leaving out is a matrix product for all blocks at once, and a permutation reorders one matrix.
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
    """Linear centred kernel alignment of two sets of responses to the same stimuli.

    Parameters
    ----------
    x, y
        [stimulus, feature]; columns are centred here.
    debiased
        Use the unbiased estimator of HSIC, whose expectation is 0 for independent responses. The plain one grows
        towards 1 with the number of features: 115 units and 1,000 voxels of pure noise on 600 stimuli give 0.32.

    Returns
    -------
    float
        At most 1; 0 for responses that have nothing to do with each other (on average; the debiased one can be
        negative). NaN where one side does not vary.

    Raises
    ------
    InputError
        For different numbers of stimuli, fewer than four of them, or values that are not finite.

    References
    ----------
    Kornblith, Norouzi, Lee & Hinton (2019), ICML, equation 2, for CKA; Song, Smola, Gretton, Bedo & Borgwardt (2012),
    JMLR 13:1393-1434, equation 5, for the unbiased HSIC; Murphy, Zylberberg & Fyshe (2024), arXiv:2405.01012, for how
    much the bias matters with few stimuli and many features.
    """
    x, y = (np.asarray(part, dtype=np.float64) for part in (x, y))
    x, y = (part[:, None] if part.ndim == 1 else part for part in (x, y))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 4:
        raise InputError(
            f"CKA compares [stimulus, feature] with [stimulus, target] over the same four stimuli or more; got "
            f"{x.shape} and {y.shape}."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("CKA needs every response; some are NaN or infinite. Leave their columns out.")
    measure = Cka(y, np.zeros(len(x), dtype=int), debiased=debiased)
    return float(measure.bind(x).values(np.ones((1, len(x))))[0])


class Measure:
    """A comparison of features with fixed responses, as a function of which stimuli count."""

    def __init__(self, blocks: np.ndarray) -> None:
        self.blocks = np.unique(blocks, return_inverse=True)[1]

    def bind(self, features: np.ndarray) -> Bound:
        """The comparison with some features."""
        raise NotImplementedError


@dataclass(frozen=True)
class Bound:
    """A measure with features.

    Attributes
    ----------
    values
        Takes weights [row, stimulus] of 0 and 1, and gives the similarity for each row.
    permuted
        Takes an order of the stimuli, and gives the similarity with the features in that order.
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
            raise InputError("Almost all pairs of stimuli are of one group; give within_groups=True to compare them.")
        self.counted = counted.astype(np.float64)
        self.theirs = self._matrix(responses, brain)

    def _matrix(self, responses: np.ndarray, kind: str) -> np.ndarray:
        """Dissimilarities of all pairs, ranked and centred if asked for; 0 where a pair does not count."""
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
            # A pair that counts may meet one that does not: it is left out of both. Dissimilarities are 0 where a pair
            # does not count, so each sum is one product of what is dealt out anew with what stays.
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
        """Mean similarity of each subject to the mean of the others, and of all."""
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
        """Per row of weights: n, tr(KL), 1'K1, 1'L1, 1'KL1 over the stimuli that count."""
        ks, ls = s @ k, s @ l
        trace = np.einsum("bs,bs->b", s @ (k * l), s)
        return s.sum(1), trace, (ks * s).sum(1), (ls * s).sum(1), (ks * ls * s).sum(1)

    @staticmethod
    def _unbiased(n: Any, trace: Any, sum_k: Any, sum_l: Any, cross: Any) -> Any:
        return (trace + sum_k * sum_l / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))

    @staticmethod
    def _plain(n: Any, trace: Any, sum_k: Any, sum_l: Any, cross: Any) -> Any:
        """tr(KHLH) over the stimuli that count, centred among them."""
        return (trace - 2 * cross / n + sum_k * sum_l / n**2) / (n - 1) ** 2


def dissimilarities(
    responses: Float[np.ndarray, "stimulus target"], kind: str
) -> Float[np.ndarray, "stimulus stimulus"]:
    """The dissimilarity of every pair of stimuli, by rsatoolbox."""
    data, calc_rdm = toolbox()
    found = calc_rdm(data(np.asarray(responses, dtype=np.float64)), method=kind)
    matrix = np.asarray(found.get_matrices()[0], dtype=np.float64)
    return np.nan_to_num(matrix, nan=1.0)  # a constant pattern correlates with nothing


def toolbox() -> tuple[Any, Any]:
    try:
        from rsatoolbox.data import Dataset
        from rsatoolbox.rdm import calc_rdm
    except ImportError as error:
        raise InputError("RSA computes dissimilarities by rsatoolbox: pip install 'modalnet[brain]'.") from error
    return Dataset, calc_rdm
