"""`shapes`: a generated data set of drawn scenes, on which every task runs offline.

A scene holds one to four coloured shapes on a two by two grid. What is said of it (captions, statements about two scenes)
is derived from its objects, so it is true by construction. Everything is a function of (seed, split, index).
"""

import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from transformers import BertTokenizer


COLOURS = {
    "red": (214, 39, 40),
    "green": (34, 150, 60),
    "blue": (40, 80, 215),
    "yellow": (240, 200, 20),
}
SHAPES = ("circle", "square", "triangle", "star")
#: The side of an object's box, as a share of the image's side.
SIZES = {"small": 0.3, "large": 0.4}
SPLITS = ("train", "validation", "test")

_NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
_ROWS = ("top", "bottom")
_COLUMNS = ("left", "right")
_MARGIN = 0.02
# Few scenes of one object: there are not many different ones, so their captions are true of other images too.
_OBJECT_COUNT_WEIGHTS = (0.1, 0.3, 0.3, 0.3)
_OVERSAMPLING = 4
_NOISE = 3
# One grey for all scenes: where each image had a tint of its own, small models from scratch stayed at chance.
_BACKGROUND = (238, 238, 238)
_MIN_IMAGE_SIZE = 32
_SCENE_STREAM, _PAIR_STREAM = 0, 1

_LISTING_TEMPLATES = ("{}", "an image of {}", "a picture with {}")
# The wording of the statements about pairs, for one image: what pretraining learns of it carries over to them.
_PRESENCE_TEMPLATES = ("the image contains {}", "there is {} in the image")
_RELATIONS = ("left of", "right of", "above", "below")
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MAX_TOKENS = 64


