"""Pushes to the Hub, what they hold and what they do not, and mistakes on the way to it, against a server on this machine."""

import json
import socket
import sys

import pytest
import torch
import yaml
from conftest import TWO_TOWER, tiny_model, without
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from hub import pretrain_and_push, serve, write_files
from hub_server import TOKEN, new_commit
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load, load_file, save

from renaissance import hub as hub_of_run
from renaissance.hub import SECONDS_OF_A_PUSH, Revision, limit_waiting, parse_revisions, reason, shareable
from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.checkpoints import fault_of
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.pushing import PushingTrainer
from renaissance.tasks.runner import run_task


WEIGHTS = "model.safetensors"

#: What a commit must hold for others to load it.
WHOLE = {
    "README.md",
    "config.json",
    "model.safetensors",
    "modeling_two_tower.py",
    "processing_renaissance.py",
    "tokenizer.json",
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = serve(monkeypatch, tmp_path / "home")
    yield server
    server.close()


@pytest.mark.parametrize(
    "strategy",
    ["checkpoint", *(pytest.param(name, marks=pytest.mark.slow) for name in ("end", "every_save", "all_checkpoints"))],
)
def test_every_commit_is_whole(hub, shapes, tokenizer_folder, tmp_path, strategy):
    extra = ["--hub_strategy", strategy, "--hub_always_push", "true", "--save_steps", "2", "--save_total_limit", "1"]
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra)
    _, *commits = hub.model("author/run").branches["main"]
    during = [] if strategy == "end" else [f"Training in progress, step {step}" for step in (2, 4, 6)]
    assert [commit.title for commit in commits] == [*during, "Model save", "End of training"]
    for commit in commits:
        assert commit.files.keys() >= WHOLE | {"run.yaml"}
        assert b"author/run" in commit.files["README.md"]
    folders = {path.rpartition("/")[0] for path in commits[-1].files}
    expected = {
        "checkpoint": {"", "last-checkpoint"},
        "all_checkpoints": {"", *(f"checkpoint-{n}" for n in (2, 4, 6))},
    }
    assert folders == expected.get(strategy, {""})
    if strategy == "checkpoint":
        # Weights at the root and in the checkpoint beside them are of one step.
        for commit in commits[:3]:
            assert commit.files["model.safetensors"] == commit.files["last-checkpoint/model.safetensors"]
            assert "last-checkpoint/optimizer.pt" in commit.files
            # Training can go on from it elsewhere.
            for path, content in commit.files.items():
                if path.startswith("last-checkpoint/"):
                    copy = tmp_path / commit.title / path
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(content)
            assert fault_of(tmp_path / commit.title / "last-checkpoint") is None
            assert {"run_state.json", "manifest.json"}.isdisjoint(commit.files)
    assert not list((tmp_path / "run").glob("_*"))


def test_nothing_pushed_or_saved_tells_the_token_or_where_things_are(
    hub, shapes, tokenizer_folder, tmp_path, capsys, caplog
):
    sys.argv += ["--token", TOKEN]
    extra = ["--hub_strategy", "checkpoint", "--hub_always_push", "true", "--save_steps", "3", "--hub_token", TOKEN]
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra, "--hub_model_id", "author/run")
    commits = hub.model("author/run").branches["main"]
    assert len(commits) == 5
    for commit in commits:
        assert not any(path.endswith("training_args.bin") for path in commit.files)
        for path, content in commit.files.items():
            assert TOKEN.encode() not in content and str(tmp_path.parent).encode() not in content, path
    saved = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in saved)
    assert not [path for path in saved if TOKEN.encode() in path.read_bytes()]
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err + caplog.text + " ".join(sys.argv)


