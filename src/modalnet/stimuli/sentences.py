"""Sentences, and versions of them without meaning, without structure, or without both.

=================  ===================  ==============================
..                 English words        nonwords
=================  ===================  ==============================
with structure     ``sentences``        ``jabberwocky``
without structure  ``word-lists``       ``nonwords``
=================  ===================  ==============================

All are made from one file of sentences, word by word, so that the four conditions are matched in length.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise

from modalnet._validation import check_bool
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.frequency import zipf_frequencies
from modalnet.stimuli.nonwords import WORD, english_words, nonword
from modalnet.stimuli.package_data import data_lines, data_text, numbered

SINGULAR = {"sentences": "sentence", "word-lists": "word-list", "nonwords": "nonword"}
MAX_REPEATS = 2
TRIES = 10_000


def language(n: int | None = None, *, items: bool = False) -> Contrast:
    """Sentences > strings of nonwords, the contrast for the language network.

    240 plain English sentences of 8 to 12 words, written for this package, and 240 strings made from them word by word:
    each word is replaced by a pronounceable nonword with the same number of letters, capitals and punctuation. The two
    conditions are therefore matched in words, letters and characters. A word becomes the same nonword in every sentence
    and two words never become the same nonword, so the strings repeat as the sentences do.

    The design is that of Fedorenko et al. (2010); the items are new (:func:`modalnet.stimuli.fedorenko2010` reads the
    original ones). Both sets find the same network: on Gemma 3 270M under ``protocol="alkhamissi2025"`` the top 1% of
    units of the one and of the other overlap with a Dice coefficient of 0.27 (layer-matched random units 0.01, at most
    0.04 in 20 draws), the top 0.125% with 0.64 (0.00), and t over all units correlates at 0.81. Without the protocol's
    truncation to 12 tokens, where these nonwords have more tokens than the sentences, it is 0.16 (0.01) for the top 1%.

    Parameters
    ----------
    n
        Number of stimuli per condition, 2 to 240; None takes all.
    items
        True makes sentence *i* and the string made from it one item, so that :func:`modalnet.localize` tests them as
        pairs; by default the test is Welch's, as in the literature.

    Returns
    -------
    Contrast
        Conditions ``sentences`` (ids ``"sentence-001"``, …) and ``nonwords`` (``"nonword-001"``, …). String *i* is made
        from sentence *i*.

    Raises
    ------
    InputError
        ``n`` is out of range, or ``items`` is not a bool.

    References
    ----------
    Fedorenko, Hsieh, Nieto-Castañón, Whitfield-Gabrieli & Kanwisher (2010). New method for fMRI investigations of
    language: defining ROIs functionally in individual subjects. Journal of Neurophysiology 104, 1177-1194.
    """
    check_bool("items", items)
    sentences = tuple(data_lines("sentences.txt"))
    groups = {"sentences": sentences, "nonwords": _nonword_strings(sentences)}
    return Contrast(numbered(groups, n, SINGULAR, paired=items), positive="sentences", negative="nonwords")


def language_conditions(n: int | None = None, *, items: bool = False) -> Contrast:
    """Sentences > word lists, Jabberwocky and nonwords: a two-by-two design of words and structure.

    The conditions of Fedorenko et al. (2010; 2016), each made from the 240 sentences of :func:`language`:

    ``sentences``
        Words and structure.
    ``word-lists``
        Words without structure. The words of all sentences are redistributed: list *i* has as many words of each length
        as sentence *i*, in an order in which no two words are adjacent that are adjacent in a sentence. The 240 lists
        together contain exactly the words of the 240 sentences.
    ``jabberwocky``
        Structure without (content) words. Function words, except numerals, and inflectional endings (-s, -ed, -ing,
        -er, -est, and -ly) are kept; the rest of each content word is replaced by a nonword with the same number of
        letters. Words with the same stem keep a common stem: *clean*, *cleaner* and *cleaned*.
    ``nonwords``
        Neither: the strings of :func:`language`.

    Stimulus *i* of each condition has the words, letters, capitals and punctuation marks of sentence *i* in number; the
    four conditions are matched in length item by item. In the published sets each condition has its own items; here the
    conditions share them, so that differences between conditions are not differences between items.

    Parameters
    ----------
    n
        Number of stimuli per condition, 2 to 240; None takes all.
    items
        True makes the four stimuli with one number one item, so that :func:`modalnet.localize` compares their means
        item by item; by default the test is Welch's. Word list *i* has other words than sentence *i*: the two are alike
        in the number of words and letters alone.

    Returns
    -------
    Contrast
        Positive ``sentences``, negative the other three; ids such as ``"word-list-001"``. The other effects of the
        design are contrasts of the same stimuli: see the examples.

    Raises
    ------
    InputError
        ``n`` is out of range, or ``items`` is not a bool.

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
    check_bool("items", items)
    sentences = tuple(data_lines("sentences.txt"))
    groups = {
        "sentences": sentences,
        "word-lists": _word_lists(sentences),
        "jabberwocky": _jabberwocky(sentences),
        "nonwords": _nonword_strings(sentences),
    }
    return Contrast(numbered(groups, n, SINGULAR, paired=items), positive="sentences")


