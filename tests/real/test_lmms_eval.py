"""lmms-eval itself, on tasks with pictures that are made here, against plain transformers on the bundled model."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lmms_eval_environment
import lmms_eval_run
import modalnet as mn
from families import picture
from reference import editing

pytestmark = pytest.mark.real

QUESTIONS = ["What is this?", "Is there a face in the <image>?", "Describe this picture.", "Which colour is it?"]
CHOICES = ["a dog.", "a red circle.", "two children", "nothing at all"]
STOP, LENGTH = " a", 8

FUNCTIONS = """
def target(doc):
    return " " + doc["choices"][doc["gold"]]

def loss(doc, results):
    ((loss, greedy),) = results
    return {"loss": loss}

def right(doc, results):
    return {"right": float(results[0] == doc["choices"][doc["gold"]])}

def clip(doc):
    return ["clip.mp4"]

def sound(doc):
    return [{"array": [0.0], "sampling_rate": 16000}]

def rounds(doc, lmms_eval_specific_kwargs=None, **state):
    return doc["question"]
"""
MEAN = {"aggregation": "mean", "higher_is_better": True}
CHOICE = {"output_type": "multiple_choice", "doc_to_target": "gold", "doc_to_choice": "choices"}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": [STOP], "max_new_tokens": LENGTH, "temperature": 0, "image_aspect_ratio": "pad"},
    "process_results": "!function functions.right",
    "metric_list": [{"metric": "right", **MEAN}],
}
TASKS = {
    "choices": CHOICE | {"metric_list": [{"metric": "acc", **MEAN}]},
    "texts": CHOICE | {"doc_to_visual": None, "metric_list": [{"metric": "acc", **MEAN}]},
    "losses": {
        "output_type": "loglikelihood",
        "doc_to_target": "!function functions.target",
        "process_results": "!function functions.loss",
        "metric_list": [{"metric": "loss", **MEAN}],
    },
    "answers": WRITTEN,
    "clips": WRITTEN | {"doc_to_visual": "!function functions.clip"},
    "sounds": CHOICE | {"doc_to_visual": "!function functions.sound", "metric_list": [{"metric": "acc", **MEAN}]},
    "drawn": WRITTEN | {"generation_kwargs": {"until": [STOP], "temperature": 1.0}},
    "rounds": WRITTEN | {"output_type": "generate_until_multi_round", "doc_to_text": "!function functions.rounds"},
}
PLAN = [
    *([lesioned, task, {}] for lesioned in (False, True) for task in ("choices", "texts", "losses", "answers")),
    *([False, task, {}] for task in ("clips", "sounds", "drawn", "rounds", "absent")),
    [False, "drawn", {"gen_kwargs": f"temperature=0,max_new_tokens={LENGTH}", "limit": 1}],
]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> dict[tuple[bool, str, bool], dict | str]:
    """What lmms-eval returned for each entry of the plan, by (lesioned, task, whether with options)."""
    import datasets

    folder = tmp_path_factory.mktemp("lmms-eval")
    tasks = folder / "tasks"
    tasks.mkdir()
    rows = {
        "question": QUESTIONS,
        "choices": [CHOICES[: 2 + i % 3] for i in range(len(QUESTIONS))],
        "gold": [i % 2 for i in range(len(QUESTIONS))],
        "image": pictures(),
    }
    features = datasets.Features(
        question=datasets.Value("string"),
        choices=datasets.List(datasets.Value("string")),
        gold=datasets.Value("int64"),
        image=datasets.Image(),
    )
    datasets.DatasetDict(test=datasets.Dataset.from_dict(rows, features=features)).save_to_disk(str(folder / "data"))
    (tasks / "functions.py").write_text(FUNCTIONS)
    common = {
        "dataset_path": str(folder / "data"),
        "dataset_kwargs": {"load_from_disk": True},
        "test_split": "test",
        "doc_to_text": "question",
        "doc_to_visual": "image",
    }
    for name, task in TASKS.items():
        written = yaml.safe_dump({"task": name, **common, **task})
        # A tag of YAML, not a string.
        (tasks / f"{name}.yaml").write_text(re.sub("'(!function [^']+)'", r"\1", written))
    plan, out = folder / "plan.json", folder / "out.json"
    plan.write_text(json.dumps(PLAN))
    path = [str(lmms_eval_environment.folder()), str(Path(mn.__file__).parents[1])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]),
        "HF_HOME": str(folder / "hub"),
    }
    command = [sys.executable, lmms_eval_run.__file__, str(tasks), str(plan), str(out)]
    subprocess.run(command, check=True, env=environment)
    return {(one[0], one[1], bool(one[2])): found for one, found in zip(PLAN, json.loads(out.read_text()), strict=True)}


def pictures():
    return [picture(i, 40 + 8 * i, 40) for i in range(len(QUESTIONS))]


@pytest.fixture(scope="module")
def tiny() -> mn.Model:
    return mn.load("tiny", dtype="float32")


def lesion(tiny: mn.Model, lesioned: bool):
    """The lesion of the plan on the plain module: every other dimension of a block's output is zero."""
    if not lesioned:
        return contextlib.nullcontext()
    kept = torch.ones(tiny.decoder.width)
    kept[list(lmms_eval_run.DIMENSIONS)] = 0
    return editing(tiny.module, {f"model.language_model.layers.{lmms_eval_run.LAYER}": lambda hidden: hidden * kept})


