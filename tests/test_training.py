"""Whole runs, through the run scripts' own entry, on tiny data."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import TINY_BERT, TWO_TOWER, tiny_bert, tiny_vit
from datasets import Dataset, Image, List
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, BertModel, ViTModel

from renaissance import AutoModelForImagesAndTextClassification, RenaissanceProcessor
from renaissance.tasks.checkpoints import newest_whole
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


ONE_TOWER = [
    "--architecture", "one-tower", "--encoder", "bert", "--random_init", "--encoder_overrides", TINY_BERT,
    "--image_size", "32", "--patch_size", "16",
]  # fmt: skip


def pretrain(shapes: Path, options: list[str], *extra: str, model: list[str] = TWO_TOWER) -> dict:
    argv = [*model, *options, "--train_datasets", str(shapes / "captions"), "--do_train", "--max_steps", "6", *extra]
    return run_task(Pretraining, "", argv)


@pytest.mark.parametrize("model", [TWO_TOWER, ONE_TOWER], ids=["two-tower", "one-tower"])
def test_pretrain_then_finetune(shapes, options, tmp_path, model):
    metrics = pretrain(shapes, options, "--do_eval", model=model)
    assert {"eval_mlm_loss", "eval_itm_loss", "eval_mlm_accuracy", "eval_itm_accuracy"} <= set(metrics)
    assert metrics["train_samples_per_second"] > 0
    folder = tmp_path / "run"
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    logged = [entry for entry in history if "mlm_loss" in entry]
    assert len(logged) == 3
    for entry in logged:
        assert entry["mlm_loss"] + entry["itm_loss"] == pytest.approx(entry["loss"], rel=1e-3)
    assert any("samples_per_second" in entry for entry in history)

    card = (folder / "README.md").read_text()
    assert (
        f"| eval_itm_accuracy | {metrics['eval_itm_accuracy']:.4f} |" in card
        and "frozen in this run | nothing" in card
    )
    assert "$" not in card

    argv = ["--model_name_or_path", str(folder), "--dataset", str(shapes / "nlvr2"), "--do_train", "--do_eval"]
    argv += [*options[2:-2], "--output_dir", str(tmp_path / "nlvr2"), "--do_predict", "--max_steps", "2"]
    metrics = run_task(NLVR2, "", argv)
    assert metrics["eval_majority_accuracy"] == metrics["test_majority_accuracy"] == 0.5
    predictions = (tmp_path / "nlvr2" / "predictions.csv").read_text().split()
    assert len(predictions) == 10 and all(line.endswith((",True", ",False")) for line in predictions)

    # What was saved loads through the Auto classes, and agrees with the metrics that the run reported.
    processor = AutoProcessor.from_pretrained(tmp_path / "nlvr2")
    assert isinstance(processor, RenaissanceProcessor)
    AutoModel.from_pretrained(tmp_path / "nlvr2")
    loaded = AutoModelForImagesAndTextClassification.from_pretrained(tmp_path / "nlvr2").eval()
    rows = Dataset.from_parquet(str(shapes / "nlvr2" / "test-00000-of-00001.parquet"))
    inputs = processor(images=list(rows["images"]), text=list(rows["text"]), return_tensors="pt")
    with torch.no_grad():
        answers = loaded(**inputs).logits.argmax(dim=-1).tolist()
    assert [loaded.config.id2label[answer] for answer in answers] == [line.split(",")[1] for line in predictions]
    assert metrics["test_accuracy"] == pytest.approx(
        sum(a == b for a, b in zip(answers, rows["label"], strict=True)) / 10
    )


def orders_of(trainer) -> dict[int, list[int]]:
    """Train; return the numbers of the rows of each epoch, in the order in which they are trained on."""
    collate, orders = trainer.data_collator, {}

    def watched(rows: list[dict]) -> dict:
        for row in rows:
            orders.setdefault(row["epoch"], []).append(row["sample_id"])
        return collate(rows)

    trainer.data_collator = watched
    trainer.train()
    return orders


@pytest.mark.parametrize("task", [Pretraining, NLVR2])
def test_each_epoch_trains_on_every_row_once_in_a_random_order_of_its_own(task, shapes, options):
    data = {Pretraining: ["--train_datasets", str(shapes / "captions")], NLVR2: ["--dataset", str(shapes / "nlvr2")]}
    argv = [*TWO_TOWER, *options, *data[task], "--do_train", "--do_eval", "--max_train_samples", "24"]
    argv += ["--num_train_epochs", "2"]
    first, second = orders_of(prepare(task, "", argv)[0]).values()
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    for order in (first, second):
        # Rows do not follow each other as they lie in the data, nor backwards: of a random order 23/12 pairs do.
        assert sum(abs(a - b) == 1 for a, b in pairwise(order)) < 7


def test_finetuning_trains_what_pretraining_froze(shapes, options, tmp_path):
    """What was frozen in pretraining trains in finetuning, unless it is frozen there too."""
    pretrain(shapes, options, "--freeze", "text", "vision", "--max_steps", "1")
    saved = load_file(tmp_path / "run" / "model.safetensors")
    # But for the biases of keys, which change no attention.
    towers = {
        part: {name for name in saved if name.startswith(f"model.{part}_encoder.") and "k_proj.bias" not in name}
        for part in ("text", "vision")
    }
    towers = {part: {name for name in names if "key.bias" not in name} for part, names in towers.items()}
    argv = ["--model_name_or_path", str(tmp_path / "run"), "--dataset", str(shapes / "nlvr2"), *options[2:-2]]
    argv += ["--do_train", "--max_steps", "3", "--learning_rate", "1e-2"]
    for folder, frozen, moving in (
        ("whole", [], towers["text"] | towers["vision"]),
        ("part", ["vision"], towers["text"]),
    ):
        freeze = ["--freeze", *frozen] if frozen else []
        run_task(NLVR2, "", [*argv, *freeze, "--output_dir", str(tmp_path / folder)])
        assert json.loads((tmp_path / folder / "config.json").read_text())["frozen"] == frozen
        tuned = load_file(tmp_path / folder / "model.safetensors")
        moved = {name for names in towers.values() for name in names if not torch.equal(saved[name], tuned[name])}
        assert moved == moving and len(moving) > 10


@pytest.mark.parametrize("architecture", ["one-tower", "two-tower"])
def test_an_encoder_with_weights_stays_random_if_that_is_asked_for(architecture, shapes, options, tmp_path):
    """Each encoder of a run by itself; the others have their weights."""
    sources = {"text": BertModel(tiny_bert(hidden_size=24)), "vision": ViTModel(tiny_vit())}
    for name, source in sources.items():
        source.save_pretrained(tmp_path / name)
    data = ["--train_datasets", str(shapes / "captions"), "--do_train"]
    if architecture == "two-tower":
        encoders = [
            "--text_encoder",
            str(tmp_path / "text"),
            "--vision_encoder",
            str(tmp_path / "vision"),
            *TWO_TOWER[-6:],
        ]
        choices = [[], ["--random_init_text"], ["--random_init_vision"]]
    else:
        encoders = [
            "--architecture",
            "one-tower",
            "--encoder",
            str(tmp_path / "text"),
            "--image_size",
            "32",
            "--patch_size",
            "8",
        ]
        choices = [[], ["--random_init"]]
    for choice in choices:
        model = prepare(Pretraining, "", [*options, *data, *encoders, *choice])[0].model.base_model
        towers = (
            {"encoder": "text"}
            if architecture == "one-tower"
            else {"text_encoder": "text", "vision_encoder": "vision"}
        )
        for tower, name in towers.items():
            weights = {key: value for key, value in getattr(model, tower).named_parameters() if ".weight" in key}
            matrices = {key: value for key, value in weights.items() if value.ndim > 1 and "position" not in key}
            same = {torch.equal(value, sources[name].get_parameter(key)) for key, value in matrices.items()}
            left_random = f"--random_init_{name}" in choice or "--random_init" in choice
            assert len(matrices) > 5 and same == {not left_random}, (tower, choice)


def test_the_loss_of_masked_language_modelling_is_a_mean_over_tokens(shapes, options):
    """Not over rows, whose numbers of masked tokens differ: by hand, from the logits of the model."""
    argv = [*TWO_TOWER, *options, "--eval_datasets", str(shapes / "captions"), "--do_eval"]
    trainer, *_ = prepare(Pretraining, "", [*argv, "--mlm_probability", "0.4"])
    found = trainer.evaluate()
    of_rows, right = [], []
    for batch in trainer.get_eval_dataloader():
        with torch.no_grad():
            logits = trainer.model(**batch).logits["mlm"]
        truth = batch["mlm_labels"].flatten()[batch["mlm_positions"]]
        losses = torch.nn.functional.cross_entropy(logits, truth, reduction="none")
        rows = batch["mlm_positions"] // batch["mlm_labels"].shape[1]
        of_rows += [losses[rows == row] for row in range(len(batch["mlm_labels"]))]
        right.append(logits.argmax(dim=-1) == truth)
    of_tokens, mean_of_means = torch.cat(of_rows).mean(), torch.stack([row.mean() for row in of_rows]).mean()
    assert abs(of_tokens - mean_of_means) > 1e-3
    assert found["eval_mlm_loss"] == pytest.approx(of_tokens.item(), abs=1e-5)
    assert found["eval_mlm_accuracy"] == pytest.approx(torch.cat(right).float().mean().item(), abs=1e-6)
    assert found["eval_mlm_labels"] == sum(map(len, of_rows))


def test_metrics_do_not_depend_on_the_batches(shapes, options):
    """30 pairs in batches of 4 and of 7: each last one is smaller, and must not weigh more."""
    results = []
    for size in ("4", "7", "30"):
        argv = [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--do_eval"]
        trainer, *_ = prepare(Pretraining, "", [*argv, "--per_device_eval_batch_size", size])
        results.append(trainer.evaluate())
    assert all(result["eval_itm_majority_accuracy"] <= 0.6 for result in results)
    # The most frequent of all masked tokens, counted from the batches themselves.
    masked = torch.cat([batch["mlm_labels"].flatten() for batch in trainer.get_eval_dataloader()])
    counts = masked[masked != -100].unique(return_counts=True)[1]
    assert {result["eval_mlm_labels"] for result in results} == {int(counts.sum())}
    for result in results:
        assert result["eval_mlm_majority_accuracy"] == pytest.approx(float(counts.max() / counts.sum()))
    for name in ("eval_mlm_loss", "eval_mlm_accuracy"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-5)
        assert results[0][name] == pytest.approx(results[2][name], rel=1e-5)


def test_a_resumed_run_ends_with_the_same_weights(shapes, options, tmp_path):
    """Interrupted in its second epoch, with a broken newer checkpoint in the way."""
    whole, part = ["--max_steps", "18", "--save_steps", "14", "--learning_rate", "1e-2"], tmp_path / "part"
    pretrain(shapes, options, *whole)
    part.mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-14", part / "checkpoint-14")
    (part / "checkpoint-16").mkdir()
    (part / "checkpoint-16" / "trainer_state.json").write_text('{"epo')
    assert newest_whole(part) == part / "checkpoint-14"
    pretrain(shapes, options, *whole, "--output_dir", str(part))
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path / "run", part)]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-6, rtol=1e-5)


def test_a_resumed_run_ends_with_the_same_loss(shapes, options, tmp_path):
    """The mean over all steps, also of those between the last log and the checkpoint."""
    whole = ["--max_steps", "11", "--save_steps", "5", "--logging_steps", "3", "--learning_rate", "1e-2"]
    unbroken = pretrain(shapes, options, *whole)["train_loss"]
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    logged = [entry["loss"] for entry in history if "loss" in entry]
    assert max(logged) - min(logged) > 0.5  # so that a mean over the last steps alone would be another
    parts = {step: tmp_path / f"part-{step}" for step in (5, 10)}
    for step, part in parts.items():
        part.mkdir()
        shutil.copytree(tmp_path / "run" / f"checkpoint-{step}", part / f"checkpoint-{step}")
        again = pretrain(shapes, options, *whole, "--output_dir", str(part))["train_loss"]
        assert again == pytest.approx(unbroken, rel=1e-5)
    # Resumed twice: a checkpoint of the resumed run knows of all steps before it, too.
    shutil.rmtree(parts[5] / "checkpoint-11")
    (parts[5] / "run_state.json").unlink()
    assert newest_whole(parts[5]) == parts[5] / "checkpoint-10"
    again = pretrain(shapes, options, *whole, "--output_dir", str(parts[5]))["train_loss"]
    assert again == pytest.approx(unbroken, rel=1e-5)


def test_runs_repeat_with_any_number_of_workers(shapes, options, tmp_path):
    losses = []
    for workers in ("0", "2"):
        out = str(tmp_path / workers)
        metrics = pretrain(
            shapes, options, "--output_dir", out, "--dataloader_num_workers", workers, "--max_steps", "3"
        )
        losses.append(metrics["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("objective", ["mlm", "itm"])
def test_one_objective_alone(shapes, options, objective):
    other = "itm" if objective == "mlm" else "mlm"
    metrics = pretrain(shapes, options, "--objectives", objective, "--do_eval")
    assert f"eval_{objective}_loss" in metrics and f"eval_{other}_loss" not in metrics
    assert metrics["eval_loss"] == metrics[f"eval_{objective}_loss"]


def test_a_checkpoint_goes_on_with_other_objectives(shapes, options, tmp_path):
    pretrain(shapes, options)
    again = ["--output_dir", str(tmp_path / "again"), "--objectives", '{"mlm": 2, "contrastive": 1}', "--do_eval"]
    metrics = pretrain(shapes, options[2:-2], *again, model=["--model_name_or_path", str(tmp_path / "run")])
    assert metrics["eval_loss"] == pytest.approx(2 * metrics["eval_mlm_loss"] + metrics["eval_contrastive_loss"])
    assert "eval_itm_loss" not in metrics
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["objectives"] == {"mlm": 2, "contrastive": 1}


def test_frozen_towers_stay_as_they_were(shapes, options, tmp_path):
    pretrain(shapes, options, "--freeze", "vision", "--max_steps", "1", "--output_dir", str(tmp_path / "a"))
    pretrain(shapes, options, "--freeze", "vision", "--max_steps", "6", "--output_dir", str(tmp_path / "b"))
    one, six = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    for name in one:
        assert torch.equal(one[name], six[name]) == name.startswith("model.vision_encoder."), name


def test_pairs_of_images_and_captions(shapes):
    data = Dataset.from_parquet(str(shapes / "captions" / "train-00000-of-00001.parquet"))
    pairs = CaptionedImages(data, "shapes")
    assert len(pairs) == 128
    for index in (0, 5, 127):
        assert pairs[index]["text"] == data[index % 32]["captions"][index // 32]
        assert pairs[index]["image"].tobytes() == data[index % 32]["image"].tobytes()
    assert pairs[0]["image_id"] == pairs[32]["image_id"] != pairs[1]["image_id"]
    single = CaptionedImages(data.map(lambda row: {"captions": row["captions"][0]}, features=None), "single")
    assert len(single) == 32 and single[5]["text"] == data[5]["captions"][0]
    assert len(CaptionedImages(data, "shapes", limit=7)) == 7


def bad_runs(shapes: Path, tmp_path: Path) -> dict[str, tuple]:
    """What goes wrong in each case: the task, its options, and what the message must say."""
    captions, pairs = str(shapes / "captions"), str(shapes / "nlvr2")
    data = ["--train_datasets", captions]
    return {
        "missing folder": (
            Pretraining,
            [*TWO_TOWER, "--train_datasets", str(tmp_path / "no" / "where")],
            "nowhere|where",
        ),
        "folder without shards": (
            Pretraining,
            [*TWO_TOWER, "--train_datasets", str(tmp_path)],
            r"no train-\*\.parquet",
        ),
        "missing column": (
            Pretraining,
            [*TWO_TOWER, *data, "--captions_column", "txt"],
            "no column txt, only image, image_id",
        ),
        "no images": (
            Pretraining,
            [
                *TWO_TOWER,
                *data,
                "--image_column",
                "captions",
                "--captions_column",
                "image_id",
                "--image_id_column",
                "x",
            ],
            "no column x, only .*; expected images in column 'captions', found",
        ),
        "one column twice": (
            Pretraining,
            [*TWO_TOWER, *data, "--captions_column", "image"],
            "expected text in column 'image'",
        ),
        "image size 0": (
            Pretraining,
            [*TWO_TOWER, *data, "--image_size", "0"],
            "image_size: expected from 1 to 16384, got 0",
        ),
        "no room for text": (Pretraining, [*TWO_TOWER, *data, "--max_length", "2"], "max_length: expected at least 3"),
        "batch of one": (
            Pretraining,
            [*TWO_TOWER, *data, "--per_device_eval_batch_size", "1"],
            "per_device_eval_batch_size: .* at least 2 rows",
        ),
        "missing resume": (
            Pretraining,
            [*TWO_TOWER, *data, "--resume_from_checkpoint", str(tmp_path)],
            "resume_from_checkpoint .*: no whole checkpoint there",
        ),
        "swapped towers": (
            Pretraining,
            ["--text_encoder", "vit", "--random_init_text", "--vision_encoder", "bert", "--random_init_vision", *data],
            "vit configuration has no field|vit is no text encoder",
        ),
        "no vision tower": (
            Pretraining,
            [*TWO_TOWER[:5], "--vision_encoder", "imagegpt", "--random_init_vision", *data],
            "imagegpt cannot be a vision tower: it reads clusters of colours",
        ),
        "an image size that the encoder cannot take": (
            Pretraining,
            [*TWO_TOWER[:5], "--vision_encoder", "levit", "--random_init_vision", *data, "--image_size", "96"],
            "levit cannot be a vision tower on images of 96x96 pixels",
        ),
        "bad override": (
            Pretraining,
            [*TWO_TOWER, *data, "--text_overrides", '{"hidden_size": "wide"}'],
            "text encoder overrides .*'hidden_size' expected int",
        ),
        "tokenizer of a checkpoint": (
            NLVR2,
            ["--model_name_or_path", str(tmp_path), "--dataset", pairs],
            "tokenizer: without effect on a checkpoint",
        ),
        "a classifier that is not there": (
            Pretraining,
            [*TWO_TOWER, *data, "--classifier_dropout", "0"],
            "classifier_dropout: without effect on a model ForPreTraining",
        ),
        "objectives of finetuning": (
            NLVR2,
            [*TWO_TOWER, "--dataset", pairs, "--objectives", "mlm", "--tie_word_embeddings"],
            "objectives, tie_word_embeddings: without effect on a model ForImagesAndTextClassification",
        ),
        "an option of no objective": (
            Pretraining,
            [*TWO_TOWER, *data, "--objectives", "itm", "--tie_word_embeddings", "--contrastive_size", "8"],
            "tie_word_embeddings, contrastive_size: without effect on a model ForPreTraining with the objectives itm",
        ),
        "no data": (Pretraining, TWO_TOWER, "no data for train"),
        "no patch fits": (Pretraining, [*TWO_TOWER, *data, "--image_size", "40"], "40x40 .* patches of 16x16"),
        "text too long": (Pretraining, [*TWO_TOWER, *data, "--max_length", "600"], "600 tokens .* at most 512"),
        "unknown encoder": (
            Pretraining,
            ["--text_encoder", "no/such", "--vision_encoder", "vit", "--random_init_vision", *data],
            "text encoder 'no/such' not found",
        ),
        "encoder without weights": (
            Pretraining,
            ["--text_encoder", "bert", "--vision_encoder", "vit", *data],
            "'bert' has no pretrained weights",
        ),
        "unknown part": (
            Pretraining,
            [*TWO_TOWER, *data, "--freeze", "tower"],
            "freeze: expected text, vision, cross_modal, .*, got tower",
        ),
        "images are captions": (
            NLVR2,
            [
                *TWO_TOWER,
                "--dataset",
                captions,
                "--images_column",
                "image",
                "--text_column",
                "image_id",
                "--label_column",
                "captions",
            ],
            "expected lists of images",
        ),
        "no dataset": (NLVR2, TWO_TOWER, "dataset: expected a prepared folder"),
    }


@pytest.mark.parametrize("case", bad_runs(Path(), Path()))
def test_bad_input_ends_in_one_line(case, shapes, options, tmp_path, capsys):
    task, argv, message = bad_runs(shapes, tmp_path)[case]
    with pytest.raises(SystemExit) as error:
        run_task(task, "", [*options, *argv, "--do_train"])
    assert error.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]


def changed(shapes: Path, name: str, folder: Path, change) -> str:
    """A copy of a data set's training split whose rows (dicts) `change` has altered in place."""
    data = Dataset.from_parquet(str(shapes / name / "train-00000-of-00001.parquet"))
    rows = data.cast_column(
        *("image", Image(decode=False)) if name == "captions" else ("images", List(Image(decode=False)))
    )
    rows = rows.to_list()
    change(rows)
    Dataset.from_list(rows, features=data.features).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    return str(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nlvr2", lambda rows: rows[3]["images"].pop(), "row 3: expected 2 images in column 'images', got 1"),
        ("nlvr2", lambda rows: rows[2].update(text=None), r"row 2: column 'text' is empty \(null\)"),
        ("captions", lambda rows: rows[4].update(image=None), r"row 4: column 'image' is empty \(null\)"),
        ("captions", lambda rows: rows[5].update(captions=None), r"row 5: column 'captions' is empty \(null\)"),
        ("captions", lambda rows: rows[6]["captions"].append(None), r"row 6: column 'captions' is empty \(null\)"),
    ],
)
def test_rows_that_lack_something(name, change, message, shapes, options, tmp_path, capsys):
    data = changed(shapes, name, tmp_path, change)
    task, option = (NLVR2, "--dataset") if name == "nlvr2" else (Pretraining, "--train_datasets")
    with pytest.raises(SystemExit) as error:
        run_task(task, "", [*TWO_TOWER, *options, option, data, "--do_train"])
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_checkpoint_that_does_not_fit(shapes, options, tmp_path, capsys):
    argv = ["--model_name_or_path", str(tmp_path), "--dataset", str(shapes / "nlvr2"), *options[:-2], "--do_eval"]
    with pytest.raises(SystemExit):
        run_task(NLVR2, "", argv)
    assert "no checkpoint there" in capsys.readouterr().err
    pretrain(shapes, options, "--max_steps", "4", "--save_steps", "2")
    (tmp_path / "run" / "run_state.json").unlink()
    with pytest.raises(SystemExit):
        pretrain(shapes, options, "--cross_modal_layers", "2")
    assert "holds another model than the one that is asked for" in capsys.readouterr().err


