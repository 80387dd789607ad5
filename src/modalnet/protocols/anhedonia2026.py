"""Units of incentives in a vision-language model, and choices of less effort without them."""

from modalnet.protocols.protocol import (
    Claim,
    Localizer,
    Protocol,
    ProtocolContrast,
    ProtocolLesion,
    ProtocolTask,
    Quirk,
    RandomUnits,
    Selection,
    Source,
)


def _contrast(positive: str, domain: str) -> ProtocolContrast:
    return ProtocolContrast(
        f"{positive}, {domain}",
        Source(
            f"100 {domain} questions after a sentence about {positive}, and after a neutral one; not free",
            generator="stimuli.incentives",
            made_with={"positive": positive, "domain": domain},
            differs="other questions and other sentences, four of each",
        ),
    )


anhedonia2026 = Protocol(
    id="anhedonia2026",
    title="Incentive units: MLP activations that a promised reward and promised money change, whatever the question",
    citation="Anhedonic-AI, work of the EPFL NeuroAI Laboratory under review (2026).",
    code="github.com/epflneuroailab/Anhedonic-AI, all rights reserved",
    models="Qwen2-VL-7B-Instruct, bfloat16: 28 layers of 18,944 units; texts alone",
    localizer=Localizer(units="activation", tokens="last", magnitude="signed", statistic="mean difference"),
    contrasts=(
        _contrast("reward", "arithmetic"),
        _contrast("reward", "geography"),
        _contrast("money", "arithmetic"),
        _contrast("money", "geography"),
    ),
    selection=Selection(
        rule="threshold in every contrast",
        network="incentives",
        fractions=(),
        threshold=3.0,
        layers=(18 / 28, 1.0),
    ),
    lesion=ProtocolLesion("condition mean", condition="neutral"),
    random_units=RandomUnits(
        1, in_words="as many random units, in a figure; no code, and the number of draws unstated"
    ),
    tasks=(
        ProtocolTask(
            "incentive choice",
            Source(
                "96 choices among four word problems of ASDiv that are worth 10 to 40 points",
                generator="tasks.incentive_choice",
                made_with={"n": 96},
                differs="generated word problems of four difficulties",
            ),
            "the points of the first digit from 1 to 4 in the answer; none: 0 points",
            generated=True,
            max_new_tokens=64,
            parse="digit",
        ),
        ProtocolTask(
            "word problems",
            Source(
                "384 word problems of ASDiv",
                generator="tasks.word_problems",
                differs="generated word problems",
            ),
            "the generated number is the answer",
            generated=True,
        ),
    ),
    claims=(
        Claim(
            "Without incentive units the model chooses problems of 40 points less often, and without random units it "
            "does not.",
            "loss",
            "incentives",
            "incentive choice",
        ),
        Claim("It solves word problems as before.", "spared", "incentives", "word problems"),
    ),
    quirks=(
        Quirk(
            "A unit is selected by the size of a difference, without a test.",
            "Units that vary much are selected with it.",
        ),
        Quirk(
            "The differences in the contrasts need not have the same sign.",
            "A unit that reward raises and money lowers is selected.",
        ),
        Quirk(
            "The standard deviation is over all layers and units.",
            "Late layers, whose activations are larger, are favoured before layers 18 to 27 are chosen.",
        ),
        Quirk(
            "Units are set at every token to their mean at the last token of prompts.",
            "Most tokens receive a value that is not theirs.",
        ),
        Quirk(
            "An answer without a digit scores 0 points.",
            "A model that no longer answers looks like one that no longer cares.",
        ),
        Quirk("Activations are stored in float16.", "Units near the threshold may differ."),
        Quirk(
            "The interval of the figures is a standard deviation in one script and a standard error in the other.",
            "They cannot be compared.",
        ),
    ),
)
