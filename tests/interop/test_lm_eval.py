"""The lm-evaluation-harness on a lesioned model, against plain log-softmax and the harness' own Hugging Face model."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
import torch
import yaml

import modalnet as mn
from families import build
from modalnet.execution.likelihood import Request
from modalnet.interop.harness import lm_eval
from modalnet.stimuli import Stimulus
from random_units import some_units
from reference import load

pytest.importorskip("lm_eval")

PAIRS = [
    ("The dog ran across the green field.", "The dog run across the green field."),
    ("Two children are playing on the beach.", "Two children is playing on the beach."),
    ("She poured the tea slowly, then smiled.", "She poured the tea slowly, then smile."),
    ("Is there a face in the picture?", "Are there a face in the picture?"),
]
TEXTS = ["The quick brown fox jumps over the lazy dog; 0 1 2 3.", "She looked out of the window and smiled."]
LONG = " ".join(["Describe this image. What is in the picture? A nonword is a string such as blicket;"] * 9) + " end"
PROMPTS = ["What is in the picture?", "Two children are playing on", "The dog"]


@pytest.fixture(autouse=True)
def _own_datasets(tmp_path, monkeypatch):
    """Data sets are made here and kept here."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def folder(tmp_path):
    """Task files as the harness reads them: BLiMP as in its own blimp tasks, texts, and answers to write."""
    common = {"dataset_path": "json", "test_split": "test", "doc_to_text": "", "num_fewshot": 0}
    tasks = {
        "pairs": {
            "output_type": "multiple_choice",
            "doc_to_target": 0,
            "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        },
        "texts": {
            "output_type": "loglikelihood_rolling",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "word_perplexity"}],
        },
        "answers": {
            "output_type": "generate_until",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["zz"], "max_gen_toks": 5, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        },
    }
    rows = {
        "pairs": [{"sentence_good": good, "sentence_bad": bad} for good, bad in PAIRS],
        "texts": [{"text": text} for text in TEXTS],
        "answers": [{"prompt": prompt, "answer": "x"} for prompt in PROMPTS],
    }
    where = tmp_path / "tasks"
    where.mkdir()
    for name, task in tasks.items():
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        files = {"dataset_kwargs": {"data_files": {"test": str(data)}}}
        (where / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **files, **task}))
    return where


def evaluate(model, interventions, task, folder, **options):
    return lm_eval(model, interventions, task, include_path=folder, bootstrap_iters=0, **options)


def sampled(found, task):
    """Answers to the requests of each document, in order."""
    rows = sorted(found["samples"][task], key=lambda row: row["doc_id"])
    return [[answer for one in row["resps"] for answer in one] for row in rows], [row["arguments"] for row in rows]


