"""From a picture's pixels to a model's inputs and back: how a processor lays pixels out, measured on it.

To change a picture by a gradient one must know which input holds which pixel, and how it was normalized. No attribute
of a processor says so for all of them: it crops, cuts into patches, repeats frames. But at a size that it does not
resize, each input element is one pixel of one channel, times a factor, plus a shift, and that can be seen. A black and
a white picture give shift and factor of every element; three pictures in which each pixel spells its own number, a
digit at a time in base 256, tell which pixel it is. A picture of noise then has to come out as predicted, to a quarter
of one of its 256 levels, or the size is not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._validation import refusal
from modalnet.errors import InputError
from modalnet.inputs.batch import Encoded
from modalnet.inputs.encoding import Encoder

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int, UInt8

    from modalnet.stimuli import Stimulus

# Sizes that are tried after those that the processor itself speaks of.
USUAL = (224, 256, 336, 384, 448, 512)
LARGEST = 1024
GREY = 0.5


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture of one size, and what a model's processor makes of it.

    Attributes
    ----------
    stimulus
        What it is made from: the text that goes with the picture.
    encoded
        The inputs of a black picture.
    source
        Name of the input that holds the pixels.
    size
        (height, width) of the picture.
    box
        (top, left, bottom, right): the part that the model sees; a processor may crop.
    index
        In the shape of the input: which ``(row * width + column) * 3 + channel`` each element shows; -1 for none.
    factor, shift
        In the shape of the input: an element is ``shift + factor * value``, the value in [0, 1].
    """

    stimulus: Stimulus
    encoded: Encoded
    source: str
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    index: Int[torch.Tensor, "..."]
    factor: Float[torch.Tensor, "..."]
    shift: Float[torch.Tensor, "..."]

    @property
    def seen(self) -> tuple[int, int]:
        """(height, width) of the part that the model sees."""
        top, left, bottom, right = self.box
        return bottom - top, right - left

    def pixels(self, picture: Float[torch.Tensor, "3 height width"]) -> Float[torch.Tensor, "..."]:
        """The input that holds a picture, which has the size that is :attr:`seen` and values in [0, 1].

        A gradient passes through.
        """
        import torch

        top, left, bottom, right = self.box
        around = (left, self.size[1] - right, top, self.size[0] - bottom)
        whole = torch.nn.functional.pad(picture, around, value=GREY)
        values = whole.permute(1, 2, 0).reshape(-1)[self.index.clamp(min=0)]
        return self.shift + self.factor * values

    def fill(self, pixels: Float[torch.Tensor, "..."]) -> Encoded:
        """The inputs with other pixels."""
        return replace(self.encoded, inputs={**self.encoded.inputs, self.source: pixels})

    def framed(self, picture: UInt8[np.ndarray, "height width 3"]) -> Stimulus:
        """A stimulus of which the model sees exactly this picture."""
        top, left, bottom, right = self.box
        whole = np.full((*self.size, 3), round(255 * GREY), dtype=np.uint8)
        whole[top:bottom, left:right] = picture
        return replace(self.stimulus, image=whole)


def canvas(encoder: Encoder, text: str | None = None, size: int | tuple[int, int] | None = None) -> Canvas:
    """Measure how a model's processor lays out a picture.

    Parameters
    ----------
    encoder
        The model's own.
    text
        What goes with the picture.
    size
        (height, width), or the side of a square; None to find one that the processor does not resize.

    Raises
    ------
    InputError
        For a model that sees no pictures; where the processor copies no size pixel by pixel, as those that tile a
        picture and add a small copy of it do not.
    """
    from modalnet.stimuli.stimulus import Stimulus

    name = encoder.loaded.name
    if not encoder.sees:
        raise InputError(f"{name} reads text only, so there is no image to optimize.")
    tried = []
    for height, width in _sizes(encoder.loaded.image_processor) if size is None else [_checked(size)]:
        blank = np.zeros((height, width, 3), dtype=np.uint8)
        made = _measured(encoder, Stimulus(text, image=blank, id="the picture"), (height, width))
        if made is not None:
            return made
        tried.append(f"{height}x{width}")
    raise InputError(
        f"The image processor of {name} does not map pixels one to one for images of {', '.join(tried)}: it resizes "
        "them, or includes them at several sizes (tiles and a thumbnail). Give a size=(height, width) that it does "
        "not resize, switch off its tiling, or load the vision tower as a separate model."
    )


def _measured(encoder: Encoder, stimulus: Stimulus, size: tuple[int, int]) -> Canvas | None:
    """The canvas of one size; None where pixels are not copied."""
    import torch

    height, width = size
    count = height * width * 3

    def encode(values: np.ndarray) -> Encoded:
        picture = values.reshape(height, width, 3).astype(np.uint8)
        return encoder.encode(encoder.prepare([replace(stimulus, image=picture)])[0])

    try:
        black, white = encode(np.zeros(count)), encode(np.full(count, 255))
        source = _source(black.inputs, white.inputs)
        if source is None:
            return None
        shift = black.inputs[source].float()
        factor = white.inputs[source].float() - shift
        there = factor != 0
        safe = torch.where(there, factor, torch.ones_like(factor))
        index = torch.zeros_like(shift, dtype=torch.long)
        for place in range(3):
            digits = encode((np.arange(count) >> 8 * place) & 255).inputs[source].float()
            index += ((digits - shift) / safe * 255).round().long().clamp(0, 255) << 8 * place
        if int(index[there].max()) >= count:
            return None
        noise = np.random.default_rng(0).integers(0, 256, count)
        expected = shift + factor * torch.from_numpy(noise)[index.clamp(max=count - 1)].float() / 255
        found = encode(noise).inputs[source].float()
    except (InputError, RuntimeError):  # a size that the processor refuses, or inputs of changing shapes
        return None
    if not bool(((found - expected).abs() <= factor.abs() / (4 * 255) + 1e-6).all()):
        return None
    index = torch.where(there, index, -1)
    rows, columns = index[there] // 3 // width, index[there] // 3 % width
    box = int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
    return Canvas(stimulus, black, source, size, box, index, factor, shift)


def _source(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The input that depends on the picture; None where it is not one, of floats."""
    import torch

    changed = [
        name for name, value in one.items() if value.shape != other[name].shape or not torch.equal(value, other[name])
    ]
    if len(changed) != 1 or not one[changed[0]].is_floating_point() or one[changed[0]].shape != other[changed[0]].shape:
        return None
    return changed[0]


def _sizes(processor: Any) -> Iterator[tuple[int, int]]:
    """Sizes that the processor speaks of, then usual ones, each once."""
    found: list[tuple[int, int]] = []
    for name in ("size", "crop_size"):
        given = getattr(processor, name, None)
        if isinstance(given, int):
            found.append((given, given))
        elif given is not None:
            sides = {key: value for key, value in dict(given).items() if isinstance(value, int)}
            if "height" in sides and "width" in sides:
                found.append((sides["height"], sides["width"]))
            found += [(side, side) for side in sides.values()]
    areas = [max(size) for size in found]
    found += [(side, side) for side in USUAL]
    # Some processors bound a picture's area, and still speak of edges.
    found += [(math.isqrt(area),) * 2 for area in areas if math.isqrt(area) ** 2 == area]
    yield from dict.fromkeys(size for size in found if min(size) >= 8 and max(size) <= LARGEST)


def _checked(size: Any) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) and not isinstance(size, bool) else size
    if (
        isinstance(sides, tuple | list)
        and len(sides) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and side >= 8 for side in sides)
    ):
        return sides[0], sides[1]
    raise refusal("size", "(height, width) in pixels or the side of a square, of at least 8", size)
