"""Attention knockout between the tokens of pictures, questions and answers."""

from modalnet.protocols.protocol import (
    Claim,
    Protocol,
    ProtocolEdges,
    ProtocolLesion,
    ProtocolTask,
    Quirk,
    RandomUnits,
    Source,
)

knockout2025 = Protocol(
    id="knockout2025",
    title="Information flow: what an answer loses when tokens no longer attend to others, nine layers at a time",
    citation=(
        "Zhang, Yadav, Han & Shutova (2025), Cross-modal information flow in multimodal large language models, CVPR, "
        "arXiv:2411.18620."
    ),
    code="github.com/FightingFighting/cross-modal-information-flow-in-MLLM, MIT",
    models="LLaVA-1.5 7B and 13B, LLaVA-1.6 7B, LLaVA-NeXT with Llama 3 8B",
    localizer=None,
    lesion=ProtocolLesion("edges", window=9),
    random_units=RandomUnits(0, in_words="no random edges"),
    edges=(
        ProtocolEdges("image to question", "image", "question", (0.0, 1 / 3)),
        ProtocolEdges("object to question", "object", "question", (1 / 3, 2 / 3)),
        ProtocolEdges("question to last", "question", "last", (2 / 3, 1.0)),
    ),
    tasks=(
        ProtocolTask(
            "visual questions",
            Source(
                "six sets of 570 to 1,000 questions of GQA that the model answers right (CC BY; the pictures are not "
                "included)",
                folder="gqa_knockout",
                generator="tasks.naming",
                made_with={"source": "stimuli.categories"},
                differs="drawings and one question, with the names of four categories to choose from",
            ),
            "the relative change of the probability of the answer's first token, of the model's own answer",
        ),
    ),
    claims=(
        Claim(
            "In lower layers the question takes up the picture as a whole.",
            "edges",
            "image to question",
            "visual questions",
        ),
        Claim(
            "In middle layers it takes up the objects that it is about.",
            "edges",
            "object to question",
            "visual questions",
        ),
        Claim(
            "In upper layers the last token takes up the question.",
            "edges",
            "question to last",
            "visual questions",
        ),
    ),
    quirks=(
        Quirk(
            "Windows are cut off at the ends of the model.",
            "The first and last four windows remove edges in fewer layers.",
        ),
        Quirk(
            "The tokens of an object are the patches with a pixel that is exactly red after its box was resized.",
            "Tokens at the edges of the box drop out.",
        ),
        Quirk(
            "No random edges are compared, and no intervals are given.",
            "Sets with more edges cost more, whatever these carry.",
        ),
        Quirk(
            "The mask of a layer is replaced, not added to.",
            "Edges that the model's own mask removes may come back.",
        ),
    ),
)
