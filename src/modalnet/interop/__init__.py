"""Other people's tools on the same model: TransformerLens, and EleutherAI's lm-evaluation-harness.

Each is an optional package, imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalnet.interop import transformer_lens
    from modalnet.interop.harness import lm_eval

__all__ = ["lm_eval", "transformer_lens"]


def __getattr__(name: str) -> Any:
    if name == "lm_eval":
        from modalnet.interop.harness import lm_eval

        globals()[name] = lm_eval
        return lm_eval
    if name == "transformer_lens":
        return importlib.import_module("modalnet.interop.transformer_lens")
    raise AttributeError(f"module 'modalnet.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
