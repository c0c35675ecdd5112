"""The pretraining batch: what is masked, what is mismatched, and what that depends on."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_model
from PIL import Image

from renaissance.processing.collators import PretrainingCollator, RowCollator
from renaissance.processing.masking import draw_pairs, fill_positions, mask_tokens
from renaissance.processing.objectives import ContrastiveData, MaskedTextData, MatchingData
from renaissance.tasks.pretraining import Pretraining


def make_rows(
    count: int, texts=("a red circle", "two green squares and a yellow star"), images_of=1, epoch=0
) -> list[dict]:
    return [
        {
            "image": Image.new("RGB", (40, 32), (i % 255, 0, 0)),
            "text": texts[i % len(texts)],
            "image_id": str(i // images_of),
            "sample_id": i,
            "epoch": epoch,
        }
        for i in range(count)
    ]


def test_keys_and_shapes(processor):
    batch = PretrainingCollator(processor)(make_rows(6))
    assert set(batch) == {
        "input_ids", "attention_mask", "pixel_values", "mlm_input_ids", "mlm_labels", "mlm_positions",
        "itm_image_index", "itm_labels",
    }  # fmt: skip
    assert batch["mlm_labels"].shape == batch["mlm_input_ids"].shape == batch["input_ids"].shape
    assert batch["pixel_values"].shape == (6, 3, 32, 32) and batch["pixel_values"].dtype == torch.uint8
    # Padded to the longest row, not further.
    assert batch["attention_mask"].sum(dim=1).max() == batch["input_ids"].shape[1]


def test_every_row_has_a_masked_token_and_never_padding(processor):
    for whole_word in (False, True):
        collator = PretrainingCollator(processor, [MaskedTextData(whole_word_masking=whole_word), MatchingData()])
        for epoch in range(20):
            batch = collator(make_rows(16, epoch=epoch))
            chosen = batch["mlm_labels"] != -100
            assert chosen.any(dim=1).all()
            assert not (chosen & (batch["attention_mask"] == 0)).any()


def test_tokens_are_corrupted_in_the_shares_of_bert():
    """15 % of the tokens, of these 80 % masked, 10 % random and 10 % kept; labels are the true ids of these and no others."""
    rng, ids = np.random.default_rng(0), np.arange(100, 140)
    units = np.arange(40)
    units[[0, 19, 39]] = -1  # special tokens, padding
    random_ids = np.arange(200, 210)
    masked = [mask_tokens(ids, units, 4, random_ids, 0.15, rng) for _ in range(5000)]
    corrupted, labels = (np.stack(arrays) for arrays in zip(*masked, strict=True))
    chosen = labels != -100
    assert (labels[chosen] == np.broadcast_to(ids, labels.shape)[chosen]).all()
    assert (corrupted[~chosen] == np.broadcast_to(ids, labels.shape)[~chosen]).all()
    assert not chosen[:, units < 0].any() and chosen.any(axis=1).all()
    assert chosen[:, units >= 0].mean() == pytest.approx(0.15, abs=0.003)
    found = corrupted[chosen]
    shares = [(found == 4).mean(), np.isin(found, random_ids).mean(), (found == labels[chosen]).mean()]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.006) and sum(shares) == pytest.approx(1)
    replaced = found[np.isin(found, random_ids)]
    np.testing.assert_allclose(np.bincount(replaced - 200) / len(replaced), 0.1, atol=0.025)


def test_special_tokens_are_neither_masked_nor_put_in_place_of_words(processor):
    collator, special = (
        PretrainingCollator(processor, [MaskedTextData(mlm_probability=0.9)]),
        processor.tokenizer.all_special_ids,
    )
    put, true = [], []
    for epoch in range(60):
        batch = collator(make_rows(16, epoch=epoch))
        chosen = batch["mlm_labels"] != -100
        put += batch["mlm_input_ids"][chosen].tolist()
        true += batch["mlm_labels"][chosen].tolist()
    assert not set(true) & {*special}
    assert {*put} & {*special} == {processor.tokenizer.mask_token_id}
    # Words of the whole vocabulary come in their place.
    assert len({*put} - {*true}) > 50


def test_a_row_is_masked_alike_whatever_the_batch(processor):
    """Masks depend on the seed, the epoch and the sample, not on neighbours, padding or order; so a resumed run repeats."""
    collator = PretrainingCollator(processor, [MaskedTextData()], seed=3)
    rows = make_rows(8)
    batch = collator(rows)
    alone = collator([rows[0]])
    length = alone["mlm_labels"].shape[1]
    assert length < batch["mlm_labels"].shape[1]
    for name in ("mlm_input_ids", "mlm_labels"):
        assert torch.equal(alone[name][0], batch[name][0, :length])
        assert torch.equal(collator(rows)[name], batch[name])
        assert torch.equal(collator(rows[::-1])[name].flip(0), batch[name])
    assert not torch.equal(collator(make_rows(8, epoch=1))["mlm_labels"], batch["mlm_labels"])
    other_seed = PretrainingCollator(processor, [MaskedTextData()], seed=4)
    assert not torch.equal(other_seed(rows)["mlm_labels"], batch["mlm_labels"])


def test_whole_words_are_masked_together(processor):
    text = "xylophone circle zebra red"  # words that the vocabulary only has in pieces
    tokenizer = processor.tokenizer
    words = np.array([-1 if w is None else w for w in tokenizer(text).encodings[0].word_ids])
    assert len(words[words >= 0]) > 4, "the words must fall into pieces for this test to show anything"
    batch = PretrainingCollator(processor, [MaskedTextData(whole_word_masking=True)])(make_rows(200, texts=[text]))
    chosen = (batch["mlm_labels"] != -100).numpy()
    for word in range(4):
        of_word = chosen[:, words == word]
        assert (of_word.all(axis=1) == of_word.any(axis=1)).all()
    rate = np.mean([chosen[:, words == word].any(axis=1).mean() for word in range(4)])
    # Of 4 words each with probability 0.15; with none chosen (0.52) one is: 0.15 + 0.52 / 4.
    assert abs(rate - 0.28) < 0.05


def test_half_of_the_pairs_mismatch_and_none_shows_its_own_image(processor):
    rng = np.random.default_rng(0)
    ids = np.array([str(i // 5) for i in range(40)])  # five captions an image
    for _ in range(100):
        index, labels = draw_pairs(ids, rng)
        assert labels.sum() == 20
        assert ((ids[index] == ids) == (labels == 1)).all()
    batch = PretrainingCollator(processor, [MatchingData()])(make_rows(10, images_of=2))
    assert torch.equal(batch["image_index"], torch.arange(10) // 2)
    own = batch["itm_image_index"] == batch["image_index"]
    assert torch.equal(own.long(), batch["itm_labels"]) and batch["itm_labels"].sum() == 5


def test_the_pair_of_each_row_is_found_behind_those_of_all_rows(processor):
    """Pairs that are fused: all rows with their own images, then the false rows with foreign ones."""
    collator = PretrainingCollator(processor, [MaskedTextData(), MatchingData(itm_text="masked")])
    for epoch in range(5):
        batch = collator(make_rows(12, images_of=2, epoch=epoch))
        false = batch["itm_false_rows"]
        assert false.tolist() == (batch["itm_labels"] == 0).nonzero().squeeze(1).tolist() and len(false) == 6
        texts = torch.cat([torch.arange(12), false])
        images = torch.cat([batch["image_index"], batch["itm_image_index"][false]])
        assert torch.equal(texts[batch["itm_pair_index"]], torch.arange(12))
        assert torch.equal(images[batch["itm_pair_index"]], batch["itm_image_index"])


def test_negatives_are_drawn_uniformly():
    rng = np.random.default_rng(0)
    ids = np.array(list("aabcd"))
    seen = np.zeros((5, 5))
    for _ in range(4000):
        index, labels = draw_pairs(ids, rng)
        for row in np.flatnonzero(labels == 0):
            seen[row, index[row]] += 1
    shares = seen / seen.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares[0], [0, 0, 1 / 3, 1 / 3, 1 / 3], atol=0.04)
    np.testing.assert_allclose(shares[2], [1 / 4, 1 / 4, 0, 1 / 4, 1 / 4], atol=0.04)


@pytest.mark.parametrize("images_of", [1, 2])
def test_false_images_of_all_data(processor, images_of):
    """Those of a batch and of nine other images, one drawn twice; whatever is in the batch comes once."""
    rows = [
        row | {"training": True, "image": Image.new("RGB", (40, 32), (int(row["image_id"]), 0, 0))}
        for row in make_rows(6, images_of=images_of)
    ]
    others = make_rows(16)[6:]
    asked = []

    def draw(row: dict, rng: np.random.Generator) -> dict:
        asked.append(row["sample_id"])
        return others[rng.integers(len(others))] if len(asked) % 3 else rows[(row["sample_id"] + 3) % 6]

    collator = PretrainingCollator(processor, [MaskedTextData(), MatchingData(itm_negatives="random")], draw)
    drawn = set()
    for epoch in range(10):
        asked.clear()
        of_epoch = [row | {"epoch": epoch} for row in rows]
        batch = collator(of_epoch)
        shown = batch["pixel_values"][:, 0, 0, 0]
        assert len(shown) == len(shown.unique())
        own = shown[batch["image_index"]].tolist()
        assert own == [row["image"].getpixel((0, 0))[0] for row in rows]
        matched, labels = shown[batch["itm_image_index"]].tolist(), batch["itm_labels"].tolist()
        assert [one == other for one, other in zip(own, matched, strict=True)] == [bool(label) for label in labels]
        assert sorted(asked) == [number for number, label in enumerate(labels) if not label] and len(asked) == 3
        drawn |= set(matched) - set(own)
        asked.clear()
        again = collator(of_epoch)
        assert all(torch.equal(again[name], values) for name, values in batch.items())
    assert len(drawn) > 5
    one_image = [row | {"image_id": "0", "image": rows[0]["image"]} for row in rows]
    assert collator(one_image)["itm_labels"].sum() == 3
    in_evaluation = collator([row | {"training": False} for row in rows])
    assert in_evaluation["pixel_values"].shape[0] == 6 // images_of


def test_a_batch_of_one_image_has_no_false_pair():
    index, labels = draw_pairs(np.array(["a", "a", "a"]), np.random.default_rng(0))
    assert index.tolist() == [0, 1, 2] and labels.tolist() == [1, 1, 1]


def test_bad_settings(processor):
    with pytest.raises(ValueError, match="mlm_probability"):
        MaskedTextData(mlm_probability=0)


def test_several_images_a_text(processor):
    images = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue")]
    rows = [{"images": images, "text": "a red circle", "label": 1}, {"images": images[::-1], "text": "a", "label": 0}]
    batch = RowCollator(processor)(rows)
    assert batch["pixel_values"].shape == (2, 2, 3, 32, 32) and batch["labels"].tolist() == [1, 0]
    assert torch.equal(batch["pixel_values"][0, 0], batch["pixel_values"][1, 1])
    assert batch["pixel_values"][0, 0, 0].min() > batch["pixel_values"][0, 1, 0].max()  # red comes first


WORDS = "red circle green square blue star"


@pytest.mark.parametrize(("words", "width"), [(0, 8), (1, 8), (6, 8), (7, 16), (14, 16), (15, 21), (19, 21), (40, 21)])
def test_texts_are_padded_to_a_multiple_of_8_and_never_beyond_the_limit(repeating, words, width):
    texts = [" ".join((WORDS.split() * 9)[:words]), "red"]
    tokens = [min(words + 2, 21), 3]
    for given in (texts, texts[0]):
        for inputs in (repeating(text=given, return_tensors="pt"), repeating.tokenize(given, return_tensors="np")):
            assert inputs["input_ids"].shape[1] == inputs["attention_mask"].shape[1] == width
            assert inputs["attention_mask"].sum(1).tolist() == tokens[: len(inputs["input_ids"])]
    assert all(len(row.special_tokens_mask) == width for row in repeating.tokenize(texts).encodings)
    # Who asks for no padding, or for other padding, gets that.
    assert len(repeating(text=["red"], padding=False)["input_ids"][0]) == 3
    assert len(repeating(text=["red"], padding="max_length", max_length=11)["input_ids"][0]) == 11


def test_two_texts_of_a_row_are_padded_together(repeating):
    inputs = repeating(text=["a red circle", "red"], text_pair=["two green squares", "star"], return_tensors="pt")
    assert inputs["input_ids"].shape == (2, 16) and inputs["attention_mask"].sum(dim=1).tolist() == [9, 5]


@pytest.mark.parametrize("images_of", [1, 2])
def test_repeated_shapes_change_no_loss_gradient_or_metric(processor, repeating, architecture, images_of):
    texts = ["a red circle", "two green squares and a yellow star", "xylophone", "the blue star left of it"]
    rows = make_rows(6, texts, images_of)
    kwargs = {} if architecture == "two-tower" else {"vocab_size": len(processor.tokenizer)}
    model = tiny_model(architecture, "ForPreTraining", objectives=["mlm", "itm", "contrastive"], **kwargs)
    for options in ({}, {"whole_word_masking": True}, {"mlm_probability": 0.6}):
        data = [MaskedTextData(**options), MatchingData(), ContrastiveData()]
        plain, filled = (PretrainingCollator(each, data)(rows) for each in (processor, repeating))
        assert filled["input_ids"].shape[1] == 16 > plain["input_ids"].shape[1]
        assert len(filled["mlm_positions"]) % 8 == 0 and len(filled["mlm_positions"]) > len(plain["mlm_positions"])
        found = []
        for batch in (plain, filled):
            model.zero_grad()
            output = model(**batch)
            output.loss.backward()
            gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
            sums = [each.row_sums(output.logits[each.name], batch) for each in data]
            found.append((output.losses, model.loss_counts(batch), sums, gradients))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
        assert found[1][2][0][:, 1].sum() == (plain["mlm_labels"] != -100).sum()


def test_how_many_positions_there_are_follows_from_the_shape(repeating):
    counts: dict[tuple, set[int]] = {}
    collator = PretrainingCollator(repeating, [MaskedTextData()])
    for epoch in range(40):
        for texts in (("a red circle",), ("a red circle", " ".join(WORDS.split() * 2))):
            batch = collator(make_rows(8, texts=texts, epoch=epoch))
            positions, labels = batch["mlm_positions"], batch["mlm_labels"]
            counts.setdefault(tuple(labels.shape), set()).add(len(positions))
            masked = (labels.flatten() != -100).nonzero().squeeze(1)
            assert torch.equal(positions[: len(masked)], masked)
            assert (labels.flatten()[positions[len(masked) :]] == -100).all()
    # 64 and 128 tokens: of 15 %, and four standard deviations more, up to a multiple of 8.
    assert counts == {(8, 8): {24}, (8, 16): {40}}


@pytest.mark.parametrize(
    ("rows", "images_of", "count"),
    [(6, 1, 6), (12, 1, 12), (12, 2, 12), (16, 4, 8), (17, 2, 16), (40, 4, 16), (88, 1, 88)],
)
def test_images_are_filled_up_to_few_numbers(repeating, rows, images_of, count):
    batch = PretrainingCollator(repeating)(make_rows(rows, images_of=images_of))
    assert batch["pixel_values"].shape[0] == count
    assert batch["image_index"].tolist() == [row // images_of for row in range(rows)]
    # Nothing reads the copies.
    shown = -(-rows // images_of)
    assert batch["itm_image_index"].max() < shown
    for copy_of_last in batch["pixel_values"][shown:]:
        assert torch.equal(copy_of_last, batch["pixel_values"][shown - 1])


@pytest.mark.parametrize(("kind", "count"), [(torch.nn.BatchNorm2d, 4), (torch.nn.GroupNorm, 8)])
def test_no_copies_of_images_come_to_batch_normalisation(repeating, kind, count):
    """It would count the last image of a batch several times, in the states of all images and in its running means."""
    model = torch.nn.Sequential(torch.nn.Sequential(kind(2, 2)))
    model.config = None
    options = SimpleNamespace(ablation=None)
    task = SimpleNamespace(objectives=[MaskedTextData(), MatchingData()], draw_negative=None, data_arguments=options)
    task.has_documents = False
    batch = Pretraining.collator(task, repeating, model, 0)(make_rows(16, images_of=4))
    assert batch["pixel_values"].shape[0] == count
    assert batch["image_index"].tolist() == [row // 4 for row in range(16)]


def test_positions_beyond_all_expectation():
    labels = np.full((4, 16), -100)
    for masked, room in ((0, 24), (24, 24), (25, 48), (48, 48), (49, 96), (63, 96)):
        labels.flat[:masked] = 7
        positions = np.flatnonzero(labels != -100)
        filled = fill_positions(positions, labels, 0.15)
        assert len(filled) == room and (labels.flat[filled[masked:]] == -100).all()
        np.testing.assert_array_equal(filled[:masked], positions)
    # Where each token has a label, none can stand for "no token".
    labels[:] = 7
    np.testing.assert_array_equal(fill_positions(np.arange(64), labels, 0.15), np.arange(64))
    # A row has a masked token however rare they are.
    assert len(fill_positions(np.arange(100), np.full((100, 8), -100), 0.001)) == 144
