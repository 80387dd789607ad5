"""The notebook on remote execution sends its jobs to a server where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from server import Server

pytestmark = [pytest.mark.ndif, pytest.mark.timeout(600)]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "5_remote.ipynb"


def test_notebook(ndif: Server) -> None:
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "on a server" in printed
    assert "the same network: True" in printed
