"""Random controls: sets of units that share something with a network, and how well they match it.

A network is compared with random sets of other units of the same size. What else they share is their ``match``:

``"layer"``
    as many units in every layer, each choice of free units equally likely;
``"tower"``
    as many units in every space, anywhere in it (the control of the published localizer);
``"dimension"``
    as many distinct dimensions, each in the same layers: every dimension of the network is replaced by a dimension of
    which it has no unit, in all of its layers. The residual stream carries a dimension from layer to layer, so that
    units of one dimension act together;
``"activation"``
    as many units in every layer, each alike in mean absolute activation a. The network's units of a layer are taken in
    random order; for each, one of the 5 free units of the layer at the smallest distance \\|log a - log a'\\| (ties:
    the lower dim) is drawn with equal probability and is then no longer free. In a layer where most units belong to the
    network the match is therefore poorer, which :func:`match_ratios` reports. Free units whose mean absolute activation
    is NaN or infinite are never drawn.

Every analysis draws here, through :func:`draw` or :func:`draw_each`, so that equal seeds give equal controls. Draw i is
the same however many are drawn, and on every machine.

References
----------
AlKhamissi, Tuckute, Bosselut & Schrimpf (2025), arXiv:2411.02280, for random units beside a network
(``match="tower"``); Sun, Chen, Kolter & Liu (2024), arXiv:2402.17762, for massive activations, the reason to match by
activation; Rosenbaum (2002), Observational Studies, chapter 10, for matching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from modalnet._deprecation import renamed_option
from modalnet._validation import check_int, check_option, check_options, check_seed
from modalnet._warnings import warn
from modalnet.errors import InputError

Match = Literal["layer", "activation", "tower", "dimension"]
MATCHES: tuple[Match, ...] = ("layer", "activation", "tower", "dimension")
N_CONTROLS = 20  # with 20 draws the smallest p of a rank is 1/21, just below 0.05
RENAMED_MATCH = {"norm": "activation"}
MATCHED = (0.5, 2.0)  # beyond these ratios of mean |activation| a control is not matched in activation
NEAREST = 5  # candidates nearest in mean absolute activation, of which an activation-matched control draws one


class UnitSet(Protocol):
    """What controls need of a set of units; :class:`modalnet.Units` in practice."""

    @property
    def mask(self) -> Mapping[str, Bool[np.ndarray, "layer unit"]]: ...

    @property
    def mean_abs(self) -> Mapping[str, Float[np.ndarray, "layer unit"]] | None: ...

    def random(self, n: int = 1, seed: int = 0, match: str = "layer") -> Sequence[Any]: ...


U = TypeVar("U", bound=UnitSet)


def check_match(value: Any, name: str = "match") -> Match:
    """Return what a control shares with its network; ``"norm"``, the old spelling of ``"activation"``, warns."""
    return check_option(name, renamed_option(name, value, RENAMED_MATCH), MATCHES)  # type: ignore[return-value]


def check_matches(values: Any, name: str = "match", *, known: Sequence[str] = MATCHES) -> tuple[str, ...]:
    """Return one or several of the known kinds of controls, each once; an empty sequence is accepted."""
    given = renamed_option(name, values, RENAMED_MATCH)
    return check_options(name, given, known, empty=True)


def stored_match(name: str) -> str:
    """Return what a kind of control, as a file names it, is called today; modalnet 0.1 wrote ``"norm"``."""
    return RENAMED_MATCH.get(name, name)


# -- drawing -----------------------------------------------------------------------------------------------------------


def draw(units: U, n: int = N_CONTROLS, *, seed: int = 0, match: str = "layer") -> list[U]:
    """Draw random controls of a network.

    Parameters
    ----------
    units
        The network.
    n
        How many controls; 0 gives none.
    seed
        A non-negative integer.
    match
        What the controls share with the network.

    Raises
    ------
    InputError
        If a layer or space has too few other units, or if ``match="activation"`` and ``mean_abs`` is not known.
    """
    check_int("n_controls", n, minimum=0)
    match = check_match(match)
    return list(units.random(n, seed, match)) if n else []


def draw_with_ratios(
    units: U, n: int = N_CONTROLS, *, seed: int = 0, match: str = "layer", name: str = "network"
) -> tuple[list[U], Float[np.ndarray, " draw"]]:
    """Draw controls of a network, and measure how well they match; a poor match in activation is warned of.

    Parameters
    ----------
    units, n, seed, match
        As for :func:`draw`.
    name
        The network, for the warning.

    Returns
    -------
    controls, ratios
        The controls, and :func:`match_ratios`.

    Raises
    ------
    InputError
        As for :func:`draw`.
    """
    controls = draw(units, n, seed=seed, match=match)
    ratios = match_ratios(units, controls)
    warn_of_poor_match(ratios, check_match(match), name)
    return controls, ratios


def draw_each(
    units: U, n: int = N_CONTROLS, *, seed: int = 0, match: Sequence[str] = MATCHES, name: str = "network"
) -> dict[str, list[U]]:
    """Draw controls of several kinds, leaving out, with a warning, the kind that these units cannot have.

    Activation-matched controls whose activations are far from those of the network get a warning, too.

    Parameters
    ----------
    units, n, seed
        As for :func:`draw`.
    match
        The kinds of controls.
    name
        The network, for the warning.

    Returns
    -------
    dict
        Kind → controls; without ``"activation"`` where the units carry no ``mean_abs``.
    """
    controls: dict[str, list[U]] = {}
    for kind in match if n else ():
        if kind == "activation" and units.mean_abs is None:
            warn(
                f"network {name!r} has no `mean_abs`, so it has no activation-matched controls: an effect of its units "
                "may be that of their large activations alone. Take units from a localization, or pass mean_abs= to "
                "Units."
            )
            continue
        controls[kind], _ = draw_with_ratios(units, n, seed=seed, match=kind, name=name)
    return controls


def draw_masks(
    mask: Mapping[str, Bool[np.ndarray, "layer unit"]],
    n: int,
    *,
    seed: int,
    match: str,
    mean_abs: Mapping[str, Float[np.ndarray, "layer unit"]] | None = None,
    exists: Mapping[str, Bool[np.ndarray, "layer unit"]] | None = None,
) -> list[dict[str, Bool[np.ndarray, "layer unit"]]]:
    """Draw the masks of n controls; :meth:`modalnet.Units.random` makes units of them.

    Parameters
    ----------
    mask
        Per space, which units belong to the network.
    n, seed, match
        As for :func:`draw`; n is at least 1.
    mean_abs
        Per space, the mean absolute activation of every unit, for ``match="activation"``.
    exists
        Per space, which units there are, others are never drawn; None for all.
    """
    n, seed, match = check_int("n", n, minimum=1), check_seed(seed), check_match(match)
    if match == "activation" and mean_abs is None:
        raise InputError(
            '`match="activation"` requires the mean absolute activation of every unit, which these units lack. Units '
            "that a localization selects (localization.top(...)) do; or pass mean_abs= to Units."
        )
    masks = []
    for number in range(n):
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        drawn = {}
        for space, selected in mask.items():
            there = np.ones_like(selected) if exists is None else exists[space]
            if match == "dimension":
                drawn[space] = _other_dimensions(rng, selected, there, f"{space!r}")
                continue
            if match == "tower":
                drawn[space] = _pick(rng, (there & ~selected).ravel(), int(selected.sum()), f"{space!r}")
                drawn[space] = drawn[space].reshape(selected.shape)
                continue
            rows = []
            for layer, row in enumerate(selected):
                where = f"layer {layer} of {space!r}"
                if match == "activation" and mean_abs is not None:
                    sizes = np.where(there[layer], mean_abs[space][layer], np.nan)
                    rows.append(_pick_alike(rng, row, sizes, where))
                else:
                    rows.append(_pick(rng, there[layer] & ~row, int(row.sum()), where))
            drawn[space] = np.stack(rows)
        masks.append(drawn)
    return masks


def draw_in_layers(
    rng: np.random.Generator,
    selected: Bool[np.ndarray, " unit"],
    layers: Sequence[slice],
    eligible: Bool[np.ndarray, " unit"],
) -> Bool[np.ndarray, " unit"]:
    """Draw as many of the eligible units in every layer as are selected there; selected units may be drawn, too.

    For the overlap that chance gives: unlike a control of :func:`draw`, such a set may share units with the network.

    Parameters
    ----------
    rng
        Source of randomness.
    selected
        Which units are selected, flat.
    layers
        Where each layer lies in the flat array.
    eligible
        Which units may be drawn.
    """
    drawn = np.zeros_like(selected)
    for layer in layers:
        count = int(selected[layer].sum())
        if count:
            candidates = layer.start + np.flatnonzero(eligible[layer])
            drawn[_shuffled(rng, candidates)[:count]] = True
    return drawn


def mean_overlap(draws: Sequence[UnitSet]) -> float:
    """Return the mean Dice overlap of two draws, over all pairs; 0 with fewer than two.

    Draws that share units cost alike, so that their spread is too small for what one more set could cost.
    """
    flat = np.stack([np.concatenate([mask.ravel() for mask in one.mask.values()]) for one in draws]) if draws else None
    if flat is None or len(flat) < 2:
        return 0.0
    together = flat.astype(np.float64) @ flat.T.astype(np.float64)
    sizes = np.diag(together)
    dice = 2 * together / np.maximum(sizes[:, None] + sizes[None, :], 1)
    n = len(flat)
    return float((dice.sum() - np.diag(dice).sum()) / (n * (n - 1)))


def distinct_dimensions(units: UnitSet) -> dict[tuple[str, int], int]:
    """Return the distinct dimensions of a set, as (space, dimension) → in how many layers it has a unit."""
    counts = {space: mask.sum(axis=0) for space, mask in units.mask.items()}
    return {(space, int(dim)): int(each[dim]) for space, each in counts.items() for dim in np.flatnonzero(each)}


# -- how well they match -----------------------------------------------------------------------------------------------


def mean_activation(units: UnitSet) -> float:
    """Return the mean of ``mean_abs`` over the units of a set; NaN where it is not known or the set is empty."""
    if units.mean_abs is None:
        return float("nan")
    values = np.concatenate([units.mean_abs[space][mask] for space, mask in units.mask.items()])
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def match_ratios(units: UnitSet, controls: Sequence[UnitSet]) -> Float[np.ndarray, " draw"]:
    """Return how well controls match a network in activation: mean |activation| of each over that of the network.

    1 is a perfect match; below 1 the controls are driven less than the network, so that zeroing them is a weaker
    intervention whatever they code.

    Parameters
    ----------
    units
        The network.
    controls
        Its controls.

    Returns
    -------
    array
        One ratio per draw; NaN where ``mean_abs`` is not known.
    """
    return ratios_of(mean_activation(units), [mean_activation(one) for one in controls])


def ratios_of(own: float, sizes: Sequence[float]) -> Float[np.ndarray, " draw"]:
    """Return the sizes of controls over that of their network; NaN where either is not known."""
    ratios = np.array(sizes, dtype=np.float64)
    return ratios / own if own > 0 else np.full_like(ratios, np.nan)


def average_ratio(ratios: Float[np.ndarray, " draw"]) -> tuple[float, float, float]:
    """Return the mean of match ratios over draws, and the lowest and highest draw; NaN where none is known."""
    known = np.asarray(ratios, dtype=np.float64)
    known = known[np.isfinite(known)]
    return (float(known.mean()), float(known.min()), float(known.max())) if known.size else (float("nan"),) * 3


def match_columns(ratios: Float[np.ndarray, " draw"]) -> dict[str, float]:
    """Return the columns of a table that say how well controls match.

    Returns
    -------
    dict
        match_ratio: mean absolute activation of the controls over that of the network, mean over draws;
        match_ratio_low, match_ratio_high: the lowest and highest draw. NaN where unknown.
    """
    return dict(zip(("match_ratio", "match_ratio_low", "match_ratio_high"), average_ratio(ratios), strict=True))


def match_sentence(ratios: Float[np.ndarray, " draw"], match: str) -> str:
    """Say how well controls match, for a summary; empty where it is not known."""
    mean, low, high = average_ratio(ratios)
    if not np.isfinite(mean):
        return ""
    spread = f" [{shown_ratio(low)}, {shown_ratio(high)}]" if len(ratios) > 1 else ""
    return f"{match}-matched controls: mean |activation| {shown_ratio(mean)} of the network's{spread}"


def shown_ratio(ratio: float) -> str:
    """Two decimals of a ratio, or one digit of one so small that these are 0."""
    return f"{ratio:.2f}" if ratio >= 0.01 else f"{ratio:.1g}"


def warn_of_poor_match(ratios: Float[np.ndarray, " draw"], match: str, name: str = "network") -> None:
    """Warn where controls that should be alike in activation are not, on average over the draws.

    Parameters
    ----------
    ratios
        From :func:`match_ratios`.
    match
        What the controls share with the network; there is no warning for any but ``"activation"``.
    name
        The network, for the warning.
    """
    mean, low, high = average_ratio(ratios)
    if match != "activation" or not np.isfinite(mean) or MATCHED[0] <= mean <= MATCHED[1]:
        return
    how = "strongly" if mean < 1 else "weakly"
    warn(
        f"the activation-matched controls of network {name!r} have {mean:.2g} times its mean |activation| ({low:.2g} "
        f"to {high:.2g} over {len(ratios)} draws): too few other units of its layers are driven as {how}. An effect "
        "that exceeds that of these controls may be one of activation alone."
    )


def _shuffled(rng: np.random.Generator, items: np.ndarray) -> np.ndarray:
    """Return the items in random order, from plain uniform doubles, which are the same on every machine."""
    return items[np.argsort(rng.random(len(items)), kind="stable")]


def _pick(rng: np.random.Generator, free: np.ndarray, count: int, where: str) -> np.ndarray:
    candidates = np.flatnonzero(free)
    _check_enough(len(candidates), count, where)
    picked = np.zeros(len(free), dtype=bool)
    picked[_shuffled(rng, candidates)[:count]] = True
    return picked


def _other_dimensions(
    rng: np.random.Generator,
    selected: Bool[np.ndarray, "layer unit"],
    there: Bool[np.ndarray, "layer unit"],
    where: str,
) -> Bool[np.ndarray, "layer unit"]:
    """Every selected dimension replaced by one that is not selected in any layer, in the same layers."""
    used = np.flatnonzero(selected.any(axis=0))
    free = _shuffled(rng, np.flatnonzero(~selected.any(axis=0)))
    # Of each used dimension, which free ones there are in all of its layers; those with few choices choose first.
    fits = np.array([there[selected[:, dim]][:, free].all(axis=0) for dim in used]).reshape(len(used), len(free))
    order = np.argsort(fits.sum(axis=1), kind="stable")
    left = np.ones(len(free), dtype=bool)
    drawn = np.zeros_like(selected)
    for place in order:
        choices = np.flatnonzero(fits[place] & left)
        if not len(choices):
            raise InputError(
                f"A control of {len(used)} dimensions of {where} needs as many of which no unit is selected; only "
                f'{len(free)} are free. Select fewer units, or draw with match="layer".'
            )
        left[choices[0]] = False
        drawn[:, free[choices[0]]] = selected[:, used[place]]
    return drawn


def _pick_alike(rng: np.random.Generator, selected: np.ndarray, mean_abs: np.ndarray, where: str) -> np.ndarray:
    free = ~selected & np.isfinite(mean_abs)
    _check_enough(int(free.sum()), int(selected.sum()), where)
    if not np.isfinite(mean_abs[selected]).all():
        raise InputError(
            f"A selected unit of {where} has no finite mean absolute activation, so no unit can be matched to it."
        )
    picked = np.zeros(len(free), dtype=bool)
    sizes = np.maximum(mean_abs, np.finfo(np.float64).tiny)
    for unit in _shuffled(rng, np.flatnonzero(selected)):
        candidates = np.flatnonzero(free)
        # The ratio of the larger to the smaller orders units as |log a - log b| does, and division, unlike log, is
        # rounded alike on every machine.
        with np.errstate(over="ignore"):
            ratio = np.maximum(sizes[candidates], sizes[unit]) / np.minimum(sizes[candidates], sizes[unit])
        nearest = candidates[np.argsort(ratio, kind="stable")[:NEAREST]]
        choice = nearest[int(rng.random() * len(nearest))]
        free[choice] = False
        picked[choice] = True
    return picked


def _check_enough(free: int, count: int, where: str) -> None:
    if free < count:
        raise InputError(
            f"A control of {count} units of {where} needs as many that are not selected; only {free} are free. "
            'Select fewer units, or draw with match="tower".'
        )