@dataclass(frozen=True)
class ShapeObject:
    """One drawn object: `row` and `column` are its grid cell, `box` its tight (left, top, right, bottom), each a share
    of the image's side from 0 to 1."""

    colour: str
    shape: str
    size: str
    row: int
    column: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """Objects in reading order, and the key from which the randomness of all that is derived from the scene comes."""

    objects: tuple[ShapeObject, ...]
    key: tuple[int, ...]

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator of its own for each purpose, so that one derived thing does not change with another."""
        return np.random.default_rng([*self.key, purpose])


@dataclass(frozen=True)
class Kind:
    """A kind of statement about two images: its wordings, its truth given how many matching objects the left and the
    right image hold, and the pairs of counts that are drawn for true and for false statements.

    The counts are chosen so that neither image alone decides, except where the statement is about one image: there,
    the other image's count is independent of the label.
    """

    templates: tuple[str, ...]
    holds: Callable[[int, int], bool]
    true_counts: tuple[tuple[int, int], ...]
    false_counts: tuple[tuple[int, int], ...]
    weight: float


_MORE, _FEWER = ((1, 0), (2, 1)), ((0, 1), (1, 2))
KINDS = {
    "both": Kind(
        ("both images contain {one}", "there is {one} in both images"),
        lambda left, right: left > 0 and right > 0,
        ((1, 1),),
        ((1, 0), (0, 1)),
        weight=0.25,
    ),
    "neither": Kind(
        ("neither image contains {one}", "there is {one} in neither image"),
        lambda left, right: left == 0 and right == 0,
        ((0, 0),),
        ((1, 0), (0, 1)),
        weight=0.1,
    ),
    "at_least_one": Kind(
        ("at least one image contains {one}",),
        lambda left, right: left > 0 or right > 0,
        ((1, 0), (0, 1)),
        ((0, 0),),
        weight=0.1,
    ),
    "exactly_one": Kind(
        ("exactly one image contains {one}",),
        lambda left, right: (left > 0) != (right > 0),
        ((1, 0), (0, 1)),
        ((0, 0), (1, 1)),
        weight=0.05,
    ),
    "left": Kind(
        ("the left image contains {one}", "there is {one} in the left image"),
        lambda left, right: left > 0,
        ((1, 0), (1, 1)),
        ((0, 1), (0, 0)),
        weight=0.22,
    ),
    "right": Kind(
        ("the right image contains {one}", "there is {one} in the right image"),
        lambda left, right: right > 0,
        ((0, 1), (1, 1)),
        ((1, 0), (0, 0)),
        weight=0.22,
    ),
    "more_left": Kind(
        ("the left image has more {many} than the right image",),
        lambda left, right: left > right,
        _MORE,
        (*_FEWER, (1, 1)),
        weight=0.03,
    ),
    "more_right": Kind(
        ("the right image has more {many} than the left image",),
        lambda left, right: right > left,
        _FEWER,
        (*_MORE, (1, 1)),
        weight=0.03,
    ),
}


@dataclass(frozen=True)
class Statement:
    """A statement about two scenes. It speaks of the objects that have its colour and its shape; None: of any."""

    kind: str
    colour: str | None
    shape: str | None
    text: str

    def matches(self, colour: str, shape: str) -> bool:
        """Whether the statement speaks of objects of this colour and shape."""
        return self.colour in (None, colour) and self.shape in (None, shape)

    def holds(self, left: Scene, right: Scene) -> bool:
        """Whether the statement is true of these two scenes."""
        counts = (sum(self.matches(o.colour, o.shape) for o in scene.objects) for scene in (left, right))
        return KINDS[self.kind].holds(*counts)


@dataclass(frozen=True)
class ScenePair:
    """Two scenes, a statement about them, and whether it is true."""

    left: Scene
    right: Scene
    statement: Statement
    label: bool


def make_scene(seed: int, split: str, index: int) -> Scene:
    """The scene number `index` of a split.

    Raises:
        ValueError: for a split that is not one of `SPLITS`, or a negative seed.
    """
    key = _key(seed, split, _SCENE_STREAM, index)
    rng = np.random.default_rng(key)
    num_objects = 1 + rng.choice(len(_OBJECT_COUNT_WEIGHTS), p=_OBJECT_COUNT_WEIGHTS)
    looks = [_pick(rng, _looks()) for _ in range(num_objects)]
    return Scene(_place(rng, looks), key)


def make_pair(seed: int, split: str, index: int) -> ScenePair:
    """The pair number `index` of a split.

    Pairs 2k and 2k + 1 carry the same statement, once true and once false: the text says nothing about the label.

    Raises:
        ValueError: for a split that is not one of `SPLITS`, or a negative seed.
    """
    couple = np.random.default_rng(_key(seed, split, _PAIR_STREAM, index // 2))
    statement = _make_statement(couple)
    first_is_true = bool(couple.integers(2))
    kind = KINDS[statement.kind]
    wanted = first_is_true == (index % 2 == 0)

    key = _key(seed, split, _PAIR_STREAM, index)
    rng = np.random.default_rng([*key, 0])
    counts = _pick(rng, kind.true_counts if wanted else kind.false_counts)
    left, right = _pair_scenes(rng, key, statement, counts)
    return ScenePair(left, right, statement, label=statement.holds(left, right))


def draw_scene(scene: Scene, image_size: int = 64) -> Image.Image:
    """The scene as an RGB image of `image_size` x `image_size` pixels, on a light, slightly noisy background.

    Raises:
        ValueError: for an image size at which the shapes cannot be told apart.
    """
    if image_size < _MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size}: expected at least {_MIN_IMAGE_SIZE} pixels")
    side = image_size * _OVERSAMPLING
    canvas = Image.new("RGB", (side, side), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for item in scene.objects:
        _draw_object(draw, item, side)
    pixels = np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.int16)
    noise = scene.rng(purpose=1).integers(-_NOISE, _NOISE + 1, size=(image_size, image_size, 1), dtype=np.int16)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def describe(scene: Scene) -> list[str]:
    """Four different captions, each true of the scene: the first names all of its objects, the last only hints at some."""
    rng = scene.rng(purpose=2)
    makers = [_sized_listing, _positions] + ([_relation] if len(scene.objects) > 1 else [])
    chosen = rng.permutation(len(makers))[:2]
    return [_listing(scene, rng), *(makers[i](scene, rng) for i in chosen), _presence(scene, rng)]


def caption_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """`num` rows of the schema `tasks.pretraining.FEATURES`: a drawn scene (PNG bytes) and its four captions.

    Raises:
        ValueError: at the first row, for an unknown split, a negative seed or too small an image size.
    """
    for index in range(num):
        scene = make_scene(seed, split, index)
        yield {
            "image": _encode(scene, image_size),
            "image_id": f"shapes-{seed}-{split}-{index}",
            "captions": describe(scene),
        }


def pair_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """`num` rows of the schema `tasks.nlvr2.FEATURES`: a statement about two drawn scenes (PNG bytes), true or false.

    Raises:
        ValueError: at the first row, for an unknown split, a negative seed or too small an image size.
    """
    for index in range(num):
        pair = make_pair(seed, split, index)
        yield {
            "id": f"shapes-{seed}-{split}-{index}",
            "images": [_encode(pair.left, image_size), _encode(pair.right, image_size)],
            "text": pair.statement.text,
            "label": int(pair.label),
        }


def vocabulary() -> list[str]:
    """The special tokens, every word of the generated sentences, and the letters, digits and punctuation marks from
    which any other plain English word can be spelled."""
    templates = [
        *_LISTING_TEMPLATES,
        *_PRESENCE_TEMPLATES,
        *_RELATIONS,
        *(t for kind in KINDS.values() for t in kind.templates),
    ]
    words = {word for template in templates for word in template.split() if not word.startswith("{")}
    words |= {*COLOURS, *SIZES, *_ROWS, *_COLUMNS, *_NUMBERS.values(), "and", "at", "the"}
    words |= {ending for shape in (*SHAPES, "shape") for ending in (shape, shape + "s")}
    characters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    pieces = [*characters, *("##" + character for character in characters), *".,;:!?'\"-()/&"]
    return [*_SPECIAL_TOKENS, *sorted(words), *(piece for piece in pieces if piece not in words)]


def write_tokenizer(folder: str | os.PathLike) -> None:
    """Save a lower-casing BERT tokenizer with `vocabulary()`, at most 64 tokens long, to a folder for `AutoTokenizer`."""
    ids = {token: index for index, token in enumerate(vocabulary())}
    BertTokenizer(vocab=ids, model_max_length=_MAX_TOKENS).save_pretrained(folder)


def _key(seed: int, split: str, stream: int, index: int) -> tuple[int, ...]:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: expected one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}: expected 0 or more")
    return (seed, SPLITS.index(split), stream, index)


def _looks() -> list[tuple[str, str]]:
    return [(colour, shape) for colour in COLOURS for shape in SHAPES]


def _pick(rng: np.random.Generator, choices: Sequence):
    return choices[rng.integers(len(choices))]


def _pick_skewed(rng: np.random.Generator, choices: Sequence):
    """Each choice half as often as the one before it.

    Some things are spoken of more than others, as in natural text. It gives a small model a first word to learn: where
    all were as frequent, models from scratch stayed at chance for thousands of steps.
    """
    weights = 0.5 ** np.arange(len(choices))
    return choices[rng.choice(len(choices), p=weights / weights.sum())]


def _place(rng: np.random.Generator, looks: Sequence[tuple[str, str]]) -> tuple[ShapeObject, ...]:
    """Objects of these looks in random cells, moved about inside them. Cells do not overlap, so objects do not."""
    objects = []
    for cell, (colour, shape) in zip(rng.permutation(4), looks, strict=False):
        row, column = divmod(int(cell), 2)
        size = _pick(rng, tuple(SIZES))
        slack = 0.25 - SIZES[size] / 2 - _MARGIN
        x, y = (0.25 + 0.5 * at + rng.uniform(-slack, slack) for at in (column, row))
        half = SIZES[size] / 2
        objects.append(ShapeObject(colour, shape, size, row, column, (x - half, y - half, x + half, y + half)))
    return tuple(sorted(objects, key=lambda item: (item.row, item.column)))


def _make_statement(rng: np.random.Generator) -> Statement:
    name = tuple(KINDS)[rng.choice(len(KINDS), p=[kind.weight for kind in KINDS.values()])]
    colour, shape = _pick_skewed(rng, tuple(COLOURS)), _pick_skewed(rng, SHAPES)
    named = rng.choice(("colour", "shape", "both"), p=(0.5, 0.2, 0.3))
    colour = None if named == "shape" else colour
    shape = None if named == "colour" else shape
    noun = " ".join(filter(None, (colour, shape or "shape")))
    text = _pick(rng, KINDS[name].templates).format(one=f"a {noun}", many=f"{noun}s")
    return Statement(name, colour, shape, text)


def _pair_scenes(
    rng: np.random.Generator, key: tuple[int, ...], statement: Statement, counts: tuple[int, int]
) -> tuple[Scene, Scene]:
    """Two scenes of two or three objects, `counts` of which match the statement.

    Whatever the counts, the two images have one look in common: the matching one if both have it, otherwise one that
    nearly matches. So "the images share something" does not give the label away, and a false image is a near miss.
    """
    matching = [look for look in _looks() if statement.matches(*look)]
    others = [look for look in _looks() if not statement.matches(*look)]
    match = _pick(rng, matching)
    near_miss = _pick(rng, [look for look in others if (look[0] == match[0]) != (look[1] == match[1])])
    scenes = []
    for side, count in enumerate(counts):
        looks = [match, *(_pick(rng, matching) for _ in range(count - 1))][:count]
        if 0 in counts:
            looks.append(near_miss)
        num_objects = rng.integers(2, 4)
        looks += [_pick(rng, others) for _ in range(num_objects - len(looks))]
        scenes.append(Scene(_place(rng, looks), (*key, 1 + side)))
    return scenes[0], scenes[1]


def _draw_object(draw: ImageDraw.ImageDraw, item: ShapeObject, side: int) -> None:
    left, top, right, bottom = (edge * side for edge in item.box)
    fill = COLOURS[item.colour]
    if item.shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=fill)
    elif item.shape == "square":
        draw.rectangle((left, top, right, bottom), fill=fill)
    else:
        corners = _OUTLINES[item.shape]
        draw.polygon([(left + x * (right - left), top + y * (bottom - top)) for x, y in corners], fill=fill)


def _star_outline(inner_radius: float = 0.42) -> list[tuple[float, float]]:
    """Corners of a five-pointed star, stretched to touch all sides of the unit square so that boxes are tight."""
    angles = [math.pi * step / 5 - math.pi / 2 for step in range(10)]
    radii = [1.0 if step % 2 == 0 else inner_radius for step in range(10)]
    points = np.array([(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)])
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    return [(float(x), float(y)) for x, y in points]


_OUTLINES = {"triangle": [(0.5, 0.0), (1.0, 1.0), (0.0, 1.0)], "star": _star_outline()}


def _encode(scene: Scene, image_size: int) -> dict:
    buffer = io.BytesIO()
    draw_scene(scene, image_size).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _join(phrases: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def _list_groups(nouns: Sequence[str], rng: np.random.Generator) -> str:
    groups = list(Counter(nouns).items())
    phrases = [f"{_NUMBERS[count]} {noun}" + ("s" if count > 1 else "") for noun, count in groups]
    return _pick(rng, _LISTING_TEMPLATES).format(_join([phrases[i] for i in rng.permutation(len(phrases))]))


def _listing(scene: Scene, rng: np.random.Generator) -> str:
    return _list_groups([f"{o.colour} {o.shape}" for o in scene.objects], rng)


def _sized_listing(scene: Scene, rng: np.random.Generator) -> str:
    return _list_groups([f"{o.size} {o.colour} {o.shape}" for o in scene.objects], rng)


def _positions(scene: Scene, rng: np.random.Generator) -> str:
    chosen = [scene.objects[i] for i in rng.permutation(len(scene.objects))[:2]]
    return _join([f"a {o.colour} {o.shape} at the {_ROWS[o.row]} {_COLUMNS[o.column]}" for o in chosen])


def _presence(scene: Scene, rng: np.random.Generator) -> str:
    chosen = [scene.objects[i] for i in rng.permutation(len(scene.objects))[:2]]
    looks = [_pick(rng, [f"a {o.colour} {o.shape}", f"a {o.colour} shape", f"a {o.shape}"]) for o in chosen]
    return _pick(rng, _PRESENCE_TEMPLATES).format(_join(looks))


def _relation(scene: Scene, rng: np.random.Generator) -> str:
    first, second = (scene.objects[i] for i in rng.permutation(len(scene.objects))[:2])
    holding = (
        first.column < second.column,
        first.column > second.column,
        first.row < second.row,
        first.row > second.row,
    )
    relation = _pick(rng, [name for name, holds in zip(_RELATIONS, holding, strict=True) if holds])
    return f"a {first.colour} {first.shape} {relation} a {second.colour} {second.shape}"
