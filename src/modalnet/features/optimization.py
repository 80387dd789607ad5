"""A picture that drives a unit or a network, painted by the gradient of its response.

A picture that drives a network says little by itself: some picture drives any set of units. So the same is done for
matched random units, every picture is shown to every set, and all of it stands beside the best natural picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet.errors import InputError
from modalnet.features.optimized import Natural, Optimized
from modalnet.features.parametrization import Painting, Shake, total_variation
from modalnet.features.response import Response, check_reach, respond, token_choices, units_of, watch
from modalnet.model import Model, load
from modalnet.stimuli.conversion import as_stimuli

if TYPE_CHECKING:
    import torch
    from jaxtyping import UInt8

    from modalnet.inputs.canvas import Canvas
    from modalnet.interventions.positions import TokenChoice


@dataclass(frozen=True)
class _Brush:
    """How a picture is painted; see :func:`optimize`."""

    steps: int
    rate: float
    shake: Shake
    smooth: float
    colour: bool
    seed: int


@renamed_arguments(controls="n_controls")
def optimize(
    model: Model | Any,
    units: Any,
    *,
    natural: Any = None,
    text: str | None = None,
    tokens: Any = None,
    magnitude: Literal["absolute", "signed"] = "absolute",
    scaled: bool | None = None,
    n_controls: int = 1,
    match: Literal["layer", "tower", "activation"] | None = None,
    steps: int = 256,
    rate: float = 0.05,
    shake: Shake | None = None,
    smooth: float = 0.5,
    colour: bool = True,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    progress: bool = True,
) -> Optimized:
    """Paint a picture that drives a unit or a network, and one for each of some sets of matched random units.

    The gradient of the response goes back to the pixels in the same trace that reads the units, and from there to a
    picture in its Fourier domain with uncorrelated colours; Adam climbs, while the picture is shifted, turned and
    resized at random and its total variation is held down. What is reported is the response to the finished picture of
    8 bits, encoded by the model's own processor like any other.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`, or anything that it loads, that sees pictures.
    units
        Units, such as ``localization.top(fraction=0.01)``, or one as ``(tower, layer, dim)``. For units of the decoder
        the gradient goes through the vision tower.
    natural
        Stimuli with a picture to compare with, or a contrast; None for none.
    text
        What the model reads with the picture; natural stimuli without a text get it, too.
    tokens
        Which tokens an activation is the mean over, as for :func:`modalnet.localize`.
    magnitude
        ``"absolute"``, as localizers do: each unit is driven to the sign that it has on its best natural picture;
        without natural ones, to the sign that it has at each step. ``"signed"``: it is driven up.
    scaled
        In the network's response, whether each unit is divided by its mean \\|activation\\|; None: where units
        carry that.
    n_controls
        How many sets of random units get a picture of their own. Each costs as much as the network's, so that there
        is one by default and not 20 as elsewhere.
    match
        What these share with the units (see :meth:`modalnet.Units.random`); None for ``"activation"`` where the units
        carry ``mean_abs``, else ``"layer"``.
    steps, rate
        Steps of Adam (Kingma & Ba 2015), and its learning rate.
    shake
        What the picture has to withstand at each step; ``Shake(0, 0, 0)`` for nothing.
    smooth
        Weight of the total variation, where the response is in units of that to the grey picture at the start.
    colour
        False for a grey picture.
    size
        (height, width) of the picture, or the side of a square; None for one that the processor does not resize.
    seed
        Draws the start, the shakes and the controls.
    batch_size
        For the natural stimuli.
    progress
        Show a progress bar.

    Returns
    -------
    Optimized
        ``.pictures`` ``[set, height, width, 3]``, ``.response`` ``[set, picture]``, ``.natural``, ``.table()``,
        ``.plot()``; the first set is the network, the others are controls.

    Raises
    ------
    InputError
        For a model that sees no pictures, or whose processor resizes or tiles every size, so that no input element is a
        pixel (see :mod:`modalnet.inputs.canvas`); for a model on a server; for units that pictures do not reach.

    References
    ----------
    Olah, Mordvintsev & Schubert (2017), Feature Visualization, Distill, doi:10.23915/distill.00007.
    """
    model = load(model)
    model._executor.check_input_gradients()
    brush = _brush(steps, rate, Shake() if shake is None else shake, smooth, colour, seed)
    if isinstance(n_controls, bool) or not isinstance(n_controls, int) or n_controls < 0:
        raise InputError(f"n_controls={n_controls!r}: give how many sets of random units, a whole number from 0.")
    if model.vision is None:
        raise InputError(
            f"{model.name} reads text only, so there is no picture to optimize. modalnet.features.top_tokens finds the "
            "tokens that drive its units, and top_stimuli the texts."
        )
    own = units_of(model, units)
    match = match or ("layer" if own.mean_abs is None else "activation")
    sets = [own, *(own.random(n_controls, seed=seed, match=match) if n_controls else [])]
    responses = [respond(model, one, magnitude, scaled=scaled) for one in sets]
    canvas = model._executor.canvas(text, size)
    towers = {t for one in responses for t in one.layers}
    layers: dict[str, tuple[int, ...]] = {t: () for t in model.spaces if t in towers}
    check_reach(model, layers, [canvas.stimulus])
    choices = token_choices(model, layers, [canvas.stimulus], tokens)
    seen, signs = _natural(model, responses, natural, text, choices, batch_size, progress=progress)
    pictures, paths = [], []
    for place, (response, sign) in enumerate(zip(responses, signs, strict=True)):
        name = "network" if place == 0 else f"control {place}"
        picture, path = _paint(model, canvas, response, sign, choices, brush, name=name, progress=progress)
        pictures.append(picture)
        paths.append(path)
    framed = [canvas.framed(picture) for picture in pictures]
    given = np.full((len(sets), len(pictures)), np.nan)
    for places, raws in watch(model, responses, model._executor.prepare(framed), choices, batch_size):
        for row, (response, raw) in enumerate(zip(responses, raws, strict=True)):
            given[row, places] = response.network(response.sized(raw))
    return Optimized(
        model.name,
        tuple(response.units for response in responses),
        dict(choices),
        magnitude,
        responses[0].scaled,
        match,
        {**vars(brush), "shake": list(vars(brush.shake).values())},
        text,
        (canvas.size, canvas.box),
        np.stack(pictures),
        np.stack(paths),
        given,
        seen,
    )


def _brush(steps: Any, rate: Any, shake: Any, smooth: Any, colour: bool, seed: Any) -> _Brush:  # noqa: PLR0917
    for name, value in (("steps", steps), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < (name == "steps"):
            raise InputError(f"{name}={value!r}: give a whole number from {int(name == 'steps')}.")
    for name, value in (("rate", rate), ("smooth", smooth)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
            raise InputError(f"{name}={value!r}: give a number from 0.")
    if not isinstance(shake, Shake):
        raise InputError(f"shake= is a modalnet.features.Shake; got {shake!r:.100}.")
    return _Brush(steps, float(rate), shake, float(smooth), bool(colour), seed)


def _natural(  # noqa: PLR0917
    model: Model,
    responses: Sequence[Response],
    natural: Any,
    text: str | None,
    choices: dict[str, TokenChoice],
    batch_size: Any,
    *,
    progress: bool,
) -> tuple[Natural | None, list[np.ndarray | None]]:
    """What natural pictures do, and per set the sign that each unit has where it is most active."""
    from tqdm.auto import tqdm

    if natural is None:
        return None, [None] * len(responses)
    stimuli = [replace(one, text=text) if text is not None and one.text is None else one for one in as_stimuli(natural)]
    bare = next((one for one in stimuli if not one.n_images), None)
    if bare is not None:
        raise InputError(f"natural stimulus {bare.label} has no picture to compare with.")
    check_reach(model, list(choices), stimuli)
    values = np.full((len(responses), len(stimuli)), np.nan)
    largest = [np.zeros(len(one.units)) for one in responses]
    with tqdm(total=len(stimuli), desc="natural pictures", unit="stimulus", disable=not progress, leave=False) as bar:
        for places, raws in watch(model, responses, model._executor.prepare(stimuli), choices, batch_size):
            for row, (response, raw) in enumerate(zip(responses, raws, strict=True)):
                values[row, places] = response.network(response.sized(raw))
                extreme = np.take_along_axis(raw, abs(raw).argmax(0)[None], 0)[0]
                largest[row] = np.where(abs(extreme) > abs(largest[row]), extreme, largest[row])
            bar.update(len(places))
    best = values.argmax(1)
    pictures = []
    for place in best:
        picture = stimuli[place].images()[0]
        picture.thumbnail((224, 224))
        pictures.append(np.asarray(picture))
    seen = Natural(values, best, tuple(stimuli[place].label for place in best), tuple(pictures))
    return seen, [np.sign(one) + (one == 0) for one in largest]


def _paint(  # noqa: PLR0917
    model: Model,
    canvas: Canvas,
    response: Response,
    sign: np.ndarray | None,
    choices: dict[str, TokenChoice],
    brush: _Brush,
    *,
    name: str,
    progress: bool,
) -> tuple[UInt8[np.ndarray, "height width 3"], np.ndarray]:
    """The picture of one set of units, and its response at each step, shaken."""
    import torch
    from tqdm.auto import tqdm

    generator = torch.Generator().manual_seed(brush.seed)
    painting = Painting(*canvas.seen, generator, colour=brush.colour)
    optimizer = torch.optim.Adam([painting.spectrum], lr=brush.rate)
    signs = None if sign is None else torch.from_numpy(sign).float()
    own = {tower: choices[tower] for tower in response.layers}
    counts = [len(layers) for layers in response.layers.values()]
    sizes: list[float] = []  # of the response at the start

    def measure(read: Sequence[torch.Tensor]) -> torch.Tensor:
        parts = iter(read)
        residual = {
            tower: torch.stack([next(parts) for _ in range(count)], dim=1)
            for tower, count in zip(response.layers, counts, strict=True)
        }
        raw = response.raw(residual)
        if not sizes:
            sizes.append(float(response.network(raw.detach().abs())[0]) or 1.0)
        if response.magnitude == "absolute":
            raw = raw.abs() if signs is None else raw * signs.to(raw.device)
        return response.network(raw)

    path = np.empty(brush.steps)
    with tqdm(total=brush.steps, desc=name, unit="step", disable=not progress) as bar:
        for step in range(brush.steps):
            picture = painting()
            pixels = canvas.pixels(brush.shake(picture, generator))
            value, slope = model._executor.inward(
                canvas.fill(pixels.detach()), response.layers, own, canvas.source, measure
            )
            loss = brush.smooth * total_variation(picture) - (pixels * slope.reshape(pixels.shape)).sum() / sizes[0]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            path[step] = float(value[0])
            bar.set_postfix(response=f"{path[step]:.3g}", refresh=False)
            bar.update()
    with torch.no_grad():
        finished = (255 * painting()).round().to(torch.uint8)
    return finished.permute(1, 2, 0).contiguous().numpy(), path
