"""``modalnet localize``: from a model and a contrast to a network, in files and on the screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modalnet.cli import options
from modalnet.cli.console import at_work, messages, print_json, report

if TYPE_CHECKING:
    from modalnet.stimuli import Contrast

TOP = "a share of the units (1% or 0.01), or a number of units (115)"

Top = Annotated[str, typer.Option(help=f"How large the network is: {TOP}.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep the result in the store.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no progress bars.")]
BatchSize = Annotated[str, typer.Option(metavar="N|auto", help="Stimuli per forward pass.")]
Device = Annotated[str | None, typer.Option(help="Where the model runs, such as cuda or cpu.")]
Dtype = Annotated[str | None, typer.Option(help="Precision of the weights, such as bfloat16; as saved by default.")]

DEFAULT_OUT = Path("modalnet-out")


def localize(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A hub id, a folder with a transformers model, or tiny (bundled)."),
    ],
    *,
    contrast: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="The stimuli. Bundled: language, language-conditions, theory-of-mind, multiple-demand, refusal, "
            "vision, categories, vision-vs-text. Yours: fedorenko2010:FOLDER, tom-saxe:FOLDER, floc:FOLDER, csv:FILE "
            "or folder:FOLDER.",
        ),
    ],
    positive: Annotated[str | None, typer.Option(metavar="A,B", help="Conditions of the positive side.")] = None,
    negative: Annotated[
        str | None, typer.Option(metavar="C,D", help="Conditions of the negative side; by default all others.")
    ] = None,
    top: Top = "1%",
    towers: Annotated[
        str | None, typer.Option(metavar="A,B", help="Towers to localize in; by default all that the stimuli reach.")
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHOICE",
            help="Tokens to pool over: last, mean, image, text, cls or places such as 0,-1; or, once per tower, "
            "TOWER=CHOICE. By default the last token in a decoder, the mean elsewhere.",
        ),
    ] = None,
    magnitude: Annotated[
        str, typer.Option(help="absolute compares |activation|, signed the activation itself.")
    ] = "absolute",
    protocol: Annotated[
        str | None, typer.Option(help="A published procedure: alkhamissi2025 (12 tokens, last token, absolute).")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts, for csv.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the image paths, for csv.")] = None,
    condition_column: Annotated[
        str | None,
        typer.Option(help="Column of the conditions, for csv; for folder where they are written: subfolder or prefix."),
    ] = None,
    duplicates: Annotated[
        str | None, typer.Option(help="What to do about the same stimulus twice: error (the default) or keep.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that a checkpoint brings.")
    ] = False,
    out: Out = DEFAULT_OUT,
    json: Json = False,
    no_cache: NoCache = False,
    no_progress: NoProgress = False,
) -> None:
    """Find the units of MODEL that respond more to one side of a contrast.

    Example: modalnet localize google/gemma-3-270m --contrast language --top 1%
    """
    wanted = options.parse_top(top)
    arguments = {
        "towers": options.names(towers),
        "tokens": options.parse_tokens(tokens),
        "magnitude": magnitude,
        "protocol": protocol,
        "batch_size": options.parse_batch_size(batch_size),
        "cache": not no_cache,
        "progress": not no_progress,
    }
    from modalnet.stimuli import spec

    stimuli = spec.parse(
        contrast,
        positive,
        negative,
        text=text_column,
        image=image_column,
        condition=condition_column,
        duplicates=duplicates,  # type: ignore[arg-type]  # checked there
    )
    folder = options.writable(out)
    loading: dict[str, Any] = {"device": device, "dtype": dtype}
    if trust_remote_code:
        loading["trust_remote_code"] = True
    job(model, stimuli, top=wanted, folder=folder, arguments=arguments, loading=loading, as_json=json)


def job(
    source: str,
    contrast: Contrast,
    *,
    top: dict[str, Any],
    folder: Path,
    arguments: dict[str, Any],
    loading: dict[str, Any],
    as_json: bool,
) -> None:
    """Load, localize, write the files, and report."""
    messages().print(f"loading {source}")
    started = time.perf_counter()
    with at_work(progress=arguments["progress"]):
        import modalnet as mn
        from modalnet.cli import reports as findings

        model = mn.load(source, **loading)
        localization = mn.localize(model, contrast, **arguments)
        network = localization.top(**top)
        found = findings.Findings(model, contrast, localization, network, top)
        files = found.write(folder)
    messages().print(f"done in {time.perf_counter() - started:.0f} s")
    if as_json:
        print_json(found.document(files))
    else:
        found.print(report(), files)
