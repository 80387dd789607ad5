"""Encoding models: ridge regression from features to every target, with nested cross-validation of the penalty.

Regressions are solved in kernel space (Saunders, Gammerman & Vovk 1998): a dataset has hundreds of stimuli and a
network thousands of units, so the stimulus kernel is small, and one eigendecomposition serves all penalties and all
targets. The solvers are himalaya's (Dupré la Tour, Eickenberg, Nunez-Elizalde & Gallant 2022, NeuroImage 264:119728).

For each outer fold: features are standardized by the mean and standard deviation of the training stimuli; the kernel of
a band of f features is Z Z' / f, so that penalties are comparable between 3 features and 10,000; the penalty of each
target is the one with the lowest squared error over the inner folds; the model is refit on all training stimuli and
predicts the held-out ones. Held-out stimuli enter no earlier step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from modalnet._validation import check_int, check_seed
from modalnet.brain import folds as dealing
from modalnet.errors import InputError

if TYPE_CHECKING:
    import torch

PENALTIES = np.logspace(-3, 5, 13)
N_ITER = 30  # random band weightings that banded ridge tries
EXACT = 200_000  # training stimuli x targets; up to this size float64 costs little
TARGETS = 2000  # solved at once
FEW = 0.6  # features per training stimulus; below it ridge is solved in feature space
MANY = 3000  # training stimuli; above it penalties are tried one at a time to save memory
REGRESSIONS = ("ridge", "banded")

Bands = Mapping[str, Float[np.ndarray, "stimulus feature"]]


@dataclass(frozen=True, eq=False)
class Split:
    """Outer and inner cross-validation folds.

    Attributes
    ----------
    cv, n_folds, inner_folds, gap, seed
        As for :func:`modalnet.brain.align`.
    groups
        The group of each stimulus, or None.
    folds
        int64 [stimulus]: the outer fold in which each stimulus is held out.
    """

    cv: str
    n_folds: int
    inner_folds: int
    gap: int
    seed: int
    groups: tuple[str, ...] | None
    folds: Int[np.ndarray, " stimulus"]

    @classmethod
    def make(  # as the parameters of align
        cls, cv: str, n: int, n_folds: int, *, inner_folds: int, gap: int, seed: int, groups: tuple[str, ...] | None
    ) -> Split:
        """Assign stimuli to the outer folds."""
        check_int("n_folds", n_folds, minimum=2)
        check_int("inner_folds", inner_folds, minimum=2)
        check_int("gap", gap, minimum=0)
        check_seed(seed)
        if gap and cv != "contiguous":
            raise InputError(f'`gap={gap}` excludes neighbours in time and requires `cv="contiguous"`, got {cv!r}.')
        return cls(cv, n_folds, inner_folds, gap, seed, groups, dealing.deal(cv, n, n_folds, groups=groups, seed=seed))

    def outer(self) -> Iterator[tuple[int, Int[np.ndarray, " train"], Int[np.ndarray, " test"]]]:
        """Iterate over (fold, training stimuli, held-out stimuli)."""
        for fold in range(self.n_folds):
            yield (
                fold,
                np.flatnonzero(dealing.training(self.folds, fold, self.gap)),
                np.flatnonzero(self.folds == fold),
            )

    def inner(self, train: Int[np.ndarray, " train"], fold: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return inner splits (training, validation) as indices into ``train``, made like the outer folds."""
        groups = None if self.groups is None else tuple(self.groups[i] for i in train)
        n_folds = min(self.inner_folds, len(train) // 2)
        if self.cv == "grouped" and groups is not None:
            n_folds = min(n_folds, len(set(groups)))
        if n_folds < 2:
            raise InputError(
                f"Fold {fold} has {len(train)} training stimuli"
                + (f" of {len(set(groups))} group(s)" if self.cv == "grouped" and groups else "")
                + ", too few to select a penalty. Use fewer folds or more groups."
            )
        inner = dealing.deal(self.cv, len(train), n_folds, groups=groups, seed=self.seed + 1 + fold)
        splits = []
        for part in range(n_folds):
            # The gap is counted in training stimuli, between which the held-out run may lie.
            fits = dealing.training(inner, part, self.gap)
            splits.append((np.flatnonzero(fits), np.flatnonzero(inner == part)))
        return splits


@dataclass(frozen=True, eq=False)
class Fitted:
    """Held-out predictions of an encoding model.

    Attributes
    ----------
    predictions
        float64 [stimulus, target]; NaN where the target was not measured.
    parts
        The additive contribution of each band to the prediction, float64 [stimulus, target]; empty for one band.
    penalties
        float64 [fold, target]: the selected penalty; NaN where a target was not fit.
    weights
        float64 [fold, band, target]: the factor of each band's kernel, its share over the penalty; NaN likewise.
    """

    predictions: Float[np.ndarray, "stimulus target"]
    parts: dict[str, Float[np.ndarray, "stimulus target"]]
    penalties: Float[np.ndarray, "fold target"]
    weights: Float[np.ndarray, "fold band target"]


def fit_predict(
    bands: Bands,
    responses: Float[np.ndarray, "stimulus target"],
    split: Split,
    *,
    regression: str = "ridge",
    penalties: Sequence[float] | Float[np.ndarray, " penalty"] = PENALTIES,
    n_iter: int = N_ITER,
    device: str = "cpu",
) -> Fitted:
    """Fit an encoding model in every outer fold and predict the held-out responses.

    Parameters
    ----------
    bands
        Mapping from names to features [stimulus, feature]. With ``"ridge"`` their kernels are averaged; with
        ``"banded"`` the band weights are selected per target, together with the penalty, among ``n_iter`` random ones.
    responses
        [stimulus, target]; NaN where a target was not measured. Such targets are fit on the stimuli that have them.
    split
        The outer and inner folds.
    regression, penalties, n_iter, device
        As for :func:`modalnet.brain.align`.

    Returns
    -------
    Fitted

    Raises
    ------
    InputError
        If features are not finite numbers of shape [stimulus, feature], himalaya is not installed, or the device is not
        available.
    """
    given = checked(bands, len(responses))
    single = len(given) == 1
    predictions = np.full(responses.shape, np.nan)
    parts = {} if single else {name: np.full(responses.shape, np.nan) for name in given}
    chosen = np.full((split.n_folds, responses.shape[1]), np.nan)
    weights = np.full((split.n_folds, len(given), responses.shape[1]), np.nan)
    with solver(device) as place:
        for rows, columns in patterns(responses):
            for fold, train_all, test_all in split.outer():
                train, test = train_all[rows[train_all]], test_all[rows[test_all]]
                if not len(test):
                    continue
                features = standardized(given, train, test, place)
                inner = split.inner(train, fold)
                y = responses[np.ix_(train, columns)]
                for start in range(0, len(columns), TARGETS):
                    some = slice(start, start + TARGETS)
                    found, by_band, penalty, of_kernels = _solve(
                        features, y[:, some], inner, place, regression, np.asarray(penalties), n_iter, split.seed
                    )
                    where = np.ix_(test, columns[some])
                    predictions[where] = found
                    chosen[fold, columns[some]] = penalty
                    weights[fold][:, columns[some]] = of_kernels
                    for name, part in zip(parts, by_band, strict=False):
                        parts[name][where] = part
    return Fitted(predictions, parts, chosen, weights)


def patterns(responses: Float[np.ndarray, "stimulus target"]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (stimulus mask, target indices) for each pattern of missing responses."""
    measured = np.isfinite(responses)
    if measured.all():
        return [(np.ones(len(responses), dtype=bool), np.arange(responses.shape[1]))]
    kinds, of_target = np.unique(measured, axis=1, return_inverse=True)
    of_target = np.ravel(of_target)
    return [(kinds[:, kind], np.flatnonzero(of_target == kind)) for kind in range(kinds.shape[1])]


def checked(bands: Bands, n: int) -> dict[str, Float[np.ndarray, "stimulus feature"]]:
    """Return the features of each band as float32 or float64 [stimulus, feature].

    Raises
    ------
    InputError
        If they are not finite numbers of n stimuli.
    """
    found = {}
    for name, features in bands.items():
        values = np.asarray(features)
        if values.ndim != 2 or len(values) != n or not values.shape[1]:
            raise InputError(
                f"The features {name!r} must be [stimulus, feature] for {n} stimuli, got shape {values.shape}."
            )
        if values.dtype.kind not in "biuf":
            raise InputError(f"The features {name!r} must be numeric, got {values.dtype}.")
        if not np.isfinite(values).all():
            broken = int((~np.isfinite(values).all(axis=0)).sum())
            raise InputError(
                f"{broken} of {values.shape[1]} features of {name!r} are NaN or infinite. Exclude such units; "
                "a model in float16 may overflow."
            )
        found[name] = values.astype(np.float32 if values.dtype.itemsize < 8 else np.float64, copy=False)
    return found


def standardized(bands: Bands, train: np.ndarray, test: np.ndarray, place: Any) -> list[tuple[Any, Any]]:
    """Standardize each band by its training stimuli and divide by sqrt(n features): (training, held-out) per band."""
    import torch

    found = []
    for features in bands.values():
        given = torch.from_numpy(np.ascontiguousarray(features[train])).to(place.device)
        held = torch.from_numpy(np.ascontiguousarray(features[test])).to(place.device)
        middle, spread = given.mean(0), given.std(0, correction=0)
        # A feature that is constant but for rounding would become noise of unit variance.
        varies = spread > 16 * torch.finfo(given.dtype).eps * given.abs().amax(0).clamp(min=1e-30)
        scale = torch.where(varies, 1 / torch.where(varies, spread, 1), 0) / max(int(varies.sum()), 1) ** 0.5
        found.append(((given - middle).mul_(scale), (held - middle).mul_(scale)))
    return found


def _solve(  # noqa: PLR0917  # one call, above
    bands: Sequence[tuple[Any, Any]],
    y: Float[np.ndarray, "train target"],
    inner: list[tuple[np.ndarray, np.ndarray]],
    place: Any,
    regression: str,
    penalties: Float[np.ndarray, " penalty"],
    n_iter: int,
    seed: int,
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the held-out predictions, the contributions of the bands, the penalties and the weights of the kernels."""
    import torch

    dtype = torch.float64 if y.size <= EXACT and place.device.type != "mps" else torch.float32
    middle = y.mean(axis=0)
    spread = y.std(axis=0)
    spread[spread == 0] = 1.0  # constant in this training set: the prediction is its mean
    targets = torch.from_numpy((y - middle) / spread).to(place.device, dtype)
    options: dict[str, Any] = {
        "alphas": torch.from_numpy(penalties).to(place.device, dtype),
        "cv": inner,
        "fit_intercept": True,
    }
    if len(y) > MANY:
        options |= {"n_alphas_batch": 1}

    def back(values: torch.Tensor) -> np.ndarray:
        return values.detach().cpu().double().numpy()

    shares = np.full((len(bands), 1), 1 / len(bands))
    if len(bands) > 1 and regression == "banded":
        by_band, intercept, weights = _banded(bands, targets, options, dtype, n_iter, seed)
        chosen = 1 / weights.sum(0)
        shares = back(weights * chosen)
    elif sum(given.shape[1] for given, _ in bands) < FEW * len(y):
        by_band, intercept, chosen = _primal(bands, targets, options, dtype)
    else:
        by_band, intercept, chosen = _dual(bands, targets, options, dtype)
    predicted = sum(by_band) + intercept.to(place.device)
    chosen = penalties[np.abs(np.log(back(chosen)[:, None] / penalties)).argmin(axis=1)]  # without float32's rounding
    return (
        back(predicted) * spread + middle,
        [back(part) * spread for part in by_band] if len(by_band) > 1 else [],
        chosen,
        shares / chosen,
    )


def _primal(
    bands: Sequence[tuple[Any, Any]], targets: Any, options: dict[str, Any], dtype: Any
) -> tuple[Any, Any, Any]:
    """Solve ridge in feature space, which is cheaper if features are fewer than stimuli; the solution is the same."""
    import torch
    from himalaya.ridge import solve_ridge_cv_svd

    share = len(bands) ** 0.5  # the mean of the kernels, as below
    given = torch.cat([train for train, _ in bands], 1).to(dtype) / share
    chosen, weights, _, intercept = solve_ridge_cv_svd(given, targets, warn=False, **options)
    parts = weights.to(targets.device).split([train.shape[1] for train, _ in bands])
    return [(held.to(dtype) / share) @ part for (_, held), part in zip(bands, parts, strict=True)], intercept, chosen


def _dual(bands: Sequence[tuple[Any, Any]], targets: Any, options: dict[str, Any], dtype: Any) -> tuple[Any, Any, Any]:
    """Solve kernel ridge on the mean of the band kernels."""
    from himalaya.kernel_ridge import solve_kernel_ridge_cv_eigenvalues

    whole = sum(given @ given.T for given, _ in bands) / len(bands)
    chosen, dual, _, intercept = solve_kernel_ridge_cv_eigenvalues(whole.to(dtype), targets, **options)
    dual = dual.to(targets.device)
    return [((held @ given.T).to(dtype) / len(bands)) @ dual for given, held in bands], intercept, chosen


def _banded(  # noqa: PLR0917  # as the settings of fit_predict
    bands: Sequence[tuple[Any, Any]], targets: Any, options: dict[str, Any], dtype: Any, n_iter: int, seed: int
) -> tuple[Any, Any, Any]:
    """Solve kernel ridge on a weighted sum of the band kernels, with weights selected per target."""
    import torch
    from himalaya.kernel_ridge import generate_dirichlet_samples, solve_multiple_kernel_ridge_random_search

    n = len(bands)
    kernels = torch.stack([(given @ given.T).to(dtype) for given, _ in bands])
    # Each band alone and equal weights are always among the weightings.
    drawn = generate_dirichlet_samples(n_iter, n, concentration=[0.1, 1.0], random_state=seed).cpu().numpy()
    gammas = torch.from_numpy(np.vstack([np.full((1, n), 1 / n), np.eye(n), drawn])).to(targets.device, dtype)
    deltas, dual, _, intercept = solve_multiple_kernel_ridge_random_search(
        kernels, targets, n_iter=gammas, return_weights="dual", random_state=seed, progress_bar=False, **options
    )
    dual, weights = dual.to(targets.device), torch.exp(deltas.to(targets.device))
    by_band = [
        ((held @ given.T).to(dtype) @ dual) * weight for (given, held), weight in zip(bands, weights, strict=True)
    ]
    return by_band, intercept, weights


@dataclass(frozen=True)
class _Place:
    device: Any


@contextlib.contextmanager
def solver(device: str) -> Iterator[_Place]:
    """Set himalaya's backend for a device and restore it afterwards, because the setting is global."""
    import torch

    try:
        from himalaya.backend import get_backend, set_backend
    except ImportError as error:
        raise InputError("Encoding models require himalaya: pip install 'modalnet[brain]'.") from error
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"`device` must be an available device, got {device!r}: {str(error).splitlines()[0]}"
        ) from error
    before = get_backend()
    try:
        set_backend("torch_cuda" if place.type == "cuda" else "torch", on_error="raise")
        yield _Place(place)
    finally:
        set_backend(before)
