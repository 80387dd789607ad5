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

from modalnet.errors import InputError, ModalnetError
from modalnet.execution.memory import is_out_of_memory
from modalnet.execution.plan import Plan, Pool, Sites
from modalnet.models.sites import Space

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from jaxtyping import Bool, Float, Int

    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Encoded
    from modalnet.inputs.encoding import Encoder
    from modalnet.models.towers import Tower

# Share of the largest change of a position at which another counts as changed.
CHANGED = 1e-4
# Share of the largest activation up to which an image that is exchanged counts as not read.
UNREAD = 1e-6
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
        self._read: set[Any] = set()  # kinds of stimuli with several images, each of which is read
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
            seeds = range(item.n_images)
            other = range(item.n_images, 2 * item.n_images)
            pictures = (_with_noise(self.encoder, item, each) for each in (seeds, other))
            one, two = (entering(self.engine, self.encoder, each, tower) for each in pictures)
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
        if names is None:
            names = [{}] * len(groups)
        else:  # what depends on no parameter of its own is a patch without an image, such as a border
            groups = [group for group, own in zip(groups, names, strict=True) if own]
            names = [own for own in names if own]
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
    ) -> list[dict[str, int]] | None:
        """For each group of positions, the sizes of the parameters that it depends on and image tokens do not.

        None where the weights are not here.
        """
        capabilities = self.engine.capabilities
        candidates = dict(_candidates(self.engine.module, tower))
        if not (capabilities.weights_here and capabilities.in_place) or not candidates:
            return None
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

    def check_read(self, item: Encoded, tower: Tower) -> None:
        """Raise an InputError if one of several images of a stimulus makes no difference, or they cannot run.

        Measured once per kind of stimulus: each image is replaced in turn, and the last block of a tower must change.

        Parameters
        ----------
        item
            The stimulus.
        tower
            The last tower that it reaches.
        """
        if item.n_images < 2 or item.kind in self._read:
            return
        name, label, n = self.encoder.loaded.name, item.label, item.n_images
        try:
            base, *others = (
                self._last_block(
                    _with_noise(self.encoder, item, [n if place == k else place for place in range(n)]), tower
                )
                for k in (-1, *range(n))
            )
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if isinstance(error, ModalnetError) or is_out_of_memory(error):
                raise
            raise InputError(
                f"{name} cannot run stimulus {label}, which has {n} images ({type(error).__name__}: {error}). Give it "
                "one image, or a text that separates them as the model expects."
            ) from error
        for k, other in enumerate(others):
            if base.shape == other.shape and not bool((base - other).abs().max() > UNREAD * base.abs().max()):
                raise InputError(
                    f"{name} does not read image {k + 1} of the {n} of stimulus {label}: another image in its place "
                    f"changes nothing in the {tower.name} tower. Give each stimulus one image."
                )
        self._read.add(item.kind)

    def _last_block(self, item: Encoded, tower: Tower) -> torch.Tensor:
        batch = self.encoder.collate([item])
        plan = Plan(((Sites(Space(tower), (tower.n_layers - 1,)), Pool(0)),), root=batch.root)
        return self.engine.run(batch.inputs, plan).activations[tower.name][0]


def entering(engine: Engine, encoder: Encoder, item: Encoded, tower: Tower) -> Float[torch.Tensor, "position dim"]:
    """The input of the first block of a tower for one stimulus by itself."""
    batch = encoder.collate([item])
    return engine.entering(batch.inputs, tower, Plan((), root=batch.root))


def _candidates(module: torch.nn.Module, tower: Tower) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters outside the blocks of a tower that may hold tokens, by name."""
    inside = {id(parameter) for block in tower.blocks for parameter in block.parameters()}
    for name, parameter in module.named_parameters():
        if id(parameter) in inside or not parameter.is_floating_point() or parameter.device.type == "meta":
            continue
        if parameter.dim() and parameter.shape[-1] == tower.width:
            yield name, parameter


def noise(size: tuple[int, int], seed: int) -> Any:
    """A picture of random noise of a size (width, height)."""
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def _with_noise(encoder: Encoder, item: Encoded, seeds: Sequence[int]) -> Encoded:
    """A stimulus with random noise instead of its images."""
    stimulus = item.prepared.stimulus
    pictures = tuple(noise(size, seed) for size, seed in zip(stimulus.inspect().sizes, seeds, strict=True))
    return encoder.encode(replace(item.prepared, stimulus=replace(stimulus, image=pictures)))


def _listed(places: list[int]) -> str:
    """Some numbers, the first of them where there are many."""
    return ", ".join(map(str, places[:4])) + (", …" if len(places) > 4 else "")
