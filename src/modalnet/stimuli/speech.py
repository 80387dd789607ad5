"""Spoken sentences, and versions of them without words, without longer structure, or without any structure in time.

===================  ======================================  ==================
condition            kept from the sentence                  made by
===================  ======================================  ==================
``sentences``        everything                              speech synthesis
``nonwords``         voice, number of words, duration        speech synthesis
``quilted``          acoustics within 30 ms                  :func:`quilt`
``phase-scrambled``  long-term spectrum                      :func:`phase_scramble_sound`
===================  ======================================  ==================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources

import numpy as np

from modalnet._validation import check_bool, check_int, check_options, check_seed
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.package_data import data_rows
from modalnet.stimuli.sound_scramble import phase_scramble_sound, quilt
from modalnet.stimuli.sound_sets import LEVEL, MINIMUM_N, at_level
from modalnet.stimuli.sounds import Sound, load_sound
from modalnet.stimuli.stimulus import Stimulus

INDEX = "speech/index.tsv"
# condition -> prefix of the ids; `language()` and `vision()` have ids such as "sentence-007", so these are others.
SINGULAR = {
    "sentences": "spoken-sentence",
    "phase-scrambled": "phase-scrambled-sentence",
    "quilted": "quilted-sentence",
    "nonwords": "spoken-nonword",
}
NEGATIVE = tuple(name for name in SINGULAR if name != "sentences")
SCRAMBLES: dict[str, Callable[[Sound, int], Sound]] = {
    "phase-scrambled": phase_scramble_sound,
    "quilted": lambda sound, seed: quilt(sound, seed=seed),
}
_SERIES = 5


def speech(
    n: int | None = None,
    *,
    against: str | Sequence[str] = "phase-scrambled",
    items: bool = False,
    seed: int = 0,
) -> Contrast:
    """Spoken sentences > scrambled, quilted or meaningless speech: units of speech, or of spoken language.

    30 of the sentences of :func:`language`, spoken by a speech synthesizer (espeak-ng, American English), 16 kHz, 2 to
    3 s. Every other condition is matched to them, sentence by sentence, in duration (to the sample) and level (root
    mean square 0.05 of full scale):

    ===================  ============================================================================================
    ``phase-scrambled``  the sentence with random phases: the same long-term spectrum, steady noise
                         (:func:`phase_scramble_sound`)
    ``quilted``          the sentence with its segments of 30 ms in another order, in which it changes from one segment
                         to the next about as much (:func:`quilt`)
    ``nonwords``         the string of nonwords that :func:`language` makes from the sentence, in the same voice: as
                         many words, and up to two phonemes more or fewer
    ===================  ============================================================================================

    The first is a contrast for all that responds to speech rather than to noise, the second for structure that is
    longer than a segment (syllables, words, prosody), the third for words and sentences as such.

    The speech is synthetic and has one voice. Nonwords are spoken 0.97 to 1.11 times as fast as the sentences, so that
    they take the same time: espeak-ng shortens function words, which the nonwords lack. What still differs in duration,
    0.8% at most and 0.3% on average, is silence at the end of the shorter one. Quilts change from segment to segment by
    1.1 times as much as the sentences (L2 distance of cochleagrams); in random order the segments change by 1.6 times
    as much. Whisper tiny.en transcribes the sentences with a word error rate of 0.27. It transcribes the nonwords as
    other words (word error rate 1.13, by their spelling), and next to nothing of the quilts and the phase-scrambled
    sentences (1.00).

    Parameters
    ----------
    n
        Number of stimuli per condition, 2 to 30; None takes all. Stimulus *i* does not depend on ``n``.
    against
        The condition, or list of conditions, to compare with.
    items
        True makes a sentence and all that is made from it one item, so that :func:`modalnet.localize` tests them as
        pairs; by default the test is Welch's, as in the literature.
    seed
        Seed of the random phases and of the quilts; speech itself is recorded.

    Returns
    -------
    Contrast
        Sounds without text, positive ``sentences``. The sound with the id ``"spoken-sentence-007"`` is the sentence
        ``"sentence-007"`` of :func:`language`; ``"quilted-sentence-007"`` and ``"spoken-nonword-007"`` belong to it.

    Raises
    ------
    InputError
        ``n`` is out of range, ``against`` names an unknown condition, ``items`` is not a bool, ``seed`` is not a
        non-negative integer, or soundfile is not installed.

    References
    ----------
    Overath, McDermott, Zarate & Poeppel (2015). The cortical analysis of speech-specific temporal structure revealed by
    responses to sound quilts. Nature Neuroscience 18, 903-911.
    Scott, Blank, Rosen & Wise (2000). Identification of a pathway for intelligible speech in the left temporal lobe.
    Brain 123, 2400-2406.

    Examples
    --------
    >>> speech(n=8, against="quilted", items=True)
    Contrast('sentences > quilted': 8 positive, 8 negative)
    """
    chosen = check_options("against", against, NEGATIVE)
    return _contrast(n, [name for name in NEGATIVE if name in chosen], items, seed)


def speech_conditions(n: int | None = None, *, items: bool = False, seed: int = 0) -> Contrast:
    """Spoken sentences > phase-scrambled, quilted and meaningless speech, all conditions of :func:`speech`.

    Parameters
    ----------
    n
        Number of stimuli per condition, 2 to 30; None takes all.
    items
        True makes a sentence and all that is made from it one item, so that :func:`modalnet.localize` compares their
        means item by item; by default the test is Welch's.
    seed
        Seed of the random phases and of the quilts.

    Returns
    -------
    Contrast
        Positive ``sentences``, negative the other three, for response profiles. Other contrasts are made of the same
        stimuli: see the example.

    Raises
    ------
    InputError
        As for :func:`speech`.

    Examples
    --------
    >>> four = speech_conditions(n=4)
    >>> Contrast(four.stimuli, ["sentences", "nonwords"], ["quilted", "phase-scrambled"])
    Contrast('sentences,nonwords > quilted,phase-scrambled': 8 positive, 8 negative)
    """
    return _contrast(n, NEGATIVE, items, seed)


def _contrast(n: int | None, negative: Sequence[str], items: bool, seed: int) -> Contrast:
    rows = data_rows(INDEX)
    recorded = {name: [row for row in rows if row["condition"] == name] for name in ("sentences", "nonwords")}
    if n is not None:
        check_int("n", n, minimum=MINIMUM_N, maximum=len(recorded["sentences"]))
    check_bool("items", items)
    check_seed(seed)
    stimuli = []
    for condition in ("sentences", *negative):
        for row in recorded["nonwords" if condition == "nonwords" else "sentences"][:n]:
            sound = _recording(row["file"])
            if condition in SCRAMBLES:
                drawn = np.random.default_rng([_SERIES, seed, int(row["item"])]).integers(2**31)
                sound = SCRAMBLES[condition](sound, int(drawn))
            name = f"{SINGULAR[condition]}-{row['item']}"
            item = row["item"] if items else None
            stimuli.append(Stimulus(audio=sound, condition=condition, id=name, item=item))
    return Contrast(stimuli, "sentences", negative)


def _recording(file: str) -> Sound:
    """A sound of the package, at the common level: 16 bits are a little off it."""
    content = resources.files("modalnet.stimuli").joinpath("data", "speech", file).read_bytes()
    sound = load_sound(content, file)
    return Sound(at_level(sound.samples.astype(np.float64), LEVEL).astype(np.float32), sound.rate)
