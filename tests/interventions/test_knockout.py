"""Attention knockout, held against an attention that is written out by hand in a copy of the same model."""

from __future__ import annotations

import copy
from dataclasses import replace
from unittest import mock

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import modalnet as mn
from families import build
from modalnet.execution import trace
from reference import close, encode, forward, image_tokens, load, stimuli_for

#: By the number of an attention module: which edges are left out ``[head, position, position]``, and what was seen.
REMOVED: dict[int, list] = {}


def by_hand(module, query, key, value, attention_mask, scaling=None, **_):  # noqa: PLR0917  # as they are called
    """Softmax attention with some edges left out; a module may be called for one part of its positions at a time."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    if id(module) in REMOVED:
        gone, start = REMOVED[id(module)]
        length = scores.shape[-1]
        for row in range(len(scores)):
            part = gone[:, start : start + length, start : start + length]
            scores[row] = scores[row].masked_fill(part, float("-inf"))
            start += length
        REMOVED[id(module)][1] = start
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("by_hand", by_hand)
AttentionMaskInterface.register("by_hand", eager_mask)


def forward_without(name, stimulus, paths, gone):
    """A plain forward pass of a copy of a model whose attentions at some paths leave out edges."""
    family = build(name)
    module = copy.deepcopy(family.model)
    module.set_attn_implementation("by_hand")
    try:
        for path in paths:
            REMOVED[id(module.get_submodule(path))] = [gone, 0]
        return forward(name, stimulus.text, stimulus.images(), family=replace(family, model=module))
    finally:
        REMOVED.clear()


def edges_of(name, tower, stimulus):
    """Paths of the attention modules of a tower, its number of heads, and how many positions a stimulus has there."""
    executor = load(name)._executor
    prepared = executor.prepare([stimulus])
    space = executor.edges_of(tower, prepared)
    total = executor.runner.layouts.spans(executor.encoder.collate([executor.encoder.encode(prepared[0])]), tower)[1]
    return space, total


def hold(name, tower, layers, ends, stimulus, heads):  # noqa: PLR0917  # one call
    """A run under a knockout gives what a copy gives in which these edges are left out."""
    (sources, targets), model = ends, load(name)
    space, n = edges_of(name, tower, stimulus)
    gone = torch.zeros(space.width, n, n, dtype=torch.bool)
    for head in range(space.width) if heads is None else heads:
        gone[head, torch.tensor(targets)[:, None], torch.tensor(sources)[None, :]] = True
    gone &= ~torch.eye(n, dtype=torch.bool)
    output, _, states = forward_without(name, stimulus, [space.paths[layer] for layer in layers], gone)
    knockout = mn.knockout(tower, layers, source=sources, target=targets, heads=heads)
    logits = "last" if hasattr(output, "logits") else None
    found = model.run([stimulus], knockout, tokens="all", logits=logits)
    plain = model.run([stimulus], tokens="all")
    for other, expected in states.items():
        close(found.activations[other][0], expected, atol=1e-5 * max(1.0, float(expected.abs().max())))
    layer = layers[0]
    assert (found.activations[tower][0][layer] - plain.activations[tower][0][layer]).abs().max() > 1e-3
    if logits:
        close(found.logits[0], output.logits[0, -1], atol=1e-5 * float(output.logits.abs().max()))


@pytest.mark.parametrize(
    ("name", "tower", "layers", "ends", "heads"),
    [
        ("llama", "decoder", [1, 2], ([0, 1, 2], [3, 4, 5]), None),
        ("llama", "decoder", [0], ([1], [2, 4]), [1]),
        ("gpt2", "decoder", [0, 3], ([2, 0], [-1]), None),
        ("opt", "decoder", [1], ([2], [4, 5]), [0, 2]),
        ("gemma3", "decoder", [0, 1, 5], ([3, 4, 5, 6], [5, 20, -1]), None),
        ("paligemma", "decoder", [1, 2], ([1, 2, 3], [0, 2, 12]), None),
        ("llava_clip", "decoder", [2], ([2, 3, 4, 5], [-1, -2]), [0]),
        ("llava_clip", "vision", [0, 1, 2], ([1, 2, 3], [0, 5, 6]), None),
        ("internvl", "vision", [1], ([1, 2, 3], [0, 5, 6]), [1]),
        ("qwen2_5_vl", "vision", [0, 1], ([1, 2, 3, 20], [0, 5, 6, 22]), None),
        ("qwen3_vl", "vision", [1, 2], ([4, 5], [1, 9]), [0]),
        ("blip2", "vision", [1], ([1, 2], [0, 3]), None),
        ("llava_next", "vision", [1], ([1, 2, 20], [0, 3, 25]), None),
        ("mllama", "decoder", [0, 2], ([1, 2], [3, -1]), None),
    ],
)
def test_it_is_an_attention_without_these_edges(name, tower, layers, ends, heads):
    (stimulus,) = stimuli_for(name, n=1)
    n = edges_of(name, tower, stimulus)[1]
    hold(name, tower, layers, (ends[0], [place % n for place in ends[1]]), stimulus, heads)


def test_groups_of_tokens_are_these_tokens():
    model, name = load("llava_clip"), "llava_clip"
    stimuli = [
        replace(one, text=text)
        for one, text in zip(stimuli_for(name, n=2), ["the old dog", "a cat sleeps"], strict=True)
    ]
    places = []
    for stimulus in stimuli:
        inputs = encode(build(name), stimulus.text, stimulus.images())
        ids = inputs["input_ids"][0].tolist()
        pieces = [build(name).tokenizer.decode([one]).replace(" ", "") for one in ids]
        wanted = stimulus.text.replace(" ", "")
        ends = [(a, b) for a in range(len(ids)) for b in range(a, len(ids) + 1) if "".join(pieces[a:b]) == wanted]
        places.append((image_tokens(name, inputs).nonzero().flatten().tolist(), list(range(*ends[0])), len(ids)))
    images, questions, lengths = zip(*places, strict=True)
    texts = [[place for place in range(n) if place not in image] for image, n in zip(images, lengths, strict=True)]

    def read(**ends):
        return model.run(stimuli, mn.knockout("decoder", 1, **ends), tokens="last").activations["decoder"]

    for named, indices in [
        ({"source": "image", "target": "question"}, {"source": list(images), "target": list(questions)}),
        ({"source": "image", "target": "text"}, {"source": list(images), "target": texts}),
        ({"source": "question", "target": "last"}, {"source": list(questions), "target": [-1]}),
        (
            {"source": mn.patching.tokens_of(model, stimuli, ["the old dog", "a cat sleeps"]), "target": "last"},
            {"source": list(questions), "target": -1},
        ),
    ]:
        close(read(**named), read(**indices), atol=0)
    for one, two in [("image", "text"), ("question", "last")]:
        assert (
            read(source=one, target=two) - model.run(stimuli, tokens="last").activations["decoder"]
        ).abs().max() > 1e-3


def test_a_region_is_the_tokens_whose_middle_is_in_it():
    model = load("llava_clip")
    (stimulus,) = stimuli_for("llava_clip", n=1)
    executor = model._executor
    ((width, height),) = stimulus.inspect().sizes
    for tower in ("vision", "decoder"):
        boxes = executor.image_places(stimulus, tower)
        upper = [place for place, box in enumerate(boxes) if box[1] + box[3] < 1.0]
        assert 0 < len(upper) < len(boxes)
        named = mn.knockout(tower, 0, source=mn.region(0, 0, width, height / 2), target=[-1])
        given = mn.knockout(tower, 0, source=upper, target=[-1])
        close(*(model.run([stimulus], one, tokens="all").activations[tower][0] for one in (named, given)), atol=0)
    with pytest.raises(mn.InputError, match=r"no image token of stimulus .* has its middle in the region"):
        model.run([stimulus], mn.knockout("decoder", 0, source=mn.region(0, 0, 1, 1), target="last"))


SCORED = " cat sleeps"


def logprob_without(name, text, paths, sources, *, targets_of, n_heads):
    """Log-probability of a continuation where edges from some tokens are left out, by hand."""
    family = build(name)
    ids = family.tokenizer([text + SCORED], return_tensors="pt")["input_ids"]
    prompt = len(family.tokenizer([text])["input_ids"][0])
    n = ids.shape[1]
    gone = torch.zeros(n_heads, n, n, dtype=torch.bool)
    gone[:, targets_of(prompt, n)[:, None], torch.tensor(sources)] = True
    gone &= ~torch.eye(n, dtype=torch.bool)
    module = copy.deepcopy(family.model)
    module.set_attn_implementation("by_hand")
    for path in paths:
        REMOVED[id(module.get_submodule(path))] = [gone, 0]
    with torch.no_grad():
        logits = module(input_ids=ids).logits[0]
    REMOVED.clear()
    found = logits[prompt - 1 : -1].log_softmax(-1).gather(1, ids[0, prompt:, None])
    return float(found.sum()), logits


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_scores_and_generated_text(name):
    """Tokens that are scored or generated are targets of "all" and "text", and none where places are named."""
    model, text = load(name, chat_template=False), "the old dog sleeps near a"
    space = edges_of(name, "decoder", mn.Stimulus(text))[0]
    paths = [space.paths[layer] for layer in (0, 2)]
    if name == "gemma3":
        text = "the old dog sleeps near a cat and the dog sees a bird"  # beyond its sliding window
    n = len(build(name).tokenizer([text])["input_ids"][0])
    sources = [1, 2, n - 2]
    (every, _), (last, _) = (
        logprob_without(name, text, paths, sources, targets_of=of, n_heads=space.width)
        for of in (lambda prompt, n: torch.arange(n), lambda prompt, n: torch.tensor([prompt - 1]))
    )
    scores = [
        model.score([text], [SCORED], mn.knockout("decoder", [0, 2], source=sources, target=target))
        for target in ("all", "last")
    ]
    found = [float(each.logprob[0][0]) for each in scores]
    assert found == pytest.approx([every, last], rel=1e-5)
    # Greedy, without a cache: each token anew from all of the text.
    family, steps = build(name), []
    ids = family.tokenizer([text], return_tensors="pt")["input_ids"]
    module = copy.deepcopy(family.model)
    module.set_attn_implementation("by_hand")
    for _ in range(6):
        n = ids.shape[1]
        gone = torch.zeros(space.width, n, n, dtype=torch.bool)
        gone[:, :, sources] = True
        gone &= ~torch.eye(n, dtype=torch.bool)
        for path in paths:
            REMOVED[id(module.get_submodule(path))] = [gone, 0]
        with torch.no_grad():
            steps.append(module(input_ids=ids).logits[0, -1])
        ids = torch.cat([ids, steps[-1].argmax().reshape(1, 1)], dim=1)
    REMOVED.clear()
    knockout = mn.knockout("decoder", [0, 2], source=sources, target="all")
    (made,) = model.generate([text], knockout, max_new_tokens=6, details=True)
    assert made.ids.tolist() == ids[0, -6:].tolist()
    close(made.logits, torch.stack(steps), atol=1e-5 * float(made.logits.abs().max()))


def test_it_composes():
    """With an edit of units, in a view, with another knockout in a layer, and under an attention of another kind."""
    model, stimuli = load("llama"), ["the old dog sleeps", "a cat"]
    one = mn.knockout("decoder", [1, 2], source=[0], target=[-1])
    two = mn.knockout("decoder", [2], source=[1], target=[-1], heads=[0])
    units = mn.Units.from_indices({"decoder": model.spaces["decoder"].shape}, [("decoder", 0, 3), ("decoder", 2, 5)])

    def read(view, *interventions):
        return view.run(stimuli, *interventions).activations["decoder"]

    together = read(model, one, two, mn.zero(units))
    close(read(model.with_(one, mn.zero(units)), two), together, atol=0)
    assert (together - read(model, one, mn.zero(units))).abs().max() > 1e-4
    assert (together[:, 2, 5] == 0).all()
    eager = copy.deepcopy(build("llama").model)
    eager.set_attn_implementation("eager")
    close(read(mn.load(eager, tokenizer=build("llama").tokenizer), one, two, mn.zero(units)), together, atol=1e-5)


def test_it_is_data():
    one = mn.knockout("decoder", range(1, 3), source="image", target=[-1], heads=2)
    assert str(one) == "knockout(decoder, layers 1, 2, heads 2: image tokens -> tokens [-1])"
    assert one == mn.knockout("decoder", [1, 2], source="image", target=-1, heads=[2])
    others = [
        mn.knockout("decoder", [1, 2], source="image", target=-1),
        mn.knockout("vision", [1, 2], source="image", target=-1, heads=2),
        mn.knockout("decoder", None, source="image", target=-1, heads=2),
        mn.knockout("decoder", [1, 2], source=mn.region(0, 0, 2, 2), target=-1, heads=2),
    ]
    assert len({each.digest for each in [one, *others]}) == 5
    assert len({one, *others}) == 5
    with pytest.raises(mn.InputError, match="its tokens are those that it was made with"):
        one.at("last")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "picture", "target": "last"}, "`source` must be 'last'"),
        ({"source": "image", "target": []}, "`target` must be 'last'"),
        ({"source": "image", "target": "last", "heads": []}, "`heads` is empty"),
        ({"source": "image", "target": "last", "heads": "all"}, "`heads` must be the number"),
        ({"source": "image", "target": "last", "heads": [-1]}, "`heads` must be a non-negative integer"),
        ({"source": "image", "target": "last", "layers": "first"}, "`layer` must be"),
    ],
)
def test_what_is_none_is_refused(options, message):
    with pytest.raises(mn.InputError, match=message):
        mn.knockout("decoder", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 9, "source": [0], "target": [2]}, r"layers 9.*0\.\.3"),
        (
            {"layers": 1, "source": [0], "target": [2], "heads": 7},
            r"there is no head 7 in these layers; heads are 0\.\.2",
        ),
        (
            {"layers": 1, "source": [3], "target": [0, 1]},
            "since attention is causal: all sources come after the targets",
        ),
        ({"layers": 1, "source": [2], "target": [2]}, "both ends are the same token, whose edge to itself stays"),
        ({"layers": 1, "source": [99], "target": "last"}, "selects token 99"),
        ({"layers": 1, "source": "image", "target": "last"}, "has no image tokens"),
        ({"layers": 1, "source": [[0], [1]], "target": "last"}, "there are 2 lists of tokens, but 1 stimuli run"),
        ({"layers": 1, "source": mn.region(0, 0, 5, 5), "target": "last"}, "a region is one of a picture"),
    ],
)
def test_what_cannot_be_removed_is_refused_before_any_pass(options, message, monkeypatch):
    model = load("llama")
    model.run(["a dog"], mn.knockout("decoder", 1, source=[0], target="last"))  # what is measured once is measured
    monkeypatch.setattr(trace, "forward", mock.Mock(side_effect=AssertionError("a pass ran")))
    with pytest.raises(mn.InputError, match=message):
        model.run(["the old dog sleeps"], mn.knockout("decoder", **options))


def test_a_tower_that_is_not_there_or_not_reached():
    with pytest.raises(mn.InputError, match="has no vision tower; its towers are decoder"):
        load("llama").run(["a dog"], mn.knockout("vision", 1, source=[0], target="last"))
    with pytest.raises(mn.InputError, match="which these stimuli do not reach"):
        load("llava_clip").run(["a dog"], mn.knockout("vision", 1, source=[0], target=[2]))


def test_an_attention_without_a_mask_of_pairs():
    """A kernel that hides its mask is refused by name, and how to load the model is said."""

    def flash(module, query, key, value, *_, **__):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2), None

    AttentionInterface.register("no_mask", flash)
    AttentionMaskInterface.register("no_mask", lambda *args, **kwargs: None)
    module = copy.deepcopy(build("gpt2").model)
    module.set_attn_implementation("no_mask")
    model = mn.load(module, tokenizer=build("gpt2").tokenizer)
    with pytest.raises(mn.InputError, match=r"block 1 .*does not heed a mask.*attn_implementation"):
        model.run(["the old dog sleeps"], mn.knockout("decoder", 1, source=[0], target="last"))
