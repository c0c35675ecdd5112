"""Benchmarks on a device and in a precision, tried on the CPU: memory, activity, peers, compiled sides, a whole run, all of it."""

import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, tiny_model
from datasets import Dataset, Features, Image, List, Value
from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir
from torch.autograd import DeviceType

from renaissance.benchmarks import device, everything, step
from renaissance.benchmarks.device import Activity, Place
from renaissance.benchmarks.everything import PARTS, WELL, run_part
from renaissance.benchmarks.everything import tiny as tiny_words
from renaissance.benchmarks.experiments import H100, measured_on_h100, training_cost
from renaissance.benchmarks.measure import Spread
from renaissance.benchmarks.models import VOCABULARY, BatchSettings, build_config, build_model, draw_batches, noise
from renaissance.benchmarks.peers import build_peers
from renaissance.benchmarks.report import Report
from renaissance.benchmarks.retrieval import Ranking
from renaissance.benchmarks.training import Trainee
from renaissance.commands.benchmark import build_parser, main
from renaissance.tasks.data.captioned import CaptionedImages


pytestmark = pytest.mark.usefixtures("same_threads_afterwards")


ROOT = Path(__file__).parents[1]
MEBI = 2**20


@pytest.fixture
def without_gpu():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")


def results_of(output: Path) -> dict[str, list[dict]]:
    return json.loads(output.read_text(encoding="utf-8"))["results"]


@pytest.mark.parametrize("group", ["step", "retrieval", "pretrain", "all"])
def test_a_device_that_is_not_there_is_one_line(group, without_gpu, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([group, "--device", "cuda"])
    errors = capsys.readouterr().err
    assert stopped.value.code == 2 and errors.count("\n") == 1
    assert "--device cuda: torch finds no CUDA device on this machine; use --device cpu" in errors


def test_a_gpu_without_bfloat16_is_told_so(monkeypatch):
    """As of the paper's cards, of which none is here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "TITAN Xp")
    with pytest.raises(ValueError, match="--precision bf16: TITAN Xp has no bfloat16; use --precision float32"):
        Place(torch.device("cuda"), "bf16")
    assert Place(torch.device("cuda"), "float32").is_cuda


def test_peak_memory_is_that_of_tensors_above_those_before():
    held = torch.ones(MEBI)

    def call():
        first = held * 2
        second = first + 1
        del first
        return (second * 3).sum()

    # Two of 4 MiB at a time, and the sum.
    assert 8 * MEBI <= Place().rise(call) <= 8 * MEBI + 4096
    assert Place().rise(lambda: None) == 0


def test_peak_of_a_step_has_weights_gradients_and_moments():
    model = torch.nn.Linear(1000, 1000)

    class Losing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, values):
            return {"loss": self.model(values).mean()}

    trainee = Trainee(Losing(), [{"values": torch.ones(2, 1000)}])
    trainee.run(0)
    weights = sum(p.nbytes for p in model.parameters())
    assert 4 * weights <= trainee.peak(0) <= 5.1 * weights


def event(name: str, start: float, end: float, kind=DeviceType.CUDA, annotation: bool = False) -> SimpleNamespace:
    times = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=times, device_type=kind, is_user_annotation=annotation)


def test_activity_of_a_gpu():
    """Kernels that run side by side are busy once; annotations are no work; waits of the measurement itself don't count."""
    events = [
        event("gemm", 0, 10),
        event("gelu", 5, 12),
        event("Memcpy HtoD", 20, 21),
        event("Memset (Device)", 30, 30.5),
        event("Optimizer.step#AdamW.step", 0, 100, annotation=True),
        event("cudaStreamSynchronize", 0, 50, DeviceType.CPU),
        event("cudaDeviceSynchronize", 50, 60, DeviceType.CPU),
        event("aten::mm", 0, 50, DeviceType.CPU),
    ]
    assert Activity.of(events) == Activity(kernels=2, events=4, waits=1, seconds=pytest.approx(13.5e-6))


@pytest.mark.parametrize("name", ["tiny", "tiny-one-tower"])
def test_peers_train_on_both_objectives_at_our_sizes(name):
    config = build_config(name)
    _, (batch,) = draw_batches(BatchSettings(2), 1)
    built = build_peers(config)
    assert list(built) == (["LXMERT", "BridgeTower"] if name == "tiny" else ["ViLT"])
    for kind, peer in built.items():
        loss = peer(**batch)["loss"]
        loss.backward()
        # A guess over the vocabulary, and one of two.
        assert abs(loss.item() - math.log(VOCABULARY) - math.log(2)) < 1, kind
        unread = [each for each, value in peer.named_parameters() if value.grad is None]
        assert len(unread) <= 0.1 * len(list(peer.parameters())), (kind, unread)
        others = peer(**batch | {"mlm_labels": torch.where(batch["mlm_labels"] == -100, -100, 7)})["loss"]
        match, none = (
            peer(**batch | {"itm_labels": torch.full_like(batch["itm_labels"], label)})["loss"] for label in (1, 0)
        )
        assert abs(others - loss) > 1e-3 and abs(match - none) > 1e-4, kind
        widths = {module.normalized_shape[0] for module in peer.modules() if isinstance(module, torch.nn.LayerNorm)}
        assert widths == {64}, kind


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "bf16_weights"])
def test_steps_are_counted_in_bfloat16(precision, tmp_path):
    output = tmp_path / "step.json"
    options = ["--models", "tiny", "--variants", "full", "--batch_size", "2", "--runs", "1", "--precision", precision]
    main(["step", *options, "--threads", "--output", str(output)])
    ((title, rows),) = results_of(output).items()
    assert title == f"Operations of a step, cpu, {precision}"
    reference, ours = rows
    assert ours["operations"] < reference["operations"] / 1.5 and ours["synchronisations"] == 0
    assert 1e-6 < ours["largest difference of losses and logits"] < 0.1, "rounded to 8 bits on both sides"
    assert ours["GFLOP a sample"] == pytest.approx(reference["GFLOP a sample"] / ours["reference's over it"])


