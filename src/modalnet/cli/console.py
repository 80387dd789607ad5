"""Where output goes: reports to stdout, messages to stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

NAME_WIDTH = 12  # characters of a name that stand on one line however narrow the terminal is


class _Plain(Console):
    """A console that prints lines as they are: paths stay whole, and ``[0]`` is no markup."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **{"soft_wrap": True, "markup": False, "highlight": False, **options})


def report() -> Console:
    """What the user asked for."""
    return _Plain()


def messages() -> Console:
    """What is said on the way."""
    return _Plain(stderr=True)


@contextlib.contextmanager
def at_work(*, progress: bool) -> Iterator[None]:
    """Keep stdout clean while models load and run, and say warnings in one line.

    Model code from a hub may print what it likes; a JSON document on stdout must stay alone.
    """
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for weights that are read in a second
    if not progress:
        disable_progress_bars()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        # Modalnet's own and those meant for users; the others are meant for the developers of the libraries.
        if issubclass(category, UserWarning):
            messages().print(f"warning: {message}", style="yellow")

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = show
        yield


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers_from: int = 1) -> Table:
    """A small table; columns from ``numbers_from`` on are numbers, which stay whole where names wrap."""
    from rich import box

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for place, name in enumerate(columns):
        longest = max(len(name), *(len(str(row[place])) for row in rows))
        if place >= numbers_from:
            made.add_column(name, justify="right", no_wrap=True, min_width=longest)
        else:
            made.add_column(name, overflow="fold", min_width=min(longest, NAME_WIDTH))
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def number(value: float, digits: int = 2) -> str:
    """A number for a table; a dash where it is not defined."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def small(value: float) -> str:
    """A p or q value."""
    return "-" if math.isnan(value) else f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def print_json(document: Any) -> None:
    """Print the one document of ``--json``; what is not defined is null."""
    print(json.dumps(_defined(document), indent=2, ensure_ascii=False))


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
