"""``modalnet localize``: from a model and a contrast to a network."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modalnet.cli import options
from modalnet.cli.console import print_json, report
from modalnet.cli.parsing import parse_names, parse_tokens, parse_top, parse_units, writable
from modalnet.cli.running import Source, job, largest, running

Spec = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="The stimuli. Bundled: language, language-conditions, theory-of-mind, multiple-demand, refusal, "
        "agreement, incentives, vision, categories, vision-vs-text, word-pictures, speech, speech-conditions, "
        "environment. Your own: fedorenko2010:FOLDER, tom-saxe:FOLDER, floc:FOLDER, minimal-pairs:FILE, csv:FILE or "
        "folder:FOLDER.",
    ),
]
Positive = Annotated[str | None, typer.Option(metavar="A,B", help="Positive conditions.")]
Negative = Annotated[str | None, typer.Option(metavar="C,D", help="Negative conditions; by default all others.")]
Towers = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Towers to localize in; by default all that the stimuli reach."),
]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CHOICE",
        help="Token positions to pool over: last, mean, image, text, cls or indices such as 0,-1; or TOWER=CHOICE, "
        "once per tower. By default the last token in a decoder, the mean elsewhere.",
    ),
]
Magnitude = Annotated[
    str | None,
    typer.Option(
        help="absolute compares the absolute activation, signed the activation itself; by default absolute, or what "
        "the protocol fixes."
    ),
]
TextColumn = Annotated[str | None, typer.Option(help="Column with the texts (csv).")]
ImageColumn = Annotated[str | None, typer.Option(help="Column with the image paths (csv).")]
ConditionColumn = Annotated[
    str | None,
    typer.Option(
        help="Column with the conditions (csv), or what a file's condition is read from: subfolder or prefix (folder)."
    ),
]
ItemColumn = Annotated[
    str | None, typer.Option(help="Column that says which stimuli are versions of one item, tested as pairs (csv).")
]
Covariates = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Numbers to adjust for: columns (csv), or length (characters) and words, which are measured on the texts.",
    ),
]
Regressor = Annotated[
    str | None, typer.Option(help="Column of numbers, or length or words: test its slope instead of two sides (csv).")
]
Unpaired = Annotated[bool, typer.Option("--unpaired", help="Welch's t also where the stimuli are pairs.")]
DuplicatesOption = Annotated[
    str | None, typer.Option(help="What to do with a stimulus that occurs twice: error (default) or keep.")
]


def localize(
    model: options.ModelName,
    *,
    contrast: Spec,
    positive: Positive = None,
    negative: Negative = None,
    units: options.Units = None,
    top: options.Top = "1%",
    towers: Towers = None,
    tokens: Tokens = None,
    magnitude: Magnitude = None,
    protocol: options.Protocol = None,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    condition_column: ConditionColumn = None,
    item_column: ItemColumn = None,
    covariates: Covariates = None,
    regressor: Regressor = None,
    unpaired: Unpaired = False,
    duplicates: DuplicatesOption = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = False,
    no_cache: options.NoCache = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Find the units of MODEL that respond more to the positive than to the negative conditions of a contrast.

    Example: modalnet localize google/gemma-3-270m --contrast language --top 1%
    """
    size = parse_top(top)
    settings: dict[str, Any] = {
        "units": parse_units(units),
        "towers": parse_names(towers),
        "tokens": parse_tokens(tokens),
        "magnitude": magnitude,
        "protocol": protocol,
        "paired": False if unpaired else "auto",
        **running(batch_size, no_cache, no_progress),
    }
    from modalnet.stimuli import spec

    stimuli = spec.parse(
        contrast,
        positive,
        negative,
        text=text_column,
        image=image_column,
        condition=condition_column,
        item=item_column,
        covariates=covariates,
        regressor=regressor,
        duplicates=duplicates,  # type: ignore[arg-type]  # checked there
    )
    folder = writable(out)
    with job(progress=not no_progress):
        import modalnet as mn
        from modalnet.cli.reports import LocalizationReport

        loaded = Source(model, device, dtype, trust_remote_code).load()
        localization = mn.localize(loaded, stimuli, **settings)
        result = LocalizationReport(loaded, stimuli, localization, largest(localization, size), size)
        files = result.write(folder)
    if json:
        print_json(result.document(files))
    else:
        result.print(report(), files)
