"""Vectors of text alone and of images alone: their loss, their gradients, and ranking with them as the first stage."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import candidates_batch, tiny_batch, tiny_model
from test_retrieval import batch_rows, make_data, make_trainer
from test_retrieval_runs import retrieve

from renaissance import AutoModelForImageTextRetrieval
from renaissance.modeling.contrastive import ContrastiveHead, info_nce
from renaissance.processing.objectives import ContrastiveData
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.ranking import chance_recall, first_stage_recall
from renaissance.tasks.retrieval import Retrieval, RetrievalArguments, RetrievalCollator
from renaissance.tasks.runner import run_task
from renaissance.tasks.scoring import PairScorer


KIND = "ForImageTextRetrieval"
SIZE = 12


def dual_model(architecture: str, **kwargs):
    return tiny_model(architecture, KIND, contrastive_size=SIZE, **kwargs)


def random_vectors(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.nn.functional.normalize(torch.randn(count, SIZE, generator=generator), dim=-1) for _ in range(2)
    )


def ids_of(true: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the texts (T,) and those that are true of each image (I, T), of which pairs (T, I) are no false ones."""
    texts = torch.arange(len(true))
    return texts, torch.where(true.T, texts, -1)


def loss_of(head, text, image, rows, columns, true=None) -> torch.Tensor:
    """The mean loss of the pairs of `rows` and `columns`; pairs in `true` (T, I) are not false either."""
    of_texts, of_images = ids_of(torch.zeros(len(text), len(image), dtype=torch.bool) if true is None else true)
    return info_nce(head, text, image, rows, columns, of_texts, of_images)[0] / len(rows)


def by_hand(text: np.ndarray, image: np.ndarray, pairs: list, scale: float, false: np.ndarray) -> float:
    """InfoNCE both ways of true pairs in double precision, one after the other; `false` (T, I) are the pairs that count."""
    terms = []
    for row, column in pairs:
        own = scale * text[row] @ image[column]
        to_images = [scale * text[row] @ image[j] for j in range(len(image)) if false[row, j] and j != column]
        to_texts = [scale * text[i] @ image[column] for i in range(len(text)) if false[i, column] and i != row]
        terms += [math.log(sum(map(math.exp, (own, *scores)))) - own for scores in (to_images, to_texts)]
    return sum(terms) / len(terms)


def test_the_loss_is_info_nce_both_ways():
    """Of four true pairs among nine texts and six images, with and without pairs that count for nothing."""
    head = dual_model("two-tower").contrastive_head
    text, image = random_vectors(9)[0], random_vectors(6)[1]
    arrays = text.double().numpy(), image.double().numpy()
    scale = head.scale().item()
    assert scale == pytest.approx(1 / 0.07)
    true = torch.tensor([0, 1, 2, 8]), torch.tensor([0, 4, 2, 2])
    pairs = list(zip(*(index.tolist() for index in true), strict=True))
    found = loss_of(head, text, image, *true).item()
    assert found == pytest.approx(by_hand(*arrays, pairs, scale, np.ones((9, 6), dtype=bool)), rel=1e-5)

    false = torch.ones(9, 6, dtype=torch.bool)
    false[[0, 1, 2, 8, 8, 2, 5, 0], [0, 4, 2, 2, 0, 5, 4, 2]] = False
    masked = loss_of(head, text, image, *true, ~false).item()
    assert masked == pytest.approx(by_hand(*arrays, pairs, scale, false.numpy()), rel=1e-5)
    assert abs(masked - found) > 0.01


def test_metrics_of_pretraining_compare_the_images_of_a_batch():
    """Rows 0 and 2 have one image: neither is a false one to the other, though their scores are the highest."""
    scores = torch.tensor([[3.0, 1, 9, 2], [4, 2, 0, 5], [9, 1, 3, 0], [0, 1, 2, 6]])
    found = ContrastiveData().row_sums(scores, {"contrastive_ids": torch.tensor([7, 5, 7, 6])}).tolist()

    def loss(own: float, *others: float) -> float:
        return math.log(sum(map(math.exp, (own, *others)))) - own

    # Of a row: its image among the images of other rows, and its text among their texts.
    images = [loss(3, 1, 2), loss(2, 4, 0, 5), loss(3, 1, 0), loss(6, 0, 1, 2)]
    texts = [loss(3, 4, 0), loss(2, 1, 1, 1), loss(3, 0, 2), loss(6, 2, 5, 0)]
    expected = zip(images, texts, [1, 0, 1, 1], [0, 1, 1, 1], [1 / 3, 1 / 4, 1 / 3, 1 / 4], strict=True)
    for row, (of_image, of_text, image_right, text_right, chance) in zip(found, expected, strict=True):
        assert row == pytest.approx([(of_image + of_text) / 2, image_right, chance, text_right, chance], abs=1e-5)


