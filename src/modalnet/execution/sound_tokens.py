"""Which positions of an audio tower hold a sound, measured on the model.

An extractor pads a short sound (Whisper's to 30 s), and which frames are padding is known where they are made
(:mod:`modalnet.inputs.sound_features`). The tower has other positions than these frames: convolutions join several, and
learned tokens may stand beside them. So the positions are measured at the input of the first block. Noise takes the
place of all features, and then other noise that of the frames that hold the sound, and of the padding: each changes the
positions that see it. Of the positions at an end of the sound that see both, the half that is nearer to the sound is
the sound's, as transformers divides lengths by the strides of convolutions. A position that no noise changes is
learned.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modalnet.execution.image_tokens import CHANGED, entering

if TYPE_CHECKING:
    import numpy as np
    import torch
    from jaxtyping import Bool, Float

    from modalnet.execution.engine import Engine
    from modalnet.inputs.batch import Encoded
    from modalnet.inputs.encoding import Encoder
    from modalnet.models.towers import Tower


@dataclass(frozen=True)
class SoundPositions:
    """The positions of one stimulus in an audio tower.

    Attributes
    ----------
    own
        Those that are no padding: they hold the sound, or are learned.
    sound
        Those that hold the sound.
    """

    own: Bool[torch.Tensor, " position"]
    sound: Bool[torch.Tensor, " position"]


class SoundTokens:
    """Measures the positions of sounds in the audio towers of one model.

    Parameters
    ----------
    engine, encoder
        Those of the model.
    """

    def __init__(self, engine: Engine, encoder: Encoder) -> None:
        self.engine = engine
        self.encoder = encoder
        self._whole: dict[Any, tuple[Float[torch.Tensor, "position dim"], Bool[torch.Tensor, " position"]]] = {}
        self._found: dict[Any, SoundPositions] = {}

    def positions(self, item: Encoded, tower: Tower) -> SoundPositions:
        """The positions of a stimulus at the input of a tower's first block."""
        frames = item.frames
        own = None if frames is None else frames.own.tobytes()
        key = (tower.name, item.kind, item.signature, own)
        if key in self._found:
            return self._found[key]
        names = [name for name, value in item.inputs.items() if value.is_floating_point() and "mask" not in name]
        whole = (tower.name, item.kind, item.signature)
        if whole not in self._whole:
            first = entering(self.engine, self.encoder, _with_noise(item, names, 0), tower)
            self._whole[whole] = first, self._changed(first, _with_noise(item, names, 1), tower)
        first, seen = self._whole[whole]
        sound = seen
        if frames is not None:
            within = self._changed(first, _with_noise(item, names, 0, frames.own, 1), tower)
            outside = self._changed(first, _with_noise(item, names, 0, ~frames.own, 1), tower)
            sound = within & ~outside
            sound = sound | _nearer(within & outside, sound)
        found = self._found[key] = SoundPositions(sound | ~seen, sound)
        return found

    def _changed(self, first: torch.Tensor, item: Encoded, tower: Tower) -> Bool[torch.Tensor, " position"]:
        change = (entering(self.engine, self.encoder, item, tower) - first).norm(dim=1)
        return change > CHANGED * float(change.max())


def _with_noise(
    item: Encoded, names: list[str], seed: int, frames: Bool[np.ndarray, "row frame"] | None = None, other: int = 0
) -> Encoded:
    """A stimulus with noise instead of its features, and with other noise in some of its frames."""
    import torch

    inputs = dict(item.inputs)
    for name in names:
        value = item.inputs[name]
        inputs[name] = _noise(value, seed)
        if frames is not None and item.frames is not None and name == item.frames.name:
            shape = [1] * value.dim()
            shape[0], shape[item.frames.axis] = frames.shape
            inputs[name] = torch.where(torch.from_numpy(frames).reshape(shape), _noise(value, other), inputs[name])
    return replace(item, inputs=inputs)


def _noise(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Noise of about the level of features; it goes by their shape alone."""
    import torch

    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.dtype)


def _nearer(
    both: Bool[torch.Tensor, " position"], sound: Bool[torch.Tensor, " position"]
) -> Bool[torch.Tensor, " position"]:
    """Of each run of positions that see the sound and padding, the half that is next to the sound."""
    import torch

    found = torch.zeros_like(both)
    places = both.nonzero().flatten().tolist()
    runs = [list(run) for _, run in itertools.groupby(enumerate(places), lambda pair: pair[1] - pair[0])]
    for run in ([place for _, place in run] for run in runs):
        half = (len(run) + 1) // 2
        behind = run[-1] + 1 < len(sound) and bool(sound[run[-1] + 1]) and not (run[0] and bool(sound[run[0] - 1]))
        found[run[-half:] if behind else run[:half]] = True
    return found
