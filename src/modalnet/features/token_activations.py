"""The activation of units at each token of some stimuli, and where in an image each token looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from modalnet.execution.token_locations import ImageBoxes
from modalnet.features.result import NETWORK, TokenActivations

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.features.response import Response
    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

CHUNK = 16  # stimuli per run


def measure_token_activations(
    model: Model,
    response: Response,
    index: Int[np.ndarray, "row n"],
    stimuli: Mapping[int, Stimulus],
    *,
    progress: bool,
) -> TokenActivations:
    """Measure what units do at each token of their maximally activating stimuli.

    Parameters
    ----------
    model, response
        The model, and the units that are read.
    index
        Indices of the stimuli: first the network's row, then one row per unit; -1 for none.
    stimuli
        Stimulus by index.
    progress
        Show a progress bar.
    """
    from tqdm.auto import tqdm

    found = TokenActivations()
    ranks: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # stimulus -> its rows and ranks
    for row, rank in np.argwhere(index >= 0):
        ranks[int(index[row, rank])].append((int(row) + NETWORK, int(rank)))
    places = ImageBoxes(model._executor.image_places)
    numbers = sorted(ranks)
    with tqdm(total=len(numbers), desc="per token", unit="stimulus", disable=not progress, leave=False) as bar:
        for start in range(0, len(numbers), CHUNK):
            chunk = numbers[start : start + CHUNK]
            given = [stimuli[number] for number in chunk]
            run = model.run(given, read=response.layers, tokens="all")
            tokens = model._executor.token_rows(given, list(response.layers))
            for position, number in enumerate(chunk):
                for space in response.layers:
                    row = tokens[position][space]
                    found.tokens[space, number] = row.names
                    boxes = places.of(given[position], space, row.image) if row.image.any() else None
                    if boxes is not None:
                        found.boxes[space, number] = boxes
                    _add(found, response, space, run.activations[space][position], ranks[number])
            bar.update(len(chunk))
    return found


def _add(
    found: TokenActivations,
    response: Response,
    space: str,
    values: Float[torch.Tensor, "layer token dim"],
    ranks: list[tuple[int, int]],
) -> None:
    """Add the activations of one stimulus in one space."""
    rows = [row for row, unit in enumerate(response.units) if unit[0] == space]
    layers = [response.layers[space].index(response.units[row][1]) for row in rows]
    picked = values[layers, :, [response.units[row][2] for row in rows]]
    magnitudes = response.magnitudes(picked.double().numpy())  # [unit, token]
    for row, rank in ranks:
        if row == NETWORK:
            found.activations[space, row, rank] = np.mean(magnitudes / response.scale[rows, None], axis=0)
        elif row in rows:
            found.activations[space, row, rank] = magnitudes[rows.index(row)]
