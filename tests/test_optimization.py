"""Learning rates, weight decay, schedules and batch sizes: what the optimiser really gets, and what is refused."""

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CLASSES, TWO_TOWER, tiny_bert, tiny_model, tiny_vit
from safetensors.torch import load_file
from transformers import ElectraConfig, Trainer, TrainerCallback, XLMConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from renaissance import TwoTowerModel
from renaissance.modeling.encoders import build_encoder
from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.optimization import accumulation_steps, has_weight_decay, make_schedule, parameter_groups
from renaissance.tasks.parsing import parse_arguments, recipe_of, save_arguments
from renaissance.tasks.preparation import prepare
from renaissance.tasks.runner import run_task


ROOT = Path(__file__).parent.parent
KINDS = sorted({kind for _, kind in CLASSES})
#: What joins the encoders, by the beginnings of names in the base model.
JOINS = {
    "two-tower": ("text_projection", "image_projection", "type_embeddings", "cross_modal_layers", "text_pooler", "image_pooler"),
    "one-tower": ("type_embeddings", "embedding_projection", "text_pooler", "image_pooler"),
}  # fmt: skip


def arguments(*argv: str) -> RunArguments:
    return parse_arguments((RunArguments,), ["--output_dir", "unused", "--do_train", "--use_cpu", *argv], "")[0]


def rates(model, *argv: str) -> dict[str, float]:
    """The learning rate of each parameter that trains, by name."""
    groups = parameter_groups(model, arguments("--learning_rate", "1", *argv))
    by_id = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(by_id) == sum(len(group["params"]) for group in groups)
    return {name: by_id[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in by_id}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [(), ("vision",), ("text", "vision")], ids=str)
def test_each_parameter_that_trains_is_in_one_group(architecture, kind, frozen):
    model = tiny_model(architecture, kind)
    model.freeze(*frozen)
    # Layer-wise decay is refused where no encoder trains.
    trains = {"text", "vision"} - {*frozen} - {"ForImageClassification": {"text"}}.get(kind, set())
    decay = () if not trains and architecture == "two-tower" else ("--layer_decay", "0.5")
    found = rates(model, "--cross_modal_lr_multiplier", "3", *decay)
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    of_frozen = {id(p) for part in frozen for module in model.base_model.parts()[part] for p in module.parameters()}
    assert [name for name in found if id(model.get_parameter(name)) in of_frozen] == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Model"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_multipliers(architecture, kind, tied):
    """Every module of every head, and all that joins the encoders; a tied weight is a word embedding."""
    sizes = {} if architecture == "two-tower" else {"embedding_size": 20}
    model = tiny_model(architecture, kind, tie_word_embeddings=tied, **sizes)
    found = rates(model, "--head_lr_multiplier", "5", "--cross_modal_lr_multiplier", "3")
    # The embeddings of feature maps are new, as what joins encoders is.
    new = ("image_embeddings",) if architecture == "one-tower-grid" else ()
    joins = tuple(f"model.{name}" for name in (*JOINS[architecture[:9]], *new))
    for name, rate in found.items():
        expected = 5.0 if not name.startswith("model.") else 3.0 if name.startswith(joins) else 1.0
        assert rate == expected, name
    assert set(found.values()) == {1.0, 3.0, 5.0}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {join for join in joins if any(name.startswith(join) for name in trained)} == {
        join for join in joins if any(name.startswith(join) for name in found)
    }


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_multiplier_of_heads_is_for_all_heads_of_pretraining(architecture, tied):
    model = tiny_model(architecture, "ForPreTraining", tie_word_embeddings=tied)
    found = rates(model, "--head_lr_multiplier", "5")
    assert {name.split(".")[0] for name, rate in found.items() if rate == 5} == {"mlm_head", "itm_head"}
    assert ("mlm_head.decoder.weight" in found) != tied


def rate_in_two_layers(name: str) -> float:
    """The rate of a parameter, by its name, in encoders of two layers: a half for each layer above it, and 3 for heads."""
    if layer := re.search(r"encoder\.(?:encoder\.layer|encoder\.stages|layers)\.(\d)\.", name):
        return 0.5 ** (1 - int(layer[1]))
    if "_head" in name:
        return 3
    # The others are projections, type embeddings, cross-modal layers, poolers, and the final norm of a vision encoder.
    of_embeddings = "embeddings" in name and "type_embeddings" not in name.split(".")[1]
    return 0.5**2 if of_embeddings or "embedder" in name else 1


