"""The official accuracy of VQA, written down here a second time from its rules, against that of the package."""

import itertools
import re

import numpy as np
import pytest

from renaissance.processing.vqa_answers import AnswerTargets, answer_vocabulary
from renaissance.tasks.metrics import VQAAccuracy


# VQA: PythonEvaluationTools/vqaEvaluation/vqaEval.py of github.com/GT-Vision-Lab/VQA, as it is since March 2021.

#: A prediction, the answers of ten people with their numbers, and the accuracy, worked out by hand.
TRICKY_ANSWERS = [
    # Case. Unanimous answers are compared as they are written.
    ("yes", {"Yes": 8, "Maybe": 2}, 1.0),
    ("maybe", {"Yes": 8, "Maybe": 2}, 0.6),
    ("YES", {"yes": 9, "no": 1}, 1.0),
    ("Yes", {"Yes": 10}, 1.0),
    ("yes", {"Yes": 10}, 0.0),
    # Articles.
    ("dog", {"the dog": 9, "cat": 1}, 1.0),
    ("a dog", {"dog": 3, "cat": 7}, 0.9),
    ("the dog", {"the dog": 10}, 1.0),
    ("dog", {"the dog": 10}, 0.0),
    ("the", {"a": 4, "an apple": 6}, 1.0),
    ("a", {"letter a": 5, "b": 5}, 0.0),
    # Numbers up to ten.
    ("2", {"two": 5, "three": 5}, 1.0),
    ("two", {"2": 2, "3": 8}, 0.6),
    ("2", {"two": 10}, 0.0),
    ("none", {"0": 4, "1": 6}, 1.0),
    ("0", {"none": 1, "nothing": 9}, 0.3),
    ("zero of them", {"none of them": 3, "no": 7}, 0.9),
    ("ten", {"10": 4, "eleven": 6}, 1.0),
    ("eleven", {"11": 9, "10": 1}, 0.0),
    ("one dog", {"1 dog": 2, "dog": 8}, 0.6),
    ("someone", {"some1": 5, "some one": 5}, 0.0),
    # Contractions, which are repaired if the code lists them.
    ("dont know", {"don't know": 4, "no": 6}, 1.0),
    ("don't know", {"dont know": 3, "yes": 7}, 0.9),
    ("Dont", {"don't": 4, "do": 6}, 1.0),
    ("dont", {"dont": 10}, 1.0),
    ("don't", {"dont": 10}, 0.0),
    ("couldnt've", {"couldn't've": 4, "could": 6}, 1.0),
    ("couldntve", {"couldn't've": 9, "no": 1}, 0.0),
    ("its", {"it's": 9, "it": 1}, 0.0),
    ("oclock", {"O'Clock": 5, "clock": 5}, 1.0),
    ("10 oclock", {"ten o'clock": 3, "10": 7}, 0.9),
    ("somebody'd", {"somebodyd": 2, "nobody": 8}, 0.6),
    # The code lists "Im", which words in lower case never are.
    ("I'm", {"im": 9, "I'm": 1}, 0.3),
    ("twas", {"'twas": 3, "was": 7}, 0.9),
    # Punctuation: a mark beside a space is deleted, or becomes a space.
    ("t-shirt", {"t shirt": 6, "shirt": 4}, 1.0),
    ("t shirt", {"t-shirt": 10}, 0.0),
    ("black/white", {"black white": 2, "black and white": 8}, 0.6),
    ("black / white", {"black white": 7, "grey": 3}, 1.0),
    ("red, white", {"red white": 3, "pink": 7}, 0.9),
    ("red,white", {"red white": 4, "pink": 6}, 1.0),
    ('"stop"', {"stop": 3, "go": 7}, 0.9),
    ("stop sign (red)", {"stop sign red": 1, "stop": 9}, 0.3),
    ("5 -6", {"5 6": 5, "56": 5}, 1.0),
    ("5-6", {"5 6": 2, "56": 8}, 0.6),
    ("???", {"!": 5, "what": 5}, 1.0),
    # A comma between digits deletes all marks.
    ("1,000", {"1000": 5, "100": 5}, 1.0),
    ("1,000-2,000", {"10002000": 1, "1000 2000": 9}, 0.3),
    # Marks that are left alone.
    ("10:30", {"10:30": 4, "1030": 6}, 1.0),
    ("$5", {"5": 9, "$5": 1}, 0.3),
    ("50%", {"50": 9, "50%": 1}, 0.3),
    ("driver's", {"drivers": 9, "driver's": 1}, 0.3),
    ("yes & no", {"yes and no": 9, "yes & no": 1}, 0.3),
    # Periods go unless a digit follows, and only the first 32.
    ("3.5", {"3.5": 2, "35": 8}, 0.6),
    (".5", {"0.5": 9, ".5": 1}, 0.3),
    ("no.", {"no": 4, "yes": 6}, 1.0),
    ("U.S.", {"us": 3, "usa": 7}, 0.9),
    ("mr. smith", {"Mr Smith": 1, "smith": 9}, 0.3),
    ("", {"." * 32: 4, "x": 6}, 1.0),
    ("", {"." * 40: 4, "x": 6}, 0.0),
    # White space. Answers that differ in white space at their ends alone are unanimous.
    (" yes\n", {"yes": 10}, 1.0),
    ("yes\tsir", {"yes sir": 10}, 1.0),
    ("yes  sir", {"yes sir": 10}, 0.0),
    ("yes  sir", {"yes sir": 9, "no": 1}, 1.0),
    ("yes", {" yes": 5, "yes": 5}, 1.0),
    ("Yes", {" yes": 5, "yes\n": 5}, 0.0),
    ("", {"": 10}, 1.0),
]

