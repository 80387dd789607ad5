"""The tools of others on a lesioned model; each is an optional package, imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modalnet.interop.harness import lm_eval

__all__ = ["lm_eval"]


def __getattr__(name: str) -> Any:
    if name == "lm_eval":
        from modalnet.interop.harness import lm_eval

        globals()[name] = lm_eval
        return lm_eval
    raise AttributeError(f"module 'modalnet.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
