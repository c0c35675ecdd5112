"""The heads: losses, gradients, numbers of images and texts, checkpoints of pretraining."""

import pytest
import torch
from conftest import (
    CLASSES,
    candidates_batch,
    pair_batch,
    pretraining_batch,
    rows_of,
    tiny_batch,
    tiny_model,
    training_batch,
    without,
)

from renaissance.modeling.architectures import HEADS


def type_of(architecture: str, kind: str) -> type:
    """The class of one of `ARCHITECTURES`."""
    return CLASSES["two-tower" if architecture == "two-tower" else "one-tower", kind]


@pytest.mark.parametrize(
    "kind",
    ["ForImageTextClassification", "ForSequenceClassification", "ForImageClassification", "ForImagesAndTextClassification",
     "ForReferenceResolution", "ForImageTextRetrieval"],
)  # fmt: skip
def test_the_loss_of_classes_is_the_mean_of_their_cross_entropies(architecture, kind):
    model, batch = tiny_model(architecture, kind), training_batch(kind)
    output = model(**batch)
    of_rows = output.logits.float().logsumexp(dim=-1) - output.logits.gather(1, batch["labels"][:, None]).squeeze(1)
    assert of_rows.std() > 1e-3
    torch.testing.assert_close(output.loss, of_rows.mean())


@pytest.mark.parametrize("kind", ["ForImageTextClassification", "ForSequenceClassification", "ForImageClassification"])
def test_rows_without_a_class_count_for_nothing_in_the_loss(architecture, kind):
    model, batch = tiny_model(architecture, kind), training_batch(kind)
    labels = torch.tensor([0, -100, 1])
    expected = model(**(rows_of(batch, [0, 2]) | {"labels": labels[[0, 2]]})).loss
    torch.testing.assert_close(model(**(batch | {"labels": labels})).loss, expected)


@pytest.mark.parametrize("kind", ["ForImageTextClassification", "ForSequenceClassification", "ForImageClassification"])
def test_labels_say_the_kind_of_problem_as_in_transformers(architecture, kind, tmp_path):
    """One score is a regression, a float a class says whether a row has it; a saved model keeps what it was trained on."""
    batch = without(training_batch(kind), "labels")
    numbers = torch.tensor([0.5, 2.0, -1.0])
    for labels in (numbers, numbers[:, None], torch.tensor([0, 2, 1])):
        model = tiny_model(architecture, kind, num_labels=1)
        output = model(**batch, labels=labels)
        assert model.config.problem_type == "regression"
        torch.testing.assert_close(output.loss, (output.logits[:, 0] - labels.view(-1)).square().mean())
    has = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    model = tiny_model(architecture, kind, num_labels=3)
    output = model(**batch, labels=has)
    torch.testing.assert_close(
        output.loss, torch.nn.functional.binary_cross_entropy_with_logits(output.logits, has), atol=1e-5, rtol=1e-5
    )
    model.save_pretrained(tmp_path)
    assert type_of(architecture, kind).from_pretrained(tmp_path).config.problem_type == "multi_label_classification"
    model = tiny_model(architecture, kind, num_labels=3)
    model(**batch, labels=torch.tensor([0, 2, 1]))
    assert model.config.problem_type is None


