"""The bundled model: what it weighs, that it loads offline and fast, and that it sees and speaks.

The abilities are measured on held-out items, beside three controls (see modalnet.bundled.evaluate).
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import modalnet as mn
from modalnet.bundled import evaluate, grammar, items, minimal_pairs, visual_questions
from modalnet.models.loading import BUNDLED
from training import network

#: Items of each ability beside the controls; and those of the model card.
N, N_CARD = 80, 200


@pytest.fixture(scope="module")
def tiny():
    return mn.load("tiny")


@pytest.fixture(scope="module")
def random(tiny):
    return mn.load(network.build_model(len(tiny.tokenizer), seed=1), processor=tiny.processor)


@pytest.fixture(scope="module")
def table(tiny, random):
    return evaluate.evaluate(tiny, random, N, progress=False).set_index("ability")


def test_it_is_small_and_whole():
    weights = BUNDLED / "model.safetensors"
    assert weights.stat().st_size <= 12e6
    assert {path.name for path in BUNDLED.iterdir()} >= {"config.json", "tokenizer.json", "README.md"}


def test_its_towers_are_stock_llava(tiny):
    assert type(tiny.module).__name__ == "LlavaForConditionalGeneration"
    assert type(tiny.module).__module__.startswith("transformers.")
    assert tiny.vision.n_layers >= 6
    assert tiny.decoder.n_layers >= 8
    assert next(tiny.module.parameters()).dtype is torch.float32


def test_its_files_are_those_that_the_code_builds(tiny):
    """The shipped config, tokenizer and processor are the ones that training would write."""
    processor = network.build_processor()
    assert tiny.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    built = network.build_model(len(processor.tokenizer)).config.to_dict()
    shipped = tiny.module.config.to_dict()
    for part in ("text_config", "vision_config"):
        volatile = ("dtype", "_name_or_path", "transformers_version", "architectures")
        assert {k: v for k, v in shipped[part].items() if k not in volatile} == {
            k: v for k, v in built[part].items() if k not in volatile
        }
    text = "What colour is the circle?"
    assert tiny.tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


LOAD = """
import socket
def refuse(*_, **__): raise OSError("no network in this test")
socket.socket.connect = refuse
import torch
drawn = [0]
def counted(self, *args, **kwargs):
    drawn[0] += self.device.type != "meta"
    return self
for name in ("normal_", "uniform_", "trunc_normal_", "random_"):
    setattr(torch.Tensor, name, counted)
import modalnet as mn
mn.load("tiny")
print(drawn[0])
"""


def test_it_loads_offline_and_draws_no_weights_first(tmp_path):
    """Weights that are drawn at random, only to be read over, are most of the time that loading a model can take."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=300
    )
    assert int(done.stdout.split()[-1]) == 0


def test_a_folder_of_that_name_does_not_stand_in_its_way(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert mn.load("tiny").vision.n_layers == network.build_model(8).config.vision_config.num_hidden_layers


@pytest.mark.parametrize("ability", evaluate.REQUIRED)
def test_it_can(table, ability):
    assert table["accuracy"][ability] >= evaluate.REQUIRED[ability]


@pytest.mark.parametrize("ability", items.ABILITIES)
def test_random_weights_cannot(table, ability):
    row = table.loc[ability]
    assert row["random weights"] <= chance_of_luck(row["chance"])


@pytest.mark.parametrize("phenomenon", minimal_pairs.PHENOMENA)
def test_random_weights_know_no_grammar(table, phenomenon):
    """Not above chance; below it they may be, as they prefer one token to another wherever it stands."""
    assert table["random weights"][phenomenon] <= chance_of_luck(0.5)


@pytest.mark.parametrize("ability", ["colour", "shape", "count", "position", "category", "object", "mood", "reading"])
def test_without_the_picture_it_guesses(table, ability):
    row = table.loc[ability]
    assert row["no picture"] <= chance_of_luck(row["chance"])


def chance_of_luck(share: float) -> float:
    """What a guesser of this share passes in one of ten thousand tests."""
    from scipy import stats

    return float(stats.binom.ppf(1 - 1e-4, N, share)) / N


def test_the_items_are_held_out_and_the_same_each_time():
    for ability in ("colour", "reading", "sums"):
        again = items.items(ability, 20)
        for one, other in zip(items.items(ability, 20), again, strict=True):
            assert (one.text, one.answer) == (other.text, other.answer)
            assert (one.image is None) or np.array_equal(one.image, other.image)
    trained = {grammar.sentence_of_split(np.random.default_rng(seed), test=False) for seed in range(500)}
    assert not trained & {good for name in minimal_pairs.PHENOMENA for good, _ in items.pairs(name, 50)}


def test_log_probabilities_are_those_of_plain_transformers(tiny):
    sentences = ["the dog sleeps.", "the old keys near the box are small."]
    found = evaluate.log_probabilities(tiny, sentences)
    for sentence, total in zip(sentences, found, strict=True):
        inputs = tiny.tokenizer(sentence, return_tensors="pt")
        with torch.no_grad():
            loss = tiny.module(input_ids=inputs["input_ids"], labels=inputs["input_ids"]).loss
        assert total == pytest.approx(-float(loss) * (inputs["input_ids"].shape[1] - 1), rel=1e-4)


def test_answers_are_those_of_plain_transformers(tiny):
    asked = items.items("colour", 8)
    for item, said in zip(asked, evaluate.answers(tiny, asked), strict=True):
        inputs = tiny.processor(images=[item.image], text=["<image>" + item.text], return_tensors="pt")
        made = tiny.module.generate(**inputs, max_new_tokens=4, do_sample=False)
        text = tiny.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text.split(".")[0].strip() == said


def test_pictures_of_other_sizes_are_read_too(tiny):
    """The bundled stimuli are drawn at 224 pixels; the model sees 64."""
    rng = np.random.default_rng(9)
    shown = [visual_questions.picture(rng, test=True) for _ in range(60)]
    asked = [items.Item("what is it?", one.category, visual_questions.render(one, 224, 1)) for one in shown]
    right = [said == item.answer for said, item in zip(evaluate.answers(tiny, asked), asked, strict=True)]
    assert np.mean(right) >= 0.95


def test_the_model_card_has_the_figures():
    card = (BUNDLED / "README.md").read_text()
    for ability, accuracy in json.loads((BUNDLED / "evaluation.json").read_text()).items():
        assert f"| {ability} | {N_CARD} | {accuracy:.3f} |" in card


@pytest.mark.parametrize("ability", [*items.ABILITIES, *minimal_pairs.PHENOMENA])
def test_a_figure_of_the_model_card(tiny, ability):
    if ability in minimal_pairs.PHENOMENA:
        right = evaluate.prefers_grammatical(tiny, items.pairs(ability, N_CARD))
    else:
        right = evaluate.answered(tiny, items.items(ability, N_CARD))
    written = json.loads((BUNDLED / "evaluation.json").read_text())[ability]
    # Another machine's arithmetic may turn an item or two.
    assert np.mean(right) == pytest.approx(written, abs=0.02)
