"""
The objectives of pretraining, the half that makes batches: what each adds to a batch, and what it sums for its metrics.
modeling/objectives.py has the other half.

A new objective is a dataclass, a subclass of `ObjectiveData` whose fields are its options, and a call of
`register_objective_data`.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import ProcessorMixin

from ..modeling.fields import check_bounds, option
from .batch_draft import BatchDraft
from .masking import IGNORED, draw_pairs, drawn_from, fill_positions, mask_tokens


class ObjectiveData:
    """
    The data of an objective of pretraining. A subclass is a dataclass, whose fields are its options.

    Class attributes:
        name: The name of the objective; its inputs begin with it.
        augmentable: Whether the images of its rows can be augmented. It must not be so if rows have places in them.
        cacheable: Whether the images of its rows can be taken from a cache, of their features or of the pixels of the whole image.
        compares_processes: Whether its loss compares the rows of all processes, each of which must have as many.
        sums: What `row_sums` sums, by name.
        label_input: The input of labels that `accuracy` is of, if the most frequent of them is its baseline. `IGNORED` is
            no label.
        columns: The columns that a row needs for it, a text and an image by default.
        vocabulary_column: The column whose values, in all training data for it, are the classes of its head; `None` if it has no
            classes, or always the same.
        vocabulary_option: The field of the configuration that lists these classes.
        of_vocabulary: Its options that say which values become classes, without effect on the classes of a checkpoint.

    Raises:
        ValueError: If an option is out of range; the message names it.
    """

    name: ClassVar[str]
    sums: ClassVar[tuple[str, ...]]
    label_input: ClassVar[str | None] = None
    columns: ClassVar[tuple[str, ...]] = ("text", "image")
    vocabulary_column: ClassVar[str | None] = None
    vocabulary_option: ClassVar[str | None] = None
    of_vocabulary: ClassVar[tuple[str, ...]] = ()
    augmentable: ClassVar[bool] = True
    cacheable: ClassVar[bool] = True
    compares_processes: ClassVar[bool] = False

    def vocabulary(self, values: Iterable[Any]) -> list[str]:
        """
        Return the classes of the head.

        Args:
            values: Those of `vocabulary_column`, in all training data for this objective.

        Raises:
            ValueError: If the values make no classes; the message names an option.
        """
        raise NotImplementedError

    def fit(self, config: Any) -> None:
        """Take from the configuration of the model what batches and metrics depend on. Call it again when the model is built, which may
        complete its configuration."""

    def require_fit(self, known: Any) -> None:
        """Raise `ValueError` if `fit` has not been called: it has not set what is `known` of the model."""
        if not known:
            raise ValueError(
                f"{self.name}: its batches depend on the model; call fit of {type(self).__name__} with its configuration first"
            )

    def knows(self, value: Any) -> bool:
        """Return whether the classes of the head, those of the configuration that it was fit to, have one of a row's
        `vocabulary_column`. Training leaves out rows for it that have none."""
        return True

    def prepare(self, processor: ProcessorMixin) -> None:
        """Get ready to make batches with `processor`; raise `ValueError` if it does not allow for this objective."""

    def check_beside(self, names: Collection[str]) -> None:
        """Raise `ValueError`, naming an option, if it needs another objective than `names`, which are all of the run."""

    def check_served(self, place: str, columns: Collection[str], names: Collection[str]) -> None:
        """
        Raise `ValueError`, with the `place` of rows, if it cannot be in one run with rows that have `columns` and serve the objectives
        `names`.
        """

    def check_rows(self, option: str, rows: int, captions_per_image: int) -> None:
        """Raise `ValueError`, naming `option`, if a batch of `rows` with up to `captions_per_image` captions an image is too small."""

    @property
    def draws_images(self) -> bool:
        """Whether it shows images of other rows of the data, as they are, beside those of the batch."""
        return False

    def add(
        self, draft: BatchDraft, draw: Callable[[dict, np.random.Generator], dict] | None
    ) -> dict[str, np.ndarray]:
        """
        Return the objective's inputs for a batch, a function of the keys of the rows that serve it (`draft.rows_of`).

        Args:
            draft: The batch so far.
            draw: Gives, for a row and a source of randomness, another row of the training data, whose image is false of it; `None` in
                evaluation.
        """
        raise NotImplementedError

    def row_sums(self, logits: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what metrics are made of, summed over each row that serves it (R, len(sums)), in the order of `<name>_rows`."""
        raise NotImplementedError

    def collected(
        self, logits: torch.Tensor | None, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Return `row_sums` for each row of a batch, 0 for those that do not serve it, and behind them whether the row serves it (B,
        len(sums) + 1); and, with `label_input`, the labels of each row (B, L), `IGNORED` if it has none.

        Args:
            logits: The scores; `None` if the batch did not ask for the objective.
            inputs: The batch.
        """
        count, rows = len(inputs["attention_mask"]), inputs.get(f"{self.name}_rows")
        device = inputs["attention_mask"].device
        whole = torch.zeros(count, len(self.sums) + 1, device=device)
        labels = torch.full((count, 1), IGNORED, device=device) if self.label_input else None
        if logits is None:
            return whole, labels
        sums = self.row_sums(logits, inputs)
        sums = torch.cat([sums, sums.new_ones(len(sums), 1)], dim=1)
        whole = sums if rows is None else whole.index_copy(0, rows, sums)
        if self.label_input:
            labels = inputs[self.label_input]
            labels = labels.reshape(len(labels), -1)
            if len(labels) < count:
                labels = labels.new_full((count, labels.shape[1]), IGNORED).index_copy(0, rows, labels)
        return whole, labels

    def metrics(self, totals: dict[str, float], rows: int) -> dict[str, float]:
        """
        Return the metrics, `loss` among them, from the `sums` over all rows: by default, their means over the `rows` that serve it. The
        baseline of a metric has its name with majority_, chance_ or constant_ before it.
        """
        return {name: total / rows for name, total in totals.items()}


#: The objectives' data by name.
OBJECTIVE_DATA: dict[str, type[ObjectiveData]] = {}


def register_objective_data(kind: type[ObjectiveData]) -> type[ObjectiveData]:
    """Add the data of an objective to those that pretraining knows; a class decorator."""
    OBJECTIVE_DATA[kind.name] = kind
    return kind


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` if an option is none of its choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


@register_objective_data
@dataclass
class MaskedTextData(ObjectiveData):
    """
    Masked language modelling: `mlm_input_ids`, `mlm_labels` (B, T) and `mlm_positions` (M,). A row depends on nothing but its own
    text and key. If some rows do not serve it, or have no image, `mlm_text_index`, `mlm_image_index` (P,) and `mlm_alone_index` (A,)
    say which texts are read beside which image, and which alone; an index without an entry is left out. If shapes are to repeat, M follows from B and T, and the positions that are left over have no label.
    """

    name = "mlm"
    columns = ("text",)
    sums = ("loss", "masked", "accuracy")
    label_input = "mlm_labels"

    mlm_probability: float = option(0.15, "Share of the tokens, or words, to mask.", within="(0, 1)")
    whole_word_masking: bool = option(False, "Mask all pieces of a word together.")

    def __post_init__(self):
        check_bounds(self)

    def prepare(self, processor):
        tokenizer = processor.tokenizer
        if tokenizer.mask_token_id is None:
            fault = "has no mask token, which masked language modelling needs"
            raise ValueError(
                f"tokenizer: {type(tokenizer).__name__} {fault}; choose another, or leave out the objective mlm"
            )
        if not tokenizer.is_fast:
            fault = "is not a fast tokenizer, which masked language modelling needs"
            raise ValueError(
                f"tokenizer: {type(tokenizer).__name__} {fault}; choose another, or leave out the objective mlm"
            )
        self._mask_id = tokenizer.mask_token_id
        self._random_ids = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)

    def add(self, draft, draw):
        masked = [
            mask_tokens(
                ids,
                self.units(tokens),
                self._mask_id,
                self._random_ids,
                self.mlm_probability,
                np.random.default_rng(key),
            )
            for ids, tokens, key in zip(draft.encoding["input_ids"], draft.encoding.encodings, draft.keys, strict=True)
        ]
        corrupted, labels = (np.stack(arrays) for arrays in zip(*masked, strict=True))
        rows = draft.rows_of(self.name)
        labels[np.setdiff1d(np.arange(len(labels)), rows)] = IGNORED
        positions = np.flatnonzero(labels != IGNORED)
        if draft.repeats_shapes:
            positions = fill_positions(positions, labels, self.mlm_probability)
        inputs = {"mlm_input_ids": corrupted, "mlm_labels": labels, "mlm_positions": positions}
        return inputs | self.read_texts(draft, rows)

    def read_texts(self, draft: BatchDraft, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs that say which texts are read beside their images, and which alone: none if it is all beside them."""
        paired = np.array([number for number in rows if "image" in draft.rows[number]], dtype=np.int64)
        if len(paired) == len(draft.rows):
            return draft.paired(self.name)
        alone = np.setdiff1d(rows, paired)
        found = {"mlm_alone_index": alone} if len(alone) else {}
        return found | ({"mlm_text_index": paired, "mlm_image_index": draft.images_of(paired)} if len(paired) else {})

    def units(self, tokens: Any) -> np.ndarray:
        """Return what each token of one encoding is masked together with (T,); -1 for special tokens and padding."""
        special = np.array(tokens.special_tokens_mask) | (1 - np.array(tokens.attention_mask))
        if self.whole_word_masking:
            numbers = np.array([-1 if word is None else word for word in tokens.word_ids])
        else:
            numbers = np.arange(len(special))
        return np.where(special, -1, numbers)

    def row_sums(self, logits, inputs):
        labels, positions = inputs["mlm_labels"], inputs["mlm_positions"]
        truth = labels.flatten()[positions]
        values = [
            torch.nn.functional.cross_entropy(logits.float(), truth, reduction="none"),
            (truth != IGNORED).float(),
            (logits.argmax(dim=-1) == truth).float(),
        ]
        sums = logits.new_zeros(len(labels), 3, dtype=torch.float32)
        sums = sums.index_add_(0, positions // labels.shape[1], torch.stack(values, dim=1))
        return sums.index_select(0, inputs["mlm_rows"]) if "mlm_rows" in inputs else sums

    def metrics(self, totals, rows):
        masked = max(totals["masked"], 1)
        return {name: totals[name] / masked for name in ("loss", "accuracy")}


@register_objective_data
@dataclass
class MatchingData(ObjectiveData):
    """
    Image-text matching: `itm_image_index`, `itm_labels` (R,), or, with numbers of false images and texts, `itm_image_index`,
    `itm_text_index`, `itm_labels` (R, K): of each row that serves it its true pair, then its text with false images, then its image with false
    texts. A false pair for which the batch has no other image is not counted. If the masked text is matched, also
    `itm_false_rows` (F,) and `itm_pair_index`, which say which pairs are distinct from those of masked language modelling.
    """

    name = "itm"
    sums = ("loss", "accuracy", "pairs")
    label_input = "itm_labels"

    itm_text: str = option(
        "clean",
        "Text that is matched with images: clean, as in the original, or masked, which is cheaper: a pair that matches is fused "
        "once for both it and masked language modelling.",
        choices=("clean", "masked"),
    )
    itm_negatives: str = option(
        "batch",
        "Source of the false images in training: batch (its other rows), which costs nothing, or random (all of the training "
        "data), for which one more image for every other row is loaded and encoded. In evaluation: the batch.",
        choices=("batch", "random"),
    )
    itm_false_images: int | None = option(
        None,
        "False images for each text. If this or itm_false_texts is given, each row has its true pair and all its false ones; "
        "otherwise one pair, which is false for half of the rows.",
        within="[0, 64]",
    )
    itm_false_texts: int | None = option(
        None, "False texts for each image, likewise. They are those of other images of the batch.", within="[0, 64]"
    )

    def __post_init__(self):
        check_bounds(self)
        check_choice("itm_text", self.itm_text, ("clean", "masked"))
        check_choice("itm_negatives", self.itm_negatives, ("batch", "random"))
        if self.counts_pairs and not any(self.false_counts):
            raise ValueError(
                "itm_false_images, itm_false_texts: without false pairs there is nothing to tell apart; expected at least 1 for one"
            )
        if self.counts_pairs and self.draws_images and not self.itm_false_images:
            raise ValueError(
                "itm_negatives: random is of false images, of which itm_false_images asks for none; leave it out"
            )

    @property
    def counts_pairs(self) -> bool:
        """Whether each row has its true pair and numbers of false ones, rather than one pair."""
        return (self.itm_false_images, self.itm_false_texts) != (None, None)

    @property
    def false_counts(self) -> tuple[int, int]:
        """The number of false images and of false texts of each row, if they are counted."""
        return self.itm_false_images or 0, self.itm_false_texts or 0

    def check_beside(self, names):
        if self.itm_text == "masked" and "mlm" not in names:
            raise ValueError("itm_text: masked needs the objective mlm too; expected clean")

    def check_served(self, place, columns, names):
        if self.itm_text == "masked" and "image" in columns and (self.name in names) != ("mlm" in names):
            raise ValueError(
                f"itm_text: masked reads pairs that masked language modelling reads too, expected rows with an image to serve both mlm "
                f"and itm or neither, got {place} that serve {', '.join(names)}; choose clean"
            )

    def check_rows(self, option, rows, captions_per_image):
        if rows < 2:
            raise ValueError(
                f"{option}: in image-text matching half of a batch has false images, which needs at least 2 rows, got {rows}; "
                "or leave itm out of the objectives"
            )
        most = max(*self.false_counts[self.draws_images :], 0)
        if self.counts_pairs and most * captions_per_image >= rows:
            raise ValueError(
                f"{option}: {most} false images or texts of a row come from the batch, expected more than {most * captions_per_image} "
                f"rows, got {rows}; lower itm_false_images or itm_false_texts"
            )
        if not self.draws_images and captions_per_image > 1 and captions_per_image >= rows:
            raise ValueError(
                f"captions_per_image: image-text matching draws false images from the batch, expected fewer than its {rows} "
                f"rows, got {captions_per_image}"
            )

    @property
    def draws_images(self):
        return self.itm_negatives == "random"

    def add(self, draft, draw):
        served = draft.rows_of(self.name)
        # Shows the images of its rows, in their order, before those that are drawn.
        own = draft.image_index if len(served) == len(draft.rows) else draft.images_of(served)
        make = self.counted_pairs if self.counts_pairs else self.halved_pairs
        inputs = make(draft, draw, served, own)
        if self.itm_text == "clean":
            draft.read_clean_text(served)
            return inputs
        labels = inputs["itm_labels"]
        rows = np.arange(len(labels))
        is_false = labels == 0
        if self.counts_pairs:
            # Also a pair that does not count, so that their number follows from that of the rows.
            is_false = np.broadcast_to(np.arange(labels.shape[1]) > 0, labels.shape)
        place = rows.copy() if labels.ndim == 1 else np.repeat(rows[:, None], labels.shape[1], axis=1)
        place[is_false] = len(rows) + np.arange(is_false.sum())
        return inputs | {"itm_false_rows": np.flatnonzero(is_false), "itm_pair_index": place}

    def counted_pairs(
        self,
        draft: BatchDraft,
        draw: Callable[[dict, np.random.Generator], dict] | None,
        served: np.ndarray,
        own: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Return the pairs of the rows that serve it (R, K), each with its true one first; `own` are their images."""
        rng, (images, texts) = draft.rng(served), self.false_counts
        shape = len(own), 1 + images + texts
        image_index, text_index = (
            np.repeat(own[:, None], shape[1], axis=1),
            np.repeat(served[:, None], shape[1], axis=1),
        )
        labels = np.full(shape, IGNORED)
        labels[:, 0] = 1
        for row in range(len(own)):
            foreign = np.flatnonzero(own != own[row])
            if self.draws_images and draw is not None:
                found = np.array([draft.show(draw(draft.rows[served[row]], rng)) for _ in range(images)])
            else:
                found = drawn_from(np.unique(own[foreign]), images, rng)
            image_index[row, 1 : 1 + len(found)], labels[row, 1 : 1 + len(found)] = found, 0
            found = served[drawn_from(foreign, texts, rng)]
            places = slice(1 + images, 1 + images + len(found))
            text_index[row, places], labels[row, places] = found, 0
        return {"itm_image_index": image_index, "itm_text_index": text_index, "itm_labels": labels}

    def halved_pairs(
        self,
        draft: BatchDraft,
        draw: Callable[[dict, np.random.Generator], dict] | None,
        served: np.ndarray,
        own: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Return one pair for each row that serves it (R,), half of them false."""
        rng = draft.rng(served)
        if self.draws_images and draw is not None:
            false = rng.permutation(len(served))[: len(served) // 2]
            paired = own.copy()
            paired[false] = [draft.show(draw(draft.rows[served[number]], rng)) for number in false]
            labels = np.ones(len(served), dtype=np.int64)
            labels[false] = 0
        else:
            index, labels = draw_pairs(own, rng)
            paired = own[index]
        return {"itm_image_index": paired, "itm_labels": labels}

    def row_sums(self, logits, inputs):
        labels = inputs["itm_labels"]
        truth = labels.flatten()
        loss = torch.nn.functional.cross_entropy(logits.float(), truth, reduction="none")
        values = torch.stack([loss, (logits.argmax(dim=-1) == truth).float(), (truth != IGNORED).float()], dim=1)
        return values.reshape(len(labels), -1, 3).sum(dim=1)

    def metrics(self, totals, rows):
        pairs = max(totals["pairs"], 1)
        return {name: totals[name] / pairs for name in ("loss", "accuracy")}


@register_objective_data
@dataclass
class ContrastiveData(ObjectiveData):
    """Image-text contrastive: `contrastive_ids` (R,), digests of the image ids, which rows of one image share."""

    name = "contrastive"
    compares_processes = True
    sums = ("loss", "image_accuracy", "chance_image_accuracy", "text_accuracy", "chance_text_accuracy")
    #: The loss of the model, of which metrics have the same.
    loss_name = "softmax"

    def fit(self, config):
        self.loss_name = config.contrastive_loss

    def check_rows(self, option, rows, captions_per_image):
        if rows < 2 or (captions_per_image > 1 and captions_per_image >= rows):
            raise ValueError(
                f"{option}: the contrastive objective compares the images of a batch, expected more than {captions_per_image} rows, "
                f"got {rows}; or leave contrastive out of the objectives"
            )

    def add(self, draft, draw):
        rows = draft.rows_of(self.name)
        draft.read_clean_text(rows)
        digests = [hashlib.sha256(draft.rows[number]["image_id"].encode()).digest() for number in rows]
        ids = np.array([int.from_bytes(digest[:8]) >> 1 for digest in digests])
        return {"contrastive_ids": ids} | draft.paired(self.name)

    def row_sums(self, logits, inputs):
        """The accuracies say whether a row's own image is the nearest to its text, and the converse, and how often by chance."""
        ids = inputs["contrastive_ids"]
        other = ids[:, None] != ids
        own = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
        scores = logits.float().masked_fill(~(other | own), torch.finfo(torch.float32).min)
        rows, losses, correct = torch.arange(len(ids), device=ids.device), [], []
        for side in (scores, scores.T):
            losses.append(torch.nn.functional.cross_entropy(side, rows, reduction="none"))
            correct.append((side.argmax(dim=1) == rows).float())
        chance = 1 / (other.sum(dim=1) + 1).float()
        loss = (losses[0] + losses[1]) / 2
        if self.loss_name == "sigmoid":
            signed = torch.where(own, logits.float(), -logits.float())
            loss = -(torch.nn.functional.logsigmoid(signed) * (other | own)).sum(dim=1)
        return torch.stack([loss, correct[0], chance, correct[1], chance], dim=1)
