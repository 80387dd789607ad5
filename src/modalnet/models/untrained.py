"""An untrained copy of a model: the same architecture, with the weights that training would have started from.

What a model's features predict can come from its architecture and from the words alone, so a claim about what training
gave it needs this comparison.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modalnet._validation import check_seed
from modalnet.errors import InputError
from modalnet.models.loading import Loaded


def untrained_copy(loaded: Loaded, seed: int = 0) -> Loaded:
    """Draw a model's weights anew, by the initialization of its own class.

    Parameters
    ----------
    loaded
        The model; it stays as it is.
    seed
        A non-negative integer; the same seed gives the same weights on one version of torch and transformers. The
        random state of the process stays as it is.

    Returns
    -------
    Loaded
        A module of the same class, config, precision and device, with the same tokenizer and processor; every weight,
        embeddings included, is random. It names no checkpoint, since a server would run the trained one.

    Raises
    ------
    InputError
        If the seed is no such number, or the class cannot be built from its config.
    """
    import torch

    check_seed(seed)
    module = loaded.module
    config = getattr(module, "config", None)
    if config is None:
        raise InputError(
            f"a {type(module).__name__} has no config to build an untrained copy from. Give load() a transformers "
            "model, or make the copy yourself."
        )
    like = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = _build(type(module), config)
    if like is not None:
        device = like.device if like.device.type != "meta" else torch.device("cpu")
        made.to(device=device, dtype=like.dtype)
    made.eval()
    return replace(loaded, module=made, name=f"{loaded.name} (untrained, seed {seed})", envoy=None, served=None)


def _build(kind: Any, config: Any) -> Any:
    import copy

    config = copy.deepcopy(config)  # building may write into it
    config._name_or_path = ""
    try:
        return kind._from_config(config) if hasattr(kind, "_from_config") else kind(config)
    except Exception as error:  # whatever a model's own constructor raises
        raise InputError(
            f"{kind.__name__} cannot be built from its config, so there is no untrained copy: "
            f"{type(error).__name__}: {error}"
        ) from error
