"""Small, randomly initialised models with their real processors, one builder for each family.

A family fixes three conventions that no configuration file states: how a stimulus becomes token ids and pixels, how
pixels become rows of the vision tower, and how those rows come back as tokens of the decoder. The builders here use
the config, model and processor classes of transformers as they are and shrink only the numbers (widths, depths, image
sizes), so a test on a family meets every convention of the real checkpoint, offline and in milliseconds.

>>> family = build("llava_clip")
>>> inputs = family.processor(
...     images=[picture(0, 37, 53)], text=[family.image_text("What is this?", 1)], padding=True, return_tensors="pt"
... )
>>> family.model(**inputs).logits.shape[-1] == len(family.tokenizer)
True

Layout of the vision tower
--------------------------
What the first vision block gives for a batch of three stimuli with one image each, of 37x53, 120x40 and 64x64 pixels
(width x height), and how many rows (or tokens, where the tower packs) belong to each image. `test_families` holds the
package to this table. The tower runs once in a forward, and not at all for text alone.

===============  ==============  =============  =================================================================
family           block output    per image      order and padding
===============  ==============  =============  =================================================================
llava_clip       (3, 17, 32)     1 row          class token, then patches in raster order
llava_siglip     (3, 9, 36)      1 row          patches
paligemma        (3, 9, 30)      1 row          patches
gemma3           (3, 16, 48)     1 row          patches; 4 pooled tokens reach the decoder
blip2            (3, 10, 32)     1 row          class token, patches; 3 Q-Former tokens reach the decoder
janus            (3, 9, 32)      1 row          patches
llava_next       (14, 10, 40)    5, 4, 5 rows   class token, patches; the thumbnail, then tiles; pixel_values are
                                                padded to 5 tiles, the padding is cut before the tower
llava_onevision  (14, 9, 48)     5, 4, 5 rows   as llava_next, no class token; stimuli with several images: 1 row
                                                for each of these, no tiles
internvl         (12, 17, 32)    3, 4, 5 rows   class token, patches; tiles, then the thumbnail; pixel_values have
                                                one row for each tile, nothing says whose it is
ovis2            (14, 16, 32)    5, 4, 5 rows   patches; the thumbnail, then tiles; pixel_values as internvl
idefics3         (13, 16, 32)    5, 3, 5 rows   patches; tiles, then the picture; pixel_values are padded to the
smolvlm                                         stimulus with most tiles, all-zero tiles are cut before the tower
idefics2         (15, 36, 32)    5, 5, 5 rows   patches on a grid; four crops, then the picture; every grid is padded
                                                to the largest of the batch, so alone an image has 24, 18 or 36
                                                tokens and another order; pixel_attention_mask tells
mllama           (3, 64, 32)     1 row          4 tiles of 16: class token, 9 patches, 6 of padding; missing tiles and
                                                images are rows and tiles too; aspect_ratio_mask tells. A second
                                                list of blocks, the global transformer, follows on the same rows
pixtral          (1, 78, 32)     30, 12, 36     one row for the batch, images one after the other, raster order;
mistral3         (1, 84, 32)     36, 12, 36     image_sizes // 8 gives the grids
qwen2_vl         (152, 32)       24, 64, 64     no row axis; images one after the other, prod(image_grid_thw) each;
qwen3_vl                                        blocks of 2 by 2 patches in raster order
glm4v
qwen2_5_vl       (152, 32)       24, 64, 64     the same, blocks of 2 by 2 in window order
===============  ==============  =============  =================================================================

Placeholders
------------
`config.image_token_id` is the id of the tokens that images fill, in every family (some store it as
`image_token_index`, with an alias). `processor.image_token_id` is not a substitute: Gemma 3 and Ovis2 give the token
that a prompt is written with, BLIP-2 and Janus have none. The decoder's sequence is as long as `input_ids` in every
family, and input_ids has one placeholder for each image token that the decoder sees, except in Mllama, which has one
for each image and looks by cross-attention. Every processor but BLIP-2's takes images nested by stimulus, with an
empty list for a stimulus without; gemma3, smolvlm and mllama refuse a flat list, and llava_onevision reads one as
single-image stimuli.

Not the same in a batch as alone
--------------------------------
With plain forward calls every family gives the same logits in a batch as alone (2e-6), padded on either side, but:
gpt2 padded on the left needs position_ids; paligemma on text alone needs token_type_ids of zeros, and its processor
puts the bos token into the middle of a text that has no image; mllama runs its cross-attention blocks on a text
whenever another row of the batch has an image, and leaves them out (and out of hidden_states) otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tr
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

import shared_models
from versions import older_than

CORPUS = (
    "What is in the picture? Describe this image. The dog ran across the green field and barked at the mailman.",
    "She poured the tea slowly, then looked out of the window and smiled. A nonword is a string such as blicket.",
    "Two children are playing on the beach. Is there a face, a house or a car? Answer with one word, please.",
    "USER: ASSISTANT: User: Assistant: system user assistant model You are a helpful assistant.",
    "The quick brown fox jumps over the lazy dog; 0 1 2 3 4 5 6 7 8 9.",
)


@dataclass
class Family:
    """One model with everything that turns stimuli into its inputs.

    Parameters
    ----------
    name
        Key in `FAMILIES`.
    model
        float32, in eval mode, on the CPU.
    processor
        The multimodal processor; None for models of one modality.
    tokenizer, image_processor
        None where the model takes no text, or no images.
    image_text
        (text, n) to a raw prompt with n image placeholders in this family's own syntax, no chat template applied.
    has_chat_template
        Whether the processor carries a chat template.
    """

    name: str
    model: Any
    processor: Any
    tokenizer: Any
    image_processor: Any
    image_text: Callable[[str, int], str]
    has_chat_template: bool


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A smooth random RGB picture: coarse noise, enlarged; equal seeds and sizes give equal pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


#: The transformers from which on a family has the modules and tokens that its tests expect.
SINCE = {"janus": "5.16", "vit": "5.12"}


def build(name: str) -> Family:
    """Build a family once; later calls give the same object, so a test that changes it fails (tests/conftest.py).

    Older transformers read the pictures of some families with torchvision alone; without it their tests are skipped,
    and so are those of families that were built otherwise then.
    """
    family = _built(name)
    shared_models.watch(name, family.model)
    return family


@cache
def _built(name: str) -> Family:
    if older_than(SINCE.get(name, "0")):
        pytest.skip(f"{name} is as here since transformers {SINCE[name]}", allow_module_level=True)
    try:
        return FAMILIES[name]()
    except ImportError as error:
        if "Torchvision" not in str(error):
            raise
        pytest.skip(f"transformers {tr.__version__} needs torchvision for {name}", allow_module_level=True)


# --------------------------------------------------------------------------------------------------------- pieces


def make_tokenizer(
    specials: Iterable[str] = (),
    *,
    named: dict[str, str] | None = None,
    bos: str | None = "<s>",
    eos: str = "</s>",
    pad: str | None = "<pad>",
    add_bos: bool = False,
    add_eos: bool = False,
    padding_side: str = "right",
    max_length: int = 512,
) -> Any:
    """A byte-level BPE tokenizer trained on `CORPUS`; `named` special tokens become its attributes."""
    named = named or {}
    special = list(dict.fromkeys([t for t in (pad, bos, eos, *named.values(), *specials) if t]))
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420 + len(special),
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if add_bos or add_eos:
        ends = [t for t, used in ((bos, add_bos), (eos, add_eos)) if used and t]
        core.post_processor = processors.TemplateProcessing(
            single=(f"{bos} " if add_bos else "") + "$A" + (f" {eos}" if add_eos else ""),
            special_tokens=[(t, core.token_to_id(t)) for t in ends],
        )
    return tr.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        padding_side=padding_side,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        extra_special_tokens=named,
    )


def finish(model: Any, seed: int = 0) -> Any:
    """Draw weights whose outputs differ clearly between stimuli and between layers.

    The initialisers of transformers (std 0.02, gates at 0) leave every block close to the identity, and a test could
    then not tell one layer, image or stimulus from another. Matrices get variance 1 / fan-in, which keeps the scale
    of what passes through; tables, tokens and gates get std 0.5.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        kind = type(module).__name__
        for name, weight in module.named_parameters(recurse=False):
            if "Norm" in kind or "norm" in name:
                noise = torch.empty_like(weight).normal_(0, 0.1, generator=generator)
                weight.data.add_(noise)
            elif "lambda" in name or name.startswith("layer_scale"):
                weight.data.fill_(0.7)
            elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and weight.ndim > 1:
                weight.data.normal_(0, weight[0].numel() ** -0.5, generator=generator)
            elif kind == "Conv1D" and weight.ndim > 1:  # GPT-2 keeps its matrices transposed
                weight.data.normal_(0, weight.shape[0] ** -0.5, generator=generator)
            elif name == "bias":
                weight.data.normal_(0, 0.1, generator=generator)
            else:
                weight.data.normal_(0, 0.5, generator=generator)
    return model.float().eval()