@pytest.mark.parametrize("kind", ["ForImageTextClassification", "ForSequenceClassification", "ForImageClassification"])
def test_numbers_meet_their_own_rows(architecture, kind):
    """Labels (batch, 1) are those of the rows, and do not meet all rows; other shapes are refused."""
    model, batch = tiny_model(architecture, kind, num_labels=1, problem_type="regression"), training_batch(kind)
    labels, weights = torch.tensor([0.5, -100.0, 4.0]), torch.tensor([1.0, 3.0, 2.0])
    losses = [
        model(**(batch | {"labels": labels.view(shape), "loss_weights": weights.view(shape)})).loss
        for shape in ((3,), (3, 1))
    ]
    logits = model(**without(batch, "labels")).logits[:, 0]
    errors = (logits - labels).square()[[0, 2]] * weights[[0, 2]]
    for loss in losses:
        torch.testing.assert_close(loss, errors.mean())
    for shape in ((1, 3), (3, 2), (1,)):
        with pytest.raises(
            ValueError, match=r"labels: expected a number for each row, of shape \(3,\), got the shape"
        ):
            model(**(batch | {"labels": torch.zeros(shape)}))


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_gets_a_gradient(architecture, kind, checkpointing):
    # What is added to the scores of all texts, or regions, does not change which is best.
    flat = {"ForImageTextRetrieval": "itm_head.bias", "ForReferenceResolution": "classifier.out.bias"}.get(kind)
    model = tiny_model(architecture, kind).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    model(**training_batch(kind)).loss.backward()
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert [n for n, p in trainable if p.grad is None] == []
    # The second image's own type embedding is only read where there is a second image.
    assert [n for n, p in trainable if not p.grad.any() and n != flat] == []
    without = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert bool(without) == (kind in ("ForMaskedLM", "ForSequenceClassification", "ForImageClassification"))


def test_losses_are_parts_of_the_loss(architecture):
    model = tiny_model(architecture, "ForPreTraining", objectives={"mlm": 2.0, "itm": 0.5})
    with torch.no_grad():
        output = model(**pretraining_batch())
    torch.testing.assert_close(output.loss, 2 * output.losses["mlm"] + 0.5 * output.losses["itm"])
    assert output.logits["mlm"].shape == (6, model.get_input_embeddings().num_embeddings)


@pytest.mark.parametrize("left_out", ["mlm", "itm"])
def test_any_subset_of_objectives(architecture, left_out):
    """The other objective's loss is the same whether or not there is a second one."""
    both = tiny_model(architecture, "ForPreTraining")
    batch = {name: value for name, value in pretraining_batch().items() if not name.startswith(left_out)}
    with torch.no_grad():
        whole, part = both(**pretraining_batch()), both(**batch)
    other = "itm" if left_out == "mlm" else "mlm"
    torch.testing.assert_close(part.losses[other], whole.losses[other])
    torch.testing.assert_close(part.loss, whole.losses[other])
    assert left_out not in part.losses

    alone = tiny_model(architecture, "ForPreTraining", objectives=[other])
    assert not hasattr(alone, f"{left_out}_head")
    with pytest.raises(ValueError, match=rf"{left_out}_\w+: no input of this model's objectives \({other}\)"):
        alone(**pretraining_batch())


def test_a_batch_without_masked_tokens_has_no_nan(architecture):
    model = tiny_model(architecture, "ForPreTraining").train()
    batch = pretraining_batch()
    batch["mlm_labels"] = torch.full_like(batch["mlm_labels"], -100)
    output = model(**batch)
    output.loss.backward()
    assert output.losses["mlm"].item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_matching_uses_the_image_that_the_index_names(architecture):
    model = tiny_model(architecture, "ForPreTraining")
    batch = tiny_batch()
    index = torch.tensor([2, 0, 1])
    with torch.no_grad():
        by_index = model(**batch, itm_image_index=index).logits["itm"]
        moved = model(**(batch | {"pixel_values": batch["pixel_values"][index]})).logits["itm"]
    torch.testing.assert_close(by_index, moved, atol=1e-5, rtol=1e-5)


def test_the_order_in_which_objectives_are_named_changes_nothing(tmp_path):
    """Files sort names: by its own run.yaml a run must repeat, and an optimizer number the same parameters."""
    model = tiny_model("two-tower", "ForPreTraining", objectives={"mlm": 1.0, "itm": 1.0})
    other = tiny_model("two-tower", "ForPreTraining", objectives={"itm": 1.0, "mlm": 1.0})
    named = [*zip(model.named_parameters(), other.named_parameters(), strict=True)]
    assert all(name == again and torch.equal(value, same) for (name, value), (again, same) in named)
    other.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert [*loaded.config.objectives] == [*loaded.objectives] == ["mlm", "itm"]