@pytest.mark.slow
def test_the_pushed_recipe_repeats_the_run_for_somebody_else(hub, shapes, tokenizer_folder, tmp_path, monkeypatch):
    pretrain_and_push(
        tmp_path, shapes, tokenizer_folder, "--hub_model_id", "laboratory/model", "--hub_private_repo", "true"
    )
    files = hub.model("laboratory/model").branches["main"][-1].files
    recipe = yaml.safe_load(files["run.yaml"])
    assert not [name for name in recipe if name.startswith(("hub_", "push_")) or "token" in name.split("_")]
    # Somebody else has the same data and tokenizer in the current folder, and no account.
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / recipe["train_datasets"][0]).symlink_to(shapes / "captions")
    (stranger / recipe["tokenizer"]).symlink_to(tokenizer_folder)
    (stranger / "run.yaml").write_bytes(files["run.yaml"])
    monkeypatch.chdir(stranger)
    monkeypatch.setenv("HF_TOKEN", "")
    before = len(hub.requests)
    run_task(Pretraining, "", ["run.yaml"])
    assert len(hub.requests) == before
    again = (stranger / "outputs" / "model" / "model.safetensors").read_bytes()
    assert again == files["model.safetensors"]


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


def test_a_server_that_never_answers_is_given_up(
    hub, shapes, tokenizer_folder, tmp_path, capsys, refused, monkeypatch
):
    monkeypatch.setattr("renaissance.hub.SECONDS", 0.3)
    hub.broken = lambda method, path: -1
    assert "no connection" in refused(run_task, NLVR2, "", finetune(shapes, tmp_path, "author/model"))
    try:
        with pytest.raises(SystemExit) as stopped:
            pretrain_and_push(tmp_path, shapes, tokenizer_folder)
    finally:
        limit_waiting(SECONDS_OF_A_PUSH)
    assert stopped.value.code == 2 and "push_to_hub: no connection" in capsys.readouterr().err
    # Once for the model, once for the push: nothing is tried again.
    assert len(hub.requests) == 2


@pytest.mark.slow
@pytest.mark.parametrize("part", ["branch", "commit", "tag"])
def test_a_push_that_fails_does_not_end_training(hub, shapes, tokenizer_folder, tmp_path, caplog, part):
    """The revision comes late, with what it should have held."""
    at = f"/{part}/"
    hub.broken = lambda method, path: 400 * (at in path and sum(at in p for _, p in hub.requests) == 1)
    extra = ["--push_revisions", "2", "--save_steps", "2"]
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra)
    assert "'After 2 steps' was not pushed" in caplog.text and "Training goes on" in caplog.text
    weights = (tmp_path / "run" / "checkpoint-2" / "model.safetensors").read_bytes()
    assert hub.model("author/run").find("steps-2").files["model.safetensors"] == weights


@pytest.mark.slow
def test_a_last_push_that_fails_says_where_the_model_is(hub, shapes, tokenizer_folder, tmp_path, capsys):
    hub.broken = lambda method, path: 400 * ("/commit/" in path)
    with pytest.raises(SystemExit) as stopped:
        pretrain_and_push(tmp_path, shapes, tokenizer_folder, "--hub_strategy", "every_save", "--save_steps", "3")
    assert stopped.value.code == 1
    error = next(line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert "push_to_hub" in error and str(tmp_path / "run") in error
    assert load_file(tmp_path / "run" / "model.safetensors")


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


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        (["--push_revisions", "7"], "ends after 6"),
        (["--push_revisions", "samples:49"], "ends after 48"),
        (["--push_revisions", "x"], "push_revisions: expected"),
        (["--hub_model_id", "somebody/run"], "writes for author, laboratory, not somebody"),
        (["--token", "hf_another"], "does not accept this access token"),
        (["--token", ""], "token: expected an access token"),
        (["--model_revision", "v1"], "model_revision: without effect"),
    ],
)
def test_a_push_that_cannot_be_is_refused_before_training(
    hub, shapes, tokenizer_folder, tmp_path, capsys, monkeypatch, extra, fault
):
    monkeypatch.setattr("renaissance.tasks.trainer.RenaissanceTrainer.train", None)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        pretrain_and_push(tmp_path, shapes, tokenizer_folder, *extra)
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1 and fault in errors[0]
    assert not hub.repositories


