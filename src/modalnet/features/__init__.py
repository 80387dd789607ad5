"""What units like: the stimuli, tokens and pictures that drive a unit or a network most."""

from modalnet.features.optimization import optimize
from modalnet.features.optimized import Optimized
from modalnet.features.parametrization import Shake
from modalnet.features.result import TopStimuli
from modalnet.features.top_stimuli import top_stimuli
from modalnet.features.top_tokens import top_tokens

__all__ = ["Optimized", "Shake", "TopStimuli", "optimize", "top_stimuli", "top_tokens"]
