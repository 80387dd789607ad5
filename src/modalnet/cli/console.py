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

NAME_WIDTH = 12  # characters of a name that stay on one line in a narrow terminal


class _Plain(Console):
    """A console that prints lines as they are: paths stay whole, and ``[0]`` is no markup."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **{"soft_wrap": True, "markup": False, "highlight": False, **options})


def report() -> Console:
    """The console of results: stdout."""
    return _Plain()


def messages() -> Console:
    """The console of messages: stderr."""
    return _Plain(stderr=True)


@contextlib.contextmanager
def at_work(*, progress: bool) -> Iterator[None]:
    """Keep stdout clean while models load and run, and print warnings as one line.

    Model code from a hub may print anything; a JSON document on stdout must stay alone.
    """
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging

    logging.disable_progress_bar()  # weights are read in a second
    if not progress:
        disable_progress_bars()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        # Modalnet's own and others meant for users; other categories are for the developers of the libraries.
        if issubclass(category, UserWarning):
            messages().print(f"warning: {message}", style="yellow")

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = show
        yield


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers_from: int = 1) -> Table:
    """Make a small table; columns from ``numbers_from`` on are numbers, which never wrap."""
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
    """Format a number; a dash if it is undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def small(value: float) -> str:
    """Format a p or q value."""
    return "-" if math.isnan(value) else f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def print_json(document: Any) -> None:
    """Print the document of ``--json``; undefined numbers are null."""
    print(json.dumps(_defined(document), indent=2, ensure_ascii=False))


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
