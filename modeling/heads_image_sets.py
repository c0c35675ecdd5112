"""The heads that read several images with one text: NLVR2, reference resolution."""

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .answers import CHOOSING, CLASSIFICATION
from .heads import ClassificationHead, HeadModel, mean_loss, require_classes
from .objectives import IGNORED
from .outputs import FusedOutput


class ImagesAndTextClassificationHead(HeadModel):
    """
    Classifies a text with n = `config.num_images` images (NLVR2): the text is encoded once and fused with each image, and a
    classifier reads the n pooled vectors side by side.
    """

    pipeline_task = CLASSIFICATION

    @property
    def images_a_text(self) -> int:
        """Number of images with one text."""
        return self.config.num_images

    def add_head(self, config) -> None:
        self.classifier = ClassificationHead(config, config.num_images * config.pooled_size, config.num_labels)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return as many images a text as the head reads."""
        return with_images_a_row(super().dummy_inputs, self.config.num_images)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        image_features: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """
        Classify each text together with its images. One text goes with each of several rows of images, one row of images with each
        of several texts. Arguments are those of `HeadModel`, but `pixel_values` are of shape `(batch,
        num_images, channels, height, width)`, and `pixel_mask` and `image_features` have the second dimension too. `labels` are
        classes (batch,). Hidden states and attentions have a row for each image of each text.

        Raises:
            ValueError: If there is no text, not `config.num_images` images a row, or other numbers of texts and of rows of images.
        """
        num_images, fuse_options = self.config.num_images, self.fuse_options(**kwargs)
        self.check_inputs(input_ids, pixel_values, image_features)
        check_images_of_rows(pixel_values, image_features, num_images)
        rows = (pixel_values if image_features is None else image_features).shape[0]
        total = number_of_rows(input_ids.shape[0], rows, f"{num_images} images")
        text = self.model.encode_text(input_ids, attention_mask)
        image = self.model.encode_image(
            *(None if given is None else given.flatten(0, 1) for given in (pixel_values, pixel_mask, image_features))
        )
        if rows < total:
            image = image.rows(torch.arange(num_images, device=input_ids.device).repeat(total))
        pairs = torch.arange(total * num_images, device=input_ids.device)
        text_rows = pairs // num_images if input_ids.shape[0] == total else torch.zeros_like(pairs)
        fused = self.model.fuse(text.rows(text_rows), image, pairs % num_images, reads=self.reads, **fuse_options)
        logits = self.classifier(fused.pooled.unflatten(0, (-1, num_images)).flatten(1))
        return classified(logits, labels, num_items_in_batch, fused)


def number_of_rows(texts: int, rows: int, images: str) -> int:
    """Return the number of rows that texts and rows of images make: a single one of either goes with each of the others. Raise
    `ValueError` for other numbers; `images` says what a row has."""
    if texts != rows and 1 not in (texts, rows):
        expected = f"a row of {images} a text, or one of either for all"
        raise ValueError(f"expected {expected}, got {texts} texts and {rows} rows of images")
    return max(texts, rows)


def with_images_a_row(inputs: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """Return the inputs with each image `count` times: pixels (B, C, H, W) become (B, count, C, H, W)."""
    return inputs | {"pixel_values": inputs["pixel_values"].unsqueeze(1).expand(-1, count, -1, -1, -1)}


def check_images_of_rows(
    pixel_values: torch.Tensor | None, image_features: torch.Tensor | None, num_images: int | None = None
) -> None:
    """Raise `ValueError` if pixels or features are not those of several images a row, of `num_images` if given."""
    pixels = image_features is None
    given = pixel_values if pixels else image_features
    name, inner = ("pixel_values", "channels, height, width") if pixels else ("image_features", "patches, width")
    if given.ndim != (5 if pixels else 4) or num_images not in (None, given.shape[1]):
        what = f"{num_images} images a text" if num_images else "any number of regions a text"
        raise ValueError(
            f"{name}: expected (batch, {num_images or 'regions'}, {inner}), {what}, got the shape {tuple(given.shape)}; "
            "`processor(images=[[left, right], ...])` makes several images a text, and config.num_images says how many"
        )


class ReferenceResolutionHead(HeadModel):
    """
    Chooses the region of an image that a text refers to (RefCOCO). The text is encoded once and fused with each region, an image
    of its own, and a classifier gives each pair one score.
    """

    pipeline_task = CHOOSING

    def add_head(self, config) -> None:
        self.classifier = ClassificationHead(config, config.pooled_size, 1)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return two regions an image."""
        return with_images_a_row(super().dummy_inputs, 2)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        image_features: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """
        Score each region of each row: `logits` (batch, regions), the lowest number of their dtype if there is no region. One text
        goes with each of several rows of regions, one row of regions with each of several texts. Arguments are those of
        `HeadModel`, but for these.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, regions, channels, height, width)`): The regions of a row. `pixel_mask`
                and `image_features` have the second dimension too.
            region_mask (`torch.Tensor` of shape `(batch, regions)`): 1 for regions, which is the default, 0 for padding.
            labels (`torch.LongTensor` of shape `(batch,)`): The region that is meant. The loss is cross-entropy over regions.

        Hidden states and attentions have a row for each region.

        Raises:
            ValueError: If an input is missing or does not fit, a row has no region, or a label names none.
        """
        fuse_options = self.fuse_options(**kwargs)
        self.check_inputs(input_ids, pixel_values, image_features)
        check_images_of_rows(pixel_values, image_features)
        regions = {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "image_features": image_features}
        regions = {name: value.flatten(0, 1) for name, value in regions.items() if value is not None}
        rows, count = (pixel_values if image_features is None else image_features).shape[:2]
        texts = input_ids.shape[0]
        shape = number_of_rows(texts, rows, "regions"), count
        # The text of each region; a single row of regions is encoded once for all texts.
        text_rows = torch.arange(texts, device=input_ids.device).unsqueeze(1).expand(shape).flatten()
        present = None
        if region_mask is not None:
            present = checked_regions(region_mask, labels, (rows, count), shape)
            text_rows = text_rows[present.flatten()]
            regions = {name: value[present[:rows].flatten()] for name, value in regions.items()}
        text = self.model.encode_text(input_ids, attention_mask)
        image = self.model.encode_image(**regions)
        if rows < shape[0]:
            image = image.rows(torch.arange(image.states.shape[0], device=input_ids.device).repeat(texts))
        fused = self.model.fuse(text.rows(text_rows), image, reads=self.reads, **fuse_options)
        scores = self.classifier(fused.pooled).squeeze(-1)
        if present is None:
            logits = scores.view(shape)
        else:
            logits = scores.new_full(shape, torch.finfo(scores.dtype).min).masked_scatter(present, scores)
        return classified(logits, labels, num_items_in_batch, fused)


