"""A localization that several processes run on one store."""

from __future__ import annotations

import numpy as np

import modalnet as mn
from families import FAMILIES
from reference import TEXTS


def forty(store):
    """The job of the processes below: forty texts in five batches."""
    words = sorted({word for text in TEXTS for word in text.split()})
    rng = np.random.default_rng(0)
    stimuli = [mn.Stimulus(" ".join(rng.choice(words, size=8)), condition="ab"[i % 2]) for i in range(40)]
    family = FAMILIES["gpt2"]()
    model = mn.load(family.model, tokenizer=family.tokenizer)
    return mn.localize(model, mn.Contrast(stimuli, "a", "b"), batch_size=8, cache=store, progress=False)
