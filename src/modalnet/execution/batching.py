"""Batches: which stimuli share one, how large it grows, and encoding ahead of the model.

Stimuli that batch well are put side by side, encoded ahead on a second thread while the model works, and grown into
batches of a bounded number of tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from modalnet._validation import check_batch_size

if TYPE_CHECKING:
    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Encoded, Prepared

# A batch this large keeps a processor busy; a larger one only costs memory.
CPU_LIMITS = (64, 4096)
GPU_LIMITS = (256, 16384)
_PATCH_PIXELS = 3 * 14 * 14
_AHEAD_COUNT, _AHEAD_BYTES = 64, 1 << 29
_T = TypeVar("_T")


class BatchLimit:
    """How many stimuli, and how many tokens with their padding, a batch may hold.

    Parameters
    ----------
    batch_size
        Number of stimuli; ``"auto"`` also bounds their tokens, by the device that the model is on.
    engine
        Of the model.

    Attributes
    ----------
    count, tokens
        The bounds; ``count`` shrinks where memory runs out.
    """

    def __init__(self, batch_size: int | Literal["auto"], engine: Engine) -> None:
        self.tokens: float = float("inf")
        size = check_batch_size(batch_size)
        if size == "auto":
            on_gpu = any(p.device.type not in ("cpu", "meta") for p in engine.module.parameters())
            self.count, self.tokens = GPU_LIMITS if on_gpu else CPU_LIMITS
        else:
            self.count = size


def batches(
    items: Iterable[_T], encoded: Callable[[_T], Encoded], limit: BatchLimit, *, vision: bool = True
) -> Iterator[list[_T]]:
    """Grow batches of one kind of stimuli up to the limit, in their order.

    Parameters
    ----------
    items
        What is put into batches.
    encoded
        The encoded stimulus of an item.
    limit
        Of a batch; it may shrink meanwhile.
    vision
        Whether image tokens count too.
    """
    current: list[_T] = []
    kind: Any = None
    longest = 0
    for item in items:
        stimulus = encoded(item)
        size = max(stimulus.n_tokens, image_tokens(stimulus) if vision else 0)
        full = len(current) >= limit.count or max(longest, size) * (len(current) + 1) > limit.tokens
        if current and (full or stimulus.kind != kind):
            yield current
            current, longest = [], 0
        current.append(item)
        kind, longest = stimulus.kind, max(longest, size)
    if current:
        yield current


def halves(group: list[_T]) -> list[list[_T]]:
    """Two lists of about half the length."""
    middle = (len(group) + 1) // 2
    return [group[:middle], group[middle:]]


def image_tokens(item: Encoded) -> int:
    """About how many patches the images of a stimulus become; only the size of batches depends on it."""
    pixels = item.inputs.get("pixel_values")
    return 0 if pixels is None else int(pixels.numel()) // _PATCH_PIXELS


def encoded_ahead(encode: Callable[[Prepared], Encoded], prepared: Iterable[Prepared]) -> Iterator[Encoded]:
    """Encode on a second thread, as many stimuli ahead as fit into a bounded amount of memory."""
    remaining = iter(prepared)
    with ThreadPoolExecutor(1, thread_name_prefix="modalnet-encode") as pool:
        queue: deque[Future[Encoded]] = deque(pool.submit(encode, item) for item in islice(remaining, 1))
        try:
            while queue:
                item = queue.popleft().result()
                size = sum(value.nbytes for value in item.inputs.values())
                depth = max(2, min(_AHEAD_COUNT, _AHEAD_BYTES // max(size, 1)))
                queue.extend(pool.submit(encode, each) for each in islice(remaining, max(0, depth - len(queue))))
                yield item
        finally:
            for future in queue:
                future.cancel()
