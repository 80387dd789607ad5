"""What every command does around its analysis: load the model, localize networks, time, and list files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from modalnet.cli.console import at_work, messages, report
from modalnet.cli.parsing import parse_batch_size

if TYPE_CHECKING:
    from modalnet.localization import Localization
    from modalnet.model import Model
    from modalnet.stimuli import Contrast


class Running(TypedDict):
    """Keyword arguments of every analysis that runs a model."""

    batch_size: int | Literal["auto"]
    cache: bool
    progress: bool


def running(batch_size: str, no_cache: bool, no_progress: bool) -> Running:
    """Make the keyword arguments from the options of a command."""
    return {"batch_size": parse_batch_size(batch_size), "cache": not no_cache, "progress": not no_progress}


@dataclass(frozen=True)
class Source:
    """Which model, and how it is loaded."""

    name: str
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False

    def load(self) -> Model:
        """Load the model."""
        import modalnet as mn

        messages().print("loading the bundled model" if self.name == "tiny" else f"loading {self.name}")
        options: dict[str, Any] = {"trust_remote_code": True} if self.trust_remote_code else {}
        return mn.load(self.name, device=self.device, dtype=self.dtype, **options)


@contextlib.contextmanager
def job(*, progress: bool) -> Iterator[None]:
    """Run an analysis with a clean stdout, and say how long it took."""
    started = time.perf_counter()
    with at_work(progress=progress):
        yield
    messages().print(f"done in {time.perf_counter() - started:.0f} s")


def localize_each(
    model: Model, contrasts: Mapping[str, Contrast], protocols: Mapping[str, str | None], settings: Running
) -> dict[str, Localization]:
    """Localize the networks of several contrasts."""
    import modalnet as mn

    localizations = {}
    for name, contrast in contrasts.items():
        messages().print(f"localizing {name}")
        localizations[name] = mn.localize(model, contrast, protocol=protocols[name], **settings)
    return localizations


def print_files(files: Mapping[str, Path], descriptions: Mapping[str, str], *, heading: bool = True) -> None:
    """List the files that were written, each with what it holds."""
    console = report()
    if heading:
        console.print("\nFiles", style="bold")
    longest = max(len(str(path)) for path in files.values())
    for name, path in files.items():
        console.print(f"  {str(path).ljust(longest)}  {descriptions.get(name, '')}".rstrip())
