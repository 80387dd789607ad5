"""Maximally activating tokens of the vocabulary, by exhaustive search.

Each token runs by itself, after the special tokens that begin every text and after a context, if one is given. Nothing
is estimated: a gradient with respect to the embeddings would be cheaper, but it is local, and most tokens are far away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_int, check_option, check_shared, check_type
from modalnet.errors import InputError
from modalnet.features.response import MAGNITUDES, Magnitude, Response, Unit, response_of, stream_activations, units_of
from modalnet.features.result import TokenActivations, TopStimuli
from modalnet.features.top_stimuli import RunningTopStimuli
from modalnet.model import Model, as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.results.cache import CacheLike, cached

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modalnet.inputs.batch import Prepared
    from modalnet.interventions.positions import TokenChoice
    from modalnet.stimuli import Stimulus
    from modalnet.units import UnitsLike

CHUNK = 4096  # tokens that are sorted into batches together


@reads_weights_once
def top_tokens(
    model: Model | Any,
    units: UnitsLike | Unit,
    n: int = 20,
    *,
    context: str | None = None,
    candidates: Sequence[int] | None = None,
    bottom: bool = False,
    magnitude: Magnitude = "absolute",
    scaled: bool | None = None,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> TopStimuli:
    """Find the maximally activating tokens of the vocabulary for units of a text tower.

    Parameters
    ----------
    model, units, bottom, magnitude, scaled, batch_size, remote, progress
        As for :func:`modalnet.features.top_stimuli`; the units are in the decoder or a text encoder.
    n
        Number of tokens per unit.
    context
        A text that each token follows; if None, tokens follow only the special tokens that begin every text. For a
        tokenizer that adds none, such as GPT-2's, that is its beginning-of-sequence token: the first position of a
        decoder is an attention sink, whatever its token.
    candidates
        Token ids to try; if None, the whole vocabulary without special tokens. A vocabulary of 262,144 tokens needs as
        many two-token forward passes: minutes on a GPU, an hour on a laptop for a small model.
    cache
        Whether the result is stored and reused.

    Returns
    -------
    TopStimuli
        ``.index`` ``[unit, n]`` holds token ids; activations are read at the token itself.

    Raises
    ------
    InputError
        For units outside a text tower, ids that are not in the vocabulary, or a model without a tokenizer.
    """
    check_shared(batch_size=batch_size, cache=cache, progress=progress)
    check_int("n", n, minimum=1)
    check_option("magnitude", magnitude, MAGNITUDES)
    _check_context(context)
    model = as_model(model, remote)
    chosen = units_of(model, units)
    response = response_of(model, chosen, magnitude, scaled=scaled)
    outside = [tower for tower in response.layers if model.spaces[tower].modality != "text"]
    if outside:
        raise InputError(f"`units` must be in a text tower, but some are in {outside[0]}.")
    if model.tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer. Pass tokenizer= to modalnet.load().")
    ids = _candidates(model.tokenizer, candidates)
    prefix = _prefix(model, context)

    def compute() -> TopStimuli:
        return _searched(model, response, n, prefix, ids, batch_size, bottom=bottom, progress=progress)

    inputs = {"name": model.name, "units": chosen, "prefix": prefix, "candidates": np.array(ids)}
    settings = {"n": n, "bottom": bottom, "magnitude": magnitude, "scaled": response.scaled}
    return cached(model, "top_tokens", inputs, settings, compute, result=TopStimuli, cache=cache)


def _searched(  # noqa: PLR0917  # one call, above
    model: Model,
    response: Response,
    n: int,
    prefix: Sequence[int],
    ids: list[int],
    batch_size: int | Literal["auto"],
    *,
    bottom: bool,
    progress: bool,
) -> TopStimuli:
    """Run every candidate after the prefix."""
    from tqdm.auto import tqdm

    top = RunningTopStimuli(response, n, bottom=bottom)
    choices: dict[str, TokenChoice] = dict.fromkeys(response.layers, (len(prefix),))
    with tqdm(total=len(ids), desc="top tokens", unit="token", disable=not progress) as bar:
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            prepared = _prepare(model, prefix, chunk)
            for indices, (activations,) in stream_activations(model, [response], prepared, choices, batch_size):
                top.update(activations, [chunk[index] for index in indices])
                bar.update(len(indices))
    top.stimuli = {token: _stimulus(model.tokenizer, token) for token in top.winners()}
    top.count = len(ids)
    return top.result(model, choices, TokenActivations())


def _candidates(tokenizer: PreTrainedTokenizerBase, candidates: Sequence[int] | None) -> list[int]:
    size = len(tokenizer)
    if candidates is None:
        special = set(tokenizer.all_special_ids)
        special |= {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        return [token for token in range(size) if token not in special]
    given = [token.item() if isinstance(token, np.integer) else token for token in candidates]
    for token in given:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
            raise InputError(f"`candidates` must be token ids from 0 to {size - 1}, got {token!r}.")
    if not given:
        raise InputError("`candidates` must not be empty.")
    return list(dict.fromkeys(given))


def _check_context(context: str | None) -> None:
    if context is not None:
        check_type("context", context, str, "a string")


def _prefix(model: Model, context: str | None) -> list[int]:
    """Return the token ids before each candidate."""
    tokenizer = model.tokenizer
    ids = list(tokenizer(context or "", add_special_tokens=True)["input_ids"])
    while ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id) and len(ids) > 1:
        ids.pop()  # a token that ends a text does not come before its last word
    bos = tokenizer.bos_token_id
    return ids if ids or bos is None else [bos]


def _prepare(model: Model, prefix: Sequence[int], ids: Sequence[int]) -> list[Prepared]:
    """Make an input of each token, from its id: decoded and encoded again, some tokens would become others."""
    from modalnet.stimuli.stimulus import Stimulus

    (plain,) = model._executor.prepare([Stimulus("a")], raw=True)
    return [
        replace(
            plain,
            index=index,
            text_inputs={name: [*prefix, token] if name == "input_ids" else [0] * (len(prefix) + 1) for name in names},
        )
        for index, token in enumerate(ids)
        for names in (plain.text_inputs or {"input_ids": []},)
    ]


def _stimulus(tokenizer: PreTrainedTokenizerBase, token: int) -> Stimulus:
    """Make a stimulus that shows a token: its text, or its vocabulary entry if the text is blank."""
    from modalnet.stimuli.stimulus import Stimulus

    text = tokenizer.decode([token])
    if not text.strip():
        text = str(tokenizer.convert_ids_to_tokens(token))
    return Stimulus(text, id=repr(text))
