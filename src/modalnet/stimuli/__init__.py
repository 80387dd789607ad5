"""Stimuli: what is shown to a model, and contrasts between conditions.

A :class:`Stimulus` is a text, images, sounds or several of these, with the label of its condition. A :class:`Contrast`
sets one or more positive conditions against one or more negative ones. All other functions make contrasts:
:func:`language`, :func:`language_conditions`, :func:`theory_of_mind`, :func:`multiple_demand`, :func:`refusal`,
:func:`agreement` and :func:`incentives` from bundled texts; :func:`vision`, :func:`categories`, :func:`vision_vs_text`
and :func:`word_pictures` from drawn pictures; :func:`speech` and :func:`environment` from synthesized sounds
(:func:`tones` makes stimuli without a contrast); :func:`fedorenko2010`, :func:`floc` and :func:`tom_saxe` from
published localizers; :func:`minimal_pairs`, :func:`from_csv`, :func:`from_folder` and :func:`from_dataset` from other
files and data sets.

This room knows no model and reads no image and no sound before it is needed, so importing it is fast.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
