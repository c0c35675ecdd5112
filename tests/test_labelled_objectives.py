"""Objectives of pretraining on answers, boxes and classes of images: they learn what the heads of the tasks learn."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from datasets import Image as ImageFeature
from test_rows_of_any_kind import captions, documents, exact_model, fitting_model, shuffled, weighed
from test_step import Refuse
from transformers import AutoModelForPreTraining

from renaissance.processing.collators import PretrainingCollator, RegionCollator, RowCollator
from renaissance.processing.decoding import UnusableRow
from renaissance.processing.objectives import ContrastiveData, MaskedTextData, MatchingData
from renaissance.processing.objectives_labelled import AnswersData, ImageClassesData, RegionsData
from renaissance.processing.objectives_masked_images import MaskedImagesData
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.faults import Faults
from renaissance.tasks.data.fingerprint import fingerprint
from renaissance.tasks.data.labels import with_class_names
from renaissance.tasks.data.unpaired import ImagesAlone
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.pretraining_arguments import DataSource
from renaissance.tasks.resuming import check_same_classes
from renaissance.tasks.runner import run_task
from renaissance.tasks.vqav2 import AnswerCollator


ANSWERS = ["yes", "no", "two", "red"]
CLASSES = ["cat", "dog", "ship"]
FIELDS = {"vqa_answers": ANSWERS, "image_classes": CLASSES}
BOXES = [[0, 0, 12, 9], [4, 5, 20.5, 20], [10, 3, 7, 25]]


def questions(count: int, first: int = 100) -> list[dict]:
    """Rows with answers, of which the first is not in the vocabulary, as part of those of the second."""
    given = [["blue"] * 10, ["yes"] * 4 + ["blue"] * 6, ["two", "2", "no"], ["red"] * 10]
    return [row | {"answers": given[number % 4]} for number, row in enumerate(captions(count, first))]


def expressions(count: int, first: int = 200) -> list[dict]:
    """Rows with one, two or three boxes."""
    rows = captions(count, first)
    return [row | {"boxes": BOXES[: 1 + number % 3], "label": number % 3} for number, row in enumerate(rows)]


def classes(count: int, first: int = 300) -> list[dict]:
    """Rows with an image and its class, and no text."""
    rows = [{name: value for name, value in row.items() if name != "text"} for row in captions(count, first)]
    return [row | {"class_name": CLASSES[number % 3]} for number, row in enumerate(rows)]


def fit(config, *data):
    for each in data:
        each.fit(config)
    return data


def twin(architecture: str, kind: str, model, name: str, **fields):
    """A model of a task with the weights of one of pretraining."""
    sizes = {} if architecture == "two-tower" else {"vocab_size": model.get_input_embeddings().num_embeddings}
    found = tiny_model(architecture, kind, **sizes, **fields).double()
    found.model.load_state_dict(model.model.state_dict())
    found.classifier.load_state_dict(model.head_of(name).state_dict())
    return found


def test_answers_are_learnt_as_in_finetuning(processor, quick_architecture):
    model = exact_model(quick_architecture, processor, ["vqa"], **FIELDS)
    data = fit(model.config, AnswersData())
    rows = questions(5)
    batch = PretrainingCollator(processor, data)(rows)
    assert set(batch) == {"attention_mask", "input_ids", "pixel_values", "vqa_labels"}
    task = twin(quick_architecture, "ForVisualQuestionAnswering", model, "vqa", num_labels=4)
    theirs = AnswerCollator(processor, ANSWERS, "leave_one_out")(rows)
    torch.testing.assert_close(batch["vqa_labels"], theirs["labels"])
    assert (batch["vqa_labels"][0] == 0).all() and batch["vqa_labels"][1].tolist() == pytest.approx([1, 0, 0, 0])
    found, expected = model(**batch), task(**theirs)
    torch.testing.assert_close(found.logits["vqa"], expected.logits, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.losses["vqa"], expected.loss, atol=1e-6, rtol=0)
    assert [data[0].knows(row["answers"]) for row in rows] == [False, True, True, True, False]
    sums = data[0].row_sums(found.logits["vqa"], batch)
    assert sums[:, 0].mean().item() == pytest.approx(expected.loss.item(), abs=1e-6)
    best = found.logits["vqa"].argmax(dim=1)
    assert sums[:, 1].tolist() == [batch["vqa_labels"][row, answer].item() for row, answer in enumerate(best)]


def test_regions_are_chosen_as_in_finetuning(processor, quick_architecture):
    model = exact_model(quick_architecture, processor, ["grounding"])
    rows = expressions(5)
    batch = PretrainingCollator(processor, [RegionsData()])(rows)
    # Only the regions of boxes are encoded, and no image as a whole.
    assert batch["pixel_values"].shape[0] == 1 + 2 + 3 + 1 + 2
    task = twin(quick_architecture, "ForReferenceResolution", model, "grounding")
    theirs = RegionCollator(processor)(rows)
    assert torch.equal(batch["grounding_labels"], theirs["labels"]) and torch.equal(
        batch["grounding_mask"], theirs["region_mask"]
    )
    found, expected = model(**batch), task(**theirs)
    there = theirs["region_mask"].bool()
    torch.testing.assert_close(found.logits["grounding"][there], expected.logits[there], atol=1e-9, rtol=0)
    assert (found.logits["grounding"][~there] == expected.logits[~there]).all()
    torch.testing.assert_close(found.losses["grounding"], expected.loss, atol=1e-6, rtol=0)
    sums = RegionsData().row_sums(found.logits["grounding"], batch).mean(dim=0)
    correct = (expected.logits.argmax(dim=1) == theirs["labels"]).float().mean().item()
    chance = np.mean([1 / len(row["boxes"]) for row in rows])
    assert sums.tolist() == pytest.approx([expected.loss.item(), correct, chance], abs=1e-6)


def test_classes_of_images_are_learnt_as_in_finetuning(processor, quick_architecture):
    model = exact_model(quick_architecture, processor, ["classification"], **FIELDS)
    rows = classes(4)
    batch = PretrainingCollator(processor, fit(model.config, ImageClassesData()))(rows)
    assert set(batch) == {"attention_mask", "pixel_values", "classification_image_index", "classification_labels"}
    task = twin(quick_architecture, "ForImageClassification", model, "classification", num_labels=3)
    theirs = RowCollator(processor)([{"image": row["image"], "label": number % 3} for number, row in enumerate(rows)])
    found, expected = model(**batch), task(**theirs)
    torch.testing.assert_close(found.logits["classification"], expected.logits, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.losses["classification"], expected.loss, atol=1e-6, rtol=0)


def all_data(config) -> list:
    return list(
        fit(
            config,
            MaskedTextData(),
            MatchingData(),
            ContrastiveData(),
            AnswersData(),
            RegionsData(),
            ImageClassesData(),
        )
    )


KINDS = (captions(3), documents(2, 20), questions(4), expressions(4), classes(3))
NAMES = ["mlm", "itm", "contrastive", "vqa", "grounding", "classification"]


def test_a_batch_of_everything_has_the_losses_of_its_parts(processor, quick_architecture):
    model = exact_model(quick_architecture, processor, NAMES, **FIELDS)
    data = all_data(model.config)
    # Pairs of an objective that compares the rows of a batch are drawn among those of one kind.
    kinds = [
        [row | {"objectives": names} for row in rows]
        for rows, names in zip(
            KINDS, (("mlm", "itm"), ("mlm",), ("vqa", "mlm"), ("grounding",), ("classification",)), strict=True
        )
    ]
    collator = PretrainingCollator(processor, data, seed=1)
    mixed, counts = weighed(model, [collator(shuffled(*kinds))])
    parts, of_parts = weighed(model, [collator(rows) for rows in kinds])
    assert counts == of_parts and set(counts) == set(NAMES) - {"contrastive"}
    assert mixed == pytest.approx(parts, abs=1e-6)


def test_order_and_padding_change_no_loss(processor):
    """Of the objectives that read each row by itself."""
    model = exact_model("two-tower", processor, NAMES, **FIELDS)
    collator = PretrainingCollator(
        processor, [each for each in all_data(model.config) if each.name not in ("itm", "contrastive")]
    )
    rows = shuffled(*KINDS)
    batch = collator(rows)
    padded = dict(batch)
    for name in ("input_ids", "attention_mask", "mlm_input_ids", "mlm_labels"):
        fill = -100 if name == "mlm_labels" else 0 if name == "attention_mask" else 77
        padded[name] = torch.cat([batch[name], torch.full((len(rows), 3), fill)], dim=1)
    del padded["mlm_positions"]
    expected = {name: loss.item() for name, loss in model(**batch).losses.items()}
    for other in (collator(rows[::-1]), padded):
        assert {name: loss.item() for name, loss in model(**other).losses.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "objectives", [*(pytest.param([name], marks=pytest.mark.slow) for name in NAMES[3:]), NAMES], ids="+".join
)
def test_gradients_reach_what_trains_and_nothing_else(processor, quick_architecture, objectives):
    """On shapes alone; the head of a task has as many unread weights."""
    model = fitting_model(quick_architecture, processor, objectives, **FIELDS).train()
    data = [each for each in all_data(model.config) if each.name in objectives]
    rows = shuffled(*KINDS) if len(objectives) > 1 else KINDS[NAMES.index(objectives[0]) - 1]
    batch = PretrainingCollator(processor, data)(list(rows))
    with Refuse():
        model.to("meta")(**{name: value.to("meta") for name, value in batch.items()}).loss.backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert trained == {name for name, value in model.named_parameters() if value.requires_grad}
    assert any("text" in name for name in trained) == (objectives != ["classification"])


def test_lists_of_classes_and_heads_survive(processor, tmp_path):
    """A checkpoint keeps its lists, and loads with other objectives, of which the heads are new."""
    model = tiny_model("two-tower", "ForPreTraining", objectives=["mlm", "vqa", "classification"], **FIELDS)
    model.save_pretrained(tmp_path)
    same = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert same.config.vqa_answers == ANSWERS and same.config.image_classes == CLASSES
    for name in ("vqa_head", "classification_head", "mlm_head"):
        for one, other in zip(getattr(model, name).parameters(), getattr(same, name).parameters(), strict=True):
            assert torch.equal(one, other)
    other = AutoModelForPreTraining.from_pretrained(tmp_path, objectives={"vqa": 2.0, "grounding": 1.0})
    assert torch.equal(other.vqa_head.out.weight, model.vqa_head.out.weight)
    assert other.config.vqa_answers == ANSWERS and not hasattr(other, "mlm_head")
    batch = PretrainingCollator(processor, fit(other.config, AnswersData(), RegionsData()))(
        questions(3) + expressions(2)
    )
    assert other(**batch).losses.keys() == {"vqa", "grounding"}


def test_a_run_does_not_go_on_with_other_classes(tmp_path):
    """Of as many, or fewer, the trained outputs of the head would get other names; those of an objective that is not trained are no matter."""
    trained = tiny_model("two-tower", "ForPreTraining", objectives=["mlm", "vqa"], **FIELDS)
    trained.config.save_pretrained(tmp_path)
    check_same_classes(tmp_path, trained)
    trained.config.image_classes = ["frog"]
    check_same_classes(tmp_path, trained)
    for answers, told in ((["yes", "maybe", "two", "red"], "'no' then, 'maybe' now"), (ANSWERS[:3], "4 then, 3 now")):
        trained.config.vqa_answers = answers
        with pytest.raises(
            ValueError, match=rf"the answers .* make other vqa_answers than .* the objective vqa .*{told}"
        ):
            check_same_classes(tmp_path, trained)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1], "expected names alone, or whole numbers from 0 on alone, in column 'label', got -1"),
        ([0.0, 0.5, 1.0], "whole numbers from 0 on alone, in column 'label', got 0.5"),
        (["0", "-1", "1"], "whole numbers from 0 on alone, in column 'label', got -1"),
    ],
)
def test_labels_that_are_no_classes(labels, message):
    with_class_names(Dataset.from_dict({"label": [3, 1, 2]}), faults := Faults("x", {"label": "label"}))
    faults.check_columns()
    with_class_names(Dataset.from_dict({"label": labels}), faults)
    with pytest.raises(ValueError, match=message):
        faults.check_columns()


def test_a_head_that_was_not_trained_is_not_evaluated(tmp_path, processor, shapes, options, refused):
    tiny_model("two-tower", "ForPreTraining", objectives=["mlm", "itm"]).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    argv = [*options[: options.index("--tokenizer")], "--model_name_or_path", str(tmp_path / "model"), "--do_eval"]
    argv += ["--eval_datasets", str(shapes / "captions"), "--objectives", "contrastive", "mlm"]
    fault = refused(run_task, Pretraining, "", argv)
    assert (
        "objectives: the checkpoint was trained with itm, mlm, and a new head for contrastive would say things"
        in fault
    )


def test_a_new_head_has_the_classes_of_the_data_and_not_those_of_an_earlier_head():
    """Which the configuration of a checkpoint may still have, though it was trained without that head since."""
    source = DataSource("x", False)
    data = Dataset.from_list([{"image": None, "class_name": name} for name in ("frog", "ship", "frog")])
    for objectives, expected in ((["mlm"], ["frog", "ship"]), (["mlm", "classification"], CLASSES)):
        saved = tiny_model("two-tower", "ForPreTraining", objectives=objectives, **FIELDS).config
        task = Pretraining(Pretraining.argument_class()(train_datasets=["x"]))
        task.start_from(saved)
        task.config, task.objectives = saved, [ImageClassesData()]
        task.learn_classes([(source, data)])
        assert saved.image_classes == expected
        assert task.config_fields() == ({} if expected == CLASSES else {"image_classes": expected})


def test_answers_boxes_and_classes_are_a_part_of_what_rows_are():
    """So that a run is not resumed on rows with others."""
    stored = {"bytes": b"one", "path": None}
    row = {
        "image": stored,
        "captions": "a cat",
        "answers": ["yes"],
        "boxes": [[0.0, 0.0, 4.0, 4.0]],
        "class_name": "cat",
    }
    changes = {"answers": ["no"], "boxes": [[0.0, 0.0, 4.0, 5.0]], "class_name": "dog"}
    for kind in (CaptionedImages, ImagesAlone):
        found = set()
        for changed in [{}, *({name: value} for name, value in changes.items())]:
            data = Dataset.from_list([row | changed]).cast_column("image", ImageFeature(decode=False))
            found.add(fingerprint(kind(data, "x", None, tuple(changes))))
        assert len(found) == 1 + len(changes)


def test_vocabularies():
    least = AnswersData(vqa_min_answer_count=2)
    assert least.vocabulary([["two"] * 10, ["two"] * 10, ["red"] * 10, ["red"], ["red", "no"], ["no"] * 10]) == [
        "red",
        "two",
    ]
    with pytest.raises(
        ValueError,
        match="vqa_min_answer_count: no answer is the most frequent one of 9 or more of 1 questions; lower it",
    ):
        AnswersData().vocabulary([["no"]])
    assert ImageClassesData().vocabulary(["ship", "cat", "ship"]) == ["cat", "ship"]
    with pytest.raises(ValueError, match="label_column: expected at least two classes in the training data, got ship"):
        ImageClassesData().vocabulary(["ship", "ship"])
    assert {each.vocabulary_option for each in (AnswersData, ImageClassesData)} == set(FIELDS)


def test_more_boxes_than_are_compared_are_drawn(processor):
    row = captions(1)[0] | {"boxes": [[number, 0, 5, 5 + number] for number in range(12)], "label": 7}
    collator = PretrainingCollator(processor, [RegionsData(grounding_boxes=4)])
    drawn = set()
    for epoch in range(12):
        batch = collator([row | {"epoch": epoch}])
        assert batch["grounding_image_index"].shape == (1, 4) and batch["grounding_mask"].all()
        again = collator([row | {"epoch": epoch}])
        assert all(torch.equal(again[name], batch[name]) for name in batch)
        drawn.add((batch["grounding_labels"].item(), batch["pixel_values"].sum().item()))
        # The meant region itself, wherever it stands among the drawn ones.
        meant = PretrainingCollator(processor, [RegionsData()])([row | {"boxes": [row["boxes"][7]], "label": 0}])[
            "pixel_values"
        ][0]
        place = batch["grounding_image_index"][0, batch["grounding_labels"][0]]
        assert torch.equal(batch["pixel_values"][place], meant)
    assert len(drawn) > 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[0, 0, 5, 5], [30, 0, 9, 5]]}, r"row 200: box 1: expected a box inside the image of 32x32 pixels, got \[30, 0, 9, 5\]"),
        ({"boxes": [[0, 0, 5, 5]], "label": 1}, "row 200: label: expected the number of one of 1 boxes, from 0 on, got 1"),
    ],
)  # fmt: skip
def test_boxes_that_are_none(processor, change, message):
    with pytest.raises(UnusableRow, match=message):
        PretrainingCollator(processor, [RegionsData()])([expressions(1)[0] | change])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnswersData(vqa_min_answer_count=0), "vqa_min_answer_count"),
        (lambda: RegionsData(grounding_boxes=1), "grounding_boxes"),
        (lambda: tiny_model("two-tower", "ForPreTraining", objectives=["vqa"]), "vqa_answers: expected the answers that the objective vqa"),
        (lambda: tiny_model("two-tower", "ForPreTraining", objectives=["classification"]), "image_classes: expected the classes"),
        (lambda: tiny_model("dual-encoder", "ForPreTraining", objectives=["classification"], **FIELDS), "objectives: classification needs texts that are fused"),
    ],
)  # fmt: skip
def test_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_class_that_the_model_lacks(processor):
    model = tiny_model("two-tower", "ForPreTraining", objectives=["classification"], **FIELDS)
    (data,) = fit(model.config, ImageClassesData())
    assert data.knows("ship") and not data.knows("frog")
    with pytest.raises(ValueError, match=r"row 300: the class 'frog' is none of the model's \(cat, dog, ship\)"):
        PretrainingCollator(processor, [data])([classes(1)[0] | {"class_name": "frog"}])


def test_values_of_rows_may_be_of_other_types(processor):
    """A single answer, and boxes as a table of numpy has them, make the batch of lists."""
    model = tiny_model("two-tower", "ForPreTraining", objectives=["vqa"], **FIELDS)
    (data,) = fit(model.config, AnswersData())
    asked = questions(3)
    answer = model.config.vqa_answers[1]
    pairs = [
        (PretrainingCollator(processor, [data]), asked, ("answers", [answer], answer)),
        (PretrainingCollator(processor, [RegionsData()]), expressions(2), ("boxes", None, np.float32)),
    ]
    for collator, rows, (name, plain, other) in pairs:
        plain = [row | {name: plain if plain else row[name]} for row in rows]
        others = [row | {name: np.array(row[name], other) if name == "boxes" else other} for row in rows]
        expected, batch = collator(plain), collator(others)
        for key, value in expected.items():
            assert torch.equal(batch[key], value), key
    with pytest.raises(ValueError, match=f"^row {asked[0]['sample_id']}: answers: expected texts, got 3"):
        pairs[0][0]([row | {"answers": [3]} for row in asked])


@pytest.mark.parametrize(
    ("data", "rows"),
    [(AnswersData(), questions(2)), (ImageClassesData(), classes(2)), (MaskedImagesData(), captions(2))],
)
def test_a_collator_without_the_configuration_of_a_model_says_so(processor, data, rows):
    with pytest.raises(ValueError, match=f"^{data.name}: .* call fit of {type(data).__name__} with its configuration"):
        PretrainingCollator(processor, [data])(rows)
