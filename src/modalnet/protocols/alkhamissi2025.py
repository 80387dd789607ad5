"""The language localizer of "The LLM Language Network"."""

from modalnet.protocols.protocol import (
    Claim,
    Localizer,
    Protocol,
    ProtocolContrast,
    ProtocolTask,
    Quirk,
    RandomUnits,
    Selection,
    Source,
)

alkhamissi2025 = Protocol(
    id="alkhamissi2025",
    title="Language units: sentences against nonword strings, absolute activation of the last of 12 tokens",
    citation=(
        "AlKhamissi, Tuckute, Bosselut & Schrimpf (2025), The LLM Language Network: A Neuroscientific Approach for "
        "Identifying Causally Task-Relevant Units, arXiv:2411.02280, sections 2 and 3."
    ),
    code="github.com/BKHMSI/llm-localization, without a licence",
    models="18 language models (GPT-2, Llama 2 and 3, Phi-3.5, Gemma, Falcon, Mistral), float32",
    localizer=Localizer(units="residual", tokens="last", magnitude="absolute", max_tokens=12, raw=True),
    contrasts=(
        ProtocolContrast(
            "language",
            Source(
                "240 sentences and 240 strings of nonwords of Fedorenko et al. (2010), twelve words each",
                folder="fedorenko2010",
                reader="stimuli.fedorenko2010",
                generator="stimuli.language",
                differs="other sentences and nonwords of the same length",
            ),
        ),
        ProtocolContrast(
            "multiple demand",
            Source(
                "100 sums and differences of numbers from 100 to 199, and 100 of numbers from 1 to 19, with the result",
                generator="stimuli.multiple_demand",
                differs="other problems, drawn anew and alike in length",
            ),
            tokens="mean",
            max_tokens=0,
        ),
        ProtocolContrast(
            "theory of mind",
            Source(
                "10 false-belief and 10 false-photograph stories of Dodell-Feder et al. (2011), each with a question "
                "and a random answer",
                folder="tom_saxe",
                reader="stimuli.tom_saxe",
                generator="stimuli.theory_of_mind",
                differs="24 stories of each kind that were written for this library, without answers",
            ),
            tokens="mean",
            max_tokens=0,
        ),
    ),
    selection=Selection(fractions=(0.01, 0.00125, 0.0025, 0.005)),
    random_units=RandomUnits(1, in_words="one random set of equal size, uniform over all units outside the network"),
    tasks=(
        ProtocolTask(
            "BLiMP",
            Source(
                "67 paradigms of 1,000 minimal pairs (Warstadt et al. 2020, CC BY)",
                folder="blimp",
                reader="tasks.minimal_pairs",
                generator="tasks.agreement",
                differs="generated pairs of subject-verb agreement alone",
            ),
            "the acceptable sentence has the larger summed log-probability",
        ),
        ProtocolTask(
            "arithmetic",
            Source(
                "a control of this library: the publication tests language tasks alone",
                generator="tasks.word_problems",
                differs="generated word problems",
            ),
            "the correct result has the largest log-probability",
        ),
    ),
    claims=(
        Claim(
            "Ablating language units breaks language tasks, and ablating as many random units does not.",
            "loss",
            "language",
            "BLiMP",
        ),
    ),
    quirks=(
        Quirk(
            "Units are ranked densely, and every unit that ties with one of the first k is taken.",
            "None in float64, where no two units tie.",
        ),
        Quirk(
            "Texts are cut to 12 tokens including the beginning-of-sequence token, which ends most nonword strings "
            "inside a word.",
            "The position in the word differs between the sides: with Gemma's tokenizer all sentences end with a whole "
            "word, and 63% of the nonword strings do.",
        ),
        Quirk(
            "The answers of the theory-of-mind stories are drawn at random without a seed.",
            "Every run tests other texts, and selects other units of theory of mind.",
        ),
        Quirk(
            "Random units are drawn from all layers alike.",
            "They are in other layers than the network, and have smaller activations.",
        ),
    ),
    released={"selection": Selection(fractions=(0.01, 0.00125, 0.0025, 0.005), ties="dense")},
)
