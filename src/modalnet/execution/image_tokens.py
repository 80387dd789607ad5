"""Which positions of a tower are tokens of an image, and which the class token, measured on the model.

Names of parameters say that an embedding holds a class token or registers, but not where it puts them: at the start, at
the end, or nowhere. So the tokens are measured: two pictures of random noise, of the sizes of a stimulus' own, replace
its images, and the positions at which the input of a tower's first block differs are its image tokens. All others are
learned: class, register, distillation and detection tokens, and queries.

The class token is the learned position that depends on a parameter of one row that is called so: the gradient of the
input of the first block with respect to that parameter is zero at all other positions. Where the gradient cannot be
taken (the weights are on a server), a single learned position in each row is the class token.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from jaxtyping import Bool, Int

    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Encoded
    from modalnet.inputs.encoding import Encoder
    from modalnet.models.towers import Tower

# Share of the largest change of a position at which another counts as changed.
CHANGED = 1e-4
_CLASS = re.compile(r"(^|[._])(cls|class)", re.IGNORECASE)
_OTHER = re.compile(r"(^|[._])(reg|register|distill|det|detection|query|mask)", re.IGNORECASE)


class ImageTokens:
    """Measures the tokens of images in the towers of one model, once per size of the images.

    Parameters
    ----------
    engine, encoder
        Those of the model.
    """

    def __init__(self, engine: Engine, encoder: Encoder) -> None:
        self.engine = engine
        self.encoder = encoder
        self._changing: dict[Any, Bool[torch.Tensor, " position"]] = {}
        self._class: dict[Any, Bool[torch.Tensor, " position"] | InputError] = {}

    def changing(self, item: Encoded, tower: Tower) -> Bool[torch.Tensor, " position"]:
        """Which positions at the input of a tower's first block change when the images of a stimulus do.

        Raises
        ------
        InputError
            If the processor lays out other images of the same sizes differently.
        """
        n_text = item.n_tokens if tower.modality == "text" else 0
        key = (tower.name, item.kind, item.signature, n_text)
        if key not in self._changing:
            one, two = (self._entering(_with_noise(self.encoder, item, seed), tower) for seed in (0, 1))
            if one.shape != two.shape:
                raise InputError(
                    f"the image tokens of {self.encoder.loaded.name} in its {tower.name} tower cannot be measured: two "
                    f"images of one size have {len(one)} and {len(two)} positions there. Choose tokens by index."
                )
            change = (one - two).norm(dim=1)
            self._changing[key] = change > CHANGED * float(change.max())
        return self._changing[key]

    def class_token(
        self, item: Encoded, tower: Tower, n_tokens: int, there: Bool[torch.Tensor, " position"]
    ) -> Bool[torch.Tensor, " position"]:
        """Which positions of a stimulus are class tokens: none where the tower has none.

        Parameters
        ----------
        item
            The stimulus, with an image.
        tower
            An image tower.
        n_tokens
            Number of tokens in each row of the tower.
        there
            Which positions are not padding.

        Raises
        ------
        InputError
            If the tower has learned tokens of which none or several may be the class token.
        """
        key = (tower.name, item.kind, item.signature)
        if key not in self._class:
            try:
                self._class[key] = self._class_token(item, tower, n_tokens, there)
            except InputError as error:
                self._class[key] = error
        found = self._class[key]
        if isinstance(found, InputError):
            raise found
        return found

    def _class_token(
        self, item: Encoded, tower: Tower, n_tokens: int, there: Bool[torch.Tensor, " position"]
    ) -> Bool[torch.Tensor, " position"]:
        import torch

        changing = self.changing(item, tower)
        learned = (there & ~changing).nonzero().flatten()
        places = learned % n_tokens
        groups = [learned[places == place] for place in places.unique()]
        if not groups or not bool(changing.any()):
            return torch.zeros_like(changing)
        names = self._parameters_at(item, tower, groups)
        found = torch.zeros_like(changing)
        single = {name for own in names for name, size in own.items() if size == tower.width and _CLASS.search(name)}
        held = {tuple(place for place, own in enumerate(names) if name in own) for name in single}
        if len(held) == 1:
            for place in held.pop():
                found[groups[place]] = True
            return found
        if not single and all(own and all(_OTHER.search(name) for name in own) for own in names):
            return found
        if not single and len(groups) == 1:
            found[groups[0]] = True
            return found
        at = [int(group[0]) % n_tokens for group in groups]
        known = sorted({name for own in names for name in own}) or ["parameters that are not known"]
        raise InputError(
            f'tokens="cls": the {tower.name} tower of {self.encoder.loaded.name} has {len(at)} tokens that do not '
            f"depend on the image, at {_listed(at)} of {n_tokens} (from {', '.join(known)}), and which of them is the "
            f"class token cannot be determined. Choose by index, such as tokens=[{at[0]}]."
        )

    def _parameters_at(
        self, item: Encoded, tower: Tower, groups: list[Int[torch.Tensor, " position"]]
    ) -> list[dict[str, int]]:
        """For each group of learned positions, the sizes of the parameters that it depends on and images do not."""
        capabilities = self.engine.capabilities
        candidates = dict(_candidates(self.engine.module.get_submodule(tower.root), tower))
        if not (capabilities.weights_here and capabilities.in_place) or not candidates:
            return [{} for _ in groups]
        changing = self.changing(item, tower).nonzero().flatten()
        batch = self.encoder.collate([item])
        depends = self.engine.depends(
            batch.inputs, tower, Plan((), root=batch.root), list(candidates.values()), [*groups, changing]
        )
        *own, of_images = depends
        return [
            {
                name: candidates[name].numel()
                for name, here, there in zip(candidates, group, of_images, strict=True)
                if here and not there
            }
            for group in own
        ]

    def _entering(self, item: Encoded, tower: Tower) -> torch.Tensor:
        batch = self.encoder.collate([item])
        return self.engine.entering(batch.inputs, tower, Plan((), root=batch.root))


def _candidates(root: torch.nn.Module, tower: Tower) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters outside the blocks of a tower that may hold tokens, by name."""
    inside = {id(parameter) for block in tower.blocks for parameter in block.parameters()}
    for name, parameter in root.named_parameters():
        if id(parameter) in inside or not parameter.is_floating_point() or parameter.device.type == "meta":
            continue
        if parameter.dim() and parameter.shape[-1] == tower.width:
            yield name, parameter


def noise(size: tuple[int, int], seed: int) -> Any:
    """A picture of random noise of a size (width, height)."""
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def _with_noise(encoder: Encoder, item: Encoded, seed: int) -> Encoded:
    """A stimulus with random noise instead of its images, each of its own."""
    stimulus = item.prepared.stimulus
    sizes = stimulus.inspect().sizes
    pictures = tuple(noise(size, seed * len(sizes) + place) for place, size in enumerate(sizes))
    return encoder.encode(replace(item.prepared, stimulus=replace(stimulus, image=pictures)))


def _listed(places: list[int]) -> str:
    """Some numbers, the first of them where there are many."""
    return ", ".join(map(str, places[:4])) + (", …" if len(places) > 4 else "")
