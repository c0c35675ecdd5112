"""The dual encoder: its vectors, losses, refusals, saved folders and retrieval."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, IMAGE_SIZE, VOCABULARY, padded, rows_of, tiny_batch, tiny_model
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from renaissance import DualEncoderConfig, DualEncoderModel
from renaissance.commands.convert import main as convert
from renaissance.commands.predict import main as predict
from renaissance.modeling.contrastive import ContrastiveHead
from renaissance.processing.objectives import ContrastiveData
from renaissance.tasks.data.shapes import write_tokenizer
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.runner import run_task


SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DUAL = [
    "--architecture", "dual-encoder", "--text_encoder", "bert", "--random_init_text", "--vision_encoder", "vit",
    "--random_init_vision", "--contrastive_size", "16",
    "--text_overrides", '{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}',
    "--vision_overrides",
    '{"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32, '
    '"patch_size": 16}',
]  # fmt: skip


def dual(kind: str = "Model", **kwargs):
    return tiny_model("dual-encoder", kind, **kwargs)


def clip_like(**kwargs) -> DualEncoderModel:
    """Encoders that make pooled vectors of their own."""
    torch.manual_seed(0)
    text = CLIPTextConfig(**SIZES, vocab_size=VOCABULARY, max_position_embeddings=40, initializer_factor=3.0)
    vision = CLIPVisionConfig(**SIZES, image_size=IMAGE_SIZE, patch_size=8)
    return DualEncoderModel.from_encoders(text, vision, text_pooling="own", image_pooling="own", **kwargs)


@pytest.fixture(params=["mean", "first", "own"])
def model(request) -> DualEncoderModel:
    if request.param == "own":
        return clip_like(contrastive_size=16)
    return dual(text_pooling=request.param, image_pooling=request.param)


@torch.no_grad()
def test_every_text_is_compared_with_every_image(model):
    batch = tiny_batch()
    one, two = {**batch}, rows_of(batch, [2, 0])
    found = model(one["input_ids"], one["attention_mask"], two["pixel_values"])
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    image = model.get_image_features(two["pixel_values"]).pooler_output
    assert found.logits_per_image.shape == (2, 3)
    torch.testing.assert_close(found.logits_per_image, found.logits_per_text.T)
    torch.testing.assert_close(found.logits_per_text, text @ image.T / 0.07)
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(3))
    alone = model(pixel_values=two["pixel_values"])
    torch.testing.assert_close(alone.pooler_output, image)
    assert alone.logits_per_image is None and alone.last_hidden_state.shape[0] == 2


@torch.no_grad()
def test_padding_and_the_other_rows_change_nothing(model):
    batch = tiny_batch()
    whole = model(**batch)
    torch.testing.assert_close(model(**padded(batch, 4)).logits_per_text, whole.logits_per_text, rtol=1e-4, atol=1e-4)
    part = model(**rows_of(batch, [2, 1]))
    expected = whole.logits_per_text[[2, 1]][:, [2, 1]]
    torch.testing.assert_close(part.logits_per_text, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_pooling_is_what_it_says():
    batch = tiny_batch()
    batch["attention_mask"][0, 4:] = 0
    for pooling in ("mean", "first"):
        model = dual(text_pooling=pooling, image_pooling=pooling)
        states = model.text_encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        rows = [row[mask.bool()] for row, mask in zip(states, batch["attention_mask"], strict=True)]
        pooled = torch.stack([row.mean(dim=0) if pooling == "mean" else row[0] for row in rows])
        expected = torch.nn.functional.normalize(model.contrastive_head.text_projection(pooled), dim=-1)
        found = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="text_pooling: bert makes no pooled vector of its own"):
        dual(text_pooling="own")(**batch)
    with pytest.raises(ValueError, match="image_pooling: expected one of mean, first, own, got 'last'"):
        DualEncoderConfig(image_pooling="last")


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_all_that_trains_gets_a_gradient(loss):
    model = dual("ForPreTraining", contrastive_loss=loss).train()
    batch = tiny_batch() | {"contrastive_ids": torch.arange(3)}
    model(**batch).loss.backward()
    unmoved = [name for name, value in model.named_parameters() if (value.grad is None) == value.requires_grad]
    assert unmoved == [] and model.model.contrastive_head.log_scale.grad.abs() > 0


def test_a_locked_image_tower_stays_as_it_is():
    model = dual("ForPreTraining")
    model.freeze("vision")
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    model.train()(**tiny_batch(), contrastive_ids=torch.arange(3)).loss.backward()
    optimizer.step()
    changed = {
        name.split(".")[1] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"text_encoder", "contrastive_head"} and model.config.frozen == ["vision"]


def sigmoid_by_hand(head: ContrastiveHead, text: torch.Tensor, image: torch.Tensor, ids: list[int]) -> float:
    """The loss pair by pair; rows of one image are no false pairs."""
    total, scale, bias = 0.0, head.log_scale.exp().item(), head.bias.item()
    for row in range(len(ids)):
        for column in range(len(ids)):
            if row != column and ids[row] == ids[column]:
                continue
            score = scale * float(text[row].double() @ image[column].double()) + bias
            total += math.log1p(math.exp(-score if row == column else score))
    return total


def test_the_sigmoid_loss_is_binary_cross_entropy_of_each_pair():
    model, batch = dual("ForPreTraining", contrastive_loss="sigmoid"), tiny_batch(4)
    ids = [5, 7, 5, 9]
    head = model.model.contrastive_head
    assert (head.scale().item(), head.bias.item()) == pytest.approx((10, -10))
    for bias in (-10.0, 2.0):
        torch.nn.init.constant_(head.bias, bias)
        found = model(**batch, contrastive_ids=torch.tensor(ids))
        vectors = model.model(**batch)
        expected = sigmoid_by_hand(head, vectors.text_embeds.detach(), vectors.image_embeds.detach(), ids)
        assert found.loss.item() == pytest.approx(expected / 4, rel=1e-4)
        torch.testing.assert_close(found.logits["contrastive"], vectors.logits_per_text)
        data = ContrastiveData()
        data.fit(model.config)
        sums = data.row_sums(found.logits["contrastive"], {"contrastive_ids": torch.tensor(ids)})
        assert sums[:, 0].mean().item() == pytest.approx(expected / 4, rel=1e-4)


def test_the_sigmoid_loss_goes_with_other_architectures(architecture):
    model = tiny_model(architecture, "ForPreTraining", objectives=["contrastive"], contrastive_loss="sigmoid")
    batch = tiny_batch() | {"contrastive_ids": torch.tensor([1, 2, 1])}
    image = model.get_image_features(batch["pixel_values"]).pooler_output.detach()
    text = model.get_text_features(batch["input_ids"]).pooler_output.detach()
    expected = sigmoid_by_hand(model.contrastive_head, text, image, [1, 2, 1]) / 3
    assert model(**batch).loss.item() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_retrieval_scores_pairs_by_their_vectors():
    model, batch = dual("ForImageTextRetrieval"), tiny_batch(4)
    index = torch.tensor([[0, 2, -1], [3, 1, 0]]), torch.tensor([[1, 0, -1], [3, 2, 2]])
    found = model(**batch, text_index=index[0], image_index=index[1]).logits
    grid = model.model(**batch).logits_per_text
    torch.testing.assert_close(found[:, :2], grid[index[0], index[1]][:, :2])
    torch.testing.assert_close(found[1, 2], grid[0, 2])
    assert found[0, 2] == torch.finfo(found.dtype).min


def test_the_architecture_has_the_heads_that_need_no_fusing(monkeypatch):
    kinds = {kind for name, kind in CLASSES if name == "dual-encoder"}
    assert kinds == {
        "Model", "ForPreTraining", "ForImageTextRetrieval", "ForSequenceClassification", "ForImageClassification"
    }  # fmt: skip
    for kind in ("ForSequenceClassification", "ForImageClassification"):
        model = dual(kind, num_labels=3).train()
        batch, labels = tiny_batch(), torch.tensor([0, 2, 1])
        text = {name: batch[name] for name in ("input_ids", "attention_mask")}
        inputs = text if kind == "ForSequenceClassification" else {"pixel_values": batch["pixel_values"]}
        found = model(**inputs, labels=labels, output_hidden_states=True)
        found.loss.backward()
        unmoved = [name for name, value in model.named_parameters() if (value.grad is None) == value.requires_grad]
        assert unmoved == [] and len(found.hidden_states) == 3


@pytest.mark.parametrize("objectives", [["mlm"], ["itm", "contrastive"], {"mlm": 1, "itm": 1}])
def test_objectives_that_fuse_are_refused(objectives):
    message = r"objectives: (mlm|itm|mlm, itm) needs texts that are fused .* dual-encoder .* it can do contrastive"
    with pytest.raises(ValueError, match=message):
        dual("ForPreTraining", objectives=objectives)
    with pytest.raises(ValueError, match=message):
        DualEncoderConfig(objectives=objectives)


@torch.no_grad()
def test_a_saved_model_comes_back_with_all_its_kinds(tmp_path):
    model, batch = dual("ForPreTraining", contrastive_loss="sigmoid"), tiny_batch()
    torch.nn.init.constant_(model.model.contrastive_head.bias, 3.0)
    expected = model.model(**batch).logits_per_image
    model.save_pretrained(tmp_path)
    for auto in (AutoModel, AutoModelForZeroShotImageClassification):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is DualEncoderModel
        torch.testing.assert_close(loaded(**batch).logits_per_image, expected)
    retrieval = CLASSES["dual-encoder", "ForImageTextRetrieval"].from_pretrained(tmp_path)
    torch.testing.assert_close(retrieval(**batch).logits, expected.diagonal().unsqueeze(1))


def test_tasks_that_fuse_are_refused_before_anything_runs(options, shapes, refused):
    said = refused(run_task, NLVR2, "", [*options, *DUAL, "--dataset", "nowhere", "--do_train"])
    assert "architecture: dual-encoder, which fuses no text with an image" in said and "retrieval" in said
    argv = [*options, *DUAL, "--train_datasets", "nowhere", "--do_train", "--objectives", "mlm"]
    assert "objectives: mlm needs texts that are fused" in refused(run_task, Pretraining, "", argv)
    for idle in (["--rerank_top_k", "10"], ["--negatives", "hard"], ["--num_negative_images", "2"]):
        argv = [*options, *DUAL, "--dataset", str(shapes / "captions"), "--do_train", *idle]
        assert f"{idle[0][2:]}: without effect on a dual-encoder model" in refused(run_task, Retrieval, "", argv)
    argv = [*options, *DUAL, "--pooler", "single", "--train_datasets", "nowhere", "--do_train"]
    assert "pooler: without effect on a dual-encoder model" in refused(run_task, Pretraining, "", argv)


def write_source(kind: str, folder: Path) -> torch.nn.Module:
    """Save a model of transformers with random weights, a tokenizer and an image processor; return it."""
    torch.manual_seed(3)
    text = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 20, "pad_token_id": 0, "eos_token_id": 3}
    vision = {**SIZES, "image_size": IMAGE_SIZE, "patch_size": 8}
    if kind == "clip":
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12, logit_scale_init_value=3.0)
        theirs = CLIPModel(config)
        processor = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE)
    else:
        theirs = SiglipModel(SiglipConfig(text_config=text | {"projection_size": 24}, vision_config=vision))
        processor = SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    theirs.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    write_tokenizer(folder)
    if kind == "siglip":
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings |= {"model_input_names": ["input_ids"], "model_max_length": 20}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return theirs


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_a_converted_model_has_the_same_outputs(kind, tmp_path, capsys):
    theirs = write_source(kind, tmp_path / "source")
    convert([kind, "--source", str(tmp_path / "source"), "--output", str(tmp_path / "out")])
    assert "left out of the source: nothing" in capsys.readouterr().out
    ours = AutoModel.from_pretrained(tmp_path / "out").eval()
    batch = tiny_batch(4, tokens=9)
    batch["input_ids"][:, 6] = 3
    for inputs in (batch, rows_of(batch, [1]), batch | {"attention_mask": (torch.arange(9) < 7).long().expand(4, 9)}):
        expected, found = theirs(**inputs), ours(**inputs)
        for name in ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)

    # Through the processor: SigLIP reads padding up to the longest length.
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    tokens = processor(text=["a red circle", "a blue star left of a circle"], return_tensors="pt")
    if kind == "siglip":
        assert tokens["input_ids"].shape == (2, 20) and tokens["attention_mask"].all()
        texts = {"input_ids": tokens["input_ids"]}
    else:
        texts = dict(tokens)
        assert not tokens["attention_mask"].all()
    expected = theirs(**texts, pixel_values=batch["pixel_values"]).logits_per_image
    found = ours(**tokens, pixel_values=batch["pixel_values"]).logits_per_image
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_layers_of_both_encoders_are_returned():
    """Those of texts and of images alone, as of each by itself."""
    model, batch = dual().eval(), tiny_batch(3)
    model.set_attn_implementation("eager")
    outputs = {"output_hidden_states": True, "output_attentions": True}
    both = model(**batch, **outputs)
    for stream, names in (("text", ("input_ids", "attention_mask")), ("image", ("pixel_values",))):
        alone = model(**{name: batch[name] for name in names}, **outputs)
        for layers in ("hidden_states", "attentions"):
            found, expected = both[f"{stream}_{layers}"], alone[layers]
            assert len(found) == len(expected) > 0
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other)
    assert both.hidden_states is None


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_a_converted_model_is_asked_about_an_image(kind, tmp_path, capsys):
    """The probabilities are those of the model that it was made of: SigLIP's are of each text by itself."""
    theirs = write_source(kind, tmp_path / "source")
    convert([kind, "--source", str(tmp_path / "source"), "--output", str(tmp_path / "out")])
    picture = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (200, 30, 90))
    picture.save(tmp_path / "photo.png")
    texts = ["a red circle", "a blue star left of a circle"]
    predict(
        [
            str(tmp_path / "out"),
            "--image",
            str(tmp_path / "photo.png"),
            "--text",
            *texts,
            "--output",
            str(tmp_path / "answers.json"),
        ]
    )
    (answer,) = json.loads((tmp_path / "answers.json").read_text())
    inputs = AutoProcessor.from_pretrained(tmp_path / "out")(images=picture, text=texts, return_tensors="pt")
    if kind == "siglip":
        del inputs["attention_mask"]
    logits = theirs(**inputs).logits_per_image[0]
    expected = logits.sigmoid() if kind == "siglip" else logits.softmax(dim=-1)
    assert [answer["scores"][text] for text in texts] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_conversion_of_another_model_is_refused(tmp_path, refused):
    write_source("clip", tmp_path / "source")
    argv = ["siglip", "--source", str(tmp_path / "source"), "--output", str(tmp_path / "out")]
    assert "expected a siglip model, got clip" in refused(convert, argv)
