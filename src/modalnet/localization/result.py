"""Results of a localization: statistics of every unit, and the networks selected from them.

Everything is derived from moments (see :mod:`modalnet.stats.moments`): for each side of the contrast, each fold of
stimuli and each tower, the count, mean and spread of the activation of every unit. No activations are stored, so that
the size of a result does not depend on the number of stimuli, and t, q, effect sizes, networks and their reliability
are computed from it without the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from modalnet._deprecation import renamed, renamed_arguments
from modalnet._validation import check_fraction, check_int, check_number, check_option, check_shared
from modalnet.errors import InputError
from modalnet.localization import selection
from modalnet.localization.permuted import PermutedContrast, check_contrast, permuted_contrast
from modalnet.localization.selected import Choice, SelectedUnits
from modalnet.localization.testing import Tested, evaluate, merged
from modalnet.models.towers import tower_of
from modalnet.results.result import Labelled, Result
from modalnet.stats import moments as statistics
from modalnet.stats.moments import Moments
from modalnet.stats.regression import CrossMoments, Estimate
from modalnet.units import Units, as_units_within

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.localization.reliability import Reliability
    from modalnet.stimuli.contrast import Contrast

PerTower = dict[str, Float[np.ndarray, "layer dim"]]

SIDES = ("positive", "negative")
CROSS = ("x", "y", "xx", "xy", "yy")


class Localization(Result):
    """The statistics of a contrast for every unit, and the networks selected from them.

    Made by :func:`modalnet.localize`.

    Parameters
    ----------
    sides
        ``"positive"`` and ``"negative"``, then tower, then one :class:`~modalnet.stats.moments.Moments` of shape
        [layer, dim] per fold of stimuli.
    conditions
        Condition, then tower, then the moments over all its stimuli.
    mean_abs
        Tower, then the mean absolute activation over all stimuli [layer, dim].
    cross
        Tower, then one :class:`~modalnet.stats.regression.CrossMoments` per fold, where the test is not Welch's; see
        :mod:`modalnet.localization.design`.
    meta
        A JSON document that says what was localized: ``"model"`` (fingerprint), ``"source"`` (readable model name),
        ``"contrast"`` (``"name"``, ``"positive"``, ``"negative"``, ``"test"``), ``"tokens"``, ``"magnitude"``,
        ``"protocol"``, … ``"stimuli"`` (content digest → fold) says which stimuli selected the units; ``"widths"``
        (space → number of units of each layer), which units there are where layers have different numbers of them.

    Raises
    ------
    InputError
        If sides, towers, folds or shapes disagree, or ``meta`` is not JSON.

    Notes
    -----
    t is Welch's, that of paired differences, of a coefficient or of effects (:attr:`test`), positive where the positive
    side's mean is larger, or where a unit raises the metric; see :func:`modalnet.localization.testing.evaluate`. A unit
    whose activation was ever NaN or infinite, or that is constant on both sides, has t = NaN; it is never selected and
    is counted in :attr:`undefined`.
    All arrays are float64 [layer, dim] and read-only.
    """

    NAME = "a localization"
    FORMAT = "modalnet.localization"
    SOURCES = ("alkhamissi2025", "fedorenko2010")

    @renamed_arguments(norms="mean_abs")
    def __init__(
        self,
        *,
        sides: Mapping[str, Mapping[str, Sequence[Moments]]],
        conditions: Mapping[str, Mapping[str, Moments]],
        mean_abs: Mapping[str, Float[np.ndarray, "layer dim"]],
        meta: Mapping[str, Any],
        cross: Mapping[str, Sequence[CrossMoments]] | None = None,
    ) -> None:
        if set(sides) != set(SIDES) or not sides["positive"]:
            raise InputError(f"`sides` must have the keys {SIDES} and at least one tower, got {list(sides)}.")
        self._spaces = tuple(sides["positive"])
        self._sides = {side: {tower: list(folds) for tower, folds in sides[side].items()} for side in SIDES}
        self._conditions = {name: dict(towers) for name, towers in conditions.items()}
        self._mean_abs = {
            tower: np.array(mean_abs[tower], dtype=np.float64) for tower in self._spaces if tower in mean_abs
        }
        self._cross = None if cross is None else {tower: list(folds) for tower, folds in cross.items()}
        self._check()
        # Through JSON and back, so that a document compares equal after it was read from a file.
        try:
            self._meta: dict[str, Any] = json.loads(json.dumps(dict(meta), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"`meta` must be a JSON document: {error}") from error
        for array in self._mean_abs.values():
            array.setflags(write=False)
        self._nothing = Units(
            {space: np.zeros(shape, dtype=bool) for space, shape in self.shapes.items()}, widths=self.widths
        )

    def _check(self) -> None:
        folds = {len(moments) for side in SIDES for moments in self._sides[side].values()}
        if len(folds) != 1 or folds == {0}:
            raise InputError(
                f"`sides` must have the same number of folds for every tower and side, got {sorted(folds)} folds."
            )
        groups: dict[str, Iterable[str]] = ({} if self._cross is None else {"cross moments": self._cross}) | {
            "negative side": self._sides["negative"],
            "mean_abs": self._mean_abs,
            **{f"condition {name!r}": towers for name, towers in self._conditions.items()},
        }
        for what, towers in groups.items():
            if set(towers) != set(self._spaces):
                raise InputError(
                    f"The {what} must have the towers of the positive side, {list(self._spaces)}, got {list(towers)}."
                )
        for tower in self._spaces:
            shapes = {moments.mean.shape for side in SIDES for moments in self._sides[side][tower]}
            shapes |= {towers[tower].mean.shape for towers in self._conditions.values()}
            shapes |= {self._mean_abs[tower].shape}
            if self._cross is not None:
                shapes |= {part.y.shape for part in self._cross[tower]}
            if len(shapes) != 1 or len(next(iter(shapes))) != 2:
                raise InputError(f"All arrays of tower {tower!r} must have the same shape [layer, dim], got {shapes}.")

    # -- what was measured ---------------------------------------------------------------------------------------

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces that were localized, in the model's order; a tower's residual stream has the tower's name."""
        return self._spaces

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers of these spaces."""
        return tuple(dict.fromkeys(map(tower_of, self._spaces)))

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(layers, width) of each tower."""
        return {tower: (array.shape[0], array.shape[1]) for tower, array in self._mean_abs.items()}

    @property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Number of units of each layer, per space whose layers have different numbers of them."""
        return {space: tuple(widths) for space, widths in (self._meta.get("widths") or {}).items()}

    @property
    def exists(self) -> Mapping[str, Bool[np.ndarray, "layer unit"]]:
        """Per space, which units there are: all but in spaces whose layers have different numbers of them."""
        return self._nothing.exists

    @property
    def n_units(self) -> int:
        """Number of localized units, over all towers."""
        return self._count_units(self._spaces)

    @property
    def n_folds(self) -> int:
        """Number of folds of the stimuli."""
        return len(self._sides["positive"][self._spaces[0]])

    @property
    def meta(self) -> dict[str, Any]:
        """What was localized, as a JSON document."""
        return self._meta

    @property
    def mean_abs(self) -> PerTower:
        """Mean absolute activation over all stimuli, per tower."""
        return dict(self._mean_abs)

    norms = renamed("norms", "mean_abs")

    @cached_property
    def n(self) -> dict[str, int]:
        """Number of stimuli per condition."""
        return {name: max(moments.n for moments in towers.values()) for name, towers in self._conditions.items()}

    @cached_property
    def means(self) -> dict[str, PerTower]:
        """Mean activation per condition and tower."""
        return {
            name: {tower: _frozen(towers[tower].mean) for tower in self._spaces}
            for name, towers in self._conditions.items()
        }

    @cached_property
    def sds(self) -> dict[str, PerTower]:
        """Standard deviation over the stimuli of each condition, per tower; NaN for a single stimulus."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                name: {
                    tower: _frozen(np.sqrt(towers[tower].m2 / np.float64(towers[tower].n - 1)))
                    for tower in self._spaces
                }
                for name, towers in self._conditions.items()
            }

    def moments(self, side: str, tower: str, folds: Iterable[int] | None = None) -> Moments:
        """Return the moments of one side over some folds (all, if None)."""
        parts = self._sides[side][tower]
        total = Moments.zeros(parts[0].mean.shape)
        for fold in range(len(parts)) if folds is None else folds:
            total = total + parts[fold]
        return total

    @property
    def test(self) -> str:
        """``"welch"``, ``"paired"`` (differences within items), ``"regression"`` or ``"attribution"``.

        A regression has covariates or a regressor; an attribution tests the effects of units on a metric.
        """
        return "welch" if self._cross is None else str(self._contrast.get("test", "welch"))

    @property
    def parametric(self) -> bool:
        """Whether the contrast is the slope of a number instead of a difference of two sides."""
        return bool(self._contrast.get("regressor"))

    @property
    def _contrast(self) -> dict[str, Any]:
        return self._meta.get("contrast") or {}

    def statistics(self, tower: str, folds: Iterable[int] | None = None) -> Tested:
        """Test the units of a tower on some folds of the stimuli (all, if None)."""
        chosen = list(range(self.n_folds) if folds is None else folds)
        positive, negative = (self.moments(side, tower, chosen) for side in SIDES)
        cross = None if self._cross is None else merged(self._cross[tower], chosen)
        return evaluate(positive, negative, cross, test=self.test, parametric=self.parametric)

    def permuted(self, contrast: Contrast, n_permutations: int = 199, seed: int = 0) -> PermutedContrast:
        """Permute the labels of the contrast that this was localized with.

        Parameters
        ----------
        contrast
            That contrast.
        n_permutations, seed
            How many permutations, at least 19, and their seed.

        Returns
        -------
        PermutedContrast
            See :mod:`modalnet.localization.permuted`.

        Raises
        ------
        InputError
            If the contrast is another one.
        """
        check_contrast(contrast)
        check_int("n_permutations", n_permutations, minimum=19)
        check_shared(seed=seed)
        named = self._contrast
        names = (list(named.get("positive") or ()), list(named.get("negative") or ()))
        return permuted_contrast(contrast, self.test, set(self.stimuli), names, n_permutations, seed)

    @property
    def stimuli(self) -> dict[str, int]:
        """Mapping from content digests of stimuli to folds (-1: several of them); empty if unknown."""
        return dict(self._meta.get("stimuli") or {})

    def without(self, *folds: int) -> Localization:
        """Return the localization without the stimuli of some folds, which are then held out of its networks.

        t, p, q, effect sizes and networks are those of the other folds; condition means and ``mean_abs``, which do not
        affect the selection by t, remain those of all stimuli.

        Raises
        ------
        InputError
            If a fold does not exist, or none is left.
        """
        kept_folds = [fold for fold in range(self.n_folds) if fold not in folds]
        if not folds or not kept_folds or len(kept_folds) + len(set(folds)) != self.n_folds:
            raise InputError(f"`folds` must be some of the {self.n_folds} folds, counted from 0, got {folds!r}.")
        sides = {
            side: {tower: [parts[fold] for fold in kept_folds] for tower, parts in towers.items()}
            for side, towers in self._sides.items()
        }
        place = {fold: index for index, fold in enumerate(kept_folds)} | {-1: -1}
        kept = {digest: place[there] for digest, there in self.stimuli.items() if there in place}
        meta = self._meta | {"stimuli": kept}
        cross = self._cross and {tower: [parts[fold] for fold in kept_folds] for tower, parts in self._cross.items()}
        return Localization(sides=sides, conditions=self._conditions, mean_abs=self._mean_abs, meta=meta, cross=cross)

    def only(self, *towers: str) -> Localization:
        """Return the localization restricted to some towers, as if no other had been localized.

        ``fraction`` then refers to their units, in :meth:`top` and in a lesion study, and q is adjusted over them.

        Raises
        ------
        InputError
            If no tower is given, or one was not localized.
        """
        if not towers:
            raise InputError(f"`towers` must name at least one of {', '.join(self._spaces)}, got none.")
        kept = selection.check_towers(towers, self._spaces)

        def some(of: Mapping[str, Any]) -> dict[str, Any]:
            return {tower: of[tower] for tower in kept if tower in of}

        meta = dict(self._meta)
        for name in ("tokens", "paths", "widths"):
            if isinstance(meta.get(name), Mapping):
                meta[name] = some(meta[name])
        return Localization(
            sides={side: some(parts) for side, parts in self._sides.items()},
            conditions={name: some(parts) for name, parts in self._conditions.items()},
            mean_abs=some(self._mean_abs),
            meta=meta,
            cross=self._cross and some(self._cross),
        )

    # -- statistics ----------------------------------------------------------------------------------------------

    @cached_property
    def _merged(self) -> dict[str, tuple[Moments, Moments]]:
        return {tower: (self.moments("positive", tower), self.moments("negative", tower)) for tower in self._spaces}

    @cached_property
    def _tested(self) -> dict[str, Tested]:
        return {tower: self.statistics(tower) for tower in self._spaces}

    @cached_property
    def t(self) -> PerTower:
        """The t of the contrast, positive side against negative, per tower; :attr:`test` says which."""
        return {tower: _frozen(found.test.t) for tower, found in self._tested.items()}

    @cached_property
    def p(self) -> PerTower:
        """Two-sided p of t, per tower."""
        return {tower: _frozen(found.test.p) for tower, found in self._tested.items()}

    @cached_property
    def q(self) -> PerTower:
        """Benjamini-Hochberg adjusted p, over all units of all towers together that have one."""
        flat = statistics.fdr(selection.flatten(self.p, self._spaces))
        ends = np.cumsum([math.prod(self.shapes[tower]) for tower in self._spaces])[:-1]
        parts = zip(self._spaces, np.split(flat, ends), strict=True)
        return {tower: _frozen(part.reshape(self.shapes[tower])) for tower, part in parts}

    @cached_property
    def effect_size(self) -> PerTower:
        """Hedges' g, positive side against negative, per tower; of a parametric contrast the partial correlation.

        Of an attribution the mean effect over pairs in units of its standard deviation, corrected for few pairs.

        g is in units of the pooled standard deviation within the sides for every test, so that paired and unpaired
        contrasts are comparable. With covariates the difference is the adjusted one.
        """
        return {tower: _frozen(found.effect_size) for tower, found in self._tested.items()}

    @cached_property
    def mean_effect(self) -> PerTower:
        """Mean effect of each unit on the metric over pairs, per tower, in units of the metric; NaN where t is.

        With covariates that of pairs in which these do not differ. Only of ``localize(by="attribution")``; InputError
        otherwise.
        """
        if self.test != "attribution":
            raise InputError(
                f"`mean_effect` is of a localization by attribution, but this one tests activations ({self.test}). Use "
                'localize(by="attribution", metric=...).'
            )
        return {tower: _frozen(self._effect(tower)) for tower in self._spaces}

    def _effect(self, tower: str) -> Float[np.ndarray, "layer dim"]:
        estimate = self._tested[tower].test
        assert isinstance(estimate, Estimate)
        return estimate.value

    @cached_property
    def undefined(self) -> dict[str, int]:
        """Number of units without a defined t per tower: constant on both sides, or with a non-finite activation."""
        return {tower: int((np.isnan(t) & self.exists[tower]).sum()) for tower, t in self.t.items()}

    # -- networks ------------------------------------------------------------------------------------------------

    def top(
        self,
        fraction: float | None = None,
        k: int | None = None,
        towers: str | Sequence[str] | None = None,
        *,
        by: Literal["t", "effect_size", "mean_effect"] = "t",
        exclude: Units | None = None,
    ) -> Units:
        """Select exactly k units with the largest t.

        Parameters
        ----------
        fraction
            Fraction of the units of ``towers`` (including units without a defined t), above 0 and at most 1; the number
            of units is rounded down.
        k
            Number of units. Give either this or ``fraction``.
        towers
            The towers to select from jointly; by default all that were localized.
        by
            Rank by ``"t"``, or by ``"effect_size"`` (Hedges' g), which does not grow with the number of stimuli; of an
            attribution also by ``"mean_effect"``: t is large where an effect is consistent, if small.
        exclude
            Units that are not selected, such as :meth:`massive`; the number of selected units does not change.

        Returns
        -------
        Units
            With masks for every localized tower (empty where not searched), their ``mean_abs`` and the model. Ties are
            broken by (tower, layer, dim); units without a defined t are never selected.

        Raises
        ------
        InputError
            If both or neither of ``fraction`` and ``k`` are given, one is out of range, more units are requested
            than have a defined t, or a tower was not localized.

        References
        ----------
        AlKhamissi et al. (2025), The LLM Language Network, arXiv:2411.02280, section 3: the top 1% by t.
        """
        check_option("by", by, ("t", "effect_size", "mean_effect"))
        towers = selection.check_towers(towers, self._spaces)
        ranked: PerTower = getattr(self, by)
        values = selection.flatten(ranked, towers)
        if exclude is not None:
            if exclude.shapes != self.shapes:
                raise InputError(
                    f"`exclude` must have the shapes of the localization, {self.shapes}, got {exclude.shapes}."
                )
            values = np.where(selection.flatten(exclude.mask, towers), np.nan, values)
        again = Choice(self, "top", {"fraction": fraction, "k": k, "towers": towers, "by": by, "exclude": exclude})
        return self._first(selection.rank(values), fraction, k, towers, again)

    def least_selective(
        self, fraction: float | None = None, k: int | None = None, towers: str | Sequence[str] | None = None
    ) -> Units:
        """Select exactly k units with the smallest absolute t; otherwise as :meth:`top`."""
        towers = selection.check_towers(towers, self._spaces)
        again = Choice(self, "least_selective", {"fraction": fraction, "k": k, "towers": towers})
        return self._first(selection.rank(-np.abs(selection.flatten(self.t, towers))), fraction, k, towers, again)

    def massive(self, ratio: float = 20.0) -> Units:
        """Select units with massive activations: a mean \\|activation\\| far above the median of their layer.

        Ablating such units impairs a model regardless of what they encode.

        Parameters
        ----------
        ratio
            Multiple of the median of the layer, above 1.

        Returns
        -------
        Units
            Over all localized towers; may be empty.

        References
        ----------
        Sun, Chen, Kolter & Liu (2024), Massive activations in large language models, COLM. They call an activation
        massive that is above 100 and 1,000 times the median at one token; this is a mean over stimuli, so the bar is
        lower.
        """
        check_number("ratio", ratio, above=1)
        mask = {tower: mean_abs > ratio * _medians(mean_abs)[:, None] for tower, mean_abs in self.mean_abs.items()}
        return self.units_of(mask, selected_on=self.stimuli or None)

    def units_of(
        self, mask: Mapping[str, Bool[np.ndarray, "layer unit"]], *, selected_on: Iterable[str] | None = None
    ) -> Units:
        """Units of this model and these spaces, with their mean absolute activation, from a mask for each space."""
        return Units(
            mask,
            mean_abs=self._mean_abs,
            model=self._meta.get("model"),
            selected_on=selected_on,
            widths=self.widths,
        )

    def _first(
        self, ranked: np.ndarray, fraction: float | None, k: int | None, towers: tuple[str, ...], again: Choice
    ) -> Units:
        count = selection.how_many(fraction, k, n_units=self._count_units(towers), n_defined=len(ranked))
        return self._units(ranked[:count], towers, again)

    def bottom(
        self, fraction: float | None = None, k: int | None = None, towers: str | Sequence[str] | None = None
    ) -> Units:
        """Select exactly k units with the smallest t; otherwise as :meth:`top`."""
        towers = selection.check_towers(towers, self._spaces)
        again = Choice(self, "bottom", {"fraction": fraction, "k": k, "towers": towers})
        return self._first(selection.rank(-selection.flatten(self.t, towers)), fraction, k, towers, again)

    def percentile(self, lo: float, hi: float, towers: str | Sequence[str] | None = None) -> Units:
        """Select the units whose rank by t lies in (lo, hi] percent of the units with a defined t.

        The smallest t has the rank closest to 0, the largest 100: ``percentile(99, 100)`` is the top 1%. A boundary
        that falls within a unit is rounded as :meth:`top` rounds, so ``percentile(100 - x, 100)`` equals
        ``top(x / 100)`` where every t is defined. Adjoining ranges never share a unit and never leave one out.

        Parameters
        ----------
        lo, hi
            0 <= lo < hi <= 100.
        towers
            As for :meth:`top`.

        Returns
        -------
        Units
            As for :meth:`top`; may be empty for a narrow range.

        Raises
        ------
        InputError
            If the range is out of order, or a tower was not localized.
        """
        if not (_is_number(lo) and _is_number(hi) and 0 <= lo < hi <= 100):
            raise InputError(f"`lo` and `hi` of percentile() must satisfy 0 <= lo < hi <= 100, got {lo!r} and {hi!r}.")
        towers = selection.check_towers(towers, self._spaces)
        ranked = selection.rank(selection.flatten(self.t, towers))
        above_hi, above_lo = (int((100 - bound) / 100 * len(ranked) + selection.SLACK) for bound in (hi, lo))
        again = Choice(self, "percentile", {"lo": lo, "hi": hi, "towers": towers})
        return self._units(ranked[above_hi:above_lo], towers, again)

    def significant(self, alpha: float = 0.05, towers: str | Sequence[str] | None = None) -> Units:
        """Select the units with q < alpha and t > 0; q is adjusted over all localized towers, whatever ``towers``.

        Raises
        ------
        InputError
            If alpha is not in (0, 1], or a tower was not localized.
        """
        check_fraction("alpha", alpha)
        towers = selection.check_towers(towers, self._spaces)
        q, t = (selection.flatten(values, towers) for values in (self.q, self.t))
        again = Choice(self, "significant", {"alpha": alpha, "towers": towers})
        return self._units(np.flatnonzero((q < alpha) & (t > 0)), towers, again)

    # -- tables --------------------------------------------------------------------------------------------------

    def top_units(self, n: int = 10, towers: str | Sequence[str] | None = None) -> pd.DataFrame:
        """List the n units with the largest t, largest first (fewer, if fewer have a defined t).

        Returns
        -------
        DataFrame
            Columns tower, layer, dim, t, p, q, effect_size, mean_positive, mean_negative; of an attribution also
            mean_effect.
        """
        import pandas as pd

        towers = selection.check_towers(towers, self._spaces)
        check_int("n", n, minimum=1)
        chosen = selection.rank(selection.flatten(self.t, towers))[:n]
        places = [(tower, *place) for tower in towers for place in np.ndindex(self.shapes[tower])]
        columns: dict[str, PerTower] = {
            "t": self.t,
            "p": self.p,
            "q": self.q,
            "effect_size": self.effect_size,
            "mean_positive": {tower: positive.mean for tower, (positive, _) in self._merged.items()},
            "mean_negative": {tower: negative.mean for tower, (_, negative) in self._merged.items()},
        }
        if self.test == "attribution":
            columns["mean_effect"] = self.mean_effect
        table = pd.DataFrame([places[position] for position in chosen], columns=["tower", "layer", "dim"])
        return table.assign(**{name: selection.flatten(values, towers)[chosen] for name, values in columns.items()})

    def table(self, units: Units | None = None) -> pd.DataFrame:
        """Return one row per layer.

        Parameters
        ----------
        units
            A network to count per layer, in a column ``selected``.

        Returns
        -------
        DataFrame
            Columns tower, layer, units, selected (with ``units=`` only), significant (q < 0.05 and t > 0),
            undefined, max_t, mean_t, max_effect_size; NaN in the last three where no t of the layer is defined.

        Raises
        ------
        InputError
            If ``units`` has other towers or shapes.
        """
        import pandas as pd

        if units is not None:
            units = as_units_within(units, self.shapes, "the localization")
        significant = self.significant().per_layer()
        selected = units.per_layer() if units is not None else {}
        rows = []
        for tower in self._spaces:
            for layer, (t, g) in enumerate(zip(self.t[tower], self.effect_size[tower], strict=True)):
                defined, there = ~np.isnan(t), int(self.exists[tower][layer].sum())
                row: dict[str, Any] = {"tower": tower, "layer": layer, "units": there}
                if units is not None:
                    row["selected"] = int(selected[tower][layer])
                row |= {
                    "significant": int(significant[tower][layer]),
                    "undefined": there - int(defined.sum()),
                    "max_t": float(t[defined].max()) if defined.any() else math.nan,
                    "mean_t": float(t[defined].mean()) if defined.any() else math.nan,
                    "max_effect_size": float(g[defined].max()) if defined.any() else math.nan,
                }
                rows.append(row)
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Return a summary as text: the number of significant units and the largest t of each tower."""
        rows = self.table()
        lines = [repr(self), f"  test: {self._test_in_words()}"]
        for tower in self._spaces:
            here = rows[rows["tower"] == tower]
            text = f"  {tower}: {int(here['significant'].sum()):,} of {int(here['units'].sum()):,} units at q < 0.05"
            if np.isfinite(self.t[tower]).any():
                layer, _ = np.unravel_index(np.nanargmax(self.t[tower]), self.t[tower].shape)
                text += f"; largest t {np.nanmax(self.t[tower]):.2f} in layer {layer}"
                if self.test == "attribution":
                    effect = self.mean_effect[tower]
                    layer, _ = np.unravel_index(np.nanargmax(effect), effect.shape)
                    text += f"; largest mean effect {np.nanmax(effect):.3g} in layer {layer}"
            if undefined := int(here["undefined"].sum()):
                text += f"; {undefined:,} without a defined t"
            lines.append(text)
        return "\n".join(lines)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        def flat(values: Mapping[str, Any]) -> np.ndarray:
            return selection.flatten(values, self._spaces)[there]

        there = selection.flatten(self.exists, self._spaces)
        places = [(tower, *place) for tower in self._spaces for place in np.argwhere(self.exists[tower]).tolist()]
        spaces, layers, indices = zip(*places, strict=True)
        arrays: Labelled = {
            name: (("unit",), flat(getattr(self, name))) for name in ("t", "p", "q", "effect_size", "mean_abs")
        }
        if self.test == "attribution":
            arrays["mean_effect"] = (("unit",), flat(self.mean_effect))
        for side, place in (("positive", 0), ("negative", 1)):
            arrays[f"mean_{side}"] = (
                ("unit",),
                flat({tower: pair[place].mean for tower, pair in self._merged.items()}),
            )
        means = [flat({tower: one.mean for tower, one in towers.items()}) for towers in self._conditions.values()]
        arrays["mean"] = (("condition", "unit"), np.stack(means))
        coordinates: Labelled = {
            "space": (("unit",), list(spaces)),
            "layer": (("unit",), list(layers)),
            "index": (("unit",), list(indices)),
            "condition": (("condition",), list(self._conditions)),
        }
        return arrays, coordinates

    def reliability(self, **options: Any) -> Reliability:
        """Measure split-half overlap and held-out selectivity: see :func:`.reliability.reliability`."""
        from modalnet.localization.reliability import reliability

        return reliability(self, **options)

    def plot(self, kind: str = "layers", units: Units | None = None, **options: Any) -> Any:
        """Draw the result.

        Parameters
        ----------
        kind
            ``"layers"``: the share of selected units over layers (:func:`modalnet.plotting.layer_profile`);
            ``"histogram"`` of t (:func:`modalnet.plotting.t_histogram`); ``"volcano"``: effect size against q
            (:func:`modalnet.plotting.volcano`); ``"sheet"``: t on a flat map of the model
            (:func:`modalnet.plotting.sheet`); ``"glass"``: the network in depth (:func:`modalnet.plotting.glass`);
            ``"units"``: t by layer and unit, for heads (:func:`modalnet.plotting.unit_t`).
        units
            The network to show; by default the top 1% by t, at least one unit.
        **options
            As for the function that draws.

        Returns
        -------
        Axes or array of Axes
            What that function returns: one per tower, or one.

        Raises
        ------
        InputError
            If the kind is unknown, or the units have other shapes.
        """
        from modalnet import plotting

        kinds = {
            "layers": plotting.layer_profile,
            "histogram": plotting.t_histogram,
            "volcano": plotting.volcano,
            "sheet": plotting.sheet,
            "glass": plotting.glass,
            "units": plotting.unit_t,
        }
        check_option("kind", kind, tuple(kinds))
        return kinds[kind](self, units, **options)  # type: ignore[operator]  # each takes the localization and units

    # -- files ---------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the result as arrays and a JSON document, from which :meth:`_from_content` makes it again.

        Returns
        -------
        arrays
            ``side/<side>/<tower>/mean`` and ``…/m2`` [fold, layer, dim]; ``condition/<index>/<tower>/mean`` and
            ``…/m2`` [layer, dim]; ``mean_abs/<tower>`` [layer, dim]; where the test is not Welch's also
            ``cross/<tower>/x``, ``…/y``, ``…/xx``, ``…/xy`` and ``…/yy``, with the fold first. All float64.
        document
            ``"format"``, ``"version"``, ``"spaces"``, ``"conditions"`` (names, in the order of the indices),
            ``"n"`` (the counts under the arrays' names) and ``"meta"`` (:attr:`meta`).
        """
        arrays: dict[str, np.ndarray] = {}
        counts: dict[str, int | list[int]] = {}
        for tower in self._spaces:
            arrays[f"mean_abs/{tower}"] = self._mean_abs[tower]
            for side in SIDES:
                folds, name = self._sides[side][tower], f"side/{side}/{tower}"
                counts[name] = [moments.n for moments in folds]
                arrays[f"{name}/mean"] = np.stack([moments.mean for moments in folds])
                arrays[f"{name}/m2"] = np.stack([moments.m2 for moments in folds])
            for index, towers in enumerate(self._conditions.values()):
                moments, name = towers[tower], f"condition/{index}/{tower}"
                counts[name] = moments.n
                arrays[f"{name}/mean"], arrays[f"{name}/m2"] = moments.mean, moments.m2
        for tower, parts in (self._cross or {}).items():
            counts[f"cross/{tower}"] = [part.n for part in parts]
            for field in CROSS:
                arrays[f"cross/{tower}/{field}"] = np.stack([getattr(part, field) for part in parts])
        document = {
            "spaces": list(self._spaces),
            "conditions": list(self._conditions),
            "n": counts,
            "meta": self._meta,
        }
        return arrays, document

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Localization:
        counts = document["n"]
        towers = document["spaces"] if "spaces" in document else document["towers"]

        def folds(name: str) -> list[Moments]:
            parts = zip(counts[name], arrays[f"{name}/mean"], arrays[f"{name}/m2"], strict=True)
            return [Moments(n, mean, m2) for n, mean, m2 in parts]

        def whole(name: str) -> Moments:
            return Moments(counts[name], arrays[f"{name}/mean"], arrays[f"{name}/m2"])

        def crossed(name: str) -> list[CrossMoments]:
            parts = zip(counts[name], *(arrays[f"{name}/{field}"] for field in CROSS), strict=True)
            return [CrossMoments(*part) for part in parts]

        return cls(
            sides={side: {tower: folds(f"side/{side}/{tower}") for tower in towers} for side in SIDES},
            conditions={
                condition: {tower: whole(f"condition/{index}/{tower}") for tower in towers}
                for index, condition in enumerate(document["conditions"])
            },
            # Files of modalnet 0.1 name these arrays "norms/".
            mean_abs={
                tower: arrays[old if (old := f"norms/{tower}") in arrays else f"mean_abs/{tower}"] for tower in towers
            },
            meta=document["meta"],
            cross={tower: crossed(f"cross/{tower}") for tower in towers} if f"cross/{towers[0]}" in counts else None,
        )

    def __eq__(self, other: object) -> bool:
        """Whether every array (NaN equal to NaN), every count and the meta document are the same."""
        if not isinstance(other, Localization):
            return NotImplemented
        (arrays, document), (other_arrays, other_document) = self.to_arrays(), other.to_arrays()
        return document == other_document and all(
            np.array_equal(array, other_arrays[name], equal_nan=True) for name, array in arrays.items()
        )

    __hash__ = None  # type: ignore[assignment]  # equality looks at every array: no cheap hash goes with it

    def __repr__(self) -> str:
        contrast = self._meta.get("contrast") or {}
        name, source = contrast.get("name", "contrast"), self._meta.get("source", "a model")
        towers = ", ".join(f"{tower} {layers}x{width}" for tower, (layers, width) in self.shapes.items())
        counts = ", ".join(f"{n} {condition}" for condition, n in self.n.items())
        return f"Localization({name} in {source}: {towers}; {counts}; {self._test_in_words()})"

    def _test_in_words(self) -> str:
        """Which test was used, over what."""
        if self.test == "welch":
            return "Welch's t"
        covariates = self._contrast.get("covariates") or ()
        adjusted = f" adjusted for {', '.join(covariates)}" if covariates else ""
        if self.test == "paired":
            return f"paired t over {self._contrast['observations']} items{adjusted}"
        if self.test == "attribution":
            metric = (self._meta.get("attribution") or {}).get("metric", "metric")
            return f"t of effects on the {metric} over {self._contrast['observations']} pairs{adjusted}"
        return f"t of the {'slope' if self.parametric else 'difference'}{adjusted}"

    # -- inside --------------------------------------------------------------------------------------------------

    def _count_units(self, towers: Sequence[str]) -> int:
        return sum(int(self.exists[tower].sum()) for tower in towers)

    def _units(self, chosen: np.ndarray, towers: Sequence[str], again: Choice) -> Units:
        mask = selection.masks(chosen, self.shapes, towers)
        known = bool(self.stimuli)
        units = self.units_of(mask, selected_on=self.stimuli if known else None)
        return SelectedUnits.of(units, again) if known and self.n_folds > 1 else units


def _medians(mean_abs: Float[np.ndarray, "layer unit"]) -> Float[np.ndarray, " layer"]:
    """The median over the units of each layer; NaN for a layer that has none."""
    known = [row[~np.isnan(row)] for row in mean_abs]
    return np.array([np.median(row) if row.size else np.nan for row in known])


def _frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()  # the moments themselves stay as they are
    view.setflags(write=False)
    return view


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