def test_rounded_weights_train():
    """The master copies take in a step, and the weights are those copies, rounded."""
    model = build_model("tiny")
    ours, _ = draw_batches(BatchSettings(2), 1)
    trainee = Trainee(model, ours, Place(precision="bf16_weights"))
    before = trainee.output(0)["loss"].item()
    for _ in range(3):
        trainee.run(0)
    assert trainee.output(0)["loss"].item() < before
    weight = model.base_model.text_encoder.get_input_embeddings().weight
    master = trainee.masters.of(weight)
    assert weight.dtype == torch.bfloat16 and master.dtype == torch.float32 and torch.equal(weight, master.bfloat16())


def test_ranking_in_bfloat16(processor):
    mean, deviation = processor.pixel_statistics
    model = tiny_model("two-tower", "ForImageTextRetrieval", pixel_mean=mean, pixel_deviation=deviation)
    rng = np.random.default_rng(0)
    rows = [{"image": noise(IMAGE_SIZE, rng), "captions": ["red circle", f"{number}"]} for number in range(4)]
    features = Features({"image": Image(), "captions": List(Value("string"))})
    data = CaptionedImages(Dataset.from_list(rows, features=features), "drawn")
    ranking = Ranking(model, processor, data, place=Place(precision="bf16"))
    args = SimpleNamespace(seed=0, runs=1, pairs=8, rerank_top_k=[])
    report = Report("retrieval", {})
    ranking.compare(args, report)
    ranking.agreement(args, report)
    (through, once), (agreement,) = (table.rows for table in report.tables)
    assert once["pairs/s"] == pytest.approx(1000 / once["ms a pair"].median)
    assert through["pairs ranked"] == 8 and once["pairs ranked"] == 32
    assert agreement["largest difference"] < 0.05
    scores = [each.through_everything(np.arange(8)) for each in (ranking, Ranking(model, processor, data))]
    assert scores[0].dtype == torch.float32 and 1e-4 < (scores[0] - scores[1]).abs().max() < 0.5


def test_cost_of_an_experiment():
    assert training_cost(7200, 2.0, 350.0) == (1.0, 0.35)
    rate = next(rate for rate in measured_on_h100() if (rate.model, rate.batch, rate.side) == ("small", 352, "ours"))
    assert rate.samples_per_second == pytest.approx(2361, abs=1)


def test_costs_of_the_docs_are_those_of_the_command(capsys):
    """Each row of the table of GPU-hours, as the page has it."""
    main(["experiments"])
    printed = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    section = (
        (ROOT / "docs/performance_gpu.md").read_text().split("\n## The paper's experiments\n")[1].split("\n## ")[0]
    )
    shown = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
    cells = [[[cell.strip() for cell in row] for row in table] for table in (printed, shown)]
    assert cells[0] == cells[1] and len(cells[0]) == 1 + 3 * len(H100)


