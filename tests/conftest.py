"""Fixtures of all tests: tiny models, a processor, real data where it is there."""

import copy
import os
import re
from pathlib import Path


# Before anything imports huggingface_hub: an unknown name must fail at once, not after five attempts to connect.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from datasets import Dataset
from launching import Launcher
from transformers import BertConfig, PreTrainedModel, ResNetConfig, ViTConfig, ViTImageProcessorPil

from renaissance import RenaissanceProcessor
from renaissance.commands.prepare import main as prepare_data
from renaissance.modeling.architectures import ARCHITECTURES as REGISTERED
from renaissance.tasks.data.shapes import DATA_SETS, write_tokenizer
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


#: Wide enough that whatever a test changes in the inputs shows in the outputs.
INITIALIZER_RANGE = 0.3
VOCABULARY = 160
IMAGE_SIZE = 32
PATCH_SIZE = 8

CLASSES = {
    (architecture.name, kind): model
    for architecture in REGISTERED.values()
    for kind, model in architecture.models.items()
}

#: Options of a run that builds a tiny two-tower model.
TINY_BERT = '{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}'
TINY_VIT = (
    '{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32, '
    '"patch_size": 16}'
)
TWO_TOWER = [
    "--text_encoder", "bert", "--random_init_text", "--text_overrides", TINY_BERT,
    "--vision_encoder", "vit", "--random_init_vision", "--vision_overrides", TINY_VIT,
    "--cross_modal_hidden_size", "32", "--cross_modal_layers", "1", "--cross_modal_heads", "2",
]  # fmt: skip

#: One tower is tested on a text and on a vision encoder.
ARCHITECTURES = ("two-tower", "one-tower-text", "one-tower-vision")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real samples in the public layouts; skips the test where there is none."""
    folder = os.environ.get("RENAISSANCE_TEST_DATA")
    if not folder:
        pytest.skip("RENAISSANCE_TEST_DATA is not set: it names a folder of real samples in the public layouts")
    return Path(folder)


def tiny_bert(**kwargs) -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    sizes |= {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "initializer_range": INITIALIZER_RANGE}
    return BertConfig(**(sizes | kwargs))


def tiny_vit(**kwargs) -> ViTConfig:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    sizes |= {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "initializer_range": INITIALIZER_RANGE}
    return ViTConfig(**(sizes | kwargs))


def tiny_resnet(**kwargs) -> ResNetConfig:
    """A ResNet whose map has a cell for each square of `PATCH_SIZE` pixels."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetConfig(**(sizes | kwargs))


def tiny_model(architecture: str, kind: str = "Model", seed: int = 0, **kwargs):
    """
    A tiny model of one of `ARCHITECTURES`, a dual encoder, or one tower on grid features, with random weights that leave no type
    embedding at zero.
    """
    torch.manual_seed(seed)
    kwargs = {
        "initializer_range": INITIALIZER_RANGE,
        "pixel_mean": [127.5] * 3,
        "pixel_deviation": [127.5] * 3,
    } | kwargs
    if architecture == "two-tower":
        sizes = {"cross_modal_hidden_size": 16, "cross_modal_layers": 2, "cross_modal_heads": 2}
        model = CLASSES["two-tower", kind].from_encoders(tiny_bert(), tiny_vit(), **(sizes | kwargs))
    elif architecture == "dual-encoder":
        sizes = {"contrastive_size": 16}
        return CLASSES["dual-encoder", kind].from_encoders(tiny_bert(), tiny_vit(), **(sizes | kwargs)).eval()
    else:
        encoder = tiny_vit() if architecture == "one-tower-vision" else tiny_bert()
        sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "image_size": IMAGE_SIZE}
        sizes |= {"vision": tiny_resnet()} if architecture == "one-tower-grid" else {"patch_size": PATCH_SIZE}
        model = CLASSES["one-tower", kind].from_encoder(encoder, **(sizes | kwargs))
    torch.nn.init.normal_(model.base_model.type_embeddings.weight)
    return model.eval()


def tiny_batch(batch: int = 3, tokens: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Text and images, one each a row, without padding."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(5, VOCABULARY, (batch, tokens), generator=generator),
        "attention_mask": torch.ones(batch, tokens, dtype=torch.long),
        "pixel_values": torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator),
    }


