"""A small English: a lexicon, a grammar that makes sentences from it, and minimal pairs.

The bundled model learns its language here. The grammar knows what the phenomena below need: number, tense and
participles of verbs, which verbs take an object, gender of people, and where *ever* may stand. A minimal pair is a
sentence of this grammar and the same sentence with one thing wrong (Warstadt et al. 2020, BLiMP).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from modalnet.bundled.split import held_out

Rng = np.random.Generator
T = TypeVar("T")

# singular, or singular/plural where the plural is irregular
MEN = "boy man/men father brother uncle king grandfather son"
WOMEN = "girl woman/women mother sister aunt queen grandmother daughter lady"
PEOPLE = (
    "child/children doctor nurse teacher farmer student baker painter driver singer dentist lawyer sailor cousin "
    "friend neighbour guest actor pilot waiter officer worker soldier builder scientist stranger player cook "
    "guard tailor postman/postmen fisherman/fishermen shepherd prisoner manager captain artist"
)
ANIMALS = (
    "dog cat bird horse fox wolf/wolves lion monkey donkey mouse/mice goat frog duck rabbit spider bee hen bear "
    "turtle owl puppy kitten elephant cow pig goose/geese"
)
THINGS = (
    "box book letter key cake coat hat boat car bus bicycle cup bottle bucket basket ball guitar violin piano "
    "clock candle lamp table chair door window picture umbrella kite stone shoe boot glove shirt dress plate "
    "spoon knife/knives bag coin ring rope ladder hammer drum bell pen pencil map camera phone computer jug "
    "pocket tree flower leaf/leaves plant toy cart truck train ship taxi robot machine tent bed shelf/shelves "
    "cupboard carpet pillow mirror brush wheel flag parcel ticket card newspaper story song film message question "
    "puzzle"
)
EDIBLE = "apple orange banana potato/potatoes carrot sandwich biscuit egg cherry pear onion tomato/tomatoes"
MASS = (
    "water milk bread money soup snow rain coffee tea sugar butter cheese honey wood glass paper sand grass music food"
)
PLACES = (
    "garden house kitchen school forest river bridge hill field market street park shop beach barn station "
    "village town city mountain library hospital tower castle road lake farm church hotel museum factory harbour "
    "island valley zoo bedroom classroom garage cage tunnel wall gate fence corner roof square path shore desert"
)
TIMES = "morning night day winter spring summer autumn week evening afternoon weekend"

# base, past, participle (regular where only the base stands)
INTRANSITIVE = (
    "sleep:slept run:ran:run laugh walk wait arrive fall:fell:fallen swim:swam:swum dance sing:sang:sung "
    "cry:cried smile vanish disappear rest shout work play talk jump travel sit:sat stand:stood rise:rose:risen "
    "grow:grew:grown die come:came:come go:went:gone fly:flew:flown drift shake:shook:shaken wake:woke:woken live "
    "stay cough shiver"
)
TRANSITIVE = (
    "find:found carry:carried watch follow wash paint open close buy:bought sell:sold break:broke:broken push "
    "pull lift hold:held see:saw:seen hear:heard like love need keep:kept hide:hid:hidden lose:lost make:made "
    "take:took:taken bring:brought steal:stole:stolen clean cover touch drop repair build:built "
    "choose:chose:chosen draw:drew:drawn forget:forgot:forgotten remember count catch:caught throw:threw:thrown "
    "leave:left share use visit order move fix turn measure burn collect kick borrow admire describe"
)
OF_PERSON = (
    "help know:knew:known teach:taught thank meet:met ask call chase warn hug greet trust believe invite surprise "
    "love like see:saw:seen hear:heard watch follow visit find:found admire remember"
)
REFLEXIVE = (
    "see:saw:seen hurt:hurt:hurt help wash hide:hid:hidden blame teach:taught dress draw:drew:drawn paint admire "
    "describe like warn"
)
EAT = "eat:ate:eaten cook bake cut:cut:cut peel share smell taste want"
THINK = "know:knew:known say:said think:thought hope believe hear:heard remember forget:forgot:forgotten"
ADJECTIVES = (
    "old young small large tiny big little new warm cold hot wet dry red green blue yellow orange purple black "
    "white brown grey heavy light quiet loud happy sad angry tired hungry kind clever brave poor rich tall short "
    "long narrow wide deep dark bright clean dirty empty full broken strange famous friendly gentle lazy busy "
    "ancient modern pale round square soft hard sweet sour fresh strong weak nice lovely beautiful ugly wooden "
    "golden silver quick slow thick thin sharp lost funny careful"
)
ADVERBS = (
    "slowly quickly quietly loudly carefully happily sadly suddenly often always never gently softly well "
    "together again alone"
)
LATER = "yesterday today now tomorrow soon later twice outside inside upstairs"
NUMBERS = "two three four five six seven eight nine ten"
NAMES = (
    "anna:f ben:m clara:f david:m emma:f felix:m grace:f henry:m julia:f leo:m maria:f oscar:m rosa:f simon:m "
    "tom:m lucy:f"
)
PREPOSITIONS = "near behind beside under above by with before"


@dataclass(frozen=True)
class Noun:
    """A noun in both numbers; ``gender`` is ``"m"``, ``"f"`` or None where the word leaves it open."""

    singular: str
    plural: str
    gender: str | None = None


@dataclass(frozen=True)
class Verb:
    """The forms of a verb; ``form(plural)`` is the present tense."""

    base: str
    third: str
    past: str
    participle: str
    ing: str

    def form(self, plural: bool) -> str:
        return self.base if plural else self.third


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _nouns(words: str, gender: str | None = None) -> list[Noun]:
    return [
        Noun(singular, plural or _plural(singular), gender)
        for singular, _, plural in (word.partition("/") for word in words.split())
    ]


_DOUBLED = ("swim", "run", "sit", "hug", "drop", "cut", "shop")


def _verb(entry: str) -> Verb:
    base, *rest = entry.split(":")
    ends_in_y = base.endswith("y") and base[-2] not in "aeiou"
    third = base[:-1] + "ies" if ends_in_y else base + ("es" if base.endswith(("s", "x", "ch", "sh", "go")) else "s")
    doubled = base + base[-1] if base in _DOUBLED else base
    regular = base + "d" if base.endswith("e") else base[:-1] + "ied" if ends_in_y else doubled + "ed"
    past = rest[0] if rest else regular
    stem = base[:-1] if base.endswith("e") and not base.endswith("ee") else doubled
    stem = base[:-2] + "y" if base.endswith("ie") else stem
    return Verb(base, third, past, rest[1] if len(rest) > 1 else past, stem + "ing")


def _verbs(words: str) -> list[Verb]:
    return [_verb(entry) for entry in words.split()]


men, women, anyone = _nouns(MEN, "m"), _nouns(WOMEN, "f"), _nouns(PEOPLE)
people = men + women + anyone
animals, things, edible, places = _nouns(ANIMALS), _nouns(THINGS), _nouns(EDIBLE), _nouns(PLACES)
intransitive, transitive, of_person = _verbs(INTRANSITIVE), _verbs(TRANSITIVE), _verbs(OF_PERSON)
reflexive, eat, think = _verbs(REFLEXIVE), _verbs(EAT), _verbs(THINK)
mass, times, adjectives = MASS.split(), TIMES.split(), ADJECTIVES.split()
adverbs, later, numbers, prepositions = ADVERBS.split(), LATER.split(), NUMBERS.split(), PREPOSITIONS.split()
names = [tuple(name.split(":")) for name in NAMES.split()]


def pick(rng: Rng, items: Sequence[T]) -> T:
    """One of the items, each as likely."""
    return items[int(rng.integers(len(items)))]


def chance(rng: Rng, probability: float) -> bool:
    """True with this probability."""
    return bool(rng.random() < probability)


@dataclass(frozen=True)
class Phrase:
    """A noun phrase with what agreement needs to know of it."""

    text: str
    plural: bool
    gender: str | None = None

    @property
    def reflexive(self) -> str | None:
        if self.plural:
            return "themselves"
        return {"m": "himself", "f": "herself"}.get(self.gender or "")


pronouns = [Phrase("he", False, "m"), Phrase("she", False, "f")] + [Phrase(word, True) for word in ("they", "we", "i")]


def _word(rng: Rng, noun: Noun, plural: bool) -> str:
    return noun.plural if plural else noun.singular


def _described(rng: Rng, word: str, probability: float = 0.35) -> str:
    if not chance(rng, probability):
        return word
    text = f"{pick(rng, adjectives)} {word}"
    return f"{pick(rng, adjectives)} {text}" if chance(rng, 0.15) else text


def _article(text: str) -> str:
    return ("an " if text[0] in "aeiou" and not text.startswith(("use", "uni")) else "a ") + text


def noun_phrase(rng: Rng, nouns: list[Noun], plural: bool | None = None, describe: float = 0.35) -> Phrase:
    """A determiner, perhaps adjectives, and a noun: "the old dogs", "this cup", "three small boxes"."""
    plural = chance(rng, 0.45) if plural is None else plural
    noun = pick(rng, nouns)
    text = _described(rng, _word(rng, noun, plural), describe)
    roll = rng.random()
    if roll < 0.5:
        text = f"the {text}"
    elif roll < 0.62:
        text = f"{pick(rng, ['these', 'those'] if plural else ['this', 'that'])} {text}"
    elif roll < 0.76:
        text = f"{pick(rng, ['my', 'your', 'his', 'her', 'our', 'their'])} {text}"
    elif plural:
        text = f"{pick(rng, numbers)} {text}" if roll < 0.9 else f"{pick(rng, ['some', 'many', 'all', 'few'])} {text}"
    else:
        text = _article(text) if roll < 0.94 else f"{pick(rng, ['every', 'each', 'one', 'another'])} {text}"
    return Phrase(text, plural, noun.gender)


def subject(rng: Rng) -> Phrase:
    """Somebody or some animal that can do things; a name, a pronoun or a noun phrase."""
    roll = rng.random()
    if roll < 0.12:
        name, gender = pick(rng, names)
        return Phrase(name, False, gender)
    if roll < 0.26:
        return pick(rng, pronouns)
    return noun_phrase(rng, people if chance(rng, 0.7) else animals)


def object_phrase(rng: Rng) -> str:
    """Something that can be held, found or lost."""
    if chance(rng, 0.12):
        return f"{pick(rng, ['the', 'some', 'the', 'no'])} {pick(rng, mass)}"
    return noun_phrase(rng, things if chance(rng, 0.8) else animals).text


def person_object(rng: Rng) -> str:
    """Somebody, as an object: "him", "the old nurse"."""
    if chance(rng, 0.3):
        return pick(rng, ["him", "her", "them", "us", "me"])
    if chance(rng, 0.15):
        return pick(rng, names)[0]
    return noun_phrase(rng, people).text


def place(rng: Rng) -> str:
    """Where: "in the garden", "behind the old barn"."""
    preposition = pick(rng, ["in", "in", "near", "behind", "at", "by", "across", "through", "from", "to", "outside"])
    return f"{preposition} {noun_phrase(rng, places, plural=chance(rng, 0.1)).text}"


def when(rng: Rng) -> str:
    """When: "yesterday", "every morning", "in the winter"."""
    if chance(rng, 0.4):
        return pick(rng, later)
    return f"{pick(rng, ['every', 'last', 'this', 'all', 'one', 'in the', 'during the'])} {pick(rng, times)}"


def predicate(rng: Rng, who: Phrase, tense: str | None = None) -> str:
    """What somebody does, agreeing with who does it."""
    tense = tense or str(
        pick(rng, ["past", "past", "past", "present", "present", "perfect", "modal", "progressive", "not"])
    )
    kind = rng.random()
    if kind < 0.17:
        return _copula(rng, who)
    if kind < 0.42:
        verb, rest = pick(rng, intransitive), ""
    elif kind < 0.72:
        verb, rest = pick(rng, transitive), object_phrase(rng)
    elif kind < 0.84:
        verb, rest = pick(rng, of_person), person_object(rng)
    elif kind < 0.92:
        verb, rest = pick(rng, eat), noun_phrase(rng, edible).text if chance(rng, 0.6) else f"the {pick(rng, mass)}"
    elif who.reflexive and kind < 0.97 and who.text not in ("we", "i"):
        verb, rest = pick(rng, reflexive), who.reflexive
    else:
        verb, rest = pick(rng, transitive), object_phrase(rng)
    words = [conjugated(rng, verb, who, tense), rest]
    if chance(rng, 0.45):
        words.append(place(rng))
    if chance(rng, 0.2):
        words.append(when(rng))
    elif chance(rng, 0.2):
        words.append(pick(rng, adverbs))
    return " ".join(word for word in words if word)


def conjugated(rng: Rng, verb: Verb, who: Phrase, tense: str) -> str:
    """The verb in a tense, agreeing with its subject."""
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
    """A form of *be* that agrees."""
    if who.text == "i":
        return pick(rng, ["am", "was"])
    return str(pick(rng, ["are", "were"] if who.plural else ["is", "was"]))


def _copula(rng: Rng, who: Phrase) -> str:
    roll = rng.random()
    adjective = pick(rng, adjectives)
    if roll < 0.45:
        return f"{be(rng, who)} {pick(rng, ['very ', 'too ', 'not ', 'so ', '', '', '', ''])}{adjective}"
    if roll < 0.75:
        return f"{be(rng, who)} {place(rng)}"
    return f"{'have' if who.plural else 'has'} {object_phrase(rng)}"


def thing_subject(rng: Rng, plural: bool | None = None) -> Phrase:
    """A thing with another thing beside it, which is not what the verb agrees with."""
    head = noun_phrase(rng, things + edible, plural, describe=0.2)
    roll = rng.random()
    if roll < 0.45:
        other = noun_phrase(rng, things + places, describe=0.15)
        return Phrase(f"{head.text} {pick(rng, prepositions)} {other.text}", head.plural)
    if roll < 0.7:
        who = noun_phrase(rng, people, describe=0.1)
        verb = pick(rng, transitive)
        link = "that " if chance(rng, 0.7) else ""
        return Phrase(f"{head.text} {link}{who.text} {pick(rng, [verb.past, verb.form(who.plural)])}", head.plural)
    return head


def thing_predicate(rng: Rng, who: Phrase) -> str:
    """What is said of a thing: that it is somewhere, or somehow, or belongs to somebody."""
    roll = rng.random()
    if roll < 0.45:
        return f"{be(rng, who)} {pick(rng, ['very ', 'not ', '', '', ''])}{pick(rng, adjectives)}"
    if roll < 0.65:
        return f"{be(rng, who)} {place(rng)}"
    if roll < 0.8:
        verb = pick(rng, transitive)
        agent = f" by {noun_phrase(rng, people).text}" if chance(rng, 0.4) else ""
        return f"{be(rng, who)} {verb.participle}{agent}"
    return f"{_seem(rng, who)} {pick(rng, adjectives)}"


_SEEM = _verbs("look seem feel:felt smell")


def _seem(rng: Rng, who: Phrase) -> str:
    verb = pick(rng, _SEEM)
    return verb.past if chance(rng, 0.4) else verb.form(who.plural)


def clause(rng: Rng) -> str:
    """A main clause without its full stop."""
    roll = rng.random()
    limits = [(0.25, _of_thing), (0.36, _of_one_with_clause), (0.44, _of_one_with_phrase), (0.5, _with_ever)]
    limits += [(0.56, _with_gap), (0.6, _there_is), (1.0, _plain_clause)]
    return next(make for limit, make in limits if roll < limit)(rng)


def _of_thing(rng: Rng) -> str:
    who = thing_subject(rng)
    return f"{who.text} {thing_predicate(rng, who)}"


def _of_one_with_clause(rng: Rng) -> str:
    who = _with_relative(rng)
    return f"{who.text} {predicate(rng, who)}"


def _of_one_with_phrase(rng: Rng) -> str:
    head = noun_phrase(rng, people + animals, describe=0.15)
    other = noun_phrase(rng, people + animals + things + places, describe=0.15)
    who = Phrase(f"{head.text} {pick(rng, prepositions)} {other.text}", head.plural, head.gender)
    return f"{who.text} {predicate(rng, who)}"


def _there_is(rng: Rng) -> str:
    head = noun_phrase(rng, things + people + animals, describe=0.2)
    thing = head.text.split(" ", 1)[1]
    return f"there {'are' if head.plural else 'is'} {'two' if head.plural else 'one'} {thing} {place(rng)}"


def _plain_clause(rng: Rng) -> str:
    who = subject(rng)
    return f"{who.text} {predicate(rng, who)}"


def _with_relative(rng: Rng, plural: bool | None = None, other_plural: bool | None = None) -> Phrase:
    """Somebody with a relative clause: "the boy that the girls like", "the women who found the key"."""
    head = noun_phrase(rng, people + animals, plural, describe=0.15)
    verb = pick(rng, of_person)
    if other_plural is None and chance(rng, 0.35):
        verb = pick(rng, transitive)
        link, tense = pick(rng, ["who", "that"]), pick(rng, ["past", "present"])
        text = f"{head.text} {link} {conjugated(rng, verb, head, tense)} {object_phrase(rng)}"
    else:
        other = noun_phrase(rng, people + animals, other_plural, describe=0.1)
        link, tense = pick(rng, ["that", "who"]), pick(rng, ["past", "present"])
        text = f"{head.text} {link} {other.text} {conjugated(rng, verb, other, tense)}"
    return Phrase(text, head.plural, head.gender)


def _with_ever(rng: Rng) -> str:
    """*ever* where it may stand: after *no*, *not*, *nobody*, *never*; and plain perfect clauses without it."""
    verb, rest = _verb_phrase(rng)
    roll = rng.random()
    if roll < 0.35:
        plural = chance(rng, 0.5)
        noun = _word(rng, pick(rng, people + animals), plural)
        return f"no {noun} {'have' if plural else 'has'} ever {verb.participle} {rest}".strip()
    if roll < 0.5:
        return f"{pick(rng, ['nobody', 'no one'])} has ever {verb.participle} {rest}".strip()
    who = noun_phrase(rng, people + animals, describe=0.1)
    has = "have" if who.plural else "has"
    middle = pick(rng, ["not ever", "never", "often", "already", "just", "always"])
    return f"{who.text} {has} {middle} {verb.participle} {rest}".strip()


def _verb_phrase(rng: Rng) -> tuple[Verb, str]:
    if chance(rng, 0.4):
        return pick(rng, intransitive), place(rng) if chance(rng, 0.4) else ""
    return pick(rng, transitive), object_phrase(rng)


def _with_gap(rng: Rng) -> str:
    """*what* with its gap, *that* without one."""
    who, about = subject(rng), subject(rng)
    thinks = pick(rng, think)
    verb = pick(rng, transitive)
    outer = f"{who.text} {conjugated(rng, thinks, who, pick(rng, ['past', 'present']))}"
    inner = f"{about.text} {conjugated(rng, verb, about, 'past')}"
    if chance(rng, 0.5) and thinks.base not in ("think", "hope", "believe"):
        ending = f" {place(rng)}" if chance(rng, 0.4) else ""
        return f"{outer} what {inner}{ending}"
    return f"{outer} that {inner} {object_phrase(rng)}"


def sentence(rng: Rng) -> str:
    """One sentence, with its full stop or question mark."""
    roll = rng.random()
    if roll < 0.7:
        return clause(rng) + "."
    if roll < 0.78:
        link = pick(rng, ["when", "because", "if", "after", "before", "while", "although"])
        return f"{link} {_plain(rng)}, {_plain(rng)}."
    if roll < 0.85:
        first = _plain(rng)
        link = pick(rng, ["and", "but", "so", "because", "when", "before", "until", "after"])
        return f"{first} {link} {_plain(rng)}."
    if roll < 0.89:
        return f"{when(rng)} {_plain(rng)}."
    if roll < 0.93:
        verb = pick(rng, transitive)
        return f"{pick(rng, ['please ', 'do not ', ''])}{verb.base} {object_phrase(rng)} {place(rng)}."
    who = subject(rng)
    verb, rest = _verb_phrase(rng)
    auxiliary = pick(rng, ["did", "do" if who.plural else "does", "can", "will", "should"])
    opening = pick(rng, ["", "", "where ", "when ", "why ", "how often "])
    return f"{opening}{auxiliary} {who.text} {verb.base} {rest}".strip() + "?"


def sentence_of(rng: Rng, test: bool) -> str:
    """A sentence that is, or is not, held out for the test."""
    while True:
        line = sentence(rng)
        if held_out("sentence", line) == test:
            return line


def minimal_pair(rng: Rng, phenomenon: str) -> tuple[str, str]:
    """A held-out sentence of the phenomenon, and the same with one thing wrong."""
    while True:
        good, bad = PHENOMENA[phenomenon](rng)
        if held_out("sentence", good):
            return good, bad


def _plain(rng: Rng) -> str:
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


# Minimal pairs: (grammatical, ungrammatical)


def _simple_agreement(rng: Rng) -> tuple[str, str]:
    who = noun_phrase(rng, people + animals, describe=0.3)
    verb = pick(rng, intransitive)
    if chance(rng, 0.5):
        where = place(rng)
        return f"{who.text} {verb.form(who.plural)} {where}.", f"{who.text} {verb.form(not who.plural)} {where}."
    return _both_be(rng, who)


def _both_be(rng: Rng, who: Phrase) -> tuple[str, str]:
    adjective = pick(rng, adjectives)
    forms = [("is", "are"), ("was", "were")][int(rng.integers(2))]
    return f"{who.text} {forms[who.plural]} {adjective}.", f"{who.text} {forms[not who.plural]} {adjective}."


def _attractor_phrase(rng: Rng) -> tuple[str, str]:
    plural = chance(rng, 0.5)
    head = noun_phrase(rng, things, plural, describe=0.2)
    other = noun_phrase(rng, things, not plural, describe=0.2)
    return _both_be(rng, Phrase(f"{head.text} {pick(rng, prepositions)} {other.text}", plural))


def _attractor_relative(rng: Rng) -> tuple[str, str]:
    plural = chance(rng, 0.5)
    who = _with_relative(rng, plural, not plural)
    if chance(rng, 0.5):
        return _both_be(rng, who)
    verb = pick(rng, intransitive)
    where = place(rng)
    return f"{who.text} {verb.form(plural)} {where}.", f"{who.text} {verb.form(not plural)} {where}."


def _determiner(rng: Rng) -> tuple[str, str]:
    plural = chance(rng, 0.5)
    noun = pick(rng, things + animals + people)
    who, verb = subject(rng), pick(rng, transitive)
    start = f"{who.text} {verb.past} {pick(rng, ['these', 'those'] if plural else ['this', 'that'])}"
    adjective = f"{pick(rng, adjectives)} " if chance(rng, 0.4) else ""
    good, bad = (noun.plural, noun.singular) if plural else (noun.singular, noun.plural)
    return f"{start} {adjective}{good}.", f"{start} {adjective}{bad}."


def _anaphor(rng: Rng) -> tuple[str, str]:
    plural = chance(rng, 0.33)
    who = noun_phrase(rng, men + women, plural, describe=0.3)
    forms = ["himself", "herself", "themselves"]
    right = who.reflexive
    wrong = pick(rng, [form for form in forms if form != right])
    verb = pick(rng, reflexive)
    start = f"{who.text} {conjugated(rng, verb, who, 'past')}"
    return f"{start} {right}.", f"{start} {wrong}."


def _ever(rng: Rng) -> tuple[str, str]:
    verb, rest = _verb_phrase(rng)
    plural = chance(rng, 0.5)
    noun = _word(rng, pick(rng, people + animals), plural)
    has = "have" if plural else "has"
    end = f"{noun} {has} ever {verb.participle} {rest}".strip()
    return f"no {end}.", f"{pick(rng, ['the', 'these' if plural else 'this', 'my'])} {end}."


def _transitivity(rng: Rng) -> tuple[str, str]:
    who = noun_phrase(rng, people, describe=0.3)
    good = pick(rng, transitive)
    bad = pick(
        rng,
        [
            verb
            for verb in intransitive
            if verb.base
            not in ("fly", "grow", "shake", "run", "walk", "play", "sing", "work", "jump", "dance", "wake", "travel")
        ],
    )
    what = noun_phrase(rng, things).text
    return f"{who.text} {good.past} {what}.", f"{who.text} {bad.past} {what}."


def _participle(rng: Rng) -> tuple[str, str]:
    who = noun_phrase(rng, people, describe=0.3)
    verb = pick(rng, [verb for verb in transitive + eat if verb.participle != verb.past])
    what = noun_phrase(rng, edible if verb in eat else things).text
    has = "have" if who.plural else "has"
    if chance(rng, 0.5):
        return f"{who.text} {has} {verb.participle} {what}.", f"{who.text} {has} {verb.past} {what}."
    return f"{who.text} {verb.past} {what}.", f"{who.text} {verb.participle} {what}."


def _case(rng: Rng) -> tuple[str, str]:
    subject_form, object_form = pick(rng, [("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("i", "me")])
    verb = pick(rng, of_person)
    who = noun_phrase(rng, people, describe=0.3)
    if chance(rng, 0.5):
        return f"{who.text} {verb.past} {object_form}.", f"{who.text} {verb.past} {subject_form}."
    return f"{subject_form} {verb.past} {who.text}.", f"{object_form} {verb.past} {who.text}."


def _gap(rng: Rng) -> tuple[str, str]:
    who, about = subject(rng), noun_phrase(rng, people, describe=0.2)
    thinks = pick(rng, [verb for verb in think if verb.base not in ("think", "hope", "believe")])
    verb = pick(rng, transitive)
    what = noun_phrase(rng, things).text
    start = f"{who.text} {thinks.past}"
    return f"{start} that {about.text} {verb.past} {what}.", f"{start} what {about.text} {verb.past} {what}."


PHENOMENA: dict[str, Callable[[Rng], tuple[str, str]]] = {
    "subject-verb agreement": _simple_agreement,
    "agreement, attractor in a phrase": _attractor_phrase,
    "agreement, attractor in a relative clause": _attractor_relative,
    "determiner-noun agreement": _determiner,
    "anaphor agreement": _anaphor,
    "negative polarity": _ever,
    "transitivity": _transitivity,
    "irregular participles": _participle,
    "pronoun case": _case,
    "filler-gap": _gap,
}


@functools.cache
def lexicon() -> tuple[str, ...]:
    """Every content word that the grammar can write, in order."""
    words: list[str] = []
    for group in (people, animals, things, edible, places):
        words += [form for noun in group for form in (noun.singular, noun.plural)]
    for verbs in (intransitive, transitive, of_person, reflexive, eat, think, _SEEM):
        words += [form for verb in verbs for form in (verb.base, verb.third, verb.past, verb.participle, verb.ing)]
    words += [*mass, *times, *adjectives, *adverbs, *later, *numbers, *prepositions, *(name for name, _ in names)]
    return tuple(dict.fromkeys(word for entry in words for word in entry.split()))
