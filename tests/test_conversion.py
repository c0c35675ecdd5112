"""Converted checkpoints compute what their sources compute, by transformers' own code for them."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from conftest import INITIALIZER_RANGE, VOCABULARY, tiny_bert, tiny_model, tiny_vit
from hub import keep_modules_in
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForVisualQuestionAnswering,
    BertModel,
    LxmertConfig,
    LxmertForPreTraining,
    ViltConfig,
    ViTModel,
)
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from renaissance import (
    AutoModelForImagesAndTextClassification,
    AutoModelForImageTextRetrieval,
    OneTowerForImageTextRetrieval,
    OneTowerForMaskedLM,
    OneTowerForPreTraining,
    OneTowerModel,
    RenaissanceProcessor,
    TwoTowerModel,
)
from renaissance.commands.convert import main
from renaissance.conversion import VILT_CLASSES
from renaissance.model_cards.card import model_card
from renaissance.modeling.architectures import ARCHITECTURES
from renaissance.modeling.layers import CrossModalMasks


PATCH = 8
#: Heads for two images a text.
PAIRS = ("ViltForImagesAndTextClassification",)
TOLERANCE = 1e-5


def convert(*arguments: object) -> None:
    """Run `renaissance convert` in this process."""
    main([str(argument) for argument in arguments])


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Weights so large that none can be forgotten or swapped without a trace; also those that start at 0 or 1."""
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean=centre, std=INITIALIZER_RANGE)
    return model.eval()


def tiny_vilt(folder: Path, class_name: str, **fields) -> torch.nn.Module:
    """A random ViLT, which it also saves. It is given all patches of an image, none are drawn (`max_image_length`)."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    sizes |= {"vocab_size": VOCABULARY, "max_position_embeddings": 20, "image_size": 32, "patch_size": PATCH}
    sizes |= {"num_labels": 5, "max_image_length": -1, "modality_type_vocab_size": 3, "num_images": 2}
    torch.manual_seed(0)
    model = randomise(getattr(transformers, class_name)(ViltConfig(**(sizes | fields))))
    model.save_pretrained(folder)
    return model


def text_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 3 + [0] * 6])
    return {"input_ids": torch.randint(5, VOCABULARY, (3, 9), generator=generator), "attention_mask": mask}


def image_batch(size: tuple[int, int], sizes: tuple = ()) -> dict[str, torch.Tensor]:
    """Three images in a frame of `size`, and a mask where `sizes` are theirs; the padding is noise."""
    generator = torch.Generator().manual_seed(2)
    batch = {"pixel_values": torch.randn(3, 3, *size, generator=generator)}
    if sizes:
        batch["pixel_mask"] = torch.zeros(3, *size, dtype=torch.long)
        for row, (height, width) in enumerate(sizes):
            batch["pixel_mask"][row, :height, :width] = 1
    return batch


IMAGES = {
    "as in pretraining": image_batch((32, 32)),
    "larger": image_batch((48, 64), ((48, 64),) * 3),
    "padded": image_batch((48, 40), ((48, 16), (24, 40), (32, 32))),
    "one row of patches": image_batch((8, 56), ((8, 56), (8, 8), (8, 24))),
}


def patch_order(vilt: torch.nn.Module, images: dict[str, torch.Tensor], seed: int) -> list[torch.Tensor]:
    """For each image, the numbers of its patches in ViLT's output: it shuffles those of the largest images."""
    size = images["pixel_values"].shape[-2:]
    mask = images.get("pixel_mask", torch.ones(3, *size))
    torch.manual_seed(seed)
    _, shown, (index, (_, width)) = vilt.embeddings.visual_embed(images["pixel_values"], mask, max_image_length=-1)
    numbers = index[..., 0] * width + index[..., 1]
    return [row[show.bool()] for row, show in zip(numbers, shown[:, 1:], strict=True)]


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
def test_vilt(tmp_path, images):
    theirs = tiny_vilt(tmp_path / "vilt", "ViltModel")
    convert("vilt", "--source", tmp_path / "vilt", "--output", tmp_path / "ours")
    ours = AutoModel.from_pretrained(tmp_path / "ours")
    assert type(ours) is OneTowerModel
    text = text_batch()
    for image_type in (1, 2):
        with torch.no_grad():
            torch.manual_seed(3)
            expected = theirs(**text, **images, image_token_type_idx=image_type)
            got = ours(**text, **images, image_index=torch.full((3,), image_type - 1))
        assert (got.pooled - expected.pooler_output).abs().max() <= TOLERANCE
        shown = text["attention_mask"].bool()
        assert (got.text_states - expected.last_hidden_state[:, :9])[shown].abs().max() <= TOLERANCE
        states = expected.last_hidden_state[:, 9:]
        assert (got.image_states[:, 0] - states[:, 0]).abs().max() <= TOLERANCE
        for row, order in enumerate(patch_order(theirs, images, seed=3)):
            difference = got.image_states[row, 1:][order] - states[row, 1 : 1 + len(order)]
            assert difference.abs().max() <= TOLERANCE
    # The outputs differ where the inputs do: the comparison is not one of constants.
    assert (expected.pooler_output[0] - expected.pooler_output[1]).abs().max() > 0.1


