"""Data sets on the Hub, read by trainings from a server on this machine: private ones, revisions, streams, and images of any column."""

import json

import pytest
from conftest import TWO_TOWER
from hub import serve
from hub_server import TOKEN, new_commit
from huggingface_hub import ModelCard

from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = serve(monkeypatch, tmp_path / "home")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "home" / "datasets")
    yield server
    server.close()


def files_of(folder) -> dict[str, bytes]:
    """The splits of a data set, as they lie in its repository."""
    return {f"data/{path.name}": path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.fixture
def shelf(hub, shapes):
    """Public captions, and private pairs, of which the branch main has no training rows any more, but the tag v1 has."""
    hub.add("author/captions", files_of(shapes / "captions"), kind="datasets")
    pairs = files_of(shapes / "nlvr2")
    repository = hub.add("author/pairs", pairs, kind="datasets", private=True)
    repository.tags["v1"] = repository.branches["main"][-1].sha
    later = {name: content for name, content in pairs.items() if "/train-" not in name}
    repository.branches["main"].append(new_commit("later", later, ""))
    return hub


def of_split(tmp_path, split: str) -> dict:
    """What the record of a run says of the data of a split."""
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    return next(each for each in record["data"] if each["split"] == split)


def test_a_revision_of_a_private_data_set_is_trained_on(shelf, options, tmp_path):
    argv = [*TWO_TOWER, *options, "--do_train", "--do_eval", "--max_steps", "1"]
    metrics = run_task(NLVR2, "", [*argv, "--dataset", "author/pairs@v1", "--token", TOKEN])
    found = of_split(tmp_path, "train")
    assert (metrics["eval_rows"], found["rows"], found["sources"]) == (10, 32, ["author/pairs@v1"])
    saved = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert saved and not [path for path in saved if TOKEN.encode() in path.read_bytes()]
    # The card names the repository, which has no revision in its name.
    data = ModelCard.load(tmp_path / "run" / "README.md").data
    assert data.datasets == ["author/pairs"] and {each.dataset_type for each in data.eval_results} == {"author/pairs"}


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_public_captions_are_trained_on_as_they_are_or_streamed(shelf, shapes, options, tmp_path, streaming):
    argv = [*TWO_TOWER, *options, "--do_train", "--do_eval", "--max_steps", "2", "--max_eval_samples", "8"]
    argv += ["--streaming"] if streaming else []
    results = []
    # What is drawn for a row of a stream depends on the name of its file: the same stream again gives the same.
    other = "author/captions" if streaming else str(shapes / "captions")
    for name, source in (("run", "author/captions"), ("again", other)):
        places = ["--train_datasets", source, "--eval_datasets", source, "--output_dir", str(tmp_path / name)]
        metrics = run_task(Pretraining, "", [*argv, *places])
        results.append([metrics[key] for key in ("train_loss", "eval_loss", "eval_rows")])
    assert results[0] == results[1] and results[0][-1] == 8
    assert of_split(tmp_path, "train")["sources"] == ["author/captions"]


@pytest.mark.parametrize(
    ("source", "extra", "said"),
    [
        ("author/pairs@v1", [], "no such repository, or a private or gated one, which needs --token or HF_TOKEN with access"),
        ("author/pairs@v1", ["--token", "hf_another"], "does not accept this access token"),
        ("author/pairs@v9", ["--token", TOKEN], "no such revision there"),
        ("author/pairs", ["--token", TOKEN], "split 'train'"),
    ],
)  # fmt: skip
def test_a_data_set_that_cannot_be_read_is_refused_in_one_line(shelf, options, refused, source, extra, said):
    argv = [*TWO_TOWER, *options, "--dataset", source, "--do_train", "--max_steps", "1", *extra]
    line = refused(run_task, NLVR2, "", argv)
    assert said in line and source.partition("@")[0] in line and TOKEN not in line
