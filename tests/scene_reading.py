"""Reads the sentences of `shapes` by patterns of its own, and checks them against what was drawn."""

import re
from collections import Counter, defaultdict

import numpy as np
from PIL import Image


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


#: The share of its box that a shape fills.
FILLED = {"square": (0.86, 1.1), "circle": (0.7, 0.86), "triangle": (0.44, 0.6), "star": (0.28, 0.44)}
PAINTS = {
    "red": (214, 39, 40),
    "green": (34, 150, 60),
    "blue": (40, 80, 215),
    "yellow": (240, 200, 20),
    "grey": (120,) * 3,
}
PLACES = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}


def seen(image: Image.Image) -> tuple[str, str] | None:
    """The colour and shape of the one thing that a picture shows, read from its pixels; `None` for nothing."""
    pixels = np.asarray(image).astype(int)
    painted = np.abs(pixels - 238).max(axis=-1) > 100
    if not painted.any():
        return None
    typical = np.median(pixels[painted], axis=0)
    colour = min(PAINTS, key=lambda name: np.abs(typical - PAINTS[name]).max())
    rows, columns = np.nonzero(painted)
    share = painted.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
    shape = next(shape for shape, (low, high) in FILLED.items() if low <= share < high)
    return colour, shape


def look_at(image: Image.Image) -> dict[tuple[int, int], tuple[str, str]]:
    """What a drawn scene shows in each cell that is not empty."""
    half = image.size[0] // 2
    cells = {(r, c): (c * half, r * half, (c + 1) * half, (r + 1) * half) for r in range(2) for c in range(2)}
    shown = {cell: seen(image.crop(box)) for cell, box in cells.items()}
    return {cell: look for cell, look in shown.items() if look}


def names(noun: str, look: tuple[str, str]) -> bool:
    """Whether a noun such as `red shape`, `star` or `red star` names a look."""
    return all(word in (*look, "shape") for word in noun.split())


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
