"""``modalnet replicate`` lists protocols, passes its options on, and writes a page, tables and the whole result."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

import modalnet as mn
from families import build
from modalnet.cli import app
from modalnet.replication import Replication


def run(*arguments):
    return CliRunner().invoke(app, ["replicate", *map(str, arguments)])


def fails(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    family = build("llama")
    family.model.save_pretrained(path)
    family.tokenizer.save_pretrained(path)
    return path


def test_the_list_names_every_protocol():
    text = run("--list").stdout
    assert all(protocol in text for protocol in mn.protocols)


def test_mistakes_are_one_line(tmp_path):
    assert "Name a model and a protocol" in fails("tiny")
    assert "`protocol` must be one of 'alkhamissi2025'" in fails("tiny", "nobody2026", "--out", tmp_path)
    data = ("--data", "agreement=generate", "--data", "here")
    assert "--data takes one folder, or NAME=PATH once per set" in fails("tiny", "syntax2026", *data, "--out", tmp_path)


@pytest.mark.filterwarnings("ignore:The items of 'agreement pairs' come from 2 groups")  # there are four of them
def test_it_writes_what_it_found(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MODALNET_CACHE", str(tmp_path / "store"))
    small = ("--n-stimuli", 8, "--n-items", 4, "--n-controls", 1, "--operations", "mean", "--no-progress", "--json")
    result = run(folder, "syntax2026", "--data", "agreement=generate", *small, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [each["used"] for each in document["material"]] == ["generated", "generated"]
    kept = Replication.load(document["files"]["replication"])
    assert kept.id == "syntax2026"
    assert kept.settings["n_controls"] == 1
    claims = pd.read_csv(document["files"]["claims"])
    assert list(claims["claim"]) == [claim["claim"] for claim in document["claims"]]
    with open(document["files"]["report"], encoding="utf-8") as page:
        assert document["claims"][0]["claim"] in page.read()
