"""``modalnet lesion``: take networks out of a model, beside controls, and see what breaks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modalnet.cli import options
from modalnet.cli.console import at_work, messages, print_json, report
from modalnet.cli.localize import DEFAULT_OUT, BatchSize, Device, Dtype, Json, NoCache, NoProgress, Out
from modalnet.errors import InputError

if TYPE_CHECKING:
    from modalnet.lesion import LesionStudy

WHAT = {
    "study": "the study; LesionStudy.load() reads it",
    "table": "every network, task, size and operation, with intervals and tests",
    "dissociation": "crossed effects of pairs of networks",
    "verdicts": "what it means, in words",
    "plot": "scores against the size of the lesion",
}


def lesion(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A hub id, a folder with a transformers model, or tiny (bundled).")
    ],
    *,
    networks: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="Networks to localize and lesion: contrasts as in modalnet localize (language, vision, "
            "fedorenko2010:FOLDER), each with a name of your own if you like: faces=floc:FOLDER.",
        ),
    ] = "language",
    tasks: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="default, theory-of-mind, grammar, arithmetic, category, ...; blimp:FOLDER, pairs:FILE, "
            "syntaxgym:FOLDER, perplexity:FILE.",
        ),
    ] = "default",
    items: Annotated[int | None, typer.Option(help="Items of each bundled task, or pairs of each file.")] = None,
    fractions: Annotated[
        str, typer.Option(metavar="A,B", help="Sizes, as shares of the units.")
    ] = "0.125%,0.25%,0.5%,1%",
    controls: Annotated[int, typer.Option(help="Random controls of each kind beside each lesion.")] = 10,
    operations: Annotated[str, typer.Option(metavar="A,B", help="zero, mean or both.")] = "zero,mean",
    by: Annotated[str, typer.Option(help="Choose units by t or by effect_size.")] = "t",
    exclude_massive: Annotated[
        float | None,
        typer.Option(metavar="RATIO", help="Pass over units driven so many times the median of their layer."),
    ] = None,
    spare_first: Annotated[int, typer.Option(help="Leave the first so many tokens of every text alone.")] = 0,
    protocol: Annotated[str | None, typer.Option(help="A published procedure for localizing: alkhamissi2025.")] = None,
    seed: Annotated[int, typer.Option(help="Of the controls, and of what is drawn of the tasks.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = "auto",
    out: Out = DEFAULT_OUT,
    json: Json = False,
    no_cache: NoCache = False,
    no_progress: NoProgress = False,
) -> None:
    """Lesion networks of MODEL at several sizes, beside matched controls.

    Example: modalnet lesion google/gemma-3-270m --networks language --tasks blimp:data/blimp --items 4
    """
    parsed = [options.parse_top(part) for part in fractions.split(",")]
    sizes = [float(one["fraction"]) for one in parsed if "fraction" in one]
    if len(sizes) < len(parsed):
        raise InputError(f"--fractions takes shares, such as 0.25%,1%; got {fractions}.")
    wanted = parse_networks(networks)
    from modalnet.tasks import spec

    asked = spec.parse(tasks, items, seed)
    folder = options.writable(out)
    messages().print(f"loading {model}")
    started = time.perf_counter()
    shown = {"cache": not no_cache, "progress": not no_progress, "batch_size": options.parse_batch_size(batch_size)}
    with at_work(progress=not no_progress):
        import modalnet as mn

        loaded = mn.load(model, device=device, dtype=dtype)
        found = {}
        for name, contrast in wanted.items():
            messages().print(f"localizing {name}")
            text_only = not any(stimulus.n_images for stimulus in contrast.stimuli)
            found[name] = mn.localize(loaded, contrast, protocol=protocol if text_only else None, **shown)
        study = mn.lesion_study(
            loaded,
            found,
            asked,
            sizes,
            controls,
            options.names(operations) or [],
            by=by,  # type: ignore[arg-type]  # checked there
            exclude_massive=exclude_massive,
            spare_first=spare_first,
            seed=seed,
            **shown,
        )
        files = write(study, folder)
    messages().print(f"done in {time.perf_counter() - started:.0f} s")
    if json:
        print_json(_document(study, files))
        return
    console = report()
    console.print(study.summary())
    console.print("\nFiles", style="bold")
    longest = max(len(str(path)) for path in files.values())
    for name, path in files.items():
        console.print(f"  {str(path).ljust(longest)}  {WHAT[name]}")


def parse_networks(text: str) -> dict[str, Any]:
    """Contrasts by name: language, or faces=floc:FOLDER."""
    from modalnet.stimuli import spec

    found = {}
    for part in options.names(text) or []:
        name, equals, contrast = part.partition("=")
        found[name] = spec.parse(contrast if equals else part)
    return found


def write(study: LesionStudy, folder: Path) -> dict[str, Path]:
    """The study as files; its safetensors first, so that nothing of it is lost if a picture cannot be drawn."""
    from modalnet import _files

    files = {"study": folder / "lesion.safetensors"}
    study.save(files["study"])
    tables = {"table": study.table()}
    if len(study.networks) > 1 and len(study.base) > 1:
        tables["dissociation"] = study.dissociation(
            control="activation" if "activation" in study.settings["matches"] else "layer"
        )
    for name, table in tables.items():
        files[name] = folder / f"lesion-{name}.csv"
        _files.write_bytes(files[name], table.to_csv(index=False).encode())
    files["verdicts"] = folder / "lesion-verdicts.txt"
    _files.write_bytes(files["verdicts"], (study.summary() + "\n").encode())
    from modalnet.plotting.lesion import save_dose_curves

    files["plot"] = folder / "lesion.png"
    save_dose_curves(study, files["plot"])
    return files


def _document(study: LesionStudy, files: dict[str, Path]) -> dict[str, Any]:
    from modalnet import __version__

    return {
        "modalnet": __version__,
        "model": study.model,
        "settings": {**study.settings, "spare_first": study.spare_first, "seed": study.seed},
        "base": {name: scores.mean for name, scores in study.base.items()},
        "table": study.table().to_dict("records"),
        "verdicts": study.verdicts(),
        "failures": [[str(condition), task, message] for (condition, task), message in study.failures.items()],
        "files": {name: str(path) for name, path in files.items()},
    }
