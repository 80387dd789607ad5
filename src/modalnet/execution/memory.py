"""When memory runs out: how it is noticed, given back, and reported."""

from __future__ import annotations

import gc

from modalnet.errors import ModalnetError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or here."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def free_memory() -> None:
    """Give back the memory of a failed batch."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_large(label: str) -> ModalnetError:
    """The error for a stimulus that does not fit by itself."""
    return ModalnetError(
        f'stimulus {label} alone does not fit into memory. Use a smaller input, a smaller dtype, or device_map="auto".'
    )
