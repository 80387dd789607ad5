"""Networks under permuted labels, and what overlap and separation they have.

Two contrasts that have nothing to do with one another are taken as one contrast and labels without meaning. The labels
of one contrast are permuted while the network of the other stays, the other way round, and both at once; a p value is
the largest of the three. Permuting both alone asks whether *any* of the two contrasts has an effect: with an effect in
one of them it finds networks separate in a fifth to a quarter of simulations in which the other has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from modalnet.activations import LARGEST, read_activations
from modalnet.errors import InputError
from modalnet.specialization.overlap import divergence
from modalnet.stats.label_permutation import PermutedNetworks
from modalnet.stats.permutation import rank_p
from modalnet.stats.resampling import interval
from modalnet.units import Units

if TYPE_CHECKING:
    from modalnet.model import Model
    from modalnet.stimuli import Contrast

STATISTICS = 1 << 22  # numbers of one part, [permutation, unit]
ALIKE = 0.9  # Dice of a network with that of the contrast's own labels: float32 noise moves a unit or two

Networks = Int[np.ndarray, "permutation _"]


def permuted_networks(
    model: Model,
    units: Units,
    localization: Any,
    contrast: Contrast,
    *,
    n_permutations: int,
    seed: int,
    options: Mapping[str, Any],
) -> Networks:
    """Select the network of a contrast from permuted labels.

    The stimuli run once, if their activations take at most half a gigabyte, else once for each half gigabyte of layers;
    the store keeps them. Each permutation costs a matrix product, observations times units.

    Parameters
    ----------
    model, units, localization, contrast
        The network, what it was selected from, and its stimuli.
    n_permutations, seed
        How many permutations, and their seed.
    options
        Options for reading activations.

    Returns
    -------
    array
        int64 [1 + permutation, k], the numbers of the units in the order of the masks of `units`; the first network is
        that of the contrast itself.

    Raises
    ------
    InputError
        If the contrast is not the localization's, or its labels do not give the network.
    """
    permuted = localization.permuted(contrast, n_permutations, seed)
    shapes = {name: mask.shape for name, mask in units.mask.items()}
    starts = dict(zip(shapes, np.cumsum([0, *(a * b for a, b in shapes.values())]).tolist(), strict=False))
    made = PermutedNetworks(permuted.labels, units.count)
    step = max(1, STATISTICS // permuted.labels.n)
    for name, layer, values in _layers(model, localization, contrast, options):
        first, observed = starts[name] + layer * shapes[name][1], permuted.observations(values)
        for start in range(0, observed.shape[1], step):
            part = observed[:, start : start + step]
            made.add(first + start + np.arange(part.shape[1]), part)
    networks = made.networks
    shared = len(np.intersect1d(networks[0], np.flatnonzero(np.concatenate([m.ravel() for m in units.mask.values()]))))
    if shared < ALIKE * units.count:
        raise InputError("the network is not the top units of the contrast by t")
    return networks


def _layers(
    model: Model, localization: Any, contrast: Contrast, options: Mapping[str, Any]
) -> Iterator[tuple[str, int, Float[np.ndarray, "stimulus unit"]]]:
    """Space, layer and activations of every localized layer, read in as few passes as fit into memory."""
    meta = localization.meta
    tokens, absolute = meta.get("tokens"), meta.get("magnitude", "absolute") == "absolute"
    parts: list[dict[str, list[int]]] = []
    size = LARGEST
    for name, (layers, width) in localization.shapes.items():
        for layer in range(layers):
            size += 4 * len(contrast) * width
            if size > LARGEST:
                parts.append({})
                size = 4 * len(contrast) * width
            parts[-1].setdefault(name, []).append(layer)
    for part in parts:
        here = {name: one for name, one in tokens.items() if name in part} if isinstance(tokens, Mapping) else tokens
        read = read_activations(
            model,
            contrast.stimuli,
            part,
            tokens=here,
            max_tokens=meta.get("max_tokens"),
            raw=bool(meta.get("raw")),
            what="permuting labels",
            **options,
        )
        for name, layers in part.items():
            for place, layer in enumerate(layers):
                values = read.values[name][:, place]
                yield name, layer, np.abs(values) if absolute else values


def compared(a: Units, b: Units, of_a: Networks, of_b: Networks) -> tuple[dict[str, float], dict[str, float]]:
    """Compare the overlap and the separation of two networks with those under permuted labels.

    Parameters
    ----------
    a, b
        The networks.
    of_a, of_b
        From :func:`permuted_networks`, of contrasts that share no stimulus.

    Returns
    -------
    overlap
        dice_permuted: mean under permutation of both contrasts, with dice_permuted_low and dice_permuted_high (2.5th
        and 97.5th percentile); p_more, p_less: one-sided, of an overlap as large (as small).
    separation
        divergence_permuted: the same mean; p, of a divergence as large.
    """
    layers = np.repeat(
        np.arange(sum(len(mask) for mask in a.mask.values())),
        [mask.shape[1] for mask in a.mask.values() for _ in mask],
    )
    n = int(layers[-1]) + 1 if len(layers) else 0

    def shared(one: Networks, other: Networks) -> Float[np.ndarray, " permutation"]:
        pairs = zip(one, other, strict=True)
        return np.array([len(np.intersect1d(x, y, assume_unique=True)) for x, y in pairs], dtype=np.float64)

    def apart(one: Networks, other: Networks) -> Float[np.ndarray, " permutation"]:
        return divergence(*(np.stack([np.bincount(layers[x], minlength=n) for x in each]) for each in (one, other)))

    own_a, own_b = (_numbers(units)[None] for units in (a, b))
    drawn_a, drawn_b = of_a[1:], of_b[1:]
    still_a, still_b = np.repeat(own_a, len(drawn_a), axis=0), np.repeat(own_b, len(drawn_b), axis=0)
    nulls = [(drawn_a, drawn_b), (still_a, drawn_b), (drawn_a, still_b)]
    overlaps, distances = ([measure(*null) for null in nulls] for measure in (shared, apart))
    here, away = float(shared(own_a, own_b)[0]), float(apart(own_a, own_b)[0])
    size = max(a.count + b.count, 1)
    low, high = interval(overlaps[0])
    return {
        "dice_permuted": 2 * float(overlaps[0].mean()) / size,
        "dice_permuted_low": 2 * float(low) / size,
        "dice_permuted_high": 2 * float(high) / size,
        "p_more": max(rank_p(here, null, alternative="greater") for null in overlaps),
        "p_less": max(rank_p(here, null, alternative="less") for null in overlaps),
    }, {
        "divergence_permuted": float(distances[0].mean()),
        "p": max(rank_p(away, null, alternative="greater") for null in distances),
    }


#: What :func:`compared` returns where labels cannot be permuted.
UNTESTED: tuple[dict[str, float], dict[str, float]] = (
    dict.fromkeys(("dice_permuted", "dice_permuted_low", "dice_permuted_high", "p_more", "p_less"), np.nan),
    dict.fromkeys(("divergence_permuted", "p"), np.nan),
)


def _numbers(units: Units) -> Int[np.ndarray, " k"]:
    return np.flatnonzero(np.concatenate([mask.ravel() for mask in units.mask.values()]))
