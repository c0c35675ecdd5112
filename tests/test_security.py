"""
Files of strangers: each attack of docs/security.md is built here, or in the test that its table names.

A checkpoint, a data set and their files are read without running code, and without reading other files of this machine.
"""

import ast
import builtins
import gzip
import io
import json
import os
import pickle
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER, tiny_bert, tiny_model
from hub import keep_modules_in, serve
from PIL import EpsImagePlugin
from preparing import jpeg
from transformers import BertModel, dynamic_module_utils

from renaissance import RenaissanceProcessor, TwoTowerForImageTextClassification
from renaissance.modeling import encoders
from renaissance.processing import image_files
from renaissance.processing.decoding import decode
from renaissance.tasks import checkpoints as saved
from renaissance.tasks.data import web_samples
from renaissance.tasks.data.opening import open_split
from renaissance.tasks.data.text_files import read_json
from renaissance.tasks.data.web_tables import samples_in
from renaissance.tasks.image_cache import read_index
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE
from renaissance_cli.main import main


ROOT = Path(__file__).parents[1]
SOURCES = [
    path for name in ("modeling", "processing", "tasks", "src", "model_cards") for path in (ROOT / name).rglob("*.py")
]
SECRET = "secret.safetensors"


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# Checkpoints whose files are elsewhere


@pytest.fixture(scope="module")
def originals(tmp_path_factory, processor) -> Path:
    """A model with its processor (`model`), and an encoder (`encoder`), each with a weight map; and weights of the user's own."""
    root = tmp_path_factory.mktemp("originals")
    fields = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    tiny_model("two-tower", "ForImageTextClassification", **fields).save_pretrained(
        root / "model", max_shard_size="20KB"
    )
    processor.save_pretrained(root / "model")
    BertModel(tiny_bert()).save_pretrained(root / "encoder", max_shard_size="20KB")
    processor.tokenizer.save_pretrained(root / "encoder")
    for folder in (root / "model", root / "encoder"):
        assert (folder / "model.safetensors.index.json").is_file()
    return root


def change(path: Path, **fields) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | fields))


def lead_out(folder: Path, name: str) -> None:
    """Let the weight map name another file for the first of its files, which moves to the place outside."""
    index = folder / "model.safetensors.index.json"
    weights = json.loads(index.read_text())["weight_map"]
    first = min(weights.values())
    shutil.move(folder / first, folder.parent / SECRET)
    change(index, weight_map={weight: name if file == first else file for weight, file in weights.items()})


def link(folder: Path, name: str) -> None:
    """Move a file outside, and leave a link."""
    shutil.move(folder / name, folder.parent / SECRET)
    (folder / name).symlink_to(folder.parent / SECRET)


def first_weights(folder: Path) -> str:
    return min(path.name for path in folder.glob("*.safetensors"))


LEADING_OUT = {
    "a weight map": lambda folder: lead_out(folder, f"../{SECRET}"),
    "a weight map, absolute": lambda folder: lead_out(folder, str(folder.parent / SECRET)),
    "a weight map, back and forth": lambda folder: lead_out(folder, f"x/../../{SECRET}"),
    "a weight map of pickles": lambda folder: change(
        folder / "pytorch_model.bin.index.json", weight_map={"a": f"../{SECRET}"}, metadata={}
    ),
    "a link in the place of weights": lambda folder: link(folder, first_weights(folder)),
    "a link in the place of a configuration": lambda folder: link(folder, "config.json"),
    "a link in the place of a tokenizer": lambda folder: link(folder, "tokenizer.json"),
    "weights that the configuration names": lambda folder: change(
        folder / "config.json", transformers_weights=f"../{SECRET}"
    ),
    "a file of the tokenizer": lambda folder: change(
        folder / "tokenizer_config.json", vocab_file=str(folder.parent / "private.txt")
    ),
    "a relative file of the tokenizer": lambda folder: change(
        folder / "tokenizer_config.json", merges_file="../private.txt"
    ),
    "the base of an adapter": lambda folder: change(
        folder / "adapter_config.json", base_model_name_or_path=str(folder.parent / "private")
    ),
}


@pytest.fixture(params=LEADING_OUT)
def leading_out(request, originals, tmp_path) -> Path:
    """A folder with copies of model and encoder that lead out of their folders in one way."""
    (tmp_path / "private.txt").write_text("mine")
    (tmp_path / "private").mkdir()
    for name in ("model", "encoder"):
        # Each has a place outside of its own.
        folder = shutil.copytree(originals / name, tmp_path / name / "in")
        shutil.copy(tmp_path / "private.txt", folder.parent)
        (folder.parent / "private").mkdir()
        LEADING_OUT[request.param](folder)
    return tmp_path


