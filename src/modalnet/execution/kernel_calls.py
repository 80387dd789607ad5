"""Places of attention in a block, with the calls of kernels that stand in the forward passes of its modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from modalnet.models.masks import MaskPlace, WeightPlace
from modalnet.models.streams import plain

if TYPE_CHECKING:
    from modalnet.execution.engine import Engine
    from modalnet.models.towers import Tower

_Place = TypeVar("_Place", MaskPlace, WeightPlace)


def with_calls(
    engine: Engine, tower: Tower, layer: int, propose: Callable[[Any, str], Iterable[_Place]], path: str
) -> Iterator[_Place]:
    """What structure proposes in a block; of a kernel each of its calls, the last first.

    Parameters
    ----------
    engine
        Of the model.
    tower, layer
        The block.
    propose
        From the block and the path of a module inside it to places.
    path
        This path.
    """
    block: Any = tower.blocks[layer]
    for place in propose(plain(block) if tower.modality == "image" else block, path):
        if not place.kernel:
            yield place
            continue
        module = engine.compiler.at_path(f"{tower.paths[layer]}.{place.path}".rstrip("."))
        calls = [call.name for call in module.source]
        for name in reversed([call for call in calls if re.search(rf"(^|_){place.kernel}_\d+$", call)]):
            yield replace(place, kernel=name)
