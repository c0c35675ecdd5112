"""
Every training argument of transformers either works here, or is refused, or warned of: none is silently without effect.

A field that is new in transformers fails the first test. Find out what it does here, and put it where it belongs: into `WORKING`, or
into one of the tables of tasks/argument_checks.py.
"""

import dataclasses
import logging
from collections.abc import Iterable

import pytest
from conftest import TWO_TOWER
from transformers import TrainingArguments

from renaissance.modeling.fields import Interval
from renaissance.tasks import preparation
from renaissance.tasks.argument_checks import BETTER_WITH, BOUNDS, FIXED, NEEDED, OF_ADAM, check_machine
from renaissance_cli.main import main


#: Arguments that have the effect that transformers describes, whatever the others are.
WORKING = [
    "output_dir",
    "do_train",
    "do_eval",
    "do_predict",
    "seed",
    "data_seed",
    "full_determinism",
    "use_cpu",
    "accelerator_config",
    "deepspeed",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "auto_find_batch_size",
    "gradient_accumulation_steps",
    "average_tokens_across_devices",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
    "tf32",
    "activation_checkpointing",
    "gradient_checkpointing",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "logging_strategy",
    "log_on_each_node",
    "logging_nan_inf_filter",
    "log_level",
    "log_level_replica",
    "disable_tqdm",
    "report_to",
    "eval_strategy",
    "eval_accumulation_steps",
    "skip_memory_metrics",
    "save_strategy",
    "save_on_each_node",
    "load_best_model_at_end",
    "ignore_data_skip",
    "push_to_hub",
    "hub_token",
    "dataloader_drop_last",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "train_sampling_strategy",
]

#: Arguments that are checked one by one, or whose type has no value that a command line could give.
CHECKED = {
    "local_rank": "refused if it is not what the launcher says",
    "include_num_input_tokens_seen": "refused",
    "parallelism_config": "refused: it is an object, not a text",
}


def test_every_argument_is_classified():
    fields = {each.name for each in dataclasses.fields(TrainingArguments) if each.init}
    tables = {*FIXED, *NEEDED, *BETTER_WITH, *OF_ADAM, *CHECKED}
    ours = {"resume_partial", "override_run", "max_flops"}
    assert fields - tables - {*WORKING} == set(), "new in transformers: find out what they do here"
    assert (tables | {*WORKING} | {*BOUNDS}) - fields - ours == set(), "gone from transformers"
    assert tables & {*WORKING} == set() and len(WORKING) == len({*WORKING})


@pytest.mark.slow
def test_bounds_are_of_numbers_whose_default_is_allowed():
    known = TrainingArguments.__dataclass_fields__
    # A default that is out of bounds is a word for something else, such as -1 for the steps of all epochs.
    defaults = {name: known[name].default for name in BOUNDS}
    outside = {
        name: value
        for name, value in defaults.items()
        if value is not None and value not in Interval.read(BOUNDS[name])
    }
    assert outside == {"max_steps": -1}


def one_in(every: int, names: Iterable[str]) -> list:
    """The names, of which one in `every` is of a quick test."""
    return [pytest.param(name, marks=[pytest.mark.slow] * bool(n % every)) for n, name in enumerate(names)]


class Reached(Exception):
    """A run came to its data."""


@pytest.fixture
def warnings_of(monkeypatch, tmp_path, tokenizer_folder, caplog):
    """Begins a command, up to where it would read data; returns what it warned of."""

    def reached(*args, **kwargs):
        raise Reached

    monkeypatch.setattr(preparation, "load_data", reached)
    options = ["--output_dir", str(tmp_path / "run"), "--tokenizer", str(tokenizer_folder), "--dataset", "nowhere"]

    def begin(*words: str, task: str = "nlvr2") -> list[str]:
        caplog.clear()
        with pytest.raises(Reached):
            main([task, *TWO_TOWER, *options, "--do_train", "--use_cpu", *words])
        return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]

    logger = logging.getLogger("renaissance")
    before = logger.level
    yield begin
    # Of other tests as well.
    logger.setLevel(before)


