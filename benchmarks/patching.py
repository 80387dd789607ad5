"""What a patching sweep costs, as ratios measured side by side in one run; see README.md beside this file.

Every block and token of some pairs, patched one at a time: against as many bare forward passes, in batches as large;
against the plain way, one run and one hook per cell; and against TransformerLens' own sweep of the same cells. Then
information flow, window by window of layers and set of edges by set, against as many bare forward passes.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch

import modalnet as mn
from localize import in_turns, machine, note, ratio_row, show, test_asset
from modalnet.execution.batching import CPU_LIMITS, GPU_LIMITS


def sweep(model: mn.Model, pairs: Any) -> mn.Patching:
    return mn.activation_patching(
        model, pairs.clean, pairs.corrupt, pairs.logit_difference(), align="last", cache=False, progress=False
    )


@torch.no_grad()
def bare(model: mn.Model, pairs: Any, cells: list[int]) -> None:
    """As many forward passes of the corrupt stimuli as there are cells, the LM head at the last token alone."""
    module = model.module
    device = module.device
    most, tokens = CPU_LIMITS if device.type == "cpu" else GPU_LIMITS
    rows = [
        torch.tensor(model.tokenizer(stimulus.text)["input_ids"])
        for stimulus, count in zip(pairs.corrupt, cells, strict=True)
        for _ in range(count)
    ]
    rows.sort(key=len)
    size = max(1, min(most, tokens // max(map(len, rows))))
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        ids = torch.nn.utils.rnn.pad_sequence(some, batch_first=True).to(device)
        lengths = torch.tensor([len(one) for one in some], device=device)
        mask = torch.arange(ids.shape[1], device=device)[None] < lengths[:, None]
        hidden = module.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        module.get_output_embeddings()(hidden[torch.arange(len(some)), lengths - 1])


def flow(model: mn.Model, pairs: Any) -> mn.InformationFlow:
    """Nine windows of layers and three sets of edges, without random edges."""
    n_layers = model.decoder.n_layers
    edges = {
        "first to last": ([0], "last"),
        "question to last": ("question", "last"),
        "first to question": ([0], "question"),
    }
    options: dict[str, Any] = {"window": n_layers - 8 * (n_layers // 9), "stride": n_layers // 9, "edges": edges}
    return mn.information_flow(
        model, pairs.corrupt, pairs.logit_difference(), n_controls=0, cache=False, progress=False, **options
    )


@torch.no_grad()
def plain(model: mn.Model, pairs: Any, n: int) -> np.ndarray:
    """The last ``n`` tokens of one pair by hooks, one run per block and token, all logits."""
    module, blocks = model.module, [model.module.get_submodule(path) for path in model.decoder.paths]
    clean, corrupt = (
        model.tokenizer(side[0].text, return_tensors="pt").to(module.device) for side in (pairs.clean, pairs.corrupt)
    )
    kept: list[torch.Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).clone())

    handles = [block.register_forward_hook(keep) for block in blocks]
    module(**clean)
    for handle in handles:
        handle.remove()
    right, wrong = (
        model._executor.next_tokens(pairs.clean[0], text)[0] for text in (pairs.answers[0], pairs.distractors[0])
    )
    found = np.zeros((len(blocks), n))
    for layer, block in enumerate(blocks):
        for place in range(-n, 0):

            def patch(_module: Any, _args: Any, output: Any, layer: int = layer, place: int = place) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                hidden[0, place] = kept[layer][0, place]

            handle = block.register_forward_hook(patch)
            logits = module(**corrupt).logits[0, -1]
            handle.remove()
            found[layer, place] = float(logits[right] - logits[wrong])
    return found


def their_sweep(model: mn.Model, pairs: Any, folder: str) -> Any:
    """TransformerLens' sweep of one pair, ready to be called; gives ``[layer, token]``."""
    import transformers
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge

    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=model.module.dtype).to(model.module.device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(folder, hf_model=module, tokenizer=tokenizer)
    clean, corrupt = (
        torch.tensor([model.tokenizer(side[0].text)["input_ids"]], device=model.module.device)
        for side in (pairs.clean, pairs.corrupt)
    )
    right, wrong = (
        model._executor.next_tokens(pairs.clean[0], text)[0] for text in (pairs.answers[0], pairs.distractors[0])
    )

    @torch.no_grad()
    def run() -> torch.Tensor:
        _, cache = bridge.run_with_cache(clean)
        return patching.generic_activation_patch(
            bridge,
            corrupt,
            cache,
            lambda logits: logits[0, -1, right] - logits[0, -1, wrong],
            patching.layer_pos_patch_setter,
            "resid_post",
            index_axis_names=("layer", "pos"),
        )

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a language model; by default that of the real-data tests")
    parser.add_argument("--pairs", type=int, default=15, help="agreement pairs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", help="cpu or cuda; by default where modalnet puts a model")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.model = arguments.model or test_asset("model")
    model = mn.load(str(arguments.model), device=arguments.device)
    pairs = mn.patching.agreement_pairs(arguments.pairs)
    found = sweep(model, pairs)
    values = found.values["decoder"]
    cells = [int(np.isfinite(one).sum()) for one in values]
    note(f"{sum(cells)} cells of {len(pairs)} pairs")
    bare(model, pairs, cells)
    over, under = in_turns(lambda: sweep(model, pairs), lambda: bare(model, pairs, cells), arguments.repeats)
    rows = [ratio_row("sweep / as many bare forward passes, batched alike", over, under, "<= 0.60")]

    flowing = flow(model, pairs)
    cells = [flowing.values[..., place].size for place in range(len(pairs))]
    note(f"information flow: {len(flowing.windows)} windows x {len(flowing.names)} sets of edges x {len(pairs)} texts")
    over, under = in_turns(lambda: flow(model, pairs), lambda: bare(model, pairs, cells), arguments.repeats)
    rows.append(ratio_row("information flow / as many bare forward passes, batched alike", over, under, "<= 0.60"))

    one = pairs[:1]
    own = sweep(model, one).values["decoder"][0]
    hooked = plain(model, one, own.shape[1])
    note("the plain way, one pair")
    over, under = in_turns(
        lambda: plain(model, one, own.shape[1]), lambda: sweep(model, one), max(1, arguments.repeats - 1)
    )
    rows.append(ratio_row("the plain way, one run per cell / sweep", over, under, None))
    theirs = their_sweep(model, one, str(arguments.model))
    grid = theirs().cpu().numpy()
    note("TransformerLens, one pair")
    over, under = in_turns(theirs, lambda: sweep(model, one), max(1, arguments.repeats - 1))
    rows.append(ratio_row("TransformerLens' sweep / sweep", over, under, None))
    differences = {
        "the plain way": float(np.abs(own - hooked).max()),
        "TransformerLens": float(np.abs(own - grid).max()),
    }
    report = {"machine": machine(arguments), "rows": rows}
    if arguments.json:
        print(json.dumps(report | {"largest difference of a logit difference": differences}, indent=2))
        return
    show(report)
    for name, difference in differences.items():
        print(f"\nlargest difference between a cell and {name}: {difference:.1e}")


if __name__ == "__main__":
    main()
