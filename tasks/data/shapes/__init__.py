"""`shapes`: a generated data set of drawn scenes, on which every task runs offline.

A scene holds one to four coloured shapes on a two by two grid. What is said of it is derived from its objects, so it is true
by construction. Everything is a function of (seed, split, index).
"""

# ruff: noqa: F401 - these are the names that others use.

from .captions import describe, describe_fully, make_full_scene
from .drawing import draw_scene
from .entailments import ENTAILMENT_CLASSES, Entailment, make_entailment
from .pairs import KINDS, make_pair
from .posts import POST_CLASSES, make_post
from .questions import ANSWERS, make_question
from .references import REFERENCE_SPLITS, make_reference
from .rows import DATA_SETS, LOOK_CLASSES
from .scenes import COLOURS, SHAPES, SIZES, SPLITS, make_scene, make_single
from .text_pairs import make_text_pair
from .words import vocabulary, write_tokenizer