#: What the code repairs: each word without one of its apostrophes, but for one that loses its own.
REPAIRED = [
    "aint",
    "arent",
    "cant",
    "couldve",
    "couldnt",
    "couldn'tve",
    "couldnt've",
    "didnt",
    "doesnt",
    "dont",
    "hadnt",
    "hadnt've",
    "hadn'tve",
    "hasnt",
    "havent",
    "hed",
    "hed've",
    "he'dve",
    "hes",
    "howd",
    "howll",
    "hows",
    "isnt",
    "itd",
    "itd've",
    "it'dve",
    "itll",
    "maam",
    "mightnt",
    "mightnt've",
    "mightn'tve",
    "mightve",
    "mustnt",
    "mustve",
    "neednt",
    "notve",
    "oclock",
    "oughtnt",
    "ow's'at",
    "'ows'at",
    "'ow'sat",
    "shant",
    "shed've",
    "she'dve",
    "shouldve",
    "shouldnt",
    "shouldnt've",
    "shouldn'tve",
    "somebody'd",
    "somebodyd've",
    "somebody'dve",
    "somebodyll",
    "somebodys",
    "someoned",
    "someoned've",
    "someone'dve",
    "someonell",
    "someones",
    "somethingd",
    "somethingd've",
    "something'dve",
    "somethingll",
    "thats",
    "thered",
    "thered've",
    "there'dve",
    "therere",
    "theres",
    "theyd",
    "theyd've",
    "they'dve",
    "theyll",
    "theyre",
    "theyve",
    "twas",
    "wasnt",
    "wed've",
    "we'dve",
    "weve",
    "werent",
    "whatll",
    "whatre",
    "whats",
    "whatve",
    "whens",
    "whered",
    "wheres",
    "whereve",
    "whod",
    "whod've",
    "who'dve",
    "wholl",
    "whos",
    "whove",
    "whyll",
    "whyre",
    "whys",
    "wont",
    "wouldve",
    "wouldnt",
    "wouldnt've",
    "wouldn'tve",
    "yall",
    "yall'll",
    "y'allll",
    "yall'd've",
    "y'alld've",
    "y'all'dve",
    "youd",
    "youd've",
    "you'dve",
    "youll",
    "youre",
    "youve",
]
#: Those that the rule below does not repair.
IRREGULAR = {
    "maam": "ma'am", "oclock": "o'clock", "somebody'd": "somebodyd", "twas": "'twas", "yall": "y'all", "hes": "he's",
    "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at", "wed've": "we'd've", "we'dve": "we'd've",
    "yall'll": "y'all'll", "y'allll": "y'all'll",
    "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've",
}  # fmt: skip


