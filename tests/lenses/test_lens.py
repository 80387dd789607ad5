"""The logit lens against plain transformers: blocks' outputs, the final norm and the head, written out."""

from __future__ import annotations

from functools import cache

import nnsight
import numpy as np
import pytest
import torch
import transformers as tr

import modalnet as mn
from families import build, make_tokenizer, picture, text_sizes
from modalnet.errors import InputError, ModalnetError
from modalnet.execution.backends.local import LocalBackend
from modalnet.execution.engine import Engine
from reference import BLOCKS, close, editing, forward, image_tokens, load, stimuli_for

QUIET = {"cache": False, "progress": False}
TEXT = "What is in the house?"


def by_hand(module, hidden, cap=None):
    """Log-probabilities from vectors of the stream: the final norm, the head, the cap of logits."""
    norm = module.get_submodule(
        {"gpt2": "transformer.ln_f", "llama": "model.norm", "gemma2": "model.norm"}.get(
            module.config.model_type, "model.language_model.norm"
        )
    )
    with torch.no_grad():
        logits = module.get_output_embeddings()(norm(hidden))
        if cap:
            logits = cap * torch.tanh(logits / cap)
        return logits.log_softmax(-1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "llava_clip", "gemma3", "qwen2_5_vl"])
def test_every_layer_is_the_norm_and_head_of_its_stream(name):
    text_only = name in ("llama", "gpt2")
    images = [] if text_only else [picture(0, 64, 48)]
    output, inputs, states = forward(name, TEXT, images)
    stimulus = mn.Stimulus(TEXT, image=images or None)
    model = load(name)
    result = mn.lens(model, [stimulus, *stimuli_for(name, n=2)], tokens="all", k=4, **QUIET)
    (own,) = [result.places(0)]
    expected = by_hand(build(name).model, states["decoder"])
    values, ids = expected.topk(4, dim=-1)
    assert np.array_equal(result.ids[0][:, own], ids.numpy())
    close(result.probabilities[0][:, own], values.exp(), atol=1e-5)
    last = output.logits[0].log_softmax(-1)
    close(result.divergence[0][:, own], (last.exp() * (last - expected)).sum(-1), atol=1e-4)
    # At the last layer it is the model's own distribution.
    assert np.array_equal(result.ids[0, -1, own], last.topk(4).indices.numpy())
    close(result.probabilities[0, -1, own], last.topk(4).values.exp(), atol=1e-5)
    if not text_only:
        where = image_tokens(name, inputs)
        some = mn.lens(model, stimulus, layers=[-1, 1], k=2, **QUIET)
        assert some.layers == (1, model.decoder.n_layers - 1)
        assert some.position.tolist() == where.nonzero().flatten().tolist()
        close(some.probabilities[0], expected[list(some.layers)][:, where].topk(2).values.exp(), atol=1e-5)


@cache
def gemma2():
    """Final logits are capped, and embeddings scaled."""
    tokenizer = make_tokenizer(add_bos=True)
    sizes = text_sizes(tokenizer, width=40, depth=3, heads=2)
    torch.manual_seed(0)
    config = tr.Gemma2Config(**sizes, head_dim=16, query_pre_attn_scalar=16, final_logit_softcapping=2.0)
    model = tr.Gemma2ForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data.normal_(0, 0.3)
    return model, tokenizer


def test_capped_logits():
    module, tokenizer = gemma2()
    with torch.no_grad():
        own = module(**tokenizer(TEXT, return_tensors="pt"), output_hidden_states=True)
    result = mn.lens(mn.load(module, tokenizer=tokenizer), TEXT, tokens="all", k=3, **QUIET)
    expected = by_hand(module, torch.cat(own.hidden_states[1:-1]), cap=2.0)
    close(result.probabilities[0, :-1], expected.topk(3).values.exp(), atol=1e-5)
    close(result.probabilities[0, -1], own.logits[0].log_softmax(-1).topk(3).values.exp(), atol=1e-5)


def test_a_model_whose_logits_take_more_than_the_last_block_is_refused():
    """Logits that depend on the tokens before them cannot be read off one vector of the stream."""

    class Mixing(tr.LlamaForCausalLM):
        def forward(self, *args, **options):
            output = super().forward(*args, **options)
            output.logits = output.logits + output.logits.roll(1, dims=1)
            return output

    family = build("llama")
    torch.manual_seed(0)
    model = mn.load(Mixing(family.model.config).eval(), tokenizer=family.tokenizer)
    for weight in model.module.parameters():
        weight.data.normal_(0, 0.3)
    with pytest.raises(ModalnetError, match="puts out at a token does not give the logits there"):
        mn.lens(model, TEXT, tokens="last", **QUIET)


