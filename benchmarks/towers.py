"""How long finding the towers takes in models of 7B size, built on the meta device; see README.md beside this file."""

from __future__ import annotations

import argparse
import time

import torch
import transformers as tr

from modalnet.models.towers import find_towers

#: Of about that size: a plain one, one with a packed vision tower, one with experts.
MODELS = {
    "LLaVA 1.5 7B": lambda: tr.LlavaForConditionalGeneration(tr.LlavaConfig()),
    "Qwen2.5-VL 7B": lambda: tr.Qwen2_5_VLForConditionalGeneration(
        tr.Qwen2_5_VLConfig(
            vision_config={"hidden_size": 1280, "out_hidden_size": 3584},
            text_config={
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
            },
        )
    ),
    "Qwen3-VL MoE, default config": lambda: tr.Qwen3VLMoeForConditionalGeneration(tr.Qwen3VLMoeConfig()),
}
GOAL = 0.2


def main() -> None:
    """Print the slowest and fastest of several calls for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    tr.logging.set_verbosity_error()
    for name, build in MODELS.items():
        with torch.device("meta"):
            model = build()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            towers = find_towers(model)
            seconds.append(time.perf_counter() - start)
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e9
        found = ", ".join(f"{tower.name} {tower.n_layers} x {tower.width}" for tower in towers.values())
        print(
            f"{name}: {size:.1f}B parameters, {sum(1 for _ in model.modules())} modules; {found}; "
            f"first call {seconds[0]:.3f} s, slowest of {repeats} {max(seconds):.3f} s (goal: at most {GOAL} s)"
        )


if __name__ == "__main__":
    main()
