"""Dictionaries: what encodes activations as latents and decodes them, as a pass calls it.

A dictionary is an object with ``encode`` and ``decode``, or matrices. Conventions of an object (a bias that is taken
off first, activations that are normalized, a threshold, the k largest) are its own: it is called, never looked into.
Some keep what they normalized by from ``encode`` to the next ``decode``, so what is decoded is decoded at once.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.execution.shipping import Shipped

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

MATRICES = ("encoder", "decoder", "encoder_bias", "decoder_bias", "threshold")
ACTIVATIONS = ("relu", "identity")
_EXPECTED = (
    "an object with encode and decode, such as an SAE of SAELens or an AutoEncoder of dictionary_learning; two "
    "matrices (encoder [dim, latent], decoder [latent, dim]); or a dict of encoder, decoder, and if need be "
    "encoder_bias, decoder_bias, threshold and activation"
)


@dataclass
class Code(Shipped):
    """One dictionary.

    Attributes
    ----------
    encoder, decoder
        ``[dim, latent]`` and ``[latent, dim]``, where it is matrices.
    encoder_bias, decoder_bias, threshold
        ``[latent]``, ``[dim]`` and ``[latent]``: what is added before the activation function and behind the decoder,
        and below which a latent is zero.
    linear
        Whether there is no activation function.
    thing
        The object, where it is one.
    size
        How many numbers a head has, for an object that reads heads one by one; 0 for others.
    takes_input
        Whether the object decodes with what was encoded beside it, for a connection that skips the latents.
    """

    encoder: Float[torch.Tensor, "dim latent"] | None = None
    decoder: Float[torch.Tensor, "latent dim"] | None = None
    encoder_bias: Float[torch.Tensor, " latent"] | None = None
    decoder_bias: Float[torch.Tensor, " dim"] | None = None
    threshold: Float[torch.Tensor, " latent"] | None = None
    linear: bool = False
    thing: Any = field(default=None, repr=False)
    size: int = 0
    takes_input: bool = False


def encoded(code: Code, given: Float[torch.Tensor, "position dim"]) -> Float[torch.Tensor, "position latent"]:
    """The latents of activations, in float32."""
    if code.thing is not None:
        like = suited(code, given)
        found: torch.Tensor = code.thing.encode(like.unflatten(-1, (-1, code.size)) if code.size else like)
        return found.to(given.device).float()
    assert code.encoder is not None
    found = given.float() @ code.encoder.to(given.device)
    if code.encoder_bias is not None:
        found = found + code.encoder_bias.to(given.device)
    before = found
    if not code.linear:
        found = found.clamp(min=0)
    if code.threshold is not None:
        found = found * (before > code.threshold.to(given.device))
    return found


def decoded(
    code: Code, latents: Float[torch.Tensor, "*several position latent"], given: Float[torch.Tensor, "position dim"]
) -> Float[torch.Tensor, "*several position dim"]:
    """What latents stand for, in float32; ``given`` is what was encoded just before."""
    if code.thing is not None:
        like = suited(code, given)
        values = latents.to(like.device, like.dtype)
        found: torch.Tensor = code.thing.decode(values, like) if code.takes_input else code.thing.decode(values)
        return (found.flatten(-2) if code.size else found).to(latents.device).float()
    assert code.decoder is not None
    found = latents @ code.decoder.to(latents.device)
    return found if code.decoder_bias is None else found + code.decoder_bias.to(latents.device)


def suited(code: Code, given: torch.Tensor) -> torch.Tensor:
    """Activations where an object has its weights, in their precision."""
    weights = code.thing.parameters() if hasattr(code.thing, "parameters") else vars(code.thing).values()
    for weight in weights:
        if hasattr(weight, "is_floating_point") and weight.is_floating_point():
            return given.to(weight.device, weight.dtype)
    return given.float()


def placed(code: Code, device: torch.device) -> Code:
    """A dictionary of matrices on a device."""
    made = replace(code)
    for name in MATRICES:
        part = getattr(code, name)
        setattr(made, name, None if part is None else part.to(device))
    return made


def rebuilt(code: Code, given: Float[torch.Tensor, "position dim"]) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents of activations, and what these are decoded to, with what skips the latents."""
    latents = encoded(code, given)
    found = decoded(code, latents, given)
    skip = getattr(code.thing, "W_skip", None)
    if skip is not None and not code.takes_input:
        like = suited(code, given)
        found = found + (like @ skip.T).to(found.device).float()
    return latents, found


# What users give


@dataclass(frozen=True)
class Dictionaries:
    """The dictionaries of a view.

    Attributes
    ----------
    name
        Of their space, behind that of the tower.
    over, reads
        Names of the space that they are over, and of the one that they encode, where that is another.
    codes
        By layer.
    width
        The number of latents of each.
    """

    name: str
    over: str
    reads: str | None
    codes: Mapping[int, Code]
    width: int

    @property
    def digest(self) -> dict[str, Any]:
        """All that decides the latents, as JSON values: weights bit by bit, and settings."""
        layers = {str(layer): _digest(code) for layer, code in sorted(self.codes.items())}
        return {"over": self.over, "reads": self.reads, "layers": layers}


