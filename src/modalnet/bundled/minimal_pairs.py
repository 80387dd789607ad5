"""Minimal pairs: a grammatical sentence, and the same sentence with one word that makes it ungrammatical.

The phenomena are ten of those of BLiMP, drawn from the grammar of :mod:`modalnet.bundled.grammar`.

References
----------
Warstadt, Parrish, Liu, Mohananey, Peng, Wang & Bowman (2020). BLiMP: the benchmark of linguistic minimal pairs for
English. TACL 8, 377-392.
"""

from __future__ import annotations

from collections.abc import Callable

from modalnet.bundled.grammar import (
    Phrase,
    Rng,
    chance,
    conjugate,
    noun_phrase,
    pick,
    place_phrase,
    relative_phrase,
    subject,
    verb_phrase,
)
from modalnet.bundled.lexicon import (
    ADJECTIVES,
    ANIMALS,
    CLAUSE_VERBS,
    EATING_VERBS,
    FOODS,
    INTRANSITIVE_VERBS,
    MEN,
    PEOPLE,
    PERSON_VERBS,
    PREPOSITIONS,
    REFLEXIVE_VERBS,
    THINGS,
    TRANSITIVE_VERBS,
    WOMEN,
)
from modalnet.bundled.split import held_out


def minimal_pair(rng: Rng, phenomenon: str) -> tuple[str, str]:
    """Draw a minimal pair whose grammatical sentence belongs to the test set.

    Parameters
    ----------
    rng
        Source of randomness.
    phenomenon
        A key of ``PHENOMENA``.

    Returns
    -------
    tuple of str
        (grammatical, ungrammatical).
    """
    while True:
        good, bad = PHENOMENA[phenomenon](rng)
        if held_out("sentence", good):
            return good, bad


def _agreement(rng: Rng) -> tuple[str, str]:
    who = noun_phrase(rng, PEOPLE + ANIMALS, describe=0.3)
    verb = pick(rng, INTRANSITIVE_VERBS)
    if chance(rng, 0.5):
        where = place_phrase(rng)
        return f"{who.text} {verb.form(who.plural)} {where}.", f"{who.text} {verb.form(not who.plural)} {where}."
    return _copula_pair(rng, who)


def _copula_pair(rng: Rng, who: Phrase) -> tuple[str, str]:
    adjective = pick(rng, ADJECTIVES)
    forms = [("is", "are"), ("was", "were")][int(rng.integers(2))]
    return f"{who.text} {forms[who.plural]} {adjective}.", f"{who.text} {forms[not who.plural]} {adjective}."


def _attractor_phrase(rng: Rng) -> tuple[str, str]:
    plural = chance(rng, 0.5)
    head = noun_phrase(rng, THINGS, plural, describe=0.2)
    other = noun_phrase(rng, THINGS, not plural, describe=0.2)
    return _copula_pair(rng, Phrase(f"{head.text} {pick(rng, PREPOSITIONS)} {other.text}", plural))


def _attractor_relative(rng: Rng) -> tuple[str, str]:
    plural = chance(rng, 0.5)
    who = relative_phrase(rng, plural, not plural)
    if chance(rng, 0.5):
        return _copula_pair(rng, who)
    verb = pick(rng, INTRANSITIVE_VERBS)
    where = place_phrase(rng)
    return f"{who.text} {verb.form(plural)} {where}.", f"{who.text} {verb.form(not plural)} {where}."


def _determiner(rng: Rng) -> tuple[str, str]:
    plural = chance(rng, 0.5)
    noun = pick(rng, THINGS + ANIMALS + PEOPLE)
    who, verb = subject(rng), pick(rng, TRANSITIVE_VERBS)
    start = f"{who.text} {verb.past} {pick(rng, ['these', 'those'] if plural else ['this', 'that'])}"
    adjective = f"{pick(rng, ADJECTIVES)} " if chance(rng, 0.4) else ""
    good, bad = (noun.plural, noun.singular) if plural else (noun.singular, noun.plural)
    return f"{start} {adjective}{good}.", f"{start} {adjective}{bad}."