def test_under_interventions():
    """A lesion acts on the run, and the model's own distribution is that of the lesioned run."""
    model = load("llama")
    units = mn.Units.from_indices({"decoder": (4, 48)}, [("decoder", 1, unit) for unit in range(0, 48, 2)])
    path = BLOCKS["llama"]["decoder"][0]

    def zero(flat):
        flat[:, ::2] = 0
        return flat

    with editing(build("llama").model, {f"{path}.1": zero}):
        output, _, states = forward("llama", TEXT)
    expected = by_hand(build("llama").model, states["decoder"])
    result = mn.lens(model, TEXT, mn.zero(units), tokens="all", k=3, **QUIET)
    # The recorded output of block 1 is from before the edit.
    kept = [0, 2, 3]
    close(result.probabilities[0, kept], expected[kept].topk(3).values.exp(), atol=1e-5)
    close(result.probabilities[0, -1], output.logits[0].log_softmax(-1).topk(3).values.exp(), atol=1e-5)
    view = mn.lens(model.with_(mn.zero(units)), TEXT, tokens="all", k=3, **QUIET)
    np.testing.assert_array_equal(view.ids, result.ids)
    assert result.interventions
    whole = mn.lens(model, TEXT, tokens="all", k=3, **QUIET)
    assert np.abs(whole.probabilities - result.probabilities).max() > 1e-3


def test_words_have_probability_and_rank():
    model = load("llama")
    _, _, states = forward("llama", TEXT)
    expected = by_hand(build("llama").model, states["decoder"])
    token = model.tokenizer(" the", add_special_tokens=False)["input_ids"][0]
    result = mn.lens(model, TEXT, tokens="all", words=[" the", 7], k=3, **QUIET)
    assert result.words[" the"] == token
    close(result.probability(" the"), expected[..., token].exp(), atol=1e-6)
    table = result.rank(" the")
    ranks = (expected > expected[..., token, None]).sum(-1) + 1
    assert table["rank"].tolist() == ranks.flatten().tolist()
    assert {"stimulus", "tower", "layer", "position", "rank", "probability"} <= set(table.columns)
    assert len(result.table()) == result.ids.size
    first = result.table().query("layer == 2 and position == 3 and rank == 1").iloc[0]
    assert first["token"] == result.top_tokens[0, 2, 3, 0]
    # A word that was not asked for is answered where it is among the likeliest everywhere, and refused elsewhere.
    every = mn.lens(model, TEXT, tokens="last", k=len(model.tokenizer), **QUIET)
    close(every.probability(" the")[:, 0], expected[:, -1, token].exp(), atol=1e-6)
    assert every.rank(" the")["rank"].tolist() == ranks[:, -1].tolist()
    with pytest.raises(InputError, match=r"' dog' was not kept.*words=\[' dog'\]"):
        result.probability(" dog")


