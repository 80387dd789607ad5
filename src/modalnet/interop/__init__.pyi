from . import transformer_lens as transformer_lens
from .harness import lm_eval as lm_eval
from .multimodal_harness import lmms_eval as lmms_eval
