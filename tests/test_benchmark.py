"""What benchmark.py compares is equal: the reference step and ours, with the same weights on the same batch."""

import argparse
import copy
import json

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, PATCH_SIZE, tiny_bert, tiny_model, tiny_vit
from datasets import Dataset, Features, Image, List, Value
from transformers import ElectraConfig

from renaissance import OneTowerForPreTraining, TwoTowerForImageTextRetrieval, TwoTowerForPreTraining
from renaissance.benchmarks import objectives
from renaissance.benchmarks.measure import OperationCounter, Spread, count_flops, interleaved, ratios
from renaissance.benchmarks.models import (
    BatchSettings,
    build_config,
    build_model,
    build_processor,
    draw_batches,
    draw_rows,
    noise,
    objectives_of,
)
from renaissance.benchmarks.reference import TEXT_LENGTH, build_reference, reference_batch
from renaissance.benchmarks.report import Report
from renaissance.benchmarks.retrieval import Ranking, retrieval_model
from renaissance.benchmarks.training import Trainee, largest_difference, with_features
from renaissance.commands.benchmark import build_parser, main
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import OBJECTIVE_DATA, MaskedTextData, MatchingData
from renaissance.tasks.data.captioned import CaptionedImages


pytestmark = pytest.mark.usefixtures("same_threads_afterwards")


