from .attention_maps import attention_maps as attention_maps
from .attention_result import AttentionMaps as AttentionMaps
from .optimization import optimize as optimize
from .optimized import Optimized as Optimized
from .parametrization import RandomTransform as RandomTransform
from .result import TopStimuli as TopStimuli
from .top_stimuli import top_stimuli as top_stimuli
from .top_tokens import top_tokens as top_tokens
