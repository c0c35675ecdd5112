"""The heads of pretraining: any sum of objectives, and masked language modelling alone."""

import itertools
from collections.abc import Iterable
from types import NoneType

import torch
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import can_return_tuple

from .answers import FILLING, MATCHING
from .encoder_forward import check_other_inputs
from .features import FeaturesOfEither
from .heads import HeadModel, PairHead, mean_loss
from .layers import MaskedLMHead
from .objectives import IGNORED, KINDS, OBJECTIVES, SHARED_INPUTS, Objective, Pass, Step, require_known, weights_of

# Their import registers them: beside a checkpoint nothing else does.
from .objectives_labelled import Grounding, ImageClassification, VisualQuestionAnswering  # noqa: F401 - registers them
from .objectives_masked_images import MaskedImageModelling  # noqa: F401 - registers it
from .outputs import EncodedImage, EncodedText, FusedOutput, PreTrainingOutput


class VocabularyHead(HeadModel):
    """A head with a projection to the vocabulary, which may be tied to the word embeddings."""

    options = ("tie_word_embeddings",)

    def post_init(self) -> None:
        # Before weights are tied, which `post_init` does.
        embeddings = self.get_input_embeddings()
        source = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {
            f"{name}.decoder.weight": f"{source}.weight"
            for name, module in self.named_children()
            if isinstance(module, MaskedLMHead)
        }
        super().post_init()

    def vocabulary_head(self) -> MaskedLMHead | None:
        """Return the module that scores the vocabulary, if there is one."""
        return next((module for module in self.children() if isinstance(module, MaskedLMHead)), None)

    def get_output_embeddings(self) -> nn.Module | None:
        head = self.vocabulary_head()
        return head and head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.vocabulary_head().decoder = new_embeddings