@pytest.mark.parametrize(
    ("token", "offline", "fault"), [(False, False, "no access token"), (True, True, "HF_HUB_OFFLINE")]
)
def test_a_push_without_token_or_network_is_refused(hub, shapes, options, refused, monkeypatch, token, offline, fault):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    argv = [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--do_train", "--push_to_hub"]
    assert fault in refused(run_task, Pretraining, "", [*argv, *(["--token", TOKEN] if token else [])])


def test_revisions_need_a_push_and_words_need_texts(hub, options, refused, tmp_path):
    with pytest.raises(ValueError, match="push_revisions: without effect without push_to_hub"):
        RunArguments(output_dir=str(tmp_path), do_train=True, push_revisions=["5"])
    rows = {"image": [Image.new("RGB", (32, 32))] * 4, "label": [0, 1] * 2}
    data = tmp_path / "pictures"
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["cat", "dog"])})
    Dataset.from_dict(rows, features=features).to_parquet(str(data / "train-00000-of-00001.parquet"))
    argv = [*TWO_TOWER, *options, "--dataset", str(data), "--do_train", "--push_to_hub", "--token", TOKEN]
    assert "this task has no text" in refused(run_task, CIFAR10, "", [*argv, "--push_revisions", "words:1"])


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def files_of(processor, folder, architecture: str = "two-tower", kind: str = "ForImagesAndTextClassification"):
    """The files of a tiny model and its processor."""
    model = tiny_model(architecture, kind)
    model.config.id2label, model.config.label2id = {0: "False", 1: "True"}, {"False": 0, "True": 1}
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def shelf(processor, tmp_path_factory):
    """A server with good models and bad ones."""
    home = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as monkeypatch:
        server = serve(monkeypatch, home)
        model = files_of(processor, home / "two")
        other = files_of(processor, home / "one", "one-tower-text")
        weights = {name.replace("cross_modal_layers", "fusion"): value for name, value in load(model[WEIGHTS]).items()}
        config = json.loads(model["config.json"])
        foreign = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
        repository = server.add("author/model", model)
        repository.tags["v1"] = repository.branches["main"][-1].sha
        # What is on the branch main by now has no weights.
        repository.branches["main"].append(new_commit("later", without(model, WEIGHTS), ""))
        server.add("author/private", model, private=True)
        server.add("author/bert", {"config.json": b'{"model_type": "bert"}'})
        server.add(
            "author/foreign", {"config.json": json.dumps(foreign).encode(), "theirs.py": b"raise SystemExit(3)"}
        )
        server.add("author/empty", {"README.md": b"nothing yet"})
        # Weights under the names of another time, of another architecture, and a field of another type.
        server.add("author/older", model | {WEIGHTS: save(weights, {"format": "pt"})})
        server.add("author/mixed", model | {WEIGHTS: other[WEIGHTS]})
        server.add(
            "author/fields", model | {"config.json": json.dumps(config | {"cross_modal_layers": "two"}).encode()}
        )
        server.add("author/text", {"data.txt": b"not images"}, kind="datasets")
        yield server
        server.close()


def finetune(shapes, tmp_path, name: str, *extra: str) -> list[str]:
    argv = ["--model_name_or_path", name, "--dataset", str(shapes / "nlvr2"), "--do_eval"]
    argv += ["--output_dir", str(tmp_path / "run"), "--report_to", "none", "--use_cpu", "--disable_tqdm", "true"]
    return [*argv, *extra]


@pytest.mark.parametrize(
    "named", [["author/model", "--model_revision", "v1"], ["author/model@v1"], ["author/private", "--token", TOKEN]]
)
def test_a_revision_and_a_private_model_are_evaluated(shelf, shapes, tmp_path, monkeypatch, named):
    monkeypatch.setenv("HF_TOKEN", "")
    assert run_task(NLVR2, "", finetune(shapes, tmp_path, *named))["eval_rows"] > 0


