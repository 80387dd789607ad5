"""The router of a block that is a mixture of experts."""

from __future__ import annotations

from typing import Any

from modalnet.models.places import Absent, Candidates, Place


def find_router(block: Any) -> Candidates:
    """Where in a block the weights of experts are given, and how many experts there are.

    The router is beside the experts: a module whose weights have a row for each of them.

    Parameters
    ----------
    block
        A torch module; weights may be on the meta device.
    """
    for path, holder in block.named_modules():
        children = dict(holder.named_children())
        experts = next((child for name, child in children.items() if name in ("experts", "mlp_experts")), None)
        count = None if experts is None else _count(experts)
        if count is None:
            continue
        routers = [name for name, child in children.items() if child is not experts and _has_row_each(child, count)]
        if len(routers) == 1:
            inside = f"{path}.{routers[0]}" if path else routers[0]
            return (Place(inside, "output", count, count, order=45.0),)
        return Absent(f"it has {count} experts, and {len(routers) or 'no'} modules that may be their router")
    return Absent("it is no mixture of experts")


def _count(experts: Any) -> int | None:
    """How many experts there are."""
    import torch

    if isinstance(experts, torch.nn.ModuleList):
        return len(experts)
    count = getattr(experts, "num_experts", None)
    if isinstance(count, int):
        return count
    sizes = {len(weight) for weight in experts.parameters(recurse=False) if weight.dim() == 3}
    return sizes.pop() if len(sizes) == 1 else None


def _has_row_each(module: Any, count: int) -> bool:
    """Whether some weight of a module, or of a part of it, has a row for each expert."""
    if type(module).__name__.endswith("Experts"):
        return False
    return any(weight.dim() == 2 and weight.shape[0] == count for weight in module.parameters())
