"""Options that several commands share, each with its one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_OUT = Path("modalnet-out")
DEFAULT_CONTROLS = 20

ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Hub id, folder with a transformers model, or tiny (the bundled model)."),
]
Device = Annotated[str | None, typer.Option(help="Device to run the model on, such as cuda or cpu.")]
Dtype = Annotated[
    str | None, typer.Option(help="Precision of the weights, such as bfloat16; by default as they were saved.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint.")
]

Network = Annotated[
    str, typer.Option(metavar="SPEC", help="Contrast that localizes the network, as for modalnet localize --contrast.")
]
Networks = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Contrasts that localize the networks, as for modalnet localize --contrast, each optionally named: "
        "language,faces=floc:FOLDER. By default language.",
    ),
]
Top = Annotated[
    str,
    typer.Option(
        help="Size of the network: a share of the units (1% or 0.01; at least one unit), or a number of units (115)."
    ),
]
Units = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Kinds of units: neurons, heads, attention, mlp, gate, experts, ...; or spaces as modalnet towers lists "
        "them, such as decoder.heads. By default the residual stream.",
    ),
]
_PROTOCOL = (
    "Published localizer that fixes how units are read and tested, such as alkhamissi2025 (12 tokens, last token, "
    "absolute activation); modalnet replicate --list lists them"
)
Protocol = Annotated[str | None, typer.Option(help=f"{_PROTOCOL}.")]
Protocols = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help=f"{_PROTOCOL}; or NETWORK=NAME, once per network that it applies to."),
]

Controls = Annotated[
    int, typer.Option("--n-controls", "--controls", help="Number of random control networks of each kind.")
]
Match = Annotated[str, typer.Option(help="What random controls share with the network: layer, activation or tower.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")]

BatchSize = Annotated[str, typer.Option(metavar="N|auto", help="Stimuli per forward pass.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write files to.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the result store.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Hide progress bars.")]
