"""Where along the tokens: from ``tokens=`` to the positions of each stimulus.

A batch holds the tokens of several stimuli, with padding between them, in rows (one or more per stimulus) or packed end
to end. Seen flat, as ``[rows * tokens, width]``, each stimulus owns some positions in order, and each position has a
role: image, text, class token. A *token choice* picks among the stimulus' own positions only; padding never counts.

============  =========================================================================================================
``"last"``    the last of the stimulus' own tokens
``"mean"``    the mean over all of them
``"image"``   the mean over image tokens: patches in the vision tower (without class and register tokens), image
              placeholders in the language tower
``"audio"``   the mean over the tokens that hold a sound: frames in the audio tower (without the padding of the feature
              extractor), audio placeholders in the language tower
``"text"``    the mean over the tokens of the language tower that are no placeholders (a chat template's count)
``"cls"``     the class token (the mean over tiles, where an image is tiled)
``"all"``     every token, not pooled
indices       the mean over these places among the stimulus' own tokens; negative ones count from the end
slice         the mean over these places, as Python slices; kept as text, such as ``"1:-1"``
mask          the mean over the places that are True, of as many booleans as the stimulus has tokens; kept as text, such
              as ``"mask:101"``
list of these  one choice of indices, slice or mask for each stimulus
============  =========================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet._validation import refusal
from modalnet.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from jaxtyping import Bool, Int

    from modalnet.models.sites import Space
    from modalnet.models.towers import Tower

NAMES = ("last", "mean", "all", "image", "audio", "text", "cls")
#: Those that go by what a token holds.
KINDS = ("image", "audio", "text", "cls")
EXPECTED = f"{', '.join(map(repr, NAMES))} or indices such as [0, -1], a slice or a mask"
_SLICE = re.compile(r"(-?\d*):(-?\d*)(?::(-?\d+))?")
_MASK = re.compile(r"mask:[01]+")

#: A choice of tokens: one of NAMES, a slice or a mask as text, or indices.
TokenChoice = str | tuple[int, ...]


@dataclass(frozen=True)
class PerStimulus:
    """Tokens of each stimulus of a run by itself, such as those of one word, which stands elsewhere in each sentence.

    Attributes
    ----------
    each
        Per stimulus its indices, or a slice or a mask as text.
    """

    each: tuple[TokenChoice, ...]

    def __str__(self) -> str:
        return f"tokens of each of {len(self.each)} stimuli"


@dataclass(frozen=True)
class PerSpace:
    """Tokens by the name of a space; what an intervention on several towers is placed at."""

    choices: tuple[tuple[str, TokenChoice | PerStimulus], ...]

    def __str__(self) -> str:
        return ", ".join(f"{name}: {shown(choice)}" for name, choice in self.choices)


#: A choice of tokens for all stimuli, or for each of them.
StimulusTokens: TypeAlias = "TokenChoice | PerStimulus"

#: What is accepted wherever tokens are chosen: a choice for all, one per space or tower, or None for the defaults.
TokensLike: TypeAlias = (
    "str | int | slice | Sequence[int] | np.ndarray | torch.Tensor "
    "| Mapping[str, str | int | slice | Sequence[int]] | None"
)


@dataclass(frozen=True)
class Span:
    """The positions of one stimulus in one tower of one batch.

    Attributes
    ----------
    index
        Flat positions of its own tokens, in order.
    image, text, sound
        Which of them are tokens of an image, of text or of a sound; None where the tower has no such distinction.
    cls
        Offsets of its class tokens among them; None where there are none.
    clear
        Whether padding among the positions is known; False where a processor pads in a way that is not understood.
    measured
        From ``"image"``, ``"audio"`` or ``"cls"`` to the same span with these tokens, where finding them takes a
        measurement.
    """

    index: Int[torch.Tensor, " token"]
    image: Bool[torch.Tensor, " token"] | None = None
    text: Bool[torch.Tensor, " token"] | None = None
    cls: Int[torch.Tensor, " row"] | None = None
    clear: bool = True
    measured: Callable[[str], Span] | None = None
    sound: Bool[torch.Tensor, " token"] | None = None


@dataclass(frozen=True)
class TokenRow:
    """The own tokens of one stimulus in one tower, to be named and chosen from; a continuation's do not count.

    Attributes
    ----------
    names
        What each token reads, or ``"<image 3>"``, ``"<cls>"``.
    image, cls, heard
        Which of them are image tokens (patches), which class tokens, and which hold a sound; None for none of them.
    """

    names: tuple[str, ...]
    image: Bool[np.ndarray, " token"]
    cls: Bool[np.ndarray, " token"]
    heard: Bool[np.ndarray, " token"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sound(self) -> Bool[np.ndarray, " token"]:
        """Which of them hold a sound."""
        return self.heard if self.heard is not None else self.image & ~self.image

    def kind(self, name: str) -> Bool[np.ndarray, " token"]:
        """Which of them are of a kind: ``"image"``, ``"audio"``, ``"text"`` or ``"cls"``."""
        text = ~self.image & ~self.sound
        return {"image": self.image, "audio": self.sound, "text": text, "cls": self.cls}[name]


def choose_for_each(
    tokens: Any,
    spaces: Iterable[Space],
    *,
    alone: str | None = None,
    causal: Callable[[Tower], bool] | None = None,
) -> dict[str, StimulusTokens]:
    """As :func:`choose`, and a choice may be a list with the tokens of each stimulus by itself."""
    listed = list(spaces)
    given: Mapping[str, Any] = tokens if isinstance(tokens, Mapping) else {space.name: tokens for space in listed}
    apart = {name: check_choices(one) for name, one in given.items() if _is_per_stimulus(one)}
    # What stands for these is checked by its keys alone.
    plain = {name: "all" if name in apart else one for name, one in given.items() if one is not None}
    chosen = choose(plain or None, listed, alone=alone, causal=causal)
    names = {space.name: space.name if space.name in given else space.tower.name for space in listed}
    return {name: apart.get(names[name], choice) for name, choice in chosen.items()}


def choose(
    tokens: Any,
    spaces: Iterable[Space],
    *,
    alone: str | None = None,
    causal: Callable[[Tower], bool] | None = None,
) -> dict[str, TokenChoice]:
    """The token choice for each space.

    Parameters
    ----------
    tokens
        None for the default (``"last"`` in a decoder, ``"mean"`` elsewhere), one choice for all, or one per space or
        tower.
    spaces
        The spaces that are read.
    alone
        ``"image"`` or ``"audio"`` for pictures or sounds without a text that have tokens of their own in the decoder:
        its default is then these.
    causal
        Whether the attention of a tower is causal, where that is known better than by the tower's name.

    Raises
    ------
    InputError
        For a choice that does not exist.
    """
    listed = list(spaces)
    if isinstance(tokens, Mapping):
        names = [(space.name, space.tower.name) for space in listed]
        known = {name for pair in names for name in pair}
        unknown = sorted(set(tokens) - known)
        if unknown:
            read = ", ".join(space.name for space in listed)
            raise InputError(f"`tokens` must have keys among what is read ({read}), got {unknown[0]!r}.")
        given = {name: tokens[key] for name, tower in names for key in (tower, name) if key in tokens}
        return {
            space.name: check_choice(given[space.name])
            if space.name in given
            else default_choice(space, alone=alone, causal=causal)
            for space in listed
        }
    if tokens is None:
        return {space.name: default_choice(space, alone=alone, causal=causal) for space in listed}
    return {space.name: check_choice(tokens) for space in listed}


def default_choice(
    space: Space, *, alone: str | None = None, causal: Callable[[Tower], bool] | None = None
) -> TokenChoice:
    """The tokens that a space is read at where none are named.

    A decoder gathers a text at its last token, and other towers spread what they read over all tokens. The last token
    of pictures without a text may be a corner of the picture, or the chat template's; sounds alike.
    """
    if not (space.tower.is_decoder if causal is None else causal(space.tower)):
        return "mean"
    return alone or "last"


def check_choice(choice: Any) -> TokenChoice:
    """A token choice; an InputError for what is none."""
    if isinstance(choice, str):
        if choice in NAMES or _MASK.fullmatch(choice) or _as_slice(choice) is not None:
            return choice
        raise refusal("tokens", EXPECTED, choice)
    if isinstance(choice, slice):
        ends = (choice.start, choice.stop, *(() if choice.step is None else (choice.step,)))
        written = ":".join("" if end is None else str(end) for end in ends)
        if _as_slice(written) is not None:
            return written
        raise refusal("tokens", EXPECTED, choice)
    # Arrays and tensors of any library and device say what they hold as lists.
    plain = choice.tolist() if hasattr(choice, "tolist") else choice
    numbers = [plain] if _is_index(plain) else list(plain) if isinstance(plain, Iterable) else []
    numbers = [n.tolist() if hasattr(n, "tolist") else n for n in numbers]
    if any(n is True for n in numbers) and all(isinstance(n, bool) for n in numbers):
        return "mask:" + "".join("01"[n] for n in numbers)
    if numbers and all(map(_is_index, numbers)):
        return tuple(int(n) for n in numbers)
    raise refusal("tokens", EXPECTED, choice)


def check_choices(choice: Any) -> StimulusTokens:
    """A token choice, or a list with the indices, the slice or the mask of each stimulus; an InputError otherwise."""
    if not _is_per_stimulus(choice):
        return check_choice(choice)
    plain = choice.tolist() if hasattr(choice, "tolist") else choice
    return PerStimulus(tuple(check_choice(one) for one in plain))


def _is_per_stimulus(choice: Any) -> bool:
    plain = choice.tolist() if hasattr(choice, "tolist") else choice
    if not isinstance(plain, list | tuple) or not plain:
        return False
    return all(isinstance(one, list | tuple | range | slice) or getattr(one, "ndim", 0) == 1 for one in plain)


def shown(choice: StimulusTokens | PerSpace) -> str:
    """A choice of tokens as a message names it."""
    if isinstance(choice, PerStimulus | PerSpace):
        return str(choice)
    return f"{choice} tokens" if isinstance(choice, str) else f"tokens {list(choice)}"


def of_stimulus(choice: StimulusTokens, index: int) -> TokenChoice:
    """The tokens that are chosen of one of the stimuli."""
    return choice.each[index] if isinstance(choice, PerStimulus) else choice


def places_among(choice: TokenChoice, n_tokens: int, *, tower: str, label: str, spare_first: int = 0) -> list[int]:
    """The places that a choice picks among so many tokens of which nothing is known but their order.

    Raises
    ------
    InputError
        For a kind of token, or a place that does not exist.
    """
    if choice in KINDS:
        raise InputError(f"tokens={choice!r}: which tokens of stimulus {label} these are is not known. Give indices.")
    if choice in ("all", "mean", "last"):
        found = list(range(n_tokens))[-1 if choice == "last" else 0 :]
    elif isinstance(choice, tuple):
        _check_inside(choice, n_tokens, tower=tower, label=label)
        found = [place % n_tokens for place in choice]
    else:
        found = _written(choice, n_tokens, tower=tower, label=label)
    return [place for place in found if place >= spare_first]


def places_in(choice: TokenChoice, row: TokenRow, *, tower: str, label: str) -> list[int]:
    """The places that a choice picks among the tokens of a stimulus.

    Raises
    ------
    InputError
        If the stimulus has no such token; the message names it.
    """
    if choice not in KINDS:
        return places_among(choice, len(row), tower=tower, label=label)
    mask = row.kind(str(choice))
    if not mask.any():
        raise InputError(
            f"tokens={choice!r}: stimulus {label} has no {choice} tokens in the {tower} tower. Choose others, such as "
            'tokens="last" or "all".'
        )
    return [int(place) for place in mask.nonzero()[0]]


def _is_index(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _as_slice(written: str) -> slice | None:
    found = _SLICE.fullmatch(written)
    if found is None or "-" in found.groups() or (found[3] and not int(found[3])):
        return None
    return slice(*(int(end) if end else None for end in found.groups()))


def select(
    choice: TokenChoice, span: Span, *, tower: str, label: str, spare_first: int = 0
) -> Int[torch.Tensor, " token"]:
    """Flat positions that ``choice`` picks for one stimulus, without the first ``spare_first`` of its own tokens.

    Raises
    ------
    InputError
        If the stimulus has no such token; the message names it.
    """
    kept = _select(choice, span, tower=tower, label=label)
    if spare_first:
        import torch

        kept = kept[~torch.isin(kept, span.index[:spare_first])]
    return kept


def _select(  # noqa: PLR0911  # one kind of choice after another
    choice: TokenChoice, span: Span, *, tower: str, label: str
) -> Int[torch.Tensor, " token"]:
    own = span.index
    if choice == "all":
        return own
    if not span.clear:
        raise InputError(
            f"stimulus {label} has padding among its tokens in the {tower} tower, whose positions cannot be determined "
            'for this model. Read tokens="all" and select tokens yourself, or read another tower.'
        )
    if choice == "mean":
        return own
    if choice == "last":
        return own[-1:]
    if isinstance(choice, tuple):
        _check_inside(choice, len(own), tower=tower, label=label)
        return own[list(choice)]
    if ":" in choice:
        return own[_written(choice, len(own), tower=tower, label=label)]
    if choice in ("image", "audio", "cls") and span.measured is not None:
        span = span.measured(choice)
    if choice == "cls":
        if span.cls is None or len(span.cls) == 0:
            raise InputError(f'tokens="cls": the {tower} tower has no class token for stimulus {label}.')
        return own[span.cls]
    kind = {"image": span.image, "audio": span.sound, "text": span.text}[choice]
    if kind is None or not bool(kind.any()):
        raise InputError(
            f"tokens={choice!r}: stimulus {label} has no {choice} tokens in the {tower} tower. Choose another, or one "
            f'per tower, such as tokens={{"{tower}": "mean"}}.'
        )
    return own[kind]


def _check_inside(choice: Sequence[int], n_tokens: int, *, tower: str, label: str) -> None:
    outside = [place for place in choice if not -n_tokens <= place < n_tokens]
    if outside:
        raise InputError(
            f"tokens={list(choice)} selects token {outside[0]}, but stimulus {label} has {n_tokens} tokens in the "
            f"{tower} tower."
        )


def _written(choice: str, n_tokens: int, *, tower: str, label: str) -> list[int]:
    """The places that a slice or a mask, as text, picks among so many tokens."""
    if choice.startswith("mask:"):
        mask = choice.removeprefix("mask:")
        if len(mask) != n_tokens:
            raise InputError(
                f"`tokens` is a mask of {len(mask)} booleans, but stimulus {label} has {n_tokens} tokens in the "
                f"{tower} tower."
            )
        return [place for place, chosen in enumerate(mask) if chosen == "1"]
    places = list(range(n_tokens))[_as_slice(choice) or slice(None)]
    if not places:
        raise InputError(
            f"tokens={choice!r} selects no token: stimulus {label} has {n_tokens} tokens in the {tower} tower."
        )
    return places
