"""Several threads on one model: each gets what it would get alone."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build
from random_units import some_units
from reference import TEXTS, load, stimuli_for


def together(*jobs: Callable[[], Any], repeats: int = 3) -> list[list[Any]]:
    """Run jobs at the same time, each on a thread of its own."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> list[Any]:
        barrier.wait(timeout=60)
        return [job() for _ in range(repeats)]

    # Threads alternate as often as they can, so that what they must not share meets.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(jobs)) as pool:
            return [future.result(timeout=300) for future in [pool.submit(run, job) for job in jobs]]
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("name", ["llama", "llava_clip"])
def test_runs_scores_and_generations_at_once(name: str) -> None:
    alone = load(name)
    given = stimuli_for(name, n=5)
    units = some_units(alone, ["decoder"])

    def jobs(model: mn.Model) -> list[Callable[[], Any]]:
        return [
            lambda: model.run(given, logits="last", batch_size=2).logits,
            lambda: model.run(given, mn.zero(units), logits="last", batch_size=2).logits,
            lambda: torch.from_numpy(np.concatenate(model.score(given, [[" a", " b c"]] * 5).logprob)),
            lambda: model.generate(given[0], mn.zero(units), max_new_tokens=3),
            lambda: model.run(given, read=["decoder"], tokens="mean").activations["decoder"],
            lambda: model.run(given[:2], mn.resample(units, given, seed=1), logits="last", batch_size=1).logits,
        ]

    expected = [job() for job in jobs(alone)]
    for model in (alone, load(name)):  # one that ran before, and one whose first passes meet
        for results, wanted in zip(together(*jobs(model)), expected, strict=True):
            for result in results:
                if isinstance(wanted, str):
                    assert result == wanted
                else:
                    torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-5)


def test_localizations_and_two_models_of_one_module_at_once() -> None:
    model = load("llava_clip")
    part = mn.load(model.module.model.language_model, tokenizer=model.tokenizer)
    twin = mn.load(model.module, processor=model.processor, chat_template=False)
    words = [f"{a} {b}" for a in TEXTS for b in TEXTS]
    contrast = mn.Contrast([mn.Stimulus(w, condition="ab"[i % 2]) for i, w in enumerate(words)], "a", "b")
    options: dict[str, Any] = {"cache": False, "progress": False, "batch_size": 2, "protocol": "alkhamissi2025"}
    expected = mn.localize(model, contrast, **options).t["decoder"]
    hidden = part.run(words, tokens="mean").activations["decoder"]
    for results in together(
        lambda: mn.localize(model, contrast, **options).t["decoder"],
        lambda: mn.localize(model, contrast, **options).t["decoder"],
        lambda: mn.localize(twin, contrast, **options).t["decoder"],
    ):
        for result in results:
            np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)
    for result in together(lambda: part.run(words, tokens="mean").activations["decoder"], lambda: model.run(words))[0]:
        torch.testing.assert_close(result, hidden, atol=1e-5, rtol=1e-5)


def test_a_stream_that_is_not_finished_holds_nothing_up() -> None:
    """A thread that consumes results batch by batch leaves the model to others, and to itself, in between."""
    model = load("llama")
    executor = model._executor
    given = stimuli_for("llama", n=3)
    expected = model.run(given, tokens="last").activations["decoder"]
    stream = executor.stream(executor.prepare(given), ["decoder"], {"decoder": "last"}, batch_size=1)
    first = next(stream)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: model.run(given, tokens="last").activations["decoder"]).result(timeout=60)
    torch.testing.assert_close(other, expected)
    torch.testing.assert_close(model.run(given, tokens="last").activations["decoder"], expected)
    found = {
        index: value
        for result in (first, *stream)
        for index, value in zip(result.indices, result.activations["decoder"], strict=True)
    }
    torch.testing.assert_close(torch.stack([found[i] for i in range(3)]), expected)


def test_processors_that_pad_take_turns_with_plain_texts() -> None:
    """A fast tokenizer cannot be set to pad while another thread reads with it."""
    family = build("llava_clip")
    model = load("llava_clip")
    encoder = model._executor.encoder
    family_texts = [mn.Stimulus(text) for text in TEXTS]
    expected = [item.ids for item in encoder.prepare(family_texts)]

    def pads() -> list[Any]:
        family.tokenizer(list(TEXTS), padding="max_length", max_length=64)
        return [item.ids for item in encoder.prepare(family_texts, max_tokens=40)]

    for results in together(lambda: [item.ids for item in encoder.prepare(family_texts)], pads, repeats=20):
        assert all(result == expected for result in results)


def test_a_module_that_is_trained_is_evaluated_until_the_last_thread_is_done() -> None:
    family = build("llama")
    model = mn.load(copy.deepcopy(family.model), tokenizer=family.tokenizer)
    given = stimuli_for("llama", n=5)
    expected = model.run(given, tokens="last").activations["decoder"]
    for block in model.module.model.layers:
        block.mlp.act_fn = torch.nn.Sequential(block.mlp.act_fn, torch.nn.Dropout(0.5))
    model.module.train()

    def run() -> torch.Tensor:
        return model.run(given, tokens="last", batch_size=1).activations["decoder"]

    for results in together(run, run, run):
        for result in results:
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert all(each.training for each in model.module.modules())
