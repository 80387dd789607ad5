"""How common a word is, for the tables that show how well conditions are matched.

The scale is Zipf's: log10 of the occurrences in a thousand million words. "the" has 7.7, the rarest of the words
listed here 3.8. A word outside the list is rarer, or no word.
"""

from __future__ import annotations

from functools import cache

from modalnet.stimuli.bundled import data_lines


@cache
def zipf_frequencies() -> dict[str, float]:
    """The some 5,000 most common words of English subtitles, in lower case, with their Zipf frequency to a tenth."""
    lines = (line.split() for line in data_lines("frequency.txt"))
    return {word: float(zipf) for zipf, *words in lines for word in words}
