"""A grammar that draws English sentences from the lexicon.

The bundled model learns its language from these sentences. The grammar covers what the minimal pairs
(:mod:`modalnet.bundled.minimal_pairs`) test: number agreement across attractors, tense and participles,
transitivity, gender, pronoun case, negative polarity, and filler-gap dependencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from modalnet.bundled.lexicon import (
    ADJECTIVES,
    ADVERBS,
    ANIMALS,
    CLAUSE_VERBS,
    EATING_VERBS,
    FOODS,
    INTRANSITIVE_VERBS,
    LINKING_VERBS,
    MASS_NOUNS,
    NAMES,
    NUMBERS,
    PEOPLE,
    PERSON_VERBS,
    PLACES,
    PREPOSITIONS,
    REFLEXIVE_VERBS,
    THINGS,
    TIME_ADVERBS,
    TIMES,
    TRANSITIVE_VERBS,
    Noun,
    Verb,
)
from modalnet.bundled.split import held_out

Rng = np.random.Generator
T = TypeVar("T")


def pick(rng: Rng, items: Sequence[T]) -> T:
    """Draw one item, uniformly."""
    return items[int(rng.integers(len(items)))]


def chance(rng: Rng, probability: float) -> bool:
    """Return True with the given probability."""
    return bool(rng.random() < probability)


@dataclass(frozen=True)
class Phrase:
    """A noun phrase with the features that agreement depends on: number and gender."""

    text: str
    plural: bool
    gender: str | None = None

    @property
    def reflexive(self) -> str | None:
        """The reflexive pronoun that agrees with the phrase; None where its gender is open."""
        if self.plural:
            return "themselves"
        return {"m": "himself", "f": "herself"}.get(self.gender or "")


PRONOUNS = [Phrase("he", False, "m"), Phrase("she", False, "f")] + [Phrase(word, True) for word in ("they", "we", "i")]


def with_adjectives(rng: Rng, word: str, probability: float = 0.35) -> str:
    """Put no, one or two adjectives before a word."""
    if not chance(rng, probability):
        return word
    text = f"{pick(rng, ADJECTIVES)} {word}"
    return f"{pick(rng, ADJECTIVES)} {text}" if chance(rng, 0.15) else text


def with_article(text: str) -> str:
    """Put the indefinite article before a word: "an apple", "a uniform"."""
    return ("an " if text[0] in "aeiou" and not text.startswith(("use", "uni")) else "a ") + text


def noun_phrase(rng: Rng, nouns: list[Noun], plural: bool | None = None, describe: float = 0.35) -> Phrase:
    """A determiner, perhaps adjectives, and a noun: "the old dogs", "this cup", "three small boxes"."""
    plural = chance(rng, 0.45) if plural is None else plural
    noun = pick(rng, nouns)
    text = with_adjectives(rng, noun.form(plural), describe)
    roll = rng.random()
    if roll < 0.5:
        text = f"the {text}"
    elif roll < 0.62:
        text = f"{pick(rng, ['these', 'those'] if plural else ['this', 'that'])} {text}"
    elif roll < 0.76:
        text = f"{pick(rng, ['my', 'your', 'his', 'her', 'our', 'their'])} {text}"
    elif plural:
        text = f"{pick(rng, NUMBERS)} {text}" if roll < 0.9 else f"{pick(rng, ['some', 'many', 'all', 'few'])} {text}"
    else:
        text = with_article(text) if roll < 0.94 else f"{pick(rng, ['every', 'each', 'one', 'another'])} {text}"
    return Phrase(text, plural, noun.gender)


def subject(rng: Rng) -> Phrase:
    """An animate subject: a name, a pronoun or a noun phrase."""
    roll = rng.random()
    if roll < 0.12:
        name, gender = pick(rng, NAMES)
        return Phrase(name, False, gender)
    if roll < 0.26:
        return pick(rng, PRONOUNS)
    return noun_phrase(rng, PEOPLE if chance(rng, 0.7) else ANIMALS)


def object_phrase(rng: Rng) -> str:
    """A direct object: a thing, an animal or a mass noun."""
    if chance(rng, 0.12):
        return f"{pick(rng, ['the', 'some', 'the', 'no'])} {pick(rng, MASS_NOUNS)}"
    return noun_phrase(rng, THINGS if chance(rng, 0.8) else ANIMALS).text


def person_object(rng: Rng) -> str:
    """A person as an object: "him", "the old nurse"."""
    if chance(rng, 0.3):
        return pick(rng, ["him", "her", "them", "us", "me"])
    if chance(rng, 0.15):
        return pick(rng, NAMES)[0]
    return noun_phrase(rng, PEOPLE).text


def place_phrase(rng: Rng) -> str:
    """A place adjunct: "in the garden", "behind the old barn"."""
    preposition = pick(rng, ["in", "in", "near", "behind", "at", "by", "across", "through", "from", "to", "outside"])
    return f"{preposition} {noun_phrase(rng, PLACES, plural=chance(rng, 0.1)).text}"


def time_phrase(rng: Rng) -> str:
    """A time adjunct: "yesterday", "every morning", "in the winter"."""
    if chance(rng, 0.4):
        return pick(rng, TIME_ADVERBS)
    return f"{pick(rng, ['every', 'last', 'this', 'all', 'one', 'in the', 'during the'])} {pick(rng, TIMES)}"


def predicate(rng: Rng, who: Phrase, tense: str | None = None) -> str:
    """A verb phrase that agrees with its animate subject, with optional adjuncts."""
    tense = tense or str(
        pick(rng, ["past", "past", "past", "present", "present", "perfect", "modal", "progressive", "not"])
    )
    kind = rng.random()
    if kind < 0.17:
        return _copula(rng, who)
    if kind < 0.42:
        verb, rest = pick(rng, INTRANSITIVE_VERBS), ""
    elif kind < 0.72:
        verb, rest = pick(rng, TRANSITIVE_VERBS), object_phrase(rng)
    elif kind < 0.84:
        verb, rest = pick(rng, PERSON_VERBS), person_object(rng)
    elif kind < 0.92:
        verb, rest = (
            pick(rng, EATING_VERBS),
            noun_phrase(rng, FOODS).text if chance(rng, 0.6) else f"the {pick(rng, MASS_NOUNS)}",
        )
    elif who.reflexive and kind < 0.97 and who.text not in ("we", "i"):
        verb, rest = pick(rng, REFLEXIVE_VERBS), who.reflexive
    else:
        verb, rest = pick(rng, TRANSITIVE_VERBS), object_phrase(rng)
    words = [conjugate(rng, verb, who, tense), rest]
    if chance(rng, 0.45):
        words.append(place_phrase(rng))
    if chance(rng, 0.2):
        words.append(time_phrase(rng))
    elif chance(rng, 0.2):
        words.append(pick(rng, ADVERBS))
    return " ".join(word for word in words if word)


def conjugate(rng: Rng, verb: Verb, who: Phrase, tense: str) -> str:
    """Conjugate a verb in a tense, in agreement with its subject."""
    first = who.text == "i"
    if tense == "past":
        return verb.past
    if tense == "present":
        return verb.form(who.plural)
    if tense == "perfect":
        return f"{'have' if who.plural else 'has'} {verb.participle}"
    if tense == "modal":
        return f"{pick(rng, ['will', 'can', 'must', 'should', 'would', 'could', 'may'])} {verb.base}"
    if tense == "not":
        return f"{pick(rng, ['did', 'do' if who.plural else 'does', 'will', 'could'])} not {verb.base}"
    now = "am" if first else "are" if who.plural else "is"
    past = "was" if first else "were" if who.plural else "was"
    return f"{now if chance(rng, 0.5) else past} {verb.ing}"


def be(rng: Rng, who: Phrase) -> str:
    """A form of *be* that agrees with the subject, present or past."""
    if who.text == "i":
        return pick(rng, ["am", "was"])
    return str(pick(rng, ["are", "were"] if who.plural else ["is", "was"]))


def _copula(rng: Rng, who: Phrase) -> str:
    roll = rng.random()
    adjective = pick(rng, ADJECTIVES)
    if roll < 0.45:
        return f"{be(rng, who)} {pick(rng, ['very ', 'too ', 'not ', 'so ', '', '', '', ''])}{adjective}"
    if roll < 0.75:
        return f"{be(rng, who)} {place_phrase(rng)}"
    return f"{'have' if who.plural else 'has'} {object_phrase(rng)}"


def thing_subject(rng: Rng, plural: bool | None = None) -> Phrase:
    """An inanimate subject, often with an attractor: another noun between it and the verb that agrees with it."""
    head = noun_phrase(rng, THINGS + FOODS, plural, describe=0.2)
    roll = rng.random()
    if roll < 0.45:
        other = noun_phrase(rng, THINGS + PLACES, describe=0.15)
        return Phrase(f"{head.text} {pick(rng, PREPOSITIONS)} {other.text}", head.plural)
    if roll < 0.7:
        who = noun_phrase(rng, PEOPLE, describe=0.1)
        verb = pick(rng, TRANSITIVE_VERBS)
        link = "that " if chance(rng, 0.7) else ""
        return Phrase(f"{head.text} {link}{who.text} {pick(rng, [verb.past, verb.form(who.plural)])}", head.plural)
    return head


def thing_predicate(rng: Rng, who: Phrase) -> str:
    """A predicate of an inanimate subject: a property, a place or a passive."""
    roll = rng.random()
    if roll < 0.45:
        return f"{be(rng, who)} {pick(rng, ['very ', 'not ', '', '', ''])}{pick(rng, ADJECTIVES)}"
    if roll < 0.65:
        return f"{be(rng, who)} {place_phrase(rng)}"
    if roll < 0.8:
        verb = pick(rng, TRANSITIVE_VERBS)
        agent = f" by {noun_phrase(rng, PEOPLE).text}" if chance(rng, 0.4) else ""
        return f"{be(rng, who)} {verb.participle}{agent}"
    return f"{_seem(rng, who)} {pick(rng, ADJECTIVES)}"


def _seem(rng: Rng, who: Phrase) -> str:
    verb = pick(rng, LINKING_VERBS)
    return verb.past if chance(rng, 0.4) else verb.form(who.plural)


def clause(rng: Rng) -> str:
    """A main clause, without the full stop."""
    roll = rng.random()
    limits = [(0.25, _thing_clause), (0.36, _relative_clause), (0.44, _attractor_clause), (0.5, _polarity_clause)]
    limits += [(0.56, _complement_clause), (0.6, _existential_clause), (1.0, _plain_clause)]
    return next(make for limit, make in limits if roll < limit)(rng)


def _thing_clause(rng: Rng) -> str:
    who = thing_subject(rng)
    return f"{who.text} {thing_predicate(rng, who)}"


def _relative_clause(rng: Rng) -> str:
    who = relative_phrase(rng)
    return f"{who.text} {predicate(rng, who)}"


def _attractor_clause(rng: Rng) -> str:
    head = noun_phrase(rng, PEOPLE + ANIMALS, describe=0.15)
    other = noun_phrase(rng, PEOPLE + ANIMALS + THINGS + PLACES, describe=0.15)
    who = Phrase(f"{head.text} {pick(rng, PREPOSITIONS)} {other.text}", head.plural, head.gender)
    return f"{who.text} {predicate(rng, who)}"


def _existential_clause(rng: Rng) -> str:
    head = noun_phrase(rng, THINGS + PEOPLE + ANIMALS, describe=0.2)
    thing = head.text.split(" ", 1)[1]
    return f"there {'are' if head.plural else 'is'} {'two' if head.plural else 'one'} {thing} {place_phrase(rng)}"


def _plain_clause(rng: Rng) -> str:
    who = subject(rng)
    return f"{who.text} {predicate(rng, who)}"


def relative_phrase(rng: Rng, plural: bool | None = None, other_plural: bool | None = None) -> Phrase:
    """An animate noun phrase with a relative clause: "the boy that the girls like", "the women who found the key"."""
    head = noun_phrase(rng, PEOPLE + ANIMALS, plural, describe=0.15)
    verb = pick(rng, PERSON_VERBS)
    if other_plural is None and chance(rng, 0.35):
        verb = pick(rng, TRANSITIVE_VERBS)
        link, tense = pick(rng, ["who", "that"]), pick(rng, ["past", "present"])
        text = f"{head.text} {link} {conjugate(rng, verb, head, tense)} {object_phrase(rng)}"
    else:
        other = noun_phrase(rng, PEOPLE + ANIMALS, other_plural, describe=0.1)
        link, tense = pick(rng, ["that", "who"]), pick(rng, ["past", "present"])
        text = f"{head.text} {link} {other.text} {conjugate(rng, verb, other, tense)}"
    return Phrase(text, head.plural, head.gender)


def _polarity_clause(rng: Rng) -> str:
    """A perfect clause, with *ever* only where it is licensed: after *no*, *nobody* or *not*."""
    verb, rest = verb_phrase(rng)
    roll = rng.random()
    if roll < 0.35:
        plural = chance(rng, 0.5)
        noun = pick(rng, PEOPLE + ANIMALS).form(plural)
        return f"no {noun} {'have' if plural else 'has'} ever {verb.participle} {rest}".strip()
    if roll < 0.5:
        return f"{pick(rng, ['nobody', 'no one'])} has ever {verb.participle} {rest}".strip()
    who = noun_phrase(rng, PEOPLE + ANIMALS, describe=0.1)
    has = "have" if who.plural else "has"
    middle = pick(rng, ["not ever", "never", "often", "already", "just", "always"])
    return f"{who.text} {has} {middle} {verb.participle} {rest}".strip()


def verb_phrase(rng: Rng) -> tuple[Verb, str]:
    """A verb, not conjugated, with its object or adjunct (empty where it has none)."""
    if chance(rng, 0.4):
        return pick(rng, INTRANSITIVE_VERBS), place_phrase(rng) if chance(rng, 0.4) else ""
    return pick(rng, TRANSITIVE_VERBS), object_phrase(rng)


def _complement_clause(rng: Rng) -> str:
    """A complement clause: *what* with a gap, or *that* without one."""
    who, about = subject(rng), subject(rng)
    matrix_verb = pick(rng, CLAUSE_VERBS)
    verb = pick(rng, TRANSITIVE_VERBS)
    outer = f"{who.text} {conjugate(rng, matrix_verb, who, pick(rng, ['past', 'present']))}"
    inner = f"{about.text} {conjugate(rng, verb, about, 'past')}"
    if chance(rng, 0.5) and matrix_verb.base not in ("think", "hope", "believe"):
        ending = f" {place_phrase(rng)}" if chance(rng, 0.4) else ""
        return f"{outer} what {inner}{ending}"
    return f"{outer} that {inner} {object_phrase(rng)}"


def sentence(rng: Rng) -> str:
    """Draw a sentence, with its full stop or question mark."""
    roll = rng.random()
    if roll < 0.7:
        return clause(rng) + "."
    if roll < 0.78:
        link = pick(rng, ["when", "because", "if", "after", "before", "while", "although"])
        return f"{link} {_short_clause(rng)}, {_short_clause(rng)}."
    if roll < 0.85:
        first = _short_clause(rng)
        link = pick(rng, ["and", "but", "so", "because", "when", "before", "until", "after"])
        return f"{first} {link} {_short_clause(rng)}."
    if roll < 0.89:
        return f"{time_phrase(rng)} {_short_clause(rng)}."
    if roll < 0.93:
        verb = pick(rng, TRANSITIVE_VERBS)
        return f"{pick(rng, ['please ', 'do not ', ''])}{verb.base} {object_phrase(rng)} {place_phrase(rng)}."
    who = subject(rng)
    verb, rest = verb_phrase(rng)
    auxiliary = pick(rng, ["did", "do" if who.plural else "does", "can", "will", "should"])
    opening = pick(rng, ["", "", "where ", "when ", "why ", "how often "])
    return f"{opening}{auxiliary} {who.text} {verb.base} {rest}".strip() + "?"


def sentence_of_split(rng: Rng, test: bool) -> str:
    """Draw a sentence of the test set (``test=True``) or of the training set."""
    while True:
        line = sentence(rng)
        if held_out("sentence", line) == test:
            return line


def _short_clause(rng: Rng) -> str:
    if chance(rng, 0.15):
        return str(
            pick(
                rng,
                [
                    "it was raining",
                    "the rain stopped",
                    "the sun was shining",
                    "it was cold",
                    "it is late",
                    "the snow was deep",
                ],
            )
        )
    return _plain_clause(rng)
