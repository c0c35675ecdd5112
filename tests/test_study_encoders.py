"""Small encoders for studies: plain folders that have learned something, and plug into models."""

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, PATCH_SIZE, VOCABULARY, tiny_batch, tiny_model, tiny_vit
from datasets import Dataset
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from renaissance import OneTowerModel, TwoTowerModel
from renaissance.commands.encoder import TYPES, main
from renaissance.model_cards.lineage import digest_of_weights
from renaissance.studies.encoders import means, scores
from renaissance.tasks.data.fingerprint import fingerprint
from renaissance.tasks.data.opening import open_split
from renaissance.tasks.data.shapes import DATA_SETS
from renaissance.tasks.run_record import RunRecord


TINY = '{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}'


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Images of one shape, with their classes."""
    folder, source = tmp_path_factory.mktemp("objects"), DATA_SETS["cifar10"]
    for split, number in (("train", 600), ("validation", 100)):
        rows = Dataset.from_list(list(source.rows(split, number, 0, 64)), features=source.features)
        rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def learned(capsys) -> tuple[float, float]:
    """The loss and the accuracy in the last line."""
    words = capsys.readouterr().out.splitlines()[-1].replace(",", "").split()
    return float(words[words.index("loss") + 1]), float(words[words.index("accuracy") + 1])


def test_a_text_encoder(shapes, tokenizer_folder, tmp_path, capsys):
    argv = ["text", "--dataset", str(shapes / "captions"), "--tokenizer", str(tokenizer_folder), "--overrides", TINY]
    main(
        [
            *argv,
            "--output",
            str(tmp_path / "words"),
            "--max_steps",
            "30",
            "--batch_size",
            "32",
            "--learning_rate",
            "5e-3",
        ]
    )
    words = len(AutoTokenizer.from_pretrained(tmp_path / "words"))
    loss, accuracy = learned(capsys)
    assert loss < 0.8 * np.log(words) and accuracy > 3 / words
    record = RunRecord.read(tmp_path / "words")
    assert (record.status, record.task, record.model_class) == ("finished", "fill-mask", "BertForMaskedLM")
    assert (record.steps, record.samples, record.of_split("train").rows) == (30, 30 * 32, 128)
    assert record.of_split("validation").fingerprint == fingerprint(open_split(str(shapes / "captions"), "validation"))
    found = {each.metric: each.value for each in record.metrics}
    assert found == {"loss": pytest.approx(loss, abs=1e-4), "accuracy": pytest.approx(accuracy, abs=1e-4)}
    weights = AutoModel.from_pretrained(tmp_path / "words").state_dict()
    tower = TwoTowerModel.from_encoders(str(tmp_path / "words"), tiny_vit()).text_encoder
    assert {name for name, value in tower.state_dict().items() if torch.equal(value, weights[name])} >= {
        "embeddings.word_embeddings.weight",
        "encoder.layer.1.output.dense.weight",
    }


@pytest.mark.slow
def test_a_vision_encoder(objects, tmp_path, capsys):
    main(["vision", "--dataset", str(objects), "--max_steps", "60", "--output", str(tmp_path / "eyes")])
    loss, accuracy = learned(capsys)
    assert loss < np.log(16) and accuracy > 2 / 16
    _, info = AutoModel.from_pretrained(tmp_path / "eyes", output_loading_info=True)
    assert not info["unexpected_keys"]
    assert OneTowerModel.from_encoder(str(tmp_path / "eyes")).config.encoder_config.hidden_size == 128


def test_scores_weigh_each_label_alike():
    """Labels of -100, and the padding that gathering adds, count for nothing."""
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]], [[0.0, 3.0], [0.0, 0.0], [1.0, 0.0]]])
    labels = torch.tensor([[0, 0, -100], [1, -100, -100]])
    losses, hits = scores(logits, labels)
    assert losses[0, 0].item() == pytest.approx(np.log(1 + np.exp(-2)))
    gathered = np.concatenate([torch.stack((losses, hits), dim=-1).numpy(), np.full((2, 1, 2), -100.0)], axis=1)
    padded = np.concatenate([labels.numpy(), np.full((2, 1), -100)], axis=1)
    assert means(type("Prediction", (), {"predictions": gathered, "label_ids": padded}))["accuracy"] == pytest.approx(
        2 / 3
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["vision", "--dataset", "{captions}"], "no column label, got image, image_id, captions"),
        (["text", "--tokenizer", "{tokenizer}", "--dataset", "{objects}"], "no column captions or text, got"),
        (["text", "--tokenizer", "{tokenizer}", "--dataset", "{captions}", "--type", "brt"], "brt"),
        (["vision", "--dataset", "nowhere"], "nowhere"),
        (["vision", "--dataset", "{objects}", "--overrides", "[1]"], "overrides: expected a JSON object such as"),
        (["vision", "--dataset", "{objects}", "--max_steps", "0"], "max_steps"),
        (["text", "--dataset", "{captions}"], "--tokenizer"),
    ],
)
def test_mistakes(argv, message, objects, shapes, tokenizer_folder, tmp_path, capsys):
    places = {"captions": shapes / "captions", "tokenizer": tokenizer_folder, "objects": objects}
    with pytest.raises(SystemExit) as end:
        main([*(word.format(**places) if "{" in word else word for word in argv), "--output", str(tmp_path / "out")])
    errors = capsys.readouterr().err
    # `datasets` may show how far it has read, if that takes long.
    told = [line for line in errors.splitlines() if "error: " in line]
    assert end.value.code == 2 and message in errors and len(told) == 1 and "Traceback" not in errors, errors


def test_an_encoder_is_not_overwritten(objects, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["vision", "--dataset", str(objects), "--output", str(tmp_path)])
    assert "holds a model already" in capsys.readouterr().err


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_an_encoder_that_is_taken_out_of_a_model(processor, tmp_path, tower):
    """Its states are those of the tower, as transformers loads it and in a model with one tower; its processor is the model's."""
    model = tiny_model("two-tower", "ForPreTraining")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    output = tmp_path / "tower"
    main(["extract", "--model", str(tmp_path / "model"), "--tower", tower, "--output", str(output)])
    batch = tiny_batch()
    inputs = {name: batch[name] for name in (["input_ids"] if tower == "text" else ["pixel_values"])}
    encoder = getattr(model.model, f"{tower}_encoder")
    expected = encoder(**inputs).last_hidden_state
    record = RunRecord.read(output)
    assert (record.did, record.script, record.model_type) == (["convert"], "renaissance encoder", TYPES[tower])
    assert record.started_from == "./model" and record.history[0].digest == digest_of_weights(str(tmp_path / "model"))
    assert record.parameters == encoder.num_parameters()
    plain = AutoModel.from_pretrained(output).eval()
    torch.testing.assert_close(plain(**inputs).last_hidden_state, expected)
    sizes = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 40,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    weights = OneTowerModel.from_encoder(str(output), **sizes).state_dict().values()
    layers = [value for name, value in plain.state_dict().items() if "layer" in name and value.ndim == 2]
    assert len(layers) == 12 and all(any(torch.equal(value, each) for each in weights) for value in layers)
    if tower == "text":
        assert AutoTokenizer.from_pretrained(output).get_vocab() == processor.tokenizer.get_vocab()
    else:
        assert AutoImageProcessor.from_pretrained(output).size == processor.image_processor.size


def test_a_model_of_which_no_encoder_can_be_taken(processor, tmp_path, refused):
    tiny_model("one-tower-text").save_pretrained(tmp_path / "one")
    processor.save_pretrained(tmp_path / "one")
    argv = ["extract", "--tower", "text", "--output", str(tmp_path / "tower"), "--model"]
    assert "expected a model with a text encoder of its own, got a renaissance-one-tower" in refused(
        main, [*argv, str(tmp_path / "one")]
    )
    assert "model" in refused(main, [*argv, str(tmp_path / "nothing")])
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text("{}")
    assert "holds a model already" in refused(main, [*argv, str(tmp_path / "one")])
