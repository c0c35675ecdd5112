"""The generated scenes: reproducible, and what is said of them is true."""

import io
import itertools
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from renaissance.tasks import nlvr2, pretraining
from renaissance.tasks.data import shapes


NUMBERS = {"a": 1, "two": 2, "three": 3, "four": 4}
LOOK = r"(?:(small|large) )?(red|green|blue|yellow) (circle|square|triangle|star)"
RELATION = re.compile(rf"a {LOOK} (left of|right of|above|below) a {LOOK}")
POSITION = re.compile(rf"a {LOOK} at the (top|bottom) (left|right)")
GROUP = re.compile(rf"(a|two|three|four) {LOOK}s?")
SUBJECT = r"(?:a )?(?:(red|green|blue|yellow) )?(?:(circle|square|triangle|star)s?|shapes?)"
SUBJECT_OF_IMAGE = re.compile(SUBJECT)
PRESENCE = re.compile(r"the image contains (.+)|there is (.+) in the image")
# What each wording says, written down a second time: truth as a function of the counts in the left and right image.
READINGS = {
    rf"both images contain {SUBJECT}": lambda left, right: min(left, right) >= 1,
    rf"there is {SUBJECT} in both images": lambda left, right: min(left, right) >= 1,
    rf"neither image contains {SUBJECT}": lambda left, right: left + right == 0,
    rf"there is {SUBJECT} in neither image": lambda left, right: left + right == 0,
    rf"at least one image contains {SUBJECT}": lambda left, right: left + right >= 1,
    rf"exactly one image contains {SUBJECT}": lambda left, right: [left, right].count(0) == 1,
    rf"the left image contains {SUBJECT}": lambda left, right: left >= 1,
    rf"there is {SUBJECT} in the left image": lambda left, right: left >= 1,
    rf"the right image contains {SUBJECT}": lambda left, right: right >= 1,
    rf"there is {SUBJECT} in the right image": lambda left, right: right >= 1,
    rf"the left image has more {SUBJECT} than the right image": lambda left, right: left > right,
    rf"the right image has more {SUBJECT} than the left image": lambda left, right: right > left,
}


@pytest.fixture(scope="module")
def scenes():
    return [shapes.make_scene(0, "train", index) for index in range(400)]


@pytest.fixture(scope="module")
def pairs():
    return [shapes.make_pair(0, "train", index) for index in range(3000)]


def fits(item, size, colour, shape):
    return item.colour == colour and item.shape == shape and size in ("", None, item.size)


def caption_is_true(caption, scene):
    """Reads a caption by patterns of its own and checks it against the objects' boxes."""
    if match := RELATION.fullmatch(caption):
        first, relation, second = match.groups()[:3], match[4], match.groups()[4:]
        differences = [
            np.subtract(b.box[:2], a.box[:2]) + np.subtract(b.box[2:], a.box[2:])
            for a in scene.objects
            for b in scene.objects
            if a is not b and fits(a, *first) and fits(b, *second)
        ]
        axis, sign = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}[relation]
        return any(difference[axis] * sign > 0.3 for difference in differences)
    if match := PRESENCE.fullmatch(caption):
        looks = [SUBJECT_OF_IMAGE.fullmatch(look).groups() for look in (match[1] or match[2]).split(" and ")]
        return all(
            any(item.colour == (c or item.colour) and item.shape == (s or item.shape) for item in scene.objects)
            for c, s in looks
        )
    if positions := POSITION.findall(caption):
        return " and ".join(m[0] for m in POSITION.finditer(caption)) == caption and all(
            any(
                fits(item, *look)
                and (item.box[1] < 0.5) == (row == "top")
                and (item.box[0] < 0.5) == (column == "left")
                for item in scene.objects
            )
            for *look, row, column in positions
        )
    said = {tuple(look): NUMBERS[number] for number, *look in GROUP.findall(caption)}
    sized = any(size for size, _, _ in said)
    return said == Counter((item.size if sized else "", item.colour, item.shape) for item in scene.objects)


