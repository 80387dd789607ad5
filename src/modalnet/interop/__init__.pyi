from . import transformer_lens as transformer_lens
from .harness import lm_eval as lm_eval