def no_video() -> Any:
    """Stands for the video processor, which some processors insist on and which needs torchvision."""
    from transformers import processing_utils, video_processing_utils

    # The class check of processors looks their base class up by name, in a list that lacks it where there is no
    # torchvision.
    name = processing_utils.MODALITY_TO_BASE_CLASS_MAPPING["video_processor"]
    listed = processing_utils.transformers_module
    if not hasattr(listed, name):
        setattr(listed, name, getattr(video_processing_utils, name))
    settings = {"merge_size": 2, "temporal_patch_size": 2, "num_frames": 2, "fps": 1}
    return type("NoVideo", (getattr(listed, name),), settings)()


def stand_in_for_num2words() -> None:
    """SmolVLM spells the number of video frames out; images never need it, but its processor refuses to go without."""
    from transformers.models.smolvlm import processing_smolvlm

    processing_smolvlm.num2words = processing_smolvlm.num2words or str


def multimodal(name: str, model: Any, processor: Any, image_text: Callable[[str, int], str]) -> Family:
    """Bundle a model with its processor and the parts that the processor holds."""
    return Family(
        name=name,
        model=finish(model),
        processor=processor,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
        image_text=image_text,
        has_chat_template=getattr(processor, "chat_template", None) is not None,
    )


def before(placeholder: str) -> Callable[[str, int], str]:
    """The commonest syntax: the placeholders, then the text."""
    return lambda text, n: placeholder * n + text


