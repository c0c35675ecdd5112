"""Pretraining on images and texts of several kinds, with any sum of objectives."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import ConcatDataset
from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from ..processing.collators import PretrainingCollator
from ..processing.masking import IGNORED
from ..processing.objectives import OBJECTIVE_DATA
from ..processing.processing_renaissance import RenaissanceProcessor
from .ablation import COLUMNS, AblatingCollator, objective_of
from .data.documents import DocumentWindows
from .data.served import needs_of
from .metrics import with_scores
from .option_fields import options_of, with_options
from .pretraining_arguments import PretrainingArguments
from .pretraining_data import PretrainingData


logger = logging.getLogger(__name__)

#: What covers images if it is not known how they are normalised.
GREY = (127.5, 127.5, 127.5)


class Pretraining(PretrainingData):
    """Pretraining with any sum of objectives."""

    kind = "ForPreTraining"
    best_metric = "eval_loss"
    metric_names = ("loss", "*_loss", "*_accuracy")

    def __init__(self, data_arguments: PretrainingArguments, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        #: The weights of the objectives' losses, from when the model is known.
        self.weights: dict[str, float] = {}

    @classmethod
    def argument_class(cls) -> type:
        """Return `PretrainingArguments` with the options of all objectives that are registered by now."""
        return with_options([each for kind in OBJECTIVE_DATA.values() for each in options_of(kind)])(
            PretrainingArguments
        )

    def collator(
        self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int
    ) -> Callable[[list[dict]], dict]:
        for objective in self.objectives:
            # With the size of images that follows from the model, and the classes that follow from the data.
            objective.prepare(processor)
            objective.fit(model.config)
        fills_images = not any(isinstance(module, _BatchNorm) for module in model.modules())
        collator = PretrainingCollator(processor, self.objectives, self.draw_negative, seed, fills_images)
        if self.data_arguments.ablation is not None:
            colour, _ = processor.pixel_statistics or (GREY, None)
            draw = functools.partial(self.draw_other, self.eval_data, objective=self.objectives[0].name)
            return AblatingCollator(collator, self.data_arguments.ablation, colour, draw, seed, self.max_image_pixels)
        return DocumentWindows(collator, processor, seed) if self.has_documents else collator

    def draw_negative(self, row: dict, rng: np.random.Generator) -> dict:
        """Return a row of the training data with another image than `row`; raise `ValueError` if there is hardly any."""
        drawing = next(each.name for each in self.objectives if each.draws_images)
        return self.draw_other(self.train_data, row, rng, drawing)

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        self.weights = config.objectives
        self.metric_names = ("loss", *(f"{name}_*" for name in self.weights))
        self.objectives = self.data_arguments.objective_data(self.weights)
        self.objective_names, self.config = tuple(self.weights), config
        self.rows, self.rows_a_step = args.train_batch_size, args.rows_a_step
        self.shares_weights = args.world_size > 1 and (is_deepspeed_zero3_enabled() or bool(args.fsdp))
        self.data_arguments.served_objectives(self.objective_names)
        if not args.do_train:
            self.refuse_new_heads()
        if self.data_arguments.ablation:
            self.check_ablation(args)
        for objective in self.objectives:
            objective.check_beside(self.weights)
            objective.prepare(processor)
            objective.fit(config)
        # Images are drawn as the data has them: beside augmented true ones a model could tell false ones by that.
        drawing = [objective.name for objective in self.objectives if objective.draws_images]
        self.augmentable = () if drawing or not all(each.augmentable for each in self.objectives) else ("image",)
        if self.caches_features and (wrong := [each.name for each in self.objectives if not each.cacheable]):
            raise ValueError(
                f"objectives: {', '.join(wrong)} reads parts of images, which a cache lacks; leave out cache_frozen_features and cache_pixels"
            )
        captions = self.data_arguments.captions_per_image
        if self.data_arguments.streaming and args.do_train:
            self.check_stream(args, drawing)
        if args.train_sampling_strategy == "sequential" and captions > 1:
            raise ValueError(
                "train_sampling_strategy: sequential leaves rows where they are, and captions_per_image brings those of an image "
                "together; leave out one of them"
            )
        if not args.do_train and (drawing or captions > 1):
            logger.warning("captions_per_image, false images of all data: without effect, for nothing is trained")
        if args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor: without effect on the pretraining objectives; leave it out")
        if args.accelerator_config.split_batches:
            fault = "split_batches cuts batches in pieces, which tears image-text pairs apart"
            raise ValueError(f"accelerator_config: {fault}; leave it out")
        for objective in self.objectives:
            objective.check_rows("per_device_train_batch_size", args.per_device_train_batch_size, captions)
            objective.check_rows("per_device_eval_batch_size", args.per_device_eval_batch_size, 1)

    def refuse_new_heads(self) -> None:
        """Raise `ValueError` if a checkpoint has not been trained with all objectives that it is evaluated on."""
        trained = self.weights if self.trained_objectives is None else self.trained_objectives
        if new := [name for name in self.weights if name not in trained]:
            raise ValueError(
                f"objectives: the checkpoint was trained with {', '.join(sorted(trained))}, and a new head for {', '.join(new)} would say things "
                f"at random; leave out {', '.join(new)}, or add --do_train"
            )

    def check_ablation(self, args: TrainingArguments) -> None:
        """Leave the objective that an ablation is about; raise `ValueError` if the model, or the run, has none of it."""
        ablation = self.data_arguments.ablation
        if args.do_train:
            raise ValueError(f"ablation: {ablation} is of the evaluation of a trained model; expected do_train false")
        if self.caches_features:
            raise ValueError(
                "ablation: without effect on images that are cached; leave out cache_frozen_features and cache_pixels"
            )
        # So that its rows are known to be those of the evaluation without it.
        self.columns_beside = COLUMNS.get(ablation, ())
        wanted = objective_of(ablation, self.weights)
        self.weights = {wanted: self.weights[wanted]}
        self.objectives = [each for each in self.objectives if each.name == wanted]
        self.metric_names = ("loss", f"{wanted}_*")

    def check_stream(self, args: TrainingArguments, drawing: list[str]) -> None:
        """Raise `ValueError` if the options of the run do not fit data that is streamed; `drawing` objectives draw from all data."""
        if args.max_steps <= 0:
            raise ValueError("max_steps: needed with streaming, for a stream has no end")
        if (strategy := args.train_sampling_strategy) != "random":
            raise ValueError(f"train_sampling_strategy: {strategy} is without effect on a stream; leave it out")
        if unserved := [each for each in self.objectives if not {"text", "image"}.issuperset(each.columns)]:
            raise ValueError(
                f"streaming: rows of a stream are images with captions, and {needs_of(unserved)}; leave it out"
            )
        if drawing:
            raise ValueError(
                f"streaming: random rows, from which {', '.join(drawing)} is to draw false images, cannot be had of a stream"
            )

    def label_names(self, model: PreTrainedModel) -> list[str]:
        # Which every batch has, whatever objectives its rows serve.
        return ["attention_mask"]

    def collect(self, logits: dict[str, torch.Tensor], inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return what the objectives sum over each row (B, K), side by side, each with whether the row serves it, and the labels of each
        that has any. Metrics over all rows are then exact whatever the batches were, and the logits need not be gathered.
        """
        found = [objective.collected(logits.get(objective.name), inputs) for objective in self.objectives]
        labels = tuple(given for _, given in found if given is not None)
        # Without labels Trainer would ask for no metrics.
        return (whole := torch.cat([sums for sums, _ in found], dim=1)), labels or (whole[:, 0],)

    def metrics(self, prediction: EvalPrediction, data: ConcatDataset) -> dict[str, float]:
        """
        Return the losses and accuracies of all objectives, each over all samples that serve it once, with the baselines of accuracies
        and the number of their labels; the weighted sum of the losses; and the number of rows. An objective that no row serves has none.
        """
        rows, totals = len(prediction.predictions), iter(prediction.predictions.sum(axis=0, dtype=np.float64).tolist())
        labels, loss, figures = iter(prediction.label_ids), 0.0, {}
        for objective in self.objectives:
            sums, served = {name: next(totals) for name in objective.sums}, round(next(totals))
            given = next(labels) if objective.label_input else None
            if not served:
                continue
            found = objective.metrics(sums, served)
            loss += self.weights[objective.name] * found["loss"]
            if objective.label_input:
                counts = np.unique(given[given != IGNORED], return_counts=True)[1]
                found |= {"majority_accuracy": float(counts.max() / counts.sum())}
                found = with_scores(found, int(counts.sum())) | {"labels": int(counts.sum())}
            else:
                found = with_scores(found, served)
            figures |= {f"{objective.name}_{key}": value for key, value in found.items()}
        return {"loss": loss} | figures | {"rows": rows}