def test_a_checkpoint_names_no_file_outside_of_its_folder(leading_out, refused, tmp_path):
    model, encoder = leading_out / "model" / "in", leading_out / "encoder" / "in"
    outside = "which is outside of the folder; copy the file into the folder if you trust it"
    with pytest.raises(ValueError, match=outside):
        TwoTowerForImageTextClassification.from_pretrained(model)
    with pytest.raises(ValueError, match=outside):
        encoders.load_encoder(str(encoder), tiny_bert(), "text encoder")
    assert outside in refused(main, ["predict", str(model), "--text", "a cat", "--image", str(picture(tmp_path))])
    data = ["--output_dir", str(tmp_path / "run"), "--dataset", "x", "--do_train", "--use_cpu"]
    error = refused(main, ["snli-ve", *data, "--model_name_or_path", str(model)])
    assert f"model_name_or_path {str(model)!r}: " in error and outside in error
    for option, others in {"text_encoder": TWO_TOWER[5:], "tokenizer": TWO_TOWER}.items():
        error = refused(main, ["snli-ve", *data, *others, f"--{option}", str(encoder)])
        assert f"{option} {str(encoder)!r}: " in error and outside in error


def test_what_lies_in_the_folder_or_in_the_cache_is_loaded(originals, tmp_path, monkeypatch):
    # As the cache of the Hub has it: links to blobs.
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0f"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate((originals / "encoder").iterdir()):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    # As an older `hf download --local-dir` made it, and a folder that is a link itself.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    download, linked = tmp_path.parent / f"{tmp_path.name}-download", tmp_path / "linked"
    download.mkdir()
    for path in snapshot.iterdir():
        (download / path.name).symlink_to(path.resolve())
    linked.symlink_to(originals / "encoder")
    # A tokenizer that was saved on its author's machine.
    aside = shutil.copytree(originals / "encoder", tmp_path / "aside")
    change(
        aside / "tokenizer_config.json", special_tokens_map_file="/home/author/.cache/map.json", tokenizer_file=None
    )
    expected = encoders.load_encoder(str(originals / "encoder"), tiny_bert()).state_dict()
    for folder in (snapshot, download, linked, aside):
        found = encoders.load_encoder(str(folder), tiny_bert()).state_dict()
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_weight_map_on_the_hub_stays_in_its_repository(originals, shapes, tmp_path, monkeypatch, refused):
    server = serve(monkeypatch, tmp_path / "home")
    try:
        encoder = shutil.copytree(originals / "encoder", tmp_path / "encoder")
        lead_out(encoder, f"../../../../../../{SECRET}")
        server.add("author/encoder", {path.name: path.read_bytes() for path in encoder.iterdir()})
        argv = [
            "--output_dir",
            str(tmp_path / "run"),
            "--dataset",
            str(shapes / "snli_ve"),
            "--do_train",
            "--use_cpu",
            *TWO_TOWER[5:],
        ]
        with pytest.raises(ValueError, match="text encoder 'author/encoder': "):
            encoders.load_encoder("author/encoder", tiny_bert(), "text encoder")
        error = refused(main, ["snli-ve", *argv, "--text_encoder", "author/encoder"])
        assert "author/encoder" in error and len(error) < 600
    finally:
        server.close()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_json_without_end_is_refused_in_one_line(originals, tmp_path, refused, name):
    nested = '{"a":' * 100_000
    for what in ("model", "encoder"):
        (shutil.copytree(originals / what, tmp_path / what) / name).write_text(nested)
    fault = f"{name} is nested too deeply"
    assert fault in refused(main, ["predict", str(tmp_path / "model"), "--text", "a"])
    with pytest.raises(ValueError, match=fault):
        encoders.resolve_encoder_config(str(tmp_path / "encoder"), role="text encoder")


def test_other_json_without_end_is_refused(tmp_path):
    nested = "[" * 100_000
    for name in ("run_state.json", "run.json", "manifest.json", "own.json"):
        (tmp_path / name).write_text(nested)
    for read in (
        lambda: saved.Manifest.read(tmp_path),
        lambda: read_json(tmp_path / "own.json"),
        lambda: __import__("renaissance.tasks.run_state", fromlist=["a"]).RunState.find(tmp_path),
        lambda: __import__("renaissance.tasks.run_record", fromlist=["a"]).RunRecord.read(tmp_path),
    ):
        with pytest.raises(ValueError, match="json"):
            read()


