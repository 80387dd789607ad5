"""The design of a contrast: which test it is put to, and the sums that the test needs.

=============  ==========================================================  =====================================
test           when                                                        what is tested, per unit
=============  ==========================================================  =====================================
``welch``      two sides of different stimuli                              the difference of their means
``paired``     every item is on both sides                                 the mean difference within items
``regression`` covariates without pairs, or a regressor                    the slope of the side or the regressor
``attribution`` by causal effect (see :mod:`.localization.attribution`)    the mean effect over pairs
=============  ==========================================================  =====================================

Covariates of a paired test enter as their differences within items, so what an item's stimuli share needs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from modalnet._warnings import warn
from modalnet.errors import InputError
from modalnet.execution.reduction import Observations
from modalnet.stats.regression import CrossMoments
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.covariates import check_separable

if TYPE_CHECKING:
    from modalnet.inputs.batch import Prepared

Test: TypeAlias = Literal["welch", "paired", "regression", "attribution"]
Paired: TypeAlias = bool | Literal["auto"]

# Bytes of activations of items of which some stimuli have not run yet.
OPEN = 1 << 28
FEWEST = 32  # items that run together whatever their size, so that batches are full


@dataclass(frozen=True, eq=False)
class Design:
    """How a contrast is tested.

    Attributes
    ----------
    test
        See the table above.
    x
        Regressors of each observation, float64 [observation, regressor]; an observation is a stimulus, or an item of a
        paired test. The first regressor of a ``regression`` is the one that is tested.
    of_stimulus
        The observation of each stimulus.
    weights
        What each stimulus contributes to its observation: 1, or in a paired test 1/n on the positive and -1/n on the
        negative side, n stimuli of the item being on it.
    """

    test: Test
    x: Float[np.ndarray, "observation regressor"]
    of_stimulus: Int[np.ndarray, " stimulus"]
    weights: Float[np.ndarray, " stimulus"]

    @property
    def of_activations(self) -> bool:
        """Whether the test needs cross moments of activations; moments of the sides are always taken."""
        return self.test not in ("welch", "attribution")

    def meta(self, contrast: Contrast) -> dict[str, object]:
        """What a result says of its test; nothing where it is Welch's, as in results of earlier versions."""
        if self.test == "welch":
            return {}
        found: dict[str, object] = {"test": self.test, "observations": len(self.x)}
        if contrast.covariates:
            found["covariates"] = list(contrast.covariates)
        if contrast.regressor is not None:
            found["regressor"] = True
        return found

    def observations(self, folds: Int[np.ndarray, " stimulus"], n_folds: int) -> Observations | None:
        """What a server needs to form the cross moments; None of a test that needs none."""
        if not self.of_activations:
            return None
        return Observations(
            self.of_stimulus.tolist(),
            self.weights.tolist(),
            np.bincount(self.of_stimulus)[self.of_stimulus].tolist(),
            folds.tolist(),
            self.x[self.of_stimulus].tolist(),
            self.x.shape[1],
            n_folds,
        )

    def blocks(self, prepared: Sequence[Prepared], n_units: int) -> list[list[Prepared]]:
        """Stimuli in blocks that hold items whole, so that few activations wait for the other half of their item."""
        if self.test != "paired":
            return [list(prepared)]
        of_item: dict[int, list[Prepared]] = {}
        for one in sorted(prepared, key=lambda one: one.order):
            of_item.setdefault(int(self.of_stimulus[one.index]), []).append(one)
        items, size = list(of_item.values()), max(FEWEST, OPEN // (8 * n_units))
        return [[one for item in items[i : i + size] for one in item] for i in range(0, len(items), size)]


def design_of(contrast: Contrast, paired: Paired) -> Design:
    """Decide how a contrast is tested.

    Parameters
    ----------
    contrast
        The stimuli with their items and covariates.
    paired
        Whether items are paired; ``"auto"``: where every item is on both sides.

    Raises
    ------
    InputError
        ``paired=True`` of a parametric contrast or where items are missing or on one side only; an item has two stimuli
        of one condition; a covariate does not differ within items, or its differences are collinear with others.
    """
    unpaired = contrast.regressor is not None or paired is False
    problem = "" if unpaired else _unpairable(contrast)
    if paired is True and contrast.regressor is not None:
        raise InputError("`paired` must be False or 'auto' for a parametric contrast, which has no sides to pair.")
    if paired is True and problem:
        raise InputError(f"`paired=True` needs every item on both sides of the contrast, but {problem}.")
    if not unpaired and not problem:
        return _pairs(contrast)
    shared = sum(count > 1 for item, count in Counter(contrast.items).items() if item is not None)
    if contrast.regressor is not None and shared:
        warn(f"{shared} items have several stimuli, which the test of a slope takes as independent")
    n = len(contrast)
    covariates = list(contrast.covariates.values())
    tested = [contrast.regressor] if contrast.regressor is not None else []
    if covariates and not tested:
        tested = [np.array([side == "positive" for side in contrast.sides], dtype=np.float64)]
    x = np.stack([*tested, *covariates], axis=1) if tested else np.zeros((n, 0))
    return Design("regression" if tested else "welch", x, np.arange(n), np.ones(n))


def _unpairable(contrast: Contrast) -> str:
    """Why items cannot be paired; empty where they can."""
    labels = [stimulus.label for stimulus in contrast.stimuli if stimulus.item is None]
    if labels:
        return f"{len(labels)} of {len(contrast)} stimuli have no item, such as {labels[0]}"
    sides: dict[str, set[str]] = {}
    for item, side in zip(contrast.items, contrast.sides, strict=True):
        sides.setdefault(item or "", set()).add(side)
    alone = [(item, next(iter(found))) for item, found in sides.items() if len(found) < 2]
    if alone:
        item, side = alone[0]
        return f"{len(alone)} of {len(sides)} items are on one side only, such as {item!r} on the {side} one"
    if len(sides) < len(contrast.covariates) + 2:
        return f"there are {len(sides)} items, and a t needs {len(contrast.covariates) + 2}"
    return ""


def _pairs(contrast: Contrast) -> Design:
    """The paired design: differences within items."""
    halves = Counter(zip(contrast.items, contrast.labels, strict=True))
    (item, label), most = halves.most_common(1)[0]
    if most > 1:
        raise InputError(
            f"Item {item!r} has {most} stimuli of the condition {label!r}: which of them belongs to the other side is "
            "not known. Give each pair its own item, or pass paired=False."
        )
    names = list(dict.fromkeys(contrast.items))
    places = {name: place for place, name in enumerate(names)}
    of_stimulus = np.array([places[item] for item in contrast.items])
    positive = np.array([side == "positive" for side in contrast.sides])
    weights = np.empty(len(contrast))
    for side, sign in ((positive, 1.0), (~positive, -1.0)):
        counts = np.bincount(of_stimulus[side], minlength=len(names))
        weights[side] = sign / counts[of_stimulus[side]]
    differences = {
        name: np.bincount(of_stimulus, weights * values, minlength=len(names))
        for name, values in contrast.covariates.items()
    }
    for name, values in differences.items():
        if not values.any():
            raise InputError(
                f"The covariate {name!r} does not differ within items, so that pairs need no adjustment for it: leave "
                "it out, or pass paired=False."
            )
    check_separable(
        {f"difference of covariate {name!r} within items": values for name, values in differences.items()},
        ", and so collinear with the sides of the contrast",
    )
    x = np.stack(list(differences.values()), axis=1) if differences else np.zeros((len(names), 0))
    return Design("paired", x, of_stimulus, weights)


class CrossSums:
    """Cross moments per space and fold, of activations that come batch by batch.

    Of a paired test only the sums of items wait of which some stimuli have not run.

    Parameters
    ----------
    design
        How the contrast is tested.
    folds
        The fold of each stimulus; one for all stimuli of an item.
    n_folds
        Number of folds.
    shapes
        Per space ``(layer, dim)``.

    Attributes
    ----------
    cross
        Per space, the cross moments of each fold.
    """

    def __init__(
        self,
        design: Design,
        folds: Int[np.ndarray, " stimulus"],
        n_folds: int,
        shapes: Mapping[str, tuple[int, int]],
    ) -> None:
        self._design, self._folds = design, folds
        k = design.x.shape[1]
        self.cross = {name: [CrossMoments.zeros(k, shape) for _ in range(n_folds)] for name, shape in shapes.items()}
        self._waiting: dict[tuple[str, int], tuple[int, np.ndarray]] = {}
        self._sizes = np.bincount(design.of_stimulus)

    def add(self, space: str, indices: Sequence[int], values: Float[np.ndarray, "stimulus layer dim"]) -> None:
        """Add the activations of one batch."""
        done: dict[int, list[tuple[int, np.ndarray]]] = {}
        for index, value in zip(indices, values, strict=True):
            place = int(self._design.of_stimulus[index])
            count, total = self._waiting.pop((space, place), (0, np.zeros(())))
            total = total + self._design.weights[index] * value.astype(np.float64)
            if count + 1 == self._sizes[place]:
                done.setdefault(int(self._folds[index]), []).append((place, total))
            else:
                self._waiting[space, place] = (count + 1, total)
        for fold, finished in done.items():
            x = self._design.x[[place for place, _ in finished]]
            self.cross[space][fold].update(x, np.stack([total for _, total in finished]))
