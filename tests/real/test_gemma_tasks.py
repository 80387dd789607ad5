"""BLiMP and SyntaxGym on Gemma 3 270M, against plain transformers."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
import transformers as tr

import assets
import modalnet as mn
from modalnet import tasks

pytestmark = pytest.mark.real

PARADIGMS = ("wh_island", "determiner_noun_agreement_1", "transitive")
SUITE = "number_prep"
ITEMS = 6


@pytest.fixture(scope="module")
def model():
    return mn.load(assets.gemma(), dtype="float32")


@pytest.fixture(scope="module")
def plain():
    """Text → (log p of each token after the first, where its letters begin), by plain transformers."""
    tokenizer = tr.AutoTokenizer.from_pretrained(assets.gemma())
    module = tr.AutoModelForCausalLM.from_pretrained(assets.gemma(), dtype=torch.float32).eval()

    def score(text):
        encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        ids = encoded["input_ids"]
        with torch.no_grad():
            logp = torch.log_softmax(module(input_ids=ids).logits[0].double(), -1)
        values = logp[:-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
        spans = encoded["offset_mapping"][0, 1:].tolist()
        return values, [start + len(text[start:end]) - len(text[start:end].lstrip()) for start, end in spans]

    return score


def test_blimp(model, plain):
    folder = assets.data("blimp")
    agreed = []
    for paradigm in PARADIGMS:
        task = tasks.minimal_pairs(folder / f"{paradigm}.jsonl", n=ITEMS)
        rows = [json.loads(line) for line in (folder / f"{paradigm}.jsonl").read_text().splitlines()]
        texts = {f"{row['UID']}/{row['pairID']}": (row["sentence_good"], row["sentence_bad"]) for row in rows}
        assert task.pairs == tuple(texts[item] for item in task.items)
        likelihoods = model._executor.likelihoods(task.requests())
        expected = [plain(sentence)[0].sum() for pair in task.pairs for sentence in pair]
        np.testing.assert_allclose([one.logprob for one in likelihoods], expected, atol=5e-3)
        good, bad = np.reshape(expected, (-1, 2)).T
        agreed += list(task.grade(likelihoods) == (good > bad))
    assert all(agreed)
    assert len(agreed) == ITEMS * len(PARADIGMS)


def test_every_paradigm_can_be_read():
    task = tasks.minimal_pairs(assets.data("blimp"))
    assert len(set(task.groups.values())) == 67
    assert len(task) == len(set(task.items)) == 67 * 200


def test_syntaxgym(model, plain, tmp_path):
    suite = json.loads((assets.data("syntaxgym") / f"{SUITE}.json").read_text())
    suite["items"] = suite["items"][:ITEMS]
    (tmp_path / f"{SUITE}.json").write_text(json.dumps(suite))
    task = tasks.syntaxgym(tmp_path)
    found = task.run(model).scores
    (prediction,) = suite["predictions"]
    formula = re.sub(r"\((\d+);%([^%]+)%\)", r"s['\2'][\1]", prediction["formula"]).replace("&", " and ")
    for item, score in zip(suite["items"], found, strict=True):
        surprisals = {}
        for condition in item["conditions"]:
            regions = condition["regions"]
            starts = np.cumsum([0, *(len(region["content"]) + 1 for region in regions)])
            values, begins = plain(" ".join(region["content"] for region in regions))
            place = np.searchsorted(starts, begins, side="right") - 1
            surprisals[condition["condition_name"]] = {
                region["region_number"]: -values[place == i].sum() / math.log(2) for i, region in enumerate(regions)
            }
        assert score == float(eval(formula, {"s": surprisals}))
    assert 0 < found.mean() <= 1


def test_every_suite_can_be_read():
    task = tasks.syntaxgym(assets.data("syntaxgym"))
    assert len(set(task.groups.values())) == 31
    assert len(task) == len(set(task.items)) == 799


def test_pairs_of_two_languages_per_token(model, plain):
    counts = []
    for language in ("deu", "fin"):
        path = assets.data("multiblimp_sv") / f"{language}.csv"
        task = tasks.minimal_pairs(path, rows=slice(0, 4), per_token=True)
        values = [plain(sentence)[0] for pair in task.pairs for sentence in pair]
        likelihoods = model._executor.likelihoods(task.requests())
        np.testing.assert_allclose(
            [one.logprob / one.n_tokens for one in likelihoods], [v.mean() for v in values], atol=1e-3
        )
        good, bad = np.reshape([v.mean() for v in values], (-1, 2)).T
        assert task.grade(likelihoods).tolist() == (good > bad).tolist()
        counts += [len(v) for v in values]
    assert np.ptp(np.reshape(counts, (-1, 2)), axis=1).max() > 0


def test_mmtomqa_by_letters(model, plain):
    task = tasks.mmtomqa(assets.data("mmtomqa_text") / "questions.jsonl", types=1.2, n=1)
    expected = []
    for question in task.questions:
        assert question.stimulus.text.endswith("Please respond with either a or b.\nAnswer:")
        a, b = (plain(f"{question.stimulus.text} {letter}")[0][-1] for letter in "ab")
        expected.append(float((a > b) == (question.answer == 0)))
    assert task.run(model).scores.tolist() == expected
