"""What is shown to a model: stimuli, the contrasts between their conditions, and where both come from.

A :class:`Stimulus` is one text and/or image with the label of its condition. A :class:`Contrast` sets one or more
positive conditions against one or more negative ones. Everything else here makes contrasts: :func:`language` from
the bundled set, :func:`fedorenko2010` and :func:`floc` from published localizers, :func:`from_csv`,
:func:`from_folder` and :func:`from_dataset` from a researcher's own files.

This room knows no model and reads no picture before it is asked to, so importing it is quick.
"""

from __future__ import annotations

from modalnet.stimuli.bundled import language
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.huggingface import from_dataset
from modalnet.stimuli.nonwords import nonword
from modalnet.stimuli.published import fedorenko2010, floc
from modalnet.stimuli.readers import from_csv, from_folder
from modalnet.stimuli.stimulus import Stimulus

__all__ = [
    "Contrast",
    "Stimulus",
    "fedorenko2010",
    "floc",
    "from_csv",
    "from_dataset",
    "from_folder",
    "language",
    "nonword",
]