def square(size: int) -> dict[str, int]:
    """A size in the form that image processors take."""
    return {"height": size, "width": size}


def clip_vision_config(image: int = 32, patch: int = 8, width: int = 32, depth: int = 5) -> Any:
    """CLIP's image tower, with a class token."""
    return tr.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=4,
        image_size=image,
        patch_size=patch,
        projection_dim=24,
    )


def siglip_vision_config(image: int = 24, patch: int = 8, width: int = 36, depth: int = 4, head: bool = False) -> Any:
    """SigLIP's image tower, without a class token."""
    return tr.SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=3,
        image_size=image,
        patch_size=patch,
        vision_use_head=head,
    )


def text_sizes(tokenizer: Any, width: int = 48, depth: int = 4, heads: int = 3) -> dict[str, Any]:
    """What the config of any decoder with rotary positions takes."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def mean_std(value: float = 0.5) -> dict[str, list[float]]:
    """Normalisation of the SigLIP line of image processors: pixels to [-1, 1]."""
    return {"image_mean": [value] * 3, "image_std": [value] * 3}


# --------------------------------------------------------------------------------------------------- chat templates

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}IMAGE{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}<start_of_turn>{{ role }}\n"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


# --------------------------------------------------------------------------------------------- one row for each image


def llava_clip() -> Family:
    """LLaVA-1.5: CLIP with a class token, read at the last block but one, class token dropped before the decoder."""
    tokenizer = make_tokenizer(["<image>"], add_bos=True, padding_side="left")
    processor = tr.LlavaProcessor(
        image_processor=tr.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square(32)),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = tr.LlavaConfig(
        vision_config=clip_vision_config(),
        text_config=tr.LlamaConfig(**text_sizes(tokenizer)),
        image_token_index=processor.image_token_id,
        image_seq_length=16,
    )
    return multimodal("llava_clip", tr.LlavaForConditionalGeneration(config), processor, before("<image>\n"))


def llava_siglip() -> Family:
    """LLaVA on SigLIP: no class token, every patch goes to the decoder; no chat template."""
    tokenizer = make_tokenizer(["<image>"], add_bos=True)
    processor = tr.LlavaProcessor(
        image_processor=tr.SiglipImageProcessorPil(size=square(24)),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
    )
    config = tr.LlavaConfig(
        vision_config=siglip_vision_config(),
        text_config=tr.LlamaConfig(**text_sizes(tokenizer, width=40, heads=2)),
        image_token_index=processor.image_token_id,
        vision_feature_select_strategy="full",
        image_seq_length=9,
    )
    return multimodal("llava_siglip", tr.LlavaForConditionalGeneration(config), processor, before("<image>\n"))


def paligemma() -> Family:
    """PaliGemma: the images' tokens stand before the text and see each other and the prompt (prefix attention)."""
    tokenizer = make_tokenizer(["<image>"], bos="<bos>", eos="<eos>", add_bos=True)
    processor = tr.PaliGemmaProcessor(
        image_processor=tr.SiglipImageProcessorPil(size=square(24), image_seq_length=9), tokenizer=tokenizer
    )
    config = tr.PaliGemmaConfig(
        vision_config=siglip_vision_config(width=30, depth=5),
        text_config=tr.GemmaConfig(**text_sizes(tokenizer, width=32, heads=2), head_dim=16),
        image_token_index=processor.image_token_id,
        vocab_size=len(tokenizer),
        projection_dim=32,
        hidden_size=32,
    )
    return multimodal("paligemma", tr.PaliGemmaForConditionalGeneration(config), processor, before("<image>"))


