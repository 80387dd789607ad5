"""What a tokenizer adds to a text by itself, measured on it; its turns between threads; and the tokens of a model."""

from __future__ import annotations

import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any

_making = threading.Lock()
_turns: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def tokenizer_turn(tokenizer: Any) -> AbstractContextManager[bool]:
    """The lock of a tokenizer. Where padding is switched on for one call and off for the next, a fast one allows no
    second thread."""
    with _making:
        lock: AbstractContextManager[bool] = _turns.setdefault(tokenizer, threading.RLock())
        return lock


def added_tokens(tokenizer: Any) -> tuple[str, str]:
    """The tokens that a tokenizer puts before and after a text, as text: ``("<s>", "")``."""
    before, after = added_ids(tokenizer)
    return "".join(tokenizer.convert_ids_to_tokens(before)), "".join(tokenizer.convert_ids_to_tokens(after))


def added_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids of the tokens that a tokenizer puts before and after a text."""
    whole = list(tokenizer("a", verbose=False)["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
    starts = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
    start = next(starts, None)
    return ([], []) if start is None else (whole[:start], whole[start + len(bare) :])


def n_embeddings(*modules: Any) -> float:
    """How many tokens the first of some modules that says so has an embedding of; infinite where none does."""
    for module in modules:
        try:
            found = module.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            continue
        rows = getattr(found, "num_embeddings", None)
        if isinstance(rows, int):
            return rows + int(getattr(found, "num_additional_embeddings", 0))
    return float("inf")
