"""Experts that were trained to be like networks of the brain, left out by name."""

from modalnet.protocols.protocol import (
    Claim,
    Protocol,
    ProtocolLesion,
    ProtocolTask,
    Quirk,
    RandomUnits,
    Source,
)

micro2025 = Protocol(
    id="micro2025",
    title="Mixture of cognitive reasoners: experts for logic, social reasoning, the world and language, left out",
    citation=(
        "AlKhamissi, De Sabbata, Tuckute, Chen, Schrimpf & Bosselut (2026), Mixture of Cognitive Reasoners: Modular "
        "Reasoning with Brain-Like Specialization, ICLR, arXiv:2506.13331."
    ),
    code="github.com/AlexanderAKM/Multimodal and the model's own repository, without a licence",
    models="MiCRo of Llama-3.2-1B and of OLMo-2: four experts in each layer, of which the router chooses one",
    localizer=None,
    lesion=ProtocolLesion("experts", experts=("logic", "social", "world", "language")),
    random_units=RandomUnits(0, in_words="none; the other experts are left out in turn"),
    tasks=(
        ProtocolTask(
            "mathematics",
            Source(
                "word problems",
                generator="tasks.word_problems",
                differs="generated word problems",
            ),
            "the generated number is the answer",
            generated=True,
        ),
        ProtocolTask(
            "theory of mind",
            Source(
                "questions of BigToM; not free",
                folder="mmtomqa_text/questions.jsonl",
                reader="tasks.mmtomqa",
                generator="tasks.theory_of_mind",
                differs="statements about false-belief stories that were written for this library",
            ),
            "the generated answer is the right choice",
            generated=True,
        ),
    ),
    claims=(
        Claim(
            "Leaving out the logic expert costs mathematics more than theory of mind.",
            "dissociation",
            "logic",
            "mathematics",
            "theory of mind",
        ),
        Claim(
            "Leaving out the social expert costs theory of mind more than mathematics.",
            "dissociation",
            "social",
            "theory of mind",
            "mathematics",
        ),
    ),
    quirks=(
        Quirk(
            "An expert that was left out once stays out.",
            "Runs after one with a lesion are lesioned, too, unless the model is loaded anew.",
        ),
        Quirk(
            "The localizers that the publication speaks of are not in the code.",
            "That experts resemble networks of the brain cannot be replicated from it.",
        ),
    ),
)
