"""Small configs of any class, from the class alone.

A config class of transformers is a dataclass: the names of its fields, their defaults and the classes of its parts say
what a model is made of. `shrink` gives every number of it a small one of the same meaning: a width, a depth, a number
of heads or experts, a kernel, an id of a token. Meanings are words of field names, the same in hundreds of classes;
no model has a line of its own here. What a class derives from its numbers (kinds of layers, head widths) it derives
from the small ones, because fields that default to None are left to it.

>>> config = shrink(transformers.LlavaConfig)
>>> config.vision_config.hidden_size, config.text_config.hidden_size
(64, 48)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import transformers as tr


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large each part of a model becomes: text, vision, audio, and what is none of these."""

    width: dict[str, int]
    heads: dict[str, int]
    depth: dict[str, int]


_DEPTH = {"text": 4, "vision": 3, "audio": 2, "other": 2}
#: Widths that differ between the parts, so that a mix-up of parts cannot pass for a match of shapes.
APART = Sizes(
    {"text": 48, "vision": 64, "audio": 32, "other": 40}, {"text": 2, "vision": 4, "audio": 2, "other": 2}, _DEPTH
)
#: One width, for models whose decoder looks at what another part puts out without a projection between them.
ALIKE = Sizes(dict.fromkeys(_DEPTH, 48), dict.fromkeys(_DEPTH, 2), _DEPTH)

HEAD = 16  # width of an attention head, where it is no share of a width
AXES = [4, 4, 4]  # of the 12 rotary frequencies of a text head, those for time, height and width
#: Pictures are of IMAGE by IMAGE pixels, cut into SIDE by SIDE patches.
IMAGE, PATCH, SIDE = 32, 8, 4
VOCABULARY = 512
EXPERTS, CHOSEN = 4, 2
#: Ids that every config shares; other special tokens get the next ones in the order in which they are met.
COMMON_IDS = {"pad": 0, "bos": 1, "eos": 2, "sep": 3, "decoder_start": 1, "forced_eos": 2, "eod": 2, "mask": 4}
FIRST_SPECIAL = 10


@dataclasses.dataclass
class Ids:
    """Hands out token ids, the same for the same name."""

    given: dict[str, int] = dataclasses.field(default_factory=dict)

    def __call__(self, name: str) -> int:
        name = stem(name)
        if name in COMMON_IDS:
            return COMMON_IDS[name]
        return self.given.setdefault(name, FIRST_SPECIAL + len(self.given))


def stem(name: str) -> str:
    """What a token is called, from the name of the field that holds its id."""
    return re.sub(r"(_token)?_(id|index)$", "", name)


@dataclasses.dataclass
class Field:
    """A field of a config with what its meaning may depend on.

    Attributes
    ----------
    name, default, annotation
        As the class declares them.
    role
        Which part of a model the config describes.
    siblings
        Defaults of all fields of the class.
    sizes, ids
        Hand out sizes and token ids.
    """

    name: str
    default: Any
    annotation: str
    role: str
    siblings: dict[str, Any]
    sizes: Sizes
    ids: Ids

    @property
    def width(self) -> int:
        """Of the part's residual stream."""
        return self.sizes.width[self.role]

    @property
    def heads(self) -> int:
        """Number of the part's attention heads."""
        return self.sizes.heads[self.role]

    @property
    def depth(self) -> int:
        """Number of the part's blocks."""
        return self.sizes.depth[self.role]