def checked(given: Any, n_in: int, n_out: int, size: int, label: str) -> tuple[Code, int]:
    """The dictionary that a user gave, and its number of latents.

    Parameters
    ----------
    given
        An object, or matrices.
    n_in, n_out
        How many numbers of a token are encoded, and decoded to.
    size
        How many of them a unit has.
    label
        What messages call it.

    Raises
    ------
    InputError
        For something that is no dictionary, or none of such activations.
    """
    import torch

    code = _matrices(given, label) if isinstance(given, Mapping | Sequence) else _object(given, size, label)
    with torch.no_grad():
        probe = torch.randn(3, n_in, generator=torch.Generator().manual_seed(0))
        try:
            alone = encoded(code, probe[1:2])
            latents = encoded(code, probe)
            back = decoded(code, latents, probe)
        except Exception as error:  # whatever the object raises
            raise InputError(
                f"{label} cannot encode and decode {n_in} activations per token: {type(error).__name__}: {error}. "
                "Give a dictionary that was trained on this space."
            ) from error
    if latents.dim() != 2 or len(latents) != 3 or back.shape != (3, n_out):
        raise InputError(
            f"{label} must make latents [token, latent] of activations [token, {n_in}], and [token, {n_out}] of "
            f"these; of 3 tokens it makes {list(latents.shape)} and {list(back.shape)}."
        )
    if not torch.allclose(alone[0], latents[1], atol=1e-4, rtol=1e-3):
        raise InputError(
            f"{label} encodes a token otherwise beside others than alone: it draws noise, or picks latents over a "
            "batch. Put it in evaluation mode, or convert it to one with a threshold."
        )
    return code, int(latents.shape[1])


def _object(given: Any, size: int, label: str) -> Code:
    if not callable(getattr(given, "encode", None)) or not callable(getattr(given, "decode", None)):
        raise InputError(f"{label} must be {_EXPECTED}; got {type(given).__name__}.")
    try:
        parameters = list(inspect.signature(given.decode).parameters)
    except (TypeError, ValueError):
        parameters = []
    by_head = bool(getattr(given, "hook_z_reshaping_mode", False))
    return Code(thing=given, size=size if by_head else 0, takes_input="input_acts" in parameters)


def _matrices(given: Any, label: str) -> Code:
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2:
        given = dict(zip(MATRICES, given, strict=False))
    if not isinstance(given, Mapping) or not {"encoder", "decoder"} <= given.keys() <= {*MATRICES, "activation"}:
        got = sorted(map(str, given)) if isinstance(given, Mapping) else f"a {type(given).__name__}"
        raise InputError(f"{label} must be {_EXPECTED}; got {got}.")
    activation = given.get("activation", "relu")
    if activation not in ACTIVATIONS:
        raise InputError(f"{label}: `activation` must be one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
    parts = {name: _tensor(given[name], name, label) for name in MATRICES if given.get(name) is not None}
    latents, width = parts["decoder"].shape if parts["decoder"].dim() == 2 else (0, 0)
    shapes = {"encoder": (width, latents), "decoder": (latents, width), "decoder_bias": (width,)}
    for name, part in parts.items():
        expected = shapes.get(name, (latents,))
        if name == "encoder" and part.dim() == 2 and part.shape[1] == latents:
            continue  # a transcoder encodes what may have another width
        if tuple(part.shape) != expected:
            raise InputError(
                f"{label}: `{name}` must have shape {list(expected)}, as the decoder is [latent, dim] = "
                f"{list(parts['decoder'].shape)}, got {list(part.shape)}."
            )
    code = Code(linear=activation == "identity")
    for name, part in parts.items():
        setattr(code, name, part)
    return code


def _tensor(value: Any, name: str, label: str) -> torch.Tensor:
    import torch

    from modalnet.interventions.content import real_array

    array = real_array(f"{label}: {name}", value)
    found = torch.from_numpy(array.copy())
    if not bool(found.isfinite().all()):
        raise InputError(f"{label}: `{name}` must be finite.")
    return found


def _digest(code: Code) -> str:
    import xxhash

    digest = xxhash.xxh3_128(b"dictionary")
    for name, value in _content(code):
        digest.update(f"{name}:".encode())
        if hasattr(value, "detach"):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
        else:
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> Any:
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""


def _content(code: Code) -> Iterator[tuple[str, Any]]:
    """The weights and settings of a dictionary, in a fixed order."""
    import torch

    from modalnet.models.state import modules, plain

    thing = code.thing
    if thing is None:
        yield "linear", code.linear
        yield from ((name, getattr(code, name)) for name in MATRICES)
        return
    yield "class", f"{type(thing).__module__}.{type(thing).__qualname__}"
    if isinstance(thing, torch.nn.Module):
        yield from sorted(thing.state_dict().items())
        yield "modules", modules(thing)
    for name in sorted(vars(thing)):
        value = vars(thing)[name]
        if isinstance(value, torch.Tensor):
            yield name, value
        elif name in ("cfg", "config") and hasattr(value, "__dict__"):
            yield name, {key: plain(each) for key, each in vars(value).items()}
        elif not name.startswith("_"):
            yield name, plain(value)
