"""Statistics of units over tokens, and random tokens, both taken where the model is and without sink tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.passes import Readout

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.execution.executor import Executor
    from modalnet.inputs.batch import Prepared
    from modalnet.interventions.positions import TokenChoice

_NO_TOKEN = "No stimulus has a token left in {}: all of those chosen are spared{}."
_OR_SINKS = " or are sinks; spare_sinks=False keeps these"


class Statistics(NamedTuple):
    """Statistics of one space: arrays float64 ``[layer, unit]``, and counts at its first layer.

    The mean of units that have several numbers is that of their numbers, ``[layer, number]``, and their deviation is
    the root mean squared distance from it.
    """

    mean: Float[np.ndarray, "layer number"]
    sd: Float[np.ndarray, "layer unit"]
    mean_abs: Float[np.ndarray, "layer unit"]
    sink_mean_abs: Float[np.ndarray, "layer unit"]
    n_stimuli: int
    n_tokens: int
    n_sinks: int


def read_statistics(
    executor: Executor,
    prepared: Sequence[Prepared],
    choices: Mapping[str, TokenChoice],
    spare_first: int,
    *,
    spare_sinks: bool,
    batch_size: int | Literal["auto"] = "auto",
) -> dict[str, Statistics]:
    """Per space the statistics of its units at the chosen tokens; see :func:`modalnet.activations.token_statistics`."""
    sites = executor.sites(list(choices), prepared, list(executor.towers))
    readout = Readout(
        sites,
        choices,
        variants=[executor.edits((), prepared, batch_size)],
        spare_first=spare_first,
        sinks=executor.sinks_of(prepared, sites, batch_size),
        keeps_sinks=not spare_sinks,
        taken="moments",
    )
    # [tokens or sinks, layer, x, x squared or |x|, unit]; per layer, stimuli that have such tokens, and the tokens.
    sums = {site.name: np.zeros((2, site.space.n_layers, 3, site.space.n_numbers)) for site in sites}
    stimuli = {site.name: np.zeros((2, site.space.n_layers), dtype=int) for site in sites}
    tokens = {site.name: np.zeros((2, site.space.n_layers), dtype=int) for site in sites}
    for result in executor.runner.stream(prepared, readout, batch_size):
        for name, values in result.activations.items():
            counts = result.counts[name].reshape(-1, *stimuli[name].shape)
            there = counts > 0
            held = values.masked_fill(~there.reshape(-1, values.shape[1])[..., None], 0.0)
            sums[name] += held.reshape(-1, *sums[name].shape).sum(0).numpy()
            stimuli[name] += there.sum(0).numpy()
            tokens[name] += counts.sum(0).numpy()
            del values, held
        del result  # or it would be held while the next batch runs
    made = {}
    for name, total in sums.items():
        if not stimuli[name][0].all():
            raise InputError(_NO_TOKEN.format(name, _OR_SINKS if spare_sinks else ""))
        with np.errstate(invalid="ignore"):
            means = total / stimuli[name][:, :, None, None]
        mean, square, size = means[0].swapaxes(0, 1)
        # The mean square about the mean: x squared is summed in float64, so that little is lost.
        space = executor.spaces[name]
        sd = np.sqrt(space.of_units(np.maximum(square - mean**2, 0.0)).sum(-1))
        n_tokens, n_sinks = tokens[name][:, 0].tolist()
        sizes, at_sinks = (  # every number of a unit has the unit's length beside it
            np.where(space.exists, space.of_units(each)[..., 0], np.nan) for each in (size, means[1][:, 2])
        )
        made[name] = Statistics(mean, sd, sizes, at_sinks, int(stimuli[name][0, 0]), n_tokens, n_sinks)
    return made


def draw_donors(
    executor: Executor,
    prepared: Sequence[Prepared],
    spaces: Sequence[str],
    *,
    spare_sinks: bool,
    seed: int,
    n_tokens: int,
    spare_first: int = 0,
) -> dict[str, Float[np.ndarray, "donor layer unit"]]:
    """Per space the activations of random tokens of stimuli; see :func:`modalnet.activations.donors`."""
    import torch

    sites = executor.sites(list(spaces), prepared, list(executor.towers))
    sinks = executor.sinks_of(prepared, sites) if spare_sinks else None
    each = -(-n_tokens // len(prepared))
    contents = [int(item.content[:16], 16) for item in prepared]

    def draw(index: int, tower: str, count: int) -> Int[torch.Tensor, " drawn"]:
        # The same tokens in every space of a tower, whatever batch the stimulus is in.
        return torch.from_numpy(np.random.default_rng([seed, contents[index]]).permutation(count)[:each].copy())

    readout = Readout(
        sites, dict.fromkeys(spaces, "all"), spare_first=spare_first, sinks=sinks, draw=draw, numbers=True
    )
    read: dict[str, list[torch.Tensor]] = {name: [torch.empty(0)] * len(prepared) for name in spaces}
    for result in executor.runner.stream(prepared, readout):
        for name, values in result.activations.items():
            for index, rows in zip(result.indices, values, strict=True):
                read[name][index] = rows.transpose(0, 1)
    found = {}
    for name, parts in read.items():
        # First one token of each stimulus in a random order, then a second one: so they are drawn evenly.
        listed = sorted(range(len(parts)), key=contents.__getitem__)
        order = [listed[place] for place in np.random.default_rng([seed, len(prepared)]).permutation(len(parts))]
        turns = [(turn, index) for turn in range(each) for index in order if turn < len(parts[index])]
        kept = sorted(((index, turn) for turn, index in turns[:n_tokens]), key=lambda one: (contents[one[0]], one[1]))
        if not kept:
            raise InputError(_NO_TOKEN.format(name, _OR_SINKS if spare_sinks else ""))
        found[name] = torch.stack([parts[index][turn] for index, turn in kept]).numpy().copy()
        found[name].setflags(write=False)
    return found
