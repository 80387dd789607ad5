"""The image parametrization of feature visualization: Fourier coefficients in decorrelated colours.

Gradient ascent on pixels yields high-frequency noise. In the Fourier domain, with each frequency scaled as in natural
images (amplitude proportional to 1/f), and in a colour space whose channels are uncorrelated in natural images, the
same ascent yields images that can be interpreted; transformation robustness (jitter, rotation, scaling at each step)
removes most of the remaining noise. Source: Olah, Mordvintsev & Schubert (2017), Feature Visualization, Distill,
doi:10.23915/distill.00007, and its code (github.com/tensorflow/lucid, Apache 2.0), from which the colour matrix is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modalnet._validation import check_number

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

# Square root of the covariance of colours in ImageNet, by its singular vectors.
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
START = 0.01  # standard deviation of the initial spectrum: nearly grey
CONTRAST = 0.25


class FourierImage:
    """An image parametrized by its Fourier spectrum.

    Parameters
    ----------
    height, width
        In pixels.
    generator
        Draws the initial spectrum.
    colour
        False for a greyscale image.

    Attributes
    ----------
    spectrum
        ``[channel, height, frequency, 2]``: the parameters that are optimized, as real and imaginary parts.
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
        """Return the image, with values in (0, 1)."""
        import torch

        values = torch.fft.irfft2(torch.view_as_complex(self.spectrum * self._scale), s=self._size)
        values = CONTRAST * values
        if len(values) == 1:
            return torch.sigmoid(values).expand(3, -1, -1)
        return torch.sigmoid(torch.einsum("ij,jhw->ihw", self._colours, values))


@dataclass(frozen=True)
class RandomTransform:
    """Random transformations of an optimized image at each step (transformation robustness).

    Attributes
    ----------
    jitter
        Largest shift along each axis, as a fraction of the image.
    rotate
        Largest rotation in either direction, in degrees.
    scale
        Largest relative change of size in either direction.

    Raises
    ------
    InputError
        For a value out of range.
    """

    jitter: float = 0.05
    rotate: float = 8.0
    scale: float = 0.1

    def __post_init__(self) -> None:
        for name, most in (("jitter", 1.0), ("rotate", 180.0), ("scale", 0.9)):
            check_number(name, getattr(self, name), minimum=0, maximum=most)

    def __call__(
        self, image: Float[torch.Tensor, "3 height width"], generator: torch.Generator
    ) -> Float[torch.Tensor, "3 height width"]:
        """Return the image transformed once; edges are padded by reflection."""
        import torch

        rotation, growth, right, down = (2 * torch.rand(4, generator=generator) - 1).tolist()
        angle, size = math.radians(self.rotate * rotation), 1 / (1 + self.scale * growth)
        ratio = image.shape[1] / image.shape[2]
        cos, sin = size * math.cos(angle), size * math.sin(angle)
        # A fraction of the image is twice that on a grid from -1 to 1.
        matrix = [[cos, -sin * ratio, 2 * self.jitter * right], [sin / ratio, cos, 2 * self.jitter * down]]
        grid = torch.nn.functional.affine_grid(
            torch.tensor([matrix], dtype=image.dtype), [1, *image.shape], align_corners=False
        )
        return torch.nn.functional.grid_sample(
            image[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )[0]


def total_variation(image: Float[torch.Tensor, "3 height width"]) -> Float[torch.Tensor, ""]:
    """Mean absolute difference of neighbouring pixels, down and across (Rudin, Osher & Fatemi 1992, anisotropic)."""
    return image.diff(dim=1).abs().mean() + image.diff(dim=2).abs().mean()