class PreTrainingHead(FeaturesOfEither, VocabularyHead):
    """
    Any sum of objectives (`config.objectives`), each with its weight and its head. A step encodes each image once, each text
    once, all texts in one call, and fuses each distinct pair once, all pairs in one call. Texts that are read alone take one more call,
    and so do images.
    """

    options = ("objectives",)

    @classmethod
    def without_fusing(cls) -> type[HeadModel]:
        """This one: the configuration refuses objectives that fuse."""
        return cls

    @classmethod
    def options_with(cls, objectives: Iterable[str]) -> tuple[str, ...]:
        require_known(objectives)
        return *cls.options, *(option for name in objectives for option in OBJECTIVES[name].options)

    @property
    def pipeline_task(self) -> str | None:
        """What the model says: how well texts fit images, if an objective does, or else which words are missing."""
        said = {objective.pipeline_task for objective in self.objectives.values()}
        return next((task for task in (MATCHING, FILLING) if task in said), None)

    @property
    def objectives(self) -> dict[str, Objective]:
        """The objectives by name."""
        return {name: OBJECTIVES[name] for name in self.config.objectives}

    def add_head(self, config) -> None:
        # A checkpoint may be loaded with other objectives than its own, which its configuration has not seen.
        config.objectives = weights_of(config.objectives)
        require_known(config.objectives)
        config.check_objectives()
        for name, objective in self.objectives.items():
            if not hasattr(self.model, f"{name}_head"):
                self.add_module(f"{name}_head", objective.make_head(config, self.model))

    def head_of(self, name: str) -> nn.Module:
        """Return the head of an objective: that of the base model, if it has one of its own."""
        return getattr(self.model, f"{name}_head", None) or getattr(self, f"{name}_head")

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        inputs = super().dummy_inputs
        texts = inputs.pop("input_ids")
        for objective in self.objectives.values():
            inputs |= objective.dummy_inputs(texts, self.config)
        return inputs

    def loss_counts(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | int]:
        """Return how many terms the loss of each objective has in a batch: masked tokens, pairs, ..."""
        return {name: each.count(batch) for name, each in self.objectives.items() if each.is_asked(batch)}

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_index: torch.LongTensor | None = None,
        text_rows: torch.LongTensor | None = None,
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **inputs: torch.Tensor | None,
    ) -> PreTrainingOutput:
        """
        Return the losses and scores of the objectives that the batch has inputs for.

        Args:
            input_ids, attention_mask, pixel_values, pixel_mask, image_features:
                As in `HeadModel`. `input_ids` is the clean text; the mask is that of all texts. A batch that only has texts to read alone
                needs no images.
            image_index (`torch.LongTensor` of shape `(batch,)`): The image of each text, if texts share images; that of its row by
                default.
            text_rows (`torch.LongTensor` of shape `(rows,)`): The rows whose clean text is read; all by default.
            num_items_in_batch (`dict` of `torch.Tensor`): How many terms the loss of each objective has in the whole step, over
                accumulated batches and processes; those of this batch by default.
            output_attentions, output_hidden_states (`bool`): As in `HeadModel`; a row for each distinct pair, or, if there is
                none, for each text or image that is read alone. None of the contrastive objective alone, which fuses nothing.
            inputs: Those of the objectives, whose names begin with theirs (`objectives.py`).

        Raises:
            ValueError: If an input is missing, has a shape that does not fit, or belongs to no objective of this model.
        """
        shared = dict(zip(SHARED_INPUTS, (input_ids, attention_mask, image_index, text_rows), strict=True))
        check_other_inputs(**{name: inputs.pop(name, None) for name in ("token_type_ids", "inputs_embeds")})
        batch = {name: value for name, value in (shared | inputs).items() if value is not None}
        if not isinstance(num_items_in_batch, (dict, NoneType)):
            raise ValueError(f"num_items_in_batch: expected what loss_counts returns, got {num_items_in_batch!r}")
        images = pixel_values if image_features is None else image_features
        passes = self.asked(batch, images)
        shown = pixel_values
        for name in passes:
            shown = self.objectives[name].covered(self.model, batch, shown)
        image = None if images is None else self.model.encode_image(shown, pixel_mask, image_features)
        options = self.fuse_options(output_attentions, output_hidden_states)
        texts, fused, whole = self.encode_and_fuse(passes, batch, image, options)
        scores = {
            name: self.objectives[name].score(
                self.head_of(name), Step(batch, pairs, texts, image, self.model, pixel_values)
            )
            for name, pairs in fused.items()
        }
        losses = {
            name: mean_loss(found.loss, self.objectives[name].count(batch), (num_items_in_batch or {}).get(name))
            for name, found in scores.items()
            if found.loss is not None
        }
        weights = self.config.objectives
        return PreTrainingOutput(
            loss=sum(weights[name] * loss for name, loss in losses.items()) if losses else None,
            losses=losses or None,
            logits={name: found.logits for name, found in scores.items()},
            hidden_states=whole and whole.hidden_states,
            attentions=whole and whole.attentions,
        )

    def asked(self, batch: dict[str, torch.Tensor], images: torch.Tensor | None) -> dict[str, list[Pass]]:
        """Return the passes of the objectives that a batch asks for; raise `ValueError` if it is not what they need."""
        found, own = sorted(batch), ", ".join(self.config.objectives)
        known = {name for objective in self.objectives.values() for name in (*objective.inputs, *objective.needs)}
        known |= {f"{name}_{of_rows}" for name in self.objectives for of_rows in ("rows", "image_index")}
        if unknown := [name for name in found if name not in (*SHARED_INPUTS, *known)]:
            raise ValueError(f"{', '.join(unknown)}: no input of this model's objectives ({own})")
        asked = {
            name: objective.passes(batch) for name, objective in self.objectives.items() if objective.is_asked(batch)
        }
        if images is None and not (asked and all(map(reads_texts_alone, asked.values()))):
            raise ValueError("pixel_values: expected one image a row, got none")
        for name, passes in asked.items():
            texts = (pairs.text for pairs in passes if pairs.text)
            needed = dict.fromkeys([*self.objectives[name].needs, *texts])
            if missing := [name for name in needed if name not in batch]:
                raise ValueError(f"{name}: expected the input {', '.join(missing)} too, got {', '.join(found)}")
        if not asked:
            raise ValueError(f"expected inputs of at least one objective ({own}), got {', '.join(found) or 'none'}")
        self.check_shapes(asked, batch, 0 if images is None else images.shape[0])
        return asked

    def check_shapes(self, asked: dict[str, list[Pass]], batch: dict[str, torch.Tensor], num_images: int) -> None:
        """Raise `ValueError` if inputs of objectives that are `asked` for do not fit each other or the number of images."""
        per_token = [name for objective in self.objectives.values() for name in objective.per_token]
        texts = [name for name in batch if name.endswith(("input_ids", "attention_mask")) or name in per_token]
        shapes = {name: tuple(batch[name].shape) for name in texts}
        # Sizes of a graph (torch.export) can be compared and not hashed.
        if any(shape != first for first, shape in itertools.pairwise(shapes.values())):
            raise ValueError(f"expected texts, their mask and their labels of one shape, got {shapes}")
        count = next((shape[0] for shape in shapes.values()), num_images)
        by_row = any(pairs.kind == "pairs" and pairs.image_index is None for pairs in itertools.chain(*asked.values()))
        by_row |= any(self.objectives[name].texts and f"{name}_image_index" not in batch for name in asked)
        if by_row and "image_index" not in batch and count != num_images:
            raise ValueError(
                f"pixel_values: expected an image a text, got {num_images} images and {count} texts; image_index says which "
                "image a text belongs to if they share them, and input_ids.expand(len(images), -1) repeats one text"
            )
        per_text = {"image_index": count}
        for objective in self.objectives.values():
            rows = batch.get(f"{objective.name}_rows")
            per_text |= dict.fromkeys(objective.per_text, count if rows is None else rows.shape[0])
        for name, expected in per_text.items():
            if name in batch and batch[name].shape[0] != expected:
                raise ValueError(f"{name}: expected an entry for each of {expected} texts, got {batch[name].shape[0]}")

    def encode_and_fuse(
        self,
        passes: dict[str, list[Pass]],
        batch: dict[str, torch.Tensor],
        image: EncodedImage | None,
        options: dict[str, bool],
    ) -> tuple[dict[str, EncodedText], dict[str, list[FusedOutput]], FusedOutput | None]:
        """
        Encode all texts in one call and fuse all distinct pairs in one call, all texts alone in another, and all images alone.

        Returns:
            The texts by the name of their input, what the pairs of each objective's passes were fused to, and the whole of the pairs,
            or else of the texts or images alone; `None` if no objective wants any.
        """
        reads: dict[tuple, set[str]] = {}
        for own in itertools.chain(*passes.values()):
            reads.setdefault(own.pairs, set()).update(own.reads)
        distinct = {own.pairs: own for own in itertools.chain(*passes.values())}
        # Those that are pooled come last among their kind, so that they lie together.
        order = sorted(reads, key=lambda pairs: (KINDS.index(distinct[pairs].kind), "pooled" in reads[pairs]))
        alone = [text for name in passes for text in self.objectives[name].texts]
        names = list(dict.fromkeys([*(distinct[pairs].text for pairs in order if distinct[pairs].text), *alone]))
        stacked, texts = self.encode_texts(names, batch) if names else (None, {})
        fused, whole = {}, None
        for _, of_kind in itertools.groupby(order, key=lambda pairs: distinct[pairs].kind):
            groups = {pairs: distinct[pairs] for pairs in of_kind}
            text, images = stack_texts([*groups.values()], names, stacked), stack_images([*groups.values()], image)
            size = texts[names[0]].states.shape[0] if names else 0
            counts = [group.count(size, 0 if image is None else image.states.shape[0]) for group in groups.values()]
            starts = dict(zip(groups, itertools.accumulate(counts, initial=0), strict=False))
            first = next((starts[pairs] for pairs in groups if "pooled" in reads[pairs]), 0)
            wanted = tuple(set.union(*(reads[pairs] for pairs in groups)))
            found = self.model.fuse(text, images, reads=wanted, pooled_from=first, **options)
            for pairs, count in zip(groups, counts, strict=True):
                fused[pairs] = part_of(found, starts[pairs], count, first)
            whole = found if whole is None else whole
        return texts, {name: [fused[own.pairs] for own in of_each] for name, of_each in passes.items()}, whole

    def encode_texts(
        self, names: list[str], batch: dict[str, torch.Tensor]
    ) -> tuple[EncodedText, dict[str, EncodedText]]:
        """
        Encode the texts of several inputs in one call; return all of them, and those of each input by its name. Of an input of which
        only some rows are read, the others are zero.
        """
        size, device = batch[names[0]].shape[0], batch[names[0]].device
        read = [batch.get(rows_of_text(name)) for name in names]
        mask = batch.get("attention_mask")
        if all(rows is None for rows in read):
            ids, masks = [batch[name] for name in names], None if mask is None else mask.repeat(len(names), 1)
            stacked = self.model.encode_text(torch.cat(ids), masks)
        else:
            rows = [torch.arange(size, device=device) if rows is None else rows for rows in read]
            ids = torch.cat([batch[name].index_select(0, index) for name, index in zip(names, rows, strict=True)])
            encoded = self.model.encode_text(ids, None if mask is None else mask.index_select(0, torch.cat(rows)))
            places = torch.cat([index + size * number for number, index in enumerate(rows)])
            stacked = encoded.each(
                lambda values: values.new_zeros(size * len(names), *values.shape[1:]).index_copy(0, places, values)
            )
        return stacked, {name: stacked.slice(size * number, size) for number, name in enumerate(names)}