def statement_is_true(text, left, right):
    for pattern, reading in READINGS.items():
        if match := re.fullmatch(pattern, text):
            colour, shape = match.groups()
            return reading(
                *(
                    sum(
                        item.colour == (colour or item.colour) and item.shape == (shape or item.shape)
                        for item in s.objects
                    )
                    for s in (left, right)
                )
            )
    raise AssertionError(f"unknown wording: {text}")


def accuracy_from(values, labels):
    """The accuracy on these examples of the best guess of the label from one value."""
    counts = defaultdict(Counter)
    for value, label in zip(values, labels, strict=True):
        counts[value][label] += 1
    return sum(max(count.values()) for count in counts.values()) / len(labels)


def test_rows_are_a_function_of_seed_split_and_index():
    def first_rows(generate, split="train", num=4, seed=3):
        return list(generate(split, num, seed))

    for generate in (shapes.caption_rows, shapes.pair_rows):
        assert first_rows(generate) == first_rows(generate)
        assert first_rows(generate, num=2) == first_rows(generate)[:2]
        assert first_rows(generate)[0] != first_rows(generate, seed=4)[0]
        assert first_rows(generate)[0] != first_rows(generate, split="test")[0]

    images = [row["image"]["bytes"] for row in shapes.caption_rows("train", 200)]
    images += [image["bytes"] for row in shapes.pair_rows("train", 100) for image in row["images"]]
    assert len(set(images)) == 400


def test_rows_have_the_columns_of_their_schema():
    caption_row = next(shapes.caption_rows("test", 1))
    pair_row = next(shapes.pair_rows("test", 1))
    assert caption_row.keys() == pretraining.FEATURES.keys()
    assert pair_row.keys() == nlvr2.FEATURES.keys()
    assert len(pair_row["images"]) == 2


def test_scenes_hold_one_to_four_objects_apart_from_each_other(scenes):
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}
    for scene in scenes:
        for item in scene.objects:
            assert min(item.box) >= 0 and max(item.box) <= 1
        for i, a in enumerate(scene.objects):
            for b in scene.objects[i + 1 :]:
                apart = [a.box[axis + 2] < b.box[axis] or b.box[axis + 2] < a.box[axis] for axis in (0, 1)]
                assert any(apart), (a, b)


@pytest.mark.parametrize("image_size", [64, 96])
def test_the_picture_shows_the_objects_where_their_boxes_are(scenes, image_size):
    # The share of its box that a shape fills tells the four shapes apart.
    filled = {"square": (0.9, 1.1), "circle": (0.75, 0.85), "triangle": (0.45, 0.56), "star": (0.32, 0.42)}
    for scene in scenes[:60]:
        pixels = np.asarray(shapes.draw_scene(scene, image_size)).astype(int)
        assert pixels.shape == (image_size, image_size, 3)
        for item in scene.objects:
            left, top, right, bottom = (edge * image_size for edge in item.box)
            centre = pixels[int((top + bottom) / 2), int((left + right) / 2)]
            distances = {name: np.abs(centre - colour).max() for name, colour in shapes.COLOURS.items()}
            assert min(distances, key=distances.get) == item.colour
            assert distances[item.colour] <= 5

            half = image_size // 2
            cell = np.s_[item.row * half : (item.row + 1) * half, item.column * half : (item.column + 1) * half]
            to_object = np.abs(pixels[cell] - shapes.COLOURS[item.colour]).max(axis=-1)
            to_background = np.abs(pixels[cell] - pixels[0, 0]).max(axis=-1)
            rows, columns = np.nonzero(to_background > 25)
            assert abs(np.ptp(rows) + 1 - (bottom - top)) <= 2
            assert abs(np.ptp(columns) + 1 - (right - left)) <= 2
            low, high = filled[item.shape]
            assert low <= (to_object < to_background).sum() / ((bottom - top) * (right - left)) <= high, item


