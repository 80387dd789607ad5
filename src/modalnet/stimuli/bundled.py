"""Stimulus sets that come with the package: no download, and free to use with it."""

from __future__ import annotations

from importlib import resources

from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.nonwords import WORD, nonword
from modalnet.stimuli.stimulus import Stimulus


def language(n: int | None = None) -> Contrast:
    """Sentences > strings of nonwords, the contrast that finds the language network.

    240 plain English sentences of 8 to 12 words, written for this package, and 240 strings made from them word by
    word: each word is replaced by a pronounceable nonword of as many letters, with its capitals and punctuation
    kept. The two conditions are therefore equal in words, letters and characters. A word becomes the same nonword
    wherever it stands and two words never become the same one, so what repeats in the sentences repeats in the strings.

    The design is that of Fedorenko et al. (2010); the items are not theirs (:func:`fedorenko2010` reads those).

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
    sentences = _lines("sentences.txt")
    if n is not None and not (isinstance(n, int) and 2 <= n <= len(sentences)):
        raise InputError(f"n is the number of stimuli per condition, 2 to {len(sentences)}; this is {n!r}.")
    kept = slice(n)
    groups = {"sentence": sentences[kept], "nonword": _nonword_strings(sentences)[kept]}
    stimuli = [
        Stimulus(text, condition=f"{kind}s", id=f"{kind}-{number:03d}")
        for kind, texts in groups.items()
        for number, text in enumerate(texts, start=1)
    ]
    return Contrast(stimuli, positive="sentences", negative="nonwords")


def _lines(name: str) -> list[str]:
    file = resources.files("modalnet.stimuli").joinpath("data", name)
    return file.read_text(encoding="utf-8").splitlines()


def _nonword_strings(sentences: list[str]) -> list[str]:
    """Each word of each sentence replaced, one nonword per word of the whole set."""
    seeds: dict[str, int] = {}
    taken: set[str] = set()
    for word in WORD.findall(" ".join(sentences).lower()):
        if word in seeds:
            continue
        # A nonword that already stands for another word gives way to the next seed's.
        seeds[word] = next(seed for seed in range(1000) if nonword(word, seed) not in taken)
        taken.add(nonword(word, seeds[word]))
    return [WORD.sub(lambda match: nonword(match[0], seeds[match[0].lower()]), sentence) for sentence in sentences]
