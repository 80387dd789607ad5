"""The activation of units at each token of some stimuli, and where in an image each token looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from modalnet.features.result import NETWORK, TokenActivations

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Int

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
    places = _ImageBoxes(model)
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


class _ImageBoxes:
    """Where in its image each token looks, measured once per image size."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[object, Float[np.ndarray, "image_token 4"] | None] = {}

    def of(
        self, stimulus: Stimulus, space: str, is_image: Bool[np.ndarray, " token"]
    ) -> Float[np.ndarray, "token 4"] | None:
        """Return (left, top, right, bottom) per token, NaN outside the image; None where that is not known."""
        if stimulus.n_images != 1:
            return None
        key = space, stimulus.inspect().sizes, int(is_image.sum())
        if key not in self._known:
            found = self._model._executor.image_places(stimulus, space)
            self._known[key] = None if found is None or len(found) != len(is_image) else found[is_image]
        known = self._known[key]
        if known is None:
            return None
        boxes = np.full((len(is_image), 4), np.nan)
        boxes[is_image] = known
        return boxes