def gemma3() -> Family:
    """Gemma 3: 16 patches pooled to 4 tokens between two marker tokens; sliding and full attention alternate."""
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = make_tokenizer(
        ["<start_of_turn>", "<end_of_turn>"], named=named, bos="<bos>", eos="<eos>", add_bos=True, padding_side="left"
    )
    processor = tr.Gemma3Processor(
        image_processor=tr.Gemma3ImageProcessorPil(size=square(32), image_seq_length=4, **mean_std()),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=GEMMA_TEMPLATE,
    )
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    config = tr.Gemma3Config(
        vision_config=siglip_vision_config(image=32, width=48),
        text_config=tr.Gemma3TextConfig(
            **text_sizes(tokenizer, width=40, depth=6, heads=2),
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=16,
            layer_types=kinds,
        ),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    return multimodal("gemma3", tr.Gemma3ForConditionalGeneration(config), processor, before("<start_of_image>"))


# ---------------------------------------------------------------------------------------- several rows for each image


def llava_next() -> Family:
    """LLaVA-NeXT: a thumbnail, then tiles on the grid that fits the picture; tokens of padding cut out again."""
    pinpoints = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
    tokenizer = make_tokenizer(["<image>"], add_bos=True, padding_side="left")
    processor = tr.LlavaNextProcessor(
        image_processor=tr.LlavaNextImageProcessorPil(
            size={"shortest_edge": 24}, crop_size=square(24), image_grid_pinpoints=pinpoints
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = tr.LlavaNextConfig(
        vision_config=clip_vision_config(image=24, width=40, depth=4),
        text_config=tr.LlamaConfig(**text_sizes(tokenizer)),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=pinpoints,
        image_seq_length=9,
    )
    return multimodal("llava_next", tr.LlavaNextForConditionalGeneration(config), processor, before("<image>\n"))


def llava_onevision() -> Family:
    """LLaVA-OneVision: tiled when a stimulus has one image, one padded row for each image when it has several."""
    pinpoints = [[24, 24], [24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
    tokenizer = make_tokenizer(["<image>", "<video>", "<|im_start|>", "<|im_end|>"], bos=None, padding_side="left")
    processor = tr.LlavaOnevisionProcessor(
        image_processor=tr.LlavaOnevisionImageProcessorPil(size=square(24), image_grid_pinpoints=pinpoints),
        tokenizer=tokenizer,
        video_processor=no_video(),
        num_image_tokens=9,
        vision_feature_select_strategy="full",
        chat_template=CHATML_TEMPLATE.replace("IMAGE", "<image>\n"),
    )
    config = tr.LlavaOnevisionConfig(
        vision_config=siglip_vision_config(width=48),
        text_config=tr.Qwen2Config(**text_sizes(tokenizer, width=64, heads=4)),
        image_token_index=processor.image_token_id,
        video_token_index=processor.video_token_id,
        image_grid_pinpoints=pinpoints,
    )
    model = tr.LlavaOnevisionForConditionalGeneration(config)
    return multimodal("llava_onevision", model, processor, before("<image>\n"))


def internvl() -> Family:
    """InternVL: tiles, then a thumbnail; a class token that the decoder never sees; 16 patches shuffled to 4 tokens."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_tokenizer(["<|im_start|>", "<|im_end|>"], named=named, bos=None, padding_side="left")
    processor = tr.InternVLProcessor(
        image_processor=tr.GotOcr2ImageProcessorPil(size=square(32), crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        video_processor=no_video(),
        image_seq_length=4,
        chat_template=CHATML_TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    config = tr.InternVLConfig(
        vision_config=tr.InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=[32, 32],
            patch_size=[8, 8],
        ),
        text_config=tr.Qwen2Config(**text_sizes(tokenizer)),
        image_token_id=processor.image_token_id,
        image_seq_length=4,
    )
    return multimodal("internvl", tr.InternVLForConditionalGeneration(config), processor, before("<IMG_CONTEXT>\n"))


def _idefics(name: str) -> Family:
    """Idefics3 and SmolVLM: tiles in rows and columns, then the whole picture; 16 patches shuffled to 4 tokens."""
    grid = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>", "<video>"]
    tokenizer = make_tokenizer([*marks, *grid], add_bos=name == "idefics3", padding_side="left")
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    text = tr.LlamaConfig(**text_sizes(tokenizer, width=40, heads=2))
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    if name == "idefics3":
        processor = tr.Idefics3Processor(
            image_processor=tr.Idefics3ImageProcessorPil(**sizes),
            tokenizer=tokenizer,
            image_seq_len=4,
            chat_template=IDEFICS_TEMPLATE,
        )
        config = tr.Idefics3Config(
            vision_config=tr.models.idefics3.Idefics3VisionConfig(**vision),
            text_config=text,
            image_token_id=image_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return multimodal(name, tr.Idefics3ForConditionalGeneration(config), processor, before("<image>"))

    stand_in_for_num2words()
    processor = tr.SmolVLMProcessor(
        image_processor=tr.SmolVLMImageProcessorPil(**sizes),
        tokenizer=tokenizer,
        video_processor=no_video(),
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    config = tr.SmolVLMConfig(
        vision_config=tr.models.smolvlm.SmolVLMVisionConfig(**vision),
        text_config=text,
        image_token_id=image_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return multimodal(name, tr.SmolVLMForConditionalGeneration(config), processor, before("<image>"))


def idefics3() -> Family:
    """Idefics3, with image splitting on."""
    return _idefics("idefics3")


def smolvlm() -> Family:
    """SmolVLM, with image splitting on."""
    return _idefics("smolvlm")


# --------------------------------------------------------------------------------------- all images packed in one row


def _pixtral_processor(tokenizer: Any, merge: int) -> Any:
    """Pixtral's processor over its PIL image processor.

    Its file imports one function from the torchvision image processor, which the PIL one also has; without
    torchvision the PIL file stands in while the processor's file is imported.
    """
    import sys

    from transformers.models.pixtral import image_processing_pil_pixtral

    torchvision_file = "transformers.models.pixtral.image_processing_pixtral"
    try:
        from transformers.models.pixtral.processing_pixtral import PixtralProcessor
    except ImportError:
        sys.modules[torchvision_file] = image_processing_pil_pixtral
        try:
            from transformers.models.pixtral.processing_pixtral import PixtralProcessor
        finally:
            del sys.modules[torchvision_file]
    return PixtralProcessor(
        image_processor=tr.PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size=square(8)),
        tokenizer=tokenizer,
        patch_size=8,
        spatial_merge_size=merge,
    )


def _pixtral_vision() -> Any:
    return tr.PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=48,
        patch_size=8,
    )


def pixtral() -> Family:
    """Pixtral: every image keeps its shape; all patches of a batch in one row; a break token after each line."""
    tokenizer = make_tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"], add_bos=True, padding_side="left")
    processor = _pixtral_processor(tokenizer, merge=1)
    config = tr.LlavaConfig(
        vision_config=_pixtral_vision(),
        text_config=tr.MistralConfig(**text_sizes(tokenizer)),
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=1,
    )
    return multimodal("pixtral", tr.LlavaForConditionalGeneration(config), processor, before("[IMG]"))


def mistral3() -> Family:
    """Mistral 3: Pixtral's tower, 2 by 2 patches merged into one token."""
    tokenizer = make_tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"], add_bos=True, padding_side="left")
    processor = _pixtral_processor(tokenizer, merge=2)
    config = tr.Mistral3Config(
        vision_config=_pixtral_vision(),
        text_config=tr.MistralConfig(**text_sizes(tokenizer), head_dim=16),
        image_token_index=processor.image_token_id,
        spatial_merge_size=2,
    )
    return multimodal("mistral3", tr.Mistral3ForConditionalGeneration(config), processor, before("[IMG]"))


QWEN_MARKS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def _qwen_parts(processor_class: Any, template: bool = True) -> tuple[Any, Any, dict[str, int]]:
    tokenizer = make_tokenizer(QWEN_MARKS, bos=None, eos="<|endoftext|>", padding_side="left")
    processor = processor_class(
        image_processor=tr.Qwen2VLImageProcessorPil(
            patch_size=8, merge_size=2, size={"shortest_edge": 4 * 16 * 16, "longest_edge": 24 * 16 * 16}
        ),
        tokenizer=tokenizer,
        video_processor=no_video(),
        chat_template=CHATML_TEMPLATE.replace("IMAGE", QWEN_IMAGE) if template else None,
    )
    ids = {
        "image_token_id": processor.image_token_id,
        "video_token_id": processor.video_token_id,
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }
    return tokenizer, processor, ids


def qwen2_vl() -> Family:
    """Qwen2-VL: every image keeps its shape; patches come in blocks of 2 by 2; positions in three axes (M-RoPE)."""
    tokenizer, processor, ids = _qwen_parts(tr.Qwen2VLProcessor)
    config = tr.Qwen2VLConfig(
        vision_config={
            "depth": 4,
            "embed_dim": 32,
            "hidden_size": 48,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
        },
        text_config={
            **text_sizes(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        **ids,
    )
    return multimodal("qwen2_vl", tr.Qwen2VLForConditionalGeneration(config), processor, before(QWEN_IMAGE))


def qwen2_5_vl() -> Family:
    """Qwen2.5-VL: windows of 2 by 2 merged patches in two of four blocks, so the tower works in window order."""
    tokenizer, processor, ids = _qwen_parts(tr.Qwen2_5_VLProcessor)
    config = tr.Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "window_size": 32,
            "fullatt_block_indexes": [1, 3],
            "out_hidden_size": 64,
        },
        text_config={
            **text_sizes(tokenizer, width=64, heads=4),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        **ids,
    )
    return multimodal("qwen2_5_vl", tr.Qwen2_5_VLForConditionalGeneration(config), processor, before(QWEN_IMAGE))


def qwen3_vl() -> Family:
    """Qwen3-VL: features of two early vision blocks are added in the first decoder layers (DeepStack)."""
    tokenizer, processor, ids = _qwen_parts(tr.Qwen3VLProcessor)
    config = tr.Qwen3VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "out_hidden_size": 48,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 2],
        },
        text_config={
            **text_sizes(tokenizer),
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        **ids,
    )
    return multimodal("qwen3_vl", tr.Qwen3VLForConditionalGeneration(config), processor, before(QWEN_IMAGE))


def glm4v() -> Family:
    """GLM-4V: packed like Qwen2-VL, with learned positions that are interpolated to every image's grid."""
    marks = ["<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>"]
    tokenizer = make_tokenizer([*marks, "<|end_of_video|>"], bos=None, eos="<|endoftext|>", padding_side="left")
    processor = tr.Glm4vProcessor(
        image_processor=tr.Glm4vImageProcessorPil(
            patch_size=8, merge_size=2, size={"shortest_edge": 2 * 4 * 16 * 16, "longest_edge": 2 * 24 * 16 * 16}
        ),
        tokenizer=tokenizer,
        video_processor=no_video(),
    )
    names = ("image_start", "image_end", "video_start", "video_end")
    spelled = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
    config = tr.Glm4vConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 96,
            "num_heads": 2,
            "image_size": 48,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "out_hidden_size": 48,
        },
        text_config={
            **text_sizes(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
                "partial_rotary_factor": 1.0,
            },
        },
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        **{f"{n}_token_id": tokenizer.convert_tokens_to_ids(t) for n, t in zip(names, spelled, strict=True)},
    )
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    return multimodal("glm4v", tr.Glm4vForConditionalGeneration(config), processor, before(image))


# -------------------------------------------------------------------------------------------------- other arrangements


def idefics2() -> Family:
    """Idefics2: four crops and the picture, padded to the largest in the batch; a Perceiver makes 3 tokens of each."""
    tokenizer = make_tokenizer(
        ["<image>", "<fake_token_around_image>", "<end_of_utterance>"], add_bos=True, padding_side="left"
    )
    processor = tr.Idefics2Processor(
        image_processor=tr.Idefics2ImageProcessorPil(
            size={"shortest_edge": 24, "longest_edge": 48}, do_image_splitting=True
        ),
        tokenizer=tokenizer,
        image_seq_len=3,
    )
    config = tr.Idefics2Config(
        vision_config=tr.models.idefics2.configuration_idefics2.Idefics2VisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=48,
            patch_size=8,
        ),
        perceiver_config=tr.models.idefics2.configuration_idefics2.Idefics2PerceiverConfig(
            hidden_size=48,
            resampler_n_latents=3,
            resampler_depth=2,
            resampler_n_heads=4,
            resampler_head_dim=12,
            num_key_value_heads=2,
        ),
        text_config=tr.MistralConfig(**text_sizes(tokenizer)),
        image_token_id=processor.image_token_id,
    )
    return multimodal("idefics2", tr.Idefics2ForConditionalGeneration(config), processor, before("<image>"))


def mllama() -> Family:
    """Llama 3.2 Vision: all tiles of an image in one row, padded to four; the decoder looks by cross-attention."""
    marks = ["<|image|>", "<|python_tag|>"]
    tokenizer = make_tokenizer(
        marks, bos="<|begin_of_text|>", eos="<|end_of_text|>", pad="<|finetune_right_pad_id|>", add_bos=True
    )
    processor = tr.MllamaProcessor(
        image_processor=tr.MllamaImageProcessorPil(size=square(24), max_image_tiles=4), tokenizer=tokenizer
    )
    sizes = text_sizes(tokenizer, depth=6)
    config = tr.MllamaConfig(
        vision_config=tr.models.mllama.configuration_mllama.MllamaVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_global_layers=2,
            attention_heads=4,
            image_size=24,
            patch_size=8,
            max_num_tiles=4,
            intermediate_layers_indices=[1, 3],
            vision_output_dim=96,
        ),
        text_config=tr.models.mllama.configuration_mllama.MllamaTextConfig(
            **sizes,
            cross_attention_layers=[1, 4],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        image_token_index=processor.image_token_id,
    )
    return multimodal("mllama", tr.MllamaForConditionalGeneration(config), processor, before("<|image|>"))


def blip2() -> Family:
    """BLIP-2: one image before the text, read by a Q-Former into 3 tokens that the processor itself puts in front."""
    tokenizer = make_tokenizer(["<image>"], bos="</s>", eos="</s>", add_bos=True)
    processor = tr.Blip2Processor(
        image_processor=tr.BlipImageProcessorPil(size=square(24)), tokenizer=tokenizer, num_query_tokens=3
    )
    text = tr.OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=40,
        ffn_dim=80,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=40,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = tr.Blip2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 24,
            "patch_size": 8,
        },
        qformer_config={
            "vocab_size": 8,
            "hidden_size": 24,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "encoder_hidden_size": 32,
        },
        text_config=text.to_dict(),
        num_query_tokens=3,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return multimodal("blip2", tr.Blip2ForConditionalGeneration(config), processor, lambda text, n: text)


