"""What runs of a study are expected to cost: only by rates of what is like them, and what is unlike is said."""

import pytest
from test_studies import study_of

from renaissance.benchmarks.experiments import measured_on_h100
from renaissance.commands.study import main
from renaissance.studies.costs import expected_cost
from renaissance.studies.plan import runs_of


MODEL = """
output_dir: {folder}/out
stages:
  pretraining:
    command: pretrain
    recipe: RECIPE
    options: OPTIONS
  nlvr2: {{command: nlvr2, recipe: nlvr2, from: pretraining}}
  snli_ve: {{command: snli-ve, recipe: snli_ve, from: pretraining}}
  refcoco: {{command: refcoco, recipe: refcoco, from: pretraining}}
"""
SMALL, LARGE = "pretrain_exp1_two_tower", "pretrain_exp1_two_tower_large"
CACHED = "cache_frozen_features: kept"
#: Pairs of the pretrainings, and rows times epochs of the finetunings.
PAIRS, NLVR2, SNLI_VE = 100_000 * 704, 40 * 86_373, 10 * 529_527


def costs_of(folder, recipe: str = SMALL, options: str = "{}") -> dict[str, tuple[float | None, str]]:
    text = MODEL.replace("RECIPE", recipe).replace("OPTIONS", options.replace("{", "{{").replace("}", "}}"))
    runs = runs_of(study_of(text, folder))
    return {run.stage.name: expected_cost(run, runs) for run in runs}


def rate(model: str, variant: str, side: str = "ours") -> float:
    (found,) = [
        each.samples_per_second
        for each in measured_on_h100()
        if (each.model, each.variant, each.batch, each.side) == (model, variant, 88, side)
    ]
    return found


def test_a_finetuning_of_larger_images_takes_as_many_times_as_it_has_patches(tmp_path):
    """Two images of 288 pixels, and one of 384, against one of 224: nothing is frozen in finetuning, whatever was in pretraining."""
    for options in ("{}", f"{{freeze: [vision], {CACHED}}}"):
        costs = costs_of(tmp_path, options=options)
        for stage, rows, times in (("nlvr2", NLVR2, 2 * (288 / 224) ** 2), ("snli_ve", SNLI_VE, (384 / 224) ** 2)):
            seconds, basis = costs[stage]
            assert seconds == pytest.approx(rows * times / rate("small", "full"))
            assert basis.endswith(f"divided by {times:.2f} for as many times the patches, as in pretraining")


@pytest.mark.parametrize(
    ("options", "variant", "told"),
    [
        ("{}", "full", "at a time"),
        ("{freeze: [text]}", "full", "as if nothing were frozen"),
        ("{freeze: [vision]}", "full", "as if nothing were frozen"),
        (f"{{freeze: [vision], {CACHED}}}", "vision frozen, cached", "at a time"),
        (f"{{freeze: [text, vision], {CACHED}}}", "vision frozen, cached", "as if its text tower were not frozen"),
    ],
)
def test_the_rate_is_of_what_computes_as_much_or_more(tmp_path, options, variant, told):
    seconds, basis = costs_of(tmp_path, options=options)["pretraining"]
    assert seconds == pytest.approx(PAIRS / rate("small", variant)) and basis.endswith(told)


@pytest.mark.parametrize(
    ("recipe", "options", "stage", "reason"),
    [
        (SMALL, "{}", "refcoco", "the images in a row of refcoco differ in number"),
        (SMALL, "{objectives: [mlm, itm, contrastive]}", "pretraining", "no rate of its objectives was measured"),
        (SMALL, "{cross_modal_hidden_size: 768}", "nlvr2", "no rate of its model was measured"),
        (SMALL, "{vision_encoder: google/vit-base-patch16-224}", "pretraining", "no rate of its model was measured"),
        (LARGE, f"{{{CACHED}}}", "pretraining", "no rate of its model was measured"),
        (LARGE, f"{{cross_modal_hidden_size: 256, {CACHED}}}", "snli_ve", "no rate of its model was measured with nothing frozen"),
    ],
)  # fmt: skip
def test_what_is_like_nothing_that_was_measured_has_no_cost(tmp_path, recipe, options, stage, reason):
    assert costs_of(tmp_path, recipe, options)[stage] == (None, f"{reason}; give --rate")


def test_both_towers_of_the_large_model_were_measured_frozen(tmp_path):
    seconds, _ = costs_of(tmp_path, LARGE, f"{{cross_modal_hidden_size: 256, {CACHED}}}")["pretraining"]
    assert seconds == pytest.approx(PAIRS / rate("base", "both frozen, cached"))


def test_a_sum_says_how_many_runs_are_not_in_it(capsys):
    with pytest.raises(SystemExit):
        main(["run", "experiment1", "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert (
        "  pretraining: 5 to run, 105 h 58 min, and 1 of unknown cost" in lines and "  refcoco: 5 to run, ?" in lines
    )


def test_costs_of_data_that_a_stage_makes_and_of_public_data(tmp_path):
    text = """
output_dir: {folder}/out
stages:
  data: {{command: prepare shapes, options: {{num_train: 50}}}}
  drawn: {{command: nlvr2, recipe: nlvr2_shapes, options: {{dataset: "{data}/nlvr2", num_train_epochs: 4}}}}
  public: {{command: nlvr2, recipe: nlvr2_shapes, options: {{dataset: elsewhere, num_train_epochs: 2}}}}
  limited: {{command: nlvr2, recipe: nlvr2_shapes, options: {{dataset: "{data}/nlvr2", num_train_epochs: 4, max_train_samples: 20}}}}
  evaluated: {{command: nlvr2, recipe: nlvr2_shapes, options: {{do_train: false}}}}
  ablated: {{command: pretrain, options: {{model_name_or_path: x, eval_datasets: [elsewhere], do_eval: true}}}}
"""
    runs = runs_of(study_of(text, tmp_path))
    costs = {run.stage.name: expected_cost(run, runs, 10.0)[0] for run in runs}
    assert costs == {
        "data": None,
        "drawn": 4 * 50 / 10,
        "public": 2 * 86_373 / 10,
        "limited": 4 * 20 / 10,
        "evaluated": 0,
        "ablated": 0,
    }


@pytest.mark.parametrize("batch", [88, 352])
def test_a_cost_is_by_the_rate_of_the_batch_that_a_run_has(tmp_path, batch):
    """That of the nearest one which was measured: an eighth of the samples at a time takes longer."""
    text = f"""
output_dir: {{folder}}/out
stages:
  pretraining: {{{{command: pretrain, recipe: pretrain_exp1_two_tower, options: {{{{per_device_train_batch_size: {batch}}}}}}}}}
"""
    runs = runs_of(study_of(text, tmp_path))
    seconds, basis = expected_cost(runs[0], runs)
    (rate,) = [
        each.samples_per_second
        for each in measured_on_h100()
        if (each.model, each.variant, each.side, each.batch) == ("small", "full", "ours", batch)
    ]
    assert seconds == pytest.approx(100_000 * 704 / rate) and basis.endswith(f"on an H100, {batch} at a time")
