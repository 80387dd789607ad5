"""What is shown to a model: stimuli, the contrasts between their conditions, and where both come from.

A :class:`Stimulus` is one text and/or image with the label of its condition. A :class:`Contrast` sets one or more
positive conditions against one or more negative ones. Everything else here makes contrasts: :func:`language`,
:func:`language_conditions`, :func:`theory_of_mind`, :func:`multiple_demand` and :func:`refusal` from texts that come
with the package; :func:`vision`, :func:`categories` and :func:`vision_vs_text` from drawn pictures;
:func:`fedorenko2010`, :func:`floc` and :func:`tom_saxe` from published localizers,
:func:`from_csv`, :func:`from_folder` and :func:`from_dataset` from a researcher's own files.

This room knows no model and reads no picture before it is asked to, so importing it is quick.
"""

from __future__ import annotations

from modalnet.stimuli.arithmetic import multiple_demand
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.huggingface import from_dataset
from modalnet.stimuli.nonwords import nonword
from modalnet.stimuli.pictures import categories, vision
from modalnet.stimuli.published import fedorenko2010, floc
from modalnet.stimuli.questions import vision_vs_text
from modalnet.stimuli.readers import from_csv, from_folder
from modalnet.stimuli.refusal import refusal
from modalnet.stimuli.scramble import box_scramble, phase_scramble
from modalnet.stimuli.sentences import language, language_conditions
from modalnet.stimuli.stimulus import Stimulus
from modalnet.stimuli.stories import theory_of_mind, tom_saxe

__all__ = [
    "Contrast",
    "Stimulus",
    "box_scramble",
    "categories",
    "fedorenko2010",
    "floc",
    "from_csv",
    "from_dataset",
    "from_folder",
    "language",
    "language_conditions",
    "multiple_demand",
    "nonword",
    "phase_scramble",
    "refusal",
    "theory_of_mind",
    "tom_saxe",
    "vision",
    "vision_vs_text",
]
