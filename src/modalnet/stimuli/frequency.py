"""Word frequency, for the tables that show how well conditions are matched.

The scale is the Zipf scale: log10 of the occurrences per billion words. "the" has 7.7, the rarest of the words listed
here 3.8. A word that is not in the list is rarer, or not a word.
"""

from __future__ import annotations

from functools import cache

from modalnet.stimuli.package_data import data_lines


@cache
def zipf_frequencies() -> dict[str, float]:
    """The roughly 5,000 most common words of English subtitles, in lower case -> Zipf frequency to one decimal."""
    lines = (line.split() for line in data_lines("frequency.txt"))
    return {word: float(zipf) for zipf, *words in lines for word in words}
