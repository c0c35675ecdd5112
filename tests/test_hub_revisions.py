"""Revisions: models of certain steps, each with a tag, whatever stops a run on the way; against a server on this machine."""

from types import SimpleNamespace

import pytest
from conftest import TWO_TOWER
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from hub import WEIGHTS, WHOLE, pretrain_and_push
from hub_server import TOKEN, new_commit
from PIL import Image
from torch.utils.data import ConcatDataset

from renaissance import hub as hub_of_run
from renaissance.hub import Revision, parse_revisions
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import MaskedTextData
from renaissance.tasks import pushing
from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.unpaired import ImagesAlone, TextsAlone
from renaissance.tasks.preparation import check_revisions
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.pretraining_arguments import PretrainingArguments
from renaissance.tasks.pushing import PushingTrainer
from renaissance.tasks.runner import run_task


def test_revisions_are_pushed_when_their_counts_are_reached(hub, shapes, tokenizer_folder, tmp_path, caplog):
    """Six steps of eight captions; revisions hold the weights of the steps that reach their counts."""
    extra = ["--hub_strategy", "all_checkpoints", "--hub_always_push", "true", "--save_steps", "1"]
    revisions = ["2", "samples:24", "samples:25=after-25", "words:1", "words:1M=chck_1M"]
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra, "--push_revisions", *revisions)
    repository = hub.model("author/run")
    steps = {"steps-2": 2, "samples-24": 3, "after-25": 4, "words-1": 1}
    assert repository.tags.keys() == steps.keys() and repository.branches.keys() == {"main", "revisions"}
    last = repository.branches["main"][-1].files
    for name, step in steps.items():
        commit = repository.find(name)
        assert commit in repository.branches["revisions"] and commit not in repository.branches["main"]
        # Nothing but a model, whatever main held when the branch began.
        assert commit.files.keys() >= WHOLE and not [path for path in commit.files if "/" in path]
        assert commit.files["model.safetensors"] == last[f"checkpoint-{step}/model.safetensors"]
    assert "chck_1M was not reached" in caplog.text


@pytest.mark.slow
def test_words_seen_are_those_of_the_texts(hub, shapes, tokenizer_folder, tmp_path, monkeypatch):
    seen = []
    counted = PushingTrainer.count_words
    monkeypatch.setattr(
        PushingTrainer,
        "count_words",
        lambda self, batch: (
            seen.append((self.processing_class.tokenizer.batch_decode(batch["input_ids"]), counted(self, batch)))
            or seen[-1][1]
        ),
    )
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, "--push_revisions", "words:5")
    specials = ("[CLS]", "[SEP]", "[PAD]")
    assert len(seen) == 6
    for texts, words in seen:
        assert words == sum(word not in specials for text in texts for word in text.split()) > 8


@pytest.mark.slow
def test_a_resumed_run_goes_on_counting(hub, shapes, tokenizer_folder, tmp_path):
    revisions = ["--push_revisions", "samples:16=early", "samples:40=late"]
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, "--save_steps", "3", *revisions)
    run, repository = tmp_path / "run", hub.model("author/run")
    early, late = repository.tags["early"], repository.find("late")
    for done in ("run_state.json", "model.safetensors"):
        (run / done).unlink()
    (run / "checkpoint-6" / "trainer_state.json").unlink()
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, "--save_steps", "3", *revisions)
    assert repository.tags["early"] == early
    # The tag has moved to the model that was trained again, which is the same.
    again = repository.find("late")
    assert again.sha != late.sha and again.files["model.safetensors"] == late.files["model.safetensors"]
    titles = [commit.title for commit in repository.branches["revisions"]]
    assert titles.count("After 16 samples") == 1 and titles.count("After 40 samples") == 2