@cache  # making nonwords takes half a second
def _nonword_strings(sentences: tuple[str, ...]) -> tuple[str, ...]:
    """Replace each word of each sentence, with one nonword per word type of the whole set."""
    seeds = _seeds((word for sentence in sentences for word in WORD.findall(sentence.lower())), lambda _, __: True)
    return tuple(WORD.sub(lambda match: nonword(match[0], seeds[match[0].lower()]), sentence) for sentence in sentences)


@cache  # making nonwords takes half a second
def _jabberwocky(sentences: tuple[str, ...]) -> tuple[str, ...]:
    """Replace the stem of each content word, with one nonword per stem of the whole set."""
    function_words = frozenset(data_text("function_words.txt").split())
    endings = dict(_split_words())
    english = english_words() | zipf_frequencies().keys()

    def stem(word: str) -> str:
        return word.removesuffix(endings.get(word, ""))

    content = [word for sentence in sentences for word in WORD.findall(sentence.lower()) if word not in function_words]
    forms: dict[str, set[str]] = {}
    for word in content:
        forms.setdefault(stem(word), set()).add(endings.get(word, ""))
    # A nonword must not form a word with the ending: "bl" would, with "-ed".
    seeds = _seeds(map(stem, content), lambda made, of: not any(made + ending in english for ending in forms[of]))

    def replaced(word: str) -> str:
        if word.lower() in function_words:
            return word
        root = stem(word.lower())
        return nonword(word[: len(root)], seeds[root]) + word[len(root) :]

    return tuple(WORD.sub(lambda match: replaced(match[0]), sentence) for sentence in sentences)


def _split_words() -> Iterator[tuple[str, str]]:
    """(inflected word, ending) for each word of the list of endings ("walk-ed")."""
    for entry in data_text("endings.txt").split():
        stem, ending = entry.split("-")
        yield stem + ending, ending


def _seeds(words: Iterable[str], accepts: Callable[[str, str], bool]) -> dict[str, int]:
    """For each word the first seed whose nonword is accepted and replaces no other word."""
    seeds: dict[str, int] = {}
    taken: set[str] = set()
    for word in words:
        if word in seeds:
            continue
        seeds[word] = next(
            seed for seed in range(1000) if (made := nonword(word, seed)) not in taken and accepts(made, word)
        )
        taken.add(nonword(word, seeds[word]))
    return seeds


def _word_lists(sentences: Sequence[str]) -> list[str]:
    """Redistribute the words of all sentences, each list with words as long as those of its sentence."""
    # random() of a seeded Random is the same on every version of Python; shuffle() promises less.
    rng = random.Random("modalnet word lists")
    tokens = [WORD.findall(sentence) for sentence in sentences]
    names = {word for words in tokens for word in words[1:] if word[0].isupper()}  # "I", "Sunday": always capitalized
    original = [[word if word in names else word.lower() for word in words] for words in tokens]
    of_length: dict[int, list[str]] = {}
    for word in _shuffled((word for words in original for word in words), rng):
        of_length.setdefault(len(word), []).append(word)
    redistributed = [[of_length[len(word)].pop() for word in words] for words in original]
    _spread(redistributed, rng)
    neighbours = {pair for words in original for pair in pairwise(words)}
    lists = (_unordered(words, neighbours, rng) for words in redistributed)
    return [_in_the_shape_of(sentence, words) for sentence, words in zip(sentences, lists, strict=True)]


def _spread(lists: list[list[str]], rng: random.Random) -> None:
    """Exchange words of equal length between lists, in place, until none contains a word more than twice."""
    of_length: dict[int, list[tuple[int, int]]] = {}
    for index, words in enumerate(lists):
        for position, word in enumerate(words):
            of_length.setdefault(len(word), []).append((index, position))
    for words in lists:
        for position, word in enumerate(words):
            others = of_length[len(word)]
            while words.count(word) > MAX_REPEATS:
                index, other_position = others[int(rng.random() * len(others))]
                other = lists[index][other_position]
                if lists[index].count(word) < MAX_REPEATS and words.count(other) < MAX_REPEATS:
                    words[position], lists[index][other_position] = other, word
                    break


def _unordered(words: list[str], neighbours: set[tuple[str, str]], rng: random.Random) -> list[str]:
    """An order of the words in which no two are adjacent that are adjacent in a sentence."""
    for _ in range(TRIES):
        words = _shuffled(words, rng)
        if not any(left == right or (left, right) in neighbours for left, right in pairwise(words)):
            return words
    raise AssertionError(f"no order of {words} without neighbours of a sentence in {TRIES} attempts")


def _in_the_shape_of(sentence: str, words: list[str]) -> str:
    """The words in the positions of the sentence's words, with its punctuation and initial capital."""
    left = iter(words)
    text = WORD.sub(lambda _: next(left), sentence)
    return text[0].upper() + text[1:]


def _shuffled(words: Iterable[str], rng: random.Random) -> list[str]:
    return sorted(words, key=lambda _: rng.random())
