"""Which tokens a text becomes: cut, with special tokens that the user wrote, and beyond the model's embedding."""

from __future__ import annotations

import copy

import pytest
import transformers as tr

import modalnet as mn
from families import build, make_tokenizer, picture, text_sizes

TEXT = "The dog ran across the green field and barked at the mailman."
OTHER = "She poured the tea slowly, then looked out of the window."


def llama(tokenizer: tr.PreTrainedTokenizerFast, **sizes: int) -> mn.Model:
    return mn.load(tr.LlamaForCausalLM(tr.LlamaConfig(**text_sizes(tokenizer) | sizes)).eval(), tokenizer=tokenizer)


def ids_of(model: mn.Model, text: str, **options: object) -> list[int]:
    return list(model._executor.prepare([mn.Stimulus(text)], **options)[0].ids)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("ends", [{}, {"add_bos": True}, {"add_bos": True, "add_eos": True}, {"add_eos": True}])
def test_texts_are_cut_at_their_end_whatever_the_side_of_the_tokenizer(side: str, ends: dict[str, bool]) -> None:
    tokenizer = make_tokenizer(**ends)
    tokenizer.truncation_side = side
    model = llama(tokenizer)
    right = make_tokenizer(**ends)
    for n in (3, 7, 100):
        expected = right([TEXT], truncation=True, max_length=n)["input_ids"][0]
        assert ids_of(model, TEXT, max_tokens=n, raw=True) == expected
    assert tokenizer.truncation_side == side
    network = [
        mn.localize(
            each,
            mn.Contrast(
                [mn.Stimulus(t, condition=c) for c, t in zip("aabb", (TEXT, OTHER, "a b", "c d"), strict=True)],
                "a",
                "b",
            ),
            protocol="alkhamissi2025",
            cache=False,
            progress=False,
        )
        for each in (model, mn.load(model.module, tokenizer=right))
    ]
    assert (network[0].t["decoder"] == network[1].t["decoder"]).all()


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("ends", [{"add_bos": True}, {"add_bos": True, "add_eos": True}])
def test_what_the_tokenizer_adds_is_not_added_to_what_the_user_wrote(raw: bool, ends: dict[str, bool]) -> None:
    tokenizer = make_tokenizer(**ends)
    model = llama(tokenizer)
    expected = tokenizer(TEXT)["input_ids"]
    for text in (TEXT, f"<s>{TEXT}", *([f"<s>{TEXT}</s>", f"{TEXT}</s>"] if "add_eos" in ends else [])):
        assert ids_of(model, text, raw=raw) == expected, text
    bare = make_tokenizer()
    without = llama(bare)
    assert ids_of(without, f"<s>{TEXT}", raw=raw) == bare(f"<s>{TEXT}")["input_ids"]
    assert ids_of(without, f"{TEXT}</s>", raw=raw) == bare(f"{TEXT}</s>")["input_ids"]


def test_a_bos_under_a_raw_protocol_is_there_once() -> None:
    family = build("llava_clip")
    model = mn.load(family.model, processor=family.processor)
    assert ids_of(model, f"<s>{TEXT}", raw=True) == family.tokenizer(TEXT)["input_ids"]


def test_a_special_token_beside_an_image_costs_no_placeholder_where_there_is_no_template() -> None:
    family = build("llava_siglip")
    model = mn.load(family.model, processor=family.processor)
    own = picture(1, 37, 53)
    for text, prompt in (("a </s> b", "<image>a </s> b"), ("<s>a b", "<image>a b"), ("a <image> b", "a <image> b")):
        encoded = model._executor.encoder.encode(model._executor.prepare([mn.Stimulus(text, image=own)])[0])
        expected = family.processor(text=[prompt], images=[[own]], return_tensors="pt")["input_ids"]
        assert encoded.inputs["input_ids"].tolist() == expected.tolist()


def test_tokens_beyond_the_embedding_are_named() -> None:
    tokenizer = make_tokenizer()
    module = tr.LlamaForCausalLM(tr.LlamaConfig(**text_sizes(tokenizer))).eval()
    new = len(tokenizer)
    tokenizer.add_tokens(["blicket"])
    model = mn.load(module, tokenizer=tokenizer)
    for call in (
        lambda: model.run(["a dog", "a blicket"]),
        lambda: model.score("a dog", [" blicket"]),
        lambda: model.generate("a blicket"),
        lambda: mn.activation_patching(
            model, ["a dog"], ["a cat"], mn.patching.logit_difference([" blicket"], [" a"]), cache=False, progress=False
        ),
    ):
        with pytest.raises(
            mn.InputError, match=rf"token 'blicket' with id {new}, but .* {new} tokens only.*knows {new + 1}\. "
        ):
            call()
    module.resize_token_embeddings(new + 1)
    assert model.run(["a dog", "a blicket"], logits="last").logits.shape == (2, new + 1)


def test_an_image_token_may_lie_beyond_the_embedding() -> None:
    """Pictures take its place, so that some checkpoints have no embedding of it."""
    family = build("paligemma")
    tokenizer = make_tokenizer(bos="<bos>", eos="<eos>", add_bos=True)
    processor = tr.PaliGemmaProcessor(image_processor=family.image_processor, tokenizer=tokenizer)
    module = copy.deepcopy(family.model)
    module.resize_token_embeddings(processor.image_token_id)
    module.config.image_token_id = processor.image_token_id
    module.model.vocab_size = processor.image_token_id
    model = mn.load(module, processor=processor)
    run = model.run(mn.Stimulus("a dog", image=picture(1, 37, 53)), read=["decoder"])
    assert run.activations["decoder"].shape[0] == 1


def test_a_mapping_is_no_stimulus() -> None:
    tokenizer = make_tokenizer()
    model = llama(tokenizer)
    for given in (tokenizer(TEXT), dict(tokenizer(TEXT)), tokenizer([TEXT, OTHER])):
        for call in (model.run, lambda g: model.score(g, [" a"]), model.generate, model.means):
            with pytest.raises(mn.InputError, match=r"must be a Stimulus, a string.*got (BatchEncoding|dict)"):
                call(given)