def test_layer_decay(architecture):
    found = rates(tiny_model(architecture, "ForPreTraining"), "--layer_decay", "0.5", "--head_lr_multiplier", "3")
    new = "image_embeddings" if architecture == "one-tower-grid" else None
    assert found == {name: 1.0 if new and new in name else rate_in_two_layers(name) for name in found}
    assert {0.25, 0.5, 1.0, 3.0} == set(found.values())


def test_layer_decay_of_projections_and_final_norms():
    """What lies between embeddings and layers goes with the embeddings; a tower of one layer is not one of two."""
    sizes = {"hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = ElectraConfig(**sizes, intermediate_size=48, vocab_size=90)
    vision = tiny_vit(num_hidden_layers=1)
    model = TwoTowerModel.from_encoders(text, vision, cross_modal_hidden_size=16, cross_modal_heads=2)
    found = rates(model, "--layer_decay", "0.5")
    assert found["text_encoder.embeddings_project.weight"] == found["text_encoder.embeddings.LayerNorm.bias"] == 0.125
    assert found["vision_encoder.embeddings.cls_token"] == 0.5
    assert found["vision_encoder.layernorm.weight"] == found["cross_modal_layers.0.text_mlp.up.weight"] == 1


@pytest.mark.parametrize(
    "model_type",
    ["bert", "deberta-v2", "eurobert", "modernbert", "t5", "vit", "beit", "dinov2", "convnext", "resnet", "swinv2"],
)
def test_weight_decay_is_for_matrices(model_type):
    """Norms of every kind, layer scales, biases and what makes them have none; matrices, kernels, word embeddings do."""
    config = CONFIG_MAPPING[model_type]()
    with torch.device("meta"):
        encoder = build_encoder(config)
    kinds = {name: type(module) for name, module in encoder.named_modules()}
    decays = {name: has_weight_decay(name, parameter) for name, parameter in encoder.named_parameters()}
    module_of = {name: name.rpartition(".")[0] for name in decays}
    norms = {name for name in decays if "norm" in kinds[module_of[name]].__name__.lower()}
    without = norms | {name for name in decays if "bias" in name or "lambda" in name.rpartition(".")[2]}
    without |= {name for name in decays if "scale" in kinds[module_of[name]].__name__.lower()}
    matrices = {name for name in decays if issubclass(kinds[module_of[name]], torch.nn.Linear | torch.nn.Conv2d)}
    matrices |= {name for name in decays if module_of[name].endswith("word_embeddings")}
    assert norms and matrices - without
    assert {name for name in without if decays[name]} == set()
    assert {name for name in matrices - without if not decays[name]} == set()


def test_weight_decay_where_zero3_has_taken_the_weights():
    empty = torch.nn.Parameter(torch.empty(0))
    empty.ds_shape = torch.Size([4, 3])
    assert has_weight_decay("dense.weight", empty)
    empty.ds_shape = torch.Size([4])
    assert not has_weight_decay("layer_norm.weight", empty)


def test_without_options_the_groups_are_those_of_transformers(architecture):
    """But for vectors that are no norm, of which these encoders have none."""
    model = tiny_model(architecture, "ForPreTraining")
    model.freeze("vision")
    groups = parameter_groups(model, arguments("--weight_decay", "0.1", "--learning_rate", "2e-4"))
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    for group, decays in zip(groups, (True, False), strict=True):
        names = [name for name, p in model.named_parameters() if p.requires_grad and (name in decayed) == decays]
        assert [id(p) for p in group["params"]] == [id(model.get_parameter(name)) for name in names]
        assert (group["lr"], group["weight_decay"]) == (2e-4, 0.1 if decays else 0.0)


@pytest.mark.parametrize(
    ("frozen", "argv", "message"),
    [
        (("cross_modal",), ["--cross_modal_lr_multiplier", "2"], "cross_modal_lr_multiplier: without effect"),
        (("encoder",), ["--layer_decay", "0.9"], "layer_decay: without effect, nothing below the top"),
        ((), ["--head_lr_multiplier", "2"], "head_lr_multiplier: without effect, there is no head"),
    ],
)
def test_an_option_for_a_part_that_does_not_train(architecture, frozen, argv, message):
    model = tiny_model(architecture)
    model.freeze(*frozen)
    with pytest.raises(ValueError, match=message):
        parameter_groups(model, arguments(*argv))


def test_layers_that_cannot_be_told_apart():
    text = XLMConfig(emb_dim=32, n_layers=2, n_heads=4, vocab_size=90)
    model = TwoTowerModel.from_encoders(text, tiny_vit(), cross_modal_hidden_size=16, cross_modal_heads=2)
    with pytest.raises(ValueError, match="layer_decay: the text encoder has no one list of layers"):
        rates(model, "--layer_decay", "0.9")
    model.freeze("text")
    assert min(rates(model, "--layer_decay", "0.9").values()) == pytest.approx(0.81)


#: Each schedule: its options, and the factor of the rate after a share x of the steps that follow the warm-up.
SCHEDULES = {
    "linear": ([], lambda x: 1 - x),
    "cosine": ([], lambda x: (1 + math.cos(math.pi * x)) / 2),
    "constant_with_warmup": ([], lambda x: 1),
    "polynomial": (["--polynomial_power", "2", "--end_learning_rate", "0.1"], lambda x: 0.1 + 0.9 * (1 - x) ** 2),
    "polynomial to 0": (["--end_learning_rate", "0"], lambda x: 1 - x),
    "cosine to an end": (["--end_learning_rate", "0.1"], lambda x: 0.1 + 0.9 * (1 + math.cos(math.pi * x)) / 2),
    "cosine_with_min_lr": (["--end_learning_rate", "0.2"], lambda x: 0.2 + 0.8 * (1 + math.cos(math.pi * x)) / 2),
}


@pytest.mark.parametrize("warmup", ["8", "0.2"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name, warmup):
    """The rate of every step, of a group with a multiplier too, whose end rate is as many times higher."""
    options, factor = SCHEDULES[name]
    args = arguments(
        "--lr_scheduler_type", name.split()[0], "--learning_rate", "1", "--warmup_steps", warmup, *options
    )
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in (1.0, 5.0, 0.5)], lr=1.0)
    steps, warm = 40, 8
    schedule = make_schedule(args, optimizer, args.get_warmup_steps(steps), steps)
    for step in range(steps + 1):
        expected = step / warm if step < warm else factor((step - warm) / (steps - warm))
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([expected, 5 * expected, 0.5 * expected], abs=1e-9), step
        optimizer.step()
        schedule.step()


