"""``modalnet brain``: how well a network predicts responses of the brain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from modalnet.cli import options
from modalnet.cli.parsing import parse_names, parse_top, parse_units
from modalnet.cli.running import Running, Source, running
from modalnet.errors import InputError

if TYPE_CHECKING:
    from modalnet.brain import BrainDataset
    from modalnet.cli.measures import Measured
    from modalnet.model import Model
    from modalnet.units import Units

PUBLISHED = ("pereira2018", "tuckute2024")

Data = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="Brain responses: pereira2018:FILE, tuckute2024:FILE (baseline sentences), or csv:FILE with --text, "
        "--responses and --group.",
    ),
]
Text = Annotated[str | None, typer.Option(help="Column with the texts (csv); by default text.")]
Responses = Annotated[str | None, typer.Option(metavar="A,B", help="Columns with the responses (csv).")]
Group = Annotated[
    str | None,
    typer.Option(help="Column that names what is held out together, such as the passage or story (csv)."),
]


def brain(
    model: options.ModelName,
    *,
    data: Data,
    text: Text = None,
    responses: Responses = None,
    group: Group = None,
    network: options.Network = "language",
    units: options.Units = None,
    top: options.Top = "1%",
    protocol: options.Protocol = None,
    controls: options.Controls = options.DEFAULT_CONTROLS,
    match: options.Match = "layer",
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = "auto",
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = False,
    no_cache: options.NoCache = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Predict brain responses from a network of MODEL, beside random units, an untrained copy and baselines.

    Example: modalnet brain google/gemma-3-270m --data pereira2018:pereira2018_averaged.csv
    """
    from modalnet.cli.measures import Measured, NetworkChoice, measure_network

    loaded_data = _data(data, text, responses, group)

    def measure(loaded: Model, chosen: Units, settings: Running) -> Measured:
        import modalnet as mn

        result = mn.brain.align(loaded, chosen, loaded_data, n_controls=controls, match=match, seed=seed, **settings)  # type: ignore[arg-type]  # checked there
        return Measured(result, result.summary(), {"table": result.table(), "targets": result.targets()})

    choice = NetworkChoice(Source(model, device, dtype), network, parse_top(top), protocol, parse_units(units))
    measure_network("brain", choice, measure, running(batch_size, no_cache, no_progress), out, as_json=json)


def _data(spec: str, text: str | None, responses: str | None, group: str | None) -> BrainDataset:
    kind, colon, path = spec.partition(":")
    if kind not in (*PUBLISHED, "csv") or not colon or not path:
        raise InputError(f"--data takes pereira2018:FILE, tuckute2024:FILE or csv:FILE; got {spec}.")
    if kind != "csv":
        columns = {"--text": text, "--responses": responses, "--group": group}
        given = [name for name, value in columns.items() if value is not None]
        if given:
            raise InputError(f"{', '.join(given)}: only csv:FILE takes column names; those of {kind} are known.")
    import modalnet as mn

    if kind == "pereira2018":
        return mn.brain.pereira2018(path)
    if kind == "tuckute2024":
        return mn.brain.tuckute2024(path, conditions="B")
    names = parse_names(responses)
    if not names:
        raise InputError("--responses names the columns of the responses, such as --responses roi1,roi2.")
    data = mn.brain.from_csv(path, text=text or "text", responses=names, group=group)
    return data if data.groups is not None else data.with_groups(mn.brain.topics(data))
