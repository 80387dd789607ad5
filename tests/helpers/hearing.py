"""Small random models that hear, each with the feature extractor or processor of its checkpoints.

Widths and depths are shrunk and nothing else. A builder gives the model, and what `modalnet.load` takes as `processor`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tr
from tokenizers import Tokenizer, models, pre_tokenizers

RATE = 16_000
DEPTH = 3
WIDTH = 32

_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 40,
    "head_dim": 8,
}
_WAVES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 20,
}
_SPEECH = {
    "d_model": WIDTH,
    "encoder_layers": DEPTH,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
}
_WRITES = {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "vocab_size": 40}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
_PLAIN = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "intermediate_size": 48}


def tokenizer(*special: str) -> Any:
    """Of whole words."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *special, "what", "is", "this", "a", "sound", "the", "dog", "barks"]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tr.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(special),
    )


def _waves(model: str, config: str, *, mask: bool = False, **changes: Any) -> tuple[Any, Any]:
    extractor = tr.Wav2Vec2FeatureExtractor(return_attention_mask=mask)
    return getattr(tr, model)(getattr(tr, config)(**_WAVES | changes)), extractor


def _whisper() -> tuple[Any, Any]:
    config = tr.WhisperConfig(**_SPEECH, **_WRITES, **_IDS)
    return tr.WhisperForConditionalGeneration(config), tr.WhisperFeatureExtractor()


def _speech2text() -> tuple[Any, Any]:
    config = tr.Speech2TextConfig(**_SPEECH, **_WRITES, **_IDS, conv_channels=16)
    return tr.Speech2TextForConditionalGeneration(config), tr.Speech2TextFeatureExtractor()


def _moonshine() -> tuple[Any, Any]:
    config = tr.MoonshineConfig(
        hidden_size=WIDTH,
        encoder_num_hidden_layers=DEPTH,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        intermediate_size=48,
        vocab_size=40,
    )
    return tr.MoonshineForConditionalGeneration(config), tr.Wav2Vec2FeatureExtractor(do_normalize=False)


def _parakeet() -> tuple[Any, Any]:
    config = tr.ParakeetCTCConfig(vocab_size=50, encoder_config={**_PLAIN, "subsampling_conv_channels": 8})
    return tr.ParakeetForCTC(config), tr.ParakeetFeatureExtractor()


def _qwen2_audio() -> tuple[Any, Any]:
    config = tr.Qwen2AudioConfig(
        text_config={"model_type": "qwen2", **_TEXT},
        audio_config={"model_type": "qwen2_audio_encoder", **_SPEECH, "num_mel_bins": 128},
        audio_token_index=4,
    )
    words = tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    processor = tr.Qwen2AudioProcessor(feature_extractor=tr.WhisperFeatureExtractor(feature_size=128), tokenizer=words)
    return tr.Qwen2AudioForConditionalGeneration(config), processor


def _audio_flamingo() -> tuple[Any, Any]:
    config = tr.AudioFlamingo3Config(
        text_config={"model_type": "qwen2", **_TEXT},
        audio_config={**_SPEECH, **_PLAIN, "num_mel_bins": 128},
        audio_token_id=4,
    )
    extractor = tr.WhisperFeatureExtractor(feature_size=128)
    processor = tr.AudioFlamingo3Processor(feature_extractor=extractor, tokenizer=tokenizer("<sound>"))
    return tr.AudioFlamingo3ForConditionalGeneration(config), processor


#: Sound alone.
ENCODERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "wav2vec2": lambda: _waves("Wav2Vec2Model", "Wav2Vec2Config"),
    "wav2vec2_large": lambda: _waves(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        mask=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    ),
    "hubert": lambda: _waves("HubertModel", "HubertConfig"),
    "wavlm": lambda: _waves("WavLMModel", "WavLMConfig"),
    "unispeech": lambda: _waves("UniSpeechModel", "UniSpeechConfig"),
    "sew": lambda: _waves("SEWModel", "SEWConfig", squeeze_factor=2),
    "ast": lambda: (tr.ASTForAudioClassification(tr.ASTConfig(**_PLAIN)), tr.ASTFeatureExtractor()),
    "parakeet": _parakeet,
}
#: Sound in, text out of a decoder.
WRITERS = {"whisper": _whisper, "moonshine": _moonshine, "speech2text": _speech2text}
#: Sound and text in one stream.
OMNI = {"qwen2_audio": _qwen2_audio, "audio_flamingo": _audio_flamingo}
ALL = ENCODERS | WRITERS | OMNI


@cache
def build(name: str) -> tuple[Any, Any]:
    """A model in evaluation mode, and its feature extractor or processor."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # AST's extractor has 128 mel filters on 257 frequencies, of which the lowest get none.
        warnings.filterwarnings("ignore", "At least one mel filter has all zero values")
        try:
            model, processor = ALL[name]()
        except AttributeError as error:
            if "module transformers has no attribute" not in str(error):
                raise
            pytest.skip(f"transformers {tr.__version__} does not have it: {error}")
    return model.eval(), processor


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    """White noise, float32, of the level of speech."""
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)
