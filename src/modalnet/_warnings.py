"""Warnings that point at the user's code, not at a line of this package."""

from __future__ import annotations

import os
import sys
import warnings

#: How the names of files begin that are no place of the user's; the tests add what checks annotations.
INSIDE: tuple[str, ...] = (os.path.dirname(__file__) + os.sep,)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line outside this package, however deep in it the reason was found.

    Parameters
    ----------
    message
        What to tell.
    category
        The kind of warning.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