@pytest.mark.parametrize(
    ("stimuli", "options", "message"),
    [
        (TEXT, {}, "has no image tokens in the decoder tower"),
        ([mn.Stimulus(TEXT, image=picture(0, 40, 40)), mn.Stimulus(TEXT, id="b")], {}, "b has no image tokens"),
        (TEXT, {"tokens": [99]}, "selects token 99"),
        (TEXT, {"tokens": "images"}, "`tokens` must be"),
        (TEXT, {"tokens": "mean"}, "a lens reads each token by itself"),
        ([TEXT], {"tokens": [[0], [1]]}, "2 choices, but there are 1 stimuli"),
        (TEXT, {"tokens": "last", "tower": "vision"}, r"'decoder', whose stream \(width 48\).*'vision' \(width 32\)"),
        (TEXT, {"tokens": "last", "tower": "audio"}, "`tower` must be a tower of .*vision, decoder.*'audio'"),
        (TEXT, {"tokens": "last", "layers": [4]}, "Layer 4 does not exist"),
        (TEXT, {"tokens": "last", "layers": []}, "`layers` must be at least one"),
        (TEXT, {"tokens": "last", "k": 0}, "`k` must be an integer from 1 to"),
        (TEXT, {"tokens": "last", "k": 10**6}, "`k` must be an integer from 1 to"),
        (TEXT, {"tokens": "last", "words": ["blicket blicket"]}, r"'blicket blicket' is \d+ tokens: .*first token"),
        (TEXT, {"tokens": "last", "words": [""]}, "`words` must be a text of one token"),
        (TEXT, {"tokens": "last", "words": [1.5]}, "`words` must be a text of one token"),
        (TEXT, {"tokens": "last", "words": [10**6]}, "`words` must be tokens from 0 to"),
        (TEXT, {"tokens": "last", "fit": ["one"]}, "`fit` must have at least two stimuli"),
        (TEXT, {"tokens": "last", "fit": 3}, "`fit` must be a Stimulus"),
        ([], {"tokens": "last"}, "`stimuli`"),
    ],
)
def test_bad_input_is_refused_before_any_pass(stimuli, options, message, monkeypatch):
    model = load("llava_clip")
    monkeypatch.setattr(LocalBackend, "run", lambda *_: pytest.fail("a forward pass ran"))
    with pytest.raises(InputError, match=message):
        mn.lens(model, stimuli, **QUIET | options)


def test_a_model_without_a_head():
    with pytest.raises(InputError, match="has no LM head"):
        mn.lens(load("clip"), "a dog", tokens="last", **QUIET)


def test_tokens_that_read_the_same_are_told_apart():
    model = load("llama")
    (token,) = model.tokenizer("a", add_special_tokens=False)["input_ids"]
    other = mn.lens(model, TEXT, tokens="last", words=["a", token, " the"], **QUIET)
    assert list(other.words) == ["a", " the"]
    assert other.word_probabilities.shape[-1] == 2


def test_words_that_the_vocabulary_spells_in_letters():
    model = mn.load("tiny")
    with pytest.raises(InputError, match=r"'turquoise' is \d+ tokens"):
        mn.lens(model, "the dogs", tokens="last", words="turquoise", **QUIET)


def test_a_job_on_a_server_gives_the_same():
    here, there = mn.load("tiny"), mn.load("tiny", remote="local")
    options = {"tokens": [0, -1], "words": ["red"], "layers": [0, 3, 7], **QUIET}
    one, other = (mn.lens(model, ["what colour", "the dogs near"], **options) for model in (here, there))
    close(one.probabilities, torch.from_numpy(other.probabilities), atol=1e-4)
    close(one.probability("red"), torch.from_numpy(other.probability("red")), atol=1e-5)
    np.testing.assert_array_equal(one.word_ranks, other.word_ranks)


def test_edits_of_the_users_own_hold():
    """Blocks that carry an edit are not skipped: it would wait for them."""
    family = build("llava_clip")
    envoy = nnsight.NNsight(family.model)
    with envoy.edit(inplace=True):
        block = envoy.model.language_model.layers[1]
        block.output = block.output * 0.5
    try:
        model = mn.load(envoy, tokenizer=family.tokenizer, processor=family.processor)
        own = model.run(TEXT, logits="all").logits[0].softmax(-1).topk(3)
        result = mn.lens(model, TEXT, tokens="all", k=3, **QUIET)
    finally:
        envoy.clear_edits()
    close(result.probabilities[0, -1], own.values, atol=1e-6)
    plain = mn.lens(load("llava_clip"), TEXT, tokens="all", k=3, **QUIET)
    assert np.abs(plain.probabilities - result.probabilities).max() > 1e-3


def test_half_precision():
    model = mn.load("tiny", dtype="bfloat16")
    stimulus = mn.patching.colour_pairs(1, size=64).clean[0]
    own = model.run(stimulus, logits="last").logits[0].softmax(-1)
    result = mn.lens(model, stimulus, tokens="last", words="red", **QUIET)
    (token,) = result.words.values()
    assert result.probability("red")[-1, 0] == pytest.approx(float(own[token]), abs=0.02)


def test_passes_in_parts_give_the_same(monkeypatch):
    model = load("llava_clip")
    given = stimuli_for("llava_clip", n=3)
    whole = mn.lens(model, given, **QUIET)
    monkeypatch.setattr("modalnet.execution.unembedding.MOST_ROWS", 7)
    parts = mn.lens(model, given, batch_size=1, **QUIET)
    np.testing.assert_allclose(whole.probabilities, parts.probabilities, atol=1e-5)
    np.testing.assert_array_equal(whole.at, parts.at)


