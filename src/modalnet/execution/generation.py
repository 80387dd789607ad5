"""Generation, one stimulus after another, under interventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.execution.batching import encoded_ahead
from modalnet.execution.reading import LayoutError
from modalnet.execution.turns import step_by_step

if TYPE_CHECKING:
    from modalnet.execution.edits import Edits
    from modalnet.execution.generated import Continued
    from modalnet.execution.stream import Runner
    from modalnet.inputs.batch import Batch, Encoded, Prepared


# Settings that let candidates run ahead of the model: of a generation config, and of a call alone.
_AHEAD = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
_ASSISTANT = ("assistant_model", "assistant_tokenizer")


@step_by_step
def generate(
    runner: Runner,
    prepared: Sequence[Prepared],
    edits: Edits | None,
    steps: int,
    settings: Mapping[str, Any],
    *,
    details: bool = False,
) -> Iterator[Continued]:
    """Continue each stimulus, one at a time and in order; yield the new tokens.

    Parameters
    ----------
    runner
        Of the model.
    prepared, edits
        The stimuli, and what is edited at every step.
    steps
        The largest number of new tokens.
    settings
        For ``generate`` of transformers.
    details
        Whether logits and scores of each step are wanted.

    Raises
    ------
    InputError
        Where the tokenizer closes a text; for settings that are for greedy decoding alone.
    ModalnetError
        Where the model lays out its tokens in an unknown way.
    """
    alone = one_by_one(runner, settings)
    for item in encoded_ahead(runner.encoder.encode, prepared):
        runner.encoder.check_open(item)
        yield _continued(runner, item, edits, steps, alone | {"details": details})


def one_by_one(runner: Runner, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with which each pass decides on one token, whatever the checkpoint or the caller asks for.

    Candidates that a pass over several tokens confirms only make generation faster.
    """
    configs = (settings.get("generation_config"), getattr(runner.engine.module, "generation_config", None))
    ahead = [name for name in _AHEAD if settings.get(name) or any(getattr(config, name, None) for config in configs)]
    if settings.get("do_sample") and (asked := [name for name in (*_AHEAD, *_ASSISTANT) if settings.get(name)]):
        raise InputError(
            f"`{asked[0]}` is for greedy decoding: with sampling it draws other random numbers. Leave it out."
        )
    kept = {name: value for name, value in settings.items() if name not in _ASSISTANT}
    return kept | dict.fromkeys(ahead)


def _continued(
    runner: Runner, item: Encoded, edits: Edits | None, steps: int, settings: Mapping[str, Any]
) -> Continued:
    runner.layouts.check_images(item)
    batch = runner.encoder.collate([item])
    # All ones for a stimulus alone, and not grown with what is generated.
    inputs = {name: value for name, value in batch.inputs.items() if name != "decoder_attention_mask"}

    def run(edited: Batch) -> Continued:
        writes = edits.writes(edited, runner.layouts.spans, continued=True) if edits else ()
        later = edits.later(edited, runner.layouts.spans, steps) if edits else ()
        return runner.engine.generate(inputs, writes, later, **settings, max_new_tokens=steps)

    try:
        return run(batch)
    except LayoutError as error:
        if item.n_tokens < 2 or batch.written:
            raise runner.passes.unknown_layout(error, batch) from error
        # Some models continue from all of a prompt but its last token, which closes it.
        try:
            return run(runner.encoder.collate([item.without_last()]))
        except LayoutError:
            raise runner.passes.unknown_layout(error, batch) from error
