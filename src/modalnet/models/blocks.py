"""Which list of submodules is the stack of residual blocks below a tower's root."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from modalnet.models.streams import norm_width, plain, stream_width


def find_blocks(root: Any, excluded: Iterable[Any] = ()) -> list[Any]:
    """The residual blocks below ``root``, from input to output, leaving out what other towers hold."""
    skipped = {id(sub) for other in excluded for sub in other.modules()}
    if id(root) in skipped:  # the other tower contains this one: only its own part counts
        skipped -= {id(sub) for sub in root.modules()}
    lists = [children for children in module_lists(root) if not any(id(child) in skipped for child in children)]
    # The stages of a hierarchical tower are no stack: their widths grow. Each holds one.
    lists = [children for children in lists if len({stream_width(child) for child in children}) == 1]
    named: list[list[Any]] = []
    for models in ([root], root.modules()):  # what a model says of itself counts before what its parts say
        recorded = _recorded_classes(models)
        named = named or [children for children in lists if all(_is_instance(child, recorded) for child in children)]
    candidates = named or [children for children in lists if _look_like_blocks(children)]
    if not named:  # the parts of a block may look like blocks, but differ from each other as blocks do not
        candidates = [children for children in lists if _in_parts(children)] or candidates
    if not candidates:  # the normalizations may sit one level deeper, in the parts of a block
        candidates = [children for children in lists if all(_holds_norms(child) for child in children)]
    if not candidates:
        return []
    return max(
        candidates, key=lambda children: (len(children), sum(p.numel() for c in children for p in c.parameters()))
    )


def stages_of(root: Any, blocks: list[Any]) -> list[list[Any]]:
    """All blocks below ``root`` that are like some, stage by stage; one stage where the tower has no more.

    The stages of a hierarchical tower are members of one list, and each holds a list of its own.
    """
    import torch

    first, kind = blocks[0], type(plain(blocks[0]))
    for holder in root.modules():
        if not isinstance(holder, torch.nn.ModuleList | torch.nn.Sequential):
            continue
        if any(first is not stage and any(sub is first for sub in stage.modules()) for stage in holder):
            alike = [[sub for sub in stage.modules() if type(sub) is kind] for stage in holder]
            found = [own for own in alike if own]
            return found if len(found) > 1 else [blocks]
    return [blocks]


def module_lists(root: Any) -> Iterator[list[Any]]:
    """Every list of submodules below ``root``, without those nested in a block of another list (experts)."""
    import torch

    for child in root.children():
        if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential) and len(child) > 0:
            children = list(child)
            yield children
            if _look_like_blocks(children) and len({stream_width(child) for child in children}) == 1:
                continue
        yield from module_lists(child)


def _look_like_blocks(children: list[Any]) -> bool:
    """Whether a list could be a stack of residual blocks: composite modules that hold most of their weights inside."""
    return all(sum(1 for _ in plain(child).children()) >= 2 and norm_width(child) is not None for child in children)


def _holds_norms(block: Any) -> bool:
    """Whether a block is made of parts that normalize what they read."""
    parts = [plain(part) for part in plain(block).children()]
    return len(parts) >= 2 and any(norm_width(part) is not None for part in parts)


def _in_parts(children: list[Any]) -> bool:
    """Whether equal blocks hold their parts in a list, each with its normalization."""
    import torch

    if len({type(plain(child)) for child in children}) > 1:
        return False
    lists = [list(part) for part in plain(children[0]).children() if isinstance(part, torch.nn.ModuleList)]
    return any(len({type(part) for part in parts}) > 1 and _look_like_blocks(parts) for parts in lists)


def _recorded_classes(models: Iterable[Any]) -> list[Any]:
    """The block classes that transformers records as hidden states of these models."""
    found: list[Any] = []
    for sub in models:
        records = getattr(sub, "_can_record_outputs", None)
        specs = records.get("hidden_states") if isinstance(records, dict) else None
        for spec in specs if isinstance(specs, list | tuple) else [specs]:
            target = getattr(spec, "target_class", None) or getattr(spec, "class_name", None) or spec
            if isinstance(target, type | str):
                found.append(target)
    return found


def _is_instance(child: Any, classes: list[Any]) -> bool:
    block = plain(child)
    return any(
        type(block).__name__ == target if isinstance(target, str) else isinstance(block, target) for target in classes
    )