def test_a_plain_command_warns_of_nothing(warnings_of):
    assert warnings_of() == []


#: Options without effect that are warned of, with the option that they would need, and with which they are not.
IDLE = {
    "eval_steps=5": "eval_strategy=steps",
    "eval_delay=5": "eval_strategy=epoch",
    "logging_steps=5": ("logging_strategy=no", "logging_strategy=steps"),
    "logging_first_step=true": ("logging_strategy=no", "logging_strategy=epoch"),
    "save_steps=5": ("save_strategy=epoch", "save_strategy=steps"),
    "save_total_limit=2": ("save_strategy=no", "save_strategy=epoch"),
    "save_only_model=true": ("save_strategy=no", "save_strategy=epoch"),
    "bf16_full_eval=true": "do_eval=true",
    "run_name=x": "report_to=tensorboard",
    "project=x": "report_to=trackio",
    "adam_beta1=0.5": ("optim=sgd", "optim=adamw_torch"),
    "adam_beta2=0.5": ("optim=rmsprop", "optim=adamw_torch_fused"),
    "adam_epsilon=1e-6": ("optim=adagrad", "optim=adamw_torch"),
    "metric_for_best_model=accuracy": "load_best_model_at_end=true --eval_strategy=epoch --save_strategy=epoch",
    "greater_is_better=true": "load_best_model_at_end=true --eval_strategy=epoch --save_strategy=epoch",
}


@pytest.mark.parametrize("option", one_in(5, IDLE))
def test_options_that_need_another_are_warned_of(option, warnings_of):
    without, needed = IDLE[option] if isinstance(IDLE[option], tuple) else ("", IDLE[option])
    name, words = option.partition("=")[0], [f"--{option}"]
    found = warnings_of(*words, *[f"--{without}"] * bool(without))
    assert [each.partition(":")[0] for each in found] == [name] and "without effect" in found[0]
    if needed == "report_to=trackio":
        pytest.importorskip("trackio", reason="trackio is an extra")
    assert not [each for each in warnings_of(*words, *f"--{needed}".split()) if each.startswith(name)]


ALONE = (
    "ddp_find_unused_parameters=true", "ddp_bucket_cap_mb=5", "ddp_broadcast_buffers=true", "ddp_static_graph=true", "ddp_timeout=30",
    "torch_empty_cache_steps=2", "hub_model_id=me/x", "hub_private_repo=true", "hub_always_push=true", "hub_revision=x",
    "hub_strategy=end",
)  # fmt: skip


@pytest.mark.parametrize("option", one_in(5, ALONE))
def test_options_of_other_machines_and_of_the_hub_are_warned_of(option, warnings_of):
    found = warnings_of(f"--{option}")
    assert [each.partition(":")[0] for each in found] == [option.partition("=")[0]] and "without effect" in found[0]


@pytest.mark.slow
@pytest.mark.parametrize("option", ["resume_partial", "override_run", "eval_on_start"])
def test_options_of_training_are_warned_of_without_it(option, warnings_of):
    found = warnings_of("--do_train=false", "--do_eval", f"--{option}=true")
    assert [each for each in found if each.startswith(f"{option}: without effect without do_train")]


@pytest.mark.parametrize(
    ("words", "level"), [([], "INFO"), (["--log_level=debug"], "DEBUG"), (["--log_level=error"], "ERROR")]
)
def test_the_log_has_the_level_that_is_asked_for(words, level, warnings_of):
    warnings_of(*words)
    assert logging.getLevelName(logging.getLogger("renaissance").level) == level


def test_the_rank_of_a_launcher_is_taken(monkeypatch, tmp_path):
    """DeepSpeed's launcher says it as an option and as a variable."""
    args = TrainingArguments(str(tmp_path), local_rank=1, use_cpu=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    check_machine(args)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match="local_rank: without effect"):
        check_machine(args)