# Code of strangers


def test_every_call_that_may_run_code_says_whether_it_may():
    """Auto classes are told whether to trust; nothing unpickles, evaluates, unpacks or renders what others wrote."""
    forbidden = {
        "eval", "exec", "compile", "__import__", "input", "os.system", "os.popen", "pickle.load", "pickle.loads", "np.load", "yaml.load",
        "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive", "torch.jit.load",
    }  # fmt: skip
    faults, autos = [], 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            place, given = f"{path.relative_to(ROOT)}:{node.lineno}", {each.arg: each.value for each in node.keywords}
            called = ast.unparse(node.func)
            owner, _, name = called.rpartition(".")
            if name in ("from_pretrained", "from_config") and owner.startswith(("Auto", "AUTO")):
                autos += 1
                # `**`: the run below looks at the values.
                if "trust_remote_code" not in given and None not in given:
                    faults.append(place)
            if called == "torch.load" and ast.unparse(given.get("weights_only", ast.Constant(False))) != "True":
                faults.append(place)
            if called in forbidden or name in ("extract", "extractall", "apply_chat_template"):
                faults.append(f"{place} {called}")
            if name in ("run", "Popen", "check_output") and owner == "subprocess" and "shell" in given:
                faults.append(place)
    assert autos >= 10 and not faults


@pytest.fixture
def asked(monkeypatch) -> list:
    """What transformers is told each time it decides whether to run code; nobody is there to answer a question."""
    told, decide = [], dynamic_module_utils.resolve_trust_remote_code

    def deciding(trust_remote_code, *rest, **others):
        told.append(trust_remote_code)
        return decide(trust_remote_code, *rest, **others)

    modules = [
        "models.auto.auto_factory", "models.auto.configuration_auto", "models.auto.tokenization_auto",
        "models.auto.image_processing_auto", "models.auto.processing_auto",
    ]  # fmt: skip
    for module in modules:
        monkeypatch.setattr(f"transformers.{module}.resolve_trust_remote_code", deciding)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked whether to run code"))
    return told


def test_transformers_is_always_told(asked, originals, shapes, tmp_path, capsys):
    parts = [*TWO_TOWER[5:], "--text_encoder", str(originals / "encoder"), "--tokenizer", str(originals / "encoder")]
    argv = [
        "--output_dir",
        str(tmp_path / "run"),
        "--dataset",
        str(shapes / "snli_ve"),
        "--report_to",
        "none",
        "--use_cpu",
    ]
    run_task(SNLIVE, "", [*argv, *parts, "--do_train", "--max_steps", "1"])
    main(["predict", str(tmp_path / "run"), "--text", "a red circle", "--image", str(picture(tmp_path))])
    RenaissanceProcessor.from_pretrained(tmp_path / "run")
    RenaissanceProcessor.from_encoders(text=str(originals / "encoder"))
    TwoTowerForImageTextClassification.from_pretrained(tmp_path / "run")
    assert len(asked) >= 6 and set(asked) == {False}


def picture(folder: Path) -> Path:
    (folder / "a.jpg").write_bytes(jpeg())
    return folder / "a.jpg"


def with_code(folder: Path, marker: Path) -> None:
    """Give a folder code of its own, for all that there is, under a name that transformers has or not."""
    (folder / "theirs.py").write_text(f"open({str(marker)!r}, 'w')\n")
    classes = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor")
    remote = {"auto_map": {name: f"theirs.{name}" for name in classes} | {"AutoTokenizer": ["theirs.A", "theirs.B"]}}
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        change(folder / name, **remote)


@pytest.mark.parametrize("kind", ["theirs", None], ids=["of a new type", "of a known type"])
def test_code_that_comes_with_a_checkpoint_does_not_run(originals, tmp_path, monkeypatch, kind, capsys):
    keep_modules_in(tmp_path / "modules", monkeypatch)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    folder, marker = shutil.copytree(originals / "encoder", tmp_path / "encoder"), tmp_path / "it ran"
    with_code(folder, marker)
    if kind:
        change(folder / "config.json", model_type=kind, architectures=["Theirs"])
        change(folder / "tokenizer_config.json", tokenizer_class="TheirTokenizer")
        (folder / "tokenizer.json").unlink()
        for load in (encoders.resolve_encoder_config, RenaissanceProcessor.load_tokenizer):
            with pytest.raises(ValueError, match=r"code of its own"):
                load(str(folder))
    else:
        encoders.load_encoder(str(folder), tiny_bert())
        RenaissanceProcessor.load_tokenizer(str(folder))
    model = shutil.copytree(originals / "model", tmp_path / "model")
    with_code(model, marker)
    TwoTowerForImageTextClassification.from_pretrained(model)
    RenaissanceProcessor.from_pretrained(model)
    main(["predict", str(model), "--text", "a red circle", "--image", str(picture(tmp_path))])
    assert not marker.exists()


