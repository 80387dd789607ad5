"""What ``modalnet profile`` and ``modalnet brain`` share: a network is localized, measured, and written to files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.cli.console import print_json, report
from modalnet.cli.parsing import Size, writable
from modalnet.cli.running import Running, Source, job, largest, localize_each, print_files

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.brain.result import Alignment
    from modalnet.model import Model
    from modalnet.profiles import Profile
    from modalnet.units import Units

SIZE = (5.5, 4.0)  # inches


@dataclass(frozen=True)
class Measured:
    """The result of a command: the object, its report as text, and its tables by name."""

    result: Profile | Alignment
    text: str
    tables: dict[str, pd.DataFrame]


Measure: TypeAlias = "Callable[[Model, Units, Running], Measured]"


@dataclass(frozen=True)
class NetworkChoice:
    """Which network of which model is measured."""

    source: Source
    contrast: str
    size: Size
    protocol: str | None
    units: list[str] | str = "residual"


def measure_network(
    command: str, network: NetworkChoice, measure: Measure, settings: Running, out: Path, *, as_json: bool
) -> None:
    """Load the model, localize the network, measure it, write the files, and report."""
    from modalnet.stimuli import spec

    contrast = spec.parse(network.contrast)
    folder = writable(out)
    with job(progress=settings["progress"]):
        import modalnet as mn

        model = network.source.load()
        localizations = localize_each(
            model, {network.contrast: contrast}, {network.contrast: network.protocol}, settings, network.units
        )
        measured = measure(model, largest(localizations[network.contrast], network.size), settings)
        files = _write(command, measured, folder)
    result = measured.result
    if as_json:
        document: dict[str, Any] = {"modalnet": mn.__version__, "model": result.model, "settings": result.settings}
        document |= {name: table.to_dict("records") for name, table in measured.tables.items()}
        document |= {"notes": list(result.notes), "files": {name: str(path) for name, path in files.items()}}
        print_json(document)
        return
    report().print(measured.text)
    print_files(files, {})


def _write(command: str, measured: Measured, folder: Path) -> dict[str, Path]:
    """Write the result as files; its safetensors first, so that nothing is lost if a figure cannot be drawn."""
    from matplotlib.figure import Figure

    from modalnet import _files
    from modalnet.plotting.saving import write_figure

    files = {"result": folder / f"{command}.safetensors"}
    measured.result.save(files["result"])
    for name, table in measured.tables.items():
        files[name] = folder / f"{command}-{name}.csv"
        _files.write_bytes(files[name], table.to_csv(index=False).encode())
    files["summary"] = folder / f"{command}.txt"
    _files.write_bytes(files["summary"], (measured.text + "\n").encode())
    figure = Figure(figsize=SIZE, layout="constrained")
    measured.result.plot(ax=figure.subplots())
    files["plot"] = folder / f"{command}.png"
    write_figure(figure, files["plot"])
    return files