def inputs(tiny: mn.Model, index: int, continuation: str = "", *, text_only: bool = False):
    question = QUESTIONS[index].replace("<image>", "")
    if text_only:
        return tiny.tokenizer(question + continuation, return_tensors="pt")
    given = tiny.processor(text=["<image>" + question + continuation], images=[pictures()[index]], return_tensors="pt")
    return {name: value for name, value in given.items() if name != "token_type_ids"}


@torch.no_grad()
def plain_loss(tiny: mn.Model, index: int, continuation: str, *, text_only: bool = False) -> tuple[float, bool]:
    """Mean loss of a continuation, and whether all of its tokens are the likeliest, by log-softmax."""
    before = inputs(tiny, index, text_only=text_only)["input_ids"].shape[1]
    whole = inputs(tiny, index, continuation, text_only=text_only)
    ids = whole["input_ids"][0, before:]
    logprob = tiny.module(**whole).logits[0, before - 1 : -1].double().log_softmax(-1)
    return -float(logprob.gather(-1, ids[:, None]).mean()), bool((logprob.argmax(-1) == ids).all())


@pytest.mark.parametrize("lesioned", [False, True])
@pytest.mark.parametrize("task", ["choices", "texts"])
def test_choices_are_scored_by_the_loss_of_plain_transformers(tiny, evaluated, task, lesioned):
    found = evaluated[lesioned, task, False]
    right = []
    with lesion(tiny, lesioned):
        for index, row in enumerate(found["samples"]):
            choices = CHOICES[: 2 + index % 3]
            expected = [plain_loss(tiny, index, f" {choice}", text_only=task == "texts") for choice in choices]
            answers = [answer for one in row["resps"] for answer in one]
            np.testing.assert_allclose([answer[0] for answer in answers], [loss for loss, _ in expected], rtol=1e-5)
            assert [answer[1] for answer in answers] == [greedy for _, greedy in expected]
            right.append(int(np.argmin([loss for loss, _ in expected])) == index % 2)
    assert len(right) == len(QUESTIONS)
    assert found["results"]["acc,none"] == np.mean(right)


@pytest.mark.parametrize("lesioned", [False, True])
def test_a_likelihood_is_the_loss_of_the_target(tiny, evaluated, lesioned):
    found = evaluated[lesioned, "losses", False]
    with lesion(tiny, lesioned):
        expected = [plain_loss(tiny, i, " " + CHOICES[i % 2])[0] for i in range(len(QUESTIONS))]
    assert found["results"]["loss,none"] == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("lesioned", [False, True])
def test_texts_are_those_of_greedy_decoding_up_to_the_stop_string(tiny, evaluated, lesioned):
    found = evaluated[lesioned, "answers", False]
    expected = []
    with lesion(tiny, lesioned), torch.no_grad():
        for index in range(len(QUESTIONS)):
            given = inputs(tiny, index)
            ids = tiny.module.generate(**given, max_new_tokens=LENGTH, do_sample=False)[
                0, given["input_ids"].shape[1] :
            ]
            expected.append(tiny.tokenizer.decode(ids, skip_special_tokens=True).split(STOP)[0])
    written = [row["resps"][0][0] for row in found["samples"]]
    assert written == expected
    assert any(expected)


def test_a_lesion_changes_every_loss_and_is_named(evaluated):
    whole, lesioned = (evaluated[given, "choices", False] for given in (False, True))
    for before, after in zip(whole["samples"], lesioned["samples"], strict=True):
        for (one,), (other,) in zip(before["resps"], after["resps"], strict=True):
            assert abs(one[0] - other[0]) > 0.01
    assert whole["config"]["interventions"] == []
    assert lesioned["config"]["interventions"] == [str(lmms_eval_run.lesion())]
    assert lesioned["config"]["model"] == "tiny"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("clips", "Task clips gives a video with a document"),
        ("sounds", "Task sounds gives audio with a document"),
        ("drawn", "samples its answers"),
        ("rounds", "rounds generates in several rounds"),
        ("absent", "Unknown task 'absent'"),
    ],
)
def test_what_is_not_supported_is_refused(evaluated, task, message):
    assert message in evaluated[False, task, False]


def test_the_remedy_for_sampling_helps(evaluated):
    found = evaluated[False, "drawn", True]
    assert len(found["samples"]) == 1