def interrupt(*args) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("killed_at", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_revision_that_a_killed_run_has_saved_is_pushed_once(
    hub, shapes, tokenizer_folder, tmp_path, monkeypatch, killed_at
):
    """The run goes on from step 1, or from step 3, and comes to the revision again."""
    run = tmp_path / "run"
    extra = ["--save_steps", "1" if killed_at == 2 else "3", "--push_revisions", f"{killed_at}=killed", "5"]
    with monkeypatch.context() as killing:
        killing.setattr("renaissance.tasks.pushing.PushingTrainer._push_staged_revision", interrupt)
        with pytest.raises(SystemExit) as stopped:
            pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra)
    assert stopped.value.code == 130 and (run / "_revision-killed").is_dir()
    repository = hub.model("author/run")
    assert repository.branches.keys() == {"main"} and not repository.tags
    weights = (run / "_revision-killed" / WEIGHTS).read_bytes()
    (run / "_push-cut_off").mkdir()
    (run / "_revision-of_other_options").mkdir()
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra)
    assert repository.branches.keys() == {"main", "revisions"} and repository.tags.keys() == {"killed", "steps-5"}
    titles = [commit.title for commit in repository.branches["revisions"]]
    assert titles.count(f"After {killed_at} steps") == 1 and titles.count("After 5 steps") == 1
    files = repository.find("killed").files
    assert files[WEIGHTS] == weights and files.keys() >= WHOLE
    assert not list(run.glob("_*"))


@pytest.mark.slow
@pytest.mark.parametrize("stopped_in", ["create_tag", "delete_tag", "after"])
def test_a_run_that_stops_around_a_tag_sets_it_when_it_goes_on(
    hub, shapes, tokenizer_folder, tmp_path, monkeypatch, stopped_in
):
    """It stops before the tag is set, between taking it off an older model and setting it, or before its folder is deleted."""
    extra = ["--save_steps", "3", "--push_revisions", "4=early"]
    if stopped_in == "delete_tag":
        pretrain_and_push(tmp_path / "older", shapes, tokenizer_folder, *extra, "--seed", "7")
    repository = hub.model("author/run") if stopped_in == "delete_tag" else None
    older = repository and repository.find("early").files[WEIGHTS]
    run, ends = tmp_path / "run", []

    def set_tag(api, *args, **kwargs):
        if stopped_in == "after":
            hub_of_run.set_tag(api, *args, **kwargs)
        elif stopped_in == "delete_tag":
            api.delete_tag(args[0], tag="early")
        ends.append(run / "_revision-early")
        raise SystemExit(9)

    with monkeypatch.context() as stopping:
        stopping.setattr("renaissance.tasks.pushing.set_tag", set_tag)
        # What is pushed in the background ends the run, as a kill would.
        stopping.setattr("renaissance.tasks.pushing.PushingTrainer.in_background", PushingTrainer.commit)
        with pytest.raises(SystemExit) as stopped:
            pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra)
    assert stopped.value.code == 9 and ends[0].is_dir()
    weights = (ends[0] / WEIGHTS).read_bytes()
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra)
    found = hub.model("author/run").find("early")
    assert found.files[WEIGHTS] == weights != older and found.title == "After 4 steps"
    assert not list(run.glob("_*"))


@pytest.mark.slow
def test_a_new_run_moves_the_tags_of_an_older_one(hub, shapes, tokenizer_folder, tmp_path):
    weights = []
    for seed in ("1", "2"):
        extra = ["--seed", seed, "--max_steps", "2", "--push_revisions", "1"]
        pretrain_and_push(tmp_path / seed, shapes, tokenizer_folder, *extra)
        weights.append(hub.model("author/run").find("steps-1").files[WEIGHTS])
    assert weights[0] != weights[1] and hub.model("author/run").tags.keys() == {"steps-1"}
    # Commits stay, for those who have named them.
    assert weights == [each.files[WEIGHTS] for each in hub.model("author/run").branches["revisions"][-2:]]


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        (["--push_revisions", "1", "2"], "push_revisions: 'steps-2' is a tag of author/run already"),
        (["--push_revisions", "1", "2=of-main"], "push_revisions: 'of-main' is a tag of author/run already"),
        (["--push_revisions", "1=old"], "push_revisions: 'old' is a branch of author/run"),
        (["--push_revisions", "1=new", "--hub_revision", "new"], "push_revisions: 'new' is a branch of author/run"),
        (["--push_revisions", "1", "--hub_revision", "revisions"], "hub_revision: 'revisions' is the branch of push"),
        (["--hub_revision", "steps-2"], "hub_revision: 'steps-2' is a tag of author/run"),
    ],
)
def test_a_name_that_means_something_else_is_refused_before_training(
    hub, shapes, tokenizer_folder, tmp_path, capsys, monkeypatch, extra, fault
):
    """Such as a tag that its author has set, also if the branch of revisions began after its commit."""
    repository = hub.add("author/run", {})
    main = repository.branches["main"]
    repository.branches |= {
        "old": list(main),
        "revisions": [*main, new_commit("mine", {}, ""), new_commit("After 1 steps", {}, "")],
    }
    repository.tags |= {"of-main": main[-1].sha, "steps-2": repository.branches["revisions"][-2].sha}
    repository.tags["steps-1"] = repository.branches["revisions"][-1].sha
    monkeypatch.setattr("renaissance.tasks.trainer.RenaissanceTrainer.train", None)
    with pytest.raises(SystemExit) as stopped:
        pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra)
    assert stopped.value.code == 2 and fault in capsys.readouterr().err
    assert not [path for _, path in hub.requests if "/commit/" in path]