def test_captions_are_true_and_varied(scenes):
    for scene in scenes:
        captions = shapes.describe(scene)
        assert len(set(captions)) == 4
        for caption in captions:
            assert caption_is_true(caption, scene), (caption, scene)
    # The reader of the captions must be able to say no.
    wrong = [caption_is_true(shapes.describe(a)[0], b) for a, b in itertools.pairwise(scenes)]
    assert sum(wrong) < 0.05 * len(wrong)
    text = " ".join(caption for scene in scenes for caption in shapes.describe(scene))
    for word in (
        *shapes.COLOURS,
        *shapes.SHAPES,
        *shapes.SIZES,
        "two",
        "above",
        "below",
        "left of",
        "right of",
        "top",
    ):
        assert word in text


def test_statements_have_the_right_label(pairs):
    for pair in pairs:
        assert statement_is_true(pair.statement.text, pair.left, pair.right) == pair.label, pair


def test_labels_are_balanced_for_every_statement(pairs):
    by_text = defaultdict(list)
    for pair in pairs:
        by_text[pair.statement.text].append(pair.label)
    assert {pair.statement.kind for pair in pairs} == set(shapes.KINDS)
    for text, labels in by_text.items():
        assert sum(labels) * 2 == len(labels), text
    # Nor does the place in the data set tell.
    assert 0.45 < np.mean([pair.label for pair in pairs[::2]]) < 0.55


def test_one_image_alone_does_not_decide(pairs):
    """The best guess from how often an image shows what the statement names."""

    def count(pair, scene):
        return sum(pair.statement.matches(item.colour, item.shape) for item in scene.objects)

    for kind in shapes.KINDS:
        of_kind = [pair for pair in pairs if pair.statement.kind == kind]
        labels = [pair.label for pair in of_kind]
        lefts = [count(pair, pair.left) for pair in of_kind]
        rights = [count(pair, pair.right) for pair in of_kind]
        from_left, from_right = accuracy_from(lefts, labels), accuracy_from(rights, labels)
        if kind in ("left", "right"):
            told, other = (from_left, from_right) if kind == "left" else (from_right, from_left)
            assert told == 1
            assert other < 0.57, kind
        else:
            assert max(from_left, from_right) < 0.82, kind
        assert accuracy_from(zip(lefts, rights, strict=True), labels) == 1


def test_images_without_the_statement_do_not_decide(pairs):
    """Surface properties of the two images, without the text, leave the label open."""
    properties = {
        "number of objects": lambda left, right: (len(left), len(right)),
        "something in common": lambda left, right: len(left & right),
        "colours in common": lambda left, right: len({c for c, _ in left} & {c for c, _ in right}),
        "the most spoken of": lambda left, right: (
            "red" in dict(left),
            "red" in dict(right),
            "circle" in dict(map(reversed, left)),
            "circle" in dict(map(reversed, right)),
        ),
        "shapes in common": lambda left, right: len({s for _, s in left} & {s for _, s in right}),
    }
    labels = [pair.label for pair in pairs]
    for name, read in properties.items():
        looks = [[{(o.colour, o.shape) for o in scene.objects} for scene in (p.left, p.right)] for p in pairs]
        assert accuracy_from([read(*look) for look in looks], labels) < 0.56, name


def test_tokenizer_knows_every_word(tmp_path, scenes, pairs):
    shapes.write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 64
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]

    words = set(shapes.vocabulary())
    texts = [caption for scene in scenes for caption in shapes.describe(scene)]
    texts += [pair.statement.text for pair in pairs]
    for text in texts:
        tokens = tokenizer.tokenize(text)
        assert tokens == re.findall(r"\w+|,", text), "a word of the grammar was cut into pieces"
        assert words.issuperset(tokens)
        assert len(tokens) <= 62

    ids = tokenizer("Two Dogs (aged 7) jump, don't they?")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.decode(tokenizer("A RED circle")["input_ids"], skip_special_tokens=True) == "a red circle"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("dev", 1), "'dev'"), (("train", 1, -1), "seed is -1"), (("train", 1, 0, 8), "image_size is 8")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        next(shapes.caption_rows(*arguments))
    with pytest.raises(ValueError, match=message):
        next(shapes.pair_rows(*arguments))


def test_images_are_png():
    row = next(shapes.caption_rows("train", 1, image_size=48))
    image = Image.open(io.BytesIO(row["image"]["bytes"]))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (48, 48))
