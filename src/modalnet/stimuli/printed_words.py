"""Words that are printed in pictures: those of the localizer, and others to test reading with.

All are common English nouns of 3 to 8 letters; no word is in both lists.
"""

from __future__ import annotations

from modalnet.stimuli.picture_sets import WORDS

_FURTHER = (
    "ankle arrow balloon basin blanket branch bullet butter button camel canal carpet cattle cellar chain cherry "
    "chicken circus cloud copper cotton desk donkey drawer engine feather finger flame flower forest fountain garlic "
    "ginger glove hammer helmet jacket jungle kettle ladder lemon"
)
_TEST = (
    "anchor apron army artist attic author bacon badge barrel battle belt berry bishop blood board border bottle "
    "bowl brain brick brother bucket cabin camera canvas castle ceiling cement chapel chest church clerk closet "
    "coach coffee collar colony comet corner couch cradle creek crowd curtain dagger dancer danger dentist diamond "
    "dinner dragon dress eagle elbow family fence fiddle flag flute fridge grape guitar hedge heart honey hotel "
    "jewel judge kitchen knife lawyer leather library lizard lunch magnet maple marble mirror mountain muscle needle "
    "ocean onion orange orchard oven palace paper parrot pencil pepper pillow planet pocket prison puppet radio "
    "ribbon robin rocket saddle sailor salad school shadow shelter shirt shoulder sister soldier spoon stable statue "
    "stomach sword temple thunder ticket tiger tomato tongue towel tower turkey uncle valley velvet wagon wheel "
    "whistle wizard yard"
)
#: Words of :func:`modalnet.stimuli.word_pictures`.
LOCALIZER_WORDS = (*WORDS, *_FURTHER.split())
#: Words of :func:`modalnet.tasks.lexical_decision`.
TEST_WORDS = tuple(_TEST.split())
