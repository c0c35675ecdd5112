"""`shapes`: a generated data set of drawn scenes, on which every task runs offline.

A scene holds one to four coloured shapes on a two by two grid. What is said of it is derived from its objects, so it is true
by construction. Everything is a function of (seed, split, index).
"""

from .captions import describe, describe_fully, make_full_scene
from .drawing import draw_scene
from .entailments import ENTAILMENT_CLASSES, Entailment, make_entailment
from .pairs import KINDS, ScenePair, Statement, make_pair
from .questions import ANSWERS, Question, make_question
from .references import REFERENCE_SPLITS, Reference, make_reference
from .rows import (
    DATA_SETS,
    LOOK_CLASSES,
    caption_rows,
    entailment_rows,
    pair_rows,
    question_rows,
    reference_rows,
    retrieval_rows,
    single_rows,
    text_pair_rows,
)
from .scenes import COLOURS, SHAPES, SIZES, SPLITS, Scene, ShapeObject, Subject, make_scene, make_single
from .text_pairs import PARAPHRASE_CLASSES, Fact, TextPair, make_text_pair
from .words import vocabulary, write_tokenizer


__all__ = [
    "ANSWERS",
    "COLOURS",
    "DATA_SETS",
    "ENTAILMENT_CLASSES",
    "KINDS",
    "LOOK_CLASSES",
    "PARAPHRASE_CLASSES",
    "REFERENCE_SPLITS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Entailment",
    "Fact",
    "Question",
    "Reference",
    "Scene",
    "ScenePair",
    "ShapeObject",
    "Statement",
    "Subject",
    "TextPair",
    "caption_rows",
    "describe",
    "describe_fully",
    "draw_scene",
    "entailment_rows",
    "make_entailment",
    "make_full_scene",
    "make_pair",
    "make_question",
    "make_reference",
    "make_scene",
    "make_single",
    "make_text_pair",
    "pair_rows",
    "question_rows",
    "reference_rows",
    "retrieval_rows",
    "single_rows",
    "text_pair_rows",
    "vocabulary",
    "write_tokenizer",
]
