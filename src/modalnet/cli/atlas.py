"""``modalnet atlas``: the map of a model as one page, and as still pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modalnet.cli import options
from modalnet.cli.console import at_work, messages, print_json, report
from modalnet.cli.lesion import parse_networks
from modalnet.cli.localize import DEFAULT_OUT, BatchSize, Device, Dtype, Json, NoCache, NoProgress, Out
from modalnet.errors import InputError

if TYPE_CHECKING:
    from modalnet.localization import Localization

SUFFIX = ".safetensors"
WHAT = {
    "atlas": "the map to look around in; opens in any browser, without a network",
    "sheet": "the map as a still picture",
    "glass": "the model in depth",
}


def atlas(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL | FILES",
            help="A model, as for modalnet localize; or localization.safetensors files of one model, each with a name "
            "of your own if you like: language=results/localization.safetensors.",
        ),
    ],
    *,
    networks: Annotated[
        str,
        typer.Option(metavar="A,B", help="With MODEL: networks to localize, as for modalnet lesion."),
    ] = "language",
    study: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A lesion study to show beside the map: lesion.safetensors.")
    ] = None,
    top: Annotated[str, typer.Option(help="Share of the units that is shown at first, such as 1%.")] = "1%",
    title: Annotated[str | None, typer.Option(help="Title of the page; the model's name by default.")] = None,
    protocol: Annotated[str | None, typer.Option(help="A published procedure for localizing: alkhamissi2025.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = "auto",
    out: Out = DEFAULT_OUT,
    json: Json = False,
    no_cache: NoCache = False,
    no_progress: NoProgress = False,
) -> None:
    """Draw MODEL's networks, or those of FILES, as a map to look around in.

    Example: modalnet atlas google/gemma-3-270m --networks language,theory-of-mind
    """
    share = options.parse_top(top).get("fraction")
    if share is None:
        raise InputError(f"--top of an atlas takes a share of the units, such as 1%; got {top}.")
    files = [one for one in sources if one.endswith(SUFFIX)]
    if len(sources) > 1 and len(files) < len(sources):
        raise InputError(f"modalnet atlas takes one model, or {SUFFIX} files; got {' '.join(sources)}.")
    wanted = {} if files else parse_networks(networks)
    folder = options.writable(out)
    started = time.perf_counter()
    with at_work(progress=not no_progress):
        import modalnet as mn

        if files:
            found = _read(files)
        else:
            messages().print(f"loading {sources[0]}")
            shown = {"cache": not no_cache, "progress": not no_progress}
            model = mn.load(sources[0], device=device, dtype=dtype)
            found = {}
            for name, contrast in wanted.items():
                messages().print(f"localizing {name}")
                text_only = not any(stimulus.n_images for stimulus in contrast.stimuli)
                own: dict[str, Any] = {"batch_size": options.parse_batch_size(batch_size), **shown}
                found[name] = mn.localize(model, contrast, protocol=protocol if text_only else None, **own)
        lesions = None if study is None else mn.LesionStudy.load(study)
        written = write(found, folder, share=share, study=lesions, title=title)
    messages().print(f"done in {time.perf_counter() - started:.0f} s")
    if json:
        print_json({"networks": list(found), "files": {name: str(path) for name, path in written.items()}})
        return
    longest = max(len(str(path)) for path in written.values())
    for name, path in written.items():
        report().print(f"  {str(path).ljust(longest)}  {WHAT[name]}")


def _read(files: list[str]) -> dict[str, Localization]:
    from modalnet.localization import Localization

    found: dict[str, Localization] = {}
    for one in files:
        name, equals, path = one.partition("=")
        localization = Localization.load(path if equals else one)
        contrast = (localization.meta.get("contrast") or {}).get("name")
        name = name if equals else str(contrast or Path(one).stem)
        if name in found:
            raise InputError(f"Two files are named {name!r}; name them yourself: NAME=FILE.")
        found[name] = localization
    return found


def write(
    found: dict[str, Localization], folder: Path, *, share: float, study: Any, title: str | None
) -> dict[str, Path]:
    """The page and the still pictures, all with one arrangement."""
    from modalnet import plotting
    from modalnet.plotting.atlas import atlas as make

    arrangement = plotting.arrange(found)
    files = {"atlas": folder / "atlas.html", "sheet": folder / "sheet.png", "glass": folder / "glass.png"}
    make(found, study=study, top=share, arrangement=arrangement, title=title).save(files["atlas"])
    plotting.save_figure(plotting.sheet, files["sheet"], found, top=share, arrangement=arrangement)
    plotting.save_figure(plotting.glass, files["glass"], found, top=share, arrangement=arrangement)
    return files
