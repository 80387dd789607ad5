"""``modalnet replicate``: a published protocol on a model, as published and refereed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modalnet.cli import options
from modalnet.cli.console import print_json, report, table
from modalnet.cli.parsing import parse_fractions, parse_names, writable
from modalnet.cli.running import Source, job, print_files, running
from modalnet.errors import InputError

if TYPE_CHECKING:
    from modalnet.replication import Replication

DESCRIPTIONS = {
    "report": "claim by claim, as published, refereed, and why they differ",
    "claims": "one row per claim",
    "published": "scores as published",
    "replication": "everything, for modalnet.replication.Replication.load",
}

ProtocolName = Annotated[str | None, typer.Argument(metavar="PROTOCOL", help="An id, such as syntax2026.")]
ModelName = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="'tiny' (bundled), a name on the hub, or a local folder.")
]
ListThem = Annotated[bool, typer.Option("--list", help="List the protocols and leave.")]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="A folder with the published sets under the names that the protocol gives; or NAME=PATH (or "
        "NAME=generate) once per contrast or task. Sets that are not named are generated after the same design.",
    ),
]
AsReleased = Annotated[bool, typer.Option("--as-released", help="Follow the released code where it differs.")]
Fractions = Annotated[str | None, typer.Option(metavar="A,B", help="Sizes; by default the first of the protocol.")]
Stimuli = Annotated[int | None, typer.Option(metavar="N", help="At most so many stimuli of each condition.")]
Items = Annotated[int | None, typer.Option(metavar="N", help="At most so many items of each task.")]
AtChance = Annotated[
    bool,
    typer.Option("--controls-at-chance", help="Lesion tasks that the intact model cannot do under controls, too."),
]
Operations = Annotated[str, typer.Option(metavar="A,B", help="Ablations of the refereed run: zero, mean, resample.")]


def replicate(
    model: ModelName = None,
    protocol: ProtocolName = None,
    *,
    list_them: ListThem = False,
    data: Data = None,
    as_released: AsReleased = False,
    fractions: Fractions = None,
    n_stimuli: Stimuli = None,
    n_items: Items = None,
    operations: Operations = "zero,mean,resample",
    controls: options.Controls = options.DEFAULT_CONTROLS,
    controls_at_chance: AtChance = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = False,
    no_cache: options.NoCache = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Run a published PROTOCOL on MODEL, as published and under the controls that a referee would ask for.

    Example: modalnet replicate google/gemma-3-270m syntax2026 --items 100
    """
    import modalnet as mn

    if list_them:
        _list()
        return
    if model is None or protocol is None:
        raise InputError("Name a model and a protocol: modalnet replicate MODEL PROTOCOL; --list lists the protocols.")
    known = mn.protocols[protocol]
    settings = running(batch_size, no_cache, no_progress)
    folder = writable(out)
    with job(progress=not no_progress):
        made = mn.replicate(
            Source(model, device, dtype, trust_remote_code).load(),
            known,
            data=_data(data),
            as_released=as_released,
            fractions=None if fractions is None else parse_fractions("--fractions", fractions),
            n_stimuli=n_stimuli,
            n_items=n_items,
            operations=parse_names(operations) or [],
            n_controls=controls,
            controls_at_chance=controls_at_chance,
            seed=seed,
            **settings,
        )
        files = write(made, folder)
    if json:
        document = {"claims": made.table().to_dict("records"), "published": made.published_table().to_dict("records")}
        print_json(document | {"material": made.material_table().to_dict("records"), "files": _paths(files)})
        return
    report().print(made.summary())
    print_files(files, DESCRIPTIONS)


def _list() -> None:
    import modalnet as mn

    rows = [[row["id"], row["units"] or row["lesion"], row["title"]] for row in mn.protocols.table().to_dict("records")]
    report().print(table(("protocol", "units", "what it does"), rows, numbers_from=3))


def _data(given: list[str] | None) -> Any:
    """None, a folder, or a mapping from names to paths."""
    if not given:
        return None
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    named = {name.strip(): value.strip() for name, equals, value in (each.partition("=") for each in given) if equals}
    if len(named) < len(given):
        raise InputError(f"--data takes one folder, or NAME=PATH once per set; got {' '.join(given)}.")
    return named


def write(made: Replication, folder: Path) -> dict[str, Path]:
    """Write a replication as files; its safetensors first, so that nothing is lost if a page cannot be made."""
    from modalnet import _files

    names = {"replication": "safetensors", "claims": "csv", "published": "csv", "report": "html"}
    files = {name: folder / f"{made.id}-{name}.{suffix}" for name, suffix in names.items()}
    made.save(files["replication"])
    for name, rows in (("claims", made.table()), ("published", made.published_table())):
        _files.write_bytes(files[name], rows.to_csv(index=False).encode())
    made.report(files["report"])
    return files


def _paths(files: dict[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in files.items()}