def test_the_vision_tower_runs_once_for_both_objectives():
    model = tiny_model("two-tower", "ForPreTraining")
    calls = []
    model.model.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    model(**pretraining_batch())
    assert len(calls) == 1


def test_the_sentence_is_encoded_once_for_two_images():
    model = tiny_model("two-tower", "ForImagesAndTextClassification")
    sizes = []
    model.model.text_encoder.register_forward_hook(
        lambda _, args, kwargs, out: sizes.append(len(out[0])), with_kwargs=True
    )
    model(**pair_batch())
    assert sizes == [3]


def test_nlvr2_head_tells_left_from_right(architecture):
    model = tiny_model(architecture, "ForImagesAndTextClassification")
    batch = pair_batch()
    with torch.no_grad():
        plain = model(**batch).logits
        swapped = model(**(batch | {"pixel_values": batch["pixel_values"].flip(1)})).logits
    assert (plain - swapped).abs().max() > 1e-5


@torch.no_grad()
def test_nlvr2_head_sees_each_image_with_its_own_type(architecture):
    """The first image of a pair is fused as image 0, the second as image 1, which a classifier reads side by side."""
    model, batch = tiny_model(architecture, "ForImagesAndTextClassification"), pair_batch()
    base = model.base_model

    def pooled(number: int, image_type: int) -> torch.Tensor:
        text = base.encode_text(batch["input_ids"], batch["attention_mask"])
        image = base.encode_image(batch["pixel_values"][:, number])
        return base.fuse(text, image, torch.full((3,), image_type)).pooled

    expected = model.classifier(torch.cat([pooled(0, 0), pooled(1, 1)], dim=-1))
    torch.testing.assert_close(model(**batch).logits, expected)
    alike = model.classifier(torch.cat([pooled(0, 0), pooled(1, 0)], dim=-1))
    assert (alike - expected).abs().max() > 1e-3
    # The second type is read, and of the second image alone.
    first, second = pooled(0, 0), pooled(1, 1)
    base.type_embeddings.weight[2, 0] += 3
    assert torch.equal(pooled(0, 0), first) and not torch.allclose(pooled(1, 1), second, atol=1e-3)


def test_nlvr2_head_needs_two_images(architecture):
    model = tiny_model(architecture, "ForImagesAndTextClassification")
    batch = pair_batch()
    for pixels in (batch["pixel_values"][:, 0], batch["pixel_values"][:, :1], None):
        with pytest.raises(ValueError, match=r"2 images a text|expected an image a row"):
            model(**(batch | {"pixel_values": pixels}))


#: Numbers of texts and of rows of images, and the pairs of them that answers are for; none if they are refused.
NUMBERS = {
    (3, 3): [(0, 0), (1, 1), (2, 2)],
    (1, 3): [(0, 0), (0, 1), (0, 2)],
    (3, 1): [(0, 0), (1, 0), (2, 0)],
    (3, 2): None,
    (2, 3): None,
    (2, 1): [(0, 0), (1, 0)],
}


SEVERAL_IMAGES = {"ForImagesAndTextClassification": 2, "ForReferenceResolution": 3}


