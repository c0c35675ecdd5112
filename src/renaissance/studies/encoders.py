"""
Small encoders for small studies: a text encoder trained by masked language modelling (Devlin et al. 2019, section 3.1) on captions, and
a vision encoder trained to classify images. They are saved as plain folders of transformers, which plug into any model as those of the
Hub do: freezing and initialisation mean something only with encoders that have learned something.
"""

import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from ..checkpoints import CheckpointArguments, load_config, load_model, load_processor
from ..modeling.encoders import resolve_encoder_config, source_name
from ..processing.decoding import to_rgb
from ..tasks import machine
from ..tasks.data.fingerprint import fingerprint
from ..tasks.data.opening import open_split
from ..tasks.recording import now, samples_seen
from ..tasks.report import metric_values
from ..tasks.run_record import DataSplit, RunRecord


#: The share of tokens that are masked.
MASKED = 0.15


def train_text_encoder(
    source: str, tokenizer: str, model_type: str, overrides: dict[str, Any], args: TrainingArguments
) -> dict[str, float]:
    """
    Train a text encoder on the captions of a data set, and save it with its tokenizer in `args.output_dir`; return the loss and the
    accuracy on masked tokens of its validation split.

    Args:
        source: A prepared data set, or one of the Hub, with a column `captions` or `text`.
        tokenizer: Folder or Hub id of the tokenizer.
        model_type: A type of transformers, such as `bert`.
        overrides: Fields of its configuration.
        args: Those of the training.

    Raises:
        ValueError: If the data or the encoder cannot be used.
    """
    set_seed(args.seed)
    words = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    vocabulary = {"vocab_size": len(words), "pad_token_id": words.pad_token_id}
    model = AutoModelForMaskedLM.from_config(
        resolve_encoder_config(model_type, vocabulary | overrides), trust_remote_code=False
    )
    length = getattr(model.config, "max_position_embeddings", None)
    tables = {split: open_split(source, split) for split in ("train", "validation")}
    splits = {}
    for split, table in tables.items():
        texts = texts_of(table, source)
        tokens = words(texts, truncation=length is not None, max_length=length)
        splits[split] = Dataset.from_dict({"input_ids": tokens["input_ids"]})
    # The same tokens are masked each time that it is evaluated.
    collator = DataCollatorForLanguageModeling(words, mlm_probability=MASKED, seed=args.seed)
    metrics = train(model, splits, collator, args, record_of(source, tables, "fill-mask", args))
    words.save_pretrained(args.output_dir)
    return metrics


def texts_of(data: Dataset, source: str) -> list[str]:
    """Return all captions of a split, or its texts; raise `ValueError` if it has neither."""
    for column in ("captions", "text"):
        if column in data.column_names:
            values = data[column]
            return [text for value in values for text in (value if isinstance(value, list) else [value])]
    raise ValueError(f"dataset {source}: no column captions or text, got {', '.join(data.column_names)}")


def train_vision_encoder(
    source: str, model_type: str, overrides: dict[str, Any], args: TrainingArguments
) -> dict[str, float]:
    """
    Train a vision encoder to classify the images of a data set, and save it with its image processor in `args.output_dir`; return the loss
    and the accuracy on its validation split. `source` has the columns `image` and `label`; else as `train_text_encoder`.
    """
    set_seed(args.seed)
    data = {split: open_split(source, split) for split in ("train", "validation")}
    if missing := [name for name in ("image", "label") if name not in data["train"].column_names]:
        raise ValueError(f"dataset {source}: no column {missing[0]}, got {', '.join(data['train'].column_names)}")
    names = getattr(data["train"].features["label"], "names", None)
    if names is None:
        raise ValueError(f"dataset {source}: label: expected classes with names")
    config = resolve_encoder_config(model_type, {"num_labels": len(names)} | overrides)
    model = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    size = getattr(config, "image_size", 224)
    processor = ViTImageProcessorPil(size={"height": size, "width": size})

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = processor([to_rgb(row["image"]) for row in rows], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}

    metrics = train(model, data, collate, args, record_of(source, data, "image-classification", args))
    processor.save_pretrained(args.output_dir)
    return metrics


