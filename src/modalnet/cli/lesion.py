"""``modalnet lesion``: lesion networks beside random controls, and measure what is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modalnet.cli import options
from modalnet.cli.console import print_json, report
from modalnet.cli.parsing import parse_fractions, parse_names, parse_networks, parse_protocols, parse_units, writable
from modalnet.cli.running import Source, job, localize_each, print_files, running, shares

if TYPE_CHECKING:
    from modalnet.lesion import LesionStudy

DESCRIPTIONS = {
    "study": "the study, for modalnet.LesionStudy.load",
    "table": "every network, task, size and operation, with intervals and tests",
    "dissociation": "interactions between pairs of networks and pairs of tasks",
    "verdicts": "whether each effect survives its controls, and what could have been found",
    "summary": "the same in words, beside an abridged table",
    "plot": "score against lesion size",
}

Tasks = Annotated[
    str,
    typer.Option(
        metavar="A,B",
        help="default, theory-of-mind, agreement, word-problems, incentive-choice, lexical-decision, "
        "sentence-pictures, grammar, arithmetic, category, ...; blimp:FOLDER, pairs:FILE, syntaxgym:FOLDER, "
        "mmtomqa:FILE, perplexity:FILE.",
    ),
]
Items = Annotated[
    int | None,
    typer.Option(help="Items per bundled task or suite, and pairs per file; texts for perplexity are always all read."),
]
Fractions = Annotated[str, typer.Option(metavar="A,B", help="Lesion sizes, as shares of the units; at least one unit.")]
Operations = Annotated[str, typer.Option(metavar="A,B", help="zero, mean, resample, scale (graded lesions).")]
Match = Annotated[
    str,
    typer.Option(
        metavar="A,B", help="Kinds of random controls: layer, activation, variance, readout, dimension, tower."
    ),
]
SpareSinks = Annotated[bool, typer.Option(help="Spare sink tokens, which are found by measurement.")]
By = Annotated[str, typer.Option(help="Select units by t or by effect_size.")]
ExcludeMassive = Annotated[
    float | None,
    typer.Option(
        metavar="RATIO", help="Exclude units whose mean absolute activation exceeds the layer's median by this factor."
    ),
]
SpareFirst = Annotated[int, typer.Option(help="Number of first tokens of each text that are not lesioned.")]


def lesion(
    model: options.ModelName,
    *,
    networks: options.Networks = None,
    units: options.Units = None,
    tasks: Tasks = "default",
    items: Items = None,
    fractions: Fractions = "0.125%,0.25%,0.5%,1%",
    controls: options.Controls = options.DEFAULT_CONTROLS,
    operations: Operations = "zero,mean",
    match: Match = "layer,activation",
    by: By = "t",
    exclude_massive: ExcludeMassive = None,
    spare_first: SpareFirst = 0,
    spare_sinks: SpareSinks = True,
    protocol: options.Protocols = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = "auto",
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = False,
    no_cache: options.NoCache = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Lesion networks of MODEL at several sizes, beside matched random controls.

    Example: modalnet lesion google/gemma-3-270m --networks language --tasks blimp:data/blimp --items 4
    """
    sizes = parse_fractions("--fractions", fractions)
    contrasts = parse_networks(networks)
    protocols, kinds = parse_protocols(protocol, contrasts), parse_units(units)
    settings = running(batch_size, no_cache, no_progress)
    from modalnet.lesion.study import check_lesions
    from modalnet.tasks import spec

    task_list = spec.parse(tasks, items, seed)
    ablations = parse_names(operations) or []
    check_lesions(ablations, by=by, exclude_massive=exclude_massive, spare_first=spare_first)
    folder = writable(out)
    with job(progress=not no_progress):
        import modalnet as mn

        loaded = Source(model, device, dtype).load()
        localizations = localize_each(loaded, contrasts, protocols, settings, kinds)
        study = mn.lesion_study(
            loaded,
            localizations,
            task_list,
            shares(sizes, localizations.values()),
            controls,
            ablations,
            match=parse_names(match) or [],
            by=by,  # type: ignore[arg-type]  # checked there
            exclude_massive=exclude_massive,
            spare_first=spare_first,
            spare_sinks=spare_sinks,
            seed=seed,
            **settings,
        )
        files = write(study, folder)
    if json:
        print_json(_document(study, files))
        return
    report().print(study.summary())
    print_files(files, DESCRIPTIONS)


def write(study: LesionStudy, folder: Path) -> dict[str, Path]:
    """Write the study as files; its safetensors first, so that nothing is lost if a figure cannot be drawn."""
    from modalnet import _files
    from modalnet.plotting.lesion import save_dose_curves

    files = {"study": folder / "lesion.safetensors"}
    study.save(files["study"])
    tables = {"table": study.table(), "verdicts": study.verdicts()}
    if len(study.networks) > 1 and len(study.base) > 1:
        # Activation-matched units are the strictest control; without them, the first kind that was run.
        kinds = sorted(study.settings["match"], key=lambda kind: kind != "activation") or ["layer"]
        tables["dissociation"] = study.dissociation(control=kinds[0])
    for name, table in tables.items():
        files[name] = folder / f"lesion-{name}.csv"
        _files.write_bytes(files[name], table.to_csv(index=False).encode())
    files["summary"] = folder / "lesion-summary.txt"
    _files.write_bytes(files["summary"], (study.summary() + "\n").encode())
    files["plot"] = folder / "lesion.png"
    save_dose_curves(study, files["plot"])
    return files


def _document(study: LesionStudy, files: dict[str, Path]) -> dict[str, Any]:
    from modalnet._version import __version__

    return {
        "modalnet": __version__,
        "model": study.model,
        "settings": {**study.settings, "spare_first": study.spare_first, "seed": study.seed},
        "base": {name: scores.mean for name, scores in study.base.items()},
        "table": study.table().to_dict("records"),
        "verdicts": study.verdicts().to_dict("records"),
        "failures": [[str(condition), task, message] for (condition, task), message in study.failures.items()],
        "files": {name: str(path) for name, path in files.items()},
    }
