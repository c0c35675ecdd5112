"""How a run loads its data: processes by machine, copies, JPEGs decoded in full, and images that are kept as pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from renaissance.processing.decoding import Resizing, decode
from renaissance.tasks import arguments as of_arguments
from renaissance.tasks.arguments import RunArguments, recipe_of
from renaissance.tasks.runner import prepare
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