AUTO_CLASSES = {
    "ViltForMaskedLM": AutoModelForMaskedLM,
    "ViltForQuestionAnswering": AutoModelForVisualQuestionAnswering,
    "ViltForImageAndTextRetrieval": AutoModelForImageTextRetrieval,
}


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("class_name", AUTO_CLASSES)
def test_heads_of_vilt(tmp_path, class_name, images):
    theirs = tiny_vilt(tmp_path / "vilt", class_name, modality_type_vocab_size=2, num_images=-1)
    convert("vilt", "--source", tmp_path / "vilt", "--output", tmp_path / "ours")
    ours, report = AUTO_CLASSES[class_name].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    text = text_batch()
    with torch.no_grad():
        expected, got = theirs(**text, **images).logits, ours(**text, **images).logits
        assert got.shape == expected.shape
        shown = text["attention_mask"].bool() if class_name == "ViltForMaskedLM" else slice(None)
        assert (got - expected)[shown].abs().max() <= TOLERANCE * max(1, expected.abs().max())
        # The base model loads from a folder with a head, too.
        base = AutoModel.from_pretrained(tmp_path / "ours")(**text, **images)
        assert (base.pooled - theirs.vilt(**text, **images).pooler_output).abs().max() <= TOLERANCE


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("num_images", [2, 3])
def test_vilt_with_several_images(tmp_path, num_images, padded):
    fields = {"modality_type_vocab_size": num_images + 1, "num_images": num_images}
    theirs = tiny_vilt(tmp_path / "vilt", "ViltForImagesAndTextClassification", **fields)
    convert("vilt", "--source", tmp_path / "vilt", "--output", tmp_path / "ours")
    ours = AutoModelForImagesAndTextClassification.from_pretrained(tmp_path / "ours")
    one = IMAGES["padded" if padded else "as in pretraining"]
    images = {name: torch.stack([value.roll(k, 0) for k in range(num_images)], dim=1) for name, value in one.items()}
    with torch.no_grad():
        expected = theirs(**text_batch(), **images).logits
        got = ours(**text_batch(), **images).logits
        swapped = ours(**text_batch(), **{name: value.flip(1) for name, value in images.items()}).logits
    assert (got - expected).abs().max() <= TOLERANCE * max(1, expected.abs().max())
    assert (swapped - got).abs().max() > 0.01