def padded(batch: dict, extra: int) -> dict:
    """The batch with `extra` padding tokens a row, with ids that would show if anything read them."""
    rows = len(batch["input_ids"])
    return batch | {
        "input_ids": torch.cat([batch["input_ids"], torch.full((rows, extra), 77)], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros(rows, extra, dtype=torch.long)], dim=1),
    }


def rows_of(batch: dict, index: list[int]) -> dict:
    return {name: value[index] for name, value in batch.items()}


def pretraining_batch() -> dict:
    batch = tiny_batch()
    labels = batch["input_ids"].clone()
    labels[:, 2:] = -100
    return batch | {
        "mlm_input_ids": torch.where(labels == -100, batch["input_ids"], 4),
        "mlm_labels": labels,
        "itm_image_index": torch.tensor([1, 0, 2]),
        "itm_labels": torch.tensor([0, 0, 1]),
    }


def pair_batch() -> dict:
    batch = tiny_batch()
    return batch | {"pixel_values": torch.stack([batch["pixel_values"], batch["pixel_values"].flip(0)], dim=1)}


def candidates_batch() -> dict:
    """Two texts an image."""
    batch = tiny_batch()
    return batch | {
        name: torch.stack([batch[name], batch[name].flip(0)], dim=1) for name in ("input_ids", "attention_mask")
    }


def without(batch: dict, name: str) -> dict:
    return {key: value for key, value in batch.items() if key != name}


def training_batch(kind: str, architecture: str = "two-tower") -> dict:
    """What a model of `kind` is trained on."""
    classes = torch.tensor([0, 1, 0])
    if (architecture, kind) == ("dual-encoder", "ForPreTraining"):
        return tiny_batch() | {"contrastive_ids": torch.arange(3)}
    return {
        "ForPreTraining": pretraining_batch,
        "ForMaskedLM": lambda: tiny_batch() | {"labels": pretraining_batch()["mlm_labels"]},
        "ForImagesAndTextClassification": lambda: pair_batch() | {"labels": classes},
        "ForImageTextRetrieval": lambda: candidates_batch() | {"labels": classes},
        "ForVisualQuestionAnswering": lambda: tiny_batch() | {"labels": torch.rand(3, 2)},
        "ForReferenceResolution": lambda: pair_batch() | {"labels": classes},
        "ForImageTextClassification": lambda: tiny_batch() | {"labels": classes},
        "ForSequenceClassification": lambda: without(tiny_batch(), "pixel_values") | {"labels": classes},
        "ForImageClassification": lambda: {"pixel_values": tiny_batch()["pixel_values"], "labels": classes},
    }[kind]()


def tiny_two_tower(text, vision, **kwargs) -> PreTrainedModel:
    sizes = {"cross_modal_hidden_size": 16, "cross_modal_layers": 1, "cross_modal_heads": 2}
    return CLASSES["two-tower", "Model"].from_encoders(text, vision, **sizes, **kwargs)


@pytest.fixture(params=[*ARCHITECTURES, pytest.param("one-tower-grid", marks=pytest.mark.slow)])
def architecture(request) -> str:
    return request.param


@pytest.fixture(
    params=[
        "two-tower",
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*ARCHITECTURES[1:], "one-tower-grid")),
    ]
)
def quick_architecture(request) -> str:
    """`architecture`, of which quick tests run two towers: for what is written once, on encode and fuse."""
    return request.param


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def processor(tokenizer_folder) -> RenaissanceProcessor:
    made = RenaissanceProcessor.from_encoders(str(tokenizer_folder), image_size=IMAGE_SIZE)
    assert isinstance(made.image_processor, ViTImageProcessorPil)
    return made