def test_accumulation():
    assert accumulation_steps(704, 88, 1) == 8 and accumulation_steps(704, 88, 2) == 4
    assert (
        arguments("--total_batch_size", "64", "--per_device_train_batch_size", "16").gradient_accumulation_steps == 4
    )
    for total, rows, processes, near in [(700, 88, 1, "616 or 704"), (704, 88, 3, "528 or 792"), (4, 8, 1, "8")]:
        with pytest.raises(ValueError, match=rf"no multiple of {rows * processes}, .* choose {near}, or another"):
            accumulation_steps(total, rows, processes)


CONFLICTS = {
    "--head_lr_multiplier 0": "head_lr_multiplier: expected more than 0, got 0.0",
    "--layer_decay 1.1": "layer_decay: expected more than 0 and at most 1, got 1.1",
    "--layer_decay 0": "layer_decay: expected more than 0",
    "--lr_scheduler_type cosine --learning_rate 1e-4 --end_learning_rate 1e-4": r"less than learning_rate \(0.0001\)",
    "--lr_scheduler_type cosine --end_learning_rate -1": "end_learning_rate: expected at least 0",
    "--end_learning_rate 0": "end_learning_rate: without effect on lr_scheduler_type linear; choose polynomial",
    "--lr_scheduler_type constant_with_warmup --end_learning_rate 0": "without effect on lr_scheduler_type constant_w",
    "--lr_scheduler_type cosine --polynomial_power 2": "polynomial_power: without effect .* choose polynomial",
    "--lr_scheduler_type polynomial --polynomial_power 0": "polynomial_power: expected more than 0",
    '--lr_scheduler_type polynomial --polynomial_power 2 --lr_scheduler_kwargs {"power":2}': "power is what",
    '--lr_scheduler_type cosine --end_learning_rate 0 --lr_scheduler_kwargs {"min_lr":0}': "min_lr is what",
    '--lr_scheduler_type cosine --end_learning_rate 0 --lr_scheduler_kwargs {"min_lr_rate":0.1}': "does not fit",
    '--lr_scheduler_type cosine --lr_scheduler_kwargs {"power":2}': "lr_scheduler_kwargs: .*power.* does not fit",
    "--lr_scheduler_type cosine_with_min_lr": "lr_scheduler_kwargs: nothing does not fit",
    "--lr_scheduler_type cosine --lr_scheduler_kwargs power": "lr_scheduler_kwargs: expected a JSON object",
    '--lr_scheduler_type constant --lr_scheduler_kwargs {"power":2}': "lr_scheduler_kwargs: without effect",
    "--lr_scheduler_type constant --warmup_steps 3": "warmup_steps: without effect .* choose constant_with_warmup",
    "--max_steps 20 --warmup_steps 20": "training has 20 steps, so that a warm-up of 20 never reaches learning_rate",
    "--total_batch_size 20": "total_batch_size: 20 is no multiple of 8, .* choose 16 or 24",
    "--total_batch_size 0": "total_batch_size: expected at least 1, got 0",
    "--total_batch_size 8 --per_device_train_batch_size 0": "per_device_train_batch_size: expected from 1 to 16777216, got 0",
    "--total_batch_size 16 --gradient_accumulation_steps 4": "4 is given, but total_batch_size 16 asks for 2",
    "--total_batch_size 16 --auto_find_batch_size": "auto_find_batch_size changes the rows a step",
    '--total_batch_size 16 --accelerator_config {"split_batches":true}': "split_batches changes the rows a step",
}


