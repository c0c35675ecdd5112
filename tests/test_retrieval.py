"""Retrieval: scores that agree with the whole model on every pair, ranks, false pairs of a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_batch, tiny_model
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Picture

from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.data import schemas
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.parsing import parse_arguments
from renaissance.tasks.ranking import approximate, chance_recall, rank_of_truth, recall_metrics, reranked
from renaissance.tasks.retrieval import Retrieval, RetrievalArguments, RetrievalCollator, retrieval_metrics
from renaissance.tasks.scoring import PairScorer
from renaissance.tasks.trainer import RenaissanceTrainer


COLOURS = ("red", "green", "blue", "yellow")


def make_data(count: int = 7, captions_of=lambda image: image % 3 + 1) -> CaptionedImages:
    """Images of one colour each, with 1 to 3 captions of different lengths. Images 0 and 4 have their first caption in common."""
    rows = []
    for image in range(count):
        colour = COLOURS[image % 4]
        texts = [
            f"a {colour} circle",
            f"{colour} square {'and a star ' * (image + 1)}",
            f"{image} small {colour} shapes",
        ]
        pixels = np.random.default_rng(image).integers(0, 255, (24, 36, 3), dtype=np.uint8)
        rows.append(
            {"image": Picture.fromarray(pixels), "image_id": f"i{image}", "captions": texts[: captions_of(image)]}
        )
    return CaptionedImages(Dataset.from_list(rows, features=schemas.CAPTIONS), "data")


def make_trainer(model, processor, folder: Path, batch_size: int = 3, *options: str) -> RenaissanceTrainer:
    argv = ["--output_dir", str(folder), "--do_eval", "--use_cpu", "--report_to", "none", "--disable_tqdm", "true"]
    argv += ["--per_device_eval_batch_size", str(batch_size), *options]
    args = parse_arguments((RunArguments,), argv, "")[0]
    return RenaissanceTrainer(model=model, args=args, processing_class=processor, data_collator=lambda rows: rows)


def brute_force(model, processor, data: CaptionedImages) -> np.ndarray:
    """Scores (captions, images), each pair through the whole model on its own."""
    scores = np.zeros((len(data.captions), len(data.image_ids)))
    with torch.no_grad():
        for row, caption in enumerate(data.captions):
            for column in range(len(data.image_ids)):
                inputs = processor(images=data.image(column), text=caption, as_uint8=True, return_tensors="pt")
                scores[row, column] = model(**inputs).logits.item()
    return scores


def test_scores_agree_with_the_whole_model_on_every_pair(architecture, processor, tmp_path):
    """With padding in the batches of captions and of pairs, and smaller last batches of images, captions and pairs."""
    data = make_data()
    model = tiny_model(architecture, "ForImageTextRetrieval")
    scorer = PairScorer(make_trainer(model, processor, tmp_path), data, 5)
    captions, images = np.arange(len(data.captions)), np.arange(len(data.image_ids))
    assert len(captions) % 3 and len(images) % 3 and len(set(scorer.lengths)) > 3
    expected = brute_force(model, processor, data)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(scorer.score_grid(captions, images), expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(
        scorer.score_grid(captions[::-2], images[2:4]), expected[::-2, 2:4], atol=1e-5, rtol=1e-5
    )
    rows, columns = np.array([9, 0, 3, 9]), np.array([1, 1, 6, 0])
    np.testing.assert_allclose(scorer.score(rows, columns), expected[rows, columns], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("option", ["--bf16", "--bf16_full_eval"])
def test_scores_of_half_precision_do_not_tie(option, architecture, processor, tmp_path):
    """States are in half precision, scores in single precision: no two pairs have the same, which rounded ones would."""
    data, model = make_data(), tiny_model(architecture, "ForImageTextRetrieval")
    distinct = [number for number, text in enumerate(data.captions) if text not in data.captions[:number]]
    captions, images = np.array(distinct), np.arange(7)
    single = PairScorer(make_trainer(model, processor, tmp_path), data).score_grid(captions, images)
    scorer = PairScorer(make_trainer(model, processor, tmp_path, 3, option), data)
    assert scorer.text.states.dtype == scorer.image.states.dtype == torch.bfloat16
    scores = scorer.score_grid(captions, images)
    assert scores.dtype == np.float32 and len(np.unique(scores)) == scores.size
    rounded = torch.from_numpy(single).bfloat16().float().numpy()
    assert len(np.unique(rounded)) < scores.size
    # They are not those of single precision, and not far from them.
    assert 0 < np.abs(scores - single).max() < 0.05 * np.ptp(single)


def test_full_evaluation_in_half_precision_leaves_a_model_in_training_as_it_is(processor, tmp_path):
    model = tiny_model("two-tower", "ForImageTextRetrieval")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(model, processor, tmp_path, 3, "--bf16_full_eval")
    trainer.is_in_train = True
    PairScorer(trainer, make_data())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_everything_is_encoded_once(processor, tmp_path, monkeypatch):
    data, model = make_data(), tiny_model("two-tower", "ForImageTextRetrieval")
    seen = {"encode_text": 0, "encode_image": 0, "fuse": 0}

    def counting(name):
        original = getattr(model.model, name)

        def call(*args, **kwargs):
            output = original(*args, **kwargs)
            seen[name] += len(output.pooled if name == "fuse" else output.states)
            return output

        return call

    for name in seen:
        monkeypatch.setattr(model.model, name, counting(name))
    task = Retrieval(RetrievalArguments(dataset="x", eval_pairs_per_batch=16))
    task.evaluate(make_trainer(model, processor, tmp_path), KeyedRows(data, training=False))
    assert seen == {
        "encode_text": len(data.captions),
        "encode_image": 7,
        "fuse": 7 * len(data.captions),
    }


def test_ranks_count_ties_as_lost():
    scores = np.array([[3.0, 2, 1], [1, 2, 2], [0, 0, 0], [0.5, 0.7, 0.9]])
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=bool)
    # The last query has two true candidates, the better of which counts.
    assert rank_of_truth(scores, truth).tolist() == [1, 2, 3, 2]
    assert recall_metrics(np.array([1, 2, 6, 11])) == {"r1": 0.25, "r5": 0.5, "r10": 0.75, "median_rank": 4.0}


def test_a_constant_scorer_retrieves_nothing(processor, tmp_path):
    model = tiny_model("two-tower", "ForImageTextRetrieval")
    torch.nn.init.zeros_(model.itm_head.weight)
    data = make_data(12)
    task = Retrieval(RetrievalArguments(dataset="x"))
    metrics = task.evaluate(make_trainer(model, processor, tmp_path), KeyedRows(data, training=False))[1]
    assert metrics["image_retrieval_r1"] == metrics["text_retrieval_r1"] == metrics["mean_recall"] == 0
    assert metrics["image_retrieval_median_rank"] == 12
    torch.nn.init.constant_(model.itm_head.bias, torch.nan)
    assert (
        task.evaluate(make_trainer(model, processor, tmp_path), KeyedRows(data, training=False))[1]["mean_recall"] == 0
    )


def test_chance_is_what_random_scores_get():
    truth = np.zeros((30, 12), dtype=bool)
    truth[np.arange(30), np.arange(30) % 12] = True
    rng = np.random.default_rng(0)
    found = [retrieval_metrics(s, s, truth) for s in (rng.random((30, 12)) for _ in range(400))]
    expected = {"image_retrieval_r1": 1 / 12, "image_retrieval_r5": 5 / 12}
    expected["text_retrieval_r1"] = chance_recall(truth.T, 1)
    assert expected["text_retrieval_r1"] == pytest.approx((6 * 3 / 30 + 6 * 2 / 30) / 12)
    expected["mean_recall"] = found[0]["chance_mean_recall"]
    for name, value in expected.items():
        assert np.mean([metrics[name] for metrics in found]) == pytest.approx(value, abs=0.01)


def test_the_first_stage_is_exact_for_scores_of_low_rank():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 40)) + 3
    found = approximate(lambda rows, columns: scores[np.ix_(rows, columns)], np.arange(60), np.arange(40), 8)
    np.testing.assert_allclose(found, scores, atol=1e-6)


def test_reranking_scores_the_best_candidates_exactly():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 40)) + 0.05 * rng.normal(size=(60, 40))
    asked = []

    def score(rows, columns):
        asked.append(len(rows))
        return scores[rows, columns]

    queries, items = np.arange(60), np.arange(40)
    approximated = approximate(lambda rows, columns: scores[np.ix_(rows, columns)], queries, items, 10)
    for_queries, for_items = reranked(score, approximated, queries, items, 10)
    assert 600 <= asked[0] <= 1000
    for found, exact in ((for_queries, scores), (for_items.T, scores.T)):
        order = np.argsort(-found, axis=1)
        best = np.take_along_axis(exact, order[:, :10], axis=1)
        np.testing.assert_allclose(np.take_along_axis(found, order[:, :10], axis=1), best)
        assert (np.diff(best, axis=1) <= 0).all()
        assert np.mean(order[:, 0] == exact.argmax(axis=1)) > 0.95


def test_reranking_of_everything_is_the_exact_mode(processor, tmp_path):
    model, data = tiny_model("two-tower", "ForImageTextRetrieval"), KeyedRows(make_data(12), training=False)
    trainer = make_trainer(model, processor, tmp_path)
    exact = Retrieval(RetrievalArguments(dataset="x")).evaluate(trainer, data)
    for k in (12, 1000):
        found = Retrieval(RetrievalArguments(dataset="x", rerank_top_k=k)).evaluate(trainer, data)
        assert found[1]["image_retrieval_r1"] == exact[1]["image_retrieval_r1"]
        np.testing.assert_array_equal(found[0]["images"], exact[0]["images"])


def test_folds_are_ranked_by_themselves_and_averaged(processor, tmp_path):
    model, data = tiny_model("one-tower-text", "ForImageTextRetrieval"), make_data(12)
    trainer = make_trainer(model, processor, tmp_path)
    found = Retrieval(RetrievalArguments(dataset="x", eval_fold_size=4)).evaluate(
        trainer, KeyedRows(data, training=False)
    )
    scores = brute_force(model, processor, data)
    folds = []
    for first in (0, 4, 8):
        of_fold = (data.image_of >= first) & (data.image_of < first + 4)
        part = scores[of_fold, first : first + 4]
        folds.append(retrieval_metrics(part, part, data.image_of[of_fold, None] == np.arange(first, first + 4)))
    counts = {"images": 12, "captions": 24, "images_per_fold": 4, "captions_per_fold": 8}
    assert {name: found[1].pop(name) for name in counts} == counts and found[1].keys() == folds[0].keys()
    for name, value in found[1].items():
        assert value == pytest.approx(np.mean([fold[name] for fold in folds])), name
    assert found[1]["image_retrieval_r1"].rows == 24 and found[1]["text_retrieval_r1"].rows == 12
    assert (np.stack(found[0]["images"]) // 4 == data.image_of[:, None] // 4).all()


def test_rows_of_one_image_are_one_image():
    """In the order of the images, first captions first; rows without an id are images of their own."""
    rows = [
        {"image": Picture.new("RGB", (8, 8), (number, 0, 0)), "image_id": key, "captions": list(texts)}
        for number, (key, texts) in enumerate([(3, "ab"), (5, "c"), (3, "d"), (None, "e"), (None, "fg")])
    ]
    data = CaptionedImages(Dataset.from_list(rows).cast_column("image", Image()), "data")
    assert data.captions == [*"acefbgd"] == [data[index]["text"] for index in range(7)]
    assert data.image_of.tolist() == [0, 1, 2, 3, 0, 3, 0]
    assert data.image_ids == ["3", "5", "row 3", "row 4"]
    assert [data[index]["image_id"].removeprefix("data/") for index in range(7)] == [
        data.image_ids[image] for image in data.image_of
    ]
    assert [data.image(image).getpixel((0, 0))[0] for image in range(4)] == [0, 1, 3, 4]
    assert data.lengths().tolist() == [1] * 7
    fewer = CaptionedImages(data.data, "data", limit=5)
    assert fewer.captions == [*"acefb"] and fewer.image_of.tolist() == [0, 1, 2, 3, 0]


def test_an_image_without_a_caption_is_refused(tmp_path):
    rows = [{"image": Picture.new("RGB", (8, 8)), "captions": texts} for texts in (["a"], [])]
    Dataset.from_list(rows, features=Features({"image": Image(), "captions": List(Value("string"))})).to_parquet(
        str(tmp_path / "own.parquet")
    )
    task = Retrieval(RetrievalArguments(train_file=str(tmp_path / "own.parquet")))
    with pytest.raises(ValueError, match="row 1: expected at least one caption"):
        task.load("train")


def test_an_id_of_two_images_is_refused(tmp_path):
    for number in range(2):
        Picture.new("RGB", (20, 20), COLOURS[number]).save(tmp_path / f"{number}.png")
    (tmp_path / "own.csv").write_text("image,image_id,captions\n0.png,7,a\n0.png,7,b\n1.png,7,c\n")
    task = Retrieval(RetrievalArguments(train_file=str(tmp_path / "own.csv")))
    with pytest.raises(ValueError, match="row 2: column 'image_id' is 7, as in row 0, of another image"):
        task.load("train")


def test_false_pairs_are_false():
    """Never a caption of the image, nor one of the same words, and uniform over the rest; the same for images."""
    data = make_data()
    assert data.text_ids[0] == data.text_ids[data._of_image[4][0]]
    false = data.mismatch(np.arange(7), np.arange(len(data)))
    for image in range(7):
        own = {data.captions[caption] for caption in np.flatnonzero(data.image_of == image)}
        assert [caption not in own for caption in data.captions] == false[image].tolist()
        drawn = [data.draw_false_captions(image, 4, np.random.default_rng(seed)) for seed in range(300)]
        assert all(len(set(row)) == 4 and false[image, row].all() for row in drawn)
        counts = np.bincount(np.concatenate(drawn), minlength=len(data))[false[image]]
        assert counts.min() > 0.6 * counts.mean()
    most = data.fewest_false()
    assert most == (false.sum(axis=1).min(), false.sum(axis=0).min())
    assert 0 not in data.draw_false_images(0, most[1], np.random.default_rng(0))
    assert 4 not in data.draw_false_images(0, most[1], np.random.default_rng(0))


def batch_rows(data: CaptionedImages, captions: list[int], epoch: int = 0) -> list[dict]:
    return [data[caption] | {"sample_id": caption, "epoch": epoch, "training": True} for caption in captions]


@pytest.mark.parametrize(
    ("negatives", "counts", "num_hardest"),
    [
        ("random", [(3, 2)] * 6, None),
        ("batch", [(3, 2)] * 6, None),
        ("hard", [(4, 4), (4, 4), (4, 4), (5, 5), (4, 4), (5, 5)], 5),
    ],
)
def test_candidates_of_a_batch(negatives, counts, num_hardest, processor):
    """The first is the row's own pair, no other is true, and all is a function of seed, epoch and rows."""
    data = make_data(12)
    collator = RetrievalCollator(processor, data, negatives, 3, 2, seed=1)
    captions = [0, 1, 4, 7, 12, 13]
    batch = collator(batch_rows(data, captions))
    texts, images = (
        processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True),
        batch["pixel_values"],
    )
    words = [
        processor.tokenizer.decode(processor.tokenizer(text)["input_ids"], skip_special_tokens=True)
        for text in data.captions
    ]
    pixels = processor.process_images([data.image(image) for image in range(12)], as_uint8=True)["pixel_values"]
    pixels = [torch.from_numpy(values) for values in pixels]
    share_text = []
    for row, caption in enumerate(captions):
        pairs = zip(batch["text_index"][row].tolist(), batch["image_index"][row].tolist(), strict=True)
        pairs = [pair for pair in pairs if pair[0] >= 0]
        own_image = data.image_of[caption]
        assert texts[pairs[0][0]] == words[caption] and torch.equal(images[pairs[0][1]], pixels[own_image])
        for text, image in pairs[1:]:
            number = next(n for n in range(12) if torch.equal(images[image], pixels[n]))
            assert texts[text] not in [words[c] for c in np.flatnonzero(data.image_of == number)]
            assert (text == pairs[0][0]) != (image == pairs[0][1])
        share_text.append([text == pairs[0][0] for text, _ in pairs])
    # True pair, false captions, false images: as many as asked for or, from the batch, all that there are to choose from.
    assert [row[:1] for row in share_text] == [[True]] * 6
    assert [(row.count(False), row[1:].count(True)) for row in share_text] == counts
    assert all(sorted(row[1:]) == row[1:] for row in share_text)
    assert batch["labels"].tolist() == [0] * 6
    assert batch.get("num_hardest") == num_hardest
    again = collator(batch_rows(data, captions))
    assert all(torch.equal(again[name], batch[name]) for name in ("input_ids", "text_index", "image_index"))
    later = collator(batch_rows(data, captions, epoch=1))
    assert not torch.equal(later["input_ids"], batch["input_ids"]) or not torch.equal(
        later["text_index"], batch["text_index"]
    )


