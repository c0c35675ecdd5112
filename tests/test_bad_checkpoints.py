"""Checkpoints that cannot be read: every command says why in one line, at once, and exits with code 2."""

import json
import re
import socket

import pytest
from conftest import tiny_bert, tiny_model, tiny_vit
from hub import serve
from huggingface_hub import constants
from PIL import Image
from transformers import (
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LxmertConfig,
    LxmertModel,
    PreTrainedModel,
    ViTModel,
)

from renaissance.modeling.encoders import UNREADABLE
from renaissance_cli.main import main


def bytes_of(model: PreTrainedModel, folder) -> dict[str, bytes]:
    """Return the files of a model by name."""
    model.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tiny_clip() -> CLIPModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = CLIPVisionConfig(image_size=32, patch_size=16, **sizes)
    return CLIPModel(CLIPConfig(text_config=CLIPTextConfig(vocab_size=50, **sizes), vision_config=vision))


def tiny_lxmert() -> LxmertModel:
    layers = {"l_layers": 1, "x_layers": 1, "r_layers": 1}
    return LxmertModel(LxmertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=16, **layers))


@pytest.fixture(scope="module")
def files(processor, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """The files of each model on the server."""
    home = tmp_path_factory.mktemp("models")
    made = {"bert": BertModel(tiny_bert()), "vit": ViTModel(tiny_vit()), "clip": tiny_clip(), "lxmert": tiny_lxmert()}
    found = {name: bytes_of(model, home / name) for name, model in made.items()}
    processor.save_pretrained(home / "model")
    model = tiny_model("two-tower", "ForImagesAndTextClassification")
    model.config.id2label, model.config.label2id = {0: "False", 1: "True"}, {"False": 0, "True": 1}
    found["model"] = bytes_of(model, home / "model")
    config = json.loads(found["model"]["config.json"])
    bare = {name: config[name] for name in ("model_type", "architectures", "id2label", "label2id")}
    newer = config | {"renaissance_version": "99.0", "pooler": "attention"}
    # Of another time: fields that were not there yet, and a value that this version does not know.
    found["bare"] = found["model"] | {"config.json": json.dumps(bare).encode()}
    found["newer"] = found["model"] | {"config.json": json.dumps(newer).encode()}
    found["broken"] = found["model"] | {"config.json": found["model"]["config.json"][:-40]}
    for name, cut in {"model": "cut", "lxmert": "cut-lxmert", "bert": "cut-bert"}.items():
        # A download that broke off.
        found[cut] = found[name] | {"model.safetensors": found[name]["model.safetensors"][:100]}
    # A clone without Git LFS has a pointer instead.
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    found["pointer"] = found["model"] | {"model.safetensors": pointer}
    return found


@pytest.fixture
def hub(files, monkeypatch, tmp_path):
    server = serve(monkeypatch, tmp_path / "home")
    for name, each in files.items():
        server.add(f"author/{name}", each)
    server.add("author/private", files["model"], private=True)
    yield server
    server.close()


RUN = ["--output_dir", "run", "--report_to", "none", "--use_cpu", "--disable_tqdm", "true"]
LXMERT = ["convert", "lxmert", "--output", "ours"]

#: The command line of each command for a checkpoint, without its name at the end, and how it calls the checkpoint.
COMMANDS = {
    "predict": (["predict", "NAME", "--text", "a cat", "--image", "left.png", "right.png"], "checkpoint"),
    "demo": (["demo", "NAME"], "folder"),
    "convert vilt": (["convert", "vilt", "--output", "ours", "--source", "NAME"], "source"),
    "convert lxmert": ([*LXMERT, "--text_encoder", "bert", "--vision_encoder", "vit", "--source", "NAME"], "source"),
    "benchmark": (["benchmark", "retrieval", "--dataset", "x", "--model_name_or_path", "NAME"], "model_name_or_path"),
    **{
        task: ([task, *RUN, "--do_eval", *data, "--model_name_or_path", "NAME"], "model_name_or_path")
        for task, data in {
            # To train: evaluating would end before the weights are read, because their head is of another task.
            "pretrain": ("--do_train", "--train_datasets", "captions", "--eval_datasets", "captions"),
            "nlvr2": ("--dataset", "nlvr2"),
            **dict.fromkeys(("snli-ve", "image-text", "retrieval", "refcoco", "vqa", "cifar10"), ("--dataset", "x")),
            "glue": ("--dataset", "x", "--task_name", "sst2"),
        }.items()
    },
}

#: Encoders and tokenizers, of which a model is built.
PARTS = {
    f"{option} of {command}": ([*argv, *others, f"--{option}", "NAME"], option)
    for command, argv in {
        "pretrain": ["pretrain", *RUN, "--do_train", "--train_datasets", "captions"],
        "lxmert": [*LXMERT, "--source", "author/lxmert"],
    }.items()
    for option, others in {
        "text_encoder": ("--vision_encoder", "author/vit", "--tokenizer", "author/bert"),
        "vision_encoder": ("--text_encoder", "author/bert", "--tokenizer", "author/bert"),
        "tokenizer": ("--text_encoder", "author/bert", "--vision_encoder", "author/vit"),
    }.items()
}

#: Commands that read other models, and those that get as far as the weights here.
CONVERTING = {"convert vilt", "convert lxmert"}
LOADING = ("predict", "demo", "benchmark", "pretrain", "nlvr2")


def reading(status: int, start: str = "/"):
    """A server that answers with an error to requests for the model whose path, of the API or not, has `start`."""
    return lambda method, path: status * ("author/model" in path and path.startswith(start))


def no_server(server, monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", closed + "/{repo_id}/resolve/{revision}/{filename}")


#: What is wrong on the way to a checkpoint: its name, what happens to the server, and the reason that is given.
ON_THE_WAY = {
    "absent": ("author/absent", None, "no such repository"),
    "private": ("author/private", None, "needs --token or HF_TOKEN"),
    "revision": ("author/model@v9", None, "no such revision"),
    "folder": ("no/such/folder", None, "no such folder"),
    "401": ("author/model", reading(401), "check --token or HF_TOKEN"),
    "403": ("author/model", reading(403), "this access token may not do that"),
    # Everybody may see that a gated model is there, and few may read it.
    "gated, without token": ("author/model", reading(401, "/author"), "check --token or HF_TOKEN"),
    "gated, without access": ("author/model", reading(403, "/author"), "this access token may not do that"),
    "429": ("author/model", reading(429), "too many requests"),
    "429 of files": ("author/model", reading(429, "/author"), "too many requests"),
    "500": ("author/model", reading(500), "answers with error 500"),
    "503 of files": ("author/model", reading(503, "/author"), "answers with error 503"),
    "no network": ("author/model", no_server, "no connection"),
}

#: What is wrong with a checkpoint that is there, and the reason that is given.
OF_CHECKPOINTS = {
    "bert": r"is a bert model; expected a Renaissance checkpoint|expected a (vilt|lxmert) model, got bert",
    "clip": r"is a clip model; expected a Renaissance checkpoint|expected a (vilt|lxmert) model, got clip",
    "bare": "another",
    "newer": "pooler: expected",
    "broken": "no checkpoint there",
    "cut": UNREADABLE,
    "pointer": UNREADABLE,
}


@pytest.fixture(autouse=True)
def folder(shapes, tmp_path, monkeypatch):
    """The current folder, with the data that commands name."""
    monkeypatch.chdir(tmp_path)
    for name in ("captions", "nlvr2"):
        (tmp_path / name).symlink_to(shapes / name)
    for name in ("left.png", "right.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)


def named(argv: list[str], name: str) -> list[str]:
    """A command for the checkpoint `name`."""
    return [name if word == "NAME" else word for word in argv]


def all_of(commands: dict, faults: dict, quick) -> list:
    """Every command with every fault; those that are not `quick` are slow."""
    return [
        pytest.param(command, fault, marks=() if quick(command, fault) else pytest.mark.slow, id=f"{command}-{fault}")
        for command in commands
        for fault in faults
    ]


@pytest.mark.parametrize(
    ("command", "fault"),
    all_of(
        COMMANDS | PARTS,
        ON_THE_WAY,
        # Every command with the two faults that took longest, and one command with every fault.
        lambda command, fault: command == "predict" or fault == "503 of files",
    ),
)
def test_the_way_to_a_checkpoint(hub, monkeypatch, refused, command, fault):
    argv, called = (COMMANDS | PARTS)[command]
    name, happens, expected = ON_THE_WAY[fault]
    if happens is no_server:
        no_server(hub, monkeypatch)
    else:
        hub.broken = happens
    error = refused(main, named(argv, name))
    # With no network, whatever comes first is missed.
    assert expected in error and (called in error or fault == "no network")
    # Nothing is tried again.
    asked = [path for _, path in hub.requests if "author/model" in path]
    assert len(asked) == len(set(asked)) <= 2


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        *all_of(COMMANDS, ["bert", "clip"], lambda command, fault: fault == "clip"),
        *all_of(
            sorted(COMMANDS.keys() - CONVERTING), ["newer", "broken"], lambda command, fault: command == "predict"
        ),
        # The data of other commands come first.
        *all_of(LOADING, ["cut", "pointer"], lambda command, fault: command == "predict"),
        *all_of(LOADING, ["bare"], lambda command, fault: False),
    ],
)
def test_a_checkpoint_of_another_kind(hub, refused, command, fault):
    argv, called = COMMANDS[command]
    error = refused(main, named(argv, f"author/{fault}"))
    assert f"author/{fault}" in error and called in error
    assert len(error) < 400 and re.search(OF_CHECKPOINTS[fault], error)


@pytest.mark.parametrize(
    ("name", "called", "argv"),
    [
        ("cut-lxmert", "source", COMMANDS["convert lxmert"][0]),
        ("cut-bert", "text_encoder", PARTS["text_encoder of pretrain"][0]),
    ],
)
def test_a_download_that_broke_off(hub, tokenizer_folder, refused, name, called, argv):
    argv = [str(tokenizer_folder) if word == "author/bert" else word for word in argv]
    argv += ["--tokenizer", str(tokenizer_folder)] if "lxmert" in name else []
    error = refused(main, named(argv, f"author/{name}"))
    assert called.replace("_", " ") in error and f"author/{name}" in error and UNREADABLE in error
