"""What is shown to a model: stimuli, the contrasts between their conditions, and where both come from.

A :class:`Stimulus` is one text and/or image with the label of its condition. A :class:`Contrast` sets one or more
positive conditions against one or more negative ones. Everything else here makes contrasts: :func:`language`,
:func:`language_conditions`, :func:`theory_of_mind`, :func:`multiple_demand` and :func:`refusal` from texts that come
with the package; :func:`vision`, :func:`categories` and :func:`vision_vs_text` from drawn pictures;
:func:`fedorenko2010`, :func:`floc` and :func:`tom_saxe` from published localizers,
:func:`from_csv`, :func:`from_folder` and :func:`from_dataset` from a researcher's own files.

This room knows no model and reads no picture before it is asked to, so importing it is quick.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
