"""What every command does around its analysis: load the model, localize networks, time, and list files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from modalnet.cli.console import at_work, messages, report
from modalnet.cli.parsing import Size, parse_batch_size

if TYPE_CHECKING:
    from modalnet.localization import Localization
    from modalnet.model import Model
    from modalnet.stimuli import Contrast
    from modalnet.units import Units


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
    model: Model,
    contrasts: Mapping[str, Contrast],
    protocols: Mapping[str, str | None],
    settings: Running,
    units: list[str] | str = "residual",
) -> dict[str, Localization]:
    """Localize the networks of several contrasts."""
    import modalnet as mn

    localizations = {}
    for name, contrast in contrasts.items():
        messages().print(f"localizing {name}")
        localizations[name] = mn.localize(model, contrast, units=units, protocol=protocols[name], **settings)
    return localizations


def largest(localization: Localization, size: Size) -> Units:
    """Select the network of a size; a share that is less than one unit is one unit, which is said."""
    (share,) = shares([size["fraction"]], [localization]) if "fraction" in size else (None,)
    return localization.top(k=size["k"]) if share is None else localization.top(fraction=share)


def shares(fractions: Sequence[float], localizations: Iterable[Localization]) -> list[float]:
    """Shares of the units that select at least one unit of each localization, each once; says which had to grow."""
    n_units = min(localization.n_units for localization in localizations)
    if min(fractions) * n_units >= 1:
        return list(fractions)
    small = ", ".join(f"{100 * each:g}%" for each in fractions if each * n_units < 1)
    messages().print(f"{small} of {n_units:,} units is less than one: one unit ({100 / n_units:.3g}%) is selected")
    return list(dict.fromkeys(max(each, 1 / n_units) for each in fractions))


def print_files(files: Mapping[str, Path], descriptions: Mapping[str, str], *, heading: bool = True) -> None:
    """List the files that were written, each with what it holds."""
    console = report()
    if heading:
        console.print("\nFiles", style="bold")
    longest = max(len(str(path)) for path in files.values())
    for name, path in files.items():
        console.print(f"  {str(path).ljust(longest)}  {descriptions.get(name, '')}".rstrip())
