"""What is said of the generated scenes for each task: true of the picture, and not to be guessed from a part of the input."""

import itertools
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from scene_reading import FILLED, NUMBERS, PLACES, accuracy_from, caption_is_true, look_at, names, seen

from renaissance.tasks.data import shapes
from renaissance.tasks.data.shapes.scenes import CELLS, Scene, place


SIZE = 96
NOUN = r"((?:(?:red|green|blue|yellow) ?)?(?:circle|square|triangle|star|shape)?)"
HYPOTHESIS = re.compile(r"(?:there is|the image contains) a (\w+) (\w+)(?: in the image)?")
REFERENCE = re.compile(rf"(?:the )?{NOUN}")
QUESTIONS = {
    rf"what colour is the {NOUN}\?|which colour does the {NOUN} have\?": lambda where: [
        look[0] for look in where.values()
    ],
    rf"what is the {NOUN}\?|which shape is the {NOUN}\?": lambda where: [look[1] for look in where.values()],
    rf"how many {NOUN}s are there\?|how many {NOUN}s are in the image\?": lambda where: [str(len(where))],
    rf"is there a {NOUN} in the image\?|does the image contain a {NOUN}\?": lambda where: ["yes" if where else "no"],
    rf"where is the {NOUN}\?|at which place is the {NOUN}\?": lambda where: [
        name for name, cell in PLACES.items() if cell in where
    ],
}


@pytest.fixture(scope="module")
def entailments():
    return [shapes.make_entailment(0, "train", index) for index in range(3000)]


@pytest.fixture(scope="module")
def posts():
    return [shapes.make_post(0, "train", index) for index in range(3000)]


@pytest.fixture(scope="module")
def questions():
    return [shapes.make_question(0, "train", index) for index in range(4000)]


@pytest.fixture(scope="module")
def references():
    return [shapes.make_reference(0, "train", index) for index in range(3000)]


@pytest.fixture(scope="module")
def text_pairs():
    return [shapes.make_text_pair(0, "train", index) for index in range(4000)]


def surface(scene):
    """Properties of a picture that could give an answer away."""
    colours = Counter(item.colour for item in scene.objects)
    forms = Counter(item.shape for item in scene.objects)
    return {
        "number of objects": len(scene.objects),
        "most frequent colour": (max(colours, key=colours.get), max(colours.values())),
        "most frequent shape": (max(forms, key=forms.get), max(forms.values())),
        "red and circles": (colours["red"], forms["circle"]),
        "something covered": any(o.look == ("unknown", "unknown") for o in scene.objects),
        "a red circle": ("red", "circle") in [o.look for o in scene.objects],
        "the first red one": next(((o.row, o.column) for o in scene.objects if o.colour == "red"), None),
    }


def best_guess_from_the_picture(scenes, labels):
    """The highest accuracy that one property of the picture allows, tried on other examples than it was counted on."""
    half = len(scenes) // 2
    best = 0.0
    for name in surface(scenes[0]):
        values = [surface(scene)[name] for scene in scenes]
        counts = defaultdict(Counter)
        for value, label in zip(values[:half], labels[:half], strict=True):
            counts[value][label] += 1
        guesses = [counts[value].most_common(1)[0][0] if value in counts else None for value in values[half:]]
        best = max(best, float(np.mean([guess == label for guess, label in zip(guesses, labels[half:], strict=True)])))
    return best


def test_entailments_are_true_of_the_picture(entailments):
    for made in entailments[:600]:
        colour, shape = HYPOTHESIS.fullmatch(made.hypothesis).groups()
        looks = list(look_at(shapes.draw_scene(made.scene, SIZE)).values())
        # A cloth is a grey square.
        may_be = {"entailment": (colour, shape) in looks, "neutral": ("grey", "square") in looks}
        assert made.label == next((label for label, holds in may_be.items() if holds), "contradiction"), made
        listed = re.findall(r"(a|two|three|four) (circle|square|triangle|star)s?", made.premise)
        shown = Counter(shape for colour, shape in looks if colour != "grey")
        assert {shape: NUMBERS[number] for number, shape in listed} == shown


