"""``modalnet towers``: the towers of a model and the spaces along them, from its config alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modalnet.cli import options
from modalnet.cli.console import at_work, print_json, report

if TYPE_CHECKING:
    from modalnet.model import Model


def towers(
    model: options.ModelName,
    *,
    json: options.Json = False,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Show the towers of MODEL and the spaces along each: blocks, units per block, module paths.

    A space is one kind of activation with units: the residual stream, or inside of blocks neurons, heads and others.

    No weights are downloaded or read if transformers can build the model from its config.
    """
    with at_work(progress=True):
        found = _inspect(model, trust=trust_remote_code)
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
            "spaces": {
                name: {
                    "what": space.what,
                    "layers": space.n_layers,
                    "width": space.width,
                    "widths": list(space.widths),
                    "numbers": space.size,
                    "units": space.n_units,
                    "paths": list(space.paths),
                }
                for name, space in found.spaces.items()
            },
        }
    )


def _inspect(source: str, *, trust: bool) -> Model:
    """Load the model without its weights, or with them if that fails: loading then says what is wrong."""
    import modalnet as mn

    try:
        module, processor = _on_meta(source, trust)
    except Exception:
        trusted: dict[str, Any] = {"trust_remote_code": True} if trust else {}
        return mn.load(source, **trusted)
    return mn.load(module, processor=processor)


def _on_meta(source: str, trust: bool) -> tuple[Any, Any]:
    """Make a module on the meta device, and its processor (None if there is none)."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust)
    saved_from = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    with torch.device("meta"):
        make = getattr(saved_from, "_from_config", None) or saved_from.from_config
        module = make(config)
    try:
        # Returns the tokenizer or the image processor if there is no processor.
        processor = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=trust)
    except Exception:
        processor = None  # towers are found without one
    # For a folder without a tokenizer, transformers may make one with an empty vocabulary.
    if getattr(getattr(processor, "tokenizer", processor), "vocab_size", 1) == 0:
        processor = None
    return module, processor
