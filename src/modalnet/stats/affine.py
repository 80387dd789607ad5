"""Affine maps between vectors, by ridge regression with a penalty that is chosen on held-out groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from modalnet.errors import InputError

#: Penalties per observation, of standardized predictors; infinity fits the offset alone.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, float("inf"))
#: Stands for no fit at all: the prediction is zero.
NO_FIT = -1.0


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``x @ matrix + offset``.

    Attributes
    ----------
    matrix
        ``[source, target]``, float64.
    offset
        ``[target]``, float64.
    penalty
        That it was fitted with, per observation; infinity for the offset alone, -1 where the map is zero.
    """

    matrix: Float[np.ndarray, "source target"]
    offset: Float[np.ndarray, " target"]
    penalty: float

    def __call__(self, x: Float[np.ndarray, "observation source"]) -> Float[np.ndarray, "observation target"]:
        """Map observations."""
        return x @ self.matrix + self.offset


def fit_affine(
    x: Float[np.ndarray, "observation source"],
    y: Float[np.ndarray, "observation target"],
    groups: Int[np.ndarray, " observation"],
    *,
    weights: Float[np.ndarray, " observation"] | None = None,
    scale: Float[np.ndarray, " target"] | None = None,
) -> AffineMap:
    """Fit an affine map by ridge regression, in float64.

    It minimizes ``sum_i w_i |y_i - x_i @ matrix - offset|^2 + penalty * n * |sd(x) * matrix|^2``. The offset is not
    penalized, and weights are scaled to a mean of 1. Of several penalties, and no map at all, that one is taken whose
    error in held-out groups is smallest: every group is predicted from the others.

    Parameters
    ----------
    x, y
        Predictors and what is predicted.
    groups
        What each observation belongs to; observations of one group are held out together. At least two groups.
    weights
        Of the observations, positive; None for equal ones.
    scale
        What errors of each column of ``y`` are divided by where penalties are compared; None for 1.

    Raises
    ------
    InputError
        For fewer than two groups, or shapes that do not agree.

    References
    ----------
    Hoerl & Kennard (1970). Ridge regression. Technometrics 12(1), 55-67.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) != len(y) or len(groups) != len(x):
        raise InputError(
            f"`x`, `y` and `groups` must be of the same observations, got {len(x)}, {len(y)}, {len(groups)}."
        )
    names = np.unique(groups)
    if len(names) < 2:
        raise InputError(f"A penalty is chosen on held-out groups, which takes at least 2, got {len(names)}.")
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    w = w / w.mean()
    per = 1.0 if scale is None else 1 / np.where(scale > 0, scale, np.inf) ** 2
    errors = np.zeros(len(PENALTIES) + 1)
    for name in names:
        out = groups == name
        ridge = _Ridge(x[~out], y[~out], w[~out])
        errors[-1] += _error(y[out], w[out], per)
        for place, predicted in enumerate(ridge.predictions(x[out])):
            errors[place] += _error(y[out] - predicted, w[out], per)
    best = int(np.argmin(errors))
    if best == len(PENALTIES):
        return AffineMap(np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1]), NO_FIT)
    return _Ridge(x, y, w).at(PENALTIES[best])


def _error(
    residual: Float[np.ndarray, "observation target"],
    weights: Float[np.ndarray, " observation"],
    per: Float[np.ndarray, " target"] | float,
) -> float:
    return float((weights[:, None] * residual**2 * per).sum())


class _Ridge:
    """Ridge regressions of the same observations with several penalties, from one eigendecomposition."""

    def __init__(
        self,
        x: Float[np.ndarray, "observation source"],
        y: Float[np.ndarray, "observation target"],
        w: Float[np.ndarray, " observation"],
    ) -> None:
        self.n = float(w.sum())
        self.x, self.y = w @ x / self.n, w @ y / self.n
        root = np.sqrt(w)[:, None]
        centred, target = root * (x - self.x), root * (y - self.y)
        sd = np.sqrt((centred**2).sum(0) / self.n)
        self.sd = np.where(sd > 0, sd, 1.0)
        centred /= self.sd
        if len(centred) >= centred.shape[1]:
            squares, self.axes = np.linalg.eigh(centred.T @ centred)
            self.projected = self.axes.T @ (centred.T @ target)
        else:  # fewer observations than predictors
            squares, left = np.linalg.eigh(centred @ centred.T)
            kept = squares > squares[-1] * 1e-12
            squares, left = squares[kept], left[:, kept]
            self.axes = centred.T @ left / np.sqrt(squares)
            self.projected = np.sqrt(squares)[:, None] * (left.T @ target)
        self.squares = np.maximum(squares, 0.0)

    def at(self, penalty: float) -> AffineMap:
        """The map that is fitted with a penalty per observation."""
        matrix = (self.axes @ self._shrunk(penalty)) / self.sd[:, None]
        return AffineMap(matrix, self.y - self.x @ matrix, penalty)

    def predictions(self, x: Float[np.ndarray, "observation source"]) -> Iterator[Float[np.ndarray, "_ target"]]:
        """Predict observations with each penalty; no matrix is made, which costs more than a few observations do."""
        along = ((x - self.x) / self.sd) @ self.axes
        for penalty in PENALTIES:
            yield self.y + along @ self._shrunk(penalty)

    def _shrunk(self, penalty: float) -> Float[np.ndarray, "axis target"]:
        return self.projected / (self.squares + penalty * self.n)[:, None]