def _anaphor(rng: Rng) -> tuple[str, str]:
    plural = chance(rng, 0.33)
    who = noun_phrase(rng, MEN + WOMEN, plural, describe=0.3)
    forms = ["himself", "herself", "themselves"]
    right = who.reflexive
    wrong = pick(rng, [form for form in forms if form != right])
    verb = pick(rng, REFLEXIVE_VERBS)
    start = f"{who.text} {conjugate(rng, verb, who, 'past')}"
    return f"{start} {right}.", f"{start} {wrong}."


def _negative_polarity(rng: Rng) -> tuple[str, str]:
    verb, rest = verb_phrase(rng)
    plural = chance(rng, 0.5)
    noun = pick(rng, PEOPLE + ANIMALS).form(plural)
    has = "have" if plural else "has"
    end = f"{noun} {has} ever {verb.participle} {rest}".strip()
    return f"no {end}.", f"{pick(rng, ['the', 'these' if plural else 'this', 'my'])} {end}."


def _transitivity(rng: Rng) -> tuple[str, str]:
    who = noun_phrase(rng, PEOPLE, describe=0.3)
    good = pick(rng, TRANSITIVE_VERBS)
    bad = pick(
        rng,
        [
            verb
            for verb in INTRANSITIVE_VERBS
            if verb.base
            not in ("fly", "grow", "shake", "run", "walk", "play", "sing", "work", "jump", "dance", "wake", "travel")
        ],
    )
    what = noun_phrase(rng, THINGS).text
    return f"{who.text} {good.past} {what}.", f"{who.text} {bad.past} {what}."


def _participle(rng: Rng) -> tuple[str, str]:
    who = noun_phrase(rng, PEOPLE, describe=0.3)
    verb = pick(rng, [verb for verb in TRANSITIVE_VERBS + EATING_VERBS if verb.participle != verb.past])
    what = noun_phrase(rng, FOODS if verb in EATING_VERBS else THINGS).text
    has = "have" if who.plural else "has"
    if chance(rng, 0.5):
        return f"{who.text} {has} {verb.participle} {what}.", f"{who.text} {has} {verb.past} {what}."
    return f"{who.text} {verb.past} {what}.", f"{who.text} {verb.participle} {what}."


def _pronoun_case(rng: Rng) -> tuple[str, str]:
    subject_form, object_form = pick(rng, [("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("i", "me")])
    verb = pick(rng, PERSON_VERBS)
    who = noun_phrase(rng, PEOPLE, describe=0.3)
    if chance(rng, 0.5):
        return f"{who.text} {verb.past} {object_form}.", f"{who.text} {verb.past} {subject_form}."
    return f"{subject_form} {verb.past} {who.text}.", f"{object_form} {verb.past} {who.text}."


def _filler_gap(rng: Rng) -> tuple[str, str]:
    who, about = subject(rng), noun_phrase(rng, PEOPLE, describe=0.2)
    matrix_verb = pick(rng, [verb for verb in CLAUSE_VERBS if verb.base not in ("think", "hope", "believe")])
    verb = pick(rng, TRANSITIVE_VERBS)
    what = noun_phrase(rng, THINGS).text
    start = f"{who.text} {matrix_verb.past}"
    return f"{start} that {about.text} {verb.past} {what}.", f"{start} what {about.text} {verb.past} {what}."


PHENOMENA: dict[str, Callable[[Rng], tuple[str, str]]] = {
    "subject-verb agreement": _agreement,
    "agreement, attractor in a phrase": _attractor_phrase,
    "agreement, attractor in a relative clause": _attractor_relative,
    "determiner-noun agreement": _determiner,
    "anaphor agreement": _anaphor,
    "negative polarity": _negative_polarity,
    "transitivity": _transitivity,
    "irregular participles": _participle,
    "pronoun case": _pronoun_case,
    "filler-gap": _filler_gap,
}