def test_a_script_in_a_data_set_does_not_run(tmp_path, monkeypatch):
    keep_modules_in(tmp_path / "modules", monkeypatch)
    folder, marker = tmp_path / "captions", tmp_path / "it ran"
    folder.mkdir()
    for name in ("captions.py", "dataset.py", "__init__.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(ValueError, match="captions"):
        open_split(str(folder), "train")
    assert not marker.exists()


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_asks_for_no_compiled_code(originals, tmp_path, field, monkeypatch, refused):
    load = "transformers.integrations.hub_kernels.load_and_register_attn_kernel"
    monkeypatch.setattr(load, lambda *_, **__: pytest.fail("a kernel was loaded"))
    fault = r"its config\.json asks for the compiled code author/kernel from the Hub"
    encoder, model = (shutil.copytree(originals / name, tmp_path / name) for name in ("encoder", "model"))
    for folder in (encoder, model):
        change(folder / "config.json", **{field: "author/kernel"})
    with pytest.raises(ValueError, match=fault):
        encoders.load_encoder(str(encoder), tiny_bert(), "text encoder")
    argv = ["--text", "a", "--image", str(picture(tmp_path))]
    assert re.search(fault, refused(main, ["predict", str(model), *argv]))
    # The parts of a model follow the whole, whatever the file says of them.
    part = shutil.copytree(originals / "model", tmp_path / "part")
    config = json.loads((part / "config.json").read_text())
    change(part / "config.json", vision_config=config["vision_config"] | {field: "author/kernel"})
    main(["predict", str(part), *argv])


def test_a_template_of_a_tokenizer_is_not_rendered(originals, tmp_path, processor):
    folder, marker = shutil.copytree(originals / "encoder", tmp_path / "encoder"), tmp_path / "it ran"
    attack = "{{ cycler.__init__.__globals__.os.mkdir('" + str(marker) + "') }}"
    (folder / "chat_template.jinja").write_text(attack)
    tokenizer = RenaissanceProcessor.load_tokenizer(str(folder))
    made = RenaissanceProcessor(processor.image_processor, tokenizer)
    made(text="a red circle")
    made.save_pretrained(tmp_path / "again")
    RenaissanceProcessor.from_pretrained(tmp_path / "again")(text="a red circle")
    assert not marker.exists()


# Pickles


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_weights_run_nothing(originals, tmp_path, legacy, refused):
    for name in ("model", "encoder"):
        folder = shutil.copytree(originals / name, tmp_path / name)
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        weights = {"embeddings.word_embeddings.weight": Harmful(tmp_path / "harm")}
        if legacy:
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps(weights, 2))
        else:
            torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="text encoder"):
        encoders.load_encoder(str(tmp_path / "encoder"), tiny_bert(), "text encoder")
    argv = ["predict", str(tmp_path / "model"), "--text", "a", "--image", str(picture(tmp_path))]
    assert "weights" in refused(main, argv)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_state_of_training_runs_nothing(finished, tmp_path, name, capsys):
    run = tmp_path / "run"
    checkpoint = shutil.copytree(finished[0] / "checkpoint-4", run / "checkpoint-4")
    torch.save({"param_groups": [], "python": Harmful(tmp_path / "harm")}, checkpoint / name)
    torch.save(Harmful(tmp_path / "harm"), checkpoint / "training_args.bin")
    # Whoever made it made its manifest too.
    saved.renew_manifest(checkpoint)
    with pytest.raises(SystemExit) as stopped:
        run_task(SNLIVE, "", [*finished[1], "--output_dir", str(run)])
    error = next(line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert stopped.value.code == 2 and f"{name} is damaged, or asks to run code" in error
    assert not (tmp_path / "harm").exists()


def test_an_index_of_features_is_no_pickle(tmp_path):
    path = tmp_path / "index-0.npy"
    np.save(path, np.arange(3, dtype=np.uint64))
    np.testing.assert_array_equal(read_index(path, 3), np.arange(3))
    with pytest.raises(ValueError, match="expected 4 hashes"):
        read_index(path, 4)
    np.save(path, np.array([Harmful(tmp_path / "harm")], dtype=object), allow_pickle=True)
    for content in (path.read_bytes(), b"", b"PK\x03\x04", pickle.dumps(Harmful(tmp_path / "harm"))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"index-0\.npy: not a file of this feature cache|expected 1 hashes"):
            read_index(path, 1)
    np.save(path, np.zeros(3, np.uint64))
    path.write_bytes(path.read_bytes().replace(b"'shape': (3,), }         ", b"'shape': (1000000000000,)}"))
    with pytest.raises(ValueError, match=r"index-0\.npy: not a file of this feature cache"):
        read_index(path, 10**12)
    assert not (tmp_path / "harm").exists()


# Archives and images


def tar_of(path: Path, size: int, sparse: bool = False, packed: bool = False) -> str:
    """A .tar file of a sample whose image has `size` zeros, of which few bytes are in the file."""
    entry = tarfile.TarInfo("a.jpg")
    entry.size = size
    if sparse:
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg"}
        entry.pax_headers["GNU.sparse.realsize"] = str(size)
        entry.size = 512
        content = entry.tobuf(tarfile.PAX_FORMAT) + b"0\n".ljust(512, b"\0") + bytes(1024)
    else:
        content = entry.tobuf() + bytes(size + (-size) % 512 + 1024)
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    return str(path)


@pytest.mark.parametrize("kind", ["sparse", "packed"])
def test_a_member_of_a_tar_does_not_unpack_without_end(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(web_samples, "MAX_BYTES", 10_000)
    file = tar_of(tmp_path / "a.tar", 10**13 if kind == "sparse" else 20_000, kind == "sparse", kind == "packed")
    (sample,) = samples_in(file)
    assert "its member a.jpg" in sample.fault and ("sparse" in sample.fault or "more than 10,000" in sample.fault)
    (row,) = web_samples.read_tars([file], {"image": "jpg", "captions": "txt"})
    assert "its member a.jpg" in row["fault"]
    with pytest.raises(tarfile.ReadError, match=r"its member a\.jpg"):
        list(web_samples.remote_samples(f"file://{file}"))


def test_links_and_devices_in_a_tar_are_passed_over(tmp_path):
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as archive:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.type, entry.linkname = kind, str(ROOT / "README.md")
            archive.addfile(entry)
        for name, content in {"5.jpg": jpeg(), "5.txt": b"a cat"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert [(sample.key, sorted(sample.members)) for sample in samples_in(str(file))] == [("5", ["jpg", "txt"])]
    (row,) = web_samples.read_tars([str(file)], {"image": "jpg", "captions": "txt"})
    assert (row["captions"], row["image"]["bytes"], row["fault"]) == ("a cat", jpeg(), None)


@pytest.mark.parametrize("kind", ["zip", "gzip"])
def test_a_member_of_an_archive_does_not_unpack_without_end(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(image_files, "MAX_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(100_000))
        archive.writestr("b.jpg", jpeg())
    (tmp_path / "a.jpg.gz").write_bytes(gzip.compress(bytes(100_000)))
    path = f"zip://a.jpg::{tmp_path}/a.zip" if kind == "zip" else f"gzip://a.jpg::{tmp_path}/a.jpg.gz"
    with pytest.raises(ValueError, match="unpacks to more than 10,000 bytes"):
        decode({"bytes": None, "path": path})
    assert decode({"bytes": None, "path": f"zip://b.jpg::{tmp_path}/a.zip"}).size == (40, 30)


def test_devices_and_pipes_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in ("/dev/zero", str(tmp_path / "pipe.jpg"), str(tmp_path)):
        with pytest.raises(ValueError, match="expected a file"):
            decode({"bytes": None, "path": path})


def test_no_program_is_started_for_an_image(monkeypatch, tmp_path, processor):
    """Pillow would start Ghostscript for PostScript, whatever the name of the file says."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    content = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch harm) (w) file\nshowpage\n"
    )
    (tmp_path / "a.jpg").write_bytes(content)
    for image in (content, tmp_path / "a.jpg", {"bytes": content, "path": None}, {"bytes": content, "path": "a.eps"}):
        with pytest.raises(ValueError, match="not an image file of the formats"):
            processor(images=image)


# The page


def test_the_page_names_tests_that_there_are():
    """Each row of docs/security.md has a test."""
    rows = [
        line
        for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
        if line.count("|") == 4 and "::" in line
    ]
    named = [cell for row in rows for cell in row.split("|")[3].replace("`", "").split(",")]
    assert len(named) >= 15
    for cell in named:
        file, _, test = cell.strip().partition("::")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), cell