def test_a_revision_is_a_count_of_something():
    assert parse_revisions(["1000", "steps:2K", "samples:1.5M", "Words:10m", "words:1B=chck_1B"]) == [
        Revision("steps-1000", "steps", 1000),
        Revision("steps-2K", "steps", 2000),
        Revision("samples-1.5M", "samples", 1_500_000),
        Revision("words-10M", "words", 10_000_000),
        Revision("chck_1B", "words", 1_000_000_000),
    ]


@pytest.mark.parametrize(
    "entries",
    [
        ["tokens:1M"],
        ["words:"],
        ["0"],
        ["0.5"],
        ["-1"],
        ["1.0005K"],
        ["1X"],
        ["1=main"],
        ["1=a/b"],
        ["1=.."],
        ["1=x.lock"],
        ["5", "5"],
        ["5", "steps:5"],
        ["1=a", "2=a"],
        ["words:1M=\n"],
        [""],
        ["1="],
        ["nan"],
        ["1=-x"],
        ["1=HEAD"],
        ["1=revisions"],
        [f"1={'0a' * 20}"],
    ],
)
def test_a_revision_that_cannot_be_read_is_refused(entries):
    with pytest.raises(ValueError, match=r"^push_revisions: ") as error:
        parse_revisions(entries)
    assert "\n" not in str(error.value).replace("\\n", "")


def test_revisions_need_a_push_and_words_need_texts(hub, options, refused, tmp_path):
    with pytest.raises(ValueError, match="push_revisions: without effect without push_to_hub"):
        RunArguments(output_dir=str(tmp_path), do_train=True, push_revisions=["5"])
    rows = {"image": [Image.new("RGB", (32, 32))] * 4, "label": [0, 1] * 2}
    data = tmp_path / "pictures"
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["cat", "dog"])})
    Dataset.from_dict(rows, features=features).to_parquet(str(data / "train-00000-of-00001.parquet"))
    argv = [*TWO_TOWER, *options, "--dataset", str(data), "--do_train", "--push_to_hub", "--token", TOKEN]
    assert "this task has no text" in refused(run_task, CIFAR10, "", [*argv, "--push_revisions", "words:1"])


def test_words_of_masked_texts_are_counted(processor):
    """A batch of mlm alone has no other copy of its texts than the masked one."""
    texts = ["a red circle", "two large green squares and a star"]
    rows = [{"text": text, "sample_id": number, "epoch": 0} for number, text in enumerate(texts)]
    batch = PretrainingCollator(processor, [MaskedTextData(mlm_probability=0.6)])(rows)
    assert "input_ids" not in batch and (batch["mlm_input_ids"] == processor.tokenizer.mask_token_id).any()
    assert len(pushing.rows_of(batch)) == 2
    assert PushingTrainer.count_words(SimpleNamespace(processing_class=processor), batch) == 10


def test_words_are_counted_if_any_data_set_has_texts():
    """Images alone may come first."""
    pixels = Dataset.from_dict({"image": [Image.new("RGB", (8, 8))] * 4, "image_id": list("abcd")})
    images, texts = (
        ImagesAlone(pixels, "images", None, ()),
        TextsAlone(Dataset.from_dict({"text": ["a"] * 4}), "texts"),
    )
    args = SimpleNamespace(do_train=True, push_revisions=["words:1"], max_steps=1, rows_a_step=4)
    task = Pretraining(PretrainingArguments(train_datasets=["x"]))
    check_revisions(args, task, {"train": KeyedRows(ConcatDataset([images, texts]), True)})
    with pytest.raises(ValueError, match="this task has no text"):
        check_revisions(args, task, {"train": KeyedRows(ConcatDataset([images]), True)})