@pytest.mark.parametrize("line", CONFLICTS)
def test_conflicts_are_refused(line):
    with pytest.raises(ValueError, match=CONFLICTS[line]):
        arguments(*line.split())


def test_a_saved_run_asks_for_the_same_again(tmp_path):
    """Also on another number of processes, so that what follows from it is not saved."""
    argv = ["--total_batch_size", "64", "--head_lr_multiplier", "5", "--cross_modal_lr_multiplier", "3"]
    argv += ["--layer_decay", "0.9", "--lr_scheduler_type", "cosine", "--end_learning_rate", "0"]
    args = arguments(*argv)
    save_arguments(recipe_of((args,)), tmp_path / "run.yaml")
    again = parse_arguments((RunArguments,), [str(tmp_path / "run.yaml")], "")[0]
    assert again.to_dict() == args.to_dict() and again.gradient_accumulation_steps == 8
    recipe = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert "gradient_accumulation_steps" not in recipe and recipe["end_learning_rate"] == 0
    changed = [str(tmp_path / "run.yaml"), "--per_device_train_batch_size", "16", "--end_learning_rate", "1e-6"]
    assert parse_arguments((RunArguments,), changed, "")[0].gradient_accumulation_steps == 4


@pytest.fixture
def still(shapes, options) -> list[str]:
    """Options of finetuning without dropout, whose loss is a mean over rows."""
    text = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).to_diff_dict()
    text = {name: value for name, value in text.items() if name.endswith(("_prob", "_size")) and name != "vocab_size"}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    argv = [*TWO_TOWER, *options, "--cross_modal_dropout", "0", "--classifier_dropout", "0", "--do_train"]
    return [*argv, "--dataset", str(shapes / "nlvr2"), "--text_overrides", str(text).replace("'", '"')]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_accumulated_batches_train_as_one_big_one(still, tmp_path):
    """With plain SGD: Adam's division would turn rounding errors of gradients near zero into steps."""
    argv = [*still, "--optim", "sgd", "--learning_rate", "0.1", "--max_steps", "4", "--cross_modal_lr_multiplier", "3"]
    for rows in ("16", "4"):
        out = ["--output_dir", str(tmp_path / rows), "--per_device_train_batch_size", rows]
        run_task(NLVR2, "", [*argv, "--total_batch_size", "16", *out])
    one, accumulated = weights(tmp_path / "16"), weights(tmp_path / "4")
    fresh = prepare(NLVR2, "", [*argv, "--output_dir", str(tmp_path / "fresh")])[0].model.state_dict()
    for name in one:
        torch.testing.assert_close(accumulated[name], one[name], atol=1e-6, rtol=0)
    assert max((one[name] - fresh[name]).abs().max().item() for name in one) > 1e-3