def ovis2() -> Family:
    """Ovis2: the picture, then tiles; every image token is a mixture over a visual vocabulary."""
    indicators = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = make_tokenizer(["<image>", "<IMG_ATOM>", *indicators], bos=None, padding_side="left")
    processor = tr.Ovis2Processor(
        image_processor=tr.Ovis2ImageProcessorPil(size=square(32), crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        image_seq_length=4,
    )
    config = tr.Ovis2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "hidden_stride": 2,
            "vocab_size": 64,
        },
        text_config=tr.Qwen2Config(**text_sizes(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=[tokenizer.convert_tokens_to_ids(t) for t in indicators],
        vocab_size=len(tokenizer),
        hidden_size=48,
    )
    return multimodal("ovis2", tr.Ovis2ForConditionalGeneration(config), processor, before("<image>\n"))


def janus() -> Family:
    """Janus: one row for each image, every patch a token; beside it a second, generating image branch (a VQ-VAE)."""
    named = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = make_tokenizer(named=named, add_bos=True)
    processor = tr.JanusProcessor(
        image_processor=tr.JanusImageProcessorPil(size=square(24)), tokenizer=tokenizer, num_image_tokens=9
    )
    config = tr.JanusConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 24,
            "patch_size": 8,
            "mlp_ratio": 2.0,
            "projection_dim": 48,
            "num_image_tokens": 9,
        },
        vq_config={
            "embed_dim": 4,
            "num_embeddings": 16,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "num_patches": 3,
            "projection_dim": 48,
            "image_token_embed_dim": 48,
            "num_hidden_layers": 1,
        },
        text_config=tr.LlamaConfig(**text_sizes(tokenizer)),
        image_token_id=tokenizer.image_token_id,
    )
    model = tr.JanusForConditionalGeneration(config)
    return multimodal("janus", model, processor, before("<image_placeholder>\n"))


