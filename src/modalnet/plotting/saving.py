"""Saving figures: atomically, without a window."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalnet import _files
from modalnet.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200
_to_file: ContextVar[bool] = ContextVar("_to_file", default=False)


def new_figure(**options: Any) -> Figure:
    """Make a figure: of pyplot, so that notebooks show it, or a bare one within :func:`save_figure`."""
    if _to_file.get():
        from matplotlib.figure import Figure as BareFigure

        return BareFigure(**options)
    from matplotlib import pyplot

    return pyplot.figure(**options)


def save_figure(draw: Callable[..., Any], path: str | os.PathLike[str], *given: Any, **options: Any) -> None:
    """Save the figure that :func:`modalnet.plotting.sheet` or :func:`modalnet.plotting.glass` draws.

    Parameters
    ----------
    draw
        The function that draws; it returns axes.
    path
        The file; its suffix is the format: ``.png``, ``.pdf``, ``.svg``.
    *given, **options
        Arguments of the function.

    Raises
    ------
    InputError
        For a format that matplotlib does not support.
    StoreError
        If the file cannot be written.
    """
    with to_bare_figures():
        figure = draw(*given, **options).figure
    write_figure(figure, path)


@contextlib.contextmanager
def to_bare_figures() -> Iterator[None]:
    """Make figures that no window and no notebook shows."""
    token = _to_file.set(True)
    try:
        yield
    finally:
        _to_file.reset(token)


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Save a figure atomically; raises as :func:`save_figure`."""
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"A figure is saved as .png, .pdf or .svg, got {os.fspath(path)!r}.")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, facecolor=figure.get_facecolor())
    _files.write_bytes(path, buffer.getvalue())
