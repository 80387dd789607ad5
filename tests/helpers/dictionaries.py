"""Stand-ins for dictionaries of other libraries, with their names, shapes and conventions; none is installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


class LensSAE(nn.Module):
    """As an SAE of SAELens: ``W_enc [d_in, d_sae]``, ``W_dec [d_sae, d_in]``, settings in ``cfg``.

    It takes ``b_dec`` off the input where ``apply_b_dec_to_input`` says so, casts to its own precision, and what it
    normalizes by in ``encode`` is kept for one ``decode``.
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        architecture: str = "standard",
        normalize: str = "none",
        apply_b_dec_to_input: bool = True,
        k: int = 4,
        seed: int = 0,
        hook_z: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.cfg = SimpleNamespace(
            d_in=d_in,
            d_sae=d_sae,
            architecture=architecture,
            normalize_activations=normalize,
            apply_b_dec_to_input=apply_b_dec_to_input,
            k=k,
            reshape_activations="hook_z" if hook_z else "none",
        )
        self.W_enc = nn.Parameter(torch.randn(d_in, d_sae) / d_in**0.5)
        self.W_dec = nn.Parameter(torch.randn(d_sae, d_in) / d_sae**0.5)
        self.b_enc = nn.Parameter(torch.randn(d_sae) * 0.1)
        self.b_dec = nn.Parameter(torch.randn(d_in) * 0.1)
        self.threshold = nn.Parameter(torch.full((d_sae,), 0.3))
        self.hook_z_reshaping_mode = hook_z

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.W_enc.dtype)
        if self.hook_z_reshaping_mode:
            self.d_head = x.shape[-1]
            x = x.flatten(-2)
        if self.cfg.normalize_activations == "constant_norm_rescale":
            self.x_norm_coeff = self.cfg.d_in**0.5 / x.norm(dim=-1, keepdim=True)
            x = x * self.x_norm_coeff
        if self.cfg.normalize_activations == "layer_norm":
            self.ln_mu = x.mean(dim=-1, keepdim=True)
            x = x - self.ln_mu
            self.ln_std = x.std(dim=-1, keepdim=True)
            x = x / (self.ln_std + 1e-5)
        hidden = (x - self.b_dec * self.cfg.apply_b_dec_to_input) @ self.W_enc + self.b_enc
        if self.cfg.architecture == "topk":
            top = torch.topk(hidden, self.cfg.k, dim=-1)
            return torch.zeros_like(hidden).scatter_(-1, top.indices, top.values.relu())
        if self.cfg.architecture == "jumprelu":
            return hidden.relu() * (hidden > self.threshold).to(hidden.dtype)
        return hidden.relu()

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        out = acts @ self.W_dec + self.b_dec
        if self.cfg.normalize_activations == "constant_norm_rescale":
            out = out / self.x_norm_coeff
            del self.x_norm_coeff
        if self.cfg.normalize_activations == "layer_norm":
            out = out * self.ln_std + self.ln_mu
        return out.unflatten(-1, (-1, self.d_head)) if self.hook_z_reshaping_mode else out


class AutoEncoder(nn.Module):
    """As the ``AutoEncoder`` of dictionary_learning: linear layers, a bias that is taken off and put back."""

    def __init__(self, activation_dim: int, dict_size: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.activation_dim, self.dict_size = activation_dim, dict_size
        self.bias = nn.Parameter(torch.randn(activation_dim) * 0.1)
        self.encoder = nn.Linear(activation_dim, dict_size, bias=True)
        self.decoder = nn.Linear(dict_size, activation_dim, bias=False)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.encoder(x - self.bias))

    def decode(self, f: torch.Tensor) -> torch.Tensor:
        return self.decoder(f) + self.bias


class SingleLayerTranscoder(nn.Module):
    """As that of circuit-tracer: ``W_enc [d_transcoder, d_model]``; one that skips decodes with its input, too."""

    def __init__(self, d_model: int, d_transcoder: int, *, skip: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.W_enc = nn.Parameter(torch.randn(d_transcoder, d_model) / d_model**0.5)
        self.W_dec = nn.Parameter(torch.randn(d_transcoder, d_model) / d_transcoder**0.5)
        self.b_enc = nn.Parameter(torch.zeros(d_transcoder))
        self.b_dec = nn.Parameter(torch.randn(d_model) * 0.1)
        self.W_skip = nn.Parameter(torch.randn(d_model, d_model) / d_model) if skip else None

    def encode(self, input_acts: torch.Tensor, apply_activation_function: bool = True) -> torch.Tensor:
        pre = nn.functional.linear(input_acts.to(self.W_enc.dtype), self.W_enc, self.b_enc)
        return pre.relu() if apply_activation_function else pre

    def decode(self, acts: torch.Tensor, input_acts: torch.Tensor | None = None) -> torch.Tensor:
        out = acts @ self.W_dec + self.b_dec
        if self.W_skip is not None:
            assert input_acts is not None, "Transcoder has skip connection but no input_acts were provided"
            out = out + input_acts @ self.W_skip.T
        return out


def matrices(d_in: int, n_latents: int, seed: int = 0) -> dict[str, Any]:
    """Matrices with biases and a threshold."""
    torch.manual_seed(seed)
    return {
        "encoder": torch.randn(d_in, n_latents) / d_in**0.5,
        "decoder": torch.randn(n_latents, d_in) / n_latents**0.5,
        "encoder_bias": torch.randn(n_latents) * 0.1,
        "decoder_bias": torch.randn(d_in) * 0.1,
        "threshold": torch.full((n_latents,), 0.2),
    }


def trained(activations: torch.Tensor, n_latents: int, *, steps: int = 400, sparsity: float = 0.02) -> AutoEncoder:
    """A sparse autoencoder, trained by gradient descent on activations ``[token, dim]``."""
    made = AutoEncoder(activations.shape[1], n_latents)
    with torch.no_grad():
        made.bias.copy_(activations.mean(0))
        made.encoder.weight.copy_(made.decoder.weight.T)
        made.encoder.bias.zero_()
    scale = (activations - activations.mean(0)).square().sum(1).mean().sqrt()
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = activations[torch.randint(len(activations), (256,), generator=generator)]
        latents = made.encode(batch)
        error = (batch - made.decode(latents)).square().sum(1).mean() / scale.square()
        penalty = (latents * made.decoder.weight.norm(dim=0)).sum(1).mean() / scale
        optimizer.zero_grad()
        (error + sparsity * penalty).backward()
        optimizer.step()
    return made.eval()
