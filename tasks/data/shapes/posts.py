"""Posts: a drawn object and a sentence that names another, and the mood of the two together, which neither has alone."""

from dataclasses import dataclass

import numpy as np

from .captions import LISTING_TEMPLATES
from .scenes import POSTS, SHAPES, Scene, draw_key, pick, place


#: The moods of colours.
WARM, COLD = ("red", "yellow"), ("green", "blue")
POST_CLASSES = ("cold", "mixed", "warm")
_PARTS = len(POST_CLASSES)


@dataclass(frozen=True)
class Post:
    """A scene of one object, and a sentence that names a colour and a shape."""

    scene: Scene
    colour: str
    text: str

    @property
    def label(self) -> str:
        """Return one of `POST_CLASSES`: the mood of both colours, that of the object and that of the sentence."""
        moods = [colour in WARM for colour in (self.scene.objects[0].colour, self.colour)]
        return POST_CLASSES[sum(moods)]


def make_post(seed: int, split: str, index: int) -> Post:
    """
    Return the post number `index` of a split; raise `ValueError` as `draw_key` does.

    Three in a row, from 3k on, have all three labels. The sentence, or the picture, alone decides two of three.
    """
    triple = np.random.default_rng(draw_key(seed, split, POSTS, index // _PARTS))
    label = POST_CLASSES[triple.permutation(_PARTS)[index % _PARTS]]
    key = draw_key(seed, split, POSTS, index)
    rng = np.random.default_rng([*key, 0])
    moods = {"cold": (COLD, COLD), "mixed": pick(rng, ((COLD, WARM), (WARM, COLD))), "warm": (WARM, WARM)}[label]
    shown, said = (pick(rng, mood) for mood in moods)
    scene = Scene(place(rng, [(shown, pick(rng, SHAPES))]), key)
    return Post(scene, said, pick(rng, LISTING_TEMPLATES).format(f"a {said} {pick(rng, SHAPES)}"))
