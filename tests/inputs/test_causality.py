"""The direction of attention, measured where classes do not declare it: it decides default tokens and scoring."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers as tr

import modalnet as mn
from families import finish, make_tokenizer
from versions import since

TEXTS = ("The dog ran.", "Is there a face in this picture?")
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
}


@cache
def tokenizer() -> Any:
    return make_tokenizer()


def sized(config_class: Any, **options: Any) -> Any:
    return config_class(vocab_size=len(tokenizer()), **{**SIZES, **options})


def llama(**options: Any) -> Any:
    return sized(tr.LlamaConfig, num_key_value_heads=4, bos_token_id=1, eos_token_id=2, **options)


def mamba() -> Any:
    return tr.MambaConfig(vocab_size=len(tokenizer()), hidden_size=32, num_hidden_layers=2)


#: Base classes, and whether their attention is causal.
BASES: dict[str, tuple[Any, bool]] = {
    "deberta": (lambda: tr.DebertaModel(sized(tr.DebertaConfig)), False),
    "deberta-v2": (lambda: tr.DebertaV2Model(sized(tr.DebertaV2Config)), False),
    "mpnet": (lambda: tr.MPNetModel(sized(tr.MPNetConfig)), False),
    "layoutlm": (lambda: tr.LayoutLMModel(sized(tr.LayoutLMConfig)), False),
    "roformer": (lambda: tr.RoFormerModel(sized(tr.RoFormerConfig, embedding_size=32)), False),
    "roformer decoder": (lambda: tr.RoFormerModel(sized(tr.RoFormerConfig, embedding_size=32, is_decoder=True)), True),
    "bert": (lambda: tr.BertModel(sized(tr.BertConfig)), False),
    "bert decoder": (lambda: tr.BertModel(sized(tr.BertConfig, is_decoder=True)), True),
    "llama": (lambda: tr.LlamaModel(llama()), True),
    "llama encoder": (lambda: tr.LlamaModel(llama(is_causal=False)), False),
    "mamba": (
        lambda: tr.MambaModel(tr.MambaConfig(vocab_size=len(tokenizer()), hidden_size=32, num_hidden_layers=2)),
        True,
    ),
    "xlnet": (
        lambda: tr.XLNetModel(tr.XLNetConfig(vocab_size=len(tokenizer()), d_model=32, n_layer=2, n_head=4, d_inner=48)),
        False,
    ),
}
#: Classes with an LM head, and whether a continuation can be scored.
HEADS: dict[str, tuple[Any, bool]] = {
    "roformer": (lambda: tr.RoFormerForCausalLM(sized(tr.RoFormerConfig, embedding_size=32, is_decoder=True)), True),
    "roformer, both ways": (lambda: tr.RoFormerForCausalLM(sized(tr.RoFormerConfig, embedding_size=32)), False),
    "bert": (lambda: tr.BertLMHeadModel(sized(tr.BertConfig, is_decoder=True)), True),
    "bert, both ways": (lambda: tr.BertLMHeadModel(sized(tr.BertConfig)), False),
    "masked deberta": (lambda: tr.DebertaV2ForMaskedLM(sized(tr.DebertaV2Config)), False),
    "masked mpnet": (lambda: tr.MPNetForMaskedLM(sized(tr.MPNetConfig)), False),
    "xlnet": (
        lambda: tr.XLNetLMHeadModel(
            tr.XLNetConfig(vocab_size=len(tokenizer()), d_model=32, n_layer=2, n_head=4, d_inner=48)
        ),
        False,
    ),
    "llama": (lambda: tr.LlamaForCausalLM(llama()), True),
    "llama, both ways": (lambda: tr.LlamaForCausalLM(llama(is_causal=False)), False),
}


def looks_ahead(module: Any, path: str) -> bool:
    """By a hook: whether an earlier token changes in the last block when the last token does."""
    ids = torch.tensor([tokenizer()(TEXTS[1])["input_ids"]])
    other = ids.clone()
    other[0, -1] = 300
    out: list[torch.Tensor] = []
    block = module.get_submodule(path)
    handle = block.register_forward_hook(lambda _, __, o: out.append(o[0] if isinstance(o, tuple | list) else o))
    extra = (
        {"bbox": torch.zeros(*ids.shape, 4, dtype=torch.long)} if "layoutlm" in type(module).__name__.lower() else {}
    )
    with torch.no_grad():
        for each in (ids, other):
            module(input_ids=each, **extra)
    handle.remove()
    rows = [each[:, 0] if each.shape[0] == ids.shape[1] else each[0] for each in out]
    return not torch.allclose(rows[0][:-1], rows[1][:-1], atol=1e-4)


@pytest.mark.parametrize("name", BASES)
@since("5.20")
def test_the_default_is_the_last_token_where_attention_is_causal_and_the_mean_elsewhere(name):
    build, causal = BASES[name]
    module = finish(build())
    model = mn.load(module, tokenizer=tokenizer())
    (tower,) = model.towers.values()
    assert looks_ahead(module, tower.paths[-1]) is not causal
    (default,) = model._executor.run([mn.Stimulus(TEXTS[0])], tokens=None).tokens.values()
    assert default == ("last" if causal else "mean")
    texts = [mn.Stimulus(text, condition="ab"[i % 2]) for i, text in enumerate(["The dog", "A cat", "Some", "Why not"])]
    found = mn.localize(model, mn.Contrast(texts, positive="a", negative="b"), cache=False, progress=False)
    assert found.meta["tokens"] == {tower.name: default}


@pytest.mark.parametrize("name", HEADS)
@since("5.20")
def test_a_continuation_that_would_see_itself_is_refused(name):
    build, causal = HEADS[name]
    module = finish(build())
    model = mn.load(module, tokenizer=tokenizer())
    assert looks_ahead(module, next(iter(model.towers.values())).paths[-1]) is not causal
    if causal:
        assert model.score(["The dog"], [" ran"]).n_tokens[0][0] > 0
        return
    with pytest.raises(mn.InputError, match="attends to text bidirectionally"):
        model.score(["The dog"], [" ran"])


@since("5.20")
def test_what_is_declared_is_not_measured_and_the_rest_once(monkeypatch):
    from modalnet.execution.engine import Engine

    passes, real = [], Engine.run
    monkeypatch.setattr(Engine, "run", lambda *args, **kwargs: passes.append(1) or real(*args, **kwargs))
    stimuli = [mn.Stimulus(TEXTS[0])]
    for name, extra in (("llama", 0), ("bert", 0), ("deberta-v2", 2)):
        model = mn.load(finish(BASES[name][0]()), tokenizer=tokenizer())
        for measured in (extra, 0):
            passes.clear()
            model._executor.run(stimuli, tokens=None)
            assert len(passes) == 1 + measured


@since("5.20")
def test_an_encoder_that_holds_image_tokens_is_no_dual_encoder():
    """Its image tower feeds its text tower; in CLIP the two do not meet."""
    with torch.device("meta"):
        fused, apart = tr.ModernVBertModel(tr.ModernVBertConfig()), tr.CLIPModel(tr.CLIPConfig())
    for module, dual in ((fused, False), (apart, True)):
        model = mn.load(module)
        assert list(model.towers) == ["vision", "encoder"]
        assert model._executor.encoder.dual is dual