def test_the_losses_of_vilt(tmp_path):
    text, images = text_batch(), IMAGES["as in pretraining"]
    labels = {
        "ViltForMaskedLM": text["input_ids"].where(text["attention_mask"] == 1, -100),
        "ViltForQuestionAnswering": torch.rand(3, 5),
    }
    for class_name, values in labels.items():
        theirs = tiny_vilt(tmp_path / class_name, class_name)
        convert("vilt", "--source", tmp_path / class_name, "--output", tmp_path / "ours", "--overwrite")
        ours = AUTO_CLASSES[class_name].from_pretrained(tmp_path / "ours")
        with torch.no_grad():
            expected, got = theirs(**text, **images, labels=values).loss, ours(**text, **images, labels=values).loss
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_options_of_vilt(tmp_path):
    """Options that change what its layers compute, each far from its default."""
    fields = {"layer_norm_eps": 0.1, "qkv_bias": False, "hidden_act": "relu", "type_vocab_size": 1}
    theirs = tiny_vilt(tmp_path / "vilt", "ViltForQuestionAnswering", **fields, hidden_dropout_prob=0.3)
    convert("vilt", "--source", tmp_path / "vilt", "--output", tmp_path / "ours")
    ours = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path / "ours")
    text, images = text_batch(), IMAGES["padded"]
    with torch.no_grad():
        expected, got = theirs(**text, **images).logits, ours(**text, **images).logits
    assert (got - expected).abs().max() <= TOLERANCE * max(1, expected.abs().max())
    assert ours.config.embedding_dropout == ours.config.encoder_config.hidden_dropout_prob == 0.3
    assert ours.classifier.layer_norm.eps == theirs.classifier[1].eps
    assert ours.config.id2label == theirs.config.id2label


def test_vilt_goes_on_in_pretraining(tmp_path):
    """Only the matching head is new, the decoder stays tied, and a second image has the type of the first."""
    tiny_vilt(tmp_path / "vilt", "ViltForMaskedLM", modality_type_vocab_size=2)
    convert("vilt", "--source", tmp_path / "vilt", "--output", tmp_path / "ours")
    model, report = OneTowerForPreTraining.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert set(report["missing_keys"]) == {"itm_head.weight", "itm_head.bias"} and not report["unexpected_keys"]
    assert model.mlm_head.decoder.weight is model.get_input_embeddings().weight
    types = model.model.type_embeddings(torch.tensor([0, 1, 2]))
    assert torch.equal(types[1], types[2]) and not torch.equal(types[0], types[1])


def test_account_of_vilt(tmp_path, capsys):
    tiny_vilt(tmp_path / "vilt", "ViltModel", modality_type_vocab_size=2, max_image_length=6)
    convert("vilt", "--source", tmp_path / "vilt", "--output", tmp_path / "ours")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "OneTowerModel" in lines[0]
    assert "embeddings.text_embeddings.token_type_embeddings.weight, from row 1 on" in lines[2]
    assert lines[4].startswith("type_embeddings.weight, from row 2 on: zero")
    assert lines[5].startswith("differs: ViLT draws 6 patches at random")
    assert "none saved" in lines[6] and len(lines) == 7


