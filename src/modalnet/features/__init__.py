"""What units like: the stimuli, tokens and pictures that drive a unit or a network most."""

from modalnet.features.favourites import top_stimuli
from modalnet.features.optimization import optimize
from modalnet.features.optimized import Optimized
from modalnet.features.painting import Shake
from modalnet.features.result import TopStimuli
from modalnet.features.vocabulary import top_tokens

__all__ = ["Optimized", "Shake", "TopStimuli", "optimize", "top_stimuli", "top_tokens"]
