"""Text towers of dual encoders that were trained on texts of one length, padding included (SigLIP).

Such a tower attends to its padding, or reads the summary of a text at the last position whatever is there. So a text is
padded to the length of training, as the model's tokenizer pads and masks; its own tokens stay those of the text.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from modalnet.inputs.batch import Encoded, is_text_field

if TYPE_CHECKING:
    from modalnet.models.loading import Loaded
    from modalnet.models.towers import Tower


class TrainedLength:
    """The length of text that a dual encoder was trained with.

    Parameters
    ----------
    loaded
        The model with its tokenizer and processor.
    tower
        Its text tower; None where the model is no dual encoder.
    pad_id
        Token id of the padding.
    """

    def __init__(self, loaded: Loaded, tower: Tower | None, pad_id: int) -> None:
        self.loaded = loaded
        self.tower = tower
        self.pad_id = pad_id

    def fill(self, encoded: Encoded) -> Encoded:
        """The same stimulus with a text of that length."""
        import torch

        ids = encoded.inputs.get("input_ids")
        if ids is None or self.tokens is None or ids.shape[1] >= self.tokens:
            return encoded
        tokenizer, n_tokens = self.loaded.tokenizer, int(ids.shape[1])
        missing = self.tokens - n_tokens
        around = (missing, 0) if getattr(tokenizer, "padding_side", "right") == "left" else (0, missing)
        inputs = {
            name: torch.nn.functional.pad(value, around, value=self.pad_id if name == "input_ids" else 0)
            if is_text_field(name, value, encoded.inputs)
            else value
            for name, value in encoded.inputs.items()
        }
        if "attention_mask" in getattr(tokenizer, "model_input_names", ()):
            inputs["attention_mask"] = torch.nn.functional.pad(torch.ones_like(ids), around)
        else:  # the model attends to its padding
            inputs.pop("attention_mask", None)
        return replace(encoded, inputs=inputs, own=(around[0], n_tokens))

    @cached_property
    def tokens(self) -> int | None:
        """The number of tokens; None where texts of any length were trained on.

        The model's processor says so or, where that leaves it to the user, the summary of a text is read from padding.
        """
        if self.tower is None or self.loaded.tokenizer is None:
            return None
        processor = type(self.loaded.processor)
        given = getattr(processor, "text_kwargs", None)
        if not given:  # older transformers
            given = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {}).get("text_kwargs")
        given = given or {}
        if given.get("padding") != "max_length" and not self._summary_is_of_padding(self.tower):
            return None
        config = self.loaded.module.config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        limits = (
            given.get("max_length"),
            getattr(self.loaded.tokenizer, "model_max_length", None),
            getattr(text, "max_position_embeddings", None),
        )
        return min((limit for limit in limits if isinstance(limit, int)), default=None)

    def _summary_is_of_padding(self, tower: Tower) -> bool:
        """Whether the summary of a text changes with a token at its end that is masked."""
        import torch

        root = self.loaded.module.get_submodule(tower.root)
        place = next((parameter.device for parameter in root.parameters()), None)
        if place is None or place.type == "meta":
            return False
        ids = torch.tensor([[9, 8, 7, 6], [9, 8, 7, 5]], device=place)  # some read it at the largest number
        mask = torch.tensor([[1, 1, 1, 0]] * 2, device=place)
        training = [part for part in root.modules() if part.training]
        try:
            root.eval()
            with torch.no_grad():
                summary = root(input_ids=ids, attention_mask=mask).pooler_output
        except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
            return False
        finally:
            for part in training:
                part.training = True
        return summary is not None and not torch.allclose(summary[0], summary[1], atol=1e-4, rtol=1e-3)