@torch.no_grad()
def plain(name, text):
    """log p of a text after the beginning token, and whether they are the likeliest, by hand."""
    family = build(name)
    ids = family.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[family.tokenizer.bos_token_id, *ids]])
    logprob = family.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    picked = logprob.gather(-1, ids[0, 1:, None])[:, 0]
    return float(picked.sum()), bool((logprob.argmax(-1) == ids[0, 1:]).all())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_minimal_pairs_are_plain_log_softmax(name, folder):
    found = evaluate(load(name), (), "pairs", folder)
    answers, arguments = sampled(found, "pairs")
    assert [[one[1].strip() for one in row] for row in arguments] == [list(pair) for pair in PAIRS]
    expected = [[plain(name, context + text) for context, text in row] for row in arguments]
    np.testing.assert_allclose(np.array(answers), np.array(expected), rtol=1e-5)
    right = np.mean([good[0] > bad[0] for good, bad in expected])
    assert found["results"]["pairs"]["acc,none"] == right
    assert found["config"]["interventions"] == []


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_lesion_changes_the_scores_as_it_changes_likelihoods(name, folder):
    model = load(name)
    lesions = [mn.zero(some_units(model, ["decoder"])), mn.zero(mn.site("decoder", 1))]
    whole, arguments = sampled(evaluate(model, (), "pairs", folder), "pairs")
    begin = None if name == "llama" else Stimulus(text="<|endoftext|>")
    requests = [Request(begin, text) for row in arguments for _, text in row]
    for lesion in lesions:
        found = evaluate(model, lesion, "pairs", folder)
        answers, _ = sampled(found, "pairs")
        expected = [(one.logprob, one.greedy) for one in model._executor.likelihoods(requests, lesion)]
        np.testing.assert_allclose(np.array(answers).reshape(-1, 2), np.array(expected), rtol=1e-6)
        assert np.abs(np.array(answers)[..., 0] - np.array(whole)[..., 0]).min() > 0.1
        assert found["config"]["interventions"] == [str(lesion)]
        # A view is under its intervention already.
        of_view, _ = sampled(evaluate(model.with_(lesion), (), "pairs", folder), "pairs")
        assert of_view == answers


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_whole_texts_have_the_loss_of_transformers(name, folder):
    answers, _ = sampled(evaluate(load(name), (), "texts", folder), "texts")
    family = build(name)
    for text, (answer,) in zip(TEXTS, answers, strict=True):
        ids = family.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[family.tokenizer.bos_token_id, *ids]])
        with torch.no_grad():
            loss = family.model(input_ids=ids, labels=ids).loss
        assert answer == pytest.approx(-float(loss) * (ids.shape[1] - 1), rel=1e-5)


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


def both(name, **options):
    """The same model as the harness knows it by itself, and as modalnet hands it over."""
    from lm_eval.models.huggingface import HFLM

    from modalnet.interop.lesioned import LesionedLM

    family = build(name)
    # The harness' model sets a pad token and more: it gets its own tokenizer.
    theirs = HFLM(pretrained=family.model, tokenizer=copy.deepcopy(family.tokenizer), batch_size=2, **options)
    return LesionedLM(load(name)), theirs


CONTEXTS = [
    ("", "The dog ran"),
    ("The dog ran", " across the field"),
    ("The dog ran ", "across the field"),
    ("What is in the picture?\nAnswer: ", "a dog"),
    ("  ", "What is this?"),
    ("She poured the", "tea"),
]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_requests_are_answered_as_by_the_harness(name):
    ours, theirs = both(name)
    context = [pair for pair in CONTEXTS if pair[0].strip() or name == "llama" or not pair[0]]
    asked = instances("loglikelihood", context)
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    np.testing.assert_allclose(np.array(ours.loglikelihood(asked)), np.array(expected), rtol=1e-5)


def test_a_context_that_is_too_long_loses_its_beginning():
    ours, theirs = both("gpt2", max_length=127)  # the last token is not read by theirs, so it is the 128th
    asked = instances("loglikelihood", [(LONG, " a dog"), (LONG[30:], " The window")])
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    np.testing.assert_allclose(np.array(ours.loglikelihood(asked)), np.array(expected), rtol=1e-5)
    with pytest.raises(mn.InputError, match="no room for a context"):
        ours.loglikelihood(instances("loglikelihood", [("The dog", LONG)]))
    with pytest.raises(mn.InputError, match="longer than the maximum input of 128 tokens"):
        ours.loglikelihood(instances("loglikelihood", [("", LONG)]))


def test_a_long_text_is_read_in_the_windows_of_the_harness():
    ours, theirs = both("gpt2", max_length=127)
    asked = instances("loglikelihood_rolling", [(LONG,), (TEXTS[0],), (LONG[7:],)])
    assert len(build("gpt2").tokenizer(LONG, verbose=False)["input_ids"]) > 2 * 128
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    np.testing.assert_allclose(ours.loglikelihood_rolling(asked), expected, rtol=1e-5)
    assert ours.loglikelihood_rolling(instances("loglikelihood_rolling", [("",)])) == [0]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("text", [LONG, "naïve 😀 café\n\n  " * 30, "unbroken" * 60, " " * 40 + LONG])
