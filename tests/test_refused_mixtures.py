"""Mixtures of data sets that cannot be, and options that would do nothing on them: one line before anything runs."""

import argparse

import pytest
from conftest import TWO_TOWER
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from task_runs import mixture_argv

from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.pretraining_arguments import PretrainingArguments
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")


@pytest.mark.parametrize(
    ("sources", "objectives", "more", "message"),
    [
        ("corpus", ["itm"], [], "split 'train': its rows, with a text, do not serve itm; itm needs a text and an image"),
        ("corpus", ["mlm", "itm"], [], "objectives: no rows of split 'train' for itm (itm needs a text and an image), in "),
        ("captions corpus", ["mlm", "itm"], ["--train_objectives", "mlm+itm", "itm"], "its rows, with a text, do not serve itm; itm needs a text and an image"),
        ("captions corpus", ["mlm", "itm"], ["--train_objectives", "mlm+itm"], "train_objectives: expected 2 entries, one a data set, got 1"),
        ("captions corpus", ["mlm", "itm"], ["--train_objectives", "mlm+imt", "mlm"], "expected objectives of the run (mlm, itm) with + between them, got 'imt'"),
        ("captions corpus", ["mlm", "itm"], ["--train_objectives", "mlm", "mlm"], "train_objectives: no data set serves the objective itm"),
        ("captions corpus", ["mlm", "itm"], ["--train_objectives", "mlm+itm+mlm", "mlm"], "expected each objective once"),
        ("captions corpus", ["mlm"], ["--train_weights", "1", "0.01"], "train_weights: the share of "),
        ("captions corpus", ["mlm", "itm"], ["--train_weights", "1", "7"], "needs at least 2 rows, got 1"),
        ("captions", ["mlm"], ["--batches", "mixed"], "batches: without effect on fewer than two train_datasets"),
        ("captions corpus", ["mlm"], ["--batches", "mixt"], "--batches: invalid choice: 'mixt' (choose from 'shuffled', 'mixed', 'homogeneous')"),
        ("captions corpus", ["mlm", "itm"], ["--batches", "mixed", "--captions_per_image", "2"], "captions_per_image: without effect on batches that are mixed"),
        ("captions corpus", ["mlm", "itm"], ["--train_sampling_strategy", "group_by_length"], "train_sampling_strategy: group_by_length is without effect"),
        ("captions corpus", ["mlm"], ["--streaming", "--train_weights", "1", "1", "--batches", "mixed"], "batches: a stream has images with captions alone"),
        ("captions", ["mlm", "vqa"], ["--streaming"], "streaming: rows of a stream are images with captions, and vqa needs a text, an image and answers"),
        ("captions", ["mlm"], ["--streaming", "--text_column", "words"], "text_column: a stream has images with captions alone"),
        ("captions corpus", ["mlm"], ["--do_eval"], "eval_datasets: "),
        ("captions corpus", ["mlm"], ["--answers_column", "nope"], "answers_column: without effect, no data set of this run has such columns"),
        ("captions corpus", ["mlm"], ["--text_column", "nope"], "text_column: without effect"),
        ("corpus", ["mlm"], ["--image_column", "picture", "--image_id_column", "id"], "image_column, image_id_column: without effect"),
        ("corpus", ["mlm"], ["--download_images"], "download_images: without effect"),
        ("captions gone.txt", ["mlm"], [], "gone.txt: no such file"),
        ("captions corpus", ["mlm", "itm"], ["--ddp_find_unused_parameters", "false"], "ddp_find_unused_parameters: "),
    ],
)  # fmt: skip
def test_mixtures_that_cannot_be_are_refused(sources, objectives, more, message, shapes, corpus, options, refused):
    known = {"captions": shapes / "captions", "corpus": corpus[0]}
    argv = mixture_argv(options, *(known.get(name, name) for name in sources.split()), objectives=objectives)
    assert message in refused(run_task, Pretraining, "", [*argv, *more])


