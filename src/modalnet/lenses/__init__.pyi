from .logit_lens import lens as lens
from .result import Fit as Fit, Lens as Lens
