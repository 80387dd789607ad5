"""How many units two halves of the stimuli of a contrast share, beside what permuted labels give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.localization.localizer import localize
from modalnet.protocols.protocol import Protocol
from modalnet.replication.material import part_of_contrast
from modalnet.specialization.permuted import compared, permuted_networks
from modalnet.stats.controls import draw

if TYPE_CHECKING:
    from modalnet.model import Model
    from modalnet.stimuli.contrast import Contrast

N_PERMUTATIONS = 199
DRAWS = 20


def shared_by_halves(
    model: Model,
    contrast: Contrast,
    protocol: Protocol,
    fraction: float,
    *,
    seed: int,
    options: Mapping[str, Any],
) -> dict[str, float] | None:
    """Localize a network in each half of the stimuli, and compare the overlap with that under permuted labels.

    Where every item is on both sides, the comparison with permuted labels has the paired test: labels are exchanged
    within items, and the test is of differences within them.

    Returns
    -------
    dict or None
        dice, dice_random: share of the units of one half that the other has, too, as published, and the same of
        layer-matched random units; dice_tested, dice_permuted: the share under the test that labels are permuted for,
        and its mean under permuted labels; p_more: one-sided, the largest of permuting the labels of either half and of
        both (NaN where they cannot be permuted). None where a half has too few stimuli.
    """
    try:
        halves = [part_of_contrast(contrast, part) for part in ("first half", "second half")]
        first, second = (localize(model, half, protocol=protocol, **options).top(fraction=fraction) for half in halves)
    except InputError:
        return None
    drawn = draw(second, DRAWS, seed=seed)
    result = {
        "dice": first.dice(second),
        "dice_random": sum(first.dice(one) for one in drawn) / len(drawn),
        "dice_tested": math.nan,
        "dice_permuted": math.nan,
        "p_more": math.nan,
    }
    try:
        return result | _permuted(model, halves, _paired(protocol, contrast), fraction, seed, options)
    except InputError:
        return result


def _paired(protocol: Protocol, contrast: Contrast) -> Protocol:
    """The protocol with the paired test, where every item is on both sides."""
    sides: dict[str | None, set[str]] = {}
    for item, side in zip(contrast.items, contrast.sides, strict=True):
        sides.setdefault(item, set()).add(side)
    pairs = None not in sides and all(len(found) == 2 for found in sides.values())
    if protocol.localizer is None or not pairs:
        return protocol
    return replace(protocol, localizer=replace(protocol.localizer, statistic="paired"))


def _permuted(  # noqa: PLR0917  # one call, above
    model: Model,
    halves: Sequence[Contrast],
    protocol: Protocol,
    fraction: float,
    seed: int,
    options: Mapping[str, Any],
) -> dict[str, float]:
    """The overlap of the halves' networks beside that under permuted labels."""
    found = [localize(model, half, protocol=protocol, **options) for half in halves]
    networks = [one.top(fraction=fraction) for one in found]
    permuted = [
        permuted_networks(model, units, one, half, n_permutations=N_PERMUTATIONS, seed=seed + place, options=options)
        for place, (units, one, half) in enumerate(zip(networks, found, halves, strict=True))
    ]
    overlap, _ = compared(networks[0], networks[1], *permuted)
    return {
        "dice_tested": networks[0].dice(networks[1]),
        "dice_permuted": overlap["dice_permuted"],
        "p_more": overlap["p_more"],
    }