def shrink(config_class: Any, *, sizes: Sizes = APART, tokens: dict[str, int] | None = None, **overrides: Any) -> Any:
    """A small config of a class; ``tokens`` are ids by stem, ``overrides`` fields that the caller knows better."""
    ids = Ids(dict(tokens or {}))
    fields = _fields(config_class, {}, _role("", config_class, "other"), sizes, ids)
    declared = {field.name for field in dataclasses.fields(config_class)}
    if "vision_config" in config_class.sub_configs:
        # Ids that checkpoints carry and some classes read without declaring them.
        fields = {name: ids(name) for name in ("vision_start_token_id", "vision_end_token_id")} | fields
    config = config_class(**{**fields, **overrides})
    if "layer_types" in declared and set(config.layer_types or ()) == {"linear_attention"}:
        # Too few layers for one that attends, without which some classes have no cache.
        kinds = ["linear_attention", "full_attention"] * len(config.layer_types)
        config = config_class(**{**fields, "layer_types": kinds[: len(config.layer_types)], **overrides})
    if "vision_start_token_id" in declared:
        # Places of image tokens have three axes; some classes take the shares of a large head where none are named.
        rope = getattr(config.get_text_config(), "rope_parameters", None)
        if isinstance(rope, dict) and "rope_type" in rope:
            rope["mrope_section"] = AXES
    return config


def _fields(config_class: Any, given: dict[str, Any], role: str, sizes: Sizes, ids: Ids) -> dict[str, Any]:
    """Keyword arguments of a small config, its parts as dicts of their own."""
    base = {field.name for field in dataclasses.fields(tr.PreTrainedConfig)}
    parts = config_class.sub_configs
    declared = {field.name: field for field in dataclasses.fields(config_class) if field.name not in base}
    defaults = {name: _default(field) for name, field in declared.items()}
    defaults |= {name: value for name, value in given.items() if not isinstance(value, dict)}
    made: dict[str, Any] = {}
    for name, default in defaults.items():
        if name not in parts:
            annotation = str(declared[name].type) if name in declared else ""
            value = _small(Field(name, default, annotation, role, defaults, sizes, ids))
            if value is not None:
                made[name] = value
    if "mrope_section" in getattr(config_class, "ignore_keys_at_rope_validation", ()):
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": AXES, "partial_rotary_factor": 1.0}
        by_kind = "dict[str" in str(declared["rope_parameters"].type)
        made["rope_parameters"] = {kind: rope for kind in ("full_attention", "sliding_attention")} if by_kind else rope
    kinds = _layer_kinds(config_class, made) if defaults.get("layer_types", 0) is None else None
    if kinds is not None:
        made["layer_types"] = kinds
    for name, part in parts.items():
        spec = config_class.sub_configs_defaults.get(name)
        own = dict(given.get(name) or (spec.init_kwargs if spec else {}))
        kind = own.pop("model_type", None) or (spec.model_type if spec else part.model_type)
        is_config = isinstance(part, type) and issubclass(part, tr.PreTrainedConfig)
        own_class = part if is_config else tr.CONFIG_MAPPING[kind]
        made[name] = _fields(own_class, own, _role(name, own_class, role), sizes, ids)
        if name == "decoder":
            # Of a class that puts any two models together; only a decoder of its own kind is born with cross-attention.
            made[name] |= {flag: True for flag in ("is_decoder", "add_cross_attention") if flag in made[name]}
        if kind:
            made[name]["model_type"] = kind
    return made


def _layer_kinds(config_class: Any, made: dict[str, Any]) -> list[str] | None:
    """Kinds of layers that a large config has, in turn, where the few layers of a small one would have fewer kinds.

    Those that later layers share keys and values with come first, one of each kind.
    """
    depth = made.get("num_hidden_layers")
    try:
        large = config_class().layer_types
        small = config_class(num_hidden_layers=depth).layer_types
    except Exception:  # a class that cannot be made from its defaults derives its kinds from the small numbers
        return None
    kinds = list(dict.fromkeys(large or ()))
    shared = made.get("num_kv_shared_layers", 0)
    if len(kinds) < 2 or not depth or (set(small) == set(kinds) and not shared):
        return None
    return [kinds[place % len(kinds)] for place in range(depth)]


