"""A vision-language model with random weights, of any size, and stimuli for it, made without a download.

The speed of a forward pass does not depend on what the weights are, so a LLaVA-1.5 made from its config classes times
like the real one. Its weights are drawn on the device that will run it; they are never on the CPU. Its processor is
made of the real classes; only the vocabulary is small.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tr
from PIL import Image

import modalnet as mn

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
from families import CORPUS, LLAVA_TEMPLATE, make_tokenizer, square

#: CLIP tower (depth, width, heads, image size) and Llama tower (depth, width, heads, MLP width).
SIZES = {
    "7b": ((24, 1024, 16, 336), (32, 4096, 32, 11008)),  # LLaVA-1.5-7B: CLIP ViT-L/14-336 and Llama 7B
    "tiny": ((4, 64, 4, 56), (4, 96, 4, 256)),
}
PATCH = 14


def random_llava(size: str, *, device: str, dtype: torch.dtype, seed: int = 0) -> mn.Model:
    """A LLaVA-1.5 with random weights on `device`."""
    (depth, width, heads, image), (text_depth, text_width, text_heads, mlp) = SIZES[size]
    tokenizer = make_tokenizer(["<image>"], add_bos=True, padding_side="left", max_length=2048)
    processor = tr.LlavaProcessor(
        image_processor=tr.CLIPImageProcessorPil(size={"shortest_edge": image}, crop_size=square(image)),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = tr.LlavaConfig(
        vision_config=tr.CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            image_size=image,
            patch_size=PATCH,
        ),
        text_config=tr.LlamaConfig(
            vocab_size=32064,
            hidden_size=text_width,
            intermediate_size=mlp,
            num_hidden_layers=text_depth,
            num_attention_heads=text_heads,
            max_position_embeddings=4096,
        ),
        image_token_index=processor.image_token_id,
        image_seq_length=(image // PATCH) ** 2,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        module = tr.AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
    return mn.load(module, processor=processor)


def random_contrast(count: int, seed: int = 0) -> mn.Contrast:
    """`count` stimuli with a picture and a few words each: smooth pictures against pixel noise."""
    generator = np.random.default_rng(seed)
    words = " ".join(CORPUS).split()
    stimuli = []
    for index in range(count):
        smooth = index % 2 == 0
        width, height = generator.integers(256, 513, 2)
        shape = (8, 8, 3) if smooth else (height, width, 3)
        pixels = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        text = " ".join(generator.choice(words, generator.integers(4, 13)))
        picture: Any = pixels.resize((int(width), int(height)), Image.Resampling.BICUBIC) if smooth else pixels
        stimuli.append(mn.Stimulus(text, picture, condition="smooth" if smooth else "noise", id=f"random-{index}"))
    return mn.Contrast(stimuli, positive="smooth", negative="noise")
