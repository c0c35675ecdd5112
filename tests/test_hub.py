"""Pushes to the Hub, what they hold and what they do not, and mistakes on the way to it, against a server on this machine."""

import hashlib
import json
import socket
import sys

import pytest
import torch
import yaml
from conftest import TINY_VIT, TWO_TOWER, tiny_bert, tiny_model, without
from hub import WEIGHTS, WHOLE, pretrain_and_push, serve, write_files
from hub_server import TOKEN, new_commit
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load, load_file, save
from transformers import AutoTokenizer, BertModel

from renaissance.commands.predict import main as predict
from renaissance.hub import SECONDS_OF_A_PUSH, limit_waiting, reason, shareable
from renaissance.tasks.checkpoints import fault_of
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task


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
    # The record has the commit and the weights that were read.
    name = named[0].partition("@")[0]
    commit = shelf.model(name).find("v1" if name == "author/model" else "main")
    (start,) = RunRecord.read(tmp_path / "run").history
    assert (start.name, start.revision) == (name, commit.sha)
    assert start.digest == hashlib.sha256(commit.files[WEIGHTS]).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("named", [["author/model", "--model_revision", "v1"], ["author/model@v1"]])
def test_answers_are_recorded_with_the_commit_and_the_weights(shelf, tmp_path, monkeypatch, named):
    monkeypatch.setenv("HF_TOKEN", "")
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    picture = str(tmp_path / "picture.png")
    argv = [*named, "--image", picture, picture, "--text", "a circle", "--output", str(tmp_path / "answers.json")]
    predict(argv)
    (start,) = RunRecord.read(tmp_path).history
    commit = shelf.model("author/model").find("v1")
    assert (start.name, start.revision) == ("author/model", commit.sha)
    assert start.digest == hashlib.sha256(commit.files[WEIGHTS]).hexdigest()


@pytest.mark.slow
def test_an_encoder_of_the_hub_is_recorded_with_its_commit_and_weights(
    hub, shapes, tokenizer_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "")
    BertModel(tiny_bert(vocab_size=len(AutoTokenizer.from_pretrained(tokenizer_folder)))).save_pretrained(
        tmp_path / "bert"
    )
    files = {path.name: path.read_bytes() for path in (tmp_path / "bert").iterdir()}
    repository = hub.add("author/words", files)
    repository.tags["v1"] = repository.branches["main"][-1].sha
    repository.branches["main"].append(new_commit("later", without(files, WEIGHTS), ""))
    argv = [
        "--text_encoder",
        "author/words@v1",
        "--vision_encoder",
        "vit",
        "--random_init_vision",
        "--vision_overrides",
    ]
    argv += [TINY_VIT, "--cross_modal_hidden_size", "32", "--cross_modal_layers", "1", "--cross_modal_heads", "2"]
    argv += ["--tokenizer", str(tokenizer_folder), "--train_datasets", str(shapes / "captions"), "--do_eval"]
    argv += ["--output_dir", str(tmp_path / "run"), "--report_to", "none", "--use_cpu", "--disable_tqdm", "true"]
    argv += ["--do_train", "--max_steps", "1"]
    run_task(Pretraining, "", argv)
    (encoder,) = RunRecord.read(tmp_path / "run").history
    assert (encoder.part, encoder.name, encoder.revision) == ("text", "author/words", repository.tags["v1"])
    assert encoder.digest == hashlib.sha256(files[WEIGHTS]).hexdigest()


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