# ------------------------------------------------------------------------------------------------------ one modality


def _text_only(name: str, model: Any, tokenizer: Any) -> Family:
    return Family(name, finish(model), None, tokenizer, None, lambda text, n: text, False)


def _vision_only(name: str, model: Any, image_processor: Any) -> Family:
    return Family(name, finish(model), None, None, image_processor, lambda text, n: text, False)


def gpt2() -> Family:
    """GPT-2: learned absolute positions, and, as in the real checkpoint, no pad token and no bos at the start."""
    tokenizer = make_tokenizer(bos="<|endoftext|>", eos="<|endoftext|>", pad=None, max_length=128)
    config = tr.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=32,
        n_layer=4,
        n_head=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return _text_only("gpt2", tr.GPT2LMHeadModel(config), tokenizer)


def llama() -> Family:
    """Llama: rotary positions, a bos token."""
    tokenizer = make_tokenizer(add_bos=True)
    return _text_only("llama", tr.LlamaForCausalLM(tr.LlamaConfig(**text_sizes(tokenizer))), tokenizer)


def opt() -> Family:
    """OPT: learned absolute positions counted from the attention mask, with an offset of two."""
    tokenizer = make_tokenizer(bos="</s>", eos="</s>", add_bos=True, max_length=128)
    config = tr.OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=40,
        ffn_dim=80,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=40,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return _text_only("opt", tr.OPTForCausalLM(config), tokenizer)