def repaired(word: str) -> str:
    """A word of the list with all of its apostrophes: before d, ll, re, s and ve at its end, and inside n't."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    stem, ending = word.replace("'", ""), ""
    if re.search(r"(nt|(?<!ul)d)ve$", stem):
        stem, ending = stem[:-2], "'ve"
    tail = next(tail for tail in ("nt", "ve", "ll", "re", "s", "d") if stem.endswith(tail))
    return stem[: -len(tail)] + ("n't" if tail == "nt" else f"'{tail}") + ending


def vqa_processed(answer: str) -> str:
    """One pass over the characters; the code makes one over the marks."""
    beside_space = {a for pair in itertools.pairwise(answer) for a in pair if " " in pair}
    thousands = any(
        answer[at].isdecimal() and answer[at + 1] == "," and answer[at + 2].isdecimal()
        for at in range(len(answer) - 2)
    )
    out = []
    for mark in answer:
        if mark in set(';/[]"{}()=+\\_-><@`,?!'):
            out.append("" if thousands or mark in beside_space else " ")
        else:
            out.append(mark)
    text, kept, deleted = "".join(out), [], 0
    for place, mark in enumerate(text):
        followed = text[place + 1 : place + 2].isdecimal()
        if mark == "." and not followed and deleted < 32:
            deleted += 1
        else:
            kept.append(mark)
    numbers = dict(
        zip(
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
            map(str, range(11)),
            strict=True,
        )
    )
    words = [{"none": "0", **numbers}.get(word, word) for word in "".join(kept).lower().split()]
    words = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(repaired(word) if word in REPAIRED else word for word in words)


def vqa_accuracy(prediction: str, answers: list[str]) -> float:
    cleaned = [re.sub("[\n\t]", " ", answer).strip() for answer in [prediction, *answers]]
    if len(set(cleaned[1:])) > 1:
        cleaned = [vqa_processed(answer) for answer in cleaned]
    prediction, *answers = cleaned
    accuracies = []
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        accuracies.append(min(1, others.count(prediction) / 3))
    return sum(accuracies) / len(accuracies)


def ten(answers: dict[str, int]) -> list[str]:
    assert sum(answers.values()) == 10
    return [answer for answer, count in answers.items() for _ in range(count)]


@pytest.mark.parametrize(("prediction", "answers", "accuracy"), TRICKY_ANSWERS)
def test_vqa_accuracy_of_tricky_answers(prediction, answers, accuracy):
    """Evaluation and the target of training, which is a function of the same answers."""
    assert vqa_accuracy(prediction, ten(answers)) == pytest.approx(accuracy)
    found = VQAAccuracy().compute(predictions=[prediction], references=[ten(answers)])
    assert found["accuracy"] == pytest.approx(accuracy)
    assert AnswerTargets([prediction])(ten(answers)) == pytest.approx([accuracy])


def random_questions(count: int) -> list[list[str]]:
    """Ten answers to each of `count` questions, most of them from the tricky ones; some unanimous."""
    rng = np.random.default_rng(0)
    pool = sorted(
        {answer for _, answers, _ in TRICKY_ANSWERS for answer in answers} | {p for p, _, _ in TRICKY_ANSWERS}
    )
    pool += [
        *REPAIRED,
        *map(repaired, REPAIRED),
        "The Dog",
        "a t-shirt, red",
        "1,5.",
        "Two  dogs",
        "\tno\n",
        "none-ten",
    ]
    questions = []
    for _ in range(count):
        few = rng.choice(pool, size=rng.integers(1, 4)).tolist()
        questions.append(rng.choice(few, size=10).tolist())
    return questions


def test_vqa_accuracy_of_random_answers():
    questions = random_questions(3000)
    rng = np.random.default_rng(1)
    near = [str(rng.choice(answers)) for answers in questions]
    # As written, as the code would process it, and in another case.
    predictions = [(a, vqa_processed(a), a.upper())[number % 3] for number, a in enumerate(near)]
    expected = [vqa_accuracy(*pair) for pair in zip(predictions, questions, strict=True)]
    assert 0.3 < np.mean(expected) < 0.9 and len({round(value, 2) for value in expected}) == 5
    metric = VQAAccuracy().compute(predictions=predictions, references=questions)
    assert metric["accuracy"] == pytest.approx(np.mean(expected), abs=1e-12)
    for number, pair in enumerate(zip(predictions, questions, strict=True)):
        found = VQAAccuracy().scores([pair[0]], [pair[1]])["accuracy"]
        assert found == pytest.approx(expected[number]), pair


def test_vqa_baseline_is_the_best_constant_answer():
    questions = random_questions(60)
    anything = {answer for answers in questions for answer in answers}
    anything |= {vqa_processed(answer) for answer in anything}
    best = max(np.mean([vqa_accuracy(constant, answers) for answers in questions]) for constant in anything)
    found = VQAAccuracy().compute(predictions=[""] * 60, references=questions)
    assert found["majority_accuracy"] == pytest.approx(best)
    shouted = VQAAccuracy().compute(predictions=["yes"] * 3, references=[["Yes"] * 10] * 2 + [["yes"] * 10])
    assert (shouted["accuracy"], shouted["majority_accuracy"]) == pytest.approx((1 / 3, 2 / 3))


def test_a_model_that_knows_all_answers_is_right_by_the_official_rule():
    """Answers of the vocabulary are written as evaluation compares them, and their targets are their accuracies."""
    questions = [["Yes"] * 10] * 9 + [["Yes"] * 8 + ["Maybe"] * 2] * 9 + [["the T-shirt"] * 7 + ["none"] * 3] * 9
    names = answer_vocabulary(questions, 9)
    assert names == ["Yes", "t shirt"]
    targets = AnswerTargets(names)
    for answers in questions:
        assert targets(answers) == pytest.approx([vqa_accuracy(name, answers) for name in names])
        assert targets(answers).max() == 1
    count = AnswerTargets(["Maybe"], "count")(questions[9])
    assert count == pytest.approx([2 / 3])