def checked_regions(
    region_mask: torch.Tensor, labels: torch.LongTensor | None, given: tuple[int, int], shape: tuple[int, int]
) -> torch.BoolTensor:
    """Return which regions there are (batch, regions), of the `shape` to which a mask of the shape `given` is repeated; raise
    `ValueError` if a row has none, or a label names none."""
    present = region_mask.bool()
    if present.shape != given or not present.any(dim=1).all():
        found = f"got the shape {tuple(present.shape)}" if present.shape != given else "found a row without one"
        raise ValueError(f"region_mask: expected the shape {given} with a region in each row, {found}")
    present = present.expand(shape)
    if labels is not None:
        known = labels != IGNORED
        if not present[known].gather(1, labels[known].unsqueeze(1)).all():
            raise ValueError("labels: a label names no region of its row")
    return present


def classified(
    logits: torch.Tensor,
    labels: torch.LongTensor | None,
    num_items_in_batch: torch.Tensor | int | None,
    fused: FusedOutput,
) -> SequenceClassifierOutput:
    """Return the scores (batch, classes), with cross-entropy if there are labels (batch,), -100 if a row has none."""
    loss = None
    if labels is not None:
        require_classes(labels)
        total = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        loss = mean_loss(total, (labels != IGNORED).sum(), num_items_in_batch)
    return SequenceClassifierOutput(
        loss=loss, logits=logits, hidden_states=fused.hidden_states, attentions=fused.attentions
    )
