"""Router weights of a mixture of experts, read and changed where the router gives them. Runs on the server.

A router gives three things for each token: its logits, the weights of the experts that were chosen, and which these
are. A unit is an expert; its activation is its weight, 0 where it was not chosen. Setting the weight of an expert to
zero is not to leave it out: another one would have been chosen. So a lesion sets the router's logit to minus infinity
and lets the router choose again, by running its own code once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.execution.plan import Plan, Pool, Sites
from modalnet.execution.reading import LayoutError
from modalnet.models.places import Absent, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from jaxtyping import Bool, Float, Int
    from nnsight import Envoy

    from modalnet.execution.compile import Edit
    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Encoded
    from modalnet.inputs.encoding import Encoder
    from modalnet.models.sites import Space

#: Applies edits to activations.
Editing: TypeAlias = "Callable[[torch.Tensor, Sequence[Edit]], torch.Tensor]"


def routed(
    module: Envoy, edits: Sequence[Edit], n_experts: int, edited: Editing
) -> tuple[Float[torch.Tensor, "token expert"], bool]:
    """The router's weights of every expert under edits, which are written back.

    Parameters
    ----------
    module
        The router.
    edits
        In their order.
    n_experts
        Number of experts.
    edited
        Applies edits to activations.

    Returns
    -------
    tuple
        The weights, 0 for experts that were not chosen; False where the router gives something else, which is then
        left as it is.
    """
    import torch

    args, kwargs = module.inputs if edits else ((), {})
    before = module.output
    if not three_parts(before, n_experts):
        return torch.zeros(0, n_experts), False
    dense = spread(before[1], before[2], n_experts)
    zeroed = [edit for edit in edits if is_zero(edit)]
    if zeroed:
        mask = torch.zeros(dense.shape, dtype=torch.bool, device=dense.device)
        for edit in zeroed:
            mask[edit.rows.to(mask.device), edit.dims.to(mask.device)] = True  # type: ignore[union-attr]
        before = without(module._module, args, kwargs, mask)
        dense = spread(before[1], before[2], n_experts)
    # A router that adds a bias to choose by may choose an expert whose logit is minus infinity; its weight is 0 here.
    dense = edited(dense, edits)
    weights, indices = as_chosen(dense, before[1], before[2])
    module.output = (before[0], weights, indices, *before[3:])
    return dense, True


def routers(engine: Engine, encoder: Encoder, space: Space, item: Encoded) -> tuple[Place | Absent, ...]:
    """The places of a space of experts, or why there are none where a router gives something else; runs one pass."""
    batch = encoder.collate([item])
    plan = Plan(((Sites(space, space.layers), Pool(0)),), root=batch.root)
    try:
        engine.run(batch.inputs, plan)
    except LayoutError:
        return (Absent("its router does not hand out the weights of the experts that it chose"),) * space.n_layers
    return space.places


def three_parts(output: Any, n_experts: int) -> bool:
    """Whether a router gives logits, and of each token the weights of the chosen experts and which they are."""
    if not isinstance(output, tuple | list) or len(output) < 3:
        return False
    logits, weights, indices = output[:3]
    if any(not hasattr(part, "shape") or len(part.shape) != 2 for part in (logits, weights, indices)):
        return False
    tokens = {part.shape[0] for part in (logits, weights, indices)}
    sizes = (indices.shape[1], n_experts)
    whole = not indices.is_floating_point() and weights.is_floating_point()
    return len(tokens) == 1 and logits.shape[1] == n_experts and whole and weights.shape[1] in sizes


def is_zero(edit: Edit) -> bool:
    """Whether an edit zeroes units, whatever they were."""
    return edit.function is None and edit.vector is None and edit.a == 0 and not bool(edit.b.any())


def spread(
    weights: Float[torch.Tensor, "token chosen"], indices: Int[torch.Tensor, "token chosen"], n_experts: int
) -> Float[torch.Tensor, "token expert"]:
    """The weight of each expert, 0 for those that were not chosen."""
    import torch

    if weights.shape[1] == n_experts != indices.shape[1]:
        return weights * torch.zeros_like(weights).scatter(1, indices, 1.0)
    return weights.new_zeros(len(weights), n_experts).scatter(1, indices, weights)


def as_chosen(
    dense: Float[torch.Tensor, "token expert"],
    weights: Float[torch.Tensor, "token chosen"],
    indices: Int[torch.Tensor, "token chosen"],
) -> tuple[Float[torch.Tensor, "token chosen"], Int[torch.Tensor, "token chosen"]]:
    """The reverse of ``spread``, in the form of the router's own weights and indices.

    As many experts as before where these are enough; more of them where others were given a weight.
    """
    import torch

    chosen = torch.zeros_like(dense, dtype=torch.bool).scatter(1, indices, True)
    if bool(((dense == 0) | chosen).all()):
        order = indices
    else:
        count = max(indices.shape[1], int((dense != 0).sum(1).max()))
        order = dense.detach().abs().topk(count, dim=1).indices.to(indices.dtype)
    if weights.shape[1] == dense.shape[1] != indices.shape[1]:
        return dense.to(weights.dtype), order
    return dense.gather(1, order).to(weights.dtype), order


def without(
    router: torch.nn.Module, args: Any, kwargs: Any, mask: Bool[torch.Tensor, "token expert"]
) -> tuple[Any, ...]:
    """What a router gives when the logits of some experts are minus infinity."""
    from torch.overrides import TorchFunctionMode

    class Masked(TorchFunctionMode):
        """Changes the first product of the router's code that has a number for each expert: the logits."""

        done = False

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            product = getattr(function, "__name__", "") in ("linear", "matmul", "__matmul__", "mm", "einsum")
            if product and not self.done and made.numel() == mask.numel() and made.shape[-1] == mask.shape[1]:
                self.done = True
                made = made.masked_fill(mask.reshape(made.shape), float("-inf"))
            return made

    with Masked() as mode:
        output: tuple[Any, ...] = type(router).forward(router, *args, **kwargs)
    if not mode.done:
        raise ValueError(f"{type(router).__name__} computes no logits of its experts that can be changed")
    return output