def record_of(source: str, tables: dict[str, Dataset], task: str, args: TrainingArguments) -> RunRecord:
    """
    Return the record of a training that is about to begin, on the splits (`tables`) of the data set `source`. `task` is the pipeline that
    answers alike.
    """
    return RunRecord(
        name=Path(args.output_dir).resolve().name,
        run_id=uuid.uuid4().hex,
        did=["train", "eval"],
        task=task,
        script="renaissance encoder",
        started=now(),
        seed=args.seed,
        batch_size=args.train_batch_size * args.world_size,
        learning_rate=args.learning_rate,
        data=[DataSplit(split, [source_name(source)], None, fingerprint(table)) for split, table in tables.items()],
        **machine.facts(args.device, args.world_size),
    )


def train(
    model: PreTrainedModel, data: dict[str, Any], collator: Any, args: TrainingArguments, record: RunRecord
) -> dict[str, float]:
    """
    Train a model with its head, save its encoder without it, with the record of the run, and return the metrics of the validation split.
    """
    trainer = Trainer(
        model,
        args,
        data_collator=collator,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        preprocess_logits_for_metrics=lambda logits, labels: torch.stack(scores(logits, labels), dim=-1),
        compute_metrics=means,
    )
    begun = time.monotonic()
    trainer.train()
    record.train_seconds = round(time.monotonic() - begun, 3)
    metrics = trainer.evaluate()
    model.base_model.save_pretrained(args.output_dir)
    trainer.save_state()
    finish(record, trainer, data, metrics, time.monotonic() - begun)
    record.write(args.output_dir)
    return {name: metrics[f"eval_{name}"] for name in ("loss", "accuracy")}


def finish(
    record: RunRecord, trainer: Trainer, data: dict[str, Any], metrics: dict[str, float], seconds: float
) -> None:
    """Add to a record what is known when training and evaluation have ended, after some `seconds`."""
    model, state = trainer.model, trainer.state
    record.status, record.finished, record.duration_seconds = "finished", now(), round(seconds, 3)
    record.model_class, record.model_type = type(model).__name__, model.config.model_type
    record.parameters = model.num_parameters()
    record.trainable_parameters = model.num_parameters(only_trainable=True)
    record.steps, record.epochs = state.global_step, round(state.epoch or 0.0, 4)
    record.peak_memory_bytes = machine.peak_memory()
    record.peak_gpu_memory_bytes = machine.peak_gpu_memory(trainer.args.device)
    for split in record.data:
        # Of captions, each one.
        split.rows = len(data[split.split])
    record.samples = samples_seen(state, record.of_split("train"), trainer.args, record.batch_size)
    record.metrics = metric_values(metrics, "eval_", "validation")


def scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each label, and whether it has the highest logit; NaN for both where there is no label (-100)."""
    left_out = labels == -100
    losses = cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    hits = (logits.argmax(-1) == labels).float()
    return losses.masked_fill(left_out, torch.nan), hits.masked_fill(left_out, torch.nan)


def means(prediction: EvalPrediction) -> dict[str, float]:
    """Return the means of what `scores` has of the labels that there are."""
    return {
        "accuracy": float(np.nanmean(np.where(prediction.label_ids == -100, np.nan, prediction.predictions[..., 1])))
    }


def extract_encoder(
    checkpoint: CheckpointArguments, tower: str, output: Path
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """
    Save an encoder of a model as a plain folder of transformers, with its tokenizer or its image processor. Return it, and the model.

        Args:
            checkpoint: The model, whatever its head.
            tower: `"text"` or `"vision"`.
            output: The folder to write.

        Raises:
            ValueError: If the model cannot be read, or has no such encoder: the layers of one tower are none without the other kind of input.
    """
    config = load_config(checkpoint)
    if tower not in {slot.name for slot in config.encoders()}:
        fault = f"expected a model with a {tower} encoder of its own, got a {config.model_type} without"
        raise ValueError(f"model {checkpoint.model_name_or_path}: {fault}")
    model = load_model("Model", checkpoint)
    (encoder,) = model.towers()[tower]
    encoder.save_pretrained(output)
    processor = load_processor(checkpoint)
    (processor.tokenizer if tower == "text" else processor.image_processor).save_pretrained(output)
    return encoder, model


def prepared_output(folder: Path) -> Path:
    """Return a folder to write to; raise `ValueError` if it holds an encoder."""
    if (folder / "config.json").exists():
        raise ValueError(f"output {folder}: holds a model already; choose another, or delete it")
    return folder