@pytest.mark.parametrize(
    ("name", "extra", "fault"),
    [
        ("author/absent", [], "no such repository"),
        ("author/private", [], "no such repository, or a private or gated one"),
        ("author/model", ["--model_revision", "v9"], "no such revision"),
        ("author/model@v9", [], "no such revision"),
        ("author/model@v9", ["--model_revision", "v8"], "names another"),
        ("author/model", [], "weights are missing"),
        ("author/bert", [], "is a bert model; expected a Renaissance checkpoint"),
        ("author/foreign", [], "no checkpoint there"),
        ("author/empty", [], "no checkpoint there"),
        ("author/older", [], "an older format"),
        ("author/mixed", [], "an older format"),
        ("author/fields", [], "no checkpoint there"),
        ("no/such/folder", [], "no such folder"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(
    shelf, shapes, tmp_path, refused, monkeypatch, name, extra, fault
):
    monkeypatch.setenv("HF_TOKEN", "")
    assert fault in refused(run_task, NLVR2, "", finetune(shapes, tmp_path, name, *extra))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("author/absent", "no such repository"),
        ("author/text@v9", "no such revision"),
        ("no/such/folder", "no such folder"),
    ],
)
def test_a_data_set_that_is_not_there_is_refused(shelf, shapes, tmp_path, refused, source, fault):
    argv = finetune(shapes, tmp_path, "author/model@v1")
    argv[argv.index("--dataset") + 1] = source
    error = refused(run_task, NLVR2, "", argv)
    assert fault in error and "data set" in error


def test_no_network_is_said_at_once(hub, shapes, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    error = refused(run_task, NLVR2, "", finetune(shapes, tmp_path, "author/model"))
    assert "model_name_or_path" in error and "no connection" in error


def test_code_of_others_runs_only_if_it_is_asked_for(hub, shapes, processor, tmp_path, refused, monkeypatch):
    """Not even where somebody, or a script, would answer y."""
    import io

    marker = tmp_path / "it ran"
    code = f"open({str(marker)!r}, 'w')\nraise ValueError('no tokenizer after all')".encode()
    remote = {"auto_map": {"AutoConfig": "theirs.Config", "AutoTokenizer": ["theirs.Tokenizer", None]}}
    files = {"config.json": json.dumps({"model_type": "theirs", **remote}).encode(), "theirs.py": code}
    files["tokenizer_config.json"] = json.dumps(remote).encode()
    hub.add("author/theirs", files)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    argv = [
        "--output_dir",
        str(tmp_path / "run"),
        "--train_datasets",
        str(shapes / "captions"),
        "--do_train",
        "--use_cpu",
    ]
    named = [*argv, *TWO_TOWER, "--tokenizer", "author/theirs"]
    assert "trust_remote_code" in refused(run_task, Pretraining, "", named)
    encoder = [*argv, "--text_encoder", "author/theirs", *TWO_TOWER[5:], "--tokenizer", "author/theirs"]
    assert "trust_remote_code" in refused(run_task, Pretraining, "", encoder)
    refused(run_task, NLVR2, "", finetune(shapes, tmp_path, "author/theirs"))
    assert not marker.exists()
    refused(run_task, Pretraining, "", [*named, "--trust_remote_code"])
    assert marker.exists()


def test_records_of_a_run_are_shared_without_the_author(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {
        "push_to_hub": True,
        "hub_model_id": "a/b",
        "hub_token": "x",
        "seed": 1,
        "data": [str(tmp_path / "d" / "e"), "/x/y"],
    }
    assert shareable({"options": options, "best": "/x/run/checkpoint-2"}) == {
        "options": {"seed": 1, "data": ["d/e", "y"]},
        "best": "checkpoint-2",
    }


def test_weights_survive_the_push_of_a_model(hub, processor, tmp_path):
    """`model.push_to_hub` and `processor.push_to_hub`, without a run."""
    model = tiny_model("two-tower", "ForImageTextRetrieval")
    model.push_to_hub("author/direct", token=TOKEN)
    processor.push_to_hub("author/direct", token=TOKEN)
    files = hub.model("author/direct").branches["main"][-1].files
    folder = write_files(files, tmp_path / "direct")
    assert files.keys() >= WHOLE
    saved = load_file(folder / "model.safetensors")
    assert (
        all(torch.equal(value, saved[name]) for name, value in model.state_dict().items() if name in saved) and saved
    )


def test_reasons_are_one_line():
    assert reason(ValueError("one\ntwo")) == "one" and reason(KeyError()) == "KeyError"
