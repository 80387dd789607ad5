"""The latents of a view's dictionaries as a space, and how well they stand for the activations that they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet._validation import check_type, refusal
from modalnet.errors import InputError
from modalnet.execution.dictionaries import Code, Dictionaries, checked, rebuilt
from modalnet.models.dictionary_spaces import MLP_INPUT, DictionarySpace, dictionary_space, mlp_input
from modalnet.models.sites import ALIASES, KINDS, Space, get_space, layers_of

if TYPE_CHECKING:
    import torch

    from modalnet.execution.passes import BatchResult


@dataclass(frozen=True)
class ReconstructionError:
    """How well a dictionary stands for the activations of one layer, over tokens.

    Attributes
    ----------
    space, layer
        Of its latents.
    explained_variance
        One minus the squared error in units of the variance of the activations around their mean over tokens.
    relative_error
        Mean over tokens of the length of the error in units of the length of the activations.
    n_active
        Mean number of latents that are not zero.
    n_tokens
        Number of tokens.
    """

    space: str
    layer: int
    explained_variance: float
    relative_error: float
    n_active: float
    n_tokens: int


def dictionaries_over(  # noqa: PLR0917  # as the user's call has them
    spaces: Mapping[str, Space], space: str, given: Mapping[Any, Any], name: str, reads: str | None, model: str
) -> Dictionaries:
    """The dictionaries that a user gave, checked before anything runs; see :meth:`modalnet.Model.with_dictionary`."""
    over = get_space(spaces, space, model)
    _check_name(name, over, spaces)
    if isinstance(over, DictionarySpace):
        raise InputError(f"{over.name} is made of latents; give dictionaries over the activations of a layer.")
    if not isinstance(given, Mapping) or not given:
        raise refusal("dictionaries", "a dict with a dictionary by layer, such as {5: sae}", given)
    encodes = _encoded(spaces, over, reads, model)
    codes: dict[int, Code] = {}
    widths: dict[int, int] = {}
    for key, thing in given.items():
        (layer,) = layers_of(over, [key])
        if layer in codes:
            raise InputError(f"Layer {layer} of {over.name} has two dictionaries.")
        place, source = over.place(layer), encodes.place(layer)
        if source.order > place.order:
            raise InputError(
                f"{encodes.name} is computed after {over.name}, which is decoded to. Encode another space."
            )
        label = f"The dictionary of layer {layer} of {over.name}"
        n_in, n_out = source.width * source.size, place.width * place.size
        codes[layer], widths[layer] = checked(thing, n_in, n_out, source.size, label)
    if len(set(widths.values())) > 1:
        first, *others = widths
        other = next(layer for layer in others if widths[layer] != widths[first])
        raise InputError(
            f"The dictionaries of a space must have as many latents in each layer, but layer {first} has "
            f"{widths[first]} and layer {other} has {widths[other]}. Give those of each size a name= of their own."
        )
    read = None if encodes is over else encodes.name
    return Dictionaries(name, over.name, read, dict(sorted(codes.items())), next(iter(widths.values())))


def latents_of(one: Dictionaries, spaces: Mapping[str, Space], number: int = 0) -> DictionarySpace:
    """The space of dictionaries, over spaces as they are known by now."""
    over = spaces[one.over]
    reads = None if one.reads is None else spaces.get(one.reads) or mlp_input(over.tower)
    return dictionary_space(one.name, over, reads, one.codes, one.width, number=number)


def _encoded(spaces: Mapping[str, Space], over: Space, reads: str | None, model: str) -> Space:
    if reads is None:
        return over
    check_type("reads", reads, str, "the name of a space, or None")
    if reads in (MLP_INPUT, f"{over.tower.name}.{MLP_INPUT}"):
        return mlp_input(over.tower)
    found = get_space(spaces, reads if "." in reads or reads in spaces else f"{over.tower.name}.{reads}", model)
    if found.tower != over.tower or isinstance(found, DictionarySpace):
        raise InputError(f"`reads` must be a space of activations of the {over.tower.name} tower, got {reads!r}.")
    return found


def _check_name(name: Any, over: Space, spaces: Mapping[str, Space]) -> None:
    taken = isinstance(name, str) and (name in KINDS or name in ALIASES or name == MLP_INPUT)
    if not isinstance(name, str) or not name.isidentifier() or taken:
        raise refusal("name", "a word that no other kind of space has, such as 'latents'", name)
    if f"{over.tower.name}.{name}" in spaces:
        raise InputError(
            f"This view has a space {over.tower.name}.{name} already. Give the dictionaries another name=."
        )


def reconstruction_error(
    one: Dictionaries, space: DictionarySpace, results: Iterable[BatchResult]
) -> list[ReconstructionError]:
    """The error of each layer, from the activations of chosen tokens, batch by batch."""
    import torch

    layers = list(one.codes)
    count = dict.fromkeys(layers, 0)
    sums: dict[int, torch.Tensor] = {}
    totals = {layer: torch.zeros(4, dtype=torch.float64) for layer in layers}
    for result in results:
        targets, sources = (result.activations[each.name] for each in (space.carrier, space.encoded))
        for target, source in zip(targets, sources, strict=True):
            for row, layer in enumerate(layers):
                x, given = target[row], source[row]
                if not len(x):
                    continue
                with torch.no_grad():
                    latents, back = rebuilt(one.codes[layer], given)
                back = back.to(x.device)
                error, x = (x - back).double(), x.double()
                count[layer] += len(x)
                sums[layer] = sums.get(layer, 0) + x.sum(0)
                parts = [error.square().sum(), x.square().sum(), (error.norm(dim=1) / x.norm(dim=1)).nansum()]
                totals[layer] += torch.stack([*parts, (latents != 0).sum().double().cpu()])
    made = []
    for layer in (layer for layer in layers if count[layer]):
        squared, power, relative, active = (float(value) for value in totals[layer])
        variance = power - float(sums[layer].square().sum()) / count[layer]
        explained = 1 - squared / variance if variance > 0 else float("nan")
        n = count[layer]
        made.append(ReconstructionError(space.name, layer, explained, relative / n, active / n, n))
    return made