def test_a_batch_without_a_false_pair_costs_nothing(processor):
    data = make_data(12)
    captions = np.flatnonzero(data.image_of == 1).tolist()
    assert len(captions) == 2
    for negatives in ("batch", "hard"):
        batch = RetrievalCollator(processor, data, negatives, 3, 2, seed=1)(batch_rows(data, captions))
        assert batch["text_index"].tolist() == [[0, -1], [1, -1]]
        loss = tiny_model("two-tower", "ForImageTextRetrieval")(**batch).loss
        assert loss.item() == 0


def test_candidate_pairs_score_as_they_do_alone(architecture):
    model, batch = tiny_model(architecture, "ForImageTextRetrieval"), tiny_batch()
    text_index, image_index = torch.tensor([[0, 1, 0], [2, -1, 1]]), torch.tensor([[0, 0, 2], [1, -1, 1]])
    with torch.no_grad():
        output = model(**batch, text_index=text_index, image_index=image_index, labels=torch.tensor([0, 2]))
        for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2)):
            text, image = text_index[row, column], image_index[row, column]
            pair = {"input_ids": batch["input_ids"][text][None], "pixel_values": batch["pixel_values"][image][None]}
            torch.testing.assert_close(
                model(**pair).logits.squeeze(), output.logits[row, column], atol=1e-5, rtol=1e-5
            )
    assert output.logits[1, 1] < -1e30
    loss = -output.logits.log_softmax(dim=-1)[[0, 1], [0, 2]].mean()
    torch.testing.assert_close(output.loss, loss)
    with pytest.raises(ValueError, match="text_index, image_index: expected both"):
        model(**batch, text_index=text_index)


def test_hard_negatives_are_those_that_the_model_scores_highest(architecture):
    model, batch = tiny_model(architecture, "ForImageTextRetrieval"), tiny_batch(batch=6)
    text_index = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, -1, -1]])
    image_index = torch.tensor([[0] * 6, [1, 1, 1, 1, -1, -1]])
    pairs = {"text_index": text_index, "image_index": image_index, "labels": torch.tensor([0, 0])}
    scores = model(**batch, **pairs).logits
    found = model(**batch, **pairs, num_hardest=2)
    expected = torch.cat([scores[:, :1], scores[:, 1:].sort(descending=True).values[:, :2]], dim=1)
    torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)
    found.loss.backward()
    gradient = model.itm_head.weight.grad.clone()
    model.zero_grad()
    torch.nn.functional.cross_entropy(expected, torch.tensor([0, 0])).backward()
    torch.testing.assert_close(gradient, model.itm_head.weight.grad, atol=1e-5, rtol=1e-4)