def test_training_reaches_its_rates(still, tmp_path):
    """An epoch-based run warms up over a share of its own steps, and each group has its rate in the optimiser."""
    argv = [
        *still,
        "--learning_rate",
        "1e-3",
        "--warmup_steps",
        "0.25",
        "--num_train_epochs",
        "2",
        "--weight_decay",
        "0.1",
    ]
    argv += ["--head_lr_multiplier", "5", "--layer_decay", "0.5", "--logging_steps", "1"]
    trainer, *_ = prepare(NLVR2, "", argv)
    trainer.train()
    assert type(trainer.optimizer.optimizer) is torch.optim.AdamW
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx([1e-3 * share for share in (0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)])
    expected = {(1e-3 * rate, decay) for rate in (5, 1, 0.5, 0.25) for decay in (0.1, 0.0)}
    found = [(group["initial_lr"], group["weight_decay"]) for group in trainer.optimizer.param_groups]
    assert set(found) == expected and len(found) == len(expected)


@pytest.mark.parametrize(
    ("clipping", "norm"), [(["--max_grad_norm", "0.01"], 0.01), ([], 1)], ids=["asked", "default"]
)
def test_gradients_are_clipped(clipping, norm, still, monkeypatch):
    argv = [*still, "--optim", "sgd", "--learning_rate", "1", "--lr_scheduler_type", "constant", "--max_steps", "1"]
    trainer, *_ = prepare(NLVR2, "", [*argv, *clipping])
    # So large a loss that its gradients are clipped either way.
    compute_loss = trainer.compute_loss
    monkeypatch.setattr(trainer, "compute_loss", lambda *args, **kwargs: 1e3 * compute_loss(*args, **kwargs))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    moved = math.sqrt(sum((after[name] - before[name]).square().sum().item() for name in before))
    assert moved == pytest.approx(norm, rel=1e-3)


RATES = ["--head_lr_multiplier", "5", "--cross_modal_lr_multiplier", "3", "--layer_decay", "0.5"]


def test_a_resumed_run_has_the_same_groups(still, tmp_path, capsys):
    argv = [
        *still,
        *RATES,
        "--max_steps",
        "6",
        "--save_steps",
        "3",
        "--learning_rate",
        "1e-2",
        "--weight_decay",
        "0.1",
    ]
    argv += ["--lr_scheduler_type", "polynomial", "--end_learning_rate", "1e-3"]
    run_task(NLVR2, "", argv)
    part = tmp_path / "part"
    part.mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-3", part / "checkpoint-3")
    for other in (["--head_lr_multiplier", "4"], ["--learning_rate", "2e-2"], ["--weight_decay", "0"]):
        with pytest.raises(SystemExit):
            run_task(NLVR2, "", [*argv, *other, "--output_dir", str(part)])
        assert "was trained with other learning rates" in capsys.readouterr().err
    run_task(NLVR2, "", [*argv, "--output_dir", str(part)])
    whole, resumed = (
        torch.load(folder / "checkpoint-6" / "optimizer.pt", weights_only=True) for folder in (tmp_path / "run", part)
    )
    assert whole["param_groups"] == resumed["param_groups"] and len(whole["param_groups"]) > 8
    for key, state in whole["state"].items():
        assert all(torch.equal(value, resumed["state"][key][name]) for name, value in state.items())
    assert all(torch.equal(value, weights(part)[name]) for name, value in weights(tmp_path / "run").items())


