"""Subject-verb agreement in number, on sentences that no localizer of this package has."""

from __future__ import annotations

from modalnet._validation import check_bool
from modalnet.stimuli.agreement import TEST, agreement_pairs
from modalnet.tasks.minimal_pairs import MinimalPairs


def agreement(n: int = 120, *, attractors: bool = False, per_token: bool = False, seed: int = 0) -> MinimalPairs:
    """Minimal pairs of English subject-verb agreement, made from templates.

    Sentences like those of :func:`modalnet.stimuli.agreement`, with other nouns and predicates: whatever the seeds, no
    noun and no predicate of a sentence here occurs there, so that units can be localized on the one set and tested on
    the other.

    Parameters
    ----------
    n
        Number of pairs, 1 to 1,000; every four in turn hold each kind of verb (regular, auxiliary) with each number of
        the subject. Pair *i* does not depend on ``n``.
    attractors
        True puts a noun of the other number between subject and verb: "The actors near the wall draw a map."
    per_token
        As for :func:`minimal_pairs`.
    seed
        Seed of the draw of sentences.

    Returns
    -------
    MinimalPairs
        Scored as in :func:`minimal_pairs`; chance is 0.5, and so is the score of a model that always prefers the verb
        in -s, or the shorter one. Items are named ``001-regular-singular``; the singular and the plural version of a
        frame are a group.

    Raises
    ------
    InputError
        ``n`` is out of range, ``attractors`` or ``per_token`` is not a bool, or ``seed`` is not a non-negative integer.

    References
    ----------
    Linzen, Dupoux & Goldberg (2016). Assessing the ability of LSTMs to learn syntax-sensitive dependencies. TACL 4,
    521-535.
    Marvin & Linzen (2018). Targeted syntactic evaluation of language models. EMNLP, 1192-1202.
    """
    check_bool("per_token", per_token)
    pairs = agreement_pairs(n, TEST, attractors=attractors, seed=seed)
    return MinimalPairs(
        "agreement with attractors" if attractors else "agreement",
        [pair.item for pair in pairs],
        [(pair.good, pair.bad) for pair in pairs],
        [pair.frame for pair in pairs],
        per_token=per_token,
    )
