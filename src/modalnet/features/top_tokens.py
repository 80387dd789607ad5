"""The tokens of a vocabulary that drive text units most: every one of them is tried.

Each token runs by itself, after what the tokenizer puts before every text and after a context, if one is given. Nothing
is estimated: a gradient on the embeddings would be cheaper, but it is taken at one point, far from most tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.features.response import respond, watch
from modalnet.features.result import Shown, TopStimuli
from modalnet.features.top_stimuli import Best, _check_n
from modalnet.model import Model, as_model

if TYPE_CHECKING:
    from modalnet.inputs.batch import Prepared
    from modalnet.stimuli import Stimulus

TOGETHER = 4096


def top_tokens(
    model: Model | Any,
    units: Any,
    n: int = 20,
    *,
    context: str | None = None,
    candidates: Sequence[int] | None = None,
    bottom: bool = False,
    magnitude: Literal["absolute", "signed"] = "absolute",
    scaled: bool | None = None,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    progress: bool = True,
) -> TopStimuli:
    """Find the tokens of the vocabulary at which each unit of a text tower is most active.

    Parameters
    ----------
    model, units, bottom, magnitude, scaled, batch_size, remote, progress
        As for :func:`modalnet.features.top_stimuli`; the units are of the decoder (or a text encoder).
    n
        How many are kept per unit.
    context
        A text that each token follows; None for nothing but what the tokenizer begins every text with. A tokenizer that
        begins texts with nothing, such as GPT-2's, gets its beginning-of-sequence token: the first position of a
        decoder holds an attention sink, whatever token stands there.
    candidates
        Token ids to try; None for the whole vocabulary but its special tokens. A vocabulary of 262,144 is as many
        passes over a two-token text: minutes on a GPU, an hour on a laptop's CPU for a small model.

    Returns
    -------
    TopStimuli
        ``.index`` ``[unit, n]`` are token ids; activations are those at the token itself.

    Raises
    ------
    InputError
        For units outside the text tower, ids that are not in the vocabulary, or a model without a tokenizer.
    """
    from tqdm.auto import tqdm

    _check_n(n)
    model = as_model(model, remote)
    response = respond(model, units, magnitude, scaled=scaled)
    outside = [tower for tower in response.layers if model.spaces[tower].modality != "text"]
    if outside:
        raise InputError(f"tokens drive units of a text tower, and some of these are in the {outside[0]} tower.")
    if model.tokenizer is None:
        raise InputError(f"{model.name} came without a tokenizer. Pass tokenizer= to modalnet.load().")
    ids = _candidates(model.tokenizer, candidates)
    best = Best(response, n, bottom=bottom)
    prefix = _prefix(model, context)
    choices: dict[str, Any] = dict.fromkeys(response.layers, (len(prefix),))
    with tqdm(total=len(ids), desc="trying tokens", unit="token", disable=not progress) as bar:
        for start in range(0, len(ids), TOGETHER):
            some = ids[start : start + TOGETHER]
            for places, (raw,) in watch(model, [response], _prepared(model, prefix, some), choices, batch_size):
                best.update(raw, [some[place] for place in places])
                bar.update(len(places))
    winners = np.unique(np.concatenate([best.units.index.ravel(), best.network.index.ravel()]))
    best.stimuli = {int(token): _stimulus(model.tokenizer, int(token)) for token in winners if token >= 0}
    best.count = len(ids)
    return best.result(model, choices, Shown())


def _candidates(tokenizer: Any, candidates: Sequence[int] | None) -> list[int]:
    size = len(tokenizer)
    if candidates is None:
        special = set(tokenizer.all_special_ids)
        special |= {token for token, one in tokenizer.added_tokens_decoder.items() if one.special}
        return [token for token in range(size) if token not in special]
    given = [token.item() if isinstance(token, np.integer) else token for token in candidates]
    for token in given:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
            raise InputError(f"candidates= are token ids from 0 to {size - 1}; got {token!r}.")
    if not given:
        raise InputError("candidates= is empty, so there is no token to try.")
    return list(dict.fromkeys(given))


def _prefix(model: Model, context: str | None) -> list[int]:
    """The tokens that stand before each."""
    tokenizer = model.tokenizer
    if context is not None and not isinstance(context, str):
        raise InputError(f"context= is a text; got {context!r:.100}.")
    found = list(tokenizer(context or "", add_special_tokens=True)["input_ids"])
    while found and found[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id) and len(found) > 1:
        found.pop()  # what closes a text does not come before its last word
    begins = tokenizer.bos_token_id
    return found if found or begins is None else [begins]


def _prepared(model: Model, prefix: Sequence[int], ids: Sequence[int]) -> list[Prepared]:
    """A text of each token, as ids: written out, some tokens would become others."""
    from modalnet.stimuli.stimulus import Stimulus

    (plain,) = model._executor.prepare([Stimulus("a")], raw=True)
    return [
        replace(
            plain,
            index=place,
            text_inputs={name: [*prefix, token] if name == "input_ids" else [0] * (len(prefix) + 1) for name in names},
        )
        for place, token in enumerate(ids)
        for names in (plain.text_inputs or {"input_ids": []},)
    ]


def _stimulus(tokenizer: Any, token: int) -> Stimulus:
    """A token to be shown: what it reads, or its piece where it reads nothing."""
    from modalnet.stimuli.stimulus import Stimulus

    text = tokenizer.decode([token])
    if not text.strip():
        text = str(tokenizer.convert_ids_to_tokens(token))
    return Stimulus(text, id=repr(text))