def test_a_part_of_an_entailment_does_not_decide(entailments):
    labels = [made.label for made in entailments]
    for at in range(0, len(entailments), 3):
        assert len({made.hypothesis for made in entailments[at : at + 3]}) == 1
        assert set(labels[at : at + 3]) == set(shapes.ENTAILMENT_CLASSES)
    place_in_row = [index % 3 for index in range(len(labels))]
    assert accuracy_from(place_in_row, labels) < 0.37
    # All of the text: how often the premise has the shape that the hypothesis is about, and how many it lists.
    listed = [(made.premise.split().count(made.subject.shape), made.premise.count(" a ")) for made in entailments]
    assert accuracy_from(listed, labels) < 0.39
    # Whether something is covered parts neutral from contradiction, and says nothing about entailment.
    assert best_guess_from_the_picture([made.scene for made in entailments], labels) < 0.7
    covered = Counter((made.label, surface(made.scene)["something covered"]) for made in entailments)
    assert abs(covered["entailment", True] - 500) < 60 and covered["neutral", False] == 0
    # Neither does the shape alone: it is there once, whatever the label.
    for made in entailments:
        assert [o.shape for o in made.scene.objects].count(made.subject.shape) == 1


def test_posts_have_the_mood_of_what_is_seen_and_said(posts):
    for made in posts[:600]:
        colour, _ = re.fullmatch(r"(?:an image of |a picture with )?a (\w+) (\w+)", made.text).groups()
        looks = list(look_at(shapes.draw_scene(made.scene, SIZE)).values())
        ((shown, _),) = looks
        warm = [mood in ("red", "yellow") for mood in (colour, shown)]
        assert made.label == ("mixed" if len(set(warm)) == 2 else "warm" if warm[0] else "cold"), made


def test_a_part_of_a_post_does_not_decide(posts):
    labels = [made.label for made in posts]
    for at in range(0, len(posts), 3):
        assert set(labels[at : at + 3]) == set(shapes.POST_CLASSES)
    assert accuracy_from([index % 3 for index in range(len(labels))], labels) < 0.38
    assert accuracy_from([made.text for made in posts], labels) < 0.72
    assert best_guess_from_the_picture([made.scene for made in posts], labels) < 0.72


def test_answers_are_true_of_the_picture(questions):
    for made in questions[:800]:
        picture = look_at(shapes.draw_scene(made.scene, SIZE))
        (match, read), *others = [
            (m, r) for pattern, r in QUESTIONS.items() if (m := re.fullmatch(pattern, made.text))
        ]
        assert not others
        noun = next(filter(None, match.groups()))
        where = {cell: look for cell, look in picture.items() if names(noun, look)}
        assert read(where) == [made.answer], made
        assert len(made.answers) == 10
        assert Counter(made.answers).most_common(1)[0][0] == made.answer
        # What a minority says is true as well, if less exact.
        assert all(answer == made.answer or answer in made.answer.split() for answer in made.answers)
    assert any(len(set(made.answers)) > 1 for made in questions)


def test_a_part_of_a_question_does_not_decide(questions):
    by_text = defaultdict(Counter)
    for made in questions:
        by_text[made.text][made.answer] += 1
    for text, counts in by_text.items():
        assert len(set(counts.values())) == 1, text
        assert len(counts) in (2, 4)
    answers = [made.answer for made in questions]
    assert set(answers) == set(itertools.chain.from_iterable(shapes.ANSWERS.values()))
    majority = max(Counter(answers).values()) / len(answers)
    # Three things of a kind are seen more often where it was asked how many there are.
    assert best_guess_from_the_picture([made.scene for made in questions], answers) < majority + 0.07


@pytest.mark.parametrize("split", shapes.REFERENCE_SPLITS)
def test_expressions_fit_one_box(split):
    told_apart_by = set()
    for index in range(150):
        made = shapes.make_reference(0, split, index)
        image = shapes.draw_scene(made.scene, SIZE)
        looks = []
        for left, top, width, height in made.boxes(SIZE):
            assert left >= 0 and left + width <= SIZE and top >= 0 and top + height <= SIZE
            # A rim of a pixel around the box, so that the whole object is in it wherever its edges are rounded to.
            looks.append(seen(image.crop((int(left), int(top), int(left + width) + 1, int(top + height) + 1))))
        assert looks == [made.scene.objects[i].look for i in made.order]
        noun = REFERENCE.fullmatch(made.expression)[1]
        assert [names(noun, look) for look in looks].index(True) == made.label
        assert sum(names(noun, look) for look in looks) == 1, made
        colours, forms = (len(set(values)) for values in zip(*looks, strict=True))
        told_apart_by.add("colour" if forms == 1 else "shape" if colours == 1 else "both")
    assert told_apart_by == {"testA": {"colour"}, "testB": {"shape"}}.get(split, {"colour", "shape", "both"})


