"""Prompts in chat templates of every form, against texts written out by hand and transformers' own tokens."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as tr

import modalnet as mn
from families import CHATML_TEMPLATE, GEMMA_TEMPLATE, LLAVA_TEMPLATE, build, make_tokenizer, picture, text_sizes

LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else "
    "message['role'] %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
SYSTEM = "A chat between a curious user and an artificial intelligence assistant."
VICUNA = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}{% else %}{{ '" + SYSTEM + " ' }}"
    "{% endif %}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'USER: ' ~ message['content'] ~ ' ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' ~ message['content'] ~ '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
#: A template that prints whatever content it is given as JSON where it is no string.
JSON = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{{ message.content if message.content is string else message.content | tojson }}<|end|>{% endfor %}<|assistant|>"
)
SPECIALS = [
    *("<image>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|user|>", "<|end|>", "<|assistant|>"),
]
#: Per template, what it makes of one user message with this text; the bos is the tokenizer's where it writes none.
WRITTEN = {
    "llama3": (
        LLAMA_3,
        "<s><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma2": (GEMMA_2, "<s><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"),
    "vicuna": (VICUNA, f"<s>{SYSTEM} USER: {{}} ASSISTANT:"),
    "mistral": (MISTRAL, "<s>[INST] {} [/INST]"),
    "json": (JSON, "<s><|user|>{}<|end|><|assistant|>"),
}
PARTS = {
    "llava": (LLAVA_TEMPLATE, "<s>USER: <image>\n{}  ASSISTANT:"),
    "chatml": (
        CHATML_TEMPLATE.replace("IMAGE", "<image>\n"),
        "<s><|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\n{}<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
}
TEXT = "What is in the picture?"


def processor_with(template: str | None, on_tokenizer: str | None = None) -> tr.LlavaProcessor:
    tokenizer = make_tokenizer(SPECIALS, add_bos=True)
    tokenizer.chat_template = on_tokenizer
    return tr.LlavaProcessor(
        image_processor=tr.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def llava(template: str | None, on_tokenizer: str | None = None, **options: object) -> mn.Model:
    """A LLaVA with another template; it encodes only, so its weights are those of the family."""
    processor = processor_with(template, on_tokenizer)
    module = copy.deepcopy(build("llava_clip").model)
    module.resize_token_embeddings(len(processor.tokenizer))
    module.config.image_token_id = processor.image_token_id
    return mn.load(module, processor=processor, **options)


def read(model: mn.Model, stimulus: mn.Stimulus | str) -> str:
    """The prompt that reaches the model, back from its tokens; an image is one placeholder again."""
    given = mn.Stimulus(stimulus) if isinstance(stimulus, str) else stimulus
    encoder = model._executor.encoder
    ids = encoder.encode(encoder.prepare([given])[0]).inputs["input_ids"][0].tolist()
    image = model.processor.image_token_id
    kept = [token for place, token in enumerate(ids) if token != image or ids[place - 1] != image]
    return model.tokenizer.decode(kept)


@pytest.mark.parametrize("where", ["processor", "tokenizer", "both"])
@pytest.mark.parametrize("name", [*WRITTEN, *PARTS])
def test_a_text_is_written_as_the_template_writes_it(name: str, where: str) -> None:
    template, expected = (WRITTEN | PARTS)[name]
    model = llava(template if where != "tokenizer" else None, template if where != "processor" else None)
    assert read(model, TEXT) == expected.replace("<image>\n", "").replace("  ", " ").format(TEXT)
    assert "in its chat template" in str(model)


@pytest.mark.parametrize("where", ["processor", "tokenizer"])
@pytest.mark.parametrize("name", [*WRITTEN, *PARTS])
def test_images_stand_where_the_template_puts_them_or_before_the_text(name: str, where: str) -> None:
    template, expected = (WRITTEN | PARTS)[name]
    model = llava(template if where == "processor" else None, template if where == "tokenizer" else None)
    image = "" if name in PARTS else "<image>"
    one = picture(1, 37, 53)
    text = mn.Stimulus(TEXT, image=one)
    assert read(model, text) == expected.replace("  ", " ").format(image + TEXT)
    if name in WRITTEN:
        assert read(model, mn.Stimulus(image=one)) == expected.format(image)
        pair = mn.Stimulus(TEXT, image=[one, picture(2, 40, 40)])
        ids = model._executor.encoder.prepare([pair])[0].prompt
        assert ids is not None
        assert ids.count("<image>") == 2
    run = model.run([text, mn.Stimulus(TEXT)], read=["decoder"], tokens="last")
    assert bool(torch.isfinite(run.activations["decoder"]).all())


@pytest.mark.parametrize("template", [LLAMA_3, CHATML_TEMPLATE, LLAVA_TEMPLATE], ids=["string", "either", "parts"])
def test_a_text_model_in_its_tokenizers_template(template: str) -> None:
    tokenizer = make_tokenizer(SPECIALS, add_bos=True)
    tokenizer.chat_template = template
    module = tr.LlamaForCausalLM(tr.LlamaConfig(**text_sizes(tokenizer))).eval()
    model = mn.load(module, tokenizer=tokenizer, chat_template=True)
    content = [{"type": "text", "text": TEXT}] if template is LLAVA_TEMPLATE else TEXT
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert TEXT in rendered
    expected = tokenizer(rendered, add_special_tokens=not rendered.startswith("<s>"))["input_ids"]
    assert list(model._executor.prepare([mn.Stimulus(TEXT)])[0].ids) == expected
    plain = mn.load(module, tokenizer=tokenizer)
    assert list(plain._executor.prepare([mn.Stimulus(TEXT)])[0].ids) == tokenizer(TEXT)["input_ids"]


def test_a_template_that_writes_no_text_is_refused() -> None:
    model = llava("{% for message in messages %}{{ message.role }}{% endfor %}")
    with pytest.raises(mn.InputError, match=r"neither as a string nor as a list of parts.*chat_template=False"):
        model.run(TEXT)


# Texts with special tokens


@pytest.mark.parametrize("name", [*WRITTEN, *PARTS])
@pytest.mark.parametrize("token", ["</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<s>", "<pad>"])
def test_a_special_token_in_a_text_is_refused_inside_a_template(name: str, token: str) -> None:
    model = llava((WRITTEN | PARTS)[name][0])
    for text in (f"What does {token} mean?", f"{token} is a token.", f"The last one is {token}"):
        for image in (None, picture(1, 37, 53)):
            with pytest.raises(mn.InputError, match=rf"(?s)has the special token '{token.replace('|', '[|]')}' in its"):
                model.run([TEXT, mn.Stimulus(text, image=image)], read=["decoder"])
    raw = llava((WRITTEN | PARTS)[name][0], chat_template=False)
    ids = list(raw._executor.prepare([mn.Stimulus(f"What does {token} mean?")])[0].ids)
    assert ids == raw.tokenizer(f"What does {token} mean?")["input_ids"]


@pytest.mark.parametrize("name", [*WRITTEN, *PARTS])
def test_a_placeholder_in_a_text_keeps_its_place_inside_the_template(name: str) -> None:
    template, expected = (WRITTEN | PARTS)[name]
    model = llava(template)
    placed = mn.Stimulus("Look at <image> here.", image=picture(1, 37, 53))
    frame = expected.replace("<image>\n", "").replace("  ", " ")
    assert read(model, placed) == frame.format("Look at <image> here.")
    with pytest.raises(mn.InputError, match="image placeholder '<image>' but no image"):
        model.run([TEXT, "Look at <image> here."])
    with pytest.raises(mn.InputError):
        model.run(mn.Stimulus("<image> and <image>", image=picture(1, 37, 53)))


@pytest.mark.parametrize("name", [*WRITTEN, *PARTS])
def test_a_whole_prompt_in_the_template_is_left_alone(name: str) -> None:
    template, expected = (WRITTEN | PARTS)[name]
    model = llava(template)
    frame = expected.replace("<image>\n", "").replace("  ", " ")
    for written in (frame.format("Hi."), frame.format("Hi.").removeprefix("<s>")):
        assert read(model, written) == frame.format("Hi.")
    image = frame.format("<image>\nHi.")
    assert read(model, mn.Stimulus(image, image=picture(1, 37, 53))) == image


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LLAVA_TEMPLATE, "USER: Hi. ASSISTANT: Hello. USER: Bye. ASSISTANT:"),
        (LLAVA_TEMPLATE, "USER: Hi. ASSISTANT: Sure, it is"),
        (VICUNA, "USER: Hi. ASSISTANT:"),
        (PARTS["chatml"][0], "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"),
        (PARTS["chatml"][0], "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n"),
        (LLAMA_3, "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"),
        (GEMMA_2, "<start_of_turn>user\nHi.<end_of_turn>\n<start_of_turn>model\nHello"),
        (MISTRAL, "<s>[INST] Hi. [/INST] Hello</s>[INST] Bye. [/INST]"),
    ],
)
def test_other_conversations_in_the_template_are_left_alone(template: str, text: str) -> None:
    assert read(llava(template), text) == "<s>" + text.removeprefix("<s>")


@pytest.mark.parametrize("text", ["<|im_start|> opens a turn", "USER is a word.", "Write ASSISTANT: please"])
def test_what_only_resembles_the_template_is_not_taken_for_it(text: str) -> None:
    model = llava(PARTS["chatml"][0] if text.startswith("<") else LLAVA_TEMPLATE)
    if text.startswith("<"):
        with pytest.raises(mn.InputError, match=r"special token '<\|im_start\|>'"):
            model.run(text)
    else:
        assert read(model, text) == f"<s>USER: {text} ASSISTANT:"


def test_gemma_keeps_its_own_placeholder_inside_its_template() -> None:
    family = build("gemma3")
    assert family.processor.chat_template == GEMMA_TEMPLATE
    model = mn.load(family.model, tokenizer=family.tokenizer, processor=family.processor)
    own = picture(1, 37, 53)
    (before,) = model._executor.prepare([mn.Stimulus("What is it? <start_of_image> Say.", image=own)])
    assert before.prompt == (
        "<bos><start_of_turn>user\nWhat is it? <start_of_image> Say.<end_of_turn>\n<start_of_turn>model\n"
    )
