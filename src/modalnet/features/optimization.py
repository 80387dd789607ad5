"""Feature visualization: an image that maximally activates a unit or a network, by gradient ascent.

Some image activates any set of units, so an optimized image says little by itself. Images are therefore also optimized
for matched random units, every image is shown to every set of units, and all responses stand beside that to the best
natural image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_int, check_number, check_option, check_seed, check_shared, check_type
from modalnet.errors import InputError
from modalnet.features.optimized import Natural, Optimized
from modalnet.features.parametrization import FourierImage, RandomTransform, total_variation
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
from modalnet.model import Model, as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.results.cache import CacheLike, cached
from modalnet.stats.controls import check_match, draw_with_ratios
from modalnet.stimuli.conversion import StimuliLike, as_stimuli

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, UInt8

    from modalnet.inputs.canvas import Canvas
    from modalnet.interventions.positions import TokenChoice, TokensLike
    from modalnet.stimuli import Stimulus
    from modalnet.units import UnitsLike

THUMBNAIL = 224  # pixels


@dataclass(frozen=True)
class _Settings:
    """How an image is optimized; see :func:`optimize`."""

    steps: int
    learning_rate: float
    transform: RandomTransform
    tv_weight: float
    colour: bool
    seed: int

    def __post_init__(self) -> None:
        check_int("steps", self.steps, minimum=1)
        check_number("learning_rate", self.learning_rate, minimum=0)
        check_type("transform", self.transform, RandomTransform, "a modalnet.features.RandomTransform")
        check_number("tv_weight", self.tv_weight, minimum=0)
        check_seed(self.seed)


@renamed_arguments(controls="n_controls", rate="learning_rate", shake="transform", smooth="tv_weight")
@reads_weights_once
def optimize(
    model: Model | Any,
    units: UnitsLike | Unit,
    *,
    natural: StimuliLike | None = None,
    text: str | None = None,
    tokens: TokensLike = None,
    magnitude: Magnitude = "absolute",
    scaled: bool | None = None,
    n_controls: int = 1,
    match: Literal["layer", "tower", "activation", "dimension"] | None = None,
    steps: int = 256,
    learning_rate: float = 0.05,
    transform: RandomTransform | None = None,
    tv_weight: float = 0.5,
    colour: bool = True,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    cache: CacheLike = True,
    progress: bool = True,
) -> Optimized:
    """Optimize an image that maximally activates a unit or a network, and one for each of some matched random controls.

    The gradient of the response with respect to the pixels is taken in the same trace that reads the units, and passed
    on to an image parametrized in the Fourier domain with decorrelated colours. Adam ascends, while the image is
    randomly transformed at each step and its total variation is penalized. The reported response is that to the
    finished 8-bit image, encoded by the model's own processor like any other.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`, or anything that it loads, with an image encoder.
    units
        Units, such as ``localization.top(fraction=0.01)``, or one unit as ``(space, layer, index)``. For units of the
        decoder the gradient passes through the vision tower.
    natural
        Stimuli with an image to compare with, or a contrast.
    text
        Text that accompanies the image; natural stimuli without a text get it, too.
    tokens
        Token positions that an activation is the mean over, as for :func:`modalnet.localize`.
    magnitude
        ``"absolute"``, as localizers do: each unit is driven to the sign that it has on its best natural image, or,
        without natural images, to the sign that it has at each step. ``"signed"``: each unit is driven up.
    scaled
        Whether each unit is divided by its mean absolute activation in the network's response; if None, where the units
        carry it.
    n_controls
        Number of sets of random units that get an image of their own. Each costs as much as the network's, so the
        default is one and not 20 as elsewhere.
    match
        What the controls share with the units (see :meth:`modalnet.Units.random`); if None, ``"activation"`` where the
        units carry ``mean_abs``, else ``"layer"``.
    steps, learning_rate
        Steps of Adam (Kingma & Ba 2015), and its learning rate.
    transform
        Random transformations of the image at each step; ``RandomTransform(0, 0, 0)`` for none.
    tv_weight
        Weight of the total variation, relative to a response in units of that to the initial grey image.
    colour
        False for a greyscale image.
    size
        (height, width) of the image, or the side of a square; if None, a size that the processor does not resize.
    seed
        Seed of the initial image, the transformations and the controls.
    batch_size
        Batch size for the natural stimuli.
    cache
        Whether the result is stored and reused.
    progress
        Show a progress bar.

    Returns
    -------
    Optimized
        ``.pictures`` ``[set, height, width, 3]``, ``.response`` ``[set, image]``, ``.natural``, ``.table()``,
        ``.plot()``; the first set is the network, the others are controls.

    Raises
    ------
    InputError
        For a model without an image encoder, or whose processor resizes or tiles every size, so that no input element
        is a pixel (see :mod:`modalnet.inputs.canvas`); for a remote model; for units that images do not reach.

    References
    ----------
    Olah, Mordvintsev & Schubert (2017), Feature Visualization, Distill, doi:10.23915/distill.00007.
    """
    check_shared(n_controls=n_controls, batch_size=batch_size, cache=cache, progress=progress)
    check_option("magnitude", magnitude, MAGNITUDES)
    if match is not None:
        match = check_match(match)
    transform = RandomTransform() if transform is None else transform
    settings = _Settings(steps, learning_rate, transform, tv_weight, colour, seed)
    model = as_model(model)
    model._executor.check_input_gradients()
    _check_model(model)
    network = units_of(model, units)
    match = match or ("layer" if network.mean_abs is None else "activation")
    controls, ratios = draw_with_ratios(network, n_controls, seed=seed, match=match)
    sets = [network, *controls]
    responses = [response_of(model, each, magnitude, scaled=scaled) for each in sets]
    canvas = model._executor.canvas(text, size)
    spaces = {space for response in responses for space in response.layers}
    layers: dict[str, tuple[int, ...]] = {space: () for space in model.spaces if space in spaces}
    check_reach(model, layers, [canvas.stimulus])
    choices = token_choices(model, layers, [canvas.stimulus], tokens)
    beside = _natural_stimuli(natural, text)
    inputs = {
        "name": model.name,
        "units": sets,
        "natural": None if beside is None else [[one.inspect().digest, one.label] for one in beside],
        "text": text,
    }
    keyed = {
        **_described(settings),
        "tokens": dict(choices),
        "magnitude": magnitude,
        "scaled": responses[0].scaled,
        "match": match,
        "size": canvas.size,
    }

    def compute() -> Optimized:
        made = _optimized(model, responses, canvas, choices, settings, beside, (match, batch_size), progress=progress)
        return replace(made, match_ratios=ratios)

    return cached(model, "optimize", inputs, keyed, compute, result=Optimized, cache=cache)


def _described(settings: _Settings) -> dict[str, Any]:
    return {**vars(settings), "transform": asdict(settings.transform)}


def _optimized(  # noqa: PLR0917  # one call, above
    model: Model,
    responses: Sequence[Response],
    canvas: Canvas,
    choices: dict[str, TokenChoice],
    settings: _Settings,
    natural: list[Stimulus] | None,
    options: tuple[str, int | Literal["auto"]],
    *,
    progress: bool,
) -> Optimized:
    """Optimize an image for each set of units, and measure the response of every set to every image."""
    match, batch_size = options
    measured, signs = _measure_natural(model, responses, natural, choices, batch_size, progress=progress)
    pictures, paths = [], []
    for index, (response, sign) in enumerate(zip(responses, signs, strict=True)):
        name = f"control {index}" if index else "network"
        picture, path = _ascend(model, canvas, response, sign, choices, settings, name=name, progress=progress)
        pictures.append(picture)
        paths.append(path)
    finished = [canvas.framed(picture) for picture in pictures]
    return Optimized(
        model.name,
        tuple(response.units for response in responses),
        dict(choices),
        responses[0].magnitude,
        responses[0].scaled,
        match,
        _described(settings),
        canvas.stimulus.text,
        (canvas.size, canvas.box),
        np.stack(pictures),
        np.stack(paths),
        _measure(model, responses, finished, choices, batch_size),
        measured,
    )


def _check_model(model: Model) -> None:
    if model.vision is None:
        raise InputError(
            f"{model.name} reads text only, so there is no image to optimize. modalnet.features.top_tokens finds the "
            "maximally activating tokens of its units, and top_stimuli the texts."
        )


def _natural_stimuli(natural: StimuliLike | None, text: str | None) -> list[Stimulus] | None:
    if natural is None:
        return None
    stimuli = [
        replace(stimulus, text=text) if text is not None and stimulus.text is None else stimulus
        for stimulus in as_stimuli(natural)
    ]
    for stimulus in stimuli:
        if not stimulus.n_images:
            raise InputError(f"`natural` must be stimuli with images; {stimulus.label} has none.")
    return stimuli


def _measure(
    model: Model,
    responses: Sequence[Response],
    stimuli: Sequence[Stimulus],
    choices: dict[str, TokenChoice],
    batch_size: int | Literal["auto"],
) -> Float[np.ndarray, "set stimulus"]:
    """Return the response of each set of units to each stimulus."""
    values = np.full((len(responses), len(stimuli)), np.nan)
    prepared = model._executor.prepare(list(stimuli))
    for indices, activations in stream_activations(model, responses, prepared, choices, batch_size):
        for row, (response, own) in enumerate(zip(responses, activations, strict=True)):
            values[row, indices] = response.network(response.magnitudes(own))
    return values


def _measure_natural(
    model: Model,
    responses: Sequence[Response],
    stimuli: list[Stimulus] | None,
    choices: dict[str, TokenChoice],
    batch_size: int | Literal["auto"],
    *,
    progress: bool,
) -> tuple[Natural | None, list[Float[np.ndarray, " unit"] | None]]:
    """Return the responses to natural images, and per set the sign of each unit where it is most active."""
    from tqdm.auto import tqdm

    if stimuli is None:
        return None, [None] * len(responses)
    check_reach(model, list(choices), stimuli)
    values = np.full((len(responses), len(stimuli)), np.nan)
    extremes = [np.zeros(len(response.units)) for response in responses]
    prepared = model._executor.prepare(stimuli)
    with tqdm(total=len(stimuli), desc="natural images", unit="stimulus", disable=not progress, leave=False) as bar:
        for indices, activations in stream_activations(model, responses, prepared, choices, batch_size):
            for row, (response, own) in enumerate(zip(responses, activations, strict=True)):
                values[row, indices] = response.network(response.magnitudes(own))
                extreme = np.take_along_axis(own, abs(own).argmax(0)[None], 0)[0]
                extremes[row] = np.where(abs(extreme) > abs(extremes[row]), extreme, extremes[row])
            bar.update(len(indices))
    best = values.argmax(1)
    thumbnails = []
    for index in best:
        image = stimuli[index].images()[0]
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        thumbnails.append(np.asarray(image))
    natural = Natural(values, best, tuple(stimuli[index].label for index in best), tuple(thumbnails))
    return natural, [np.where(extreme < 0, -1.0, 1.0) for extreme in extremes]


class _Objective:
    """The response of a set of units as a function of the activations that a trace reads, for the gradient.

    Parameters
    ----------
    response
        The set of units.
    sign
        ``[unit]``: the sign that each unit is driven to; None for the one that it has.
    """

    def __init__(self, response: Response, sign: Float[np.ndarray, " unit"] | None) -> None:
        import torch

        self._response = response
        self._signs = None if sign is None else torch.from_numpy(sign).float()
        self.initial: float | None = None  # response at the first step

    def __call__(self, read: Sequence[Float[torch.Tensor, "stimulus dim"]]) -> Float[torch.Tensor, " stimulus"]:
        import torch

        response, parts = self._response, iter(read)
        values = {space: torch.stack([next(parts) for _ in layers], dim=1) for space, layers in response.layers.items()}
        activations = response.activations(values)
        if self.initial is None:
            self.initial = float(response.network(activations.detach().abs())[0]) or 1.0
        if response.magnitude == "absolute":
            signs = self._signs
            activations = activations.abs() if signs is None else activations * signs.to(activations.device)
        return response.network(activations)


def _ascend(  # noqa: PLR0917
    model: Model,
    canvas: Canvas,
    response: Response,
    sign: Float[np.ndarray, " unit"] | None,
    choices: dict[str, TokenChoice],
    settings: _Settings,
    *,
    name: str,
    progress: bool,
) -> tuple[UInt8[np.ndarray, "height width 3"], Float[np.ndarray, " step"]]:
    """Return the image optimized for one set of units, and the response to the transformed image at each step."""
    import torch
    from tqdm.auto import tqdm

    generator = torch.Generator().manual_seed(settings.seed)
    image = FourierImage(*canvas.seen, generator, colour=settings.colour)
    optimizer = torch.optim.Adam([image.spectrum], lr=settings.learning_rate)
    tokens = {space: choices[space] for space in response.layers}
    objective = _Objective(response, sign)
    path = np.empty(settings.steps)
    with tqdm(total=settings.steps, desc=name, unit="step", disable=not progress) as bar:
        for step in range(settings.steps):
            picture = image()
            pixels = canvas.pixels(settings.transform(picture, generator))
            value, gradient = model._executor.inward(
                canvas.fill(pixels.detach()), response.layers, tokens, canvas.source, objective
            )
            ascent = (pixels * gradient.reshape(pixels.shape)).sum() / (objective.initial or 1.0)
            loss = settings.tv_weight * total_variation(picture) - ascent
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            path[step] = float(value[0])
            bar.set_postfix(response=f"{path[step]:.3g}", refresh=False)
            bar.update()
    with torch.no_grad():
        finished = (255 * image()).round().to(torch.uint8)
    return finished.permute(1, 2, 0).contiguous().numpy(), path