def make_model(architecture: str, **fields):
    """A tiny model for pretraining, without dropout, on texts of up to 50 tokens."""
    torch.manual_seed(0)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = tiny_bert(max_position_embeddings=TEXT_LENGTH, **no_dropout)
    if architecture == "one-tower":
        fields |= {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
        model = OneTowerForPreTraining.from_encoder(text, **fields)
    else:
        text = ElectraConfig(**text.to_dict() | {"model_type": "electra", "embedding_size": 20})
        fields |= {"cross_modal_hidden_size": 16, "cross_modal_layers": 2, "cross_modal_heads": 2}
        model = TwoTowerForPreTraining.from_encoders(text, tiny_vit(), cross_modal_dropout=0.0, **fields)
    torch.nn.init.normal_(model.base_model.type_embeddings.weight)
    return model.train()


TEXTS = ["red circle", "a large blue square left of a small green star", "the circle is red and the square is blue"]


def batches_of(processor, rows: int = 6, captions_per_image: int = 1, **matching) -> tuple[dict, dict]:
    """A batch for our model, of captions that differ in length, and the same for the reference."""
    settings = BatchSettings(rows, IMAGE_SIZE, captions_per_image=captions_per_image, seed=1)
    drawn = [row | {"text": TEXTS[number % 3]} for number, row in enumerate(draw_rows(settings, 1)[0])]
    shown = {row["image_id"]: row["image"] for row in drawn}

    def draw(row: dict, rng: np.random.Generator) -> dict:
        name = f"drawn-{row['sample_id']}"
        return {"image": shown.setdefault(name, noise(IMAGE_SIZE, rng)), "image_id": name}

    batch = PretrainingCollator(processor, [MaskedTextData(), MatchingData(**matching)], draw)(drawn)
    pixels = processor.image_processor([*shown.values()], return_tensors="pt")["pixel_values"]
    return batch, reference_batch(batch, pixels)


def gradients_of(ours, reference) -> tuple[torch.Tensor, torch.Tensor]:
    """All gradients of both models as one vector each, in the order of the reference's parameters; 0 where there is none."""
    gradients = {}
    for name, model in (("ours", ours), ("reference", reference)):
        gradients[name] = copy.deepcopy(model)
        for value, original in zip(gradients[name].parameters(), model.parameters(), strict=True):
            value.data = torch.zeros_like(original) if original.grad is None else original.grad.clone()
    translated = build_reference(ours)
    with torch.no_grad():
        translated.load(gradients["ours"])
    # A further image's type embedding is none of the reference's.
    return tuple(
        torch.cat([value.flatten() for value in model.parameters()]) for model in (translated, gradients["reference"])
    )


@pytest.fixture
def statistics(processor) -> dict:
    return dict(zip(("pixel_mean", "pixel_deviation"), processor.pixel_statistics, strict=True))


CASES = {
    "clean": {},
    "masked": {"itm_text": "masked"},
    "captions that share images": {"captions_per_image": 2},
    "false images of all data": {"itm_negatives": "random"},
    "masked, shared, of all data": {"itm_text": "masked", "captions_per_image": 2, "itm_negatives": "random"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("architecture", "freeze", "cached"),
    [
        ("two-tower", (), False),
        ("two-tower", ("vision",), False),
        ("two-tower", ("vision",), True),
        ("two-tower", ("text", "vision"), True),
        ("two-tower", ("cross_modal",), False),
        ("one-tower", (), False),
        ("one-tower", ("text",), False),
    ],
)
def test_a_step_equals_the_reference_step(processor, statistics, architecture, freeze, cached, case):
    """The losses to 1e-6 of their size, the whole gradient to 1e-5 of its norm."""
    batch, original = batches_of(processor, **CASES[case])
    assert original["input_ids"].shape[1] == TEXT_LENGTH > batch["mlm_labels"].shape[1]
    assert set(batch["itm_labels"].tolist()) == {0, 1}
    ours = make_model(architecture, frozen=freeze, **statistics)
    reference = build_reference(ours).train()
    for part in freeze:
        for module in parts_of(reference, part):
            module.requires_grad_(False)
    if cached:
        with torch.no_grad():
            batch["image_features"] = ours.base_model.vision_features(batch.pop("pixel_values"))
    output, theirs = ours(**batch), reference(**original)
    assert largest_difference(output, theirs, original["mlm_labels"]) <= 5e-6
    for name, loss in theirs["losses"].items():
        assert abs(output.losses[name] - loss) <= 1e-6 * loss, name
    output.loss.backward()
    theirs["loss"].backward()
    mine, expected = gradients_of(ours, reference)
    assert (mine - expected).norm() <= 1e-5 * expected.norm() and expected.norm() > 0.1


@pytest.mark.parametrize(("freeze", "cached"), [((), False), (("vision",), True)])
@pytest.mark.parametrize("name", ["tiny-dual-encoder", "tiny-grid"])
def test_a_step_with_an_image_encoder_of_its_own_equals_the_reference_step(name, freeze, cached):
    (batch,), (original,) = draw_batches(BatchSettings(4, 64), 1, objectives_of(name))
    assert original["input_ids"].shape[1] == TEXT_LENGTH > batch["input_ids"].shape[1]
    ours = build_model(name, freeze, image_size=64)
    # Nothing that begins at zero hides a wrong sum.
    for each in [weight for weight in ours.parameters() if not weight.any()]:
        torch.nn.init.normal_(each, std=0.1)
    reference = build_reference(ours).train()
    output, theirs = ours(**batch), reference(**original)
    assert largest_difference(output, theirs, original.get("mlm_labels")) <= 1e-5 and theirs["loss"] > 0.1
    output.loss.backward()
    theirs["loss"].backward()
    gradients = copy.deepcopy(ours)
    for value, weight in zip(ours.parameters(), gradients.parameters(), strict=True):
        weight.data = torch.zeros_like(value) if value.grad is None else value.grad
    expected = build_reference(ours)
    with torch.no_grad():
        expected.load(gradients)
    for (name, gradient), value in zip(expected.named_parameters(), reference.parameters(), strict=True):
        found = torch.zeros_like(value) if value.grad is None else value.grad
        torch.testing.assert_close(gradient, found, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    if cached:
        with torch.no_grad():
            assert abs(ours(**with_features(ours, batch)).loss.item() - output.loss.item()) < 1e-2


@pytest.mark.slow
def test_objectives_in_one_pass_and_in_a_pass_each():
    """The losses are the same, and no objective costs more in the common pass, beside the copies of images that `mim` covers."""
    report = Report("objectives", {})
    args = ["objectives", "--models", "tiny-grid", "--batch_size", "3", "--runs", "1"]
    parsed = build_parser().parse_args(args)
    objectives.run(parsed, report)
    rows = report.tables[0].rows
    assert len(rows) == 2 * len(OBJECTIVE_DATA) - 2
    for together, apart in zip(rows[::2], rows[1::2], strict=True):
        assert together["objectives"] == apart["objectives"]
        assert together["largest difference of losses"] < 1e-5, together["objectives"]
        assert together["GFLOP a sample"] < apart["GFLOP a sample"]
    with pytest.raises(ValueError, match=r"^--models: tiny-dual-encoder: expected one that fuses"):
        objectives.run(build_parser().parse_args([args[0], "--models", "tiny-dual-encoder"]), report)


def parts_of(reference: torch.nn.Module, part: str) -> list[torch.nn.Module]:
    """Modules of the reference that a part of our model freezes, beyond its towers."""
    if part == "cross_modal":
        names = (
            "text_projection",
            "image_projection",
            "type_embeddings",
            "cross_modal_layers",
            "text_pooler",
            "image_pooler",
        )
    elif hasattr(reference, "words"):
        names = {"text": ("words", "positions", "layer_norm"), "vision": ("image_embeddings",)}[part]
    else:
        names = ()
    return [getattr(reference, name) for name in names]


def test_cached_features_are_what_the_frozen_tower_makes(processor, statistics):
    ours = make_model("two-tower", frozen=("vision",), **statistics)
    batch, _ = batches_of(processor)
    cached = with_features(ours, batch)
    assert "pixel_values" not in cached and cached["image_features"].dtype == torch.float16
    assert abs(ours(**cached).loss.item() - ours(**batch).loss.item()) < 1e-2


def test_reference_scores_every_token_and_runs_both_towers_twice(processor, statistics):
    """What makes it the reference is what it costs, and its losses do not show."""
    ours = make_model("two-tower", **statistics)
    reference = build_reference(ours)
    _, original = batches_of(processor)
    seen = []
    for tower in reference.towers().values():
        tower.register_forward_hook(lambda module, args, kwargs, output: seen.append(module), with_kwargs=True)
    output = reference(**original)
    assert output["logits"]["mlm"].shape[:2] == (6, TEXT_LENGTH)
    assert [seen.count(tower) for tower in reference.towers().values()] == [2, 2]


def test_flops_of_attention_are_counted():
    """torch has no count for its flash attention on CPUs; here it has, and agrees with attention written out."""
    query, key, value = (torch.randn(2, 4, 8, 16, requires_grad=True) for _ in range(3))
    flash, _ = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value))
    written, _ = count_flops(lambda: (query @ key.transpose(-1, -2)).softmax(dim=-1) @ value)
    assert flash == written == 2 * (2 * 2 * 4 * 8 * 8 * 16)
    both, _ = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value).sum().backward())
    assert both == flash / 2 * 7


