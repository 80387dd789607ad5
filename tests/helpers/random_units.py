"""Units drawn at random from a model, and the model families whose interventions are compared with plain hooks."""

from __future__ import annotations

import numpy as np

import modalnet as mn

NAMES = ["gpt2", "llama", "llava_clip", "llava_next", "qwen2_5_vl", "gemma3", "idefics3", "pixtral", "blip2"]
RNG_SEED = 5


def some_units(model, towers, share=0.2, seed=RNG_SEED):
    rng = np.random.default_rng(seed)
    return mn.Units(
        {
            name: rng.random(tower.shape) < share if name in towers else np.zeros(tower.shape, dtype=bool)
            for name, tower in model.towers.items()
        }
    )
