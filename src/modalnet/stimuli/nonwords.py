"""Pronounceable nonwords, which have the form of words without their meaning.

The control condition of a language localizer should be read like text but have no meaning. :func:`nonword` builds
syllables from an onset, a nucleus and a coda, each drawn roughly as often as it occurs in English, until they have
exactly as many letters as the word they replace. Draws that are English words are rejected.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib import resources

from modalnet._validation import check_seed
from modalnet.errors import InputError

# Letters, with apostrophes between them: "don't" is one word of four letters.
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

# Weights: rough counts of how often these occur in English words.
FIRST_ONSETS = {
    "": 12, "b": 9, "c": 8, "d": 8, "f": 7, "g": 6, "h": 7, "j": 2, "k": 2, "l": 8, "m": 9, "n": 6, "p": 9, "r": 8,
    "s": 10, "t": 9, "v": 3, "w": 6, "y": 1, "z": 1, "bl": 2, "br": 3, "ch": 3, "cl": 3, "cr": 3, "dr": 3, "fl": 3,
    "fr": 3, "gl": 2, "gr": 3, "pl": 3, "pr": 4, "qu": 1, "sc": 1, "sh": 3, "sk": 1, "sl": 2, "sm": 1, "sn": 1,
    "sp": 3, "st": 4, "str": 1, "sw": 1, "th": 2, "tr": 4, "tw": 1, "wh": 1,
}  # fmt: skip
LATER_ONSETS = {
    "b": 6, "c": 4, "d": 9, "f": 4, "g": 5, "k": 3, "l": 9, "m": 8, "n": 8, "p": 6, "r": 7, "s": 7, "t": 11, "v": 5,
    "ch": 2, "sh": 2, "st": 3, "th": 1, "tr": 2, "pl": 1, "bl": 1, "dr": 1,
}  # fmt: skip
NUCLEI = {"a": 20, "e": 22, "i": 18, "o": 16, "u": 9, "ai": 2, "ea": 3, "ee": 2, "oa": 2, "oo": 2, "ou": 2}
INNER_CODAS = {"": 60, "n": 10, "r": 9, "l": 6, "s": 4, "m": 4}
LAST_CODAS = {
    "b": 2, "d": 8, "f": 1, "g": 3, "k": 2, "l": 6, "m": 5, "n": 11, "p": 5, "r": 11, "s": 4, "t": 11,
    "ck": 3, "ct": 1, "ft": 1, "ld": 2, "ll": 2, "lt": 2, "mp": 2, "nd": 4, "ng": 4, "nk": 1, "nt": 4, "rd": 2,
    "rk": 1, "rm": 1, "rn": 2, "rt": 2, "sh": 2, "sk": 1, "ss": 2, "st": 4, "th": 2,
}  # fmt: skip
SILENT_E = {"d": 2, "k": 3, "l": 3, "m": 2, "n": 4, "p": 2, "r": 3, "s": 3, "t": 4, "v": 2}
OPEN_ENDS = {"a": 3, "e": 2, "o": 2, "y": 6, "ay": 2, "ee": 1, "ow": 2}
# Sequences that English does not have: a letter three times, three vowels, four consonants, a doubled consonant before
# another or at the beginning, a long vowel before a heavy coda, and some other letter pairs.
UNSPELLABLE = re.compile(
    r"(.)\1\1|[aeiou]{3}|[^aeiouy]{4}|([^aeiou])\2[^aeiouy]|^([^aeiou])\3"
    r"|[aeiou]{2}(?:ck|ct|ft|ll|lt|mp|ng|nk|sk|ss)|m[^aeiouybmp]|[^aeiou]sh$|w[ou]{2}|yi"
)
ONE_LETTER = {"e": 1, "o": 1, "u": 1}  # "a" and "i" are words
ATTEMPTS = 100_000
REDRAWS = 100
LAST_SYLLABLE = {4: 0.6, 3: 0.8}  # letters left -> probability that one syllable takes them all


def nonword(word: str, seed: int | str = 0) -> str:
    """Replace a word, or each word of a text, by a pronounceable nonword with the same number of letters.

    Parameters
    ----------
    word
        A word in Latin letters, or a text. Digits, whitespace and punctuation are unchanged, and each letter of the
        nonword has the case of the letter it replaces.
    seed
        Seed of the draw. The same word and seed give the same nonword on every machine and Python version, whatever the
        case of the word.

    Returns
    -------
    str
        As long as ``word`` (after Unicode composition, NFC). A nonword of three or more letters contains a vowel, never
        has four consonants in a row, and is neither ``word`` nor one of the common English words that
        :func:`english_words` lists.

    Raises
    ------
    InputError
        ``word`` is not a string, has no letters, or has letters that are not Latin.

    Examples
    --------
    >>> nonword("The dog sleeps.", seed=1) == nonword("The dog sleeps.", seed=1)
    True
    """
    if not isinstance(word, str):
        raise InputError(f"`word` must be a string, got {word!r}.")
    if not isinstance(seed, str):
        check_seed(seed)
    composed = unicodedata.normalize("NFC", word)
    letters = [letter for match in WORD.finditer(composed) for letter in match[0] if letter.isalpha()]
    if not letters:
        raise InputError(f"`word` must have at least one letter, got {word!r}.")
    foreign = sorted({letter for letter in letters if not unicodedata.name(letter, "").startswith("LATIN ")})
    if foreign:
        raise InputError(f"`word` must be in Latin letters; {word!r} has {', '.join(foreign)}.")
    return WORD.sub(lambda match: _shaped(like=match[0], seed=seed), composed)


@cache
def english_words() -> frozenset[str]:
    """The words that are rejected as nonwords: common English words that the syllables could form, in lower case."""
    data = resources.files("modalnet.stimuli").joinpath("data")
    listed = data.joinpath("words.txt").read_text(encoding="utf-8").split()
    sentences = data.joinpath("sentences.txt").read_text(encoding="utf-8").lower()
    return frozenset(listed) | frozenset(WORD.findall(sentences))


def _shaped(like: str, seed: int | str) -> str:
    """A nonword with the apostrophes and capitals of the word it replaces."""
    letters = iter(_draw("".join(filter(str.isalpha, like)).lower(), seed))
    shaped = ""
    for old in like:
        new = next(letters) if old.isalpha() else old
        shaped += new.upper() if old.isupper() else new
    return shaped


def _draw(word: str, seed: int | str) -> str:
    # random() of a seeded Random is the same on every version of Python; choices() and randrange() promise less.
    rng = random.Random(f"modalnet nonword {seed} {word}")
    for _ in range(ATTEMPTS):
        letters = _pick(ONE_LETTER, rng) if len(word) == 1 else _syllables(len(word), rng)
        if len(letters) == len(word) and letters != word and letters not in english_words():
            return letters
    raise AssertionError(f"no nonword of {len(word)} letters in {ATTEMPTS} attempts")


def _syllables(length: int, rng: random.Random) -> str:
    """Syllables with this many letters in all, or an empty string where the draw reached a dead end."""
    letters = _fitting(lambda: _pick(FIRST_ONSETS, rng), "", range(length))
    while left := length - len(letters):
        last = rng.random() < LAST_SYLLABLE.get(left, left < 3)
        # An inner part leaves room for a vowel and a consonant; with three letters left, for a vowel ("-ly", "-to").
        sizes = range(left, left + 1) if last else range(2, max(left - 1, 3))
        piece = _fitting(lambda: _ending(rng) if last else _inner(rng), letters, sizes)  # noqa: B023 called at once
        if not piece:
            return ""
        letters += piece
    return letters


def _fitting(draw: Callable[[], str], before: str, sizes: range) -> str:
    """The first draw of a fitting size that can follow the preceding letters in English, or an empty string."""
    for _ in range(REDRAWS):
        piece = draw()
        if len(piece) in sizes and not UNSPELLABLE.search(before + piece):
            return piece
    return ""


def _inner(rng: random.Random) -> str:
    """The rest of a syllable and the onset of the next, after which the word can go on or end."""
    return _pick(NUCLEI, rng) + _pick(INNER_CODAS, rng) + _pick(LATER_ONSETS, rng)


def _ending(rng: random.Random) -> str:
    """A nucleus with a coda, an open ending, or a nucleus with a consonant and a silent e."""
    chance = rng.random()
    if chance < 0.15:
        return _pick(OPEN_ENDS, rng)
    if chance < 0.3:
        return _pick(NUCLEI, rng) + _pick(SILENT_E, rng) + "e"
    return _pick(NUCLEI, rng) + _pick(LAST_CODAS, rng)


def _pick(weights: dict[str, int], rng: random.Random) -> str:
    remaining = rng.random() * sum(weights.values())
    for choice, weight in weights.items():
        remaining -= weight
        if remaining < 0:
            return choice
    return choice