def test_costs_from_measured_rates(tmp_path, capsys):
    """Power that was measured wins over the option; tiny models are left out; a file without rates is one line."""
    row = {"model": "small", "variant": "full", "batch": 88, "side": "ours", "samples/s": 1000.0, "watts": 500.0}
    rows = [row, row | {"watts": None, "side": "reference"}, row | {"model": "tiny"}]
    file, output = tmp_path / "step.json", tmp_path / "costs.json"
    file.write_text(json.dumps({"results": {"Cost of a step, cuda, bf16": rows, "Parts": [{"part": "x"}]}}))
    main(["experiments", "--rates", str(file), "--watts", "300", "--output", str(output)])
    ours, reference = results_of(output)["The paper's experiments on one GPU"]
    assert ours["GPU-hours"] == pytest.approx(70_400_000 / 1000 / 3600)
    assert ours["kWh"] == pytest.approx(0.5 * ours["GPU-hours"])
    assert reference["kWh"] == pytest.approx(0.3 * ours["GPU-hours"])
    capsys.readouterr()
    wrong = {"Cost of a step, cpu, float32": rows}, {"Cost of a step, cuda, bf16": [{"model": "small"}]}, [1]
    for content in wrong:
        file.write_text(json.dumps({"results": content}))
        with pytest.raises(SystemExit) as stopped:
            main(["experiments", "--rates", str(file)])
        errors = capsys.readouterr().err
        assert stopped.value.code == 2 and f"--rates: {file}" in errors and errors.count("\n") == 1


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_parts_are_command_lines(part):
    for words in (list(part.words), tiny_words([*part.words, "--device", "cpu"])):
        args = build_parser().parse_args(words)
        assert args.group == part.words[0]
    assert "tiny" in " ".join(words) and part.seconds <= 180


def test_parts_come_in_order_of_worth():
    """First each step that was measured on an H100, made as fast as it can be."""
    first = [part.words for part in PARTS[: len(H100)]]
    assert {(words[2], words[4], int(words[6])) for words in first} == set(H100)
    assert all({"--compile", "--cuda_graphs"} < set(words) for words in first)


def test_a_part_that_hangs_or_fails_costs_only_itself():
    assert run_part(["benchmark", "all", "--tiny", "--device", "cpu"], 0.5) == "after its limit of 0 s"
    ended = run_part(["benchmark", "step", "--models", "giant"], 60)
    assert re.match("with code 2: .* error: argument --models: invalid choice: 'giant'", ended)
    assert run_part(["--version"], 60) == WELL


def test_what_is_measured_is_written_at_once(tmp_path):
    file = tmp_path / "costs.json"
    report = Report("step", {"models": ["small"]}, file)
    report.table("Phases of a step")
    for number in range(2):
        report.table("Cost of a step").add({"ms": Spread(1.0, 2.0, 3.0), "number": number})
        written = json.loads(file.read_text())
        assert written["options"] == {"models": ["small"]} and written["environment"]["torch"] == torch.__version__
        rows = [{"ms": {"min": 1.0, "median": 2.0, "max": 3.0}, "number": each} for each in range(number + 1)]
        assert written["results"] == {"Cost of a step": rows}, "a table without rows is left out"
    assert [each.name for each in tmp_path.iterdir()] == ["costs.json"]


def test_a_part_that_fails_keeps_the_rows_that_it_has(tmp_path, monkeypatch, capsys):
    """The parts behind it run, and everything is in the file when each begins."""
    output = tmp_path / "all.json"
    words = ["benchmark", "step", "--models", "giant"], ["benchmark", "step", "--runs", "0"], ["--version"]

    def command(part, args, own):
        number = int(part.name)
        before = results_of(output) if output.exists() else {}
        row = {
            "model": number,
            "before": len(before.get("Parts", [])),
            "times faster": {"min": 1, "median": 2, "max": 3},
        }
        if number:
            own.write_text(json.dumps({"results": {"Cost of a step, cuda, bf16": [row]}}))
        return words[number]

    monkeypatch.setattr(everything, "PARTS", [everything.Part(str(number), 60, ()) for number in range(3)])
    monkeypatch.setattr(everything, "command", command)
    main(["all", "--tiny", "--device", "cpu", "--precision", "float32", "--output", str(output)])
    results = results_of(output)
    first, second, third = (row["ended"] for row in results["Parts"])
    assert "'giant'" in first and "--runs" in second and third == WELL
    costs = results["Cost of a step, cuda, bf16"]
    assert [(row["part"], row["model"], row["before"]) for row in costs] == [("1", 1, 1), ("2", 2, 2)]
    short = results["In short: cost of a step, cuda, bf16"]
    assert short == [{"part": str(number), "model": number, "times faster": 2} for number in (1, 2)]
    assert second.removeprefix("with code 2: ") in capsys.readouterr().err


