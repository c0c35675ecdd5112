"""Scores of pairs of images and captions, each of which is encoded once: by fusing pairs, or by vectors of each alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from ..modeling.layers import ScoreLinear
from ..modeling.outputs import EncodedText
from .data.captioned import CaptionedImages
from .progress import track


class Scorer:
    """
    Runs the trainer's model, which has a retrieval head, on images and on texts, a share on each process. With `bf16` or `fp16`, or
    `bf16_full_eval` or `fp16_full_eval`, states are in half precision, and scores in single precision all the same.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.accelerator = trainer.accelerator
        self.model = self.accelerator.unwrap_model(trainer.model).to(trainer.args.device).eval()
        self.dtype = half_precision(trainer)
        # Not in training, as in Trainer: the weights would be rounded for good.
        if not trainer.is_in_train and (trainer.args.bf16_full_eval or trainer.args.fp16_full_eval):
            cast_but_scores(self.model, self.dtype)

    def load_images(self, images: list[Any]) -> dict[str, torch.Tensor]:
        """Return the inputs of the model for images."""
        arrays = self.trainer.processing_class.process_images(images, as_uint8=True)
        return {name: torch.from_numpy(np.stack(values)) for name, values in arrays.items()}

    def load_texts(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Return the inputs of the model for texts."""
        return dict(self.trainer.processing_class.tokenize(texts, return_tensors="pt"))

    def results(self, numbers: np.ndarray, load: Callable, run: Callable) -> list[Any]:
        """Return the results of `run` on what `load` loads, batch by batch, for this process's share of `numbers` (N,)."""
        loader = DataLoader(
            self.share(numbers).tolist(),
            batch_size=self.trainer.args.per_device_eval_batch_size,
            collate_fn=load,
            num_workers=self.trainer.args.dataloader_num_workers,
        )
        with torch.no_grad(), self.autocast():
            return [
                run(**{name: value.to(self.accelerator.device) for name, value in batch.items()}) for batch in loader
            ]

    def autocast(self) -> torch.autocast:
        """Return a context in which matrices are multiplied in half precision, if the run asks for that."""
        return torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype is not None)

    def share(self, numbers: np.ndarray) -> np.ndarray:
        """Return this process's share of `numbers` (N,), of equal size everywhere: the last ones may come twice."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        return np.resize(numbers, -(-len(numbers) // world) * world)[rank::world]

    def gather(self, own: torch.Tensor, count: int) -> torch.Tensor:
        """Return, on every process, the results (S, ...) of all shares of `count` numbers, in their order."""
        everywhere = self.accelerator.gather(own).unflatten(0, (self.accelerator.num_processes, -1))
        return everywhere.transpose(0, 1).flatten(0, 1)[:count]


class VectorScorer(Scorer):
    """
    Makes the vectors of texts alone and of images alone, of a model whose vectors say how well they fit.
    """

    def text_vectors(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the vectors (T, size) of texts, on every process."""

        def load(numbers: list[int]) -> dict[str, torch.Tensor]:
            return self.load_texts([texts[number] for number in numbers])

        # Texts of similar length together, for little padding.
        order = np.argsort([len(text) for text in texts], kind="stable")
        parts = self.results(
            order, load, lambda **inputs: self.model.text_vectors(self.model.model.encode_text(**inputs))
        )
        found = self.gather(torch.cat(parts), len(texts))
        return found[torch.from_numpy(np.argsort(order)).to(found.device)]

    def image_vectors(self, image: Callable[[int], Any], count: int) -> torch.Tensor:
        """Return the vectors (I, size) of the images that `image` returns for numbers below `count`, on every process."""

        def load(numbers: list[int]) -> dict[str, torch.Tensor]:
            return self.load_images([image(number) for number in numbers])

        parts = self.results(
            np.arange(count), load, lambda **inputs: self.model.image_vectors(self.model.model.encode_image(**inputs))
        )
        return self.gather(torch.cat(parts), count)


