"""docs/python.md runs as it stands on the page, and what it says holds."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, pair_batch, tiny_batch, tiny_model
from datasets import DatasetDict, load_dataset
from PIL import Image
from transformers import BertConfig, Trainer, TrainerCallback, TrainingArguments, ViTConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import renaissance
from renaissance import (
    CaptionedImages,
    EpochCallback,
    KeyedRows,
    PretrainingCollator,
    RenaissanceProcessor,
    RowCollator,
)


PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)


def test_the_page_runs(shapes, tokenizer_folder, tmp_path, monkeypatch):
    (tmp_path / "demo" / "shapes").mkdir(parents=True)
    for name, folder in {
        "tokenizer": tokenizer_folder,
        "captions": shapes / "captions",
        "snli_ve": shapes / "snli_ve",
    }.items():
        (tmp_path / "demo" / "shapes" / name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert len(BLOCKS[0].splitlines()) <= 40
    assert names["seen_by_tokens"].shape == (names["T"], 4, 4)
    torch.testing.assert_close(names["weights"][names["P"] :, : names["P"]].sum(1), torch.ones(names["T"]))


def pretraining(shapes, processor, folder, callbacks=(), epochs=2, **options) -> tuple[Trainer, KeyedRows]:
    """A stock `Trainer` of two epochs of a few rows."""
    model = tiny_model("two-tower", "ForPreTraining")
    processor = copy.deepcopy(processor).fit(model)
    captions = load_dataset("parquet", data_files=str(shapes / "captions" / "train-*.parquet"), split="train[:8]")
    rows = KeyedRows(CaptionedImages(captions, "shapes", limit=8), training=True)
    options = {
        "remove_unused_columns": False,
        "per_device_train_batch_size": 8,
        "report_to": "none",
        "use_cpu": True,
    } | options
    args = TrainingArguments(str(folder), num_train_epochs=epochs, disable_tqdm=True, save_strategy="no", **options)
    return Trainer(
        model, args, PretrainingCollator(processor), rows, callbacks=[call(rows) for call in callbacks]
    ), rows


@pytest.mark.parametrize("kind", ["ForImageTextClassification", "ForSequenceClassification"])
def test_the_stock_trainer_evaluates(kind, processor, tmp_path):
    """Its loss and metrics over all rows, for which it has to know the labels from the names of `forward`'s arguments."""
    model = tiny_model("two-tower", kind).eval()
    processor = copy.deepcopy(processor).fit(model)
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    data = [
        {"image": Image.new("RGB", (24, 24), colours[n]), "text": "a red circle", "label": n % 2, "id": str(n)}
        for n in range(3)
    ]
    if kind == "ForSequenceClassification":
        data = [{name: value for name, value in row.items() if name != "image"} for row in data]
    rows = KeyedRows(data, training=False)
    args = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=2, remove_unused_columns=False, report_to="none", use_cpu=True
    )
    seen = []
    trainer = Trainer(
        model, args, RowCollator(processor), eval_dataset=rows, compute_metrics=lambda p: seen.append(p) or {}
    )
    batch = RowCollator(processor)([rows[n] for n in range(3)])
    with torch.no_grad():
        expected = model(**batch)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), abs=1e-5)
    assert seen[0].label_ids.tolist() == [0, 1, 0]
    torch.testing.assert_close(torch.tensor(seen[0].predictions), expected.logits, atol=1e-5, rtol=1e-5)


