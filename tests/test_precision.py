"""The precision of a run: what the machine is made for, unless somebody says otherwise."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import TWO_TOWER

from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.precision import choose_precision, of_machine
from renaissance.tasks.preparation import prepare


@pytest.fixture(autouse=True)
def launcher(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


@pytest.fixture
def gpu(monkeypatch):
    """A function that pretends to have a GPU, with or without bfloat16: there is none here."""

    def pretend(has_bf16: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *device: "A100" if has_bf16 else "TITAN Xp")
        # Emulation, which older GPUs have too, is slow.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_bf16
        )

    return pretend


def chosen(**given) -> tuple[bool, bool]:
    """What is chosen for arguments, as (bf16, bf16_weights, fp16)."""
    nothing = dict.fromkeys(("bf16", "bf16_weights", "fp16", "deepspeed", "fsdp"))
    args = SimpleNamespace(**(nothing | {"use_cpu": False, "optim": "adamw_torch_fused"} | given))
    choose_precision(args)
    return args.bf16, args.bf16_weights, args.fp16


BF16, WEIGHTS, FP16, FLOAT32 = (True, False, False), (False, True, False), (False, False, True), (False, False, False)


def test_the_machine_decides(gpu):
    """Of a GPU with bfloat16, that weights are in it, which is the fastest."""
    assert chosen() == FLOAT32 and of_machine(False) == ("float32", "on a CPU")
    gpu(has_bf16=True)
    assert chosen() == WEIGHTS and chosen(use_cpu=True) == FLOAT32
    assert of_machine(False) == ("bf16", "which A100 has")
    gpu(has_bf16=False)
    assert chosen() == FP16 and chosen(use_cpu=True) == FLOAT32
    assert of_machine(False) == ("fp16", "for TITAN Xp has no bfloat16")


@pytest.mark.parametrize("optim", ["galore_adamw", "apollo_adamw_layerwise", "lomo", "schedule_free_adamw"])
def test_where_weights_cannot_be_rounded_the_machine_decides_for_autocast(gpu, optim):
    gpu(has_bf16=True)
    assert chosen(optim=optim) == BF16 and chosen(fsdp="full_shard") == BF16
    with pytest.raises(ValueError, match=f"^bf16_weights: optim {optim} does not train float32 copies; give --bf16"):
        chosen(bf16_weights=True, optim=optim)
    with pytest.raises(ValueError, match=r"^bf16_weights: FSDP .* give --bf16 instead$"):
        chosen(bf16_weights=True, fsdp="full_shard")
    with pytest.raises(
        ValueError, match=r"^bf16_weights: DeepSpeed keeps its own float32 copies; give --bf16 instead$"
    ):
        chosen(bf16_weights=True, deepspeed={"zero_optimization": {"stage": 2}})


def test_the_user_decides(gpu, monkeypatch):
    assert chosen(bf16=True) == BF16 and chosen(bf16=False) == FLOAT32
    assert chosen(bf16_weights=True) == WEIGHTS and chosen(bf16_weights=False) == FLOAT32
    with pytest.raises(ValueError, match=r"^fp16: needs a GPU"):
        chosen(fp16=True)
    for pair in (("bf16", "fp16"), ("bf16", "bf16_weights"), ("bf16_weights", "fp16")):
        with pytest.raises(ValueError, match=f"^{', '.join(pair)}: a run has one precision"):
            chosen(**dict.fromkeys(pair, True))
    gpu(has_bf16=True)
    assert chosen(fp16=True) == FP16 and chosen(bf16=False) == FLOAT32 and chosen(fp16=False) == FLOAT32
    assert chosen(bf16=True) == chosen(bf16_weights=False) == BF16 and chosen(bf16=False, bf16_weights=True) == WEIGHTS
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert chosen() == FP16 and chosen(bf16=True) == BF16 and chosen(bf16=False) == FLOAT32
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert chosen() == BF16 and chosen(bf16_weights=True) == WEIGHTS
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert chosen() == WEIGHTS


@pytest.mark.parametrize("name", ["bf16", "bf16_weights"])
def test_a_gpu_without_bfloat16_is_asked_for_it(gpu, name):
    gpu(has_bf16=False)
    with pytest.raises(ValueError, match=f"^{name}: TITAN Xp has no bfloat16; leave it out for float16, or"):
        chosen(**{name: True})
    assert chosen(**{name: True}, use_cpu=True) == {"bf16": BF16, "bf16_weights": WEIGHTS}[name]


@pytest.mark.parametrize("form", ["dict", "json", "file"])
def test_deepspeed_decides(form, gpu, tmp_path):
    gpu(has_bf16=True)

    def of(**config):
        text = json.dumps(config)
        (tmp_path / "config.json").write_text(text)
        return chosen(deepspeed={"dict": config, "json": text, "file": str(tmp_path / "config.json")}[form])

    assert of(fp16={"enabled": True}) == FP16
    assert of(bf16={"enabled": False}) == FLOAT32
    assert of(bf16={"enabled": "auto"}, fp16={"enabled": "auto"}) == BF16
    assert of(zero_optimization={"stage": 2}) == BF16


def test_shipped_deepspeed_configurations_leave_it_open():
    for path in (Path(__file__).parents[1] / "run_scripts" / "deepspeed").glob("*.json"):
        config = json.loads(path.read_text())
        assert {config[name]["enabled"] for name in ("bf16", "fp16")} == {"auto"}, path


@pytest.mark.parametrize(
    ("given", "precision"),
    [
        ([], "float32"),
        (["--bf16"], "bf16"),
        (["--bf16_weights"], "bf16_weights"),
        (["--bf16", "false"], "float32"),
        (["--bf16_weights", "false"], "float32"),
        (["--fp16", "false"], "float32"),
    ],
)
def test_a_run_on_a_cpu_says_and_saves_it(given, precision, shapes, options, tmp_path, caplog, monkeypatch):
    """Also if the user has not said that it is to be on a CPU; bfloat16 then is what the model computes in."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    argv = [
        *TWO_TOWER,
        *[part for part in options if part != "--use_cpu"],
        "--dataset",
        str(shapes / "nlvr2"),
        "--do_eval",
    ]
    trainer, *_ = prepare(NLVR2, "", [*argv, *given])
    saved = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    names = ("bf16", "bf16_weights", "fp16")
    assert {name for name in names if saved[name]} == {precision} - {"float32"} and saved["use_cpu"] is False
    assert trainer.args.precision == precision and trainer.args.device.type == "cpu"
    batch = next(iter(trainer.get_eval_dataloader()))
    seen = []
    layer = next(module for module in trainer.model.modules() if isinstance(module, torch.nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.no_grad(), trainer.accelerator.autocast():
        trainer.model.eval()(**batch)
    assert set(seen) == {torch.float32 if precision == "float32" else torch.bfloat16}
    assert trainer.model.dtype == (torch.bfloat16 if precision == "bf16_weights" else torch.float32)
    words = {"bf16": "bfloat16", "bf16_weights": "bfloat16 weights", "float32": "float32"}[precision]
    chooser = "on a CPU" if given in ([], ["--bf16_weights", "false"]) else "as asked for"
    assert f"precision: {words}, {chooser}" in caplog.text


def test_a_launchers_precision_does_not_win_over_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    arguments = {"output_dir": str(tmp_path), "do_eval": True, "use_cpu": True}
    assert RunArguments(**arguments).mixed_precision == "bf16"
    assert RunArguments(**arguments, bf16=False).mixed_precision == "no"
