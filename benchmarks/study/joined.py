"""The joined model: DINOv2-S sees, Gemma 3 270M speaks, in transformers' own LLaVA code; only the projector is ours.

Both towers are what their authors trained and stay frozen, so text alone gives the numbers of Gemma 3 270M. The
projector is LLaVA's, two linear layers, behind a layer norm and a mean over 4 x 4 neighbouring patches: a picture
becomes 16 tokens of the decoder instead of 256, which is what makes training on two cores possible.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

POOL = 4
#: A token that the decoder was never trained with; the features of a picture take its place.
IMAGE_TOKEN = "<unused0>"
PROJECTOR = Path(__file__).with_name("projector.safetensors")


class PooledProjector(LlavaMultiModalProjector):
    """LLaVA's projector over the means of 4 x 4 neighbouring patches."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        self.norm = torch.nn.LayerNorm(config.vision_config.hidden_size)

    def forward(self, image_features: Float[Tensor, "image patch width"]) -> Float[Tensor, "image token embedding"]:
        """One embedding per group of patches."""
        return self.project(pool(image_features))

    def project(self, pooled: Float[Tensor, "image token width"]) -> Float[Tensor, "image token embedding"]:
        """The part that is trained."""
        return super().forward(self.norm(pooled))


def pool(patches: Float[Tensor, "image patch width"]) -> Float[Tensor, "image token width"]:
    """Means over 4 x 4 neighbouring patches, in raster order."""
    side = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(1, (side, side)).movedim(-1, 1)
    return torch.nn.functional.avg_pool2d(grid, POOL).flatten(2).transpose(1, 2)


def build(vision: Path, decoder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The two towers in LLaVA's code, and a projector that knows nothing.

    Parameters
    ----------
    vision, decoder
        Folders with DINOv2 and with a Gemma 3 language model, as transformers writes them.
    """
    eyes = AutoModel.from_pretrained(vision)
    speaker = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    images = BitImageProcessorPil.from_pretrained(vision)
    patch, side = eyes.config.patch_size, images.crop_size["height"]
    config = LlavaConfig(
        vision_config=eyes.config,
        text_config=speaker.config,
        image_token_index=image_token,
        image_seq_length=(side // (patch * POOL)) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        bos_token_id=speaker.config.bos_token_id,
        eos_token_id=speaker.config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Built without memory: each of its parts is put in whole.
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = eyes
    model.model.language_model = speaker.model
    model.lm_head = speaker.lm_head
    model.model.multi_modal_projector = PooledProjector(config)
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch * POOL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
    )
    return model.eval().requires_grad_(False), processor


def load(vision: Path, decoder: Path, projector: Path = PROJECTOR, device: str | None = None) -> Any:
    """The joined model with a trained projector, as a :class:`modalnet.Model`."""
    import modalnet as mn

    if not projector.is_file():
        raise SystemExit(f"There is no projector at {projector}. Train one: python -m benchmarks.study.join")
    module, processor = build(vision, decoder)
    module.model.multi_modal_projector.load_state_dict(load_file(projector))
    return mn.load(module, processor=processor, device=device)


def trained_how(projector: Path = PROJECTOR) -> dict[str, Any]:
    """What the projector's file says of its training."""
    with safe_open(projector, "pt") as file:
        return json.loads(file.metadata()["training"])
