"""The stimuli that drive units most, found in one pass over any number of stimuli.

Each batch's activations are compared with the best so far and dropped, so memory holds ``n`` values per unit and the
stimuli that they belong to. Those few then run once more, token by token, to show what in them the units respond to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.features.response import Response, check_reach, respond, token_choices, watch
from modalnet.features.result import NETWORK, Shown, TopStimuli
from modalnet.features.running_top import RunningTop
from modalnet.model import Model, as_model
from modalnet.stimuli.conversion import as_stimuli

if TYPE_CHECKING:
    from modalnet.interventions.positions import TokenChoice
    from modalnet.stimuli import Stimulus

# So many stimuli are sorted into batches together; so many of the best are looked at token by token at once.
TOGETHER, AT_ONCE = 1024, 16


def top_stimuli(
    model: Model | Any,
    units: Any,
    stimuli: Any,
    n: int = 9,
    *,
    bottom: bool = False,
    tokens: Any = None,
    magnitude: Literal["absolute", "signed"] = "absolute",
    scaled: bool | None = None,
    shades: bool = True,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    progress: bool = True,
) -> TopStimuli:
    """Find the stimuli that drive each unit most, and the network that the units are.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`, or anything that it loads.
    units
        Units, such as ``localization.top(fraction=0.01)``, or one as ``(tower, layer, dim)``.
    stimuli
        Stimuli, strings or a contrast: a list, or anything that hands them out one by one, of which only the best are
        kept. To say something about units that a localizer selected, give stimuli that did not select them.
    n
        How many are kept per unit.
    bottom
        Keep those that drive it least.
    tokens
        Which tokens an activation is the mean over, as for :func:`modalnet.localize`.
    magnitude
        ``"absolute"`` goes by \\|activation\\|, as localizers do; ``"signed"`` by the activation.
    scaled
        In the network's response, the mean over its units, whether each unit is divided by its mean \\|activation\\|;
        None: where the units carry that.
    shades
        Run the stimuli that were found once more, for the activations at each of their tokens.
    batch_size, remote, progress
        As for :func:`modalnet.localize`.

    Returns
    -------
    TopStimuli
        ``.index`` and ``.activation`` ``[unit, n]``, the same for the network, ``.stimuli``, ``.table()``, ``.plot()``.

    Raises
    ------
    InputError
        For units of another model, stimuli that do not reach their tower, or anything that is no stimulus.

    Examples
    --------
    >>> faces = mn.localize(model, mn.stimuli.categories())  # doctest: +SKIP
    >>> mn.features.top_stimuli(model, faces.top(k=20), pictures).plot()  # doctest: +SKIP
    """
    from tqdm.auto import tqdm

    _check_n(n)
    model = as_model(model, remote)
    response = respond(model, units, magnitude, scaled=scaled)
    chunks, total = _chunks(stimuli)
    best = Best(response, n, bottom=bottom)
    choices: dict[str, TokenChoice] = {}
    with tqdm(total=total, desc="looking", unit="stimulus", disable=not progress) as bar:
        for chunk in chunks:
            check_reach(model, response.layers, chunk)
            choices = choices or token_choices(model, response.layers, chunk, tokens)
            for places, (raw,) in watch(model, [response], model._executor.prepare(chunk), choices, batch_size):
                best.update(raw, places)
                bar.update(len(places))
            best.keep(chunk)
    shown = _token_by_token(model, response, best, choices, progress=progress) if shades else Shown()
    return best.result(model, choices, shown)


class Best:
    """The best stimuli so far, of each unit and of the network.

    Parameters
    ----------
    response
        What is read.
    n, bottom
        As for :func:`top_stimuli`.
    """

    def __init__(self, response: Response, n: int, *, bottom: bool) -> None:
        self.response, self.bottom = response, bottom
        self.units = RunningTop(len(response.units), n, smallest=bottom)
        self.network = RunningTop(1, n, smallest=bottom)
        self.stimuli: dict[int, Stimulus] = {}
        self.count = 0

    def update(self, raw: np.ndarray, places: list[int]) -> None:
        """Take in ``[stimulus, unit]`` of some stimuli, by their places in the chunk."""
        sized = self.response.sized(raw)
        indices = [self.count + place for place in places]
        self.units.update(sized, indices)
        self.network.update(self.response.network(sized)[:, None], indices)

    def keep(self, chunk: list[Stimulus]) -> None:
        """End a chunk: of its stimuli, and of those before, keep the best."""
        known = self.stimuli | {self.count + place: stimulus for place, stimulus in enumerate(chunk)}
        winners = np.unique(np.concatenate([self.units.index.ravel(), self.network.index.ravel()]))
        self.stimuli = {int(index): known[int(index)] for index in winners if index >= 0}
        self.count += len(chunk)

    def result(self, model: Model, choices: Mapping[str, Any], shown: Shown) -> TopStimuli:
        """What was found."""
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


def _check_n(n: Any) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n={n!r}: give how many stimuli are kept per unit, a whole number from 1.")


def _chunks(stimuli: Any) -> tuple[Iterator[list[Stimulus]], int | None]:
    """The stimuli in parts, and how many there are, where that can be told."""
    from modalnet.stimuli.contrast import Contrast
    from modalnet.stimuli.stimulus import Stimulus

    if isinstance(stimuli, Contrast | str | Stimulus) or not isinstance(stimuli, Iterable):
        stimuli = as_stimuli(stimuli)
    total = len(stimuli) if hasattr(stimuli, "__len__") else None
    waiting = iter(stimuli)

    def parts() -> Iterator[list[Stimulus]]:
        first = as_stimuli(list(islice(waiting, TOGETHER)))  # none at all is an error
        while first:
            yield first
            more = list(islice(waiting, TOGETHER))
            first = as_stimuli(more) if more else []

    return parts(), total


def _token_by_token(
    model: Model, response: Response, best: Best, choices: Mapping[str, Any], *, progress: bool
) -> Shown:
    """What the units do at each token of the best stimuli."""
    from tqdm.auto import tqdm

    shown = Shown()
    rows: dict[int, list[tuple[int, int]]] = {}
    every = np.concatenate([best.network.index, best.units.index])
    for place, rank in np.argwhere(every >= 0):
        rows.setdefault(int(every[place, rank]), []).append((int(place) + NETWORK, int(rank)))
    places: dict[Any, Any] = {}
    numbers = sorted(rows)
    with tqdm(total=len(numbers), desc="token by token", unit="stimulus", disable=not progress, leave=False) as bar:
        for start in range(0, len(numbers), AT_ONCE):
            some = numbers[start : start + AT_ONCE]
            stimuli = [best.stimuli[number] for number in some]
            run = model.run(stimuli, read=response.layers, tokens="all")
            names = model._executor.token_rows(stimuli, list(response.layers))
            for at, number in enumerate(some):
                for tower in response.layers:
                    row = names[at][tower]
                    shown.tokens[tower, number] = row.names
                    if row.image.any():
                        boxes = _boxes(model, stimuli[at], tower, row.image, places)
                        if boxes is not None:
                            shown.boxes[tower, number] = boxes
                    own = [place for place, unit in enumerate(response.units) if unit[0] == tower]
                    layers = response.layers[tower]
                    index = [layers.index(response.units[place][1]) for place in own]
                    states = run.activations[tower][at][index, :, [response.units[place][2] for place in own]]
                    sized = response.sized(states.double().numpy())  # [unit, token]
                    for place, rank in rows[number]:
                        if place == NETWORK:
                            shown.shades[tower, place, rank] = np.mean(sized / response.sizes[own, None], axis=0)
                        elif place in own:
                            shown.shades[tower, place, rank] = sized[own.index(place)]
            bar.update(len(some))
    return shown


def _boxes(model: Model, stimulus: Stimulus, tower: str, image: np.ndarray, known: dict[Any, Any]) -> Any:
    """Where in its picture each token looks, ``[token, 4]``; measured once per size of picture."""
    if stimulus.n_images != 1:
        return None
    key = tower, stimulus.inspect().sizes, int(image.sum())
    if key not in known:
        found = model._executor.image_places(stimulus, tower)
        known[key] = None if found is None or len(found) != len(image) else found[image]
    if known[key] is None:
        return None
    boxes = np.full((len(image), 4), np.nan)
    boxes[image] = known[key]
    return boxes