def test_the_processor_of_vilt(tmp_path, processor, capsys):
    tiny_vilt(tmp_path / "vilt", "ViltModel")
    processor.tokenizer.save_pretrained(tmp_path / "vilt")
    images = ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=PATCH)
    images.save_pretrained(tmp_path / "vilt")
    convert("vilt", "--source", tmp_path / "vilt", "--output", tmp_path / "ours")
    assert "processor: saved, ViltImageProcessorPil" in capsys.readouterr().out
    loaded = transformers.AutoProcessor.from_pretrained(tmp_path / "ours")
    assert isinstance(loaded, RenaissanceProcessor)
    pictures = [Image.new("RGB", (60, 40), "red"), Image.new("RGB", (40, 40), "blue")]
    inputs = loaded(images=pictures, text=["a red circle " * 20, "a star"], return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 20  # as many positions as ViLT has
    expected = images(pictures, return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert torch.equal(inputs["pixel_mask"], expected["pixel_mask"])
    assert torch.isfinite(AutoModel.from_pretrained(tmp_path / "ours")(**inputs).pooled).all()


def check_card(folder: Path, source: str, head: bool) -> None:
    """The card of a converted model is valid, says what was converted, and its code loads the model and its processor."""
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers" and card.data.model_name == folder.name
    assert f"Converted from ./{source}." in card.text
    heads = [line for line in card.text.splitlines() if line.startswith("| head |")]
    assert len(heads) == head and all(f"| from ./{source} |" in line for line in heads)
    loading, own, *example = re.findall(r"^```python\n(.*?)^```", card.text, flags=re.S | re.M)
    saved = load_file(folder / "model.safetensors")
    names = {"image": Image.new("RGB", (40, 30), (200, 30, 30))}
    for block in (loading, own):
        exec(block, names)
        weights = names["model"].state_dict()
        assert all(torch.equal(weights[name], value) for name, value in saved.items()) and saved
        for each in example:
            exec(each, names)


@pytest.mark.parametrize(
    "class_name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "ViltForQuestionAnswering")) for name in VILT_CLASSES],
)
def test_the_card_of_a_converted_vilt(class_name, tmp_path, processor, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keep_modules_in(tmp_path / "modules", monkeypatch)
    size = len(processor.tokenizer)
    tiny_vilt(tmp_path / "vilt", class_name, max_image_length=6, vocab_size=size, num_images=1 + (class_name in PAIRS))
    processor.tokenizer.save_pretrained(tmp_path / "vilt")
    ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=PATCH).save_pretrained(tmp_path / "vilt")
    (tmp_path / "vilt" / "README.md").write_text("---\nlicense: mit\n---\n# theirs\n")
    convert("vilt", "--source", "vilt", "--output", "ours")
    check_card(Path("ours"), "vilt", class_name != "ViltModel")
    card = ModelCard.load("ours/README.md")
    assert card.data.license == "mit" and "ViLT draws 6 patches at random from larger images" in card.text
    # Another head on the converted encoder is new; the card of a model that is saved again says so.
    other = OneTowerForMaskedLM if "Retrieval" in class_name else OneTowerForImageTextRetrieval
    other.from_pretrained("ours").save_pretrained("tuned")
    assert "| head | random |" in Path("tuned", "README.md").read_text()


#: A source, what its conversion is loaded as, with options, one after the other, and what the card says of the last one's head.
HEADS_OF_OTHERS = [
    ("ViltForQuestionAnswering", ["ForImageTextClassification"], "from ./vilt"),
    ("ViltForQuestionAnswering", ["ForMaskedLM"], "random"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("ViltForQuestionAnswering", ["ForSequenceClassification", "ForImageClassification"], "from ./vilt"),
            ("ViltForQuestionAnswering", ["ForVisualQuestionAnswering 7"], "random"),
            ("ViltForQuestionAnswering", ["ForImagesAndTextClassification 5"], "random"),
            ("ViltForQuestionAnswering", ["Model", "ForVisualQuestionAnswering"], "random"),
            ("ViltForImagesAndTextClassification", ["ForImagesAndTextClassification"], "from ./vilt"),
            ("ViltForMaskedLM", ["ForPreTraining"], "mlm_head from ./vilt, itm_head random"),
            ("ViltForMaskedLM", ["ForPreTraining", "ForMaskedLM"], "from ./vilt"),
            ("ViltForMaskedLM", ["ForImageTextRetrieval"], "random"),
            ("ViltForImageAndTextRetrieval", ["ForPreTraining"], "mlm_head random, itm_head from ./vilt"),
            ("ViltForImageAndTextRetrieval", ["ForPreTraining", "ForMaskedLM"], "random"),
            ("ViltModel", ["ForPreTraining"], "random"),
        )
    ),
]


@pytest.mark.parametrize(("class_name", "kinds", "start"), HEADS_OF_OTHERS)
def test_a_head_has_the_source_of_the_weights_that_it_takes(class_name, kinds, start, tmp_path, monkeypatch):
    """Heads of several classes share modules; one whose sizes are others is new."""
    monkeypatch.chdir(tmp_path)
    tiny_vilt(tmp_path / "vilt", class_name, num_images=1 + (class_name in PAIRS))
    convert("vilt", "--source", "vilt", "--output", "0")
    for number, kind in enumerate(kinds):
        kind, _, labels = kind.partition(" ")
        sizes = {"num_labels": int(labels), "ignore_mismatched_sizes": True} if labels else {}
        model = ARCHITECTURES["one-tower"].models[kind].from_pretrained(str(number), **sizes)
        model.save_pretrained(str(number + 1))
    (line,) = [line for line in Path(str(len(kinds)), "README.md").read_text().splitlines() if "| head |" in line]
    assert line.split(" | ")[1] == start
    taken, saved = load_file("0/model.safetensors"), load_file(f"{len(kinds)}/model.safetensors")
    heads = {name: value for name, value in saved.items() if not name.startswith("model.")}
    assert all(name in taken and torch.equal(taken[name], value) for name, value in heads.items()) == (
        start == "from ./vilt"
    )


def test_a_revision_of_a_base_model_is_that_base_model():
    model = tiny_model("two-tower")
    model.config.weights_from = {"text": "google/electra-small-discriminator@v1", "cross_modal": "unc-nlp/lxmert"}
    card = model_card("org/name", model)
    assert card.data.base_model == ["google/electra-small-discriminator", "unc-nlp/lxmert"]
    assert "from google/electra-small-discriminator\\@v1" in card.text


@pytest.fixture(scope="module")
def lxmert(tmp_path_factory, processor) -> tuple[Path, LxmertForPreTraining]:
    """A folder with a random LXMERT, `lxmert`, and random encoders, `text` and `vision`; and the LXMERT."""
    folder = tmp_path_factory.mktemp("lxmert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 50, "vocab_size": VOCABULARY}
    sizes |= {"l_layers": 1, "x_layers": 3, "r_layers": 1, "visual_feat_dim": 10, "hidden_act": "relu"}
    sizes |= {"num_qa_labels": 3, "num_object_labels": 4, "num_attr_labels": 5, "hidden_dropout_prob": 0.2}
    model = randomise(LxmertForPreTraining(LxmertConfig(**sizes)))
    model.save_pretrained(folder / "lxmert")
    randomise(BertModel(tiny_bert())).save_pretrained(folder / "text")
    processor.tokenizer.save_pretrained(folder / "text")
    randomise(ViTModel(tiny_vit())).save_pretrained(folder / "vision")
    return folder, model


def lxmert_arguments(folder: Path, output: Path) -> list[object]:
    sources = ["--source", folder / "lxmert", "--text_encoder", folder / "text", "--vision_encoder", folder / "vision"]
    return ["lxmert", *sources, "--output", output]


@pytest.mark.parametrize("num_layers", [None, 2])
def test_lxmert(lxmert, tmp_path, num_layers):
    """On the states that LXMERT's cross-modal layers get in its own forward pass ours make the same of them."""
    folder, theirs = lxmert
    options = [] if num_layers is None else ["--cross_modal_layers", num_layers]
    convert(*lxmert_arguments(folder, tmp_path), *options)
    ours = AutoModel.from_pretrained(tmp_path)
    assert type(ours) is TwoTowerModel and len(ours.cross_modal_layers) == (num_layers or 3)

    seen = []
    layers = theirs.lxmert.encoder.x_layers
    handles = [
        layer.register_forward_hook(lambda _, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True)
        for layer in layers
    ]
    text = text_batch()
    with torch.no_grad():
        theirs(**text, visual_feats=torch.randn(3, 6, 10), visual_pos=torch.rand(3, 6, 4))
    for handle in handles:
        handle.remove()
    language, _, vision = seen[0][0][:3]
    with torch.no_grad():
        masks = CrossModalMasks(ours.config, language, vision, text["attention_mask"], torch.ones(3, 6))
        for layer, (_, _, expected) in zip(ours.cross_modal_layers, seen, strict=False):
            language, vision, _ = layer(language, vision, masks)
            assert (language - expected[0]).abs().max() <= TOLERANCE
            assert (vision - expected[1]).abs().max() <= TOLERANCE
    assert ours.config.cross_modal_dropout == 0.2 and ours.config.cross_modal_attention_dropout == 0.1


def test_the_card_of_a_model_with_layers_of_lxmert(lxmert, tmp_path, monkeypatch):
    folder, _ = lxmert
    monkeypatch.chdir(tmp_path)
    keep_modules_in(tmp_path / "modules", monkeypatch)
    convert(*lxmert_arguments(folder, Path("ours")))
    check_card(Path("ours"), "lxmert", head=False)
    text = ModelCard.load("ours/README.md").text
    for part, source in {"text encoder": "text", "vision encoder": "vision", "cross-modal layers": "lxmert"}.items():
        assert re.search(rf"^\| {part} \| from \./{source}\b", text, flags=re.M)
    assert "Not from the source: text_projection. (2 weights): random." in text


def test_the_rest_of_an_lxmert_model(lxmert, tmp_path, capsys):
    folder, _ = lxmert
    for name in ("first", "second"):
        convert(*lxmert_arguments(folder, tmp_path / name), "--cross_modal_layers", 1)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "encoder.x_layers. (84 weights): only the first 1 are taken",
        "answer_head.",
        "text_projection. (2 weights): random",
    ):
        assert any(line.startswith(expected) for line in lines), expected
    first, second = (AutoModel.from_pretrained(tmp_path / name) for name in ("first", "second"))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    bert = BertModel.from_pretrained(folder / "text", add_pooling_layer=False)
    for name, value in bert.state_dict().items():
        assert torch.equal(value, first.text_encoder.state_dict()[name]), name
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "first")
    assert processor.image_shape == (32, 32) and processor.tokenizer.model_max_length <= 40