def test_operations_are_counted():
    first, second = torch.ones(2, 3, requires_grad=True), torch.ones(3, 2)
    with OperationCounter() as counter:
        total = (first.T.T @ second).view(-1).sum()
        assert total.item() == 12
    assert (counter.operations, counter.synchronisations) == (2, 1), "a product and a sum; a value"


def test_a_step_of_the_papers_model_has_few_operations():
    """Of Experiment 1, with dropout: at most 3,100 where the reference has twice as many, and none that waits for the device."""
    ours, original = draw_batches(BatchSettings(2), 1)
    built = build_model("small", dropout=0.1)
    operations, synchronisations = Trainee(built, ours).operations(0)
    assert operations <= 3100 and synchronisations == 0
    assert Trainee(build_reference(built).train(), original).operations(0)[0] > 6000


def test_runs_take_turns_after_a_warm_up():
    calls = []
    sides = {name: lambda run, name=name: calls.append(name + str(run)) or run for name in "ab"}
    assert interleaved(sides, 2) == {"a": [0, 1], "b": [0, 1]}
    assert calls == ["a0", "b0", "a0", "b0", "a1", "b1"]
    assert ratios([6.0, 1.0, 4.0], [2.0, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)


def test_batches_have_captions_of_real_lengths():
    padded = {}
    for by_length in (True, False):
        settings = BatchSettings(8, IMAGE_SIZE, by_length=by_length, captions_per_image=2)
        rows = draw_rows(settings, 5)
        assert rows == draw_rows(settings, 5) and {len(batch) for batch in rows} == {8}
        assert len({row["image_id"] for batch in rows for row in batch}) == 20
        lengths = np.array([[len(row["text"].split()) + 2 for row in batch] for batch in rows])
        assert lengths.min() >= 5 and lengths.max() <= TEXT_LENGTH and 9 < lengths.mean() < 15
        padded[by_length] = lengths.max(axis=1).mean()
    assert padded[True] < padded[False]


def test_command_line(tmp_path, capsys):
    """Tables on standard output, all there is to know in the JSON file; a mistake is one line."""
    output = tmp_path / "loading.json"
    options = ["--num_images", "4", "--runs", "2", "--workers", "0", "--batch_size", "2", "--output", str(output)]
    main(["loading", *options])
    assert "From JPEG to pixels of 224x224" in capsys.readouterr().out
    content = json.loads(output.read_text(encoding="utf-8"))
    row = content["results"]["From JPEG to pixels of 224x224"][0]
    assert content["environment"]["torch"] == torch.__version__ and content["options"]["runs"] == 2
    assert row["times faster"]["min"] <= row["times faster"]["max"]
    mean, largest = row["in full: mean, largest difference"].split(", ")
    assert float(mean) < 0.1 and int(largest) <= 1
    with pytest.raises(SystemExit) as stopped:
        main(["loading", "--runs", "0"])
    assert stopped.value.code == 2 and "--runs" in capsys.readouterr().err


def ranked(ranking: Ranking, args: argparse.Namespace) -> list[list[dict]]:
    """The rows of both tables."""
    report = Report("retrieval", {})
    ranking.compare(args, report)
    ranking.agreement(args, report)
    return [table.rows for table in report.tables]


def test_ways_of_ranking_agree(processor, statistics):
    """Of all ways the counts say what each saves; re-ranking so many candidates that none is left out loses nothing."""
    model = tiny_model("two-tower", "ForImageTextRetrieval", contrastive_size=8, **statistics)
    rng = np.random.default_rng(0)
    words = ["red circle", "blue square", "a large green star", "yellow"]
    rows = [{"image": noise(IMAGE_SIZE, rng), "captions": [words[number % 4], f"{number}"]} for number in range(6)]
    features = Features({"image": Image(), "captions": List(Value("string"))})
    ranking = Ranking(model, processor, CaptionedImages(Dataset.from_list(rows, features=features), "drawn"))
    args = argparse.Namespace(seed=0, runs=1, pairs=20, rerank_top_k=[11])
    (through, once, reranked), (agreement,) = ranked(ranking, args)
    assert [through[f"{what} encoded"] for what in ("images", "captions")] == [20, 20]
    assert [once["images encoded"], once["captions encoded"], once["pairs fused"]] == [6, 12, 72]
    assert once["lost"] == 0 and abs(reranked["lost"]) < 0.1 and reranked["pairs ranked"] == 72
    assert agreement["largest difference"] <= 1e-5


def test_ranking_by_vectors():
    """A dual encoder fuses nothing: each image and caption is encoded once."""
    rng = np.random.default_rng(0)
    rows = [{"image": noise(224, rng), "captions": [f"w{8 + number} w9", f"w{number + 20}"]} for number in range(6)]
    features = Features({"image": Image(), "captions": List(Value("string"))})
    data = CaptionedImages(Dataset.from_list(rows, features=features), "drawn")
    ranking = Ranking(retrieval_model(build_config("tiny-dual-encoder"), 0), build_processor(), data)
    args = argparse.Namespace(seed=0, runs=1, pairs=20, rerank_top_k=[])
    (through, once), (agreement,) = ranked(ranking, args)
    assert [through[f"{what} encoded"] for what in ("images", "captions")] == [20, 20]
    assert [once["images encoded"], once["captions encoded"], once["pairs fused"]] == [6, 12, 0]
    assert once["pairs ranked"] == 72 and agreement["largest difference"] <= 1e-5
    report = Report("retrieval", {})
    ranking.parts(args, report)
    assert [row["part"] for row in report.tables[0].rows] == ["vectors", "matrix product", "ranks and recalls"]


def test_reranking_against_the_reference(processor, statistics):
    """Sets that are drawn are not ranked exactly beside; scores are the reference's; all captions are no candidates."""
    pretrained = make_model("two-tower", **statistics)
    config = type(pretrained.config).from_dict(pretrained.config.to_dict() | {"contrastive_size": 8})
    model = TwoTowerForImageTextRetrieval(config).eval()
    model.load_state_dict(pretrained.state_dict(), strict=False)
    rng = np.random.default_rng(0)
    rows = [{"image": noise(IMAGE_SIZE, rng), "captions": ["red circle", f"{number}"]} for number in range(14)]
    features = Features({"image": Image(), "captions": List(Value("string"))})
    data = CaptionedImages(Dataset.from_list(rows, features=features), "drawn")
    ranking = Ranking(model, processor, data, build_reference(pretrained).eval())
    args = argparse.Namespace(seed=0, runs=1, pairs=20, rerank_top_k=[10])
    (through, reranked), (agreement,) = ranked(ranking, args)
    assert through["pairs ranked"] == through["pairs fused"] == 20
    assert reranked["pairs ranked"] == 14 * 28 and 28 * 10 <= reranked["pairs fused"] < 28 * 10 + 14 * 10
    assert reranked["mean_recall"] is None and reranked["lost"] is None
    assert agreement["largest difference"] <= 1e-5
    args.rerank_top_k = [10, 28]
    with pytest.raises(ValueError, match="--rerank_top_k: expected fewer than the 28 captions, got 28"):
        ranking.compare(args, Report("retrieval", {}))