class Gradients(TrainerCallback):
    """Keeps the gradients of each step as the optimizer gets them, and the weights before and after it."""

    def __init__(self):
        self.gradients, self.weights = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        named = dict(model.named_parameters())
        self.gradients.append({name: each.grad.clone() for name, each in named.items() if each.grad is not None})
        self.weights.append({name: each.detach().clone() for name, each in named.items()})

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.after = {name: each.detach().clone() for name, each in model.named_parameters()}


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_plain_adam_adds_the_decay_to_the_gradient(optim, still):
    """By hand (Kingma & Ba 2015, algorithm 1) over two steps, with groups of learning rates and a frozen part."""
    argv = [*still, "--optim", optim, "--adam_coupled_decay", "--weight_decay", "0.3", "--learning_rate", "1e-3"]
    argv += [
        "--max_steps",
        "2",
        "--lr_scheduler_type",
        "constant",
        "--cross_modal_lr_multiplier",
        "5",
        "--freeze",
        "text",
    ]
    trainer, *_ = prepare(NLVR2, "", argv)
    trainer.add_callback(seen := Gradients())
    trainer.train()
    assert type(trainer.optimizer.optimizer) is torch.optim.Adam
    groups = parameter_groups(trainer.model, trainer.args)
    settings = {id(each): (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    args, checked = trainer.args, set()
    for name, parameter in trainer.model.named_parameters():
        start = seen.weights[0][name]
        if id(parameter) not in settings:
            assert torch.equal(start, seen.after[name]), name
            continue
        (rate, decay), weight, first, second = settings[id(parameter)], start.double(), 0.0, 0.0
        for step, gradients in enumerate(seen.gradients, 1):
            gradient = gradients[name].double() + decay * weight
            first = args.adam_beta1 * first + (1 - args.adam_beta1) * gradient
            second = args.adam_beta2 * second + (1 - args.adam_beta2) * gradient**2
            scale = (second / (1 - args.adam_beta2**step)).sqrt() + args.adam_epsilon
            weight = weight - rate * first / (1 - args.adam_beta1**step) / scale
        torch.testing.assert_close(seen.after[name].double(), weight, atol=1e-5, rtol=1e-4)
        checked.add((rate, decay))
    assert checked == {(1e-3, 0.3), (1e-3, 0.0), (5e-3, 0.3), (5e-3, 0.0)}


@pytest.mark.slow
def test_plain_adam_goes_on_as_itself(still, tmp_path, capsys):
    """And not from the state of AdamW, whose groups would bring back its decay."""
    argv = [*still, "--adam_coupled_decay", "--weight_decay", "0.3", "--max_steps", "4", "--save_steps", "2"]
    run_task(NLVR2, "", argv)
    part = tmp_path / "part"
    part.mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-2", part / "checkpoint-2")
    for override in ([], ["--override_run"]):
        with pytest.raises(SystemExit):
            run_task(NLVR2, "", [*argv, "--adam_coupled_decay", "false", *override, "--output_dir", str(part)])
        assert "adam_coupled_decay" in capsys.readouterr().err
    run_task(NLVR2, "", [*argv, "--output_dir", str(part)])
    assert all(torch.equal(value, weights(part)[name]) for name, value in weights(tmp_path / "run").items())
    state = torch.load(part / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert {group["decoupled_weight_decay"] for group in state["param_groups"]} == {False}


def test_warm_up_that_outlasts_training(still):
    with pytest.raises(ValueError, match="training has 4 steps, so that a warm-up of 4 never reaches learning_rate"):
        prepare(NLVR2, "", [*still, "--num_train_epochs", "1", "--warmup_steps", "4"])


def test_optimisers_that_form_their_own_groups(still):
    trainer, *_ = prepare(NLVR2, "", [*still, *RATES, "--max_steps", "1"])
    trainer.optimizer_cls_and_kwargs = torch.optim.SGD, {"lr": 0.1, "params": list(trainer.model.parameters())}
    with pytest.raises(ValueError, match="cross_modal_lr_multiplier, layer_decay: without effect on optim adamw"):
        trainer.create_optimizer()


@pytest.mark.slow
def test_two_processes_repeat_the_run_of_one(still, launch, tmp_path):
    """The saved recipe of a run on one process, run on two: half the accumulation, the same weights."""
    argv = [*still, *RATES, "--optim", "sgd", "--learning_rate", "0.1", "--max_steps", "4", "--total_batch_size", "16"]
    run_task(NLVR2, "", [*argv, "--per_device_train_batch_size", "4"])
    recipe = tmp_path / "run" / "run.yaml"
    done = launch(2, ROOT / "run_scripts" / "run_nlvr2.py", recipe, "--output_dir", tmp_path / "two")
    assert "16 rows a step" in done.errors
    two = weights(tmp_path / "two")
    for name, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0)
