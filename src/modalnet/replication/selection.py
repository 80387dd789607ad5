"""Networks as published protocols select them: by rank, by a threshold in every contrast, or after smoothing.

``Localization.top`` takes exactly k units, ties broken by their place. Published protocols differ in what they rank,
in which end they take, and in what their code does with ties and with units without a statistic.
:class:`modalnet.protocols.Selection` says which; :func:`select` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from modalnet._validation import check_fraction, check_type
from modalnet._warnings import warn
from modalnet.errors import InputError
from modalnet.localization.result import Localization
from modalnet.localization.selected import SelectedUnits
from modalnet.localization.selection import flatten, how_many, masks, rank
from modalnet.protocols.protocol import Selection
from modalnet.replication.sheet import Sheet, check_sheet, flat_positions, smoothed
from modalnet.stats.moments import Welch, fdr
from modalnet.units import Units

JOINT = "threshold in every contrast"


def select(
    localizations: Mapping[str, Localization],
    selection: Selection,
    *,
    fraction: float | None = None,
    sheet: Sheet | None = None,
) -> Units:
    """Select the network of one contrast, or of several together, as a protocol has it.

    Parameters
    ----------
    localizations
        By the name of the contrast: one, or for ``"threshold in every contrast"`` one or several of the same units.
    selection
        The rule.
    fraction
        Size of the network, as a fraction of all tested units; None for the first of the selection's own.
    sheet
        For ``"smoothed"``: the position of every unit in a plane, ``[layer, unit, 2]`` per space.

    Returns
    -------
    Units
        Over all spaces that were localized. They know the stimuli that selected them, and analyses can repeat the
        selection without some of these.

    Raises
    ------
    InputError
        If there are several localizations for a rule that takes one, or none; if they are of different units; if more
        units are requested than have a statistic; for a fraction where the rule sets the size, or none where it does
        not; for a sheet with another rule, or with other units.

    Warns
    -----
    UserWarning
        If the rule smooths over a sheet and none is given; t is then used as it is.

    Notes
    -----
    A fraction of n units is rounded down. The statistic is t or, for ``"threshold in every contrast"``, the difference
    of the means of the two sides, compared with its standard deviation over all units of all layers (ddof 0). The
    one-sided q of a smoothed t is that of Student's distribution with the degrees of freedom of the unit itself.
    """
    _check(localizations, selection, fraction, sheet)
    known = dict(localizations)
    again = _Again(known, selection, fraction, sheet)
    first = next(iter(known.values()))
    chosen = _beyond(known, selection) if selection.rule == JOINT else _ranked(first, selection, fraction, sheet)
    digests = again.stimuli
    units = first.units_of(masks(np.flatnonzero(chosen), first.shapes, first.spaces), selected_on=digests or None)
    return SelectedUnits.of(units, again) if digests and again.n_folds > 1 else units


def _check(localizations: Mapping[str, Localization], selection: Selection, fraction: float | None, sheet: Any) -> None:
    check_type("localizations", localizations, Mapping, "a mapping from names of contrasts to localizations")
    check_type("selection", selection, Selection, "a modalnet.protocols.Selection")
    for name, localization in localizations.items():
        check_type(f"localizations[{name!r}]", localization, Localization, "a Localization")
    if not localizations or (len(localizations) > 1 and selection.rule != JOINT):
        raise InputError(
            f"The rule {selection.rule!r} selects by one contrast, got {len(localizations)} localizations. Select for "
            "each by itself."
        )
    shapes = [each.shapes for each in localizations.values()]
    if any(each != shapes[0] for each in shapes):
        raise InputError(f"`localizations` must be of the same units, got {', '.join(map(str, shapes))}.")
    if fraction is not None:
        check_fraction("fraction", fraction)
    by_size = selection.rule != JOINT and selection.q is None
    if not by_size and fraction is not None:
        raise InputError(f"`fraction` must be None for a selection whose threshold sets the size, got {fraction!r}.")
    if by_size and fraction is None and not selection.fractions:
        raise InputError("`fraction` must be a number for a selection without fractions of its own, got None.")
    if sheet is not None and selection.rule != "smoothed":
        raise InputError(f"`sheet` must be None for the rule {selection.rule!r}, which smooths nothing.")


# -- what is ranked ----------------------------------------------------------------------------------------------------


def _allowed(localization: Localization, selection: Selection) -> Bool[np.ndarray, " unit"]:
    """Which units exist and are in the layers that the selection takes units from."""
    there = {}
    for space, exists in localization.exists.items():
        n_layers = len(exists)
        depth = (np.arange(n_layers) + 0.5) / n_layers
        first, last = (0.0, 1.0) if selection.layers is None else selection.layers
        there[space] = exists & ((depth >= first) & (depth <= last))[:, None]
    return flatten(there, localization.spaces)


def _ranked(
    localization: Localization, selection: Selection, fraction: float | None, sheet: Sheet | None
) -> Bool[np.ndarray, " unit"]:
    """The units that a rule by rank selects."""
    exists, allowed = flatten(localization.exists, localization.spaces), _allowed(localization, selection)
    values = np.where(exists, flatten(localization.t, localization.spaces), np.nan)
    if selection.rule == "smoothed":
        values = _over_sheet(localization, selection, values, sheet)
        if selection.q is not None:
            return _significant(localization, selection, values) & allowed
    values = values.astype(selection.precision)
    undefined = np.isnan(values)
    if not np.isnan(selection.undefined_as):
        values = np.where(undefined & exists, values.dtype.type(selection.undefined_as), values)
    counted = int(exists.sum()) if selection.count_undefined else int((exists & ~np.isnan(values)).sum())
    if selection.rule == "middle":
        values = -np.abs(values - np.nanmean(values))
    elif selection.rule == "two tails":
        values = np.abs(values)
    elif selection.rule == "bottom":
        values = -values
    values = np.where(allowed, values, np.nan)
    size = selection.fractions[0] if fraction is None else fraction
    k = how_many(size, None, n_units=counted, n_defined=int((~np.isnan(values)).sum()))
    # The released code of this rule takes all up to the value behind the k-th.
    k += selection.rule == "bottom" and selection.ties == "last"
    return _largest(values, k, selection.ties)


def _largest(
    values: Float[np.ndarray, " unit"], k: int, ties: Literal["none", "last", "dense"]
) -> Bool[np.ndarray, " unit"]:
    """The k largest values, with ties; NaN is never among them."""
    order = rank(values)
    if ties == "none":
        chosen = np.zeros(values.shape, dtype=bool)
        chosen[order[:k]] = True
        return chosen
    ranked = values[order] if ties == "last" else np.unique(values[order])[::-1]
    with np.errstate(invalid="ignore"):
        return values >= ranked[min(k, len(ranked)) - 1]


# -- smoothing ---------------------------------------------------------------------------------------------------------


def _over_sheet(
    localization: Localization, selection: Selection, t: Float[np.ndarray, " unit"], sheet: Sheet | None
) -> Float[np.ndarray, " unit"]:
    """t, smoothed where there are positions."""
    if sheet is None:
        warn(
            "The protocol smooths t over a sheet, and none is given: t is used unsmoothed. Give `sheet`, the position "
            "of every unit, to smooth."
        )
        return t
    if selection.fwhm is None:
        raise InputError("`selection` must have an `fwhm` for the rule 'smoothed', got None.")
    return smoothed(t, flat_positions(check_sheet(sheet, localization.shapes), localization.spaces), selection.fwhm)


def _significant(
    localization: Localization, selection: Selection, t: Float[np.ndarray, " unit"]
) -> Bool[np.ndarray, " unit"]:
    """Units with a one-sided q below that of the selection."""
    tests = {space: localization.statistics(space).test for space in localization.spaces}
    df = {space: test.df if isinstance(test, Welch) else np.full_like(test.t, test.df) for space, test in tests.items()}
    assert selection.q is not None
    with np.errstate(invalid="ignore"):
        return fdr(special.stdtr(flatten(df, localization.spaces), -t)) < selection.q


# -- several contrasts together ----------------------------------------------------------------------------------------


def _beyond(localizations: Mapping[str, Localization], selection: Selection) -> Bool[np.ndarray, " unit"]:
    """Units whose difference exceeds the threshold in every contrast, whatever its sign."""
    if selection.threshold is None:
        raise InputError(f"`selection` must have a `threshold` for the rule {JOINT!r}, got None.")
    first = next(iter(localizations.values()))
    chosen = _allowed(first, selection)
    for localization in localizations.values():
        difference = _difference(localization)
        with np.errstate(invalid="ignore"):
            chosen = chosen & (np.abs(difference) > selection.threshold * np.nanstd(difference))
    return chosen


def _difference(localization: Localization) -> Float[np.ndarray, " unit"]:
    """Mean on the positive minus mean on the negative side; NaN where there is none."""
    found = {}
    for space, exists in localization.exists.items():
        positive, negative = (localization.moments(side, space).mean for side in ("positive", "negative"))
        with np.errstate(invalid="ignore"):
            difference = positive - negative
        found[space] = np.where(exists & np.isfinite(difference), difference, np.nan)
    return flatten(found, localization.spaces)


# -- repeating a selection ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Again:
    """A selection that can be repeated without some stimuli; see :class:`modalnet.activations.Selection`."""

    localizations: Mapping[str, Localization]
    selection: Selection
    fraction: float | None
    sheet: Sheet | None

    @property
    def n_folds(self) -> int:
        return min(each.n_folds for each in self.localizations.values())

    @property
    def reading(self) -> dict[str, Any]:
        meta = next(iter(self.localizations.values())).meta
        return {
            "tokens": meta.get("tokens"),
            "magnitude": meta.get("magnitude", "absolute"),
            "max_tokens": meta.get("max_tokens"),
            "raw": bool(meta.get("raw")),
        }

    @cached_property
    def stimuli(self) -> dict[str, int]:
        """Fold of each stimulus of all contrasts, -1 where it is in several; empty where those of one are unknown."""
        folds: dict[str, int] = {}
        for localization in self.localizations.values():
            if not localization.stimuli:
                return {}
            for digest, fold in localization.stimuli.items():
                folds[digest] = fold if folds.get(digest, fold) == fold else -1
        return folds

    def fold_of(self, digest: str) -> int | None:
        return self.stimuli.get(digest)

    def without(self, *folds: int) -> Units:
        fewer = {name: each.without(*folds) for name, each in self.localizations.items()}
        return select(fewer, self.selection, fraction=self.fraction, sheet=self.sheet)
