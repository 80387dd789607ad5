"""Sentences, and what is left of them without their meaning, without their structure, or without both.

===============  ===================  ==============================
..               words of English     nonwords
===============  ===================  ==============================
in a structure   ``sentences``        ``jabberwocky``
in no structure  ``word-lists``       ``nonwords``
===============  ===================  ==============================

Everything is made from one file of sentences, word by word, so that the four conditions agree in length.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from modalnet.stimuli.bundled import data_lines, data_text, numbered
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.frequency import zipf_frequencies
from modalnet.stimuli.nonwords import WORD, english_words, nonword

ONE = {"sentences": "sentence", "word-lists": "word-list", "nonwords": "nonword"}
MOST_IN_A_LIST = 2
TRIES = 10_000


def language(n: int | None = None) -> Contrast:
    """Sentences > strings of nonwords, the contrast that finds the language network.

    240 plain English sentences of 8 to 12 words, written for this package, and 240 strings made from them word by
    word: each word is replaced by a pronounceable nonword of as many letters, with its capitals and punctuation
    kept. The two conditions are therefore equal in words, letters and characters. A word becomes the same nonword
    wherever it stands and two words never become the same one, so what repeats in the sentences repeats in the strings.

    The design is that of Fedorenko et al. (2010); the items are not theirs (:func:`fedorenko2010` reads those). Both
    find the same network: on Gemma 3 270M under ``protocol="alkhamissi2025"`` the top 1% of units from the one and
    from the other overlap with a Dice of 0.27 (layer-matched random units 0.01, at most 0.04 of 20 draws), the top
    0.125% with 0.64 (0.00), and t over all units correlates at 0.81. Without the protocol's cut to 12 tokens, where
    these nonwords are longer in tokens than the sentences, it is 0.16 (0.01) for the top 1%.

    Parameters
    ----------
    n
        Take the first ``n`` of each condition, 2 to 240; None takes all.

    Returns
    -------
    Contrast
        Conditions ``sentences`` (ids ``"sentence-001"``, …) and ``nonwords`` (``"nonword-001"``, …). String *i* is
        made from sentence *i*.

    Raises
    ------
    InputError
        ``n`` is out of range.

    References
    ----------
    Fedorenko, Hsieh, Nieto-Castañón, Whitfield-Gabrieli & Kanwisher (2010). New method for fMRI investigations of
    language: defining ROIs functionally in individual subjects. Journal of Neurophysiology 104, 1177-1194.
    """
    sentences = data_lines("sentences.txt")
    groups = {"sentences": sentences, "nonwords": _nonword_strings(sentences)}
    return Contrast(numbered(groups, n, ONE), positive="sentences", negative="nonwords")


def language_conditions(n: int | None = None) -> Contrast:
    """Sentences > word lists, Jabberwocky and nonwords: the words and the structure of language, crossed.

    The conditions of Fedorenko et al. (2010; 2016), each made from the 240 sentences of :func:`language`:

    ``sentences``
        Words and structure.
    ``word-lists``
        Words without structure. The words of all sentences are dealt out anew: list *i* has as many words of each
        length as sentence *i*, in an order where no word follows one that it follows in any of the sentences. The
        240 lists together hold exactly the words of the 240 sentences.
    ``jabberwocky``
        Structure without (content) words. Function words, numerals apart, and inflectional endings (-s, -ed, -ing,
        -er, -est, and -ly) stay; the rest of each content word is replaced by a nonword of as many letters. Words
        of one stem keep one stem: *clean*, *cleaner* and *cleaned* share it.
    ``nonwords``
        Neither: the strings of :func:`language`.

    Stimulus *i* of each condition has the words, letters, capitals and punctuation marks of sentence *i*; the four
    are equal in length item by item. In the published sets each condition has items of its own; here they share
    them, so that a difference between conditions is no difference between items.

    Parameters
    ----------
    n
        Take the first ``n`` of each condition, 2 to 240; None takes all.

    Returns
    -------
    Contrast
        Positive ``sentences``, negative the three others; ids such as ``"word-list-001"``. The other questions of
        the design are contrasts of the same stimuli: see the examples.

    Raises
    ------
    InputError
        ``n`` is out of range.

    References
    ----------
    Fedorenko, Hsieh, Nieto-Castañón, Whitfield-Gabrieli & Kanwisher (2010). New method for fMRI investigations of
    language: defining ROIs functionally in individual subjects. Journal of Neurophysiology 104, 1177-1194.
    Fedorenko, Scott, Brunner, Coon, Pritchett, Schalk & Kanwisher (2016). Neural correlate of the construction of
    sentence meaning. PNAS 113, E6256-E6262.

    Examples
    --------
    >>> four = language_conditions()
    >>> words = Contrast(four.stimuli, ["sentences", "word-lists"], ["jabberwocky", "nonwords"])
    >>> structure = Contrast(four.stimuli, ["sentences", "jabberwocky"], ["word-lists", "nonwords"])
    >>> structure
    Contrast('sentences,jabberwocky > word-lists,nonwords': 480 positive, 480 negative)
    """
    sentences = data_lines("sentences.txt")
    groups = {
        "sentences": sentences,
        "word-lists": _word_lists(sentences),
        "jabberwocky": _jabberwocky(sentences),
        "nonwords": _nonword_strings(sentences),
    }
    return Contrast(numbered(groups, n, ONE), positive="sentences")


def _nonword_strings(sentences: list[str]) -> list[str]:
    """Each word of each sentence replaced, one nonword per word of the whole set."""
    seeds = _seeds((word for sentence in sentences for word in WORD.findall(sentence.lower())), lambda _, __: True)
    return [WORD.sub(lambda match: nonword(match[0], seeds[match[0].lower()]), sentence) for sentence in sentences]


def _jabberwocky(sentences: list[str]) -> list[str]:
    """Each content word's stem replaced, one nonword per stem of the whole set."""
    kept = frozenset(data_text("function_words.txt").split())
    endings = dict(_split_words())
    english = english_words() | zipf_frequencies().keys()

    def stem(word: str) -> str:
        return word.removesuffix(endings.get(word, ""))

    content = [word for sentence in sentences for word in WORD.findall(sentence.lower()) if word not in kept]
    forms: dict[str, set[str]] = {}
    for word in content:
        forms.setdefault(stem(word), set()).add(endings.get(word, ""))
    # A nonword must not become a word with the ending put back: "bl" would, before "-ed".
    seeds = _seeds(map(stem, content), lambda made, of: not any(made + ending in english for ending in forms[of]))

    def replaced(word: str) -> str:
        if word.lower() in kept:
            return word
        old = stem(word.lower())
        return nonword(word[: len(old)], seeds[old]) + word[len(old) :]

    return [WORD.sub(lambda match: replaced(match[0]), sentence) for sentence in sentences]


