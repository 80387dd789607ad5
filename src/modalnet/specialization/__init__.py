"""Specialization: how apart two networks of one model are, and what that might be good for.

Why would a brain, or a model, keep domains apart? Reasons that the field discusses for the lateralization of brains are
that domains then stay out of each other's way (conflict avoidance), that there is room for more (higher capacity), and
that they work faster and at once (processing speed, parallel processing). :func:`specialization` measures what can be
measured of this in a model, each measure with its source and its limits, and says what was not measured.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
