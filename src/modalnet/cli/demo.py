"""``modalnet demo``: the language network and the vision network of the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalnet.cli import options
from modalnet.cli.console import number, print_json, report, table
from modalnet.cli.parsing import parse_top, writable
from modalnet.cli.running import Source, job, largest, running

if TYPE_CHECKING:
    from modalnet.cli.reports import LocalizationReport


def demo(
    *,
    top: options.Top = "1%",
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = "auto",
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = False,
    no_cache: options.NoCache = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Localize language (sentences > nonwords) and vision (intact > phase-scrambled images) in the bundled model."""
    size = parse_top(top)
    settings = running(batch_size, no_cache, no_progress)
    folder = writable(out)
    reports: dict[str, LocalizationReport] = {}
    files: dict[str, dict[str, Path]] = {}
    with job(progress=not no_progress):
        import modalnet as mn
        from modalnet.cli.reports import LocalizationReport

        model = Source("tiny", device, dtype).load()
        image_size = model.processor.image_processor.size["height"]
        # Nonwords have more tokens than sentences; the protocol compares the first twelve tokens of both.
        contrasts: dict[str, tuple[Any, str | None]] = {
            "language": (mn.stimuli.language(), "alkhamissi2025"),
            "vision": (mn.stimuli.vision(size=image_size), None),
        }
        for name, (contrast, protocol) in contrasts.items():
            localization = mn.localize(model, contrast, protocol=protocol, **settings)
            reports[name] = LocalizationReport(model, contrast, localization, largest(localization, size), size)
            files[name] = reports[name].write(writable(folder / name))
    if json:
        print_json({name: each.document(files[name]) for name, each in reports.items()})
        return
    console = report()
    console.print(str(model))
    for name, each in reports.items():
        console.rule(f"{name} network")
        each.print(console, files[name], model=False)
    console.rule("comparison")
    _compare(reports)


def _compare(reports: dict[str, LocalizationReport]) -> None:
    """Print one row per network, with the value of random units in brackets."""
    import numpy as np

    rows = []
    for name, each in reports.items():
        where = ", ".join(f"{tower} {mask.sum()}" for tower, mask in each.network.mask.items())
        row = [name, each.network.count, where]
        reliability, _ = each.reliability
        if reliability is None:
            rows.append([*row, "not measured", "not measured"])
            continue
        held_out = f"{number(np.nanmean(reliability.g_held_out))} ({number(np.nanmean(reliability.g_random))})"
        halves = f"{number(reliability.dice.mean())} ({number(reliability.dice_random.mean())})"
        rows.append([*row, held_out, halves])
    columns = ("network", "units", "units per tower", "held-out g (random)", "split-half Dice (random)")
    report().print(table(columns, rows))
