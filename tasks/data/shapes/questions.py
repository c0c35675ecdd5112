"""VQA-style questions about a scene: colour, shape, number, yes or no, position."""

from dataclasses import dataclass

import numpy as np

from .scenes import CELLS, COLOURS, QUESTIONS, SHAPES, Scene, Subject, draw_key, in_words, pick, pick_skewed, place


QUESTION_TEMPLATES = {
    "colour": ("what colour is the {}?", "which colour does the {} have?"),
    "shape": ("what is the {}?", "which shape is the {}?"),
    "number": ("how many {}s are there?", "how many {}s are in the image?"),
    "yes_no": ("is there a {} in the image?", "does the image contain a {}?"),
    "position": ("where is the {}?", "at which place is the {}?"),
}
_WEIGHTS = (0.25, 0.2, 0.15, 0.25, 0.15)
#: The answers to each kind of question. To a question, all of its kind are as likely, and yes as likely as no.
ANSWERS = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "number": ("0", "1", "2", "3"),
    "yes_no": ("yes", "no"),
    "position": tuple(in_words(cell) for cell in CELLS),
}
_QUESTIONS_IN_A_ROW = 4
_NUM_ANSWERS = 10


@dataclass(frozen=True)
class Question:
    """A scene, a question about the objects that match `subject`, its answer, and the answers of ten people: when
    asked for a position, some of them give only the row or the column, which is true as well."""

    scene: Scene
    kind: str
    subject: Subject
    text: str
    answer: str
    answers: tuple[str, ...]


def make_question(seed: int, split: str, index: int) -> Question:
    """Return the question number `index` of a split; raise `ValueError` as `draw_key` does. Four in a row, from 4k on,
    ask the same about four scenes, and all answers are equally frequent: the text says nothing about the answer."""
    four = np.random.default_rng(draw_key(seed, split, QUESTIONS, index // _QUESTIONS_IN_A_ROW))
    kind = tuple(ANSWERS)[four.choice(len(ANSWERS), p=_WEIGHTS)]
    subject = _question_subject(four, kind)
    text = pick(four, QUESTION_TEMPLATES[kind]).format(subject.noun)
    number = four.permutation(_QUESTIONS_IN_A_ROW)[index % _QUESTIONS_IN_A_ROW]
    answer = ANSWERS[kind][number % len(ANSWERS[kind])]

    key = draw_key(seed, split, QUESTIONS, index)
    rng = np.random.default_rng([*key, 0])
    scene = _question_scene(rng, key, kind, subject, answer)
    return Question(scene, kind, subject, text, answer, _ten_answers(rng, kind, answer))


def _question_subject(rng: np.random.Generator, kind: str) -> Subject:
    if kind == "colour":
        return Subject(None, pick_skewed(rng, SHAPES))
    return Subject(pick_skewed(rng, tuple(COLOURS)), None) if kind == "shape" else Subject.draw(rng)


def _question_scene(rng: np.random.Generator, key: tuple[int, ...], kind: str, subject: Subject, answer: str) -> Scene:
    """Return three or four objects, as many of which match the subject as the answer demands."""
    matching, others = subject.looks
    if kind in ("colour", "shape"):
        matching = [look for look in matching if answer in look]
    count = {"number": answer, "yes_no": "1" if answer == "yes" else "0"}.get(kind, "1")
    matches = [pick(rng, matching) for _ in range(int(count))]
    # If colour or shape are asked for, a near miss would show the answer a second time.
    near = others if kind in ("colour", "shape") else subject.near_misses(pick(rng, matching))
    rest = [pick(rng, near), *(pick(rng, others) for _ in range(3))]
    looks = (matches + rest)[: rng.integers(3, 5)]
    cells = [CELLS[i] for i in rng.permutation(len(CELLS))]
    if kind == "position":
        cells.sort(key=lambda cell: in_words(cell) != answer)
    return Scene(place(rng, looks, cells[: len(looks)]), key)


def _ten_answers(rng: np.random.Generator, kind: str, answer: str) -> tuple[str, ...]:
    shorter = rng.integers(4) if kind == "position" else 0
    answers = [answer] * (_NUM_ANSWERS - shorter) + [pick(rng, answer.split()) for _ in range(shorter)]
    return tuple(answers[i] for i in rng.permutation(_NUM_ANSWERS))