def vit() -> Family:
    """ViT: a class token, then the patches."""
    config = tr.ViTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    return _vision_only("vit", tr.ViTModel(config), tr.ViTImageProcessorPil(size=square(32), **mean_std()))


def dinov2_with_registers() -> Family:
    """DINOv2 with registers: a class token, four registers, then the patches."""
    config = tr.Dinov2WithRegistersConfig(
        hidden_size=48,
        num_hidden_layers=5,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=32,
        patch_size=8,
        num_register_tokens=4,
    )
    image_processor = tr.BitImageProcessorPil(size={"shortest_edge": 40}, crop_size=square(32), do_center_crop=True)
    return _vision_only("dinov2_with_registers", tr.Dinov2WithRegistersModel(config), image_processor)


def clip_vision() -> Family:
    """CLIP's image tower alone."""
    image_processor = tr.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square(32))
    return _vision_only("clip_vision", tr.CLIPVisionModel(clip_vision_config()), image_processor)


def siglip_vision() -> Family:
    """SigLIP's image tower alone, with its attention pooling head."""
    image_processor = tr.SiglipImageProcessorPil(size=square(24))
    return _vision_only("siglip_vision", tr.SiglipVisionModel(siglip_vision_config(head=True)), image_processor)


def clip() -> Family:
    """CLIP: an image tower and a text tower that meet only in the final similarity."""
    tokenizer = make_tokenizer(bos="<|startoftext|>", eos="<|endoftext|>", add_bos=True, add_eos=True, max_length=64)
    processor = tr.CLIPProcessor(
        image_processor=tr.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square(32)), tokenizer=tokenizer
    )
    sizes = text_sizes(tokenizer, width=40, heads=4)
    del sizes["num_key_value_heads"]
    config = tr.CLIPConfig(
        vision_config=clip_vision_config(),
        text_config=tr.CLIPTextConfig(**{**sizes, "max_position_embeddings": 64}, projection_dim=24),
        projection_dim=24,
    )
    return multimodal("clip", tr.CLIPModel(config), processor, lambda text, n: text)


FAMILIES: dict[str, Callable[[], Family]] = {
    builder.__name__: builder
    for builder in (
        llava_clip,
        llava_siglip,
        paligemma,
        gemma3,
        llava_next,
        llava_onevision,
        internvl,
        idefics3,
        smolvlm,
        pixtral,
        mistral3,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        glm4v,
        idefics2,
        mllama,
        blip2,
        ovis2,
        janus,
        gpt2,
        llama,
        opt,
        vit,
        dinov2_with_registers,
        clip_vision,
        siglip_vision,
        clip,
    )
}
