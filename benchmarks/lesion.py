"""What a lesion study costs, as ratios measured side by side in one run; see README.md beside this file.

K lesions of one model on minimal pairs: against K bare forward passes over the same batches with the logits that are
needed, and against the plain way, one text and one lesion at a time with hooks and all logits.
"""

from __future__ import annotations

import argparse
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch

import modalnet as mn
from localize import in_turns, machine, note, ratio_row, show, test_asset
from modalnet.execution.engine import Engine
from modalnet.tasks import minimal_pairs

LESIONS = 8


def lesions(model: mn.Model, first: int) -> list[mn.Units]:
    """The same number of units from block ``first`` on, a new draw each."""
    shape = model.decoder.shape
    allowed = np.zeros(shape, dtype=bool)
    allowed[first:] = True
    found = []
    for seed in range(LESIONS):
        rng = np.random.default_rng(seed)
        mask = np.zeros(shape, dtype=bool)
        # One unit in the first of the blocks, so that every lesion begins there.
        mask[first, rng.integers(shape[1])] = True
        mask.flat[rng.choice(np.flatnonzero(allowed), size=shape[0] * shape[1] // 100, replace=False)] = True
        found.append(mn.Units({name: mask if name == "decoder" else ~mask[:0] for name in model.towers}))
    return found


def recorded(model: mn.Model, requests: Any) -> list[tuple[dict[str, Any], Any]]:
    """The batches that the library itself makes of the requests, with the rows and tokens whose logits count."""
    batches = []
    run = Engine.run

    def recording(engine: Engine, inputs: dict[str, Any], plan: Any) -> Any:
        if plan.targets is not None:
            batches.append((inputs, plan))
        return run(engine, inputs, plan)

    with mock.patch.object(Engine, "run", recording):
        model._executor.likelihoods(requests)
    return batches


@torch.no_grad()
def bare(model: mn.Model, batches: list[tuple[dict[str, Any], Any]]) -> None:
    """Nothing but the forward pass, the head at the rows that count, and their log-probabilities."""
    module = model.module
    for inputs, plan in batches:
        hidden = module.base_model(**inputs, use_cache=False).last_hidden_state
        logits = module.get_output_embeddings()(hidden.reshape(-1, hidden.shape[-1])[plan.logit_rows])
        for part, wanted in zip(logits.split(64), plan.targets.split(64), strict=True):
            exact = part.float()
            _ = exact.gather(1, wanted[:, None])[:, 0] - exact.logsumexp(1)


@contextmanager
def hooked(model: mn.Model, units: mn.Units) -> Any:
    """The plain way to zero units."""

    def zero(dims: torch.Tensor) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[..., dims] = 0

        return hook

    handles = [
        model.module.get_submodule(path).register_forward_hook(zero(torch.from_numpy(np.flatnonzero(row))))
        for path, row in zip(model.decoder.paths, units.mask["decoder"], strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def plain(model: mn.Model, texts: list[str], sets: list[mn.Units]) -> list[list[float]]:
    """Log-probability of each text under each lesion: one text at a time, all logits."""
    found = []
    for units in sets:
        with hooked(model, units):
            row = []
            for text in texts:
                ids = model.tokenizer(text, return_tensors="pt")["input_ids"].to(model.module.device)
                logp = torch.log_softmax(model.module(input_ids=ids, use_cache=False).logits[0, :-1].float(), dim=-1)
                row.append(float(logp.gather(1, ids[0, 1:, None]).sum()))
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a language model; by default that of the real-data tests")
    parser.add_argument("--blimp", type=Path, help="a folder of BLiMP files; by default that of the real-data tests")
    parser.add_argument("--pairs", type=int, default=1, help="pairs of each paradigm")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", help="cpu or cuda; by default where modalnet puts a model")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.model is None or arguments.blimp is None:
        arguments.model = arguments.model or test_asset("model")
        arguments.blimp = arguments.blimp or test_asset("blimp")
    model = mn.load(str(arguments.model), device=arguments.device)
    requests = minimal_pairs(arguments.blimp, n=arguments.pairs).requests()
    batches = recorded(model, requests)
    depth = model.decoder.n_layers
    rows = []
    for where, first, goal in (("every block", 0, "<= 1.15"), ("the last third", 2 * depth // 3, None)):
        sets = lesions(model, first)
        edits = [[mn.zero(units)] for units in sets]
        note(f"{LESIONS} lesions in {where}, {len(requests)} sentences")
        calls = (
            lambda edits=edits: model._executor.likelihoods_under(requests, edits),
            lambda: [bare(model, batches) for _ in range(LESIONS)],
        )
        for call in calls:
            call()
        over, under = in_turns(*calls, arguments.repeats)
        rows.append(ratio_row(f"{LESIONS} lesions in {where} / as many bare forward passes", over, under, goal))
    few = requests[: max(8, len(requests) // 8)]
    texts = [one.continuation for one in few]
    sets = lesions(model, 0)[:2]
    edits = [[mn.zero(units)] for units in sets]
    ours = model._executor.likelihoods_under(few, edits)
    theirs = plain(model, texts, sets)
    note("the plain way")
    over, under = in_turns(
        lambda: plain(model, texts, sets), lambda: model._executor.likelihoods_under(few, edits), arguments.repeats
    )
    rows.append(ratio_row("the plain way, one text at a time / lesions", over, under, None))
    different = max(
        abs(one.logprob - other) for a, b in zip(ours, theirs, strict=True) for one, other in zip(a, b, strict=True)
    )
    report = {"machine": machine(arguments), "rows": rows}
    if arguments.json:
        print(json.dumps(report | {"largest difference of a log-probability": different}, indent=2))
        return
    show(report)
    print(f"\nlargest difference between a sentence's log-probability and the plain way's: {different:.1e} nats")


if __name__ == "__main__":
    main()
