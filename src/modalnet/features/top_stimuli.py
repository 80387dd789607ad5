"""Maximally activating stimuli, found in one pass over any number of stimuli.

Each batch's activations are compared with the largest so far and dropped, so memory holds ``n`` values per unit and the
stimuli that they belong to. Those few stimuli then run once more, token by token, to show what in them the units
respond to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_int, check_option, check_shared
from modalnet.features.response import (
    MAGNITUDES,
    Magnitude,
    Response,
    Unit,
    check_reach,
    response_of,
    stream_activations,
    token_choices,
    units_of,
)
from modalnet.features.result import TokenActivations, TopStimuli
from modalnet.features.running_top import RunningTop
from modalnet.features.token_activations import measure_token_activations
from modalnet.model import Model, as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.results.cache import CacheLike, cached
from modalnet.stimuli.conversion import StimuliLike, as_stimuli

if TYPE_CHECKING:
    from jaxtyping import Float

    from modalnet.interventions.positions import TokenChoice, TokensLike
    from modalnet.stimuli import Stimulus
    from modalnet.units import UnitsLike

CHUNK = 1024  # stimuli that are sorted into batches together


@renamed_arguments(shades="per_token")
@reads_weights_once
def top_stimuli(
    model: Model | Any,
    units: UnitsLike | Unit,
    stimuli: StimuliLike,
    n: int = 9,
    *,
    bottom: bool = False,
    tokens: TokensLike = None,
    magnitude: Magnitude = "absolute",
    scaled: bool | None = None,
    per_token: bool = True,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> TopStimuli:
    """Find the maximally activating stimuli of each unit, and of the network that the units form.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`, or anything that it loads.
    units
        Units, such as ``localization.top(fraction=0.01)``, or one unit as ``(space, layer, index)``.
    stimuli
        Stimuli, strings or a contrast; any iterable is read once, and only the maximally activating stimuli are held
        in memory. To characterize units that a localizer selected, use stimuli that did not select them.
    n
        Number of stimuli per unit.
    bottom
        Find the minimally activating stimuli instead.
    tokens
        Token positions that an activation is the mean over, as for :func:`modalnet.localize`.
    magnitude
        ``"absolute"`` ranks by absolute activation, as localizers do; ``"signed"`` by activation.
    scaled
        Whether each unit is divided by its mean absolute activation in the network's response, the mean over its units;
        if None, where the units carry it.
    per_token
        Run the stimuli that were found once more, for the activation at each of their tokens.
    batch_size, remote, progress
        As for :func:`modalnet.localize`.
    cache
        Whether the result is stored and reused, for a list or a contrast. Another iterable would have to be read
        to know whether its stimuli are the same, so nothing is stored for it.

    Returns
    -------
    TopStimuli
        ``.index`` and ``.activation`` ``[unit, n]``, ``.network_index`` and ``.network_activation`` ``[n]``,
        ``.stimuli``, ``.table()``, ``.plot()``.

    Raises
    ------
    InputError
        For units of another model, or stimuli that do not reach their tower.

    References
    ----------
    Zeiler & Fergus (2014), Visualizing and Understanding Convolutional Networks, arXiv:1311.2901, figure 2.

    Examples
    --------
    >>> faces = mn.localize(model, mn.stimuli.categories())  # doctest: +SKIP
    >>> mn.features.top_stimuli(model, faces.top(k=20), pictures).plot()  # doctest: +SKIP
    """
    check_shared(batch_size=batch_size, cache=cache, progress=progress)
    check_int("n", n, minimum=1)
    check_option("magnitude", magnitude, MAGNITUDES)
    model = as_model(model, remote)
    chosen = units_of(model, units)
    response = response_of(model, chosen, magnitude, scaled=scaled)
    held = _held(stimuli)

    def compute() -> TopStimuli:
        given = stimuli if held is None else held
        return _searched(
            model, response, given, n, tokens, batch_size, bottom=bottom, per_token=per_token, progress=progress
        )

    if held is None:
        return compute()
    check_reach(model, response.layers, held[:CHUNK])
    settings = {
        "n": n,
        "bottom": bottom,
        "tokens": token_choices(model, response.layers, held[:CHUNK], tokens),
        "magnitude": magnitude,
        "scaled": response.scaled,
        "per_token": per_token,
    }

    def inputs() -> dict[str, Any]:
        return {"name": model.name, "units": chosen, "stimuli": [one.inspect().digest for one in held]}

    found = cached(model, "top_stimuli", inputs, settings, compute, result=TopStimuli, cache=cache)
    # A stored result holds thumbnails, and the conditions and ids of an earlier call.
    return replace(found, stimuli={index: held[index] for index in found.stimuli})


def _searched(  # noqa: PLR0917  # one call, above
    model: Model,
    response: Response,
    stimuli: StimuliLike,
    n: int,
    tokens: TokensLike,
    batch_size: int | Literal["auto"],
    *,
    bottom: bool,
    per_token: bool,
    progress: bool,
) -> TopStimuli:
    """Run all stimuli, and once more, token by token, those that were found, if ``per_token``."""
    from tqdm.auto import tqdm

    chunks, total = _chunks(stimuli)
    top = RunningTopStimuli(response, n, bottom=bottom)
    choices: dict[str, TokenChoice] = {}
    with tqdm(total=total, desc="top stimuli", unit="stimulus", disable=not progress) as bar:
        for chunk in chunks:
            check_reach(model, response.layers, chunk)
            choices = choices or token_choices(model, response.layers, chunk, tokens)
            prepared = model._executor.prepare(chunk)
            for indices, (activations,) in stream_activations(model, [response], prepared, choices, batch_size):
                top.update(activations, indices)
                bar.update(len(indices))
            top.end_chunk(chunk)
    shown = TokenActivations()
    if per_token:
        index = np.concatenate([top.network.index, top.units.index])
        shown = measure_token_activations(model, response, index, top.stimuli, progress=progress)
    return top.result(model, choices, shown)


class RunningTopStimuli:
    """The maximally activating stimuli so far, of each unit and of the network.

    Parameters
    ----------
    response
        Which units are read.
    n, bottom
        As for :func:`top_stimuli`.
    """

    def __init__(self, response: Response, n: int, *, bottom: bool) -> None:
        self.response, self.bottom = response, bottom
        self.units = RunningTop(len(response.units), n, smallest=bottom)
        self.network = RunningTop(1, n, smallest=bottom)
        self.stimuli: dict[int, Stimulus] = {}
        self.count = 0

    def update(self, activations: Float[np.ndarray, "stimulus unit"], indices: list[int]) -> None:
        """Add the activations of some stimuli, by their indices in the chunk."""
        magnitudes = self.response.magnitudes(activations)
        indices = [self.count + index for index in indices]
        self.units.update(magnitudes, indices)
        self.network.update(self.response.network(magnitudes)[:, None], indices)

    def end_chunk(self, chunk: list[Stimulus]) -> None:
        """Hold those stimuli of the chunk, and of earlier ones, that are among the top n of a row."""
        known = self.stimuli | {self.count + index: stimulus for index, stimulus in enumerate(chunk)}
        self.stimuli = {index: known[index] for index in self.winners()}
        self.count += len(chunk)

    def winners(self) -> list[int]:
        """Return the indices of all stimuli that are among the top n of a row."""
        every = np.unique(np.concatenate([self.units.index.ravel(), self.network.index.ravel()]))
        return [int(index) for index in every if index >= 0]

    def result(self, model: Model, choices: Mapping[str, TokenChoice], shown: TokenActivations) -> TopStimuli:
        """Return the result."""
        return TopStimuli(
            model.name,
            self.response.units,
            dict(choices),
            self.response.magnitude,
            self.bottom,
            self.response.scaled,
            self.count,
            self.units.index,
            self.units.values,
            self.network.index[0],
            self.network.values[0],
            self.stimuli,
            shown,
        )


def _held(stimuli: StimuliLike) -> list[Stimulus] | None:
    """Return the stimuli that are in memory; None for an iterable that is read once."""
    from modalnet.stimuli.contrast import Contrast
    from modalnet.stimuli.stimulus import Stimulus

    return as_stimuli(stimuli) if isinstance(stimuli, Contrast | Stimulus | str | list | tuple) else None


def _chunks(stimuli: StimuliLike) -> tuple[Iterator[list[Stimulus]], int | None]:
    """Cut stimuli into chunks; also return their number, if it is known."""
    from modalnet.stimuli.contrast import Contrast
    from modalnet.stimuli.stimulus import Stimulus

    if isinstance(stimuli, Contrast | str | Stimulus) or not isinstance(stimuli, Iterable):
        stimuli = as_stimuli(stimuli)
    total = len(stimuli) if isinstance(stimuli, Sized) else None
    remaining = iter(stimuli)

    def chunks() -> Iterator[list[Stimulus]]:
        chunk = as_stimuli(list(islice(remaining, CHUNK)))  # none at all is an error
        while chunk:
            yield chunk
            following = list(islice(remaining, CHUNK))
            chunk = as_stimuli(following) if following else []

    return chunks(), total
