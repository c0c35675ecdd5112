"""Corruption of text for masked language modelling, and mismatching of images for image-text matching."""

import math

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
    Corrupt one text as BERT does (Devlin et al. 2019, section 3.1): each unit is chosen with the given probability,
    and of the chosen tokens 80 % are masked, 10 % replaced by a random token and 10 % kept. At least one unit is
    chosen.

    Args:
        input_ids: Token ids (T,).
        units: The unit of each token (T,): its own number to mask single tokens, that of its word to mask whole words,
            -1 for special tokens and padding, which are never chosen.
        random_ids: Ids to draw replacements from.

    Returns:
        The corrupted ids (T,), and the labels (T,): the true ids of chosen tokens, -100 elsewhere.
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

    # Drawn for the chosen tokens alone, so that a row does not depend on its padding.
    count = selected.sum()
    fate = rng.random(count)
    replacements = random_ids[rng.integers(len(random_ids), size=count)]
    corrupted = input_ids.copy()
    corrupted[selected] = np.select([fate < 0.8, fate < 0.9], [mask_token_id, replacements], input_ids[selected])
    return corrupted, labels


def fill_positions(positions: np.ndarray, labels: np.ndarray, probability: float) -> np.ndarray:
    """
    Fill up the positions of masked tokens to a number that follows from the shape of their batch, with a place that has no label and so
    counts for nothing. A batch with more of them than four standard deviations above the mean gets twice that number, or more; one
    that has labels everywhere stays as it is.

    Args:
        positions: The places (M,) of the labels in the flattened (B * T) text.
        labels: The labels (B, T), -100 where there is none.
        probability: The share of the tokens that is masked, or that of the words.
    """
    unlabelled = np.flatnonzero(labels == IGNORED)
    if not len(unlabelled):
        return positions
    # Each row has at least one masked token.
    mean = max(probability * labels.size, len(labels))
    room = 8 * math.ceil((mean + 4 * math.sqrt(mean)) / 8)
    while room < len(positions):
        room *= 2
    return np.concatenate([positions, np.full(room - len(positions), unlabelled[0])])


def draw_pairs(image_ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """
    Mismatch half of a batch of rows with `image_ids` (B,): each row of a random half gets the image of a row with
    another image, drawn uniformly. If there is none, it keeps its own.

    Returns:
        The row whose image each text is paired with (B,), and the labels (B,): 1 for its own image, 0 for another.
    """
    size = len(image_ids)
    index = np.arange(size)
    for row in rng.permutation(size)[: size // 2]:
        others = np.flatnonzero(image_ids != image_ids[row])
        if len(others):
            index[row] = rng.choice(others)
    return index, (index == np.arange(size)).astype(np.int64)


def drawn_from(candidates: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of `candidates` (N,) without replacement, each with the same chance. If there are fewer, return all, in any order."""
    return rng.permutation(candidates)[:count]