def test_half_precision_leaves_the_scores_alone():
    head, (text, image), rows = dual_model("two-tower").contrastive_head, random_vectors(6), torch.arange(6)
    torch.nn.init.constant_(head.log_scale, math.log(100))
    expected = loss_of(head, text, image, rows, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss_of(head, text, image, rows, rows), expected)
        model, batch = dual_model("two-tower"), tiny_batch()
        assert model.text_vectors(model.model.encode_text(batch["input_ids"])).dtype == torch.float32


def test_pairs_that_are_neither_true_nor_false_count_for_nothing():
    head, (text, image) = dual_model("two-tower").contrastive_head, random_vectors(3)
    false, rows = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).bool(), torch.arange(3)
    near = image.clone()
    near[2] = text[0]  # the nearest image of text 0 by far, but it has the same caption
    of_text_0 = slice(0, 1)
    losses = [loss_of(head, text, vectors, rows[of_text_0], rows[of_text_0], ~false) for vectors in (image, near)]
    torch.testing.assert_close(losses[0], losses[1])
    assert loss_of(head, text, image, rows, rows, torch.ones(3, 3, dtype=torch.bool)) == 0


def test_the_temperature_is_bounded_and_comes_back():
    head = dual_model("two-tower").contrastive_head
    for raw, expected in ((9.0, 100), (math.log(30), 30), (-2.0, 1)):
        torch.nn.init.constant_(head.log_scale, raw)
        assert head.scale().item() == pytest.approx(expected, rel=1e-5)
    # Vectors of which every text is nearest to a false image: the scale is too high, wherever it is.
    text, image = torch.eye(SIZE)[:4], torch.eye(SIZE)[:4].roll(1, dims=0)
    torch.nn.init.constant_(head.log_scale, 9.0)
    optimizer = torch.optim.SGD([head.log_scale], lr=0.02)
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(head, text, image, torch.arange(4), torch.arange(4)).backward()
        optimizer.step()
    assert 1 < head.scale().item() < 90


def test_vectors_are_of_one_side_alone_and_of_length_one(architecture):
    model, batch = dual_model(architecture), tiny_batch()
    with torch.no_grad():
        text = model.model.encode_text(batch["input_ids"], batch["attention_mask"])
        image = model.model.encode_image(batch["pixel_values"])
        vectors = model.text_vectors(text), model.image_vectors(image)
        for found in vectors:
            assert found.shape == (3, SIZE)
            torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
            assert (found[0] - found[1]).abs().max() > 1e-3
        mixed = model.text_vectors(text.rows(torch.tensor([2, 0])))
        torch.testing.assert_close(mixed, vectors[0][[2, 0]])


def test_losses_of_a_batch(architecture):
    """The sum of both; the true text of each row is the one that its label says; without labels there are none."""
    model = dual_model(architecture)
    batch, labels = candidates_batch(), torch.tensor([0, 1, 0])
    output = model(**batch, labels=labels)
    head, true = model.contrastive_head, (torch.tensor([0, 3, 4]), torch.arange(3))
    with torch.no_grad():
        text = model.model.encode_text(batch["input_ids"].flatten(0, 1))
        vectors = model.text_vectors(text), model.image_vectors(model.model.encode_image(batch["pixel_values"]))
    torch.testing.assert_close(output.losses["contrastive"], loss_of(head, *vectors, *true))
    torch.testing.assert_close(output.losses["matching"], torch.nn.functional.cross_entropy(output.logits, labels))
    torch.testing.assert_close(output.loss, output.losses["matching"] + output.losses["contrastive"])
    not_false = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 1]]).bool()
    of_texts, of_images = ids_of(not_false)
    found = model(**batch, labels=labels, text_ids=of_texts, image_ids=of_images).losses["contrastive"]
    torch.testing.assert_close(found, loss_of(head, *vectors, *true, not_false))
    assert abs(found - output.losses["contrastive"]) > 1e-3
    scores = model(**batch)
    torch.testing.assert_close(scores.logits, output.logits)
    assert scores.loss is scores.losses is None


def test_the_loss_trains_the_encoders(architecture):
    """Alone it reaches the encoders and its own head, and nothing that lets text and images see each other."""
    model = dual_model(architecture)
    model(**candidates_batch(), labels=torch.tensor([0, 1, 0])).losses["contrastive"].backward()
    missing = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    others = ("cross_modal_layers.", "type_embeddings.", "pooler.", "itm_head.")
    assert all(any(part in name for part in others) for name in missing), missing
    embeddings = model.get_input_embeddings().weight
    assert embeddings.grad.abs().sum() > 0 and model.contrastive_head.log_scale.grad.abs() > 0


