"""The lexicon of the bundled model's English: about 1,100 words by part of speech, with their forms.

Each list is written as one string; :class:`Noun` and :class:`Verb` derive the regular forms.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

# Nouns: singular, or singular/plural where the plural is irregular.
_MEN = "boy man/men father brother uncle king grandfather son"
_WOMEN = "girl woman/women mother sister aunt queen grandmother daughter lady"
_UNGENDERED = (
    "child/children doctor nurse teacher farmer student baker painter driver singer dentist lawyer sailor cousin "
    "friend neighbour guest actor pilot waiter officer worker soldier builder scientist stranger player cook "
    "guard tailor postman/postmen fisherman/fishermen shepherd prisoner manager captain artist"
)
_ANIMALS = (
    "dog cat bird horse fox wolf/wolves lion monkey donkey mouse/mice goat frog duck rabbit spider bee hen bear "
    "turtle owl puppy kitten elephant cow pig goose/geese"
)
_THINGS = (
    "box book letter key cake coat hat boat car bus bicycle cup bottle bucket basket ball guitar violin piano "
    "clock candle lamp table chair door window picture umbrella kite stone shoe boot glove shirt dress plate "
    "spoon knife/knives bag coin ring rope ladder hammer drum bell pen pencil map camera phone computer jug "
    "pocket tree flower leaf/leaves plant toy cart truck train ship taxi robot machine tent bed shelf/shelves "
    "cupboard carpet pillow mirror brush wheel flag parcel ticket card newspaper story song film message question "
    "puzzle"
)
_FOODS = "apple orange banana potato/potatoes carrot sandwich biscuit egg cherry pear onion tomato/tomatoes"
_MASS_NOUNS = (
    "water milk bread money soup snow rain coffee tea sugar butter cheese honey wood glass paper sand grass music food"
)
_PLACES = (
    "garden house kitchen school forest river bridge hill field market street park shop beach barn station "
    "village town city mountain library hospital tower castle road lake farm church hotel museum factory harbour "
    "island valley zoo bedroom classroom garage cage tunnel wall gate fence corner roof square path shore desert"
)
_TIMES = "morning night day winter spring summer autumn week evening afternoon weekend"

# Verbs: base:past:participle; the forms that are left out are regular. The participle defaults to the past.
_INTRANSITIVE = (
    "sleep:slept run:ran:run laugh walk wait arrive fall:fell:fallen swim:swam:swum dance sing:sang:sung "
    "cry:cried smile vanish disappear rest shout work play talk jump travel sit:sat stand:stood rise:rose:risen "
    "grow:grew:grown die come:came:come go:went:gone fly:flew:flown drift shake:shook:shaken wake:woke:woken live "
    "stay cough shiver"
)
_TRANSITIVE = (
    "find:found carry:carried watch follow wash paint open close buy:bought sell:sold break:broke:broken push "
    "pull lift hold:held see:saw:seen hear:heard like love need keep:kept hide:hid:hidden lose:lost make:made "
    "take:took:taken bring:brought steal:stole:stolen clean cover touch drop repair build:built "
    "choose:chose:chosen draw:drew:drawn forget:forgot:forgotten remember count catch:caught throw:threw:thrown "
    "leave:left share use visit order move fix turn measure burn collect kick borrow admire describe"
)
_PERSON = (
    "help know:knew:known teach:taught thank meet:met ask call chase warn hug greet trust believe invite surprise "
    "love like see:saw:seen hear:heard watch follow visit find:found admire remember"
)
_REFLEXIVE = (
    "see:saw:seen hurt:hurt:hurt help wash hide:hid:hidden blame teach:taught dress draw:drew:drawn paint admire "
    "describe like warn"
)
_EATING = "eat:ate:eaten cook bake cut:cut:cut peel share smell taste want"
_CLAUSE = "know:knew:known say:said think:thought hope believe hear:heard remember forget:forgot:forgotten"
_ADJECTIVES = (
    "old young small large tiny big little new warm cold hot wet dry red green blue yellow orange purple black "
    "white brown grey heavy light quiet loud happy sad angry tired hungry kind clever brave poor rich tall short "
    "long narrow wide deep dark bright clean dirty empty full broken strange famous friendly gentle lazy busy "
    "ancient modern pale round square soft hard sweet sour fresh strong weak nice lovely beautiful ugly wooden "
    "golden silver quick slow thick thin sharp lost funny careful"
)
_ADVERBS = (
    "slowly quickly quietly loudly carefully happily sadly suddenly often always never gently softly well "
    "together again alone"
)
_TIME_ADVERBS = "yesterday today now tomorrow soon later twice outside inside upstairs"
_NUMBERS = "two three four five six seven eight nine ten"
_NAMES = (
    "anna:f ben:m clara:f david:m emma:f felix:m grace:f henry:m julia:f leo:m maria:f oscar:m rosa:f simon:m "
    "tom:m lucy:f"
)
_PREPOSITIONS = "near behind beside under above by with before"


@dataclass(frozen=True)
class Noun:
    """A noun in both numbers; ``gender`` is ``"m"``, ``"f"``, or None where the word leaves it open."""

    singular: str
    plural: str
    gender: str | None = None

    def form(self, plural: bool) -> str:
        """The noun in the given number."""
        return self.plural if plural else self.singular


@dataclass(frozen=True)
class Verb:
    """The forms of a verb."""

    base: str
    third: str
    past: str
    participle: str
    ing: str

    def form(self, plural: bool) -> str:
        """The present tense in the third person."""
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


MEN, WOMEN = _nouns(_MEN, "m"), _nouns(_WOMEN, "f")
PEOPLE = MEN + WOMEN + _nouns(_UNGENDERED)
ANIMALS, THINGS, FOODS, PLACES = _nouns(_ANIMALS), _nouns(_THINGS), _nouns(_FOODS), _nouns(_PLACES)
INTRANSITIVE_VERBS, TRANSITIVE_VERBS = _verbs(_INTRANSITIVE), _verbs(_TRANSITIVE)
#: Verbs whose object is a person; verbs that take a reflexive.
PERSON_VERBS, REFLEXIVE_VERBS = _verbs(_PERSON), _verbs(_REFLEXIVE)
#: Verbs whose object is food; verbs that take a clause; verbs that link a subject to an adjective.
EATING_VERBS, CLAUSE_VERBS, LINKING_VERBS = _verbs(_EATING), _verbs(_CLAUSE), _verbs("look seem feel:felt smell")
MASS_NOUNS, TIMES, ADJECTIVES = _MASS_NOUNS.split(), _TIMES.split(), _ADJECTIVES.split()
ADVERBS, TIME_ADVERBS = _ADVERBS.split(), _TIME_ADVERBS.split()
NUMBERS, PREPOSITIONS = _NUMBERS.split(), _PREPOSITIONS.split()
#: (first name, gender)
NAMES = [tuple(name.split(":")) for name in _NAMES.split()]


@functools.cache
def lexicon() -> tuple[str, ...]:
    """Every form of every content word that the grammar can use, in a fixed order, each once."""
    words: list[str] = []
    for nouns in (PEOPLE, ANIMALS, THINGS, FOODS, PLACES):
        words += [form for noun in nouns for form in (noun.singular, noun.plural)]
    verbs = (
        INTRANSITIVE_VERBS,
        TRANSITIVE_VERBS,
        PERSON_VERBS,
        REFLEXIVE_VERBS,
        EATING_VERBS,
        CLAUSE_VERBS,
        LINKING_VERBS,
    )
    for group in verbs:
        words += [form for verb in group for form in (verb.base, verb.third, verb.past, verb.participle, verb.ing)]
    words += [*MASS_NOUNS, *TIMES, *ADJECTIVES, *ADVERBS, *TIME_ADVERBS, *NUMBERS, *PREPOSITIONS]
    words += [name for name, _ in NAMES]
    return tuple(dict.fromkeys(word for entry in words for word in entry.split()))
