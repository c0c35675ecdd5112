"""The generated scenes: reproducible, and what is said of them is true."""

import io
import itertools
import re
from collections import defaultdict

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from scene_reading import accuracy_from, caption_is_true, statement_is_true
from transformers import AutoTokenizer

from renaissance.tasks.data import schemas, shapes


SCHEMAS = {"captions": schemas.CAPTIONS, "retrieval": schemas.CAPTIONS, "nlvr2": schemas.NLVR2}


@pytest.fixture(scope="module")
def scenes():
    return [shapes.make_scene(0, "train", index) for index in range(400)]


@pytest.fixture(scope="module")
def pairs():
    return [shapes.make_pair(0, "train", index) for index in range(3000)]


@pytest.mark.parametrize("name", shapes.DATA_SETS)
def test_rows_are_a_function_of_seed_split_and_index(name):
    data = shapes.DATA_SETS[name]

    def first_rows(split="train", num=4, seed=3):
        return [{key: value for key, value in row.items() if "id" not in key} for row in data.rows(split, num, seed)]

    assert first_rows() == first_rows()
    assert first_rows(num=2) == first_rows()[:2]
    assert first_rows()[0] != first_rows(seed=4)[0]
    parts = [first_rows(split, num=60) for split in data.splits]
    for one, other in itertools.combinations(parts, 2):
        assert not any(row in other for row in one)


@pytest.mark.parametrize("name", sorted(shapes.DATA_SETS.keys() - {"glue"}))  # which has fewer sentences than rows
def test_no_row_comes_twice(name):
    data = shapes.DATA_SETS[name]
    rows = [
        {key: value for key, value in row.items() if "id" not in key}
        for split in data.splits
        for row in data.rows(split, 60, 3)
    ]
    assert not any(row in rows[:at] for at, row in enumerate(rows))


@pytest.mark.parametrize("name", shapes.DATA_SETS)
def test_rows_have_the_columns_of_their_schema(name):
    data = shapes.DATA_SETS[name]
    rows = list(data.rows(data.splits[-1], 3))
    assert all(row.keys() == data.features.keys() for row in rows)
    stored = Dataset.from_list(rows, features=data.features)
    for column in {"text", "premise", "text_pair", "label", "answers", "captions"} & rows[0].keys():
        assert stored[column][:] == [row[column] for row in rows]


@pytest.mark.parametrize("name", SCHEMAS)
def test_columns_are_those_of_the_benchmark(name):
    assert shapes.DATA_SETS[name].features == SCHEMAS[name]


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
        return sum(pair.statement.subject.matches(item.colour, item.shape) for item in scene.objects)

    told = {}
    for kind in shapes.KINDS:
        of_kind = [pair for pair in pairs if pair.statement.kind == kind]
        labels = [pair.label for pair in of_kind]
        lefts = [count(pair, pair.left) for pair in of_kind]
        rights = [count(pair, pair.right) for pair in of_kind]
        told[kind] = accuracy_from(lefts, labels), accuracy_from(rights, labels)
        assert accuracy_from(zip(lefts, rights, strict=True), labels) == 1
    (left, right_in_left), (left_in_right, right) = told.pop("left"), told.pop("right")
    assert left == right == 1
    assert right_in_left < 0.57 and left_in_right < 0.57
    assert told and all(max(accuracies) < 0.82 for accuracies in told.values()), told


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


def test_tokenizer_knows_every_word(tmp_path):
    shapes.write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 64
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]

    words = set(shapes.vocabulary())
    for name, data in shapes.DATA_SETS.items():
        for row in data.rows(data.splits[-1], 60, image_size=32):
            texts = [row.get("text"), row.get("premise"), row.get("text_pair"), *row.get("captions", [])]
            for text in filter(None, texts):
                tokens = tokenizer.tokenize(text)
                assert tokens == re.findall(r"\w+|[,?]", text), f"a word of {name} was cut into pieces"
                assert words.issuperset(tokens)
                assert len(tokens) <= 62
    pairs = [(row["text"], row["text_pair"]) for row in shapes.DATA_SETS["glue"].rows("test", 200)]
    assert max(len(ids) for ids in tokenizer(pairs)["input_ids"]) <= 64

    ids = tokenizer("Two Dogs (aged 7) jump, don't they?")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.decode(tokenizer("A RED circle")["input_ids"], skip_special_tokens=True) == "a red circle"


@pytest.mark.parametrize("name", shapes.DATA_SETS)
@pytest.mark.parametrize(
    ("arguments", "message"), [(("dev", 1), "'dev'"), (("train", 1, -1), "seed is -1")], ids=["split", "seed"]
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        next(shapes.DATA_SETS[name].rows(*arguments))


@pytest.mark.parametrize("name", sorted(shapes.DATA_SETS.keys() - {"glue", "documents"}))  # which have no images
def test_images_that_are_too_small_are_refused(name):
    with pytest.raises(ValueError, match="image_size is 8"):
        next(shapes.DATA_SETS[name].rows("train", 1, 0, 8))


def test_images_are_png():
    row = next(shapes.DATA_SETS["captions"].rows("train", 1, image_size=48))
    image = Image.open(io.BytesIO(row["image"]["bytes"]))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (48, 48))
