"""The units that a contrast would select if its labels meant nothing.

Units are not independent: a latent factor of the stimuli drives many of them, in many layers, and so do labels that
happen to go with it. The networks of two contrasts without any effect therefore share more units, and lie in other
layers, than random units do. Permuting the labels keeps all of this. Each permutation is applied to all units at once,
the t of the contrast is computed anew, and its top units are a network of labels without meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

TINY = 1e-12


@dataclass(frozen=True, eq=False)
class PermutedLabels:
    """A contrast under permutations of its labels; the first permutation is the contrast itself.

    Attributes
    ----------
    tested
        What is tested of each observation [observation]: the side (1 or 0), a number, or 1 for differences within
        items.
    nuisance
        What stays with the observations [observation, column]: covariates, and the intercept of a linear model.
    orders
        Which observation takes the place of each [permutation, observation].
    signs
        1 or -1 for each difference within items [permutation, observation]: an item as a whole changes sides.
    welch
        Whether the statistic is Welch's t instead of that of least squares.

    References
    ----------
    Janssen (1997), Statistics & Probability Letters 36(1):9-21, for permutations of Welch's t; Freedman & Lane (1983),
    Journal of Business & Economic Statistics 1(4):292-298, for those of residuals beside covariates; Nichols & Holmes
    (2002), Human Brain Mapping 15(1):1-25, for one permutation of all units.
    """

    tested: Float[np.ndarray, " observation"]
    nuisance: Float[np.ndarray, "observation column"]
    orders: Int[np.ndarray, "permutation observation"] | None = None
    signs: Float[np.ndarray, "permutation observation"] | None = None
    welch: bool = False

    @classmethod
    def draw(
        cls, test: str, x: Float[np.ndarray, "observation regressor"], n_permutations: int, seed: int | Sequence[int]
    ) -> PermutedLabels:
        """Draw permutations of the labels of a contrast.

        Parameters
        ----------
        test
            ``"welch"``, ``"paired"`` or ``"regression"``.
        x
            The regressors of each observation, the tested one first; of a paired test the covariates alone.
        n_permutations
            How many.
        seed
            Seed of the permutations.
        """
        rng = np.random.Generator(np.random.PCG64(seed))
        n = len(x)
        if test == "paired":
            signs = np.concatenate([np.ones((1, n)), 1.0 - 2.0 * rng.integers(0, 2, (n_permutations, n))])
            return cls(np.ones(n), x, signs=signs)
        orders = np.argsort(rng.random((n_permutations, n)), axis=1)
        orders = np.concatenate([np.arange(n)[None], orders])
        nuisance = np.column_stack([np.ones(n), x[:, 1:]])
        return cls(x[:, 0], nuisance, orders=orders, welch=test == "welch")

    @property
    def n(self) -> int:
        """Number of permutations, with the contrast itself."""
        drawn = self.orders if self.signs is None else self.signs
        assert drawn is not None
        return len(drawn)

    def t(self, values: Float[np.ndarray, "observation unit"]) -> Float[np.ndarray, "permutation unit"]:
        """The t of every unit under every permutation; NaN where a unit is constant or not finite."""
        values = np.asarray(values, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            t = self._welch(values) if self.welch else self._least_squares(values)
        return np.where(np.isfinite(t), t, np.nan)

    def _welch(self, values: np.ndarray) -> np.ndarray:
        assert self.orders is not None
        values = values - values.mean(axis=0)
        positive = self.tested[self.orders]
        n, a = len(values), float(self.tested.sum())
        b = n - a
        squares = np.square(values)
        sums, total = positive @ values, squares.sum(axis=0)
        of_squares = positive @ squares
        mean_a, mean_b = sums / a, -sums / b
        left_a, left_b = of_squares - a * np.square(mean_a), total - of_squares - b * np.square(mean_b)
        error = np.maximum(left_a, 0) / (a - 1) / a + np.maximum(left_b, 0) / (b - 1) / b
        return (mean_a - mean_b) / np.sqrt(np.where(error > TINY * total, error, np.nan))

    def _least_squares(self, values: np.ndarray) -> np.ndarray:
        columns = np.column_stack([self.nuisance, self.tested])
        basis, _ = np.linalg.qr(columns)
        basis[:, -1] *= np.sign(basis[:, -1] @ self.tested)
        beside = basis[:, :-1]
        residual = values - beside @ (beside.T @ values)
        size = np.square(residual).sum(axis=0)
        explained = np.zeros((self.n, values.shape[1]))
        for column in basis.T:
            if self.signs is not None:
                turned = self.signs * column
            else:
                assert self.orders is not None
                turned = column[self.orders]
            along = turned @ residual
            explained += np.square(along)
        left = size - explained  # the last column is the tested one
        df = len(values) - columns.shape[1]
        return along / np.sqrt(np.where(left > TINY * size, left, np.nan) / df)


class PermutedNetworks:
    """The top k units by t under every permutation, from activations that come in parts of the units.

    Neither activations nor statistics are kept: memory is that of one part, [permutation, unit], and of the networks,
    [permutation, k].

    Parameters
    ----------
    labels
        The permuted contrast.
    k
        Number of units of the network.
    """

    def __init__(self, labels: PermutedLabels, k: int) -> None:
        self.labels, self.k = labels, k
        self._t = np.full((labels.n, 0), -np.inf)
        self._units = np.zeros((labels.n, 0), dtype=np.int64)

    def add(self, units: Int[np.ndarray, " unit"], values: Float[np.ndarray, "observation unit"]) -> None:
        """Add the activations of some units, given by their numbers."""
        t = np.nan_to_num(self.labels.t(values), nan=-np.inf)
        t = np.concatenate([self._t, t], axis=1)
        numbers = np.concatenate([self._units, np.broadcast_to(units, (self.labels.n, len(units)))], axis=1)
        if t.shape[1] > self.k:
            best = np.argpartition(-t, self.k - 1, axis=1)[:, : self.k]
            t, numbers = np.take_along_axis(t, best, axis=1), np.take_along_axis(numbers, best, axis=1)
        self._t, self._units = t, numbers

    @property
    def networks(self) -> Int[np.ndarray, "permutation k"]:
        """The units of each network, sorted; the first is that of the contrast itself."""
        return np.sort(self._units, axis=1)
