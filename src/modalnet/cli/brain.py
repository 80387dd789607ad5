"""``modalnet profile`` and ``modalnet brain``: does a network look like the brain's?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modalnet.cli import options
from modalnet.cli.console import at_work, messages, print_json, report
from modalnet.cli.localize import DEFAULT_OUT, BatchSize, Device, Dtype, Json, NoCache, NoProgress, Out, Top
from modalnet.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Source = Annotated[
    str, typer.Argument(metavar="MODEL", help="A hub id, a folder with a transformers model, or tiny (bundled).")
]
Network = Annotated[
    str,
    typer.Option(metavar="SPEC", help="The contrast that finds the network, as for localize: fedorenko2010:FOLDER."),
]
Protocol = Annotated[str | None, typer.Option(help="A published procedure for localizing: alkhamissi2025.")]
Controls = Annotated[int, typer.Option(help="Draws of random units beside the network.")]
Match = Annotated[str, typer.Option(help="What random units share with the network: layer, norm or tower.")]
Seed = Annotated[int, typer.Option(help="Of random units, folds and resamples.")]

SIZE = (5.5, 4.0)  # inches
PUBLISHED = ("pereira2018", "tuckute2024")


def profile(
    model: Source,
    *,
    network: Network = "language",
    top: Top = "1%",
    protocol: Protocol = None,
    controls: Controls = 10,
    match: Match = "layer",
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = "auto",
    out: Out = DEFAULT_OUT,
    json: Json = False,
    no_cache: NoCache = False,
    no_progress: NoProgress = False,
) -> None:
    """Measure how a network of MODEL responds to sentences, word lists, Jabberwocky and nonwords, held out.

    Example: modalnet profile google/gemma-3-270m --network language --top 1%
    """

    def measure(loaded: Any, units: Any, shown: dict[str, Any]) -> tuple[Any, str, dict[str, Any]]:
        import modalnet as mn

        found = mn.profile.language(
            loaded, units, controls=controls, match=match, seed=seed, name=network.partition(":")[0], **shown
        )
        human = found.compare_to_human()
        tables = {"table": found.table(), "contrasts": found.contrasts(), "human": human.table()}
        return found, f"{found.summary()}\n{human.summary()}", tables

    shown = {"cache": not no_cache, "progress": not no_progress, "batch_size": options.parse_batch_size(batch_size)}
    loading = {"device": device, "dtype": dtype}
    _job("profile", model, network, measure, options.parse_top(top), protocol, loading, shown, out, as_json=json)


def brain(
    model: Source,
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Responses of a brain: pereira2018:FILE, tuckute2024:FILE (its baseline sentences), or csv:FILE with "
            "--text, --responses and --group.",
        ),
    ],
    text: Annotated[str, typer.Option(help="Column of the texts, for csv.")] = "text",
    responses: Annotated[str | None, typer.Option(metavar="A,B", help="Columns of the responses, for csv.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Column of what is held out together (passage, story), for csv.")
    ] = None,
    network: Network = "language",
    top: Top = "1%",
    protocol: Protocol = None,
    controls: Controls = 10,
    match: Match = "layer",
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = "auto",
    out: Out = DEFAULT_OUT,
    json: Json = False,
    no_cache: NoCache = False,
    no_progress: NoProgress = False,
) -> None:
    """Predict responses of a brain from a network of MODEL, beside random units, an untrained copy and baselines.

    Example: modalnet brain google/gemma-3-270m --data pereira2018:pereira2018_averaged.csv
    """
    read = _data(data, text, responses, group)

    def measure(loaded: Any, units: Any, shown: dict[str, Any]) -> tuple[Any, str, dict[str, Any]]:
        import modalnet as mn

        found = mn.brain.align(loaded, units, read, controls=controls, match=match, seed=seed, **shown)  # type: ignore[arg-type]  # checked there
        return found, found.summary(), {"table": found.table(), "targets": found.targets()}

    shown = {"cache": not no_cache, "progress": not no_progress, "batch_size": options.parse_batch_size(batch_size)}
    loading = {"device": device, "dtype": dtype}
    _job("brain", model, network, measure, options.parse_top(top), protocol, loading, shown, out, as_json=json)


def _data(spec: str, text: str, responses: str | None, group: str | None) -> Any:
    kind, colon, path = spec.partition(":")
    if kind not in (*PUBLISHED, "csv") or not colon or not path:
        raise InputError(f"--data takes pereira2018:FILE, tuckute2024:FILE or csv:FILE; got {spec}.")
    if kind != "csv" and (responses or group):
        raise InputError(f"--responses and --group name columns of a csv; {kind} knows its own.")
    import modalnet as mn

    if kind == "pereira2018":
        return mn.brain.pereira2018(path)
    if kind == "tuckute2024":
        return mn.brain.tuckute2024(path, conditions="B")
    columns = options.names(responses)
    if not columns:
        raise InputError("--responses names the columns of the responses, such as --responses roi1,roi2.")
    data = mn.brain.from_csv(path, text=text, responses=columns, group=group)
    return data if data.groups is not None else data.with_groups(mn.brain.topics(data))


def _job(  # noqa: PLR0917  # one call of each command
    what: str,
    source: str,
    network: str,
    measure: Callable[[Any, Any, dict[str, Any]], tuple[Any, str, dict[str, Any]]],
    top: dict[str, Any],
    protocol: str | None,
    loading: dict[str, Any],
    shown: dict[str, Any],
    out: Path,
    *,
    as_json: bool,
) -> None:
    """Load, localize, measure, write the files, and report."""
    from modalnet.stimuli import spec

    contrast = spec.parse(network)
    folder = options.writable(out)
    messages().print(f"loading {source}")
    started = time.perf_counter()
    with at_work(progress=shown["progress"]):
        import modalnet as mn

        model = mn.load(source, **loading)
        messages().print(f"localizing {network}")
        localization = mn.localize(model, contrast, protocol=protocol, **shown)
        found, text, tables = measure(model, localization.top(**top), shown)
        files = _write(what, found, text, tables, folder)
    messages().print(f"done in {time.perf_counter() - started:.0f} s")
    if as_json:
        document: dict[str, Any] = {"modalnet": mn.__version__, "model": found.model, "settings": found.settings}
        document |= {name: table.to_dict("records") for name, table in tables.items()}
        print_json(document | {"notes": list(found.notes), "files": {name: str(path) for name, path in files.items()}})
        return
    console = report()
    console.print(text)
    console.print("\nFiles", style="bold")
    for path in files.values():
        console.print(f"  {path}")


def _write(what: str, found: Any, text: str, tables: dict[str, pd.DataFrame], folder: Path) -> dict[str, Path]:
    """The result as files; its safetensors first, so that nothing of it is lost if a picture cannot be drawn."""
    from matplotlib.figure import Figure

    from modalnet import _files
    from modalnet.plotting.saving import write_figure

    files = {"result": folder / f"{what}.safetensors"}
    found.save(files["result"])
    for name, table in tables.items():
        files[name] = folder / f"{what}-{name}.csv"
        _files.write_bytes(files[name], table.to_csv(index=False).encode())
    files["summary"] = folder / f"{what}.txt"
    _files.write_bytes(files["summary"], (text + "\n").encode())
    figure = Figure(figsize=SIZE, layout="constrained")
    found.plot(ax=figure.subplots())
    files["plot"] = folder / f"{what}.png"
    write_figure(figure, files["plot"])
    return files
