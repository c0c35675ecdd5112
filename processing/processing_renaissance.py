"""The processor of Renaissance models: a tokenizer and an image processor."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    BatchEncoding,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.image_utils import SizeDict
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging

from .decoding import (
    LONGEST_RATIO,
    MAX_PIXELS,
    ReadyPixels,
    Resizing,
    UnusableRow,
    check_settings,
    is_feature,
    middle,
    to_rgb,
)
from .pillow import plain_steps, with_pillow
from .pixel_arrays import is_array
from .regions import crop_boxes
from .texts import ones_like, well_formed
from .transforms import make_transform


logger = logging.get_logger(__name__)

#: The same as `LONGEST_RATIO` for image processors that pad: ViLT's shrinks a longer image until nothing is left of its
#: shorter side.
PADDED_RATIO = 16

#: Side in pixels of an image without content, if an image processor names no size.
FALLBACK_SIDE = 224

#: Options in groups, as tools give them to any processor of transformers. There is nothing here that reads sounds or videos.
OPTION_GROUPS = ("text_kwargs", "images_kwargs", "audio_kwargs", "videos_kwargs")


class RenaissanceProcessor(ProcessorMixin):
    r"""
    Makes model inputs out of text and images.

    Args:
        image_processor: Resizes and normalises images. One of transformers that computes with torchvision is replaced by its like
            that computes with Pillow (see `with_pillow`), so that pixels are the same whether torchvision is installed or not.
        tokenizer: Cuts text into tokens, and truncates it at `model_max_length`. It is made to pad on the right; a
            tokenizer without a padding token uses its end-of-text token.

    Raises:
        ValueError: If the tokenizer has no vocabulary, or neither a padding token nor an end-of-text token.

    Example:

    ```python
    >>> processor = RenaissanceProcessor.from_encoders(text="bert-base-uncased", vision="google/vit-base-patch16-224")
    >>> inputs = processor(images=image, text="a dog on a lawn", return_tensors="pt")
    >>> pairs = processor(images=[[left, right]], text=["both dogs sleep"], return_tensors="pt")
    >>> pairs["pixel_values"].shape  # (batch, images a text, channels, height, width)
    ```
    """

    def __init__(self, image_processor, tokenizer):
        super().__init__(with_pillow(image_processor), tokenizer)
        check_settings(self.image_processor)
        #: Largest number of pixels of an image. It belongs to a run, and is not saved.
        self.max_image_pixels = MAX_PIXELS
        #: Whether large JPEGs are decoded in full. This belongs to a run too.
        self.decode_in_full = False
        #: Texts are padded to the next of these numbers of tokens or, if there are none, to a multiple of `length_multiple`, but not
        #: beyond the longest text that is allowed. Both belong to a run, and are not saved.
        self.text_buckets: Sequence[int] = ()
        self.length_multiple = 1
        #: Whether the user was told that a text was cut.
        self.truncation_reported = False
        # Tokenizers of models that generate text pad on the left, or have no padding token.
        # transformers makes an empty one of a folder that has lost its vocabulary, to which every text is the same.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            fault = f"no words beside the special tokens, of which it has {len(tokenizer)}"
            raise ValueError(
                f"{type(tokenizer).__name__} {tokenizer.name_or_path} has {fault}; its vocabulary is missing"
            )
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                fault = "neither a padding token nor an end-of-text token to pad with: set its pad_token"
                raise ValueError(f"{type(tokenizer).__name__} has {fault}")
            tokenizer.pad_token = tokenizer.eos_token
            logger.info(f"The tokenizer has no padding token: {tokenizer.eos_token} is used, and masked")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs) -> "RenaissanceProcessor":
        """`ProcessorMixin.from_pretrained`, which runs no code of the tokenizer or image processor unless `trust_remote_code` says so."""
        # False, not unset: transformers would ask, and a script would answer.
        kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_encoders(
        cls,
        text: str | PreTrainedConfig | PreTrainedTokenizerBase,
        vision: str | PreTrainedConfig | BaseImageProcessor | None = None,
        image_size: int | None = None,
        max_length: int | None = None,
        image_transform: str | None = None,
    ) -> "RenaissanceProcessor":
        """
        Return the processor that fits a model built from two encoders.

        Args:
            text: Hub id or folder of the tokenizer, the tokenizer itself, or a configuration that was loaded from one of the former.
            vision: Hub id or folder of the image processor, that itself, or a configuration, whose `image_size` is taken. If the
                images of an image processor differ in size, they are stretched to a square and normalised as it does. Without one,
                they are stretched to a square and normalised to [-1, 1], as for ViT.
            image_size: Height and width of the images in pixels; the image processor's own by default.
            max_length: Maximum number of tokens of a text; the tokenizer's own by default.
            image_transform: One of `transforms.TRANSFORMS`, in place of the image processor, whose size it keeps.

        Raises:
            ValueError: If there is no tokenizer at `text`.
        """
        tokenizer, image_processor = cls.load_tokenizer(text), cls.load_image_processor(vision)
        if image_size is None and isinstance(vision, PreTrainedConfig):
            image_size = square_side(getattr(vision, "image_size", None))
        if image_processor is None:
            image_processor = ViTImageProcessorPil()
            logger.info("The vision encoder has no image processor: images become squares, mean and std 0.5")
        processor = cls(image_processor, tokenizer)
        image_processor = processor.image_processor
        if not processor.makes_one_size():
            mean, std = image_processor.image_mean, image_processor.image_std
            processor.image_processor = ViTImageProcessorPil(image_mean=mean, image_std=std)
            logger.info(f"{type(image_processor).__name__} makes no images of one size: they become squares")
        processor.configure(image_size, max_length, image_transform)
        return processor

    @staticmethod
    def load_tokenizer(
        text: str | PreTrainedConfig | PreTrainedTokenizerBase, trust_remote_code: bool = False, **kwargs
    ) -> PreTrainedTokenizerBase:
        """
        Return the tokenizer of a text encoder; raise `ValueError` if it has none. `kwargs` are those of
        `AutoTokenizer.from_pretrained`, such as `revision`.
        """
        if isinstance(text, PreTrainedTokenizerBase):
            return text
        name = text.name_or_path if isinstance(text, PreTrainedConfig) else text
        if not name:
            fault = f"a {type(text).__name__} that was not loaded from a checkpoint has no tokenizer"
            raise ValueError(f"text: {fault}; pass the tokenizer, its Hub id or its folder")
        try:
            return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **kwargs)
        except (OSError, ValueError, RecursionError) as error:
            if "trust_remote_code" in str(error):
                raise ValueError(
                    f"the tokenizer at {name!r} runs code of its own; trust_remote_code allows it"
                ) from error
            raise ValueError(f"no tokenizer at {name!r}: expected a Hub id or a folder that has one") from error

    @staticmethod
    def load_image_processor(
        vision: str | PreTrainedConfig | BaseImageProcessor | None, trust_remote_code: bool = False, **kwargs
    ) -> BaseImageProcessor | None:
        """
        Return the image processor of a vision encoder; `None` if it has none. `kwargs` are those of
        `AutoImageProcessor.from_pretrained`, such as `revision`.
        """
        if isinstance(vision, BaseImageProcessor):
            return vision
        name = vision.name_or_path if isinstance(vision, PreTrainedConfig) else vision
        if not name:
            return None
        try:
            return AutoImageProcessor.from_pretrained(
                name, backend="pil", trust_remote_code=trust_remote_code, **kwargs
            )
        except (ImportError, OSError, ValueError, RecursionError) as error:
            if "trust_remote_code" in str(error):
                raise ValueError(
                    f"the image processor at {name!r} runs code of its own; trust_remote_code allows it"
                ) from error
        try:
            return plain_steps(BaseImageProcessor.get_image_processor_dict(name, **kwargs)[0])
        except (OSError, ValueError, RecursionError):
            return None

    def fit(self, model: PreTrainedModel, keep_image_size: bool = False) -> "RenaissanceProcessor":
        """
        Fit the processor to a model: set the limit of its texts, and the size of its images unless `keep_image_size`. Give the model
        the mean and deviation of pixels, by which it normalises the pixels of 8 bits that collators make. Return the processor.

        Raises:
            ValueError: If the tokenizer has more word pieces than the model, or the images cannot be cut into its patches.
        """
        vocab_size = model.get_input_embeddings().num_embeddings
        if len(self.tokenizer) > vocab_size:
            raise ValueError(f"tokenizer: has {len(self.tokenizer)} word pieces, the model embeds only {vocab_size}")
        if (limit := model.base_model.text_limit) is not None:
            self.configure(max_length=min(self.tokenizer.model_max_length, limit))
        size = square_side(getattr(model.config, "image_size", None))
        if size and not keep_image_size and self.image_shape != (size, size):
            self.configure(image_size=size)
        model.config.pixel_mean, model.config.pixel_deviation = self.pixel_statistics or (None, None)
        shape, patch = self.image_shape, model.base_model.patch_size
        if shape and patch and (shape[0] % patch[0] or shape[1] % patch[1]):
            fault = f"images of {shape[0]}x{shape[1]} pixels cannot be cut into patches of {patch[0]}x{patch[1]}"
            raise ValueError(f"image_size: {fault}; choose a multiple of {patch[0]}")
        self.check_padding(model.config)
        return self

    def check_padding(self, config: PreTrainedConfig) -> None:
        """Raise `ValueError` if the image processor keeps the aspect ratio and pads, and a model of `config` cannot take that."""
        divisor = getattr(self.image_processor, "size_divisor", None)
        if not divisor:
            return
        if not config.takes_padded_images:
            fault = f"the image processor pads images, which a {config.model_type.removeprefix('renaissance-')} model cannot take"
            raise ValueError(f"image_transform: {fault}; choose vit, imagenet or clip")
        sides = f"sides of images are multiples of {divisor} pixels"
        # There are no patches if feature maps take their place.
        if divisor % (patch := config.patch_size or divisor):
            raise ValueError(
                f"image_transform: {sides}, which cannot be cut into patches of {patch}x{patch}; choose another"
            )
        if (shorter := self.image_processor.size.shortest_edge) < divisor:
            raise ValueError(f"image_size: {sides}, and the shorter one has {shorter}; choose at least {divisor}")

    def makes_one_size(self) -> bool:
        """Return whether images of any size become pixels (C, H, W) of one size that can be chosen, padded or not."""
        size = self.image_processor.size
        if size is None or size.longest_edge or not (size.height or size.shortest_edge):
            return False
        wide, high = (Image.new("RGB", size) for size in ((96, 64), (64, 128)))
        shapes = [np.shape(pixels) for pixels in self.process_images([wide, high])["pixel_values"]]
        return shapes[0] == shapes[1] and len(shapes[0]) == 3

    def configure(
        self, image_size: int | None = None, max_length: int | None = None, image_transform: str | None = None
    ) -> None:
        """
        Set the height and width of images in pixels (of their shorter side if the image processor pads them to one
        size), the maximum number of tokens of a text, and the transform of images, one of `transforms.TRANSFORMS`. `None` leaves a
        setting alone. Raise `ValueError` if there is no such transform.
        """
        if image_transform is not None:
            size = self.image_processor.size
            self.image_processor = make_transform(image_transform, size.height or size.shortest_edge)
        if image_size is not None:
            square = SizeDict(height=image_size, width=image_size)
            # Some image processors know only the shorter side.
            shorter = self.image_processor.size.shortest_edge is not None
            self.image_processor.size = SizeDict(shortest_edge=image_size) if shorter else square
            if self.image_processor.do_center_crop:
                self.image_processor.crop_size = square
        if max_length is not None:
            self.tokenizer.model_max_length = max_length

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Height and width of processed images in pixels; `None` if they depend on the image."""
        processor = self.image_processor
        size = processor.crop_size if processor.do_center_crop else processor.size
        return (size.height, size.width) if size.height else None

    @property
    def pixel_statistics(self) -> tuple[list[float], list[float]] | None:
        """
        Mean and standard deviation of each channel that normalise pixels of 8 bits like the image processor, as
        `(pixels - mean) / std`; `None` if it does more than resize, crop and normalise.
        """
        processor = self.image_processor
        if Resizing.of(processor) is None:
            return None
        levels = 1 / processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        return tuple((np.broadcast_to(value, 3) * levels).tolist() for value in (mean, std))

    def mean_image(self) -> Image.Image:
        """Return an image without content: of the size that images are resized to, and of the mean colour, in 8 bits, that they are
        normalised by; grey if they are not normalised."""
        processor = self.image_processor
        height, width = self.image_shape or [processor.size.shortest_edge or FALLBACK_SIDE] * 2
        levels = 1 / processor.rescale_factor if processor.do_rescale else 1.0
        known = processor.do_normalize and processor.image_mean is not None
        mean = np.broadcast_to(np.asarray(processor.image_mean) * levels if known else 255 / 2, 3)
        return Image.new("RGB", (width, height), tuple(np.clip(np.rint(mean), 0, 255).astype(int).tolist()))

    def __call__(self, images=None, text=None, boxes=None, as_uint8: bool = False, **kwargs) -> BatchFeature:
        """
        Process text, images, or both.

        Args:
            images: An image, a list of images, or, for several images per text, a list of equally long lists of images. An image
                is a PIL image, an array or tensor, a path, or the bytes of an image file, also as in data sets with
                `Image(decode=False)`. It becomes RGB of 8 bits, on white if transparent, and EXIF rotation is applied.
                Arrays are (H, W), (H, W, C) or (C, H, W) with 1 to 4 channels; four dimensions are a list of images. If a
                shape can be read both ways, channels are last in an array and first in a tensor; the option
                `input_data_format` decides otherwise. Floats up to 1 are shares of 255; `pixel_arrays.levels` says what
                other values mean. Grey arrays (H, W) must not be float16, which features are (see `process_images`).
            text: A string or a list of strings; truncated at `tokenizer.model_max_length`, padded to the longest. As from
                tokenizers, what is made of one string has no batch dimension, unless tensors are asked for.
            boxes: The boxes of each image, [left, top, width, height] in pixels, to process the regions in them instead.
            as_uint8: As in `process_images`.
            kwargs: Options of the tokenizer and the image processor, such as `return_tensors="pt"`; also in groups, as processors
                of transformers take them: `text_kwargs`, `images_kwargs`, `common_kwargs`.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` (batch, tokens) for text, and `pixel_values` for images: (batch,
            channels, height, width), or (batch, images per text, channels, height, width). With an image processor that pads
            images to one size (ViLT's) also `pixel_mask`, of the same shape without the channels. With boxes, `pixel_values`
            (batch, regions, channels, height, width) and `region_mask` (batch, regions).

        Raises:
            ValueError: If there is neither text nor images, rows differ in their number of images, an image cannot be read or has
                more pixels than `max_image_pixels`, or a box has no area or lies outside its image.
        """
        if images is None and text is None:
            raise ValueError("expected images, text or both, got neither")
        # A single image, of Pillow, has no length.
        if boxes is not None and (not hasattr(images, "__len__") or len(images) != len(boxes)):
            raise ValueError(f"boxes: expected a list of boxes for each image, got {len(boxes)} lists")
        # With `_merge_kwargs` of the base class, a tokenizer's own `max_length` would win over `model_max_length`.
        kwargs |= kwargs.pop("common_kwargs", None) or {}
        return_tensors = kwargs.pop("return_tensors", None)
        groups = {name: dict(kwargs.pop(name, None) or {}) for name in OPTION_GROUPS}
        text_options, image_options = groups["text_kwargs"], groups["images_kwargs"]
        image_names = self.image_processor.valid_kwargs.__annotations__
        for name, value in kwargs.items():
            (image_options if name in image_names else text_options)[name] = value
        data = {}
        if text is not None:
            data.update(self.tokenize(text, **({"return_tensors": return_tensors} | text_options)))
        if boxes is not None:
            data.update(self.process_regions(images, boxes, as_uint8=as_uint8, **image_options))
        elif images is not None:
            data.update(self.process_images(images, as_uint8, **image_options))
        return BatchFeature(data, tensor_type=return_tensors)

    def tokenize(self, text: str | list[str], **options) -> BatchEncoding:
        """
        Return the tokens of texts, or of one; `options` are the tokenizer's. Warn once per process about truncated text.

        A tokenizer that by itself gives no attention mask (SigLIP's) is that of a model that reads padding: its texts are padded to the
        longest length that is allowed, and the mask is 1 everywhere.
        """
        defaults = {"padding": True, "truncation": True, "return_token_type_ids": False}
        if reads_padding := "attention_mask" not in self.tokenizer.model_input_names:
            defaults |= {"padding": "max_length"}
        options = {name: well_formed(value) for name, value in options.items()}
        text = well_formed(text)
        options = defaults | options
        encoding = self.tokenizer(text, **options)
        if options["padding"] in (True, "longest"):
            longest = np.shape(encoding["input_ids"])[-1]
            width = self.padded_length(longest)
            if width > longest:
                encoding = self.tokenizer(text, **(options | {"padding": "max_length", "max_length": width}))
        if reads_padding:
            encoding["attention_mask"] = ones_like(encoding["input_ids"])
        if not self.truncation_reported and any(row.overflowing for row in encoding.encodings or ()):
            self.truncation_reported = True
            limit = self.tokenizer.model_max_length
            logger.warning(
                f"A text of more than {limit} tokens was truncated; further ones are too, without a warning"
            )
        return encoding

    def padded_length(self, length: int) -> int:
        """Return the number of tokens that texts are padded to whose longest has `length`."""
        multiple = -(-length // self.length_multiple) * self.length_multiple
        wanted = next((bucket for bucket in self.text_buckets if bucket >= length), multiple)
        # No model has positions beyond that limit, which need not be a multiple.
        return max(length, min(wanted, self.tokenizer.model_max_length))

    @property
    def repeats_lengths(self) -> bool:
        """Whether texts are padded further than to the longest, so that lengths repeat."""
        return bool(self.text_buckets) or self.length_multiple > 1

    def process_images(self, images, as_uint8: bool = False, **options) -> dict[str, list]:
        """
        Return the processed images.

        Args:
            images: As in `__call__`.
            as_uint8: Return pixels as uint8, with a quarter of the memory and several times as fast, for a model that normalises
                them itself (with `pixel_statistics` in its configuration). If the image processor does more than resize, crop and
                normalise, pixels are float32 and normalised all the same. `Resizing` says how pixels differ.
            options: The image processor's. With any but `input_data_format`, `as_uint8` is without effect.

        Returns:
            `pixel_values`, arrays (C, H, W) or lists of them, and likewise `pixel_mask` (H, W) if the image processor pads.
            Arrays (patches, width) of float16, features of a frozen vision encoder, become `image_features` as they are, and
            `ReadyPixels`, with `as_uint8`, become `pixel_values`.

        Raises:
            ValueError: If rows differ in their number of images, an image cannot be read or has more than
                `max_image_pixels`, or arrays of floats come with `do_rescale=False`.
        """
        if isinstance(images, (list, tuple)):
            rows = images
        else:
            rows = list(images) if is_array(images) and images.ndim == 4 else [images]
        several = bool(rows) and isinstance(rows[0], (list, tuple))
        if several and len(counts := {len(row) for row in rows}) > 1:
            raise ValueError(f"images: rows of {sorted(counts)} images; expected as many in each row")
        flat = [image for row in rows for image in (row if several else [row])]
        if flat and all(is_feature(image) for image in flat):
            processed = {"image_features": flat}
        elif as_uint8 and flat and all(isinstance(image, ReadyPixels) for image in flat):
            processed = {"pixel_values": [image.view(np.ndarray) for image in flat]}
        else:
            processed = self.process_flat(flat, as_uint8, options)
        if not several:
            return processed
        count = len(rows[0])
        starts = range(0, len(flat), count)
        return {name: [values[start : start + count] for start in starts] for name, values in processed.items()}

    def process_flat(self, images: list, as_uint8: bool, options: dict) -> dict[str, list]:
        """Return the processed images of a list; arguments and errors as those of `process_images`."""
        layout = options.pop("input_data_format", None)
        reading = [
            {"max_pixels": self.max_image_pixels, "layout": layout, "name": name}
            for name in names_of_images(len(images))
        ]
        if as_uint8 and not options and (resizing := Resizing.of(self.image_processor, self.decode_in_full)):
            pixels = [resizing(image, **how) for image, how in zip(images, reading, strict=True)]
            return {"pixel_values": pixels}
        if options.get("do_rescale") is False and any(is_array(image) and has_floats(image) for image in images):
            raise ValueError(
                "do_rescale: floats from 0 to 1 become levels up to 255, which are rescaled; leave it out"
            )
        rgb = [to_rgb(image, **how) for image, how in zip(images, reading, strict=True)]
        if self.image_processor.size and self.image_processor.size.shortest_edge:
            ratio = PADDED_RATIO if self.image_processor.do_pad else LONGEST_RATIO
            rgb = [middle(image, ratio) for image in rgb]
        processed = self.image_processor(rgb, **options)
        # Some image processors give tensors, and a nested list of tensors does not become one tensor.
        return {
            name: [np.asarray(value) for value in processed[name]]
            for name in ("pixel_values", "pixel_mask")
            if name in processed
        }

    def process_regions(
        self, images: list, boxes: list[list[list[float]]], names: list[str] | None = None, **options
    ) -> dict[str, np.ndarray]:
        """
        Return the processed regions of images.

        Args:
            images: Images (B), as in `__call__`.
            boxes: Any number of boxes for each, [left, top, width, height] in pixels after EXIF rotation.
            names: Names of the images (B) in messages; their numbers by default.
            options: Those of `process_images`.

        Returns:
            `pixel_values` (B, R, C, H, W), 0 for missing regions; `region_mask` (B, R), 1 for regions; and `pixel_mask`
            (B, R, H, W) if the image processor pads.

        Raises:
            ValueError: If an image cannot be read or has no box, or a box has no area or lies outside its image.
        """
        names = names or [f"image {number}" for number in range(len(images))]
        layout = options.pop("input_data_format", None)
        crops = []
        for image, of_image, name in zip(images, boxes, names, strict=True):
            rgb = to_rgb(image, self.max_image_pixels, name, layout)
            try:
                crops += crop_boxes(rgb, of_image)
            except ValueError as error:
                raise UnusableRow.of(f"{name}: {error}", str(error), image) from error
        counts = np.array([len(of_image) for of_image in boxes])
        region_mask = np.arange(counts.max()) < counts[:, None]
        padded = {"region_mask": region_mask.astype(np.int64)}
        for name, values in self.process_images(crops, **options).items():
            values = np.stack(values)
            padded[name] = np.zeros((*region_mask.shape, *values.shape[1:]), dtype=values.dtype)
            padded[name][region_mask] = values
        return padded


def square_side(size: int | list[int] | tuple[int, int] | None) -> int | None:
    """Return the side of the square images of a configuration's `image_size`; `None` if they are not square."""
    if isinstance(size, (list, tuple)):
        return size[0] if len(set(size)) == 1 else None
    return size


def names_of_images(count: int) -> list[str]:
    """Return names of images in messages."""
    return ["an image"] if count == 1 else [f"image {number}" for number in range(count)]


def has_floats(array: np.ndarray | torch.Tensor) -> bool:
    """Return whether the values of an array or tensor are floats."""
    return array.is_floating_point() if isinstance(array, torch.Tensor) else array.dtype.kind == "f"
