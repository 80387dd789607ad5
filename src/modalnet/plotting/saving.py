"""Pictures into files: whole or not at all, without a window."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from modalnet import _files
from modalnet.errors import InputError

DPI = 200
_to_file: ContextVar[bool] = ContextVar("_to_file", default=False)


def new_figure(**options: Any) -> Any:
    """A figure of pyplot, which notebooks show; within :func:`save_figure` one that no window knows of."""
    if _to_file.get():
        from matplotlib.figure import Figure

        return Figure(**options)
    from matplotlib import pyplot

    return pyplot.figure(**options)


def save_figure(draw: Callable[..., Any], path: str | os.PathLike[str], *given: Any, **options: Any) -> None:
    """Write what :func:`modalnet.plotting.sheet` or :func:`modalnet.plotting.glass` draws to a file.

    Parameters
    ----------
    draw
        The function that draws.
    path
        The file; its suffix says which kind: ``.png``, ``.pdf``, ``.svg``.
    *given, **options
        What the function takes.

    Raises
    ------
    InputError
        For a suffix that matplotlib does not write.
    StoreError
        If the file cannot be written.
    """
    token = _to_file.set(True)
    try:
        figure = draw(*given, **options).figure
    finally:
        _to_file.reset(token)
    write_figure(figure, path)


def write_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file, whole or not at all; errors as of :func:`save_figure`."""
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise InputError(f"A picture is written as .png, .pdf or .svg; {os.fspath(path)!r} ends otherwise.")
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, dpi=DPI, facecolor=figure.get_facecolor())
    _files.write_bytes(path, picture.getvalue())
