"""``modalnet towers``: what a model is made of, from its config alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modalnet.cli.console import at_work, print_json, report

if TYPE_CHECKING:
    from modalnet.model import Model


def towers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id or a folder with a transformers model.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that a checkpoint brings.")
    ] = False,
) -> None:
    """Show the towers of MODEL: their blocks, widths, module paths and number of units.

    The config is enough: no weights are fetched or read where transformers can build the model from it.
    """
    with at_work(progress=True):
        found = _look_at(model, trust=trust_remote_code)
        described = str(found).replace(" on meta)", "; weights not loaded)")
    if not json:
        report().print(described)
        return
    print_json(
        {
            "name": found.name,
            "class": type(found.module).__name__,
            "parameters": sum(parameter.numel() for parameter in found.module.parameters()),
            "units": sum(tower.n_units for tower in found.towers.values()),
            "towers": {
                name: {
                    "layers": tower.n_layers,
                    "width": tower.width,
                    "units": tower.n_units,
                    "paths": list(tower.paths),
                }
                for name, tower in found.towers.items()
            },
        }
    )


def _look_at(source: str, *, trust: bool) -> Model:
    """The model without its weights, or with them where that fails: loading then says what is wrong."""
    import modalnet as mn

    try:
        module, processor = _on_meta(source, trust)
    except Exception:
        options: dict[str, Any] = {"trust_remote_code": True} if trust else {}
        return mn.load(source, **options)
    return mn.load(module, processor=processor)


def _on_meta(source: str, trust: bool) -> tuple[Any, Any]:
    """A module whose weights take no memory, and what encodes its inputs (None where absent)."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust)
    saved_from = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    with torch.device("meta"):
        make = getattr(saved_from, "_from_config", None) or saved_from.from_config
        module = make(config)
    try:
        # Hands on the tokenizer or the image processor where there is no processor.
        processor = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=trust)
    except Exception:
        processor = None  # the towers show without one
    # Where a folder holds no tokenizer, transformers may make one that knows no token.
    if getattr(getattr(processor, "tokenizer", processor), "vocab_size", 1) == 0:
        processor = None
    return module, processor