@pytest.fixture
def repeating(processor):
    """A processor of a run whose shapes are to repeat, with a limit of its texts that is no multiple of 8."""
    found = copy.copy(processor)
    found.tokenizer = copy.deepcopy(processor.tokenizer)
    found.tokenizer.model_max_length = 21
    found.length_multiple = 8
    return found


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A folder with few captioned scenes and pairs, as `prepare_data.py shapes` writes them."""
    folder = tmp_path_factory.mktemp("shapes")
    for name in ("captions", "nlvr2", "snli_ve"):
        (folder / name).mkdir()
        for split, count in (("train", 32), ("validation", 10), ("test", 10)):
            rows = DATA_SETS[name].rows(split, count, 0, 32)
            data = Dataset.from_list(list(rows), features=DATA_SETS[name].features)
            data.to_parquet(str(folder / name / f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.fixture
def options(tmp_path, tokenizer_folder) -> list[str]:
    """Options of every run here."""
    return [
        "--output_dir", str(tmp_path / "run"), "--report_to", "none", "--use_cpu", "--disable_tqdm", "true",
        "--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "4", "--seed", "1", "--logging_steps", "2",
        "--tokenizer", str(tokenizer_folder),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def finished(shapes, tokenizer_folder, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of an unbroken run of six steps with checkpoints of steps 2, 4 and 6, and its options but for that folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    argv = [
        *TWO_TOWER,
        "--dataset",
        str(shapes / "snli_ve"),
        "--do_train",
        "--max_steps",
        "6",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--learning_rate",
        "1e-2",
        "--report_to",
        "none",
        "--disable_tqdm",
        "true",
    ]
    argv += ["--per_device_train_batch_size", "8", "--seed", "1", "--tokenizer", str(tokenizer_folder), "--use_cpu"]
    run_task(SNLIVE, "", [*argv, "--output_dir", str(folder)])
    return folder, argv


@pytest.fixture(scope="session")
def launch(tmp_path_factory) -> Launcher:
    """Runs scripts on several processes: `launch(2, script, *options)`."""
    return Launcher(tmp_path_factory.mktemp("launched"))


@pytest.fixture(scope="session")
def prepare_script() -> Path:
    return Path(__file__).parents[1] / "run_scripts" / "prepare_data.py"


@pytest.fixture(scope="session")
def prepare():
    """What `renaissance prepare` runs, called in this process because starting another takes seconds."""
    return lambda *arguments: prepare_data([str(argument) for argument in arguments])


@pytest.fixture
def same_threads_afterwards():
    """Measuring sets the number of threads of the process; the tests that follow compute with as many as before."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def refused(capsys):
    """Calls what runs a command line, expecting exit code 2 and one line with the mistake; returns that line. With `alone`, nothing
    else may be on stderr."""

    def run(command, *arguments, alone: bool = False) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(*arguments)
        said = capsys.readouterr().err
        errors = [line for line in said.splitlines(keepends=True) if "error: " in line]
        assert stopped.value.code == 2 and len(errors) == 1 and "Traceback" not in said, said
        assert not alone or said == errors[0]
        return errors[0]

    return run


@pytest.fixture
def refuse(prepare, refused):
    """Runs prepare_data.py, expecting exit code 2 and one line on stderr; returns that line."""
    return lambda *arguments: refused(prepare, *arguments, alone=True)


@pytest.fixture
def dataset_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / ".cache")


#: Tests of transformers' suite that are slow: half precision without hardware for it, some that take long, and comparisons
#: of attention on all classes but one.
SLOW_OF_THE_SUITE = (
    r".*::test_eager_matches_sdpa_inference_\d+_(fp16|bf16)",
    r".*::test_(bc_torch_dtype|can_init_all_missing_weights|reverse_loading)",
    r".*(?<!::TwoTowerTest)::test_eager_matches_sdpa_inference",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(re.match(pattern, item.nodeid) for pattern in SLOW_OF_THE_SUITE):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server of this machine that speaks the Hub's protocol, in place of the Hub."""
    # It takes what is here.
    from hub import serve

    server = serve(monkeypatch, tmp_path / "home")
    yield server
    server.close()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """The data of each task that predicts, a few rows each."""
    # It takes what is here.
    from task_runs import write_scenes

    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder)
    return folder


@pytest.fixture
def corpus(tmp_path):
    """A text corpus of 24 documents, some longer than the model reads, with blank lines, and lines that end as on Windows."""
    words = ["a", "red", "circle", ",", "two", "green", "squares", "and", "the", "large", "yellow", "star"]
    lines = [" ".join(words[: 3 + number % 12] * (1 + number % 4)) for number in range(24)]
    path = tmp_path / "corpus.txt"
    path.write_text("\ufeff" + "\r\n\n".join(lines), encoding="utf-8", newline="")
    return path, lines