def reads_texts_alone(passes: list[Pass]) -> bool:
    """Return whether an objective with these passes needs no image. One without passes reads streams, that of images too."""
    return bool(passes) and all(own.kind == "texts" for own in passes)


def rows_of_text(name: str) -> str:
    """Return the name of the input with the rows whose text is read, of an input with token ids: those of its objective."""
    return "text_rows" if name == "input_ids" else name.removesuffix("input_ids") + "rows"


def stack_texts(groups: list[Pass], names: list[str], stacked: EncodedText | None) -> EncodedText | None:
    """
    Return the texts of all pairs, one group after the other; rows are copied only if they have to be.

    Args:
        groups: The pairs, all of one kind; `None` is returned for images alone.
        names: The inputs whose texts are stacked, as many of each.
        stacked: The texts.
    """
    if groups[0].kind == "images":
        return None
    size = stacked.states.shape[0] // len(names)
    if [(group.text, group.text_index) for group in groups] == [(name, None) for name in names[: len(groups)]]:
        return stacked.slice(0, size * len(groups))
    rows = torch.arange(size, device=stacked.states.device)
    chosen = [rows if group.text_index is None else group.text_index for group in groups]
    shifts = [size * names.index(group.text) for group in groups]
    return stacked.rows(torch.cat([index + shift for index, shift in zip(chosen, shifts, strict=True)]))