@torch.no_grad()
@pytest.mark.parametrize(
    "kind", ["ForImageTextClassification", "ForVisualQuestionAnswering", "ForMaskedLM", *SEVERAL_IMAGES]
)
@pytest.mark.parametrize("texts, rows", NUMBERS)
def test_numbers_of_texts_and_images_fit_or_are_refused(architecture, kind, texts, rows):
    model, batch = tiny_model(architecture, kind), pair_batch()
    words = [{name: batch[name][row : row + 1] for name in ("input_ids", "attention_mask")} for row in range(3)]
    count = SEVERAL_IMAGES.get(kind)
    pixels = torch.randn(3, count or 1, *batch["pixel_values"].shape[2:], generator=torch.Generator().manual_seed(0))
    pixels = pixels if count else pixels[:, 0]

    def call(numbers: list[int], images: list[int]) -> torch.Tensor:
        given = {name: torch.cat([words[number][name] for number in numbers]) for name in words[0]}
        return model(**given, pixel_values=pixels[images]).logits

    pairs = NUMBERS[texts, rows]
    if pairs is None:
        with pytest.raises(ValueError, match=f"got {texts} texts and {rows} ((rows of )?images)"):
            call([*range(texts)], [*range(rows)])
        return
    found = call([*range(texts)], [*range(rows)])
    assert len(found) == len(pairs)
    for scores, (text, image) in zip(found, pairs, strict=True):
        torch.testing.assert_close(scores, call([text], [image])[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_absent_regions_stay_absent_for_each_of_several_texts(architecture):
    model, batch = tiny_model(architecture, "ForReferenceResolution"), pair_batch()
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    pixels = torch.cat([batch["pixel_values"], batch["pixel_values"].flip(3)], dim=1)[:1]
    mask = torch.tensor([[1, 0, 1, 1]])
    found = model(**texts, pixel_values=pixels, region_mask=mask, labels=torch.tensor([0, 2, 3]))
    same = {"pixel_values": pixels.expand(3, -1, -1, -1, -1), "region_mask": mask.expand(3, -1)}
    expected = model(**texts, **same, labels=torch.tensor([0, 2, 3]))
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.loss, expected.loss)
    with pytest.raises(ValueError, match="a label names no region of its row"):
        model(**texts, pixel_values=pixels, region_mask=mask, labels=torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=r"region_mask: expected the shape \(1, 4\) .* got the shape \(3, 4\)"):
        model(**texts, pixel_values=pixels, region_mask=mask.expand(3, -1))


def test_a_second_image_starts_as_an_image(architecture):
    """A model pretrained on single images sees the second of a pair with the type embedding of the first."""
    model = tiny_model(architecture)
    torch.nn.init.zeros_(model.type_embeddings.weight[2:])
    types = model.type_embeddings(torch.tensor([0, 1, 2]))
    assert torch.equal(types[1], types[2]) and not torch.equal(types[0], types[1])


def test_masked_lm_reads_the_logits_of_pretraining(architecture, tmp_path):
    """A pretraining checkpoint gives the same scores and loss in the head that has no other objective."""
    pretrained = tiny_model(architecture, "ForPreTraining", tie_word_embeddings=True)
    pretrained.save_pretrained(tmp_path)
    head, report = type_of(architecture, "ForMaskedLM").from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert head.mlm_head.decoder.weight is head.get_input_embeddings().weight
    batch = pretraining_batch()
    inputs = {
        "input_ids": batch["mlm_input_ids"],
        "labels": batch["mlm_labels"],
        "pixel_values": batch["pixel_values"],
    }
    with torch.no_grad():
        expected, got = pretrained(**batch), head.eval()(**inputs)
    torch.testing.assert_close(got.logits[batch["mlm_labels"] != -100], expected.logits["mlm"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.loss, expected.losses["mlm"])
    assert head(inputs["input_ids"]).logits.shape == got.logits.shape  # text alone
    assert head(**(inputs | {"labels": torch.full_like(inputs["labels"], -100)})).loss == 0


def test_retrieval_ranks_with_the_matching_head_of_pretraining(architecture, tmp_path):
    pretrained = tiny_model(architecture, "ForPreTraining")
    pretrained.save_pretrained(tmp_path)
    head, report = type_of(architecture, "ForImageTextRetrieval").from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    texts, images = candidates_batch(), tiny_batch()
    with torch.no_grad():
        scores = head.eval()(**texts).logits
        for number in range(2):
            pairs = images | {name: texts[name][:, number] for name in ("input_ids", "attention_mask")}
            matching = pretrained(**pairs).logits["itm"].log_softmax(dim=-1)
            torch.testing.assert_close(scores[:, number], matching[:, 1] - matching[:, 0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(head(**pairs).logits, scores[:, number : number + 1], atol=1e-5, rtol=1e-5)
        loss = head(**texts, labels=torch.tensor([1, 0, 1])).loss
    torch.testing.assert_close(loss, -scores.log_softmax(dim=-1)[[0, 1, 2], [1, 0, 1]].mean())
    with pytest.raises(ValueError, match="several texts"):
        head(**images, labels=torch.tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="3 rows of text and 2 images"):
        head(**(texts | {"pixel_values": images["pixel_values"][:2]}))


def test_question_answering_takes_several_right_answers(architecture):
    model = tiny_model(architecture, "ForVisualQuestionAnswering", num_labels=5)
    labels = torch.tensor([[0, 1, 0, 0.3, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0.6]])
    with torch.no_grad():
        output = model(**tiny_batch(), labels=labels)
    chance = output.logits.sigmoid()
    expected = -(labels * chance.log() + (1 - labels) * (1 - chance).log()).sum(dim=1).mean()
    torch.testing.assert_close(output.loss, expected, atol=1e-4, rtol=1e-5)
    with pytest.raises(ValueError, match=r"each answer, of shape \(3, 5\), got the shape \(3,\)"):
        model(**tiny_batch(), labels=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="pixel_values: expected an image"):
        model(input_ids=tiny_batch()["input_ids"])


def test_size_of_the_classifier(architecture):
    fields = {"classifier_hidden_size": 10, "classifier_layer_norm_eps": 1e-3, "layer_norm_eps": 1e-6}
    head = tiny_model(architecture, "ForVisualQuestionAnswering", **fields).classifier
    assert head.dense.out_features == 10 and head.layer_norm.eps == 1e-3
    head = tiny_model(architecture, "ForVisualQuestionAnswering", layer_norm_eps=1e-6).classifier
    assert head.layer_norm.eps == 1e-6


def test_heads_load_pretraining_checkpoints(architecture, tmp_path):
    pretrained = tiny_model(architecture, "ForPreTraining")
    pretrained.save_pretrained(tmp_path)
    head, report = type_of(architecture, "ForImagesAndTextClassification").from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert all(key.startswith("classifier.") for key in report["missing_keys"]) and report["missing_keys"]
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    base, report = type_of(architecture, "Model").from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"] and not report["unexpected_keys"]
    for name, value in pretrained.model.state_dict().items():
        assert torch.equal(value, base.state_dict()[name]) and torch.equal(value, head.model.state_dict()[name])


def test_a_saved_base_model_loads_into_a_head(architecture, tmp_path):
    base = tiny_model(architecture)
    base.save_pretrained(tmp_path)
    head, report = type_of(architecture, "ForPreTraining").from_pretrained(tmp_path, output_loading_info=True)
    assert {key.split(".")[0] for key in report["missing_keys"]} == {"mlm_head", "itm_head"}
    with torch.no_grad():
        torch.testing.assert_close(head.eval().model(**tiny_batch()).pooled, base(**tiny_batch()).pooled)


def test_tied_decoder(architecture, tmp_path):
    model = tiny_model(architecture, "ForPreTraining", tie_word_embeddings=True)
    assert model.mlm_head.decoder.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.mlm_head.decoder.weight is loaded.get_input_embeddings().weight
    untied = tiny_model(architecture, "ForPreTraining")
    assert untied.mlm_head.decoder.weight is not untied.get_input_embeddings().weight


@pytest.mark.parametrize("kind", ["ForImageTextRetrieval", "ForImageTextClassification"])
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_a_model_can_be_quantised(architecture, kind):
    """Its layers hold whole numbers of 8 bits, whose type is not that of the states: the scores stay alike."""
    torch.manual_seed(0)
    model = tiny_model(architecture, kind)
    batch = tiny_batch(batch=32)
    with torch.no_grad():
        exact = model(**batch).logits[:, -1]
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})(**batch).logits[:, -1]
    assert not torch.equal(quantised, exact)
    assert torch.corrcoef(torch.stack([exact, quantised]))[0, 1] > 0.7