def test_the_best_checkpoint_is_chosen_by_the_metric_of_the_task(shapes, options):
    argv = [*TWO_TOWER, *options, "--dataset", str(shapes / "nlvr2"), "--do_train", "--load_best_model_at_end"]
    argv += ["--eval_strategy", "epoch", "--save_strategy", "epoch"]
    trainer, *_ = prepare(NLVR2, "", argv)
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("eval_accuracy", True)
    trainer, *_ = prepare(NLVR2, "", [*argv, "--metric_for_best_model", "loss"])
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("loss", False)


def test_training_without_a_whole_batch_is_refused(shapes, options, capsys):
    few = ["--dataset", str(shapes / "nlvr2"), "--do_train", "--dataloader_drop_last", "true"]
    with pytest.raises(SystemExit):
        run_task(NLVR2, "", [*TWO_TOWER, *options, *few, "--max_train_samples", "7"])
    assert "dataloader_drop_last: would leave out all 7 rows of training data" in capsys.readouterr().err


def test_labels_outside_the_two(shapes, options, tmp_path, capsys):
    data = Dataset.from_parquet(str(shapes / "nlvr2" / "train-00000-of-00001.parquet"))
    rows = [*data["label"][:3], 7, *data["label"][4:]]
    data = data.remove_columns("label").add_column("label", rows)
    data.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    with pytest.raises(SystemExit):
        run_task(NLVR2, "", [*TWO_TOWER, *options, "--dataset", str(tmp_path), "--do_train"])
    assert (
        "row 3: expected one of the labels False, True, or its number, in column 'label', got 7"
        in capsys.readouterr().err
    )