def stack_images(groups: list[Pass], image: EncodedImage | None) -> EncodedImage | None:
    """Return the images of all pairs likewise; `None` for texts alone."""
    if groups[0].kind == "texts":
        return None
    if len(groups) == 1 and groups[0].image_index is None:
        return image
    rows = torch.arange(image.states.shape[0], device=image.states.device)
    return image.rows(torch.cat([rows if group.image_index is None else group.image_index for group in groups]))


def part_of(whole: FusedOutput, start: int, count: int, first_pooled: int) -> FusedOutput:
    """Return the pairs from `start` on of what all pairs were fused to, of which those from `first_pooled` on are pooled."""

    def rows(values: torch.Tensor | None, shift: int = 0) -> torch.Tensor | None:
        return None if values is None or start < shift else values[start - shift : start - shift + count]

    return FusedOutput(
        text_states=rows(whole.text_states),
        image_states=rows(whole.image_states),
        pooled=rows(whole.pooled, first_pooled),
    )


class MaskedLanguageModellingHead(VocabularyHead, PairHead):
    """
    Masked language modelling alone, with or without images. The logits are scores at every token (batch, tokens,
    vocabulary); the labels are the true tokens (batch, tokens) if the text is masked there, -100 elsewhere.
    """

    output_class = MaskedLMOutput
    pipeline_task = FILLING
    needs = ("text",)
    reads = ("text_states",)

    def add_head(self, config) -> None:
        self.mlm_head = MaskedLMHead(config, self.get_input_embeddings())

    def predict(self, fused: FusedOutput) -> torch.Tensor:
        return self.mlm_head(fused.text_states)

    def loss(self, logits: torch.Tensor, labels: torch.LongTensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
        return total, (labels != IGNORED).sum()