def test_kernels_of_earlier_runs_are_not_found(monkeypatch):
    """Compiling names torch's folder of kernels in the environment, also when it is tried whether a backend runs here."""
    used = []
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(step, "check_backend", lambda *args: cache_dir())
    monkeypatch.setattr(step.Comparison, "__init__", lambda *args: None)
    monkeypatch.setattr(
        step.Comparison, "measure", lambda self, table, *others: table.add({"kernels": used.append(cache_dir())})
    )
    main(["step", "--models", "tiny", "--variants", "full", "vision frozen", "--compile"])
    assert len({*used, default_cache_dir()}) == 3
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_one_of_several_gpus_is_measured(monkeypatch):
    """A run refuses several in one process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    args = SimpleNamespace(device="cuda", precision="float32")
    for visible, used in (("3,1", "3"), ("GPU-7,GPU-8", "GPU-7"), ("", ""), ("2", "2")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert Place.of(args).is_cuda and os.environ["CUDA_VISIBLE_DEVICES"] == used
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    Place.of(args)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_sensor_that_does_not_tell_ends_nothing(monkeypatch):
    """The driver's library has errors of its own."""

    class NotSupported(Exception):
        pass

    def power_draw(device):
        raise NotSupported

    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "power_draw", power_draw)
    monkeypatch.setattr(device, "POWER_SECONDS", 0.01)
    assert Place().power(lambda: calls.append(1)) is None and calls
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 350_000)
    assert Place().power(lambda: None) == 350.0


@pytest.mark.slow
def test_compiled_sides(tmp_path):
    """Layers compiled by a backend that generates no code: a graph or more each, no break, and costs of all sides."""
    output = tmp_path / "step.json"
    options = ["--models", "tiny", "--variants", "full", "--batch_size", "4", "--runs", "2", "--threads", "1"]
    main(["step", *options, "--compile", "aot_eager", "--compile_reference", "--output", str(output)])
    results = results_of(output)
    compiled = {row["side"]: row for row in results["Compilation, cpu, float32"]}
    assert list(compiled) == ["reference, compiled", "ours, compiled"]
    assert all(1 <= row["graphs"] <= 8 and row["graph breaks"] == 0 for row in compiled.values())
    costs = {row["side"]: row for row in results["Cost of a step, cpu, float32"]}
    assert list(costs) == ["reference", "ours", *compiled]
    assert costs["ours"]["peak MiB"] < costs["reference"]["peak MiB"]
    assert {side: row["first pass, s"] is not None for side, row in costs.items()} == {
        "reference": True, "ours": True, "reference, compiled": False, "ours, compiled": False,
    }  # fmt: skip
    assert {row["phase"] for row in results["Phases of a step, cpu, float32"]} == {
        "forward", "backward", "clipping", "optimizer",
    }  # fmt: skip


@pytest.mark.slow
def test_a_whole_run_against_the_step(tmp_path):
    output = tmp_path / "run.json"
    options = ["--model", "tiny", "--num_images", "8", "--batch_size", "4", "--steps", "8", "--workers", "1"]
    main(["pretrain", *options, "--runs", "2", "--output", str(output)])
    ((_, (row,)),) = results_of(output).items()
    assert row["run over step"] == pytest.approx(row["samples/s, run"] / row["samples/s, step alone"])
    assert row["samples/s, run"] > 0


@pytest.mark.slow
def test_all_of_it_with_tiny_models(tmp_path, capsys):
    output = tmp_path / "all.json"
    options = ["--tiny", "--device", "cpu", "--precision", "float32", "--runs", "1", "--minutes", "60"]
    main(["all", *options, "--output", str(output)])
    results = results_of(output)
    assert {row["part"]: row["ended"] for row in results["Parts"]} == {part.name: WELL for part in PARTS}
    short = results["In short: cost of a step, cpu, float32"]
    assert {row["side"] for row in short} > {"reference", "ours", "ours, compiled", "LXMERT", "BridgeTower", "ViLT"}
    assert re.search(r"In short: a whole run and the step alone, cpu, float32\n", capsys.readouterr().out)


def test_without_time_nothing_is_begun(tmp_path, capsys):
    output = tmp_path / "all.json"
    main(["all", "--tiny", "--device", "cpu", "--minutes", "0.01", "--output", str(output)])
    assert [row["ended"] for row in results_of(output)["Parts"]] == ["no time left"] * len(PARTS)


def test_stand_ins_have_the_variants_of_what_they_stand_for(capsys):
    with pytest.raises(SystemExit):
        main(["step", "--models", "tiny-one-tower", "--variants", "vision frozen", "--threads"])
    assert "--variants: tiny-one-tower is not measured in any of these" in capsys.readouterr().err
    assert build_model("tiny", ("vision",)).config.frozen == ["vision"]