def test_windows_hold_the_text_once(name, text):
    from modalnet.interop.lesioned import LesionedLM

    lm = LesionedLM(load(name), max_length=40)
    requests = list(lm._windows(text))
    assert len(requests) > 3
    assert "".join(one.continuation for one in requests) == text
    found = lm.model._executor.likelihoods(requests)
    tokens = build(name).tokenizer
    assert sum(one.n_tokens for one in found) == len(tokens(text, add_special_tokens=False)["input_ids"])
    for one in requests:
        before = one.stimulus.text if one.stimulus else ""
        assert len(tokens(before + one.continuation)["input_ids"]) <= 40


def test_windows_of_a_tokenizer_that_puts_a_space_before_every_text():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from modalnet.interop.lesioned import LesionedLM

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(prepend_scheme="always"), decoders.Metaspace()
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=150, special_tokens=["<s>"], show_progress=False))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokens = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<s>")
    assert len(tokens("smiled")["input_ids"]) == len(tokens(" smiled")["input_ids"]), "the test needs the space"
    text = " ".join(TEXTS * 6)
    lm = LesionedLM(mn.load(build("llama").model, tokenizer=tokens), max_length=30)
    requests = list(lm._windows(text))
    assert "".join(one.continuation for one in requests) == text
    for one in requests:
        assert len(tokens((one.stimulus.text if one.stimulus else "") + one.continuation)["input_ids"]) <= 30


def test_windows_begin_with_the_token_that_begins_texts():
    from modalnet.interop.lesioned import LesionedLM

    lm = LesionedLM(load("llama"), max_length=40)
    family = build("llama")
    bos, ids = family.tokenizer.bos_token_id, family.tokenizer(LONG, add_special_tokens=False)["input_ids"]
    total, done = 0.0, 0
    while done < len(ids):
        stop = min(len(ids), done + (39 if not done else 38))
        first = 0 if not done else done - 1 if stop < len(ids) else stop - 39
        row = torch.tensor([[bos, *ids[first:stop]]])
        with torch.no_grad():
            logprob = family.model(input_ids=row).logits[0, :-1].log_softmax(-1)
        total += float(logprob.gather(-1, row[0, 1:, None])[done - first :].sum())
        done = stop
    (found,) = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(LONG,)]))
    assert found == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_texts_are_written_as_by_the_harness(name):
    ours, theirs = both(name)
    free = {"until": [], "max_gen_toks": 12, "do_sample": False}
    asked = instances("generate_until", [(prompt, free) for prompt in PROMPTS])
    written = theirs.generate_until(asked, disable_tqdm=True)
    assert ours.generate_until(asked) == written
    # A text ends before the first of its stops, wherever in a token that lies.
    stops = [[text[4:6], text[7:8]] for text in written]
    assert all(all(stop) for stop in stops)
    asked = instances(
        "generate_until",
        [(prompt, {**free, "until": stop}) for prompt, stop in zip(PROMPTS, stops, strict=True)],
    )
    cut = theirs.generate_until(asked, disable_tqdm=True)
    assert ours.generate_until(asked) == cut
    assert all(len(short) < len(long) for short, long in zip(cut, written, strict=True))
    single = instances("generate_until", [(PROMPTS[0], {"until": stops[0][0], "max_new_tokens": 12})])
    assert ours.generate_until(single) == [written[0].split(stops[0][0])[0]]


def test_answers_under_a_lesion_are_what_generate_writes(folder):
    model = load("llama")
    lesion = mn.zero(some_units(model, ["decoder"]))
    answers, _ = sampled(evaluate(model, lesion, "answers", folder), "answers")
    expected = [model.generate(prompt, lesion, max_new_tokens=5) for prompt in PROMPTS]
    assert [answer for (answer,) in answers] == [text.split("zz")[0] for text in expected]
    assert expected != [model.generate(prompt, max_new_tokens=5) for prompt in PROMPTS]


