"""Corruption of text for masked language modelling, and mismatching of images for image-text matching."""

import numpy as np


#: The label of a token that is not to be predicted, which cross-entropy ignores.
IGNORED = -100


def mask_tokens(
    input_ids: np.ndarray,
    units: np.ndarray,
    mask_token_id: int,
    random_ids: np.ndarray,
    probability: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Corrupts one text as BERT does (Devlin et al. 2019, section 3.1): each unit is chosen with the given probability, and of
    the chosen tokens 80 % are masked, 10 % replaced by a random token and 10 % kept. At least one unit is chosen.

    Args:
        input_ids: Token ids (T,).
        units: What a token is chosen together with (T,): its own number to mask single tokens, that of its word to mask
            whole words, -1 for special tokens and padding, which are never chosen.
        mask_token_id: Id of the mask token.
        random_ids: Ids that a replacement is drawn from.
        probability: Share of the units to choose.
        rng: Source of randomness.

    Returns:
        The corrupted ids (T,), and the labels (T,): the true ids where a unit was chosen, -100 elsewhere.
    """
    labels = np.full_like(input_ids, IGNORED)
    candidates = np.unique(units[units >= 0])
    if not len(candidates):
        return input_ids.copy(), labels
    chosen = candidates[rng.random(len(candidates)) < probability]
    if not len(chosen):
        chosen = candidates[[rng.integers(len(candidates))]]
    selected = np.isin(units, chosen)
    labels[selected] = input_ids[selected]

    # Drawn for the chosen tokens alone, so that a row does not depend on how far it is padded.
    count = selected.sum()
    fate = rng.random(count)
    replacements = random_ids[rng.integers(len(random_ids), size=count)]
    corrupted = input_ids.copy()
    corrupted[selected] = np.select([fate < 0.8, fate < 0.9], [mask_token_id, replacements], input_ids[selected])
    return corrupted, labels


def draw_pairs(image_ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """
    Mismatches half of a batch: each row of a random half gets the image of another row, drawn uniformly from the rows that
    show a different image. A row for which there is none keeps its own, and the label says so.

    Args:
        image_ids: What identifies each row's image (B,); rows of one image carry the same id.
        rng: Source of randomness.

    Returns:
        The row whose image each text is paired with (B,), and the labels (B,): 1 where that image is its own, 0 where not.
    """
    size = len(image_ids)
    index = np.arange(size)
    for row in rng.permutation(size)[: size // 2]:
        others = np.flatnonzero(image_ids != image_ids[row])
        if len(others):
            index[row] = rng.choice(others)
    return index, (index == np.arange(size)).astype(np.int64)