def test_columns_of_one_data_set_of_several_are_no_mistake(shapes, corpus, options, tmp_path):
    """Nor those of a training data set, in an evaluation of another alone."""
    renamed = tmp_path / "renamed"
    Dataset.from_dict({"words": ["how many ?"] * 9}).to_parquet(renamed / "train-00000-of-00001.parquet")
    argv = [*mixture_argv(options, renamed, shapes / "captions", corpus[0]), "--text_column", "words"]
    _, _, data, _ = prepare(Pretraining, "", argv)
    assert len(data["train"].data.parts[0]) == 9
    evaluated = [*TWO_TOWER, *options, "--objectives", "mlm", "--do_eval", "--eval_datasets", str(shapes / "captions")]
    _, _, data, _ = prepare(Pretraining, "", [*evaluated, "--text_column", "words"])
    assert len(data["validation"]) > 0


def test_a_column_that_is_read_may_be_named_by_either_of_its_options(scenes, options):
    """The expressions of RefCOCO are texts by themselves, and captions for who says so."""
    read = []
    for more in ([], ["--captions_column", "text"], ["--text_column", "text"]):
        argv = [*mixture_argv(options, scenes / "refcoco", objectives=("mlm",)), *more]
        _, _, data, _ = prepare(Pretraining, "", argv)
        read.append([data["train"][number]["text"] for number in range(4)])
    assert read[0] == read[1] == read[2]
    assert len(set(read[0])) > 1


def test_a_data_set_is_the_same_however_its_folder_is_written(shapes):
    """Rows of evaluation serve what those of training serve."""
    folder = str(shapes / "captions")
    arguments = PretrainingArguments(
        train_datasets=[folder], train_objectives=["mlm"], eval_datasets=[f"{shapes}/../{shapes.name}//captions/", "a"]
    )
    sources = arguments.sources("validation", ["mlm"])
    assert [source.objectives for source in sources] == [("mlm",), None]


def test_a_folder_is_no_text_file_whatever_its_name(shapes, tmp_path, options):
    folder = tmp_path / "captions.txt"
    folder.symlink_to(shapes / "captions")
    _, _, data, _ = prepare(Pretraining, "", mixture_argv(options, folder, objectives=("mlm", "itm")))
    assert "image" in data["train"][0]


def test_a_column_is_called_by_its_own_name(tmp_path, scenes, options, refused):
    """An expression in the column text is no caption."""
    rows = Dataset.from_parquet(str(scenes / "refcoco" / "train-*.parquet")).select(range(6))
    rows = rows.map(lambda row, number: {"text": None if number == 2 else row["text"]}, with_indices=True)
    rows.to_parquet(tmp_path / "refcoco" / "train-00000-of-00001.parquet")
    line = refused(run_task, Pretraining, "", mixture_argv(options, tmp_path / "refcoco", objectives=("grounding",)))
    assert "row 2: " in line and "column 'text'" in line and "captions" not in line


def test_texts_in_a_column_of_another_name_are_told_of_the_option_for_them(tmp_path, options, refused):
    Dataset.from_dict({"content": ["how many ?"] * 9}).to_parquet(tmp_path / "texts" / "train-00000-of-00001.parquet")
    line = refused(run_task, Pretraining, "", mixture_argv(options, tmp_path / "texts"))
    assert "only content; " in line and "if its rows are texts alone, name their column with --text_column" in line
    line = refused(run_task, Pretraining, "", mixture_argv(options, tmp_path / "texts", objectives=("itm",)))
    assert "--text_column" not in line


