"""The model in training: its losses, and an attention that computes all questions of a picture in one pass.

Two auxiliary tasks shape the encoder. Linear heads, which are discarded after training, classify each patch of the
encoder's output: its content, colour, position, letter and word, and how many shapes are like the one it shows. The
image token of a patch is also trained to lie near the embeddings of the words for its content, colour and place, so
that a patch is to the decoder much like a word.

One attention head of the decoder is trained to attend from a word of a question to the patches that the word refers
to. Without this supervision, a decoder of this size takes very long to learn which colour belongs to which shape.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from modalnet.bundled.visual_questions import printed_words
from modalnet.stimuli.scenes import MOST_SHAPES
from training.data import CONTENTS, IGNORED, N_ORDERS, PALETTE, PREFIX, SLOT, SLOTS, Batch
from training.network import GRID, PATCHES

# The auxiliary heads of the encoder, and the number of classes of each.
HEADS = {
    "content": len(CONTENTS),
    "colour": len(PALETTE),
    "order": N_ORDERS,
    "word": len(printed_words()),
    **dict.fromkeys(("number", "number of kind", "number of colour"), MOST_SHAPES + 1),
    "place": PATCHES,
}
# Few patches have a word or a count, so the gradients of these heads are large; at full weight they slow all else.
RARE_WEIGHT = 0.1
RARE = ("word", "number", "number of kind", "number of colour")
# The decoder block with the supervised attention head: two blocks after the first, so that a noun can first take in
# its adjective.
POINTING = 2


class Learner(torch.nn.Module):
    """The model with the auxiliary heads of its encoder; computes the losses of a batch."""

    model: Any
    positions: Tensor
    content_words: Tensor
    colour_words: Tensor
    printed_words: Tensor
    place_words: Tensor

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        what, colour = (torch.tensor(tokenizer.convert_tokens_to_ids(names[1:])) for names in (CONTENTS, PALETTE))
        self.register_buffer("content_words", what, False)
        self.register_buffer(
            "printed_words", torch.tensor(tokenizer.convert_tokens_to_ids(list(printed_words()))), False
        )
        self.register_buffer("colour_words", colour, False)
        rows, columns = (
            torch.tensor(tokenizer.convert_tokens_to_ids([f"{mark}{place}" for place in range(GRID)]))
            for mark in ("", "##")
        )
        self.register_buffer("place_words", torch.stack([rows.repeat_interleave(GRID), columns.repeat(GRID)]), False)
        self.model = model
        width = model.config.vision_config.hidden_size
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, size) for size in HEADS.values())
        slot = torch.arange(SLOT)
        self.register_buffer("positions", torch.cat([torch.arange(PREFIX), (PREFIX + slot).repeat(SLOTS)])[None], False)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pictures: the encoder's output after its final norm, and the image tokens.

        As in LLaVA, image tokens are made from the output of the last block, before the norm.
        """
        outputs = self.model.model.vision_tower(pixels, output_hidden_states=True)
        return outputs.last_hidden_state, self.model.model.multi_modal_projector(outputs.hidden_states[-1])

    def patch_losses(self, states: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        """The loss of each auxiliary head, and of the image tokens as words for content, colour and place."""
        places = torch.arange(PATCHES, device=labels.device).expand(len(labels), 1, -1)
        targets = torch.cat([labels, places], dim=1).unbind(1)
        losses = [
            (RARE_WEIGHT if name in RARE else 1.0)
            * F.cross_entropy(
                head(states).flatten(0, 1).float(), label.flatten(), reduction="sum", ignore_index=IGNORED
            )
            / (label != IGNORED).sum().clamp(min=1)
            for name, head, label in zip(HEADS, self.heads, targets, strict=True)
        ]
        what, colour, _, word = labels[:, :4].unbind(1)
        shown = (what > 0) & (colour > 0)
        # The patch of a letter is labelled with its whole word.
        things = torch.where(
            word == IGNORED, self.content_words[what.clamp(min=1) - 1], self.printed_words[word.clamp(min=0)]
        )
        words = F.log_softmax(self.model.lm_head(image).float(), dim=-1)
        label_words = [things[shown], self.colour_words[colour[shown] - 1]]
        referred = [words[shown].gather(1, word[:, None]).mean() for word in label_words]
        place_scores = [words.gather(2, word.expand(len(labels), -1)[..., None]).mean() for word in self.place_words]
        losses.append(-torch.stack([*referred, *place_scores]).mean())
        return torch.stack(losses)

    def forward_pictures(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode pictures and decode their questions.

        Returns the two outputs of :meth:`encode`, the decoder's output, and the log attention weights of the supervised
        head, ``[question, position in the slot, start token and patches]``.
        """
        patches, image = self.encode(pixels)
        embedded = self.model.get_input_embeddings()(tokens)
        embedded = torch.cat([embedded[:, :1], image.to(embedded.dtype), embedded[:, 1 + PATCHES :]], dim=1)
        positions = self.positions.expand(len(tokens), -1)
        decoded = self._decode(inputs_embeds=embedded, position_ids=positions, output_hidden_states=True)
        pointing = self._pointing(decoded.hidden_states[POINTING], positions)
        return patches, image, decoded.last_hidden_state, pointing

    def _pointing(self, states: Tensor, positions: Tensor) -> Tensor:
        decoder = self.model.model.language_model
        block = decoder.layers[POINTING]
        states = block.input_layernorm(states)
        query, key = (
            project(states).unflatten(-1, (-1, block.self_attn.head_dim))[:, :, :1].transpose(1, 2)
            for project in (block.self_attn.q_proj, block.self_attn.k_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *decoder.rotary_emb(states, positions))
        to_picture, within = slotted_scores(query * block.self_attn.scaling, key)
        weights = torch.cat([to_picture, within], dim=-1).float().log_softmax(-1)
        return weights[..., :PREFIX].reshape(-1, SLOT, PREFIX)

    def forward_text(self, tokens: Tensor) -> Tensor:
        """Decode texts: the decoder's output."""
        return self._decode(input_ids=tokens).last_hidden_state

    def _decode(self, **inputs: Any) -> Any:
        return self.model.model.language_model(**inputs, use_cache=False)

    def losses(
        self, batch: Batch, encode: Any, forward_pictures: Any, forward_text: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The mean loss of each part, and whether each predicted token is correct (``answers`` and the texts)."""
        patches, image, hidden, pointing = forward_pictures(batch.pixels, batch.tokens)
        outputs = {"answers": (hidden, batch.labels)}
        for kind, (tokens, labels) in batch.texts.items():
            outputs[kind] = forward_text(tokens), labels
        losses, right = {}, {}
        for kind, (states, labels) in outputs.items():
            targets = labels != IGNORED
            # The LM head is the widest layer, so it is applied only at positions that enter the loss.
            logits = self.model.lm_head(states[targets]).float()
            losses[kind] = F.cross_entropy(logits, labels[targets])
            right[kind] = torch.ones_like(labels, dtype=torch.bool).masked_scatter(
                targets, logits.argmax(-1) == labels[targets]
            )
        losses["patches"] = self.patch_losses(patches, image, batch.patches).sum()
        losses["pointing"] = pointing_loss(pointing, batch)
        states, tokens = encode(batch.encoder_pixels)
        losses["encoder"] = self.patch_losses(states, tokens, batch.encoder_patches).sum()
        return losses, right


def pointing_loss(pointing: Float[Tensor, "question slot prefix"], batch: Batch) -> Float[Tensor, ""]:
    """Mean negative log of the attention that goes from a word to its referent."""
    referred = batch.referents.any(-1)
    index = batch.mentions[..., None].expand(-1, -1, PREFIX)
    share = pointing.gather(1, index).masked_fill(~batch.referents, -1e4).logsumexp(-1)
    return -torch.where(referred, share, 0).sum() / referred.sum().clamp(min=1)


def slotted_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention in which each question attends to the picture and to itself, as it does when it is asked alone.

    Vision blocks attend everywhere; a text alone is causal. Computing the questions block by block instead of masking
    the whole row saves two thirds of the work.
    """
    batch, heads, length, width = query.shape
    query = query * scaling
    if not module.is_causal:
        output = (query @ key.transpose(-1, -2)).softmax(-1).to(value.dtype) @ value
    elif length != PREFIX + SLOTS * SLOT:
        output = _causal(query, key, value)
    else:
        picture = _causal(query[:, :, :PREFIX], key[:, :, :PREFIX], value[:, :, :PREFIX])
        weights = torch.cat(slotted_scores(query, key), dim=-1).softmax(-1).to(value.dtype)
        question_values = value[:, :, PREFIX:].reshape(batch, heads, SLOTS, SLOT, width)
        from_picture = weights[..., :PREFIX].reshape(batch, heads, SLOTS * SLOT, PREFIX) @ value[:, :, :PREFIX]
        from_question = (weights[..., PREFIX:] @ question_values).view(batch, heads, SLOTS * SLOT, width)
        output = torch.cat([picture, from_picture + from_question], dim=2)
    return output.transpose(1, 2), None


def slotted_scores(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Attention scores of the questions: to the picture, and within each question."""
    batch, heads, _, width = query.shape
    question_query, question_key = (x[:, :, PREFIX:].reshape(batch, heads, SLOTS, SLOT, width) for x in (query, key))
    to_picture = query[:, :, PREFIX:] @ key[:, :, :PREFIX].transpose(-1, -2)
    within = _hide_later(question_query @ question_key.transpose(-1, -2))
    return to_picture.view(batch, heads, SLOTS, SLOT, PREFIX), within


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return _hide_later(query @ key.transpose(-1, -2)).softmax(-1).to(value.dtype) @ value


def _hide_later(scores: Tensor) -> Tensor:
    earlier = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~earlier, -1e4)
