"""The study on a model that is on a server: the same command, the same numbers."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

import assets

sys.path.append(str(assets.REPOSITORY))
from benchmarks.study.__main__ import main

pytestmark = pytest.mark.ndif
STEPS = "networks,doses"


def test_the_study_runs_on_a_server(ndif, tmp_path):
    command = ["--quick", "--no-progress", "--steps", STEPS, "--model", "tiny"]
    assert main([*command, "--out", str(tmp_path / "here")]) == 0
    assert main([*command, "--out", str(tmp_path / "there"), "--remote"]) == 0
    for table, columns in {
        "networks": ["largest t", "g held out", "mean layer"],
        "lesions-doses": ["base", "drop", "drop_activation"],
    }.items():
        here, there = (pd.read_csv(tmp_path / side / "tiny" / f"{table}.csv") for side in ("here", "there"))
        np.testing.assert_allclose(there[columns], here[columns], rtol=1e-3, atol=1e-3)