def test_a_part_of_a_reference_does_not_decide(references):
    for num in (2, 3, 4):
        of_size = [made for made in references if len(made.order) == num]
        labels = [made.label for made in of_size]
        limit = 1 / num + 0.06
        assert accuracy_from([made.expression for made in of_size], labels) < limit + 0.06
        # Which object is meant, in reading order and by where it is.
        meant = [made.order[made.label] for made in of_size]
        assert accuracy_from([made.expression for made in of_size], meant) < limit + 0.06
        assert best_guess_from_the_picture([made.scene for made in of_size], labels) < limit
        assert best_guess_from_the_picture([made.scene for made in of_size], meant) < limit


def scene_of(fact):
    """A scene of which a fact is true."""
    if fact.kind == "relation":
        cells = {
            "left of": [(0, 0), (0, 1)],
            "right of": [(0, 1), (0, 0)],
            "above": [(0, 0), (1, 0)],
            "below": [(1, 0), (0, 0)],
        }[fact.how[0]]
    else:
        cells = fact.how or CELLS[: len(fact.looks)]
    return Scene(place(np.random.default_rng(0), fact.looks, cells), key=(0,))


def test_paraphrases_are_true_of_the_same_scenes(text_pairs):
    scenes = [shapes.make_scene(0, "train", index) for index in range(60)]
    for made in text_pairs[:400]:
        witnesses = [scene_of(fact) for fact in made.facts]
        for text, witness in zip(made.texts, witnesses, strict=True):
            assert caption_is_true(text, witness), (text, witness)
        first, second = ([caption_is_true(text, scene) for scene in scenes + witnesses] for text in made.texts)
        assert (first == second) == (made.label == "equivalent"), made


def test_one_sentence_alone_does_not_decide(text_pairs):
    for side in range(2):
        labels = defaultdict(Counter)
        for made in text_pairs:
            labels[made.texts[side]][made.label] += 1
        assert all(len(set(counts.values())) == 1 and len(counts) == 2 for counts in labels.values())
    lengths = [tuple(len(text.split()) for text in made.texts) for made in text_pairs]
    assert accuracy_from(lengths, [made.label for made in text_pairs]) < 0.6
    assert all(made.texts[0] != made.texts[1] for made in text_pairs)


def test_no_fact_is_in_two_splits():
    facts = {
        split: {fact.same_as() for index in range(0, 480, 4) for fact in shapes.make_text_pair(0, split, index).facts}
        for split in shapes.SPLITS
    }
    assert all(len(found) > 60 for found in facts.values())
    for one, other in itertools.combinations(facts.values(), 2):
        assert not one & other


def test_captions_for_retrieval_fit_one_scene():
    made = {split: [shapes.make_full_scene(0, split, index) for index in range(300)] for split in shapes.SPLITS}
    looks = [tuple(item.look for item in scene.objects) for scenes in made.values() for scene in scenes]
    assert len(set(looks)) == len(looks)
    scenes = made["test"][:60]
    for number, scene in enumerate(scenes):
        captions = shapes.describe_fully(scene)
        assert len(set(captions)) == 4
        for caption in captions:
            assert [caption_is_true(bare(caption), other) for other in scenes].index(True) == number
            assert sum(caption_is_true(bare(caption), other) for other in scenes) == 1
    with pytest.raises(ValueError, match="21,845 different scenes"):
        shapes.make_full_scene(0, "test", 22_000)


def bare(caption):
    """A listing of places as the reader of captions knows it."""
    return caption.removeprefix("an image of ").removeprefix("a picture with ").replace(", ", " and ")


def test_single_objects_are_what_they_are_called():
    labels = Counter()
    for row, index in zip(shapes.DATA_SETS["cifar10"].rows("train", 320, image_size=SIZE), range(320), strict=True):
        scene = shapes.make_single(0, "train", index)
        (look,) = look_at(shapes.draw_scene(scene, SIZE)).values()
        assert " ".join(look) == shapes.LOOK_CLASSES[row["label"]]
        labels[row["label"]] += 1
    assert len(labels) == 16 and max(labels.values()) < 40
    assert set(FILLED) == set(shapes.SHAPES)
