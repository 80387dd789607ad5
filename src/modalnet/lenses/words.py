"""Words as tokens: whose probabilities a lens reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError

if TYPE_CHECKING:
    from modalnet.model import Model


@dataclass(frozen=True)
class Word:
    """A token of the vocabulary under the name that the user gave it.

    Attributes
    ----------
    name
        The word.
    token
        Its id.
    """

    name: str
    token: int


def as_words(model: Model, words: Any, vocabulary: int) -> tuple[Word, ...]:
    """The single token of each word.

    Parameters
    ----------
    model
        Its tokenizer decides.
    words
        One word or several: texts of one token, as they are written after other text (usually with a leading space),
        or token ids.
    vocabulary
        Number of tokens that the head knows.

    Raises
    ------
    InputError
        For a word of several tokens, an unknown one, or something that is no word.
    """
    given = [words] if isinstance(words, str | Integral) and not isinstance(words, bool) else words
    listed = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(listed, bytes) or not isinstance(listed, Sequence | set | frozenset):
        raise _refusal(words)
    made = dict.fromkeys(_word(model, one, vocabulary) for one in listed)
    names = [word.name for word in made]
    # Several tokens may read the same.
    return tuple(
        word if names.count(word.name) == 1 else Word(f"{word.name} ({word.token})", word.token) for word in made
    )


def _word(model: Model, word: Any, vocabulary: int) -> Word:
    tokenizer = model.tokenizer
    if isinstance(word, Integral) and not isinstance(word, bool):
        if not 0 <= int(word) < vocabulary:
            raise InputError(f"`words` must be tokens from 0 to {vocabulary - 1}, got {word}.")
        return Word(_shown(tokenizer, int(word)), int(word))
    if not isinstance(word, str) or not word:
        raise _refusal(word)
    if tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer that says which token {word!r} is. Give token ids.")
    tokens = _tokens(tokenizer, word)
    if len(tokens) != 1:
        pieces = ", ".join(f"{tokenizer.decode([token])!r} ({token})" for token in tokens)
        others = [
            other for other in (f" {word}", word.strip()) if other != word and len(_tokens(tokenizer, other)) == 1
        ]
        instead = f"{others[0]!r}, which is one token" if others else "a word of one token"
        first = f", or the id of its first token ({tokens[0]})" if tokens else ""
        raise InputError(
            f"`words` must be single tokens, as a lens predicts one token, but {word!r} is {len(tokens)} tokens"
            + (f": {pieces}" if tokens else "")
            + f". Give {instead}{first}."
        )
    if tokens[0] == getattr(tokenizer, "unk_token_id", None) and word != getattr(tokenizer, "unk_token", None):
        raise InputError(
            f"`words` must be in the vocabulary of {model.name}, but {word!r} is unknown to its tokenizer."
        )
    if not 0 <= tokens[0] < vocabulary:
        raise InputError(f"The head of {model.name} gives no probability of {word!r} (token {tokens[0]}).")
    return Word(word, int(tokens[0]))


def token_names(model: Model, ids: Sequence[int]) -> dict[int, str]:
    """What tokens read, by id."""
    return {int(token): _shown(model.tokenizer, int(token)) for token in ids}


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def _shown(tokenizer: Any, token: int) -> str:
    if tokenizer is None:
        return f"<{token}>"
    text = tokenizer.decode([token])
    # Beyond the tokenizer's own vocabulary, where a head is padded, nothing is written.
    return str(text) if text else f"<{token}>"


def _refusal(word: Any) -> InputError:
    return InputError(f"`words` must be a text of one token, a token id, or a list of these, got {word!r:.100}.")
