"""``modalnet atlas``: a map of a model as an interactive page and as figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modalnet.cli import options
from modalnet.cli.console import print_json
from modalnet.cli.parsing import parse_fractions, parse_networks, parse_protocols, parse_units, writable
from modalnet.cli.running import Source, job, localize_each, print_files, running
from modalnet.errors import InputError

if TYPE_CHECKING:
    from modalnet.lesion import LesionStudy
    from modalnet.localization import Localization

SUFFIX = ".safetensors"
DESCRIPTIONS = {
    "atlas": "interactive map; opens in any browser, offline",
    "sheet": "the flat map as a figure",
    "glass": "the model in depth as a figure",
}

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL | FILES",
        help="A model, as for modalnet localize; or localization.safetensors files of one model, each optionally "
        "named: language=results/localization.safetensors.",
    ),
]
Study = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Lesion study to show beside the map: lesion.safetensors.")
]
Shown = Annotated[str, typer.Option(help="Share of the units shown initially, such as 1%.")]
Title = Annotated[str | None, typer.Option(help="Title of the page; by default the model's name.")]


def atlas(
    sources: Sources,
    *,
    networks: options.Networks = None,
    units: options.Units = None,
    study: Study = None,
    top: Shown = "1%",
    title: Title = None,
    protocol: options.Protocols = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = "auto",
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = False,
    no_cache: options.NoCache = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Draw the networks of MODEL, or those in FILES, as a map of the model.

    Example: modalnet atlas google/gemma-3-270m --networks language,theory-of-mind
    """
    (share,) = parse_fractions("--top", top)
    files = [source for source in sources if source.endswith(SUFFIX)]
    if len(sources) > 1 and len(files) < len(sources):
        raise InputError(f"modalnet atlas takes one model or {SUFFIX} files; got {' '.join(sources)}.")
    contrasts = {} if files else parse_networks(networks)
    if files:
        of_a_model = {
            "--networks": networks is not None,
            "--units": units is not None,
            "--protocol": bool(protocol),
            "--device": device is not None,
            "--dtype": dtype is not None,
            "--batch-size": batch_size != "auto",
            "--no-cache": no_cache,
        }
        given = [name for name, is_given in of_a_model.items() if is_given]
        if given:
            raise InputError(f"{', '.join(given)}: localizations from files are drawn as they are, without a model.")
    protocols, kinds = parse_protocols(protocol, contrasts), parse_units(units)
    settings = running(batch_size, no_cache, no_progress)
    folder = writable(out)
    with job(progress=not no_progress):
        import modalnet as mn

        if files:
            localizations = _read(files)
        else:
            loaded = Source(sources[0], device, dtype).load()
            localizations = localize_each(loaded, contrasts, protocols, settings, kinds)
        lesions = None if study is None else mn.LesionStudy.load(study)
        written = write(localizations, folder, share=share, study=lesions, title=title)
    if json:
        print_json({"networks": list(localizations), "files": {name: str(path) for name, path in written.items()}})
    else:
        print_files(written, DESCRIPTIONS, heading=False)


def _read(files: list[str]) -> dict[str, Localization]:
    from modalnet.localization import Localization

    localizations: dict[str, Localization] = {}
    for file in files:
        name, equals, path = file.partition("=")
        localization = Localization.load(path if equals else file)
        contrast = (localization.meta.get("contrast") or {}).get("name")
        name = name if equals else str(contrast or Path(file).stem)
        if name in localizations:
            raise InputError(f"Two files are named {name!r}. Name them yourself: NAME=FILE.")
        localizations[name] = localization
    return localizations


def write(
    localizations: dict[str, Localization],
    folder: Path,
    *,
    share: float,
    study: LesionStudy | None,
    title: str | None,
) -> dict[str, Path]:
    """Write the page and the figures, all with one arrangement."""
    from modalnet import plotting
    from modalnet.plotting.atlas import atlas as make

    arrangement = plotting.arrange(localizations)
    files = {"atlas": folder / "atlas.html", "sheet": folder / "sheet.png", "glass": folder / "glass.png"}
    make(localizations, study=study, top=share, arrangement=arrangement, title=title).save(files["atlas"])
    plotting.save_figure(plotting.sheet, files["sheet"], localizations, top=share, arrangement=arrangement)
    plotting.save_figure(plotting.glass, files["glass"], localizations, top=share, arrangement=arrangement)
    return files
