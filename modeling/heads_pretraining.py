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
from .objectives import IGNORED, OBJECTIVES, Objective, Pass, Step, require_known, weights_of
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


#: The inputs of a step, beside images, that are no objective's own.
SHARED_INPUTS = ("input_ids", "attention_mask", "image_index")


class PreTrainingHead(FeaturesOfEither, VocabularyHead):
    """
    Any sum of objectives (`config.objectives`), each with its weight and its head. A step encodes each image once, each text
    once, all texts in one call, and fuses each distinct pair once, all pairs in one call.
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
        """What the model says: that of the objective of matching, if it has it, or else of masked language modelling."""
        objectives = self.config.objectives
        return MATCHING if "itm" in objectives else FILLING if "mlm" in objectives else None

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
                self.add_module(f"{name}_head", objective.make_head(config, self.get_input_embeddings()))

    def head_of(self, name: str) -> nn.Module:
        """Return the head of an objective: that of the base model, if it has one of its own."""
        return getattr(self.model, f"{name}_head", None) or getattr(self, f"{name}_head")

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        inputs = super().dummy_inputs
        texts = inputs.pop("input_ids")
        for objective in self.objectives.values():
            inputs |= objective.dummy_inputs(texts)
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
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **inputs: torch.Tensor | None,
    ) -> PreTrainingOutput:
        """
        Return the losses and scores of the objectives that the batch has inputs for.

        Args:
            input_ids, attention_mask, pixel_values, pixel_mask, image_features:
                As in `HeadModel`. `input_ids` is the clean text; the mask is that of all texts.
            image_index (`torch.LongTensor` of shape `(batch,)`): The image of each text, if texts share images; that of its row by
                default.
            num_items_in_batch (`dict` of `torch.Tensor`): How many terms the loss of each objective has in the whole step, over
                accumulated batches and processes; those of this batch by default.
            output_attentions, output_hidden_states (`bool`): As in `HeadModel`; a row for each distinct pair.
            inputs: Those of the objectives, whose names begin with theirs (`objectives.py`).

        Raises:
            ValueError: If an input is missing, has a shape that does not fit, or belongs to no objective of this model.
        """
        shared = dict(zip(SHARED_INPUTS, (input_ids, attention_mask, image_index), strict=True))
        check_other_inputs(**{name: inputs.pop(name, None) for name in ("token_type_ids", "inputs_embeds")})
        batch = {name: value for name, value in (shared | inputs).items() if value is not None}
        if not isinstance(num_items_in_batch, (dict, NoneType)):
            raise ValueError(f"num_items_in_batch: expected what loss_counts returns, got {num_items_in_batch!r}")
        images = pixel_values if image_features is None else image_features
        passes = self.asked(batch, images)
        image = self.model.encode_image(pixel_values, pixel_mask, image_features)
        options = self.fuse_options(output_attentions, output_hidden_states)
        texts, fused, whole = self.encode_and_fuse(passes, batch, image, options)
        scores = {
            name: self.objectives[name].score(self.head_of(name), Step(batch, pairs, texts, image, self.model))
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
        if unknown := [name for name in found if name not in (*SHARED_INPUTS, *known)]:
            raise ValueError(f"{', '.join(unknown)}: no input of this model's objectives ({own})")
        if images is None:
            raise ValueError("pixel_values: expected one image a row, got none")
        asked = {
            name: objective.passes(batch) for name, objective in self.objectives.items() if objective.is_asked(batch)
        }
        for name, passes in asked.items():
            needed = dict.fromkeys([*self.objectives[name].needs, *(pairs.text for pairs in passes)])
            if missing := [name for name in needed if name not in batch]:
                raise ValueError(f"{name}: expected the input {', '.join(missing)} too, got {', '.join(found)}")
        if not asked:
            raise ValueError(f"expected inputs of at least one objective ({own}), got {', '.join(found) or 'none'}")
        per_token = [name for objective in self.objectives.values() for name in objective.per_token]
        texts = [name for name in batch if name.endswith(("input_ids", "attention_mask")) or name in per_token]
        shapes = {name: tuple(batch[name].shape) for name in texts}
        # Sizes of a graph (torch.export) can be compared and not hashed.
        if any(shape != first for first, shape in itertools.pairwise(shapes.values())):
            raise ValueError(f"expected texts, their mask and their labels of one shape, got {shapes}")
        num_images = images.shape[0]
        count = next((shape[0] for shape in shapes.values()), num_images)
        if "image_index" not in batch and count != num_images:
            raise ValueError(
                f"pixel_values: expected an image a text, got {num_images} images and {count} texts; image_index says which "
                "image a text belongs to if they share them, and input_ids.expand(len(images), -1) repeats one text"
            )
        for name in ("image_index", *(name for each in self.objectives.values() for name in each.per_text)):
            if name in batch and batch[name].shape[0] != count:
                raise ValueError(f"{name}: expected an entry for each of {count} texts, got {batch[name].shape[0]}")
        return asked

    def encode_and_fuse(
        self,
        passes: dict[str, list[Pass]],
        batch: dict[str, torch.Tensor],
        image: EncodedImage,
        options: dict[str, bool],
    ) -> tuple[dict[str, EncodedText], dict[str, list[FusedOutput]], FusedOutput | None]:
        """
        Encode all texts in one call and fuse all distinct pairs in one call.

        Returns:
            The texts by the name of their input, what the pairs of each objective's passes were fused to, and the whole of it;
            `None` if no objective wants pairs.
        """
        # Those that are pooled come last, so that they lie together.
        reads: dict[tuple, set[str]] = {}
        for own in (own for of_objective in passes.values() for own in of_objective):
            reads.setdefault(own.pairs, set()).update(own.reads)
        groups = sorted(reads, key=lambda pairs: "pooled" in reads[pairs])
        distinct = {own.pairs: own for of_objective in passes.values() for own in of_objective}
        alone = [text for name in passes for text in self.objectives[name].texts]
        names = list(dict.fromkeys([*(pairs[0] for pairs in groups), *alone]))
        stacked, texts = self.encode_texts(names, batch) if names else (None, {})
        if not groups:
            return texts, {name: [] for name in passes}, None
        size = texts[names[0]].states.shape[0]
        counts = [
            size if distinct[pairs].text_index is None else distinct[pairs].text_index.shape[0] for pairs in groups
        ]
        start = dict(zip(groups, itertools.accumulate(counts, initial=0), strict=False))
        first = next((start[pairs] for pairs in groups if "pooled" in reads[pairs]), 0)
        text, image = stack_pairs([distinct[pairs] for pairs in groups], names, stacked, size, image)
        whole = self.model.fuse(text, image, reads=tuple(set.union(*reads.values())), pooled_from=first, **options)
        count = dict(zip(groups, counts, strict=True))
        fused = {
            name: [part_of(whole, start[own.pairs], count[own.pairs], first) for own in of_objective]
            for name, of_objective in passes.items()
        }
        return texts, fused, whole

    def encode_texts(
        self, names: list[str], batch: dict[str, torch.Tensor]
    ) -> tuple[EncodedText, dict[str, EncodedText]]:
        """Encode the texts of several inputs in one call; return all of them, and those of each input by its name."""
        ids = [batch[name] for name in names]
        mask = batch.get("attention_mask")
        stacked = self.model.encode_text(torch.cat(ids), None if mask is None else mask.repeat(len(ids), 1))
        size = ids[0].shape[0]
        return stacked, {name: stacked.slice(size * number, size) for number, name in enumerate(names)}


def stack_pairs(
    groups: list[Pass], names: list[str], stacked: EncodedText, size: int, image: EncodedImage
) -> tuple[EncodedText, EncodedImage]:
    """
    Return the texts and the images of all pairs, one group after the other; rows are copied only if they have to be.

    Args:
        groups: The pairs.
        names: The inputs whose texts are stacked, `size` of each.
        stacked: The texts.
        size: Number of texts of an input.
        image: The images.
    """
    rows = torch.arange(max(size, image.states.shape[0]), device=image.states.device)
    if [(group.text, group.text_index) for group in groups] == [(name, None) for name in names[: len(groups)]]:
        text = stacked.slice(0, size * len(groups))
    else:
        chosen = [rows[:size] if group.text_index is None else group.text_index for group in groups]
        shifts = [size * names.index(group.text) for group in groups]
        text = stacked.rows(torch.cat([index + shift for index, shift in zip(chosen, shifts, strict=True)]))
    if len(groups) == 1 and groups[0].image_index is None:
        return text, image
    shown = [rows[: image.states.shape[0]] if group.image_index is None else group.image_index for group in groups]
    return text, image.rows(torch.cat(shown))


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