def test_classes_that_a_checkpoint_lacks_are_told_as_its_own(scenes, options, tmp_path, refused):
    run_task(Pretraining, "", mixture_argv(options, scenes / "cifar10", steps=1, objectives=("classification",)))
    rows = {"image": [Image.new("RGB", (32, 32), (9 * number, 0, 0)) for number in range(9)], "label": ["whale"] * 9}
    data = Dataset.from_dict(rows).cast_column("image", ImageFeature())
    data.to_parquet(tmp_path / "sea" / "train-00000-of-00001.parquet")
    argv = [*options[:-2], "--output_dir", str(tmp_path / "again"), "--model_name_or_path", str(tmp_path / "run")]
    argv += ["--do_train", "--train_datasets", str(tmp_path / "sea")]
    line = refused(run_task, Pretraining, "", argv)
    assert "the objective classification does not know, 'whale': the checkpoint's head has none such" in line


def test_an_option_on_answers_that_a_checkpoint_keeps_is_said_to_do_nothing(scenes, options, tmp_path, caplog):
    asked = ["--vqa_min_answer_count", "1"]
    run_task(Pretraining, "", [*mixture_argv(options, scenes / "vqav2", steps=1, objectives=("vqa",)), *asked])
    # All but the tokenizer, which the checkpoint brings.
    again = [*options[:-2], "--output_dir", str(tmp_path / "again"), "--model_name_or_path", str(tmp_path / "run")]
    caplog.clear()
    again += ["--do_train", "--max_steps", "1", "--train_datasets", str(scenes / "vqav2")]
    prepare(Pretraining, "", [*again, *asked])
    assert "vqa_min_answer_count: without effect, the checkpoint's vqa_answers are kept" in caplog.text


def test_an_ablation_needs_data_that_serves_its_objective(shapes, scenes, options, tmp_path, refused):
    sources = [shapes / "captions", scenes / "vqav2"]
    serving = ["--train_objectives", "mlm", "vqa"]
    argv = [*mixture_argv(options, *sources, steps=1, objectives=("mlm", "vqa")), *serving]
    run_task(Pretraining, "", [*argv, "--vqa_min_answer_count", "1"])
    evaluated = [
        *options[:-2],
        *serving,
        "--train_datasets",
        *map(str, sources),
        "--do_eval",
        "--ablation",
        "image_removed",
    ]
    evaluated += ["--model_name_or_path", str(tmp_path / "run"), "--eval_datasets", str(scenes / "vqav2")]
    line = refused(run_task, Pretraining, "", evaluated)
    assert "serves vqa by train_objectives, and the run evaluates mlm; name other data" in line


def test_processes_that_share_weights_evaluate_rows_of_one_kind(shapes, corpus, options):
    """At the border of two data sets they would wait for each other for ever."""
    argv = [*mixture_argv(options, shapes / "captions", corpus[0], objectives=("mlm", "itm"))]
    _, task, data, _ = prepare(Pretraining, "", argv)
    parts = data["train"].data.parts
    task.check_evaluated(parts)
    task.shares_weights = True
    task.check_evaluated(parts[:1])
    with pytest.raises(
        ValueError, match=r"^eval_datasets: .*captions \(mlm, itm\), .*corpus.txt \(mlm\); evaluate one"
    ):
        task.check_evaluated(parts)


def test_processes_that_wait_for_each_other_have_batches_of_one_kind(shapes, corpus, options):
    """Others would wait for each other for ever."""
    argv = mixture_argv(options, shapes / "captions", corpus[0], objectives=("mlm", "contrastive"))
    _, task, data, _ = prepare(Pretraining, "", [*argv, "--batches", "shuffled"])
    parts, several = data["train"].data.datasets, argparse.Namespace(world_size=2, ddp_static_graph=False)
    several.ddp_find_unused_parameters = several.deepspeed = several.fsdp = None
    with pytest.raises(
        ValueError, match=r"^batches: contrastive compares the rows of all 2 processes, and shuffled batches"
    ):
        task.settle_processes(parts, several)
    task.objectives = task.objectives[:1]
    several.deepspeed = "zero3"
    with pytest.raises(ValueError, match="deepspeed zero3 waits for all of them; expected mixed or homogeneous"):
        task.settle_processes(parts, several)
    task.data_arguments.batches = "mixed"
    task.settle_processes(parts, several)
    assert several.ddp_find_unused_parameters