def fails(capsys, *arguments: object) -> str:
    """The one line that the script ends with, with code 2."""
    with pytest.raises(SystemExit) as exit:
        convert(*arguments)
    assert exit.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_what_cannot_be_converted(lxmert, tmp_path, capsys):
    folder, _ = lxmert
    output = ["--output", tmp_path / "ours"]
    tiny_vilt(tmp_path / "tokens", "ViltForTokenClassification")
    tiny_vilt(tmp_path / "relu", "ViltForMaskedLM", hidden_act="relu")
    tiny_vilt(tmp_path / "half", "ViltModel")
    config = (tmp_path / "half" / "config.json").read_text()
    (tmp_path / "half" / "config.json").write_text(config.replace("ViltModel", "ViltForQuestionAnswering"))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(config)
    expected = {
        tmp_path / "nowhere": "no checkpoint there",
        folder / "text": "expected a vilt model, got bert",
        tmp_path / "tokens": f"expected a checkpoint of {', '.join(VILT_CLASSES)}, got ViltForTokenClassification",
        tmp_path / "relu": "hidden_act: the masked-LM head has gelu, got 'relu'",
        tmp_path / "half": "lacks the weights classifier.0.bias, classifier.0.weight",
        tmp_path / "bare": "no weights that fit",
    }
    for source, message in expected.items():
        assert message in fails(capsys, "vilt", "--source", source, *output)
    arguments = lxmert_arguments(folder, tmp_path / "ours")
    assert "expected 1 to 3, as many as LXMERT has, got 4" in fails(capsys, *arguments, "--cross_modal_layers", 4)
    arguments[2] = folder / "vision"
    assert "expected a lxmert model, got vit" in fails(capsys, *arguments)
    arguments = lxmert_arguments(folder, tmp_path / "ours")
    arguments[6] = folder / "text"
    assert "is no vision encoder" in fails(capsys, *arguments)
    assert not (tmp_path / "ours").exists()
    convert("vilt", "--source", make_vilt(tmp_path), *output)
    assert "already holds a model" in fails(capsys, "vilt", "--source", tmp_path / "vilt", *output)


def make_vilt(folder: Path) -> Path:
    tiny_vilt(folder / "vilt", "ViltModel")
    return folder / "vilt"
