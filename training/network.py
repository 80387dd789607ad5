"""The untrained network of the bundled model (stock LLaVA with a SigLIP encoder and a Llama decoder) and its processor.

The tokenizer is WordPiece over the words of the training text, with single letters for everything else: a word of the
lexicon is one token, a nonword a sequence of letters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

IMAGE_SIZE = 64
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE
PATCHES = GRID * GRID
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
PAD, UNKNOWN, START, END, IMAGE = range(len(SPECIAL))

_PUNCTUATION = list(".,?!':;-+=()\"/*%")
_LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
_DIGITS = [str(digit) for digit in range(10)]


def vocabulary() -> list[str]:
    """The tokens in order: special tokens, punctuation, digits, letters, whole words."""
    from modalnet.bundled import arithmetic, grammar, visual_questions
    from modalnet.bundled.lexicon import lexicon

    rng = np.random.default_rng(0)
    # The grammar's function words are collected from its sentences; its content words are all listed, however rare.
    lines = [grammar.sentence(rng) for _ in range(20_000)]
    for shown in (visual_questions.picture(rng) for _ in range(500)):
        lines += [f"{question.text} {question.answer}" for question in visual_questions.picture_questions(rng, shown)]
    for shapes in (visual_questions.scene(rng) for _ in range(500)):
        lines += [f"{question.text} {question.answer}" for question in visual_questions.scene_questions(rng, shapes, 8)]
    for _ in range(200):
        lines += [" ".join(arithmetic.sum_item(rng)), " ".join(arithmetic.comparison_item(rng))]
    seen = sorted(set(re.findall("[a-z]+", " ".join(lines))))
    extra = ["there", "is", "to", "the", "of", "shapes", "and", "yes", "no", "zero"]
    words = dict.fromkeys([*lexicon(), *arithmetic.number_words(), *visual_questions.printed_words(), *seen, *extra])
    pieces = [*_DIGITS, *_LETTERS]
    return [
        *SPECIAL,
        *_PUNCTUATION,
        *pieces,
        *(f"##{piece}" for piece in pieces),
        *(word for word in words if len(word) > 1),
    ]


def build_tokenizer() -> Any:
    """Build the tokenizer, a transformers fast tokenizer: lower-cased, one token per known word."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate(vocabulary())}
    core = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", max_input_chars_per_word=40))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(True)])
    core.decoder = decoders.WordPiece(cleanup=True)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        model_max_length=512,
        padding_side="right",
    )


def build_processor() -> LlavaProcessor:
    """Build the processor (tokenizer and image processor); an image becomes 64 image tokens."""
    from transformers import LlavaProcessor, SiglipImageProcessorPil

    images = SiglipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=2,  # bilinear, close to the averaging with which the training pictures are downsampled
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token="<image>",
    )


def build_model(vocabulary_size: int, seed: int = 0) -> LlavaForConditionalGeneration:
    """Build the network with random weights: 6 vision blocks of width 128, 8 decoder blocks of width 192."""
    import torch
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    torch.manual_seed(seed)
    vision = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        # Slow rotations leave most of a head's 32 dimensions to content, over distances of up to 80 tokens.
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        # The output of the last block feeds the decoder; the encoder has no class token to leave out.
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
    )
    return LlavaForConditionalGeneration(config)
