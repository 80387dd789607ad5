"""Tests of what transformers does since some version."""

from __future__ import annotations

import pytest
import transformers
from packaging.version import Version


def older_than(version: str) -> bool:
    """Whether the transformers here is older than that."""
    return Version(transformers.__version__) < Version(version)


def since(version: str) -> pytest.MarkDecorator:
    """Skip a test with an older transformers, which does otherwise."""
    return pytest.mark.skipif(older_than(version), reason=f"of transformers {version} and later")
