"""A circuit of one neuron, written into the weights of the bundled model, for tests of what finds it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

import modalnet as mn

LAYER, NEURON = 5, 77
NOUNS = ("dog", "cat", "girl", "boy", "bird", "horse", "king", "teacher", "doctor", "queen", "nurse", "farmer")
MORE = ("lion", "monkey", "goat", "frog", "duck", "rabbit", "baker", "driver", "sailor", "actor", "pilot", "cook")
ANSWERS = (" sand", " honey")


class Planted(NamedTuple):
    """The model with the neuron, the model before, and pairs of stimuli whose last noun is plural or singular."""

    model: Any
    before: Any
    clean: list[str]
    corrupt: list[str]

    @property
    def metric(self) -> Any:
        """The logits that the neuron writes to."""
        return mn.patching.logit_difference(*ANSWERS)

    @property
    def contrast(self) -> mn.Contrast:
        """Plural against singular, pair by pair."""
        sides = {"plural": self.clean, "singular": self.corrupt}
        stimuli = [mn.Stimulus(t, condition=c, item=f"pair {n}") for c, own in sides.items() for n, t in enumerate(own)]
        return mn.Contrast(stimuli, "plural", "singular")

    @property
    def neuron(self) -> mn.Units:
        """The neuron as units."""
        space = self.model.spaces["decoder.neurons"]
        return mn.Units.from_indices({space.name: space.shape}, [(space.name, LAYER, NEURON)])


def texts(nouns: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Sentences that end with a noun, plural and singular; what comes before is the same."""
    others = nouns[1:] + nouns[:1]
    plural, singular = (
        [f"the {other} saw the {noun}{end}" for noun, other in zip(nouns, others, strict=True)] for end in ("s", "")
    )
    return plural, singular


@lru_cache
def planted() -> Planted:
    """Make the neuron: it fires on a plural noun, and writes along the difference of two answers."""
    before, model = mn.load("tiny"), mn.load("tiny")
    block = model._executor.module.model.language_model.layers[LAYER]
    entering = []
    # What enters the MLP at the last token of each sentence that the neuron is made from.
    handle = block.mlp.register_forward_pre_hook(lambda module, args: entering.append(args[0][0, -1].double()))
    plural, singular = texts(MORE)
    for text in (*plural, *singular):
        model.run([text], read=[], logits="last")
    handle.remove()
    x, fires = torch.stack(entering), torch.cat([torch.ones(len(plural)), -torch.ones(len(singular))]).double()
    # A gate of +-4, and a factor of 1, by ridge regression.
    gram = x @ x.T + 0.5 * torch.eye(len(x))
    gate, factor = (x.T @ torch.linalg.solve(gram, wanted) for wanted in (4 * fires, torch.ones(len(x)).double()))
    head = model._executor.module.get_output_embeddings().weight
    ids = [model.tokenizer.convert_tokens_to_ids(word.strip()) for word in ANSWERS]
    direction = (head[ids[0]] - head[ids[1]]).detach()
    with torch.no_grad():
        block.mlp.gate_proj.weight[NEURON] = gate.float()
        block.mlp.up_proj.weight[NEURON] = factor.float()
        block.mlp.down_proj.weight[:, NEURON] = 10 * direction / direction.norm()
    clean, corrupt = texts(NOUNS)
    return Planted(model, before, clean, corrupt)


def place(values: dict[str, np.ndarray]) -> tuple[str, int, int]:
    """The unit with the largest value: space, layer and index."""
    name = max(values, key=lambda one: np.nanmax(values[one]))
    layer, unit = np.unravel_index(np.nanargmax(values[name]), values[name].shape)
    return name, int(layer), int(unit)
