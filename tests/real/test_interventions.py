"""What interventions do to trained models, held against plain transformers with hooks: Gemma 3 270M and DINOv2-S."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import transformers as tr
from PIL import Image

import assets
import modalnet as mn
from reference import close, watch

pytestmark = pytest.mark.real

TEXTS = ["The lawyer who the judges admire is", "The lawyers who the judge admires are", "Paris is the capital of"]


@pytest.fixture(scope="module")
def model():
    return mn.load(assets.gemma(), dtype="float32")


@pytest.fixture(scope="module")
def plain():
    return tr.AutoModelForCausalLM.from_pretrained(assets.gemma(), dtype=torch.float32).eval()


@contextmanager
def changed(block, change) -> Iterator[None]:
    """A block whose output is changed by a plain hook."""

    def hook(module, args, output):
        rows = output[0] if isinstance(output, tuple) else output
        made = change(rows.clone())
        return (made, *output[1:]) if isinstance(output, tuple) else made

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def logits_of(plain, model, text):
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return plain(ids).logits[0, -1]


def rows_of(plain, model, text, layer):
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return plain(ids, output_hidden_states=True).hidden_states[layer + 1][0]


def test_a_patch_from_a_lesioned_view_at_another_layer_and_token(model, plain):
    dims = np.random.default_rng(0).choice(640, 60, replace=False)
    units = mn.Units.from_indices({"decoder": (18, 640)}, [("decoder", 4, int(dim)) for dim in dims])
    source = model.with_(mn.zero(units)).on(TEXTS[1])
    patch = mn.patch(mn.site("decoder", 9), source, source_layer=7, source_at=[3]).at([-1])
    found = model.run(TEXTS[0], patch, read=[], logits="last").logits[0]

    def zero(rows):
        rows[..., torch.as_tensor(dims)] = 0
        return rows

    with changed(plain.model.layers[4], zero):
        row = rows_of(plain, model, TEXTS[1], 7)[3]

    def put(rows):
        rows[0, -1] = row
        return rows

    with changed(plain.model.layers[9], put):
        expected = logits_of(plain, model, TEXTS[0])
    close(found, expected)
    assert not torch.allclose(expected, logits_of(plain, model, TEXTS[0]), atol=1e-2)


def test_tokens_of_each_stimulus_and_a_subspace(model, plain):
    places = [[2], [3, 4], [-1]]
    axes = np.random.default_rng(1).normal(size=(5, 640)).astype(np.float32)
    projector = torch.from_numpy(axes.T @ np.linalg.solve(axes @ axes.T, axes)).float()
    lesion = mn.zero(mn.direction("decoder", [6, 11], axes)).at(places)
    found = model.run(TEXTS, lesion, read=[], logits="last").logits
    for logits, text, own in zip(found, TEXTS, places, strict=True):

        def without(rows, own=own):
            rows[0, own] -= rows[0, own] @ projector
            return rows

        with changed(plain.model.layers[6], without), changed(plain.model.layers[11], without):
            close(logits, logits_of(plain, model, text))


def test_means_of_last_tokens_for_last_tokens(model, plain):
    means = model.means(TEXTS, tokens="last")
    expected = torch.stack([rows_of(plain, model, text, 8)[-1] for text in TEXTS]).double().mean(0)
    np.testing.assert_allclose(means["decoder"][8], expected, rtol=1e-4, atol=1e-3)  # some units are in the thousands
    with pytest.raises(mn.InputError, match="taken over last tokens"):
        model.run(TEXTS, mn.mean(mn.site("decoder", 8), means))

    def put(rows):
        rows[0, -1] = expected.float()
        return rows

    found = model.run(TEXTS[0], mn.mean(mn.site("decoder", 8), means).at("last"), read=[], logits="last").logits[0]
    with changed(plain.model.layers[8], put):
        close(found, logits_of(plain, model, TEXTS[0]))


def test_steps_of_a_generation(model, plain):
    made = model.generate(TEXTS[2], max_new_tokens=4, details=True)
    ids = model.tokenizer(TEXTS[2], return_tensors="pt").input_ids
    options = {"do_sample": False, "top_p": None, "top_k": None, "return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        expected = plain.generate(ids, max_new_tokens=4, **options)
    assert made.ids.tolist() == expected.sequences[0, ids.shape[1] :].tolist()
    close(made.logits, torch.cat(expected.logits))


def test_hooks_of_a_user_and_the_default_tokens_of_a_vision_tower():
    model = mn.load(assets.dinov2(), dtype="float32")
    path = sorted(assets.data("floc").glob("adult*.jpg"))[0]
    plain = tr.AutoModel.from_pretrained(assets.dinov2(), dtype=torch.float32).eval()
    pixels = tr.AutoImageProcessor.from_pretrained(assets.dinov2())(
        Image.open(path).convert("RGB"), return_tensors="pt"
    )
    picture, blocks = mn.Stimulus(image=path), [f"encoder.layer.{layer}" for layer in range(12)]
    for factor in (1.0, 0.5):
        # Watched by hooks that come after: what transformers records of a block depends on which hook came first.
        hooked = changed(plain.encoder.layer[5], lambda rows, by=factor: rows * by)
        with hooked, watch(plain, blocks) as seen, torch.no_grad():
            plain(**pixels)
        with changed(model.module.encoder.layer[5], lambda rows, by=factor: rows * by):
            found = model.run(picture).activations["vision"][0]
        close(found, torch.stack([seen[block][0][0].mean(0) for block in blocks]))