def test_sampling_is_refused(folder):
    model = load("llama")
    for settings in ({"do_sample": True, "temperature": 0.7}, {"do_sample": None, "temperature": 0.7}):
        with pytest.raises(mn.InputError, match="samples its answers"):
            evaluate(model, (), "answers", folder, gen_kwargs=settings)
    # Settings of sampling that is off say nothing.
    evaluate(model, (), "answers", folder, gen_kwargs={"do_sample": False, "temperature": 0.7, "top_p": 0.9}, limit=1)


def test_too_many_tokens_to_write():
    from modalnet.interop.lesioned import LesionedLM

    with pytest.raises(mn.InputError, match=r"up to 256 tokens, but .* a maximum of 128"):
        LesionedLM(load("gpt2")).generate_until(instances("generate_until", [("The dog", {"until": []})]))


def test_texts_reach_a_model_with_a_chat_template_as_they_are(folder):
    model = load("llava_clip")
    assert "ASSISTANT" in model._executor.prepare([Stimulus(text="The dog")])[0].prompt, "the test needs a template"
    lesion = mn.zero(some_units(model, ["decoder"]))
    raw = mn.load(model.module, tokenizer=model.tokenizer, chat_template=False)
    answers, _ = sampled(evaluate(model, lesion, "answers", folder), "answers")
    expected = [raw.generate(prompt, lesion, max_new_tokens=5) for prompt in PROMPTS]
    assert [answer for (answer,) in answers] == [text.split("zz")[0] for text in expected]
    assert model._executor.prepare([Stimulus(text="The dog")])[0].prompt != "The dog", (
        "the model itself stays as it was"
    )


def test_few_shots_and_limits(folder):
    model = load("llama")
    task = yaml.safe_load((folder / "pairs.yaml").read_text())
    task |= {"fewshot_split": "test", "doc_to_text": "Sentence:", "num_fewshot": 1}
    found = evaluate(model, (), task, None, num_fewshot=2, limit=3)
    assert found["n-samples"]["pairs"]["effective"] == 3
    assert found["n-shot"]["pairs"] == 2
    _, arguments = sampled(found, "pairs")
    assert [args[0][0].count("Sentence:") for args in arguments] == [3, 3, 3]
    # A path of a task file does as well as its name.
    assert "pairs" in evaluate(model, (), str(folder / "pairs.yaml"), None, limit=1)["results"]


def test_what_is_refused_at_the_door(folder, monkeypatch):
    model = load("llama")
    with pytest.raises(mn.InputError, match="at least one task"):
        lm_eval(model)
    with pytest.raises(mn.InputError, match="must be a folder with task files"):
        lm_eval(model, (), "pairs", include_path=folder / "absent")
    with pytest.raises(mn.InputError, match="`use_cache` is not supported"):
        evaluate(model, (), "pairs", folder, use_cache="answers.db")
    with pytest.raises(mn.InputError, match="came without a tokenizer"):
        evaluate(model.module, (), "pairs", folder)
    with pytest.raises(mn.InputError, match="`interventions` must be Interventions, got"):
        evaluate(model, model.units(), "pairs", folder)
    for length in (2, 10**9, "many"):
        with pytest.raises(mn.InputError, match="max_length"):
            evaluate(model, (), "pairs", folder, max_length=length)
    # The harness' own folder takes minutes to look through, and holds no such task either.
    from lm_eval.tasks import TaskManager

    class Own(TaskManager):
        def __init__(self, include_path=None, include_defaults=True):
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Own)
    with pytest.raises(mn.InputError, match="Unknown task 'paris'"):
        evaluate(model, (), ["pairs", "paris"], folder)


def test_without_the_harness_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(mn.InputError, match=r"pip install 'modalnet\[lm-eval\]'"):
        lm_eval(load("llama"), (), "blimp")


def test_the_name_is_handed_on():
    import modalnet.interop

    assert modalnet.interop.lm_eval is lm_eval
    assert "lm_eval" in dir(modalnet.interop)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        modalnet.interop.nonsense  # noqa: B018