class GridScorer(VectorScorer):
    """
    Makes the vectors of all images and captions, once; a matrix product then scores all pairs.
    """

    def __init__(self, trainer: Trainer, data: CaptionedImages):
        super().__init__(trainer)
        self.text = self.text_vectors(data.captions)
        self.image = self.image_vectors(data.image, len(data.image_ids))

    def score_grid(self, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Return the cosines (C, I) of captions (C,) and images (I,), given by number. NaN becomes the lowest number."""
        text, image = (
            vectors[torch.from_numpy(numbers).to(vectors.device)]
            for vectors, numbers in ((self.text, captions), (self.image, images))
        )
        return without_nan(text @ image.T)


class PairScorer(Scorer):
    """
    Encodes all images and captions, once, and scores any pairs of them. The encoded states stay on the device. Each process fuses
    `pairs_per_batch` pairs at a time; the default suits the device.
    """

    def __init__(self, trainer: Trainer, data: CaptionedImages, pairs_per_batch: int | None = None):
        super().__init__(trainer)
        self.pairs_per_batch = pairs_per_batch or (16 if self.accelerator.device.type == "cpu" else 512)

        def images(numbers: list[int]) -> dict[str, torch.Tensor]:
            return self.load_images([data.image(number) for number in numbers])

        def texts(numbers: list[int]) -> dict[str, torch.Tensor]:
            return self.load_texts([data.captions[number] for number in numbers])

        # Captions of similar length together, for little padding.
        order = np.argsort([len(caption) for caption in data.captions], kind="stable")
        text = self.encode(order, texts, self.model.model.encode_text)
        self.text = text.rows(torch.from_numpy(np.argsort(order)).to(text.states.device))
        self.image = self.encode(np.arange(len(data.image_ids)), images, self.model.model.encode_image)
        self.lengths = self.text.mask.sum(dim=1).cpu().numpy()

    def encode(self, numbers: np.ndarray, load: Callable, encode: Callable) -> EncodedText:
        """Return, on every process, the results of `encode` on what `load` loads, in the order of `numbers` (N,)."""
        parts = self.results(numbers, load, encode)
        longest = max(part.mask.shape[1] for part in parts)
        gathered = {}
        for name in ("states", "mask"):
            own = torch.cat([pad(getattr(part, name), longest) for part in parts])
            own = own.to(self.dtype) if self.dtype and own.is_floating_point() else own
            gathered[name] = self.gather(self.accelerator.pad_across_processes(own, dim=1), len(numbers))
        padded = any(part.padding_mask is not None or part.mask.shape[1] < longest for part in parts)
        return replace(parts[0], hidden_states=None, attentions=None, padded=padded, **gathered)

    def similarities(self, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        """
        Return the cosines (C, I) of the vectors of captions (C,) and of images (I,), of a model with
        `contrastive_size`; the work grows with C + I. NaN becomes the lowest number.
        """
        text = self.vectors(captions, lambda numbers: self.model.text_vectors(self.texts(numbers)))
        image = self.vectors(images, lambda numbers: self.model.image_vectors(self.image.rows(numbers)))
        return without_nan(text @ image.T)

    @torch.no_grad()
    def vectors(self, numbers: np.ndarray, make: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return the vectors (N, size) that `make` returns for numbers (N,), a share on each process."""
        share = torch.from_numpy(self.share(numbers)).to(self.accelerator.device)
        with self.autocast():
            own = torch.cat([make(batch) for batch in share.split(self.pairs_per_batch)])
        return self.gather(own, len(numbers))

    def score_grid(self, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Return scores (C, I) of all pairs of captions (C,) and images (I,), given by number."""
        order = np.argsort(self.lengths[captions], kind="stable")
        return self.score_in_order(captions[order, None], images[None])[np.argsort(order)]

    def score(self, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Return scores (P,) of pairs: caption captions[i] with image images[i]."""
        order = np.argsort(self.lengths[captions], kind="stable")
        return self.score_in_order(captions[order], images[order])[np.argsort(order)]

    @torch.no_grad()
    def score_in_order(self, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        """
        Return scores of pairs, in the shape that `captions` and `images` broadcast to; neighbours are scored in one
        batch. NaN becomes the lowest number.
        """
        captions, images = np.broadcast_arrays(captions, images)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = -(-captions.size // world)
        scores = torch.zeros(share, device=self.accelerator.device)
        silent = self.trainer.args.disable_tqdm or not self.accelerator.is_main_process
        starts = range(0, share, self.pairs_per_batch)
        for start in track(starts, "scoring pairs", silent):
            stop = min(start + self.pairs_per_batch, share)
            chosen = slice(rank + start * world, rank + stop * world, world)
            fused = self.score_batch(captions.flat[chosen], images.flat[chosen])
            scores[start : start + len(fused)] = fused
        return without_nan(self.gather(scores, captions.size)).reshape(captions.shape)

    def score_batch(self, captions: np.ndarray, images: np.ndarray) -> torch.Tensor:
        """Return scores (P,) of pairs, in one pass."""
        if not len(captions):
            return torch.zeros(0, device=self.accelerator.device)
        captions, images = (torch.from_numpy(numbers).to(self.accelerator.device) for numbers in (captions, images))
        with self.autocast():
            fused = self.model.model.fuse(self.texts(captions), self.image.rows(images), reads=self.model.reads)
        return self.model.score(fused.pooled)

    def texts(self, captions: torch.Tensor) -> EncodedText:
        """Return encoded captions (B,), given by number, without the padding that all have."""
        text = self.text.rows(captions)
        longest = self.trainer.processing_class.padded_length(int(text.mask.any(dim=0).nonzero().max()) + 1)
        return replace(text, states=text.states[:, :longest], mask=text.mask[:, :longest])


def cast_but_scores(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of a model, but for those of its last layers: of rounded ones, scores that differ a little would be the
    same."""
    for module in model.modules():
        if not isinstance(module, ScoreLinear):
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            for tensor in [own for own in tensors if own.is_floating_point()]:
                tensor.data = tensor.data.to(dtype)


def half_precision(trainer: Trainer) -> torch.dtype | None:
    """Return the type of states that the run asks for in evaluation; `None` for that of the model."""
    args = trainer.args
    types = {torch.bfloat16: (args.bf16, args.bf16_full_eval), torch.float16: (args.fp16, args.fp16_full_eval)}
    # A model that is training is evaluated as it is trained.
    return next(
        (kind for kind, (train, evaluate) in types.items() if train or (evaluate and not trainer.is_in_train)), None
    )


def without_nan(scores: torch.Tensor) -> np.ndarray:
    """Return scores as an array, with the lowest number for NaN."""
    return np.nan_to_num(scores.cpu().numpy(), nan=np.finfo(np.float32).min)


def pad(values: torch.Tensor, length: int) -> torch.Tensor:
    """Return `values` (B, T, ...) followed by zeros, (B, length, ...)."""
    missing = values.new_zeros(len(values), length - values.shape[1], *values.shape[2:])
    return torch.cat([values, missing], dim=1)
