"""Sounds to model inputs, and which of the frames that a feature extractor makes hold the sound.

An extractor resamples nothing, cuts what is too long without a word, and pads what is short (Whisper's to 30 s, with
silence). So each sound is resampled to the extractor's rate, one whose end the extractor would leave out is refused,
and its padding is known frame by frame: from the extractor's mask, or, where it gives none, by the frames that stay as
they are when noise is added to the sound.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modalnet.errors import InputError
from modalnet.models.roots import SOUNDS

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float

    from modalnet.models.loading import Loaded
    from modalnet.stimuli import Stimulus

# Seconds at the end of a sound where noise has to change its features.
LAST = 0.05


@dataclass(frozen=True)
class Frames:
    """The frames of one stimulus in the features that its sounds became.

    Attributes
    ----------
    name
        The model input that holds them, such as ``"input_features"``.
    axis
        Its dimension along which they run.
    own
        Which of them hold sound; the others are padding. A sound is a row, or several where it is cut into pieces.
    """

    name: str
    axis: int
    own: Bool[np.ndarray, "row frame"]


class SoundFeatures:
    """Runs a model's feature extractor on sounds by themselves.

    Parameters
    ----------
    loaded
        The model with its feature extractor.
    parameters
        The parameters of its forward.
    """

    def __init__(self, loaded: Loaded, parameters: Mapping[str, inspect.Parameter]) -> None:
        self.loaded = loaded
        self._parameters = parameters
        self._longest = 0  # samples of the longest sound whose end is known to be read

    @property
    def rate(self) -> int:
        """Samples per second of what the extractor reads."""
        return int(self.loaded.feature_extractor.sampling_rate)

    def samples(self, stimulus: Stimulus) -> list[Float[np.ndarray, " sample"]]:
        """The sounds of a stimulus at the extractor's rate."""
        return [sound.at(self.rate).samples for sound in stimulus.sounds()]

    def features(self, stimulus: Stimulus) -> tuple[dict[str, torch.Tensor], Frames | None]:
        """The model inputs of a stimulus of one sound, and its frames where some are padding.

        Raises
        ------
        InputError
            If it has several sounds, one that the extractor cuts, or one that is too short for the model.
        """
        if stimulus.n_sounds != 1:
            raise InputError(
                f"stimulus {stimulus.label} has {stimulus.n_sounds} sounds, but {self.loaded.name} hears one at a "
                "time. Join them to one sound, or make a stimulus of each."
            )
        (samples,) = self.samples(stimulus)
        made, mask = self._extract(samples, stimulus.label)
        self.check_whole([samples], made, lambda others: self._extract(others[0], stimulus.label)[0], stimulus.label)
        self._check_long_enough(len(samples), stimulus.label)
        return made, self._frames(samples, made, mask, stimulus.label)

    def _extract(
        self, samples: Float[np.ndarray, " sample"], label: str
    ) -> tuple[dict[str, torch.Tensor], Bool[np.ndarray, " frame"] | None]:
        """What the extractor makes of a sound, as far as the model takes it, and its mask of padding."""
        import torch

        extractor = self.loaded.feature_extractor
        masks = "return_attention_mask" in inspect.signature(extractor.__call__).parameters
        try:
            features = extractor(
                samples,
                sampling_rate=self.rate,
                return_tensors="pt",
                **({"return_attention_mask": True} if masks else {}),
            )
        except Exception as error:
            # Extractors raise whatever their array code raises; only here is it known which stimulus it was.
            raise InputError(
                f"The feature extractor of {self.loaded.name} cannot process the sound of stimulus {label} "
                f"({len(samples) / self.rate:.3f} s): {type(error).__name__}: {error}"
            ) from error
        given = features.get("attention_mask")
        made = {name: torch.as_tensor(value) for name, value in features.items() if name in self._parameters}
        if masks and not getattr(extractor, "return_attention_mask", True):
            # The model was trained without it.
            made.pop("attention_mask", None)
        return made, None if given is None or given.dim() != 2 else given[0].bool().numpy()

    def check_whole(
        self,
        sounds: Sequence[Float[np.ndarray, " sample"]],
        made: Mapping[str, torch.Tensor],
        make: Callable[[list[Float[np.ndarray, " sample"]]], Mapping[str, torch.Tensor]],
        label: str,
    ) -> None:
        """Refuse a sound whose end makes no difference to the model inputs.

        Parameters
        ----------
        sounds, made
            The sounds of a stimulus, and the model inputs that they became.
        make
            Makes the model inputs of other sounds in their place.
        label
            How messages name the stimulus.

        Raises
        ------
        InputError
            If the extractor cuts one of them.
        """
        import torch

        for place, samples in enumerate(sounds):
            if len(samples) <= self._longest:
                continue
            count = min(len(samples), max(1, round(LAST * self.rate)))
            changed = samples.copy()
            changed[-count:] += noise(count, 0)
            other = make([*sounds[:place], changed, *sounds[place + 1 :]])
            if all(torch.equal(value, other[name]) for name, value in made.items()):
                raise InputError(
                    f"the sound of stimulus {label} is {len(samples) / self.rate:.2f} s long, and {self.loaded.name} "
                    "does not read its end. Split it into shorter sounds."
                )
            self._longest = len(samples)

    def _check_long_enough(self, count: int, label: str) -> None:
        """Refuse a sound of which the model's first layers leave nothing."""
        import torch

        lengths = getattr(self.loaded.module, "_get_feat_extract_output_lengths", None)
        if lengths is None or self.loaded.module.main_input_name != "input_values":
            return
        if int(lengths(torch.tensor([count]))) < 1:
            raise InputError(
                f"the sound of stimulus {label} is {count / self.rate:.4f} s long, too short for {self.loaded.name}, "
                "whose first layers make no frame of it. Give it a longer sound."
            )

    def _frames(
        self,
        samples: Float[np.ndarray, " sample"],
        made: dict[str, torch.Tensor],
        mask: Bool[np.ndarray, " frame"] | None,
        label: str,
    ) -> Frames | None:
        """Which frames hold the sound; None where all of them do."""
        import torch

        name = next((each for each in SOUNDS if each in made), None)
        if name is None:
            return None
        shape = tuple(made[name].shape)
        if mask is not None:
            axes = [axis for axis in range(1, len(shape)) if shape[axis] == len(mask)]
            return None if bool(mask.all()) or not axes else Frames(name, axes[-1], mask[None])
        other = self._extract(samples + noise(len(samples), 1), label)[0][name]
        if other.shape != made[name].shape:
            return None
        change = torch.ne(other, made[name])[0].numpy()
        for axis in range(change.ndim):
            own = np.asarray(change.any(axis=tuple(place for place in range(change.ndim) if place != axis)))
            if not own.all():
                return Frames(name, axis + 1, own[None])
        return None


def frames_in(made: Mapping[str, torch.Tensor]) -> Frames | None:
    """The frames in what a processor made of a prompt with sounds, by its mask of padding; None where none is."""
    name = next((each for each in SOUNDS if each in made), None)
    if name is None:
        return None
    shape = tuple(made[name].shape)
    for key, mask in made.items():
        axes = [axis for axis in range(1, len(shape)) if mask.dim() == 2 and mask.shape[1] == shape[axis]]
        if "mask" in key and key != "attention_mask" and axes and mask.shape[0] == shape[0]:
            return None if bool(mask.all()) else Frames(name, axes[-1], mask.bool().numpy())
    return None


def noise(count: int, seed: int) -> Float[np.ndarray, " sample"]:
    """White noise of the level of speech."""
    return (0.1 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)
