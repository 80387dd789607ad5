"""Specialization: the degree to which networks of one model are segregated, and its proposed benefits.

Proposed benefits of lateralization in brains are less interference between domains (conflict avoidance), higher
capacity, faster processing and parallel processing. :func:`specialization` measures those that can be assessed in a
model, each measure with its source and its limits, and reports which were not measured.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