def test_it_is_stored_and_loaded(tmp_path):
    model = load("llava_clip")
    given = stimuli_for("llava_clip", n=4)
    options = {"words": [" dog"], "fit": given[2:], "progress": False, "cache": tmp_path}
    first = mn.lens(model, given[:2], **options)
    calls = Engine.run
    try:
        Engine.run = lambda *_: pytest.fail("a forward pass ran")
        again = mn.lens(model, given[:2], **options)
    finally:
        Engine.run = calls
    first.save(tmp_path / "lens.safetensors")
    for other in (again, mn.Lens.load(tmp_path / "lens.safetensors")):
        assert other.table().equals(first.table())
        assert other.fit == first.fit
        assert other.summary() == first.summary()
        np.testing.assert_array_equal(other.boxes, first.boxes)
        np.testing.assert_array_equal(other.probability(" dog"), first.probability(" dog"))
    assert first.to_xarray()["probability"].dims == ("lens", "layer", "place", "rank")
    assert "tuned" in repr(first)
    assert "2303.08112" in first.cite()


def test_figures():
    model = load("llava_clip")
    given = stimuli_for("llava_clip", n=3)
    result = mn.lens(model, given, words=[" dog"], **QUIET)
    grid = result.plot(stimulus=1)
    own = result.places(1)
    assert len(grid.texts) == result.ids.shape[1] * min(len(own), 16)
    assert result.plot(word=" dog", positions=[int(result.position[own[0]])], stimulus=1) is not None
    axes = result.plot(on="picture", stimulus=1)
    assert len(axes) == len(result.layers)
    assert len(axes[0].patches) == len(own)
    assert len(result.plot(on="picture", word=" dog", layers=2)) == 1
    for options, message in [
        ({"on": "side"}, "`on` must be one of 'grid', 'picture'"),
        ({"stimulus": 5}, "`stimulus` must be an integer from 0 to 2"),
        ({"positions": [10**4]}, "`positions` must be among those"),
        ({"lens": "tuned"}, "`lens` must be one of 'plain'"),
        ({"on": "picture", "layers": [9]}, "`layers` must be among those"),
        ({"on": "picture", "word": " cat"}, "was not kept"),
    ]:
        with pytest.raises(InputError, match=message):
            result.plot(**options)
    words = mn.lens(model, "a dog", tokens="last", **QUIET)
    with pytest.raises(InputError, match="has a known position in an image"):
        words.plot(on="picture")


def test_hooks_of_the_users_own_hold():
    """A hook on the last block acts once on each run, and not on what a lens puts in its place."""
    family = build("llava_clip")
    model = load("llava_clip")
    plain = mn.lens(model, TEXT, tokens="all", k=3, **QUIET)
    block = family.model.get_submodule(f"{BLOCKS['llava_clip']['decoder'][0]}.3")
    handle = block.register_forward_hook(lambda module, args, output: output * 2 + 0.1)
    try:
        own = model.run(TEXT, logits="all").logits[0].softmax(-1).topk(3)
        result = mn.lens(model, TEXT, tokens="all", k=3, **QUIET)
    finally:
        handle.remove()
    close(result.probabilities[0, -1], own.values, atol=1e-5)
    close(result.probabilities[0, :-1], torch.from_numpy(plain.probabilities[0, :-1]), atol=1e-5)
    again = mn.lens(model, TEXT, tokens="all", k=3, **QUIET)
    np.testing.assert_allclose(again.probabilities, plain.probabilities, atol=1e-6)


def test_an_encoder_with_a_head():
    """A masked language model predicts the token that is there, by a head with layers of its own."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = tr.BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=2)
    module = tr.BertForMaskedLM(config).eval()
    model = mn.load(module, tokenizer=tokenizer)
    with torch.no_grad():
        own = module(**tokenizer(TEXT, return_tensors="pt"), output_hidden_states=True)
        expected = torch.stack([module.cls(state[0]) for state in own.hidden_states[1:]]).softmax(-1)
    result = mn.lens(model, TEXT, tokens="all", k=3, **QUIET)
    assert result.tower == "encoder"
    close(result.probabilities[0], expected.topk(3).values, atol=1e-5)
