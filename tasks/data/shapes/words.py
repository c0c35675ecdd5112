"""The words of all generated sentences, and a tokenizer that knows them."""

import os
import shutil
from pathlib import Path

from transformers import BertTokenizer

from .captions import LISTING_TEMPLATES, NUMBERS, PRESENCE_TEMPLATES, RELATIONS
from .pairs import KINDS
from .questions import QUESTION_TEMPLATES
from .references import REFERENCE_TEMPLATES
from .scenes import COLOURS, COLUMNS, ROWS, SHAPES, SIZES


_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MAX_TOKENS = 64


def vocabulary() -> list[str]:
    """Return the special tokens, every word of the generated sentences, and the letters, digits and punctuation marks from
    which any other plain English word can be spelled."""
    templates = [
        *LISTING_TEMPLATES,
        *PRESENCE_TEMPLATES,
        *RELATIONS,
        *REFERENCE_TEMPLATES,
        *(t.removesuffix("?") for kind in QUESTION_TEMPLATES.values() for t in kind),
        *(t for kind in KINDS.values() for t in kind.templates),
    ]
    words = {word for template in templates for word in template.split() if not word.startswith("{")}
    words |= {*COLOURS, *SIZES, *ROWS, *COLUMNS, *NUMBERS.values(), "and", "at", "the"}
    words |= {ending for shape in (*SHAPES, "shape") for ending in (shape, shape + "s")}
    characters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    pieces = [*characters, *("##" + character for character in characters), *".,;:!?'\"-()/&"]
    return [*_SPECIAL_TOKENS, *sorted(words), *(piece for piece in pieces if piece not in words)]


def write_tokenizer(folder: str | os.PathLike) -> None:
    """Save a lower-casing BERT tokenizer with `vocabulary()`, for texts of up to 64 tokens, to a folder. Each file is whole or not there."""
    ids = {token: index for index, token in enumerate(vocabulary())}
    folder = Path(folder)
    aside = folder.with_name(f".unfinished-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        BertTokenizer(vocab=ids, model_max_length=_MAX_TOKENS).save_pretrained(aside)
    except OSError:
        raise
    # The part of the library that is written in Rust has errors of no type.
    except Exception as error:
        raise OSError(f"{folder}: the tokenizer cannot be written ({error})") from error
    folder.mkdir(parents=True, exist_ok=True)
    for path in aside.iterdir():
        os.replace(path, folder / path.name)
    aside.rmdir()
