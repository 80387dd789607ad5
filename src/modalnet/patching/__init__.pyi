from .activation import activation_patching as activation_patching
from .attribution import attribution_patching as attribution_patching
from .examples import (
    PairSet as PairSet,
    agreement_pairs as agreement_pairs,
    colour_pairs as colour_pairs,
    fact_pairs as fact_pairs,
)
from .flow_result import InformationFlow as InformationFlow
from .information_flow import information_flow as information_flow
from .metrics import (
    Metric as Metric,
    custom as custom,
    kl_divergence as kl_divergence,
    log_probability as log_probability,
    logit_difference as logit_difference,
)
from .modality import ModalityProfile as ModalityProfile, profile_modality as profile_modality
from .pairs import tokens_of as tokens_of
from .result import NetworkPatch as NetworkPatch, Patching as Patching, agreement as agreement
from .token_alignment import Column as Column, Grid as Grid
