"""``modalnet demo``: the language network and the vision network of the bundled model, and what they have in common."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalnet.cli import options
from modalnet.cli.console import at_work, messages, number, print_json, report, table
from modalnet.cli.localize import DEFAULT_OUT, BatchSize, Device, Dtype, Json, NoCache, NoProgress, Out, Top

if TYPE_CHECKING:
    from modalnet.cli.reports import Findings


def demo(
    *,
    top: Top = "1%",
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = "auto",
    out: Out = DEFAULT_OUT,
    json: Json = False,
    no_cache: NoCache = False,
    no_progress: NoProgress = False,
) -> None:
    """Localize language and vision in the bundled model: sentences > nonwords, pictures > phase-scrambled pictures."""
    wanted = options.parse_top(top)
    arguments = {
        "batch_size": options.parse_batch_size(batch_size),
        "cache": not no_cache,
        "progress": not no_progress,
    }
    folder = options.writable(out)
    messages().print("loading the bundled model")
    started = time.perf_counter()
    with at_work(progress=not no_progress):
        import modalnet as mn
        from modalnet.cli.reports import Findings

        model = mn.load("tiny", device=device, dtype=dtype)
        size = model.processor.size["height"]
        # A nonword is cut into letters, so the sides differ in length; the protocol compares the first twelve tokens.
        contrasts: dict[str, tuple[Any, dict[str, Any]]] = {
            "language": (mn.stimuli.language(), {"protocol": "alkhamissi2025"}),
            "vision": (mn.stimuli.vision(size=size), {}),
        }
        found: dict[str, Findings] = {}
        files: dict[str, dict[str, Path]] = {}
        for name, (contrast, special) in contrasts.items():
            localization = mn.localize(model, contrast, **arguments, **special)
            found[name] = Findings(model, contrast, localization, localization.top(**wanted), wanted)
            files[name] = found[name].write(options.writable(folder / name))
    messages().print(f"done in {time.perf_counter() - started:.0f} s")
    if json:
        print_json({name: one.document(files[name]) for name, one in found.items()})
        return
    console = report()
    console.print(str(model))
    for name, one in found.items():
        console.rule(f"{name} network")
        one.print(console, files[name], model=False)
    console.rule("in short")
    _compare(found)


def _compare(found: dict[str, Findings]) -> None:
    """One row per network; what random units would show stands in brackets."""
    import numpy as np

    rows = []
    for name, one in found.items():
        row = [name, one.network.count, ", ".join(f"{tower} {mask.sum()}" for tower, mask in one.network.mask.items())]
        reliability, _ = one.reliability
        if reliability is None:
            rows.append([*row, "not measured", "not measured"])
            continue
        held_out = f"{number(np.nanmean(reliability.g_held_out))} ({number(np.nanmean(reliability.g_random))})"
        halves = f"{number(reliability.dice.mean())} ({number(reliability.dice_random.mean())})"
        rows.append([*row, held_out, halves])
    columns = ("network", "units", "where", "held-out g (random)", "halves' Dice (random)")
    report().print(table(columns, rows))