def _default(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


_ROLES = (
    ("other", r"qformer|perceiver|\bvq"),
    ("audio", r"audio|sound|speech"),
    ("vision", r"vision|visual|image|adapter|\bsam|\bvit"),
    ("text", r"text|decoder|encoder|llm"),
)


def _role(name: str, config_class: Any, parent: str) -> str:
    """Which part of a model a config describes; a part of its vision part is vision, whatever it is called."""
    if parent in ("vision", "audio"):
        return parent
    for role, pattern in _ROLES:
        if re.search(pattern, name.lower()):
            return role
    names = {field.name for field in dataclasses.fields(config_class)}
    if "vocab_size" in names:
        return "text"
    if config_class.sub_configs:
        return parent
    return "vision" if {"image_size", "patch_size", "num_channels"} & names else parent


# ------------------------------------------------------------------------------------------------------- meanings

Rule = Callable[[Field], Any]


def _is(value: Any) -> Rule:
    return lambda field: value


def _at_most(value: int) -> Rule:
    return lambda field: min(field.default, value)


def _of(role: str) -> Rule:
    return lambda field: field.sizes.width[role]


def _token(field: Field) -> Any:
    if isinstance(field.default, list | tuple):
        return [field.ids(f"{field.name}{i}") for i in range(len(field.default))]
    return field.ids(field.name)


def _some_layers(field: Field) -> list[int]:
    """Some of the layers, by index, spread like the originals."""
    top = max(*field.default, 1) + 1
    return sorted({place * field.depth // top for place in field.default})


def _from_the_end(field: Field) -> Any:
    """Layers of a vision tower that a decoder looks at: as many as before, within the depth of a small one."""
    depth = field.sizes.depth["vision"]
    if isinstance(field.default, int):
        return max(field.default, -depth) if field.default < 0 else min(field.default, depth - 1)
    return [-1 - place % depth for place in range(len(field.default))]


_INTERMEDIATE = [0, 2]


def _of_several_layers(field: Field) -> int:
    """The width of what a tower hands on: that of its last layer, or of several side by side."""
    if "intermediate_layers_indices" in field.siblings:
        return field.width * (1 + len(_INTERMEDIATE))
    return field.sizes.width["text"]


def _depth(field: Field) -> int:
    stages = field.siblings.get("depths")
    return len(stages) if stages else field.depth


def _stages(first: int, field: Field) -> list[int]:
    """One value for each stage of a hierarchical tower, growing as in the original."""
    return [first * value // field.default[0] for value in field.default]


def _heads(field: Field) -> Any:
    if field.name == "num_heads" and "expand" in field.siblings:  # of a state space, which is wider than the stream
        return field.siblings["expand"] * field.width // (field.width // field.heads)
    return _stages(2, field) if isinstance(field.default, list | tuple) else field.heads


def _key_value_heads(field: Field) -> int:
    alike = field.role != "text" or field.default == field.siblings.get("num_attention_heads")
    return field.heads if alike else field.heads // 2


def _stream(field: Field) -> Any:
    """The width of a residual stream; what a field of this name means besides shows in its neighbours."""
    if isinstance(field.default, list | tuple):
        return _stages(16, field)
    if field.name == "hidden_size" and "channel_multiplier" in field.siblings:
        return 32 * field.siblings["channel_multiplier"][-1]
    if {"codebook_size", "num_embeddings"} & set(field.siblings):
        return min(field.default, 32)
    if field.role == "vision" and field.name == "hidden_size" and "embed_dim" in field.siblings:
        return field.sizes.width["text"]  # what the tower hands on
    return field.width


#: Words of a field's name, and what becomes of its number. The first that matches counts.
RULES: tuple[tuple[str, Rule], ...] = (
    # ---- tokens
    (r"_token_ids?$|_token_index$|^(pad|bos|eos)_id$|^im_\w+_id$|^image_patch_id$|_(start|end|newline)_id$", _token),
    (r"^additional_vocab_size$", _at_most(16)),
    (r"vocab_size", lambda field: VOCABULARY if field.default > 1000 else field.default),
    (r"^(mel_vocab_size|codebook_size|num_embeddings|ngram_vocab_size_base)$", _is(64)),
    (r"^split_ngram_parts$", _is(2)),
    # ---- which layers
    (r"(index|layer|block|attn|visual|layers)_?(indexes|indices|idxs|ids)$", _some_layers),
    (r"^vision_feature_layers?$", _from_the_end),
    # ---- what one part hands to another
    (
        r"^out_hidden_size$",
        lambda field: field.sizes.width["vision"] * 4 if field.role == "other" else field.sizes.width["text"],
    ),
    (r"^(text_hidden_size|projection_dim|output_dim|projector_(out|in)put_dim)$", _of("text")),
    (r"^(decoder_hidden_size|adapter_out_dim|image_token_embed_dim|moe_hidden_size)$", _of("text")),
    (r"^(vision_hidden_size|image_hidden_size|projection_hidden_size|encoder_hidden_size)$", _of("vision")),
    (r"^vision_output_dim$", _of_several_layers),
    (r"^(adapter_in_dim|adapter_input_size)$", lambda field: field.width),
    (r"^downsample_channels$", lambda field: [field.sizes.width["other"], field.sizes.width["vision"]]),
    # ---- depths, heads, widths
    (r"^depths$", lambda field: [min(2, depth) for depth in field.default]),
    (r"^num_global_layers$", lambda field: field.depth - 1),
    (r"^((num_)?(hidden_|encoder_|decoder_)?layers|n_layers?|depth|conf_num_hidden_layers)$", _depth),
    (r"^(aligner_num_add_layers|resampler_depth)$", _depth),
    (r"_layer_period$|^layer_group_size$", _is(2)),
    (r"_layer_offset$", _is(1)),
    # As in released ones, later layers read keys and values of earlier ones, also where the default of a class is 0.
    (r"^num_kv_shared_layers$", lambda field: field.depth // 2),
    (r"(key_value|kv)_heads$", _key_value_heads),
    (r"(^|_)heads?(_per_ngram)?$|^num_groups$", _heads),
    (r"^(hidden_size|d_model|embed_dim|n_embd|dim|hidden_sizes)$", _stream),
    (r"(intermediate_size|intermediate_size_mlp|ffn_dim|mlp_dim|d_ff|ff_dim)$", lambda field: 4 * field.width),
    (r"^(projector_hidden_size|share_expert_dim|projection_hidden_dim)$", lambda field: 4 * field.width),
    (r"^(head_dim|d_kv)$", lambda field: field.width // field.heads),
    (r"head_dim$|_dim_head$|^d_rel$|^rotary_dim$", _at_most(HEAD)),
    (r"_rank$|_lowrank$|^ssm_state_size$|^hidden_size_per_layer_input$", _at_most(16)),
    # ---- experts
    (r"^(num_experts|num_local_experts|n_routed_experts|moe_num_experts)$", _is(EXPERTS)),
    (r"^(num_experts_per_tok|moe_k|moe_topk|top_k_experts)$", _at_most(CHOSEN)),
    (r"^n_group$", _at_most(EXPERTS // CHOSEN)),
    (r"^(topk_group|first_k_dense_replace)$", _at_most(1)),
    (r"^n_groups$", _at_most(2)),
    # ---- pictures
    (
        r"^(image_size|resolution)$",
        lambda field: [IMAGE, IMAGE] if isinstance(field.default, list | tuple) else IMAGE,
    ),
    (r"^patch_size$", lambda field: field.default if isinstance(field.default, list | tuple) else PATCH),
    (r"^(image_seq_length|num_image_tokens|num_patches|num_position_embeddings)$", _is(SIDE * SIDE)),
    (r"^mm_tokens_per_image$", _is(SIDE * SIDE // 4)),
    (r"^(pos_emb_(height|width|time)|posemb_grid_size)$", _at_most(SIDE)),
    (r"^(position_embedding_size|max_num_patches|img_max_token_num|max_vit_seq_len|seq_len)$", _at_most(256)),
    (r"^patch_embed_hidden_size$", _is(3 * PATCH * PATCH)),
    (r"^window_size$", lambda field: 4 * PATCH if field.default > 32 else 2),
    (r"^(num_query_tokens|latent_query_num|resampler_n(um)?_latents)$", _is(3)),
    (r"channels$", lambda field: field.default if isinstance(field.default, list | tuple) else min(field.default, 32)),
    (r"^(num_res_blocks|insert_layer_id)$", _is(1)),
    (r"^channel_multiplier$", lambda field: list(field.default[:2] + field.default[-1:])),
    # ---- sequences
    (r"^(max_(2d_)?position_embeddings|n_positions|max_source_positions)$", _at_most(VOCABULARY)),
    (r"^(sliding_window|sliding_window_size|attention_chunk_size|chunk_size|canvas_length)$", _at_most(16)),
    (r"^(n_mel_bins|num_mel_bins|feature_size)$", _at_most(32)),
    (r"^rel_extent$", _at_most(64)),
)


def _indexer(field: Field) -> int:
    head = field.width // field.heads
    sizes = {"n_heads": 2, "kv_heads": 1, "head_dim": head, "budget": 16, "compress_ratio": 4}
    return sizes[field.name.removeprefix("indexer_")]


#: Fields that a class leaves at None although no model can be built from it then, or that it fills for a large model.
MISSING: tuple[tuple[str, Rule], ...] = (
    (r"^(image|video|audio)_token_(id|index)$", _token),
    (r"^vocabulary_map$", lambda field: _vocabulary_map(field.ids)),
    (r"^head_dim$", lambda field: None if field.role == "other" else field.width // field.heads),
    (r"^mlp_layer_types$", lambda field: ["dense", *["sparse"] * (field.depth - 1)]),
    (r"^(num_experts|n_routed_experts)$", _is(EXPERTS)),
    (r"^num_key_value_heads$", lambda field: field.heads),
    (r"^(num_experts_per_tok|top_k_experts)$", _is(CHOSEN)),
    (r"^moe_intermediate_size$", lambda field: [32, 16] if field.annotation.startswith("list") else 32),
    (r"^attn_layer_indices$", _is([1, 3])),
    (r"^activation_sparsity_pattern$", lambda field: [0.95] * (field.depth // 2) + [0.0] * (-(-field.depth // 2))),
    (r"^indexer_(n_heads|kv_heads|head_dim|budget|compress_ratio)$", _indexer),
    (r"^sliding_window$", lambda field: 16 if "layer_types" in field.siblings else None),
    (r"^image_size$", _is([IMAGE, IMAGE])),
    (r"^image_grid_pinpoints$", _is([[IMAGE, 2 * IMAGE], [2 * IMAGE, IMAGE], [2 * IMAGE, 2 * IMAGE]])),
    (r"^vision_feature_layer$", _is([-1, 1])),
    (r"^intermediate_layers_indices$", _is(_INTERMEDIATE)),
    (r"^deepstack_layer_map$", _is([[-1, 0]])),
    (r"^spatial_target_layers$", _is([2])),
    (r"^downsample_channels$", lambda field: [field.sizes.width["other"], field.sizes.width["vision"]]),
    (r"^downsample_rate$", _is("1/2")),
    (r"^projector_patch_to_query_dict$", _is({SIDE * SIDE: 3})),
)


def _vocabulary_map(ids: Ids) -> dict[str, int]:
    """Names of the tokens that stand for codes of a quantized picture, in the two spellings that exist."""
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    codes = {f"IMGIMG{str(code).translate(letters)}Z": 300 + code for code in range(64)}
    codes |= {f"<|visual token {code:06d}|>": 400 + code for code in range(64)}
    return {"<image>": ids("image"), "<|extra_200|>": ids("end_of_line"), **codes}


def _small(field: Field) -> Any:
    """The small value of a field; None to leave it to the class."""
    if isinstance(field.default, bool | str | dict | float):
        return field.default
    for pattern, rule in MISSING if field.default is None else RULES:
        if re.search(pattern, field.name):
            return rule(field)
    return field.default