def _split_words() -> Iterator[tuple[str, str]]:
    """Inflected word and its ending, for each word that the file splits ("walk-ed")."""
    for entry in data_text("endings.txt").split():
        stem, ending = entry.split("-")
        yield stem + ending, ending


def _seeds(words: Iterable[str], fits: Callable[[str, str], bool]) -> dict[str, int]:
    """For each word the first seed whose nonword fits and stands for no other word."""
    seeds: dict[str, int] = {}
    taken: set[str] = set()
    for word in words:
        if word in seeds:
            continue
        seeds[word] = next(
            seed for seed in range(1000) if (made := nonword(word, seed)) not in taken and fits(made, word)
        )
        taken.add(nonword(word, seeds[word]))
    return seeds


def _word_lists(sentences: list[str]) -> list[str]:
    """The words of all sentences dealt out anew, each list with words as long as those of its sentence."""
    # random() of a seeded Random is the same on every version of Python; shuffle() promises less.
    rng = random.Random("modalnet word lists")
    found = [WORD.findall(sentence) for sentence in sentences]
    names = {word for words in found for word in words[1:] if word[0].isupper()}  # "I", "Sunday": capital anywhere
    given = [[word if word in names else word.lower() for word in words] for words in found]
    of_length: dict[int, list[str]] = {}
    for word in _shuffled((word for words in given for word in words), rng):
        of_length.setdefault(len(word), []).append(word)
    dealt = [[of_length[len(word)].pop() for word in words] for words in given]
    _spread(dealt, rng)
    neighbours = {pair for words in given for pair in pairwise(words)}
    lists = (_unordered(words, neighbours, rng) for words in dealt)
    return [_in_the_shape_of(sentence, words) for sentence, words in zip(sentences, lists, strict=True)]


def _spread(lists: list[list[str]], rng: random.Random) -> None:
    """Exchange words of one length between lists, in place, until none holds a word more often than twice."""
    of_length: dict[int, list[tuple[int, int]]] = {}
    for index, words in enumerate(lists):
        for place, word in enumerate(words):
            of_length.setdefault(len(word), []).append((index, place))
    for words in lists:
        for place, word in enumerate(words):
            others = of_length[len(word)]
            while words.count(word) > MOST_IN_A_LIST:
                index, there = others[int(rng.random() * len(others))]
                other = lists[index][there]
                if lists[index].count(word) < MOST_IN_A_LIST and words.count(other) < MOST_IN_A_LIST:
                    words[place], lists[index][there] = other, word
                    break


def _unordered(words: list[str], neighbours: set[tuple[str, str]], rng: random.Random) -> list[str]:
    """An order of the words in which no two stand together that do so in a sentence."""
    for _ in range(TRIES):
        words = _shuffled(words, rng)
        if not any(left == right or (left, right) in neighbours for left, right in pairwise(words)):
            return words
    raise AssertionError(f"no order of {words} without neighbours of a sentence in {TRIES} attempts")


def _in_the_shape_of(sentence: str, words: list[str]) -> str:
    """The words in the places of the sentence's own, with its punctuation and its first capital."""
    left = iter(words)
    text = WORD.sub(lambda _: next(left), sentence)
    return text[0].upper() + text[1:]


def _shuffled(words: Iterable[str], rng: random.Random) -> list[str]:
    return sorted(words, key=lambda _: rng.random())