def test_the_stock_trainer_evaluates_pretraining(shapes, processor, tmp_path):
    trainer, rows = pretraining(
        shapes, processor, tmp_path, label_names=["mlm_labels", "itm_labels"], prediction_loss_only=True
    )
    rows.begin_epoch(0)
    batch = trainer.data_collator([rows[n] for n in range(8)])
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).loss.item()
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_stock_trainer_gets_other_masks_in_each_epoch(workers, shapes, processor, tmp_path):
    batches = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model, **kwargs):
            model.register_forward_pre_hook(lambda module, args, kwargs: batches.append(kwargs), with_kwargs=True)

    trainer, _ = pretraining(
        shapes, processor, tmp_path, [EpochCallback], dataloader_num_workers=workers, dataloader_persistent_workers=workers > 0,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer.add_callback(Watch())
    trainer.train()
    first, second = batches
    assert torch.equal(first["attention_mask"], second["attention_mask"])
    assert not torch.equal(first["mlm_labels"], second["mlm_labels"])
    assert first["pixel_values"].dtype == torch.uint8


def test_an_epoch_that_nobody_tells_is_an_error(shapes, processor, tmp_path):
    trainer, rows = pretraining(shapes, processor, tmp_path)
    with pytest.raises(ValueError, match=r"the epoch is not known.*callbacks=\[EpochCallback\(rows\)\]"):
        trainer.train()
    rows.begin_epoch(0)
    assert rows[0]["epoch"] == 0 and KeyedRows([{}], training=False)[0]["epoch"] == 0


@pytest.mark.parametrize(
    ("collator", "missing"), [(PretrainingCollator, "sample_id, epoch"), (RowCollator, "image, text")]
)
def test_columns_that_trainer_removed_are_an_error(collator, missing, shapes, processor, tmp_path):
    trainer, _ = pretraining(shapes, processor, tmp_path, [EpochCallback], remove_unused_columns=True)
    trainer.data_collator = collator(processor)
    with pytest.raises(ValueError, match=f"rows lack {missing}.*set remove_unused_columns=False"):
        trainer.train()


def test_pixels_of_8_bits_need_a_model_that_knows_their_mean(processor):
    model, processor = tiny_model("two-tower").eval(), copy.deepcopy(processor)
    model.config.pixel_mean = None
    inputs = processor(images=Image.new("RGB", (40, 30), "red"), as_uint8=True, return_tensors="pt")
    with pytest.raises(ValueError, match=r"call processor.fit\(model\), or pass normalised pixels"):
        model(**inputs)
    assert processor.fit(model) is processor
    normalised = processor(images=Image.new("RGB", (40, 30), "red"), return_tensors="pt")
    torch.testing.assert_close(model(**inputs).pooled, model(**normalised).pooled, atol=1e-5, rtol=1e-5)


def test_a_processor_fits_configurations_tokenizers_and_image_processors(processor, tokenizer_folder):
    loaded = BertConfig(name_or_path=str(tokenizer_folder))
    made = RenaissanceProcessor.from_encoders(loaded, ViTConfig(image_size=48))
    assert made.tokenizer.get_vocab() == processor.tokenizer.get_vocab() and made.image_shape == (48, 48)
    own = RenaissanceProcessor.from_encoders(
        processor.tokenizer, ViTImageProcessorPil(size={"height": 32, "width": 32})
    )
    assert own.tokenizer is processor.tokenizer and own.image_shape == (32, 32)
    with pytest.raises(ValueError, match="text: a BertConfig that was not loaded from a checkpoint has no tokenizer"):
        RenaissanceProcessor.from_encoders(BertConfig())


@pytest.mark.parametrize("kind", ["Model", "ForVisualQuestionAnswering", "ForImageTextClassification", "ForMaskedLM"])
def test_one_text_goes_with_each_image_and_one_image_with_each_text(kind, architecture):
    model, batch = tiny_model(architecture, kind), tiny_batch()
    output = (lambda inputs: model(**inputs).pooled) if kind == "Model" else (lambda inputs: model(**inputs).logits)
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for one, many in [(texts, ["pixel_values"]), ({"pixel_values": batch["pixel_values"]}, list(texts))]:
        single = {name: value[:1] for name, value in one.items()}
        repeated = {name: value[:1].expand(3, *value.shape[1:]) for name, value in one.items()}
        others = {name: batch[name] for name in many}
        torch.testing.assert_close(output(single | others), output(repeated | others), atol=1e-5, rtol=1e-5)
    with pytest.raises(
        ValueError, match="expected an image a text, or one of either for all, got 3 texts and 2 images"
    ):
        output(batch | {"pixel_values": batch["pixel_values"][:2]})


def test_ranking_broadcasts(architecture):
    model, batch = tiny_model(architecture, "ForImageTextRetrieval"), tiny_batch()
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    every = torch.arange(3).expand(3, 3)
    table = model(**batch, text_index=every, image_index=every.T).logits  # images, texts
    for row in range(3):
        one_text = {name: value[row : row + 1] for name, value in texts.items()}
        of_text = model(**one_text, pixel_values=batch["pixel_values"]).logits
        torch.testing.assert_close(of_text, table[:, row : row + 1], atol=1e-5, rtol=1e-5)
        of_image = model(**texts, pixel_values=batch["pixel_values"][row : row + 1]).logits
        torch.testing.assert_close(of_image, table[row : row + 1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="one text or one image for all, got 3 rows of text and 2 images"):
        model(**texts, pixel_values=batch["pixel_values"][:2])


def test_one_sentence_for_several_pairs_of_images(architecture):
    model, batch = tiny_model(architecture, "ForImagesAndTextClassification"), tiny_batch()
    images = torch.stack([batch["pixel_values"], batch["pixel_values"].flip(0)], dim=1)
    sentence = {name: batch[name][:1] for name in ("input_ids", "attention_mask")}
    repeated = {name: value.expand(3, -1) for name, value in sentence.items()}
    got, expected = (model(**given, pixel_values=images).logits for given in (sentence, repeated))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_public_names_are_there():
    assert all(hasattr(renaissance, name) for name in renaissance.__all__)
    assert len(renaissance.__all__) > len(CLASSES)
    with pytest.raises(AttributeError, match="module 'renaissance' has no attribute 'Nothing'"):
        renaissance.Nothing  # noqa: B018 - reading the attribute is the test


@pytest.mark.parametrize("make", [lambda data: data.to_iterable_dataset(), list, lambda data: DatasetDict(train=data)])
def test_data_of_other_kinds_is_named(make, shapes):
    data = make(load_dataset(str(shapes / "captions"), split="validation"))
    with pytest.raises(
        ValueError, match=r"shapes: expected a datasets.Dataset, got (IterableDataset|list|DatasetDict);"
    ):
        CaptionedImages(data, "shapes")


@pytest.mark.parametrize("make", [lambda data: data.to_iterable_dataset(), lambda data: DatasetDict(train=data)])
def test_rows_without_numbers_are_named(make, shapes):
    data = make(load_dataset(str(shapes / "captions"), split="validation"))
    with pytest.raises(ValueError, match=r"shapes: expected rows by number.* got (IterableDataset|DatasetDict);"):
        KeyedRows(data, True, "shapes")


def test_images_without_captions_are_named(shapes):
    data = load_dataset(str(shapes / "captions"), split="validation").rename_column("captions", "caption")
    with pytest.raises(ValueError, match=r"shapes: no column captions, only .*caption"):
        CaptionedImages(data, "shapes")


def test_rows_of_evaluation_are_told_no_epoch():
    for rows, found in ((KeyedRows([{}], training=False), "rows of evaluation"), ([{}], "list")):
        with pytest.raises(ValueError, match=rf"EpochCallback: expected KeyedRows\(.*training=True\).* got {found}"):
            EpochCallback(rows)


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (["a", "b"], "label: expected a number or a list of numbers in each row, got 'a'"),
        ([1, None], "label: expected a number or a list of numbers in each row, got None"),
        ([[0, 1], [None, 1]], r"label: expected a number or a list of numbers in each row, got \[None, 1\]"),
        ([[0, 1], [1]], r"label: expected one shape in all rows, got \(1,\) and \(2,\)"),
        ([1, [1]], r"label: expected one shape in all rows, got \(\) and \(1,\)"),
    ],
)
def test_labels_that_are_no_numbers_are_named(labels, fault, processor):
    rows = [{"text": "a star", "label": label} for label in labels]
    with pytest.raises(ValueError, match=fault):
        RowCollator(processor)(rows)
    with pytest.raises(ValueError, match="rows have the column labels: expected label"):
        RowCollator(processor)([{"text": "a star", "labels": label} for label in labels])


def test_labels_are_classes_whatever_their_type(processor, architecture):
    """Truth values are the classes 0 and 1; numbers with a fraction are no classes."""
    model = tiny_model(architecture, "ForSequenceClassification")
    collator = RowCollator(processor)

    def loss(labels: list) -> torch.Tensor:
        return model(
            **collator([{"text": text, "label": label} for text, label in zip(("a", "b"), labels, strict=True)])
        ).loss

    model.eval()
    whole = loss([0, 1])
    for labels in ([False, True], list(np.array([0, 1], dtype=np.int8)), list(torch.tensor([0, 1]))):
        torch.testing.assert_close(loss(labels), whole)
    for labels in ([0.0, 1.0], [[0, 1], [1, 0]]):
        with pytest.raises(
            ValueError, match=r"labels: expected classes, int64 of shape \(batch,\), got (float32|int64)"
        ):
            loss(labels)
    for kind in ("ForImagesAndTextClassification", "ForReferenceResolution"):
        with pytest.raises(ValueError, match=r"labels: expected classes, int64 of shape \(batch,\), got float32"):
            tiny_model(architecture, kind)(**pair_batch(), labels=torch.zeros(3))