@pytest.mark.parametrize("pooler", ["single", "double"])
def test_every_parameter_has_a_gradient_or_is_frozen(architecture, pooler):
    for frozen in ([], ["vision"], ["text", "vision"]):
        model = dual_model(architecture, pooler=pooler, frozen=frozen).train()
        model(**candidates_batch(), labels=torch.tensor([0, 1, 0])).loss.backward()
        wrong = [name for name, p in model.named_parameters() if (p.grad is None) == p.requires_grad]
        assert wrong == []


def test_without_the_field_there_is_nothing_new(architecture, tmp_path):
    model = tiny_model(architecture, KIND)
    names = set(model.state_dict())
    assert not any("contrastive" in name for name in names)
    output = model(**candidates_batch(), labels=torch.tensor([0, 1, 0]))
    assert set(output.losses) == {"matching"} and torch.equal(output.loss, output.losses["matching"])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, contrastive_size=SIZE)
    assert {name for name in loaded.state_dict() if name not in names} == {
        f"contrastive_head.{name}" for name in ContrastiveHead(loaded.config).state_dict()
    }
    assert loaded.contrastive_head.scale().item() == pytest.approx(1 / 0.07)
    torch.testing.assert_close(loaded(**tiny_batch()).logits, model(**tiny_batch()).logits)


def test_saving_keeps_the_vectors(architecture, tmp_path):
    model = dual_model(architecture)
    torch.nn.init.constant_(model.contrastive_head.log_scale, 1.5)
    model.save_pretrained(tmp_path)
    loaded, batch = AutoModelForImageTextRetrieval.from_pretrained(tmp_path), candidates_batch()
    labels = torch.tensor([0, 1, 0])
    assert torch.equal(
        loaded(**batch, labels=labels).losses["contrastive"], model(**batch, labels=labels).losses["contrastive"]
    )


def test_a_batch_says_which_pairs_are_false(processor):
    """Neither captions of one image, nor captions of the same words of two images."""
    # No third caption: its number is no word of the tokenizer.
    data = make_data(12, captions_of=lambda image: image % 2 + 1)
    captions = [int(data._of_image[image][number]) for image, number in ((0, 0), (2, 0), (4, 0), (1, 0), (1, 1))]
    pixels = processor.process_images([data.image(image) for image in range(12)], as_uint8=True)["pixel_values"]
    words = [processor.tokenizer.decode(processor.tokenizer(text)["input_ids"][1:-1]) for text in data.captions]
    of_images = [{words[caption] for caption in of_image} for of_image in data._of_image]
    for negatives in ("random", "batch", "hard"):
        collator = RetrievalCollator(processor, data, negatives, 2, 1, seed=1, contrastive=True)
        batch = collator(batch_rows(data, captions))
        texts = processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
        assert len(texts) == (15 if negatives == "random" else 5)
        images = [next(n for n in range(12) if np.array_equal(image, pixels[n])) for image in batch["pixel_values"]]
        false = [[text not in of_images[image] for image in images] for text in texts]
        found = (batch["text_ids"][:, None, None] != batch["image_ids"]).all(dim=-1)
        assert found.tolist() == false and batch["image_ids"].shape[1] == max(map(len, of_images))
        assert 5 < (~found).sum() < 0.6 * len(texts) * len(images)
    assert "text_ids" not in RetrievalCollator(processor, data, "batch", 2, 0, 1)(batch_rows(data, captions))


def test_similarities_are_cosines_of_vectors_made_alone(architecture, processor, tmp_path):
    model, data = dual_model(architecture), make_data()
    scorer = PairScorer(make_trainer(model, processor, tmp_path), data, 4)
    captions, images = np.arange(len(data.captions))[::-1], np.array([5, 0, 2])
    found = scorer.similarities(captions, images)
    with torch.no_grad():
        for row, caption in enumerate(captions):
            text = model.model.encode_text(**processor(text=data.captions[caption], return_tensors="pt"))
            for column, image in enumerate(images):
                pixels = processor(images=data.image(image), as_uint8=True, return_tensors="pt")
                vector = model.image_vectors(model.model.encode_image(**pixels))
                expected = (model.text_vectors(text) @ vector.T).item()
                assert found[row, column] == pytest.approx(expected, abs=1e-5)
    assert np.ptp(found) > 0.01


def test_the_recall_of_a_first_stage():
    """The first query has its true candidate first, the second two of them first and third, the last one last."""
    scores = np.array([[0.9, 0.1, 0.5, 0.2], [0.3, 0.2, 0.1, 0.0], [0.7, 0.8, 0.9, 0.1]])
    truth = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=bool)
    assert [first_stage_recall(scores, truth, k) for k in (1, 3, 4, 9)] == pytest.approx([2 / 3, 2 / 3, 1, 1])
    assert first_stage_recall(scores, truth[[1, 0, 2]], 2) == pytest.approx(2 / 3)


