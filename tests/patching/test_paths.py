"""Path patching against plain transformers: the sublayers between sender and receiver frozen by hooks."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build, picture
from modalnet.errors import InputError
from modalnet.patching import kl_divergence
from reference import encode, load, paths

OPTIONS = {"cache": False, "progress": False}
TEXTS = ("Is there a face, a house or a car?", "Is there a car, a house or a face?")
LLAMA = {"attention": "self_attn", "mlp": "mlp", "heads": "self_attn.o_proj", "neurons": "mlp.down_proj"}
#: Modules whose output is added to the stream, and those whose input are heads and neurons.
MODULES = {
    "llama": LLAMA,
    "llava_clip": LLAMA,
    "gpt2": {"attention": "attn", "mlp": "mlp", "heads": "attn.c_proj", "neurons": "mlp.c_proj"},
    "gemma3": LLAMA | {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"},
}
INWARD = ("heads", "neurons", "pre")
STEP = {"pre": 0, "heads": 1, "attention": 1, "neurons": 3, "mlp": 3, "out": 4}


def difference(logits, pairs=None):
    return logits[:, 5] - logits[:, 9]


class Hooked:
    """One family, run with hooks on the places of its decoder blocks: (kind, layer) → what is there, ``[token, dim]``."""

    def __init__(self, name, images=(None, None)):
        self.family = build(name)
        self.inputs = [
            encode(self.family, text, [] if image is None else [image])
            for text, image in zip(TEXTS, images, strict=True)
        ]
        blocks = [self.family.model.get_submodule(path) for path in paths(name, "decoder")]
        self.n = len(blocks)
        self.modules = {
            (kind, layer): block.get_submodule(path)
            for layer, block in enumerate(blocks)
            for kind, path in (MODULES[name] | {"pre": "", "out": ""}).items()
        }

    def run(self, side, edits=()):
        """The measure, and what is at every place; ``edits`` maps places to functions of what is there."""
        edits, seen = dict(edits), {}

        def changed(place, value):
            if place in edits:
                value = edits[place](value[0].clone())[None]
            seen[place] = value[0].detach().clone()
            return value

        def before(place):
            def hook(module, args, kwargs):
                if args:
                    return (changed(place, args[0]), *args[1:]), kwargs
                return args, kwargs | {"hidden_states": changed(place, kwargs["hidden_states"])}

            return hook

        def after(place):
            def hook(module, args, output):
                if isinstance(output, tuple):
                    return (changed(place, output[0]), *output[1:])
                return changed(place, output)

            return hook

        with contextlib.ExitStack() as stack, torch.no_grad():
            for place, module in self.modules.items():
                if place[0] in INWARD:
                    handle = module.register_forward_pre_hook(before(place), with_kwargs=True)
                else:
                    handle = module.register_forward_hook(after(place))
                stack.callback(handle.remove)
            logits = self.family.model(**self.inputs[side]).logits
        return float(difference(logits[:, -1])[0]), seen

    def path(self, sender, receiver, *, units=slice(None), got=slice(None), tokens=slice(None), base=1):
        """The measure with what ``sender`` sends to ``receiver``; None for the logits."""
        _, frozen = self.run(base)
        _, source = self.run(1 - base)
        end = (self.n, 0) if receiver is None else (receiver[1], STEP[receiver[0]])

        def patch(value):
            value[tokens, units] = source[sender][tokens, units]
            return value

        def held(place):
            return lambda value: frozen[place].clone()

        edits = {}
        for kind in ("attention", "mlp"):
            for layer in range(self.n):
                if (sender[1], STEP[sender[0]]) < (layer, STEP[kind]) < end:
                    edits[kind, layer] = held((kind, layer))
        value, seen = self.run(base, edits | {sender: patch})
        if receiver is None:
            return value

        def deliver(value):
            value[:, got] = seen[receiver][:, got]
            return value

        return self.run(base, {receiver: deliver})[0]


def part(space, unit):
    return slice(unit * space.size, (unit + 1) * space.size)


def unit(model, name, layer, index):
    return mn.Units.from_indices({name: model.spaces[name].shape}, [(name, layer, index)])


def patched(model, sender, receiver, texts=TEXTS, **options):
    return mn.activation_patching(model, *texts, difference, sender=sender, receiver=receiver, **(OPTIONS | options))


def joint(model, sender, receiver, **options):
    return patched(model, sender, receiver, **options).networks["sender"].joint[0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "llava_clip"])
def test_direct_effects_are_those_of_frozen_sublayers(name):
    images = [picture(0, 64, 64)] * 2 if name == "llava_clip" else [None, None]
    model, truth = load(name), Hooked(name, images)
    texts = [mn.Stimulus(text, image=image) if image else text for text, image in zip(TEXTS, images, strict=True)]
    heads, neurons = model.spaces["decoder.heads"], model.spaces["decoder.neurons"]

    def one(sender, receiver, **options):
        return joint(model, sender, receiver, texts=texts, align="role", **options)

    def near(value, expected):
        assert value == pytest.approx(expected, rel=1e-5, abs=2e-5)

    head, later = unit(model, "decoder.heads", 0, 1), unit(model, "decoder.heads", 2, 0)
    near(
        one(head, later),
        truth.path(("heads", 0), ("heads", 2), units=part(heads, 1), got=part(heads, 0)),
    )
    near(one(head, later, direction="noise"), truth.path(("heads", 0), ("heads", 2), units=part(heads, 1), got=part(heads, 0), base=0))
    near(one(head, mn.site("decoder.mlp", 0)), truth.path(("heads", 0), ("mlp", 0), units=part(heads, 1)))
    near(one(head, mn.site("decoder.neurons", 2)), truth.path(("heads", 0), ("neurons", 2), units=part(heads, 1)))
    neuron = unit(model, "decoder.neurons", 0, 7)
    assert heads.size and neurons.size == 1
    near(one(neuron, mn.site("decoder.attention", 2)), truth.path(("neurons", 0), ("attention", 2), units=[7]))
    near(one(head, "logits"), truth.path(("heads", 0), None, units=part(heads, 1)))
    for layer in (0, 1):
        found = patched(model, mn.site("decoder.mlp", layer), "logits", texts=texts, align="role")
        near(found.values["decoder.mlp"][0, 0, 0], truth.path(("mlp", layer), None))
    found = patched(model, mn.site("decoder.attention", 1), mn.site("decoder.mlp", 1), texts=texts, align="role", tokens=["last", -3])
    for column, token in enumerate([-1, -3]):
        near(found.values["decoder.attention"][0, 0, column], truth.path(("attention", 1), ("mlp", 1), tokens=[token]))
