"""A picture as something that a gradient can paint: in frequencies and in colours that vary independently.

Gradients at pixels paint noise at high frequencies. Painted in the Fourier domain, with each frequency scaled as in
natural pictures (amplitude as 1/f), and in a colour space whose channels are uncorrelated there, the same ascent finds
pictures that can be looked at; and what is found must hold when the picture is shifted, turned and resized a little.
All of it is from Olah, Mordvintsev & Schubert (2017), Feature Visualization, Distill, doi:10.23915/distill.00007, and
the code that goes with it (github.com/tensorflow/lucid, Apache 2.0), from which the colour matrix is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modalnet.errors import InputError

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

# Square root of the covariance of colours in ImageNet, by its singular vectors.
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
START = 0.01  # standard deviation of the spectrum that painting starts from: nearly grey
CONTRAST = 0.25


class Painting:
    """A picture in its spectrum.

    Parameters
    ----------
    height, width
        In pixels.
    generator
        Draws what it starts from.
    colour
        False for grey pictures.

    Attributes
    ----------
    spectrum
        ``[channel, height, frequency, 2]``: what is optimized; real and imaginary parts.
    """

    def __init__(self, height: int, width: int, generator: torch.Generator, *, colour: bool = True) -> None:
        import torch

        rows = torch.fft.fftfreq(height)[:, None]
        columns = torch.fft.rfftfreq(width)[None, :]
        frequency = torch.sqrt(rows**2 + columns**2).clamp(min=1 / max(height, width))
        self._size = height, width
        self._scale = (math.sqrt(height * width) / frequency)[..., None]
        shape = (3 if colour else 1, *frequency.shape, 2)
        self.spectrum = (START * torch.randn(shape, generator=generator)).requires_grad_()
        colours = torch.tensor(COLOURS)
        self._colours = colours / colours.norm(dim=0).max()

    def __call__(self) -> Float[torch.Tensor, "3 height width"]:
        """The picture, with values in (0, 1)."""
        import torch

        values = torch.fft.irfft2(torch.view_as_complex(self.spectrum * self._scale), s=self._size)
        values = CONTRAST * values
        if len(values) == 1:
            return torch.sigmoid(values).expand(3, -1, -1)
        return torch.sigmoid(torch.einsum("ij,jhw->ihw", self._colours, values))


@dataclass(frozen=True)
class Shake:
    """What an optimized picture has to withstand: at each step it is shifted, turned and resized at random.

    Attributes
    ----------
    jitter
        Largest shift along each axis, as a share of the picture.
    rotate
        Largest turn either way, in degrees.
    scale
        Largest change of size either way, as a share.
    """

    jitter: float = 0.05
    rotate: float = 8.0
    scale: float = 0.1

    def __post_init__(self) -> None:
        for name, most in (("jitter", 1.0), ("rotate", 180.0), ("scale", 0.9)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise InputError(f"Shake({name}=) is a number from 0 to {most:g}; got {value!r}.")

    def __call__(
        self, picture: Float[torch.Tensor, "3 height width"], generator: torch.Generator
    ) -> Float[torch.Tensor, "3 height width"]:
        """The picture shaken once; what comes into view at its edges is mirrored."""
        import torch

        turn, grow, right, down = (2 * torch.rand(4, generator=generator) - 1).tolist()
        angle, size = math.radians(self.rotate * turn), 1 / (1 + self.scale * grow)
        ratio = picture.shape[1] / picture.shape[2]
        cos, sin = size * math.cos(angle), size * math.sin(angle)
        # Shares of the picture count double on grids from -1 to 1.
        matrix = [[cos, -sin * ratio, 2 * self.jitter * right], [sin / ratio, cos, 2 * self.jitter * down]]
        grid = torch.nn.functional.affine_grid(
            torch.tensor([matrix], dtype=picture.dtype), [1, *picture.shape], align_corners=False
        )
        return torch.nn.functional.grid_sample(
            picture[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )[0]


def total_variation(picture: Float[torch.Tensor, "3 height width"]) -> Float[torch.Tensor, ""]:
    """Mean absolute difference of neighbouring pixels, down and across (Rudin, Osher & Fatemi 1992, anisotropic)."""
    return picture.diff(dim=1).abs().mean() + picture.diff(dim=2).abs().mean()
