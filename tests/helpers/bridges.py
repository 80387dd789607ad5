"""TransformerLens bridges for tests, made as a user would who wants nothing installed.

``TransformerBridge.boot_transformers`` installs torchvision for models that see, and with it another torch. Here a
bridge is put together from a loaded model and its architecture's adapter, and loads nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers


def bridge_of(module: Any, preprocessor: Any, folder: Path) -> Any:
    """A bridge around ``module``, which it changes, with the tokenizer that ``preprocessor`` holds or is (or None)."""
    pytest.importorskip("transformer_lens")
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    tokenizer = None
    if preprocessor is not None:
        preprocessor.save_pretrained(folder)  # a bridge makes its tokenizer anew from where it was loaded
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return build_bridge_from_module(module, type(module).__name__, hf_config=module.config, tokenizer=tokenizer)
