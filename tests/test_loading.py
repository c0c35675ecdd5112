"""How a run loads its data: processes by machine, copies, JPEGs decoded in full, and images that are kept as pixels."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TWO_TOWER
from PIL import Image

from renaissance.processing.decoding import Resizing, decode
from renaissance.tasks import arguments as of_arguments
from renaissance.tasks import image_cache
from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.parsing import recipe_of
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


def arguments(folder: Path, **options) -> RunArguments:
    return RunArguments(output_dir=str(folder), do_train=True, use_cpu=True, report_to="none", **options)


@pytest.mark.parametrize(
    ("cores", "given", "workers", "persistent"),
    [
        (16, {}, 15, True),
        (64, {}, 16, True),
        (1, {}, 0, False),
        (16, {"dataloader_num_workers": 3}, 3, True),
        (16, {"dataloader_num_workers": 0}, 0, False),
        (16, {"dataloader_persistent_workers": False}, 15, False),
    ],
)
def test_a_gpu_gets_processes_that_load_data(cores, given, workers, persistent, tmp_path, monkeypatch):
    monkeypatch.setattr(of_arguments, "local_cores", lambda: cores)
    monkeypatch.setattr(of_arguments, "on_cpu", lambda use_cpu: False)
    monkeypatch.setattr("renaissance.tasks.arguments.choose_precision", lambda args: "")
    args = RunArguments(output_dir=str(tmp_path), do_train=True, bf16=False, fp16=False, report_to="none", **given)
    assert (args.dataloader_num_workers, args.dataloader_persistent_workers) == (workers, persistent)
    # Another machine decides anew.
    assert recipe_of((args,)).keys() & of_arguments.RunArguments.__dataclass_fields__.keys() >= given.keys()
    assert ("dataloader_num_workers" in recipe_of((args,))) == ("dataloader_num_workers" in given)


def test_a_cpu_loads_data_itself(tmp_path):
    args = arguments(tmp_path)
    assert (args.dataloader_num_workers, args.dataloader_persistent_workers) == (0, False)
    assert arguments(tmp_path, dataloader_num_workers=2).dataloader_persistent_workers is False
    assert arguments(tmp_path, dataloader_persistent_workers=False).dataloader_num_workers == 0


def test_copies_are_not_waited_for(finished, tmp_path):
    trainer, *_, args = prepare(SNLIVE, "", [*finished[1], "--output_dir", str(tmp_path)])
    # Nothing is pinned without a GPU.
    assert not args.dataloader_pin_memory and not trainer.accelerator.non_blocking
    args.dataloader_pin_memory = True
    trainer.create_accelerator_and_postprocess()
    assert trainer.accelerator.non_blocking


def photo(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG with detail that is lost at half its size."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(buffer := io.BytesIO(), "JPEG", quality=95)
    return buffer.getvalue()


def test_jpegs_are_decoded_in_full_if_asked_for():
    from conftest import IMAGE_SIZE
    from transformers import ViTImageProcessorPil

    image_processor = ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    file = photo(256, 256)
    reduced, full = (Resizing.of(image_processor, in_full)(file) for in_full in (False, True))
    exact = Resizing.of(image_processor)(decode(file))
    assert np.array_equal(full, exact) and not np.array_equal(reduced, exact)


def test_a_run_decodes_in_full_if_asked_for(finished, tmp_path):
    argv = [*finished[1], "--output_dir", str(tmp_path)]
    assert not prepare(SNLIVE, "", argv)[0].processing_class.decode_in_full
    assert prepare(SNLIVE, "", [*argv, "--decode_in_full"])[0].processing_class.decode_in_full


#: The data of each task, and its own options.
TASKS = {
    "pretraining": (Pretraining, "captions", ["--captions_per_image", "2", "--train_datasets"]),
    "pretraining with false images of all data": (
        Pretraining,
        "captions",
        ["--itm_negatives", "random", "--train_datasets"],
    ),
    "nlvr2": (NLVR2, "nlvr2", ["--do_eval", "--dataset"]),
    "snli_ve": (SNLIVE, "snli_ve", ["--do_eval", "--dataset"]),
}


def results(name: str, shapes: Path, options: list[str], out: Path, *extra: str) -> dict[str, float]:
    """The losses and other metrics of a run, but for its speed."""
    task, folder, own = TASKS[name]
    argv = [*TWO_TOWER, *options, *own, str(shapes / folder), "--do_train", "--max_steps", "3", *extra]
    metrics = run_task(task, "", [*argv, "--output_dir", str(out)])
    return {key: value for key, value in metrics.items() if "runtime" not in key and "per_second" not in key}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_training_on_kept_pixels_is_the_same(name, shapes, options, tmp_path, monkeypatch):
    folder = ["--cache_pixels", str(tmp_path / "pixels")]
    without = results(name, shapes, options, tmp_path / "without")
    monkeypatch.setattr(image_cache, "SHARD_BYTES", 9 * 3 * 32 * 32)
    assert results(name, shapes, options, tmp_path / "first", *folder) == without
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "pixels").glob("pixels-*")}
    assert len(files) > 1
    # Nothing is decoded any more, nor written.
    monkeypatch.setattr("renaissance.processing.decoding.decode", None)
    again = results(name, shapes, options, tmp_path / "again", *folder, "--dataloader_num_workers", "2")
    assert again == without
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "pixels").glob("pixels-*")} == files


@pytest.fixture
def cached(shapes, options, tmp_path) -> list[str]:
    """The options of a run whose pixels are kept."""
    argv = [*TWO_TOWER, *options, "--dataset", str(shapes / "snli_ve"), "--do_train", "--max_steps", "1"]
    return [*argv, "--save_strategy", "no", "--cache_pixels", str(tmp_path / "pixels")]


def test_pixels_that_changed_on_the_disk_are_refused(cached, tmp_path, refused):
    prepare(SNLIVE, "", cached)
    (file,) = (tmp_path / "pixels").glob("pixels-*")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    line = refused(run_task, SNLIVE, "", cached)
    assert f"cache_pixels: {file} is not as it was written; delete this file, and its pixels are made anew" in line
    file.write_bytes(content[:200])
    assert f"{file}: a damaged file" in refused(run_task, SNLIVE, "", cached)
    file.unlink()
    prepare(SNLIVE, "", cached)
    assert file.is_file()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--image_size", "16"], "was made with other settings of the image processor (size)"),
        (["--decode_in_full"], "was made with another decode_in_full"),
    ],
)
def test_pixels_of_other_settings_are_refused(extra, message, cached, refused):
    prepare(SNLIVE, "", cached)
    assert message in refused(run_task, SNLIVE, "", [*cached, *extra])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--augmentation", "randaugment"], "use either this option or augmentation"),
        (
            ["--freeze", "vision", "--cache_frozen_features", "elsewhere"],
            "cache_frozen_features stand in for the pixels",
        ),
    ],
)
def test_pixels_that_cannot_be_kept_are_refused(extra, message, cached, refused):
    assert message in refused(run_task, SNLIVE, "", [*cached, *extra])


def test_a_disk_that_is_too_small_for_pixels(cached, refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    assert "GB are free there" in refused(run_task, SNLIVE, "", cached)