def test_few_pairs_are_fused_and_the_recall_of_the_first_stage_is_reported(processor, tmp_path, monkeypatch):
    model, data = dual_model("two-tower"), make_data(12)
    trainer, fused = make_trainer(model, processor, tmp_path), []
    fuse = model.model.fuse

    def counting(text, image, *args, **kwargs):
        output = fuse(text, image, *args, **kwargs)
        fused.append(len(output.pooled))
        return output

    monkeypatch.setattr(model.model, "fuse", counting)
    task = Retrieval(RetrievalArguments(dataset="x", rerank_top_k=10))
    metrics = task.evaluate(trainer, KeyedRows(data, training=False))[1]
    captions, images = len(data.captions), 12
    assert 10 * captions <= sum(fused) <= 10 * (captions + images)

    similarities = PairScorer(trainer, data, 64).similarities(np.arange(captions), np.arange(images))
    truth = data.image_of[:, None] == np.arange(images)
    for name, scores, true in (
        ("image_retrieval", similarities, truth),
        ("text_retrieval", similarities.T, truth.T),
    ):
        recall = metrics[f"{name}_first_stage_recall"]
        assert recall == first_stage_recall(scores, true, 10) and metrics[f"{name}_r10"] <= recall
        assert metrics[f"{name}_first_stage_r1"] == first_stage_recall(scores, true, 1) <= recall


def test_reranking_of_everything_is_the_exact_mode(processor, tmp_path):
    model, data = dual_model("two-tower"), KeyedRows(make_data(12), training=False)
    trainer = make_trainer(model, processor, tmp_path)
    exact = Retrieval(RetrievalArguments(dataset="x")).evaluate(trainer, data)
    captions = len(data.data)
    for k in (captions - 1, captions, 1000):
        found = Retrieval(RetrievalArguments(dataset="x", rerank_top_k=k)).evaluate(trainer, data)
        np.testing.assert_array_equal(found[0]["images"], exact[0]["images"])
        assert all(found[1][name] == value for name, value in exact[1].items() if name.startswith("image_"))


def test_the_first_stage_learns(processor, tmp_path):
    """In training with both losses the vectors come to find the image of a caption, and the converse."""
    # Without dropout, which hides all from so small a model.
    data, model = make_data(12), dual_model("two-tower")
    captions, images = np.array([int(of_image[-1]) for of_image in data._of_image]), np.arange(12)
    collate = RetrievalCollator(processor, data, "batch", 3, 0, seed=0, contrastive=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(50):
        optimizer.zero_grad()
        model(**collate(batch_rows(data, captions.tolist(), epoch))).loss.backward()
        optimizer.step()
    found = PairScorer(make_trainer(model, processor, tmp_path), data, 64).similarities(captions, images)
    truth = ~data.mismatch(images, captions).T
    for scores, true in ((found, truth), (found.T, truth.T)):
        assert chance_recall(true, 1) < 0.2 and first_stage_recall(scores, true, 1) > 0.9


def test_a_run_logs_both_losses_and_goes_on_from_its_vectors(shapes, options, tmp_path, capsys):
    """The first stage comes from a checkpoint that has vectors, without being asked for; vectors of another width do not."""
    sizes = ["--contrastive_size", "16", "--do_train", "--max_steps", "2", "--logging_steps", "1"]
    retrieve(shapes, options, *sizes)
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    for entry in log[:2]:
        assert entry["loss"] == pytest.approx(entry["matching_loss"] + entry["contrastive_loss"], abs=1e-3)
    argv = ["--model_name_or_path", str(tmp_path / "run"), "--dataset", str(shapes / "captions"), "--use_cpu"]
    argv += ["--output_dir", str(tmp_path / "again"), "--report_to", "none", "--do_eval", "--rerank_top_k", "10"]
    metrics = run_task(Retrieval, "", argv)
    assert metrics["eval_image_retrieval_r10"] <= metrics["eval_image_retrieval_first_stage_recall"] == 1
    assert 0 < metrics["eval_text_retrieval_first_stage_recall"] <= 1
    with pytest.raises(SystemExit):
        run_task(Retrieval, "", [*argv, "--contrastive_size", "8"])
    assert "do not fit {'contrastive_size': 8}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--contrastive_size", "0"], "contrastive_size: expected from 1 to 65536, got 0"),
        (["--contrastive_size", "8", "--per_device_train_batch_size", "1"], "those of the contrastive loss come from"),
    ],
)
def test_options_that_do_not_fit(option, message, shapes, options, capsys):
    with pytest.raises(SystemExit):
        retrieve(shapes, options, "--do_train", *option)
    assert message in capsys.readouterr().err
