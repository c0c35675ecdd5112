"""
The objectives of pretraining, the half that travels with a checkpoint: the head of each, which texts meet which images, and
the loss. processing/objectives.py has the other half, which makes their inputs.

A new objective is a subclass of `Objective` and a call of `register_objective`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from .answers import FILLING, MATCHING
from .contrastive import ContrastiveHead
from .layers import MaskedLMHead, ScoreLinear
from .outputs import EncodedImage, EncodedText, FusedOutput


#: The label of a token that is not predicted, which cross-entropy ignores.
IGNORED = -100


#: The inputs of a step, beside images, that are no objective's own.
SHARED_INPUTS = ("input_ids", "attention_mask", "image_index", "text_rows")

#: What `fuse` is called for, once a step each: pairs of a text and an image, texts alone, images alone.
KINDS = ("pairs", "texts", "images")


@dataclass(frozen=True)
class Pass:
    """
    Pairs of a text and an image that an objective wants fused, or texts or images that only see themselves.

    Args:
        text: Name of the input with the token ids (B, T); `None` for images alone.
        reads: What the objective reads of the fused pairs, any of `outputs.FUSED`.
        text_index: The texts of the pairs (N,); all texts by default.
        image_index: The images of the pairs (N,); the image of the pair's number by default.
        kind: One of `KINDS`.
    """

    text: str | None
    reads: tuple[str, ...]
    text_index: torch.LongTensor | None = None
    image_index: torch.LongTensor | None = None
    kind: str = "pairs"

    @property
    def pairs(self) -> tuple[str, str | None, int, int]:
        """What passes over the same pairs have in common: their text, and the very tensors of their indices."""
        return self.kind, self.text, id(self.text_index), id(self.image_index)

    def count(self, texts: int, images: int) -> int:
        """Return the number of pairs in a batch with this number of texts and of images."""
        index = self.image_index if self.kind == "images" else self.text_index
        return (images if self.kind == "images" else texts) if index is None else index.shape[0]


@dataclass
class Step:
    """
    What a step made for one objective.

    Args:
        batch: All inputs of the step by name.
        fused: What the pairs of each of the objective's passes were fused to.
        texts: The encoded texts by the name of their input.
        image: The encoded images, if the batch has images.
        model: The base model.
        pixels: The images (B, C, H, W) before any objective covered some, if the batch has pixels.
    """

    batch: dict[str, torch.Tensor]
    fused: list[FusedOutput]
    texts: dict[str, EncodedText]
    image: EncodedImage | None
    model: nn.Module
    pixels: torch.Tensor | None = None


@dataclass
class Scores:
    """
    What an objective makes of a step.

    Args:
        logits: Its scores; of which shape is the objective's own affair.
        loss: The sum of its loss () over tokens, pairs or rows, whose number is `Objective.count`; `None` without labels.
    """

    logits: torch.Tensor
    loss: torch.Tensor | None = None


#: The objectives of a model whose configuration does not name any.
DEFAULT_OBJECTIVES = ("mlm", "itm")

#: Width of contrastive vectors if nobody says.
CONTRASTIVE_SIZE = 256

#: The objectives by name.
OBJECTIVES: dict[str, "Objective"] = {}


class Objective:
    """
    An objective of pretraining, without state.

    If some rows of a batch do not serve it, `<name>_rows` (R,) has the numbers of those that do, and inputs that are "of each row"
    have R entries. An objective of pairs then has their images in `<name>_image_index` (R,).

    Class attributes:
        name: The name in `config.objectives`. The objective's inputs and its head, `<name>_head`, begin with it.
        title: The name in prose.
        inputs: The objective's own inputs; a batch that has one of them asks for the objective.
        needs: Inputs that must be there then.
        per_text, per_token: Those of `inputs` that have an entry a row that serves it, or one a token (B, T) though they are no token
            ids.
        texts: Inputs with token ids whose encoded stream the objective reads by itself, without a call of `fuse`, beside the images of
            their rows. Inputs with token
            ids have names that end with `input_ids`, and the shape of `attention_mask` (B, T), which is that of all of them.
        fuses: Whether it reads pairs that were fused, which not all architectures have.
        options: Fields of the configuration that its head reads, of those that are options of heads (`of_heads`).
        pipeline_task: What a model with this objective says, by the name of the pipeline that runs it (see `answers.py`).
        task_kind: The kind of model, such as `"ForImageClassification"`, whose `classifier` the head is; `None` if there is none.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    per_text: ClassVar[tuple[str, ...]] = ()
    per_token: ClassVar[tuple[str, ...]] = ()
    texts: ClassVar[tuple[str, ...]] = ()
    fuses: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ()
    pipeline_task: ClassVar[str | None] = None
    task_kind: ClassVar[str | None] = None

    def make_head(self, config: Any, model: nn.Module) -> nn.Module:
        """
        Return the new head for a base model of `config`.

        Raises:
            ValueError: If a model of `config` cannot serve this objective.
        """
        raise NotImplementedError

    def is_asked(self, batch: dict[str, torch.Tensor]) -> bool:
        """Return whether the batch asks for this objective."""
        return any(name in batch for name in self.inputs)

    def own_rows(self, batch: dict[str, torch.Tensor]) -> tuple[torch.LongTensor | None, torch.LongTensor | None]:
        """Return the texts and the images of the rows that serve it (R,), as `Pass` takes them; `None` means those of all rows."""
        shared = batch.get("image_index")
        return batch.get(f"{self.name}_rows"), batch.get(f"{self.name}_image_index", shared)

    def covered(
        self, model: nn.Module, batch: dict[str, torch.Tensor], pixels: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return the images (B, C, H, W) of a batch as the base model is to see them; by default as they are."""
        return pixels

    def passes(self, batch: dict[str, torch.Tensor]) -> list[Pass]:
        """Return the pairs to fuse. Passes of several objectives over the same pairs are fused once."""
        return []

    def score(self, head: nn.Module, step: Step) -> Scores:
        """Return the scores and the loss."""
        raise NotImplementedError

    def count(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | int:
        """Return how many terms the loss of a batch has, a number or a tensor ()."""
        raise NotImplementedError

    def dummy_inputs(self, input_ids: torch.LongTensor, config: Any) -> dict[str, torch.Tensor]:
        """Return inputs for texts (B, T) with an image each, with which every part of it is run, in a model of `config`."""
        raise NotImplementedError


def has_plain_texts(batch: dict[str, torch.Tensor]) -> bool:
    """Return whether a batch has texts as they are and no objective's own inputs: then objectives give scores without labels."""
    return "input_ids" in batch and all(name in SHARED_INPUTS for name in batch)


def register_objective(objective: type[Objective]) -> type[Objective]:
    """Add an objective to those that configurations and `--objectives` can name; a class decorator."""
    OBJECTIVES[objective.name] = objective()
    return objective


def weights_of(objectives: dict[str, float] | list[str] | tuple[str, ...]) -> dict[str, float]:
    """
    Return the weight of each objective that is on. A list of names gives each the weight 1; a weight of 0 leaves one out. They come in the
    order in which they were registered: heads draw their first weights, and optimizers number them, in this order, which files lose.

    Raises:
        ValueError: If a weight is not a number of at least 0, or none is above 0.
    """
    if not isinstance(objectives, dict):
        objectives = dict.fromkeys(objectives, 1.0)
    for name, weight in objectives.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ValueError(f"objectives: expected a weight of at least 0 for {name}, got {weight!r}")
    known = [*OBJECTIVES]
    ordered = sorted(objectives, key=lambda name: known.index(name) if name in OBJECTIVES else len(known))
    weights = {name: float(objectives[name]) for name in ordered if objectives[name]}
    if not weights:
        raise ValueError(
            f"objectives: expected a weight above 0 for at least one objective, got {objectives or 'no objective'}"
        )
    return weights


def require_known(names: Iterable[str]) -> None:
    """Raise `ValueError` if one of `names` is not a registered objective."""
    if unknown := [name for name in names if name not in OBJECTIVES]:
        raise ValueError(f"objectives: unknown {', '.join(unknown)}; expected some of {', '.join(OBJECTIVES)}")


@register_objective
class MaskedLanguageModelling(Objective):
    """
    Predicts masked tokens of a text that sees its image (Devlin et al. 2019, section 3.1).

    Inputs: `mlm_input_ids` (B, T), the corrupted text; `mlm_labels` (B, T), the true tokens where it is corrupted, -100
    elsewhere; `mlm_positions` (M,), the places of the labels in the flattened (B * T) text, optional. They may be padded with
    places whose label is -100. Without them they are searched for, for which a GPU has to wait.

    Each text is read beside the image of its row. If rows have no image, or do not serve it, `mlm_text_index` and `mlm_image_index`
    (P,) are the texts that are read beside an image and their images, and `mlm_alone_index` (A,) the texts that are read alone.

    The scores are those at the positions, (M, vocabulary). The loss is cross-entropy, a term each masked token.
    """

    name = "mlm"
    title = "masked language modelling"
    inputs = (
        "mlm_input_ids", "mlm_labels", "mlm_positions", "mlm_text_index", "mlm_image_index", "mlm_alone_index",
    )  # fmt: skip
    needs = ("mlm_input_ids", "mlm_labels")
    per_token = ("mlm_labels",)
    options = ("tie_word_embeddings",)
    pipeline_task = FILLING

    def make_head(self, config, model):
        return MaskedLMHead(config, model.get_input_embeddings())

    def passes(self, batch):
        paired, alone = batch.get("mlm_text_index"), batch.get("mlm_alone_index")
        passes = []
        if paired is not None or alone is None:
            images = batch.get("mlm_image_index", batch.get("image_index"))
            passes.append(Pass("mlm_input_ids", ("text_states",), paired, images))
        if alone is not None:
            passes.append(Pass("mlm_input_ids", ("text_states",), alone, kind="texts"))
        return passes

    def score(self, head, step):
        labels = step.batch["mlm_labels"].flatten()
        positions = step.batch.get("mlm_positions")
        if positions is None:
            positions = (labels != IGNORED).nonzero().squeeze(1)
        read = [step.batch[name] for name in ("mlm_text_index", "mlm_alone_index") if name in step.batch]
        states = torch.cat([fused.text_states for fused in step.fused]) if read[1:] else step.fused[0].text_states
        places = positions
        if read:
            # Of each row, its place among the texts that were read; a row that was not has no label.
            rows, length = torch.cat(read), step.batch["mlm_labels"].shape[1]
            place = rows.new_zeros(step.batch["mlm_labels"].shape[0])
            place = place.index_copy(0, rows, torch.arange(rows.shape[0], device=rows.device))
            places = place.index_select(0, positions // length) * length + positions % length
        logits = head(states.flatten(0, 1).index_select(0, places))
        loss = nn.functional.cross_entropy(logits.float(), labels.index_select(0, positions), reduction="sum")
        return Scores(logits, loss)

    def count(self, batch):
        return (batch["mlm_labels"] != IGNORED).sum()

    def dummy_inputs(self, input_ids, config):
        places = torch.arange(input_ids.numel(), device=input_ids.device)
        return {"mlm_input_ids": input_ids, "mlm_labels": input_ids, "mlm_positions": places}


@register_objective
class ImageTextMatching(Objective):
    """
    Tells whether text and image belong together.

    Inputs: `itm_labels` (B,), 1 if text and image match, 0 if not; `itm_image_index` (B,), the image that a text is paired with,
    its own by default. A row may have K pairs: then these are (B, K), `itm_text_index` (B, K) has the text of each pair, and the
    label of a pair that does not count is -100. Both indices are of the batch, also if not all rows serve it.

    The text is the clean one, `input_ids`, or, in a batch without it, the corrupted one of masked language modelling. It is the
    corrupted one, too, if there are `itm_false_rows` (F,), the places of the pairs of a text and a foreign image in the flattened
    pairs, and `itm_pair_index`, of the shape of the labels, the place of each pair behind all B pairs of text and own image: they
    say which pairs are distinct, so that the others are fused once for both objectives that read them.

    The scores (pairs, 2) are those of "no match" and "match". The loss is cross-entropy, a term each pair.
    """

    name = "itm"
    title = "image-text matching"
    inputs = ("itm_labels", "itm_image_index", "itm_text_index", "itm_false_rows", "itm_pair_index")
    per_text = ("itm_labels", "itm_image_index", "itm_text_index", "itm_pair_index")
    pipeline_task = MATCHING

    def make_head(self, config, model=None):
        return ScoreLinear(config.pooled_size, 2)

    def is_asked(self, batch):
        return super().is_asked(batch) or has_plain_texts(batch)

    def passes(self, batch):
        shared = batch.get("image_index")
        # Of batches without an index, `shared` itself: the same tensor means the same pairs.
        paired = batch["itm_image_index"].flatten() if "itm_image_index" in batch else shared
        texts = batch["itm_text_index"].flatten() if "itm_text_index" in batch else batch.get("itm_rows")
        if "itm_false_rows" not in batch:
            text = "mlm_input_ids" if "mlm_input_ids" in batch and "input_ids" not in batch else "input_ids"
            return [Pass(text, ("pooled",), texts, paired)]
        rows = batch["itm_false_rows"]
        false_texts = rows if texts is None else texts.index_select(0, rows)
        # The pairs of masked language modelling, which are those of the rows that serve this.
        own = batch.get("mlm_text_index"), batch.get("mlm_image_index", shared)
        return [
            Pass("mlm_input_ids", ("pooled",), *own),
            Pass("mlm_input_ids", ("pooled",), false_texts, paired.index_select(0, rows)),
        ]

    def score(self, head, step):
        pooled = [fused.pooled for fused in step.fused]
        if len(pooled) == 1:
            logits = head(pooled[0])
        else:
            logits = head(torch.cat(pooled).index_select(0, step.batch["itm_pair_index"].flatten()))
        labels = step.batch.get("itm_labels")
        if labels is None:
            return Scores(logits)
        return Scores(logits, nn.functional.cross_entropy(logits.float(), labels.flatten(), reduction="sum"))

    def count(self, batch):
        labels = batch["itm_labels"]
        return labels.shape[0] if labels.dim() == 1 else (labels != IGNORED).sum()

    def dummy_inputs(self, input_ids, config):
        return {"input_ids": input_ids, "itm_labels": input_ids.new_zeros(len(input_ids))}


@register_objective
class Contrastive(Objective):
    """
    Brings the vectors of a text alone and of its image alone together (Radford et al. 2021, section 2.3). Its head is that of the
    model, if an architecture has one of its own.

    Inputs: the clean text, `input_ids`, and `contrastive_ids` (B,), whole numbers of 64 bits, which rows have in common if they show
    the same image: no false pair is made of them. Without these numbers there is no loss.

    The scores (B, B) are the scaled cosines of each text with the image of each row of this process. The loss is InfoNCE, a
    term each row: the mean of the cross-entropies of its image among the images, and of its text among the texts, of all
    processes. With `config.contrastive_loss` "sigmoid" a row's term is the sum of the binary cross-entropies of its text with
    each of these images.
    """

    name = "contrastive"
    title = "image-text contrastive"
    inputs = ("contrastive_ids",)
    needs = ("input_ids",)
    per_text = ("contrastive_ids",)
    texts = ("input_ids",)
    fuses = False
    options = ("contrastive_size", "contrastive_loss")

    def make_head(self, config, model=None):
        config.contrastive_size = config.contrastive_size or CONTRASTIVE_SIZE
        return ContrastiveHead(config)

    def score(self, head, step):
        rows, own, ids = *self.own_rows(step.batch), step.batch.get("contrastive_ids")
        texts = step.texts["input_ids"] if rows is None else step.texts["input_ids"].rows(rows)
        text = head.text_vectors(step.model, texts)
        if rows is None:
            image = head.image_vectors(step.model, step.image)
            image = image if own is None else image.index_select(0, own)
        else:
            # Other images of the batch, such as those of other objectives, have no vectors.
            image = head.image_vectors(step.model, step.image.rows(own))
        if ids is None:
            return Scores(head.logits(text, image))
        rows = torch.arange(ids.shape[0], device=ids.device)
        vectors = text, image, rows, rows, ids, ids.unsqueeze(1)
        loss, logits = head.loss(*vectors, of_all_processes=step.model.training)
        return Scores(logits, loss)

    def is_asked(self, batch):
        return super().is_asked(batch) or has_plain_texts(batch)

    def count(self, batch):
        return batch["contrastive_ids"].shape[0]

    def dummy_inputs(self, input_ids, config):
        ids = torch.arange(len(input_ids), device=input_ids.device)
        return {"input_ids": input_ids, "contrastive_ids": ids}
