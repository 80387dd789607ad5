"""Activation patching across text and pictures: which sites, tokens and towers carry an answer."""

from modalnet.patching.activation import activation_patching
from modalnet.patching.attribution import attribution_patching
from modalnet.patching.examples import PairSet, agreement_pairs, colour_pairs, fact_pairs
from modalnet.patching.metrics import Metric, custom, kl_divergence, log_probability, logit_difference
from modalnet.patching.modality import ModalityProfile, profile_modality
from modalnet.patching.pairs import tokens_of
from modalnet.patching.result import NetworkPatch, Patching, agreement
from modalnet.patching.token_alignment import Column, Grid

__all__ = [
    "Column",
    "Grid",
    "Metric",
    "ModalityProfile",
    "NetworkPatch",
    "PairSet",
    "Patching",
    "activation_patching",
    "agreement",
    "agreement_pairs",
    "attribution_patching",
    "colour_pairs",
    "custom",
    "fact_pairs",
    "kl_divergence",
    "log_probability",
    "logit_difference",
    "profile_modality",
    "tokens_of",
]
