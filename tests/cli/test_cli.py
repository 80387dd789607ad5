"""The command line on tiny models: every command, its files, its JSON, and its errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import assets
import modalnet as mn
from families import build
from lesion_studies import study_of
from modalnet.cli import app
from modalnet.cli.lesion import write
from modalnet.cli.parsing import parse_protocols, parse_tokens, parse_top
from modalnet.errors import InputError
from modalnet.execution.engine import Engine
from modalnet.results.store import Store

FILES = ["layers.png", "localization.safetensors", "summary.csv", "units.json"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, folder = build("gpt2"), tmp_path_factory.mktemp("models") / "tiny-gpt2"
    family.model.save_pretrained(folder)
    family.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, folder = build("vit"), tmp_path_factory.mktemp("models") / "tiny-vit"
    family.model.save_pretrained(folder)
    family.image_processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty texts in two conditions, in columns of unusual names."""
    rng = np.random.default_rng(0)
    vocabulary = {"animal": ["dog", "fox", "horse", "cat"], "tool": ["hammer", "saw", "drill", "axe"]}
    rows = [
        {"kind": kind, "words": f"The {rng.choice(group)} is number {i}."}
        for kind, group in vocabulary.items()
        for i in range(20)
    ]
    path = tmp_path_factory.mktemp("stimuli") / "words.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth and noisy pictures, each in its folder."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    for condition in ("smooth", "noisy"):
        (folder / condition).mkdir()
        for i in range(12):
            noise = rng.integers(0, 256, size=(32, 32, 3) if condition == "noisy" else (1, 1, 3))
            array = np.broadcast_to(noise, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(array).save(folder / condition / f"{i}.png")
    return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MODALNET_CACHE", str(tmp_path / "store"))
    return Store()


@pytest.fixture
def shared_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One store for all commands on the bundled model, which ask for the same networks; all processes share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a folder in that of the session
        folder = folder.parent
    monkeypatch.setenv("MODALNET_CACHE", str(folder / "commands-of-the-bundled-model"))


@pytest.fixture
def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a forward pass ran")

    monkeypatch.setattr(Engine, "run", refuse)


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def ok(*arguments: object, stdin: str | None = None) -> str:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*arguments: object) -> str:
    """The one line that an error costs."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert not result.stdout
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("loading")]
    assert line.startswith("error: ")
    return line


def csv(words: Path) -> list[object]:
    options = ["--text-column", "words", "--condition-column", "kind"]
    return ["--contrast", f"csv:{words}", "--positive", "animal", *options]


# ------------------------------------------------------------------------------------------------------------ localize


def test_localize_with_items_covariates_and_a_regressor(gpt2: Path, tmp_path: Path, store: Store) -> None:
    rows = [
        {
            "text": f"the {animal} {verb}{'s' * (i + 1)}",
            "condition": verb,
            "pair": animal,
            "rating": (7 * i) % 5 + len(verb),
        }
        for verb in ("run", "sleep")
        for i, animal in enumerate(["dog", "cat", "bird", "horse", "fox", "cow"])
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    one = [
        "localize",
        gpt2,
        "--contrast",
        f"csv:{tmp_path / 'pairs.csv'}",
        "--top",
        "5",
        "--no-progress",
        "--json",
        "--out",
    ]
    one = [*one, tmp_path / "out"]
    pairs = [*one, "--positive", "run", "--item-column", "pair"]
    tests = {
        "paired": pairs,
        "welch": [*pairs, "--unpaired"],
        "regression": [*one, "--positive", "run", "--covariates", "length,rating"],
    }
    for test, arguments in tests.items():
        assert json.loads(ok(*arguments))["contrast"]["test"] == test
    assert json.loads(ok(*one, "--regressor", "length"))["contrast"]["name"] == "slope of length"
    assert "takes no regressor" in fails("localize", gpt2, "--contrast", "language", "--regressor", "length", *one[-2:])


def test_localize_writes_what_the_library_gives(gpt2: Path, words: Path, tmp_path: Path, store: Store) -> None:
    out = tmp_path / "new" / "folder"
    printed = ok("localize", gpt2, *csv(words), "--top", "10%", "--out", out, "--no-progress")
    assert sorted(path.name for path in out.iterdir()) == FILES
    contrast = mn.stimuli.from_csv(words, text="words", condition="kind", positive="animal")
    expected = mn.localize(mn.load(gpt2), contrast, cache=False, progress=False)
    network = expected.top(fraction=0.1)
    assert mn.Localization.load(out / "localization.safetensors") == expected
    assert mn.Units.load(out / "units.json") == network
    pd.testing.assert_frame_equal(pd.read_csv(out / "summary.csv"), expected.table(network))
    with Image.open(out / "layers.png") as image:
        image.load()
    for name in FILES:
        assert str(out / name) in printed
    best = expected.top_units(1).iloc[0]
    assert f"{best['t']:.2f}" in printed
    assert "animal > tool" in printed
    assert f"the {network.count} of 128 units (9.38%)" in printed
    reliability = expected.reliability(fraction=network.count / 128)
    assert f"g = {reliability.g_held_out.mean():.2f} on the remaining fifth" in printed
    assert f"Dice = {reliability.dice.mean():.2f}" in printed


def test_units_inside_of_blocks(gpt2: Path, words: Path, tmp_path: Path, store: Store) -> None:
    arguments = ["localize", gpt2, *csv(words), "--units", "neurons,heads", "--top", "10%", "--no-progress"]
    printed = ok(*arguments, "--out", tmp_path)
    contrast = mn.stimuli.from_csv(words, text="words", condition="kind", positive="animal")
    expected = mn.localize(mn.load(gpt2), contrast, units=["neurons", "heads"], cache=False, progress=False)
    assert mn.Localization.load(tmp_path / "localization.safetensors") == expected
    assert mn.Units.load(tmp_path / "units.json") == expected.top(fraction=0.1)
    assert "decoder.heads layer" in printed
    document = json.loads(ok(*arguments, "--json", "--out", tmp_path))
    assert list(document["network"]["towers"]) == ["decoder.neurons", "decoder.heads"]
    refused = fails("localize", gpt2, *csv(words), "--units", " , ", "--out", tmp_path)
    assert "--units takes kinds of units or spaces" in refused
    result = run("localize", gpt2, *csv(words), "--units", "toys", "--out", tmp_path)
    assert result.exit_code == 2
    assert "no space 'toys'; its spaces are decoder" in result.stderr.replace("\n", " ")


def test_a_share_of_few_units_is_one_unit_and_said(gpt2: Path, words: Path, tmp_path: Path, store: Store) -> None:
    result = run("localize", gpt2, *csv(words), "--units", "heads", "--no-progress", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "1% of 16 units is less than one: one unit (6.25%) is selected" in " ".join(result.stderr.split())
    assert "Network: the 1 of 16 units (6.25%) with the largest t" in result.stdout
    assert mn.Units.load(tmp_path / "units.json").count == 1
    with pytest.raises(InputError, match="selects none"):
        mn.Localization.load(tmp_path / "localization.safetensors").top(fraction=0.01)


def test_json_is_one_document_that_says_the_same(gpt2: Path, words: Path, tmp_path: Path, store: Store) -> None:
    result = run("localize", gpt2, *csv(words), "--top", "7", "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert "localizing" in result.stderr
    document = json.loads(result.stdout)
    files = {name: Path(path) for name, path in document["files"].items()}
    localization, units = mn.Localization.load(files["localization"]), mn.Units.load(files["units"])
    assert units.count == document["network"]["selected"] == document["network"]["requested"]["k"] == 7
    assert document["network"]["units"] == localization.n_units == 128
    tower = document["network"]["towers"]["decoder"]
    assert [layer["selected"] for layer in tower["layers"]] == units.per_layer()["decoder"].tolist()
    assert tower["significant"] == localization.significant().count
    top = localization.top_units(50)
    assert [(u["tower"], u["layer"], u["dim"]) for u in document["top_units"]] == [
        tuple(row) for row in top[["tower", "layer", "dim"]].itertuples(index=False)
    ]
    np.testing.assert_array_equal([unit["t"] for unit in document["top_units"]], top["t"])
    assert (
        document["contrast"]["conditions"][0] | {"condition": "animal", "n": 20}
        == (document["contrast"]["conditions"][0])
    )
    measured = {(row["measure"], row["units"]): row["mean"] for row in document["reliability"]}
    expected = localization.reliability(fraction=7 / 128)
    assert measured["split-half Dice", "network"] == expected.dice.mean()
    assert measured["t, held out", "network"] == expected.t_held_out.mean()
    assert document["reliability_missing"] is None


def test_the_second_run_answers_from_the_store(
    gpt2: Path, words: Path, tmp_path: Path, store: Store, request: pytest.FixtureRequest
) -> None:
    arguments = ["localize", gpt2, *csv(words), "--top", "7", "--json", "--no-progress", "--out"]
    first = json.loads(ok(*arguments, tmp_path / "a"))
    request.getfixturevalue("no_forward")
    second = json.loads(ok(*arguments, tmp_path / "b"))
    assert first.pop("files") != second.pop("files")
    assert first == second
    kept = [mn.Localization.load(tmp_path / folder / "localization.safetensors") for folder in "ab"]
    assert kept[0] == kept[1]
    with pytest.raises(AssertionError, match="a forward pass ran"):  # --no-cache does not ask the store
        raise run(*arguments, tmp_path / "c", "--no-cache").exception or RuntimeError


def test_no_cache_leaves_no_entry(gpt2: Path, words: Path, tmp_path: Path, store: Store) -> None:
    ok("localize", gpt2, *csv(words), "--top", "7", "--out", tmp_path / "out", "--no-cache")
    assert store.entries() == []


def test_options_reach_the_localization(gpt2: Path, words: Path, tmp_path: Path, store: Store) -> None:
    options = ["--tokens", "0,-1", "--magnitude", "signed", "--towers", "decoder", "--dtype", "bfloat16"]
    more = ["--batch-size", "3", "--negative", "tool", "--device", "cpu"]
    document = json.loads(
        ok("localize", gpt2, *csv(words), "--top", "0.1", *options, *more, "--out", tmp_path, "--json")
    )
    assert document["settings"] == {"tokens": {"decoder": [0, -1]}, "magnitude": "signed", "protocol": None}
    contrast = mn.stimuli.from_csv(words, text="words", condition="kind", positive="animal")
    model = mn.load(gpt2, dtype="bfloat16")
    expected = mn.localize(model, contrast, tokens=(0, -1), magnitude="signed", batch_size=3, cache=False)
    assert mn.Localization.load(tmp_path / "localization.safetensors") == expected


def test_protocol(gpt2: Path, words: Path, tmp_path: Path, store: Store) -> None:
    printed = ok("localize", gpt2, *csv(words), "--top", "5", "--protocol", "alkhamissi2025", "--out", tmp_path)
    assert "alkhamissi2025" in printed
    assert mn.Localization.load(tmp_path / "localization.safetensors").meta["protocol"] == "alkhamissi2025"


def test_images(vit: Path, pictures: Path, tmp_path: Path, store: Store) -> None:
    contrast = ["--contrast", f"folder:{pictures}", "--positive", "noisy"]
    tokens = ["--tokens", "vision=image"]
    printed = ok("localize", vit, *contrast, *tokens, "--top", "5%", "--out", tmp_path)
    assert "noisy > smooth" in printed
    assert "image in vision" in printed
    localization = mn.Localization.load(tmp_path / "localization.safetensors")
    expected = mn.localize(
        mn.load(vit), mn.stimuli.from_folder(pictures, positive="noisy"), tokens="image", cache=False, progress=False
    )
    assert localization == expected
    assert mn.Units.load(tmp_path / "units.json") == expected.top(fraction=0.05)


def test_too_few_stimuli_for_reliability_is_said(gpt2: Path, tmp_path: Path, store: Store) -> None:
    texts = tmp_path / "few.csv"
    texts.write_text("text,condition\nA dog.,a\nThe fox ran.,a\nTea.,b\nThe window.,b\n")
    arguments = ["localize", gpt2, "--contrast", f"csv:{texts}", "--positive", "a", "--top", "5", "--out", tmp_path]
    printed = ok(*arguments)
    assert "not measured" in printed
    assert "a t requires two of each" in printed
    document = json.loads(ok(*arguments, "--json"))
    assert document["reliability"] is None
    assert "a t requires two of each" in document["reliability_missing"]


@pytest.mark.filterwarnings("default:units with NaN or infinite activations")
def test_warnings_are_one_line(words: Path, tmp_path: Path, store: Store) -> None:
    family, folder = build("gpt2"), tmp_path / "broken"
    family.model.save_pretrained(folder)
    family.tokenizer.save_pretrained(folder)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (bias,) = [name for name in weights if name.endswith("h.3.mlp.c_proj.bias")]
    weights[bias][4] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = run("localize", folder, *csv(words), "--top", "5", "--out", tmp_path / "out", "--json", "--no-progress")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert "NaN or infinite activations: 1 of 128 in decoder" in line
    assert json.loads(result.stdout)["network"]["towers"]["decoder"]["undefined"] == 1


# -------------------------------------------------------------------------------------------------------------- errors


def test_an_output_folder_that_cannot_be_written_is_found_before_anything_runs(
    gpt2: Path, words: Path, tmp_path: Path, no_forward: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(mn, "load", None)  # not even the model is loaded
    assert "--out" in fails("localize", gpt2, *csv(words), "--out", blocked)
    assert "--out" in fails("localize", gpt2, *csv(words), "--out", blocked / "below")
    assert "--out" in fails("demo", "--out", blocked)


@pytest.mark.parametrize("top", ["0", "0%", "101%", "1.0", "1.5", "-3", "many", "", "nan", "inf%", "1e400"])
def test_a_nonsensical_size_is_refused(top: str) -> None:
    assert f'got "{top}"' in fails("localize", "absent", "--contrast", "language", f"--top={top}")
    assert f'got "{top}"' in fails("demo", f"--top={top}")


def test_sizes() -> None:
    assert parse_top("1%") == parse_top("0.01") == parse_top(" 1 %") == {"fraction": 0.01}
    assert parse_top("0.5%") == {"fraction": 0.005}
    assert parse_top("100%") == {"fraction": 1.0}
    assert parse_top("115") == {"k": 115}
    assert parse_top("1") == {"k": 1}


def test_tokens() -> None:
    assert parse_tokens(None) is None
    assert parse_tokens(["mean"]) == "mean"
    assert parse_tokens(["-1"]) == (-1,)
    assert parse_tokens(["vision=cls", "decoder=0,-1"]) == {"vision": "cls", "decoder": (0, -1)}
    with pytest.raises(InputError, match="TOWER=CHOICE"):
        parse_tokens(["mean", "vision=cls"])


def test_mistakes_are_one_line(gpt2: Path, vit: Path, words: Path, tmp_path: Path, store: Store) -> None:
    out = ["--out", tmp_path / "out"]
    assert "langage" in fails("localize", gpt2, "--contrast", "langage", *out)
    assert "Did you mean 'animal'" in fails(
        "localize", gpt2, *csv(words)[:-6], "--positive", "anmal", *csv(words)[4:], *out
    )
    assert not (tmp_path / "out").exists()
    assert "absent" in fails("localize", tmp_path / "absent", *csv(words), *out)
    assert "config.json" in fails("localize", tmp_path, *csv(words), *out)
    assert "reads images only; use image stimuli" in fails("localize", vit, *csv(words), *out)
    assert "`towers` must be among the towers of tiny-gpt2 ('decoder'), got 'vision'" in fails(
        "localize", gpt2, *csv(words), "--towers", "vision", *out
    )
    assert "got 'middle'" in fails("localize", gpt2, *csv(words), "--tokens", "middle", *out)
    assert "`protocol` must be one of 'alkhamissi2025', 'anhedonia2026'" in fails(
        "localize", gpt2, *csv(words), "--protocol", "new", *out
    )
    assert "`magnitude` must be one of 'absolute', 'signed', got 'loud'" in fails(
        "localize", gpt2, *csv(words), "--magnitude", "loud", *out
    )
    assert "got 'float7'" in fails("localize", gpt2, *csv(words), "--dtype", "float7", *out)
    assert "--batch-size" in fails("localize", gpt2, *csv(words), "--batch-size", "0", *out)


def test_more_units_than_there_are(gpt2: Path, words: Path, tmp_path: Path, store: Store) -> None:
    result = run("localize", gpt2, *csv(words), "--top", "129", "--out", tmp_path, "--no-progress")
    assert result.exit_code == 2
    assert "129 units were requested" in result.stderr.splitlines()[-1]


def test_debug_shows_the_traceback(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(run("--debug", "localize", gpt2, "--contrast", "langage").exception, InputError)
    monkeypatch.setenv("MODALNET_DEBUG", "1")
    assert isinstance(run("localize", gpt2, "--contrast", "langage").exception, InputError)


def test_a_missing_option_is_a_usage_error(gpt2: Path) -> None:
    result = run("localize", gpt2)
    assert result.exit_code == 2
    assert "--contrast" in result.stderr


# -------------------------------------------------------------------------------------------------------------- towers


def test_towers(gpt2: Path, vit: Path) -> None:
    printed = ok("towers", gpt2)
    assert "4 blocks" in printed
    assert "= 128 units" in printed
    assert "transformer.h.0 .. 3" in printed
    assert "weights not loaded" in printed
    document = json.loads(ok("towers", vit, "--json"))
    model = mn.load(vit)
    assert document["towers"]["vision"]["paths"] == list(model.towers["vision"].paths)
    assert document["units"] == len(model.units())
    assert document["parameters"] == sum(parameter.numel() for parameter in model.module.parameters())


def test_towers_lists_spaces(gpt2: Path) -> None:
    printed = ok("towers", gpt2)
    assert "decoder.heads: 4 of 8 numbers" in printed
    spaces = json.loads(ok("towers", gpt2, "--json"))["spaces"]
    model = mn.load(gpt2)
    assert list(spaces) == list(model.spaces)
    for name, space in model.spaces.items():
        assert (spaces[name]["layers"], spaces[name]["width"]) == space.shape
        assert spaces[name]["units"] == space.n_units
        assert spaces[name]["widths"] == list(space.widths)
        assert spaces[name]["paths"] == list(space.paths)
        assert spaces[name]["what"] == space.what
    assert spaces["decoder.heads"]["numbers"] == 8


def test_towers_needs_neither_weights_nor_tokenizer(gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((gpt2 / "config.json").read_bytes())
    printed = ok("towers", tmp_path)
    assert "= 128 units" in printed
    assert "no tokenizer or processor" in printed


def test_towers_of_what_is_no_model(tmp_path: Path) -> None:
    assert "config.json" in fails("towers", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "new", "auto_map": {"AutoConfig": "code.New"}}')
    assert "trust_remote_code" in fails("towers", tmp_path)


# --------------------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def three(store: Store) -> Store:
    meta = {"contrast": {"name": "a > b"}, "source": "some/model"}
    for key, document in {
        "aaaa11110000ffff": {"format": "modalnet.localization", "meta": meta},
        "aaaa22220000ffff": {"format": "modalnet.other"},
        "bbbb": {"format": "modalnet.localization", "meta": meta | {"protocol": "p", "list": [1, 2]}},
    }.items():
        store.put(key, {"x": np.zeros(1000)}, document)
    store.path("bbbb").with_name("dddd.safetensors").write_bytes(b"no such thing")
    return store


def test_cache_ls(three: Store) -> None:
    printed = ok("cache", "ls")
    assert "aaaa11110000   a > b in some/model" in printed
    assert "modalnet.other" in printed
    assert "(p)" in printed
    assert "damaged" in printed
    assert "4 results" in printed
    document = json.loads(ok("cache", "ls", "--json"))
    assert {entry["key"] for entry in document["entries"]} == {entry.key for entry in three.entries()}
    assert [entry["key"] for entry in document["entries"] if entry["damaged"]] == ["dddd"]


def test_cache_of_nothing(store: Store) -> None:
    assert "0 results" in ok("cache", "ls")
    assert "no results" in ok("cache", "clear")
    assert not store.folder.exists()


def test_cache_show(three: Store) -> None:
    printed = ok("cache", "show", "bb")
    assert printed.startswith("bbbb: a > b in some/model (p)")
    assert '"list": [1, 2]' in printed
    document = json.loads(ok("cache", "show", "aaaa1", "--json"))
    assert document["key"] == "aaaa11110000ffff"
    assert document["document"]["meta"]["source"] == "some/model"
    assert "is damaged" in ok("cache", "show", "dddd")
    assert "more than one result" in fails("cache", "show", "aaaa")
    assert "no result" in fails("cache", "show", "cccc")


def test_cache_clear(three: Store) -> None:
    assert run("cache", "clear", stdin="n\n").exit_code == 1
    assert len(three.entries()) == 4
    assert "more than one" in fails("cache", "clear", "bb", "aaaa", "--yes")
    assert len(three.entries()) == 4
    assert "removed 1 result" in ok("cache", "clear", "bb", stdin="y\n")
    assert json.loads(ok("cache", "clear", "dddd", "aaaa2", "--yes", "--json"))["removed"] == 2
    assert [entry.key for entry in three.entries()] == ["aaaa11110000ffff"]
    ok("cache", "clear", "--yes")
    assert three.entries() == []


def test_results_of_the_command_line_are_listed(gpt2: Path, words: Path, tmp_path: Path, store: Store) -> None:
    ok("localize", gpt2, *csv(words), "--top", "5", "--out", tmp_path / "out")
    assert "animal > tool in tiny-gpt2" in ok("cache", "ls")


# ---------------------------------------------------------------------------------------------------------- the process


def script(*arguments: object) -> list[str]:
    code = "import sys; from modalnet.cli import app; app(prog_name='modalnet')"
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_version() -> None:
    assert ok("--version").split() == ["modalnet", mn.__version__]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from modalnet.cli import app;"
        "result = CliRunner().invoke(app, ['--help']); assert 'localize' in result.stdout;"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pandas', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stdout_of_a_process_is_the_document_alone(gpt2: Path, words: Path, tmp_path: Path) -> None:
    command = script("localize", gpt2, *csv(words), "--top", "5", "--out", tmp_path, "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["network"]["selected"] == 5
    assert "Loading weights" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_an_interrupt_ends_quietly(gpt2: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.csv"
    rows = "".join(f"{'The dog ran. ' * 6}{i},{'ab'[i % 2]}\n" for i in range(8000))
    many.write_text("text,condition\n" + rows)
    options = ["--positive", "a", "--out", tmp_path, "--no-cache", "--batch-size", "1"]
    command = script("localize", gpt2, "--contrast", f"csv:{many}", *options)
    # A run in the background of a shell hands on a SIGINT that is ignored; a person at a terminal has the default.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads run here
    )
    assert process.stderr is not None
    seen = ""
    while not re.search(r"[1-9]\d*/8000", seen) and process.poll() is None:
        seen += process.stderr.read(1)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert not out
    assert "Traceback" not in err


# ---------------------------------------------------------------------------------------------------------------- real


@pytest.mark.real
def test_language_in_gemma(tmp_path: Path, store: Store) -> None:
    arguments = ["--contrast", f"fedorenko2010:{assets.data('fedorenko2010')}", "--protocol", "alkhamissi2025"]
    document = json.loads(ok("localize", assets.gemma(), *arguments, "--top", "1%", "--out", tmp_path, "--json"))
    assert document["network"]["selected"] == mn.Units.load(tmp_path / "units.json").count == 115
    assert document["network"]["units"] == 11520
    assert document["top_units"][0]["t"] == pytest.approx(42.0, abs=0.1)
    measured = {(row["measure"], row["units"]): row for row in document["reliability"]}
    assert measured["split-half Dice", "network"]["low"] > 4 * measured["split-half Dice", "random"]["high"]
    assert measured["t, held out", "network"]["low"] > 2 * measured["t, held out", "random"]["high"]


def test_the_demo(tmp_path: Path, shared_store: None) -> None:
    printed = ok("demo", "--out", tmp_path / "out")
    assert "2,304 units" in printed
    assert printed.count("Held out (5 folds):") == 2
    for name in ("language", "vision"):
        assert sorted(path.name for path in (tmp_path / "out" / name).iterdir()) == FILES
    document = json.loads(ok("demo", "--out", tmp_path / "out", "--json"))
    assert set(document) == {"language", "vision"}
    assert document["vision"]["network"]["towers"].keys() == {"vision", "decoder"}


def test_a_lesion_study(tmp_path: Path, shared_store: None) -> None:
    arguments = ["tiny", "--networks", "language,vision", "--tasks", "grammar,colour", "--items", "6"]
    arguments += ["--n-controls", "1", "--fractions", "1%,5%", "--match", "layer", "--out", tmp_path / "out"]
    printed = ok("lesion", *arguments)
    assert "Lesions of tiny" in printed
    names = ["lesion-dissociation.csv", "lesion-summary.txt", "lesion-table.csv", "lesion-verdicts.csv"]
    names += ["lesion.png", "lesion.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    document = json.loads(ok("lesion", *arguments, "--json"))
    assert len(document["table"]) == 2 * 2 * 2 * 2
    assert set(document["base"]) == {"grammar", "colour"}
    assert {one["verdict"] for one in document["verdicts"]} <= {"cannot be tested", "no measurable effect"}
    assert not document["failures"]


def test_a_lesion_study_of_heads(tmp_path: Path, shared_store: None) -> None:
    arguments = ["tiny", "--units", "heads", "--tasks", "grammar", "--items", "8", "--n-controls", "1"]
    result = run("lesion", *arguments, "--match", "tower", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "0.125%, 0.25%, 0.5%, 1% of 48 units is less than one: one unit (2.08%) is selected" in said
    study = mn.LesionStudy.load(tmp_path / "lesion.safetensors")
    assert set(study.table()["units"]) == {1}


@pytest.mark.parametrize(("kinds", "control"), [(["layer", "activation"], "activation"), (["tower"], "tower")])
def test_dissociations_are_beside_a_control_that_was_run(tmp_path: Path, kinds: list[str], control: str) -> None:
    per_kind = {kind: {"blimp": 0.1, "images": 0.1} for kind in ("", *kinds)}
    study = study_of({(name, "zero"): per_kind for name in ("language", "vision")})
    written = write(replace(study, settings={"match": kinds}), tmp_path)
    assert set(pd.read_csv(written["dissociation"])["control"]) == {control}


def test_a_lesion_study_with_care(tmp_path: Path, shared_store: None) -> None:
    """The options of a careful study reach it, and change what it measures."""
    arguments = ["tiny", "--tasks", "grammar", "--items", "12", "--n-controls", "1", "--fractions", "5%"]
    careful = ["--by", "effect_size", "--exclude-massive", "1.2", "--spare-first", "1", "--out", tmp_path / "careful"]
    printed = ok("lesion", *arguments, *careful)
    assert "The first token of every text was spared." in " ".join(printed.split())
    plain, document = (
        json.loads(ok("lesion", *arguments, *options, "--json")) for options in (["--out", tmp_path / "plain"], careful)
    )
    settings = document["settings"]
    assert (settings["by"], settings["exclude_massive"], settings["spare_first"]) == ("effect_size", 1.2, 1)
    magnitudes = {one["table"][0]["magnitude"] for one in (plain, document)}
    assert len(magnitudes) == 2
    assert min(magnitudes) == document["table"][0]["magnitude"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "size"], "`by` must be one of"),
        (["--exclude-massive", "0.5"], "above 1"),
        (["--spare-first", "-1"], "`spare_first` must be a non-negative integer"),
        (["--fractions", "12"], "takes shares"),
        (["--tasks", "sudoku"], "Unknown task"),
        (["--tasks", "blimp"], "needs a path"),
        (["--networks", "sudoku"], "sudoku"),
        (["--operations", "melt"], "`operations` must be one of"),
    ],
)
def test_bad_options_of_a_lesion_study_are_found_before_anything_runs(
    tmp_path: Path, no_forward: None, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(mn, "load", None)
    result = run("lesion", "tiny", "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


# -- options that would have no effect -----------------------------------------------------------------------------


def test_a_protocol_goes_to_the_networks_that_are_named() -> None:
    contrasts = {"language": mn.stimuli.language(8), "vision": mn.stimuli.vision("noise", size=32)}
    assert parse_protocols(None, contrasts) == {"language": None, "vision": None}
    named = parse_protocols(["language=alkhamissi2025"], contrasts)
    assert named == {"language": "alkhamissi2025", "vision": None}
    with pytest.raises(InputError, match=r"network 'vision' have images.*--protocol NETWORK=alkhamissi2025"):
        parse_protocols(["alkhamissi2025"], contrasts)
    with pytest.raises(InputError, match=r"network 'vision' have images"):
        parse_protocols(["vision=alkhamissi2025"], contrasts)
    with pytest.raises(InputError, match="names the network 'faces'; the networks are language, vision"):
        parse_protocols(["faces=alkhamissi2025"], contrasts)
    with pytest.raises(InputError, match="one name for all networks, or NETWORK=NAME for each"):
        parse_protocols(["alkhamissi2025", "language=alkhamissi2025"], contrasts)


@pytest.mark.parametrize("command", ["lesion", "atlas"])
def test_a_protocol_is_not_dropped_for_pictures(tmp_path: Path, store: Store, no_forward: None, command: str) -> None:
    arguments = ["tiny", "--networks", "language,vision", "--protocol", "alkhamissi2025", "--out", tmp_path]
    assert "the stimuli of the network 'vision' have images" in fails(command, *arguments)


def test_a_protocol_reaches_its_network_in_a_lesion_study(tmp_path: Path, store: Store) -> None:
    arguments = ["tiny", "--networks", "language,vision", "--tasks", "grammar", "--items", "6", "--n-controls", "1"]
    arguments += ["--fractions", "1%", "--operations", "zero", "--protocol", "language=alkhamissi2025"]
    ok("lesion", *arguments, "--out", tmp_path)
    protocols = {
        entry.meta["meta"]["protocol"] for entry in store.entries() if "protocol" in entry.meta.get("meta", {})
    }
    assert protocols == {"alkhamissi2025", None}


@pytest.mark.parametrize(
    "option",
    [
        ["--networks", "language"],
        ["--protocol", "alkhamissi2025"],
        ["--device", "cpu"],
        ["--dtype", "bfloat16"],
        ["--batch-size", "3"],
        ["--no-cache"],
    ],
)
def test_an_atlas_of_files_takes_no_option_of_a_model(tmp_path: Path, option: list[str]) -> None:
    message = fails("atlas", tmp_path / "localization.safetensors", *option, "--out", tmp_path)
    assert f"{option[0]}: localizations from files are drawn as they are" in message


def test_items_and_seed_reach_every_bundled_task() -> None:
    from modalnet.tasks import spec

    counts = [len(task.items) for task in spec.parse("default,theory-of-mind,grammar", 4)]
    assert counts[-2] == 4
    assert len(set(counts)) == 1
    draws = [[str(item) for item in spec.parse("theory-of-mind", 4, seed)[0].items] for seed in (0, 1)]
    assert draws[0] != draws[1]
    with pytest.raises(InputError, match="uses the whole text"):
        spec.parse("perplexity:texts.txt", 4)


# -- atlas ---------------------------------------------------------------------------------------------------------


def test_atlas_of_files_and_of_a_model_is_the_same_page(store: Store, gpt2: Path, words: Path, tmp_path: Path) -> None:
    columns = ("--text-column", "words", "--condition-column", "kind")
    contrast = (f"csv:{words}", "--positive", "animal", *columns)
    ok("localize", gpt2, "--contrast", *contrast, "--out", tmp_path / "found", "--no-progress")
    file = tmp_path / "found" / "localization.safetensors"
    printed = json.loads(ok("atlas", f"animals={file}", "--top", "5%", "--out", tmp_path / "map", "--json"))
    assert printed["networks"] == ["animals"]
    assert sorted(path.name for path in (tmp_path / "map").iterdir()) == ["atlas.html", "glass.png", "sheet.png"]
    page = (tmp_path / "map" / "atlas.html").read_text(encoding="utf-8")
    expected = mn.atlas({"animals": mn.Localization.load(file)}, top=0.05)
    assert page == expected.html()
    with Image.open(tmp_path / "map" / "sheet.png") as picture:
        assert picture.width == 1440


def test_atlas_tells_what_it_takes(store: Store, gpt2: Path, tmp_path: Path) -> None:
    assert "takes shares of the units" in fails("atlas", gpt2, "--top", "12", "--out", tmp_path)
    assert "one model or .safetensors files" in fails("atlas", gpt2, "other.safetensors", "--out", tmp_path)
    assert "cannot be read" in fails("atlas", tmp_path / "absent.safetensors", "--out", tmp_path)


def test_a_profile(tmp_path: Path, shared_store: None) -> None:
    arguments = ["tiny", "--top", "5%", "--n-controls", "2", "--out", tmp_path / "out"]
    printed = ok("profile", *arguments)
    assert "published differences of the human language network are shown" in printed
    names = ["contrasts.csv", "human.csv", "table.csv"]
    files = ["profile-" + name for name in names] + ["profile.png", "profile.safetensors", "profile.txt"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    document = json.loads(ok("profile", *arguments, "--json"))
    assert [row["condition"] for row in document["table"]] == ["sentences", "word-lists", "jabberwocky", "nonwords"]
    assert document["settings"]["n_controls"] == 2
    assert any("reselected" in note for note in document["notes"])


def test_a_profile_of_heads(tmp_path: Path, shared_store: None) -> None:
    arguments = ["tiny", "--units", "heads", "--n-controls", "2", "--match", "tower", "--out", tmp_path]
    document = json.loads(ok("profile", *arguments, "--json"))
    assert document["settings"]["n_units"] == 1


def test_brain(tmp_path: Path, shared_store: None) -> None:
    """Responses that are the length of each sentence: baselines predict them, and files say so."""
    pytest.importorskip("himalaya")
    texts = [stimulus.text for stimulus in mn.stimuli.language(40).stimuli]
    rows = {"sentence": texts, "left": [len(str(text)) for text in texts], "passage": np.arange(len(texts)) // 4}
    pd.DataFrame(rows).to_csv(tmp_path / "brain.csv", index=False)
    columns = ["--text", "sentence", "--responses", "left", "--group", "passage"]
    arguments = ["tiny", "--data", f"csv:{tmp_path / 'brain.csv'}", *columns, "--n-controls", "2"]
    document = json.loads(ok("brain", *arguments, "--out", tmp_path / "out", "--json"))
    score = {row["features"]: row["score"] for row in document["table"]}
    assert score["length"] > 0.99
    assert score["length"] > score["network"]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"brain.png", "brain.safetensors", "brain-table.csv"}
    assert mn.brain.Alignment.load(tmp_path / "out" / "brain.safetensors").n_targets == 1
    assert "predicts brain" in ok("brain", *arguments, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nsd:here"], "--data takes pereira2018:FILE"),
        (["--data", "csv:brain.csv"], "--responses names the columns"),
        (["--data", "pereira2018:x.csv", "--group", "a"], "--group: only csv:FILE takes column names"),
        (["--data", "tuckute2024:x.csv", "--text", "text"], "--text: only csv:FILE takes column names"),
        (["--data", "pereira2018:nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_brain_data(tmp_path: Path, store: Store, arguments: list[str], message: str) -> None:
    result = run("brain", "tiny", "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
