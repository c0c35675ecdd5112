"""The heads with several texts or several images a row: retrieval, NLVR2, reference resolution."""

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .contrastive import ContrastiveHead
from .heads import ClassificationHead, HeadModel
from .outputs import EncodedImage, EncodedText, FusedOutput, RetrievalOutput


class ImageTextRetrievalHead(HeadModel):
    """
    Scores how well texts fit an image. The score is the log-odds of "match" under the image-text-matching head of
    pretraining, whose checkpoints it goes on from.

    With `config.contrastive_size` it also has vectors of texts alone and of images alone, whose cosines say in one matrix product
    which of many pairs are worth a score. They are what `fuse` makes of one without the other, projected, and learn from a
    contrastive loss beside that of matching (Li et al. 2021, ALBEF, section 3.2).
    """

    def add_head(self, config) -> None:
        self.itm_head = nn.Linear(config.pooled_size, 2)
        if config.contrastive_size:
            self.contrastive_head = ContrastiveHead(config)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        text_index: torch.LongTensor | None = None,
        image_index: torch.LongTensor | None = None,
        num_hardest: int | None = None,
        false_pairs: torch.BoolTensor | None = None,
        labels: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_features: torch.Tensor | None = None,
    ) -> RetrievalOutput:
        """
        Scores candidate pairs: `logits` (batch, candidates). They are the texts of each image, or those that `text_index`
        and `image_index` name, among them texts with other images. Each text and each image is encoded once, however many pairs it
        is in; who ranks all pairs of many images and texts calls `encode_text`, `encode_image` and `fuse` and applies
        `score`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, texts, tokens)` or `(texts, tokens)`): The texts of each image,
                or its one text; with `text_index` all texts.
            attention_mask (`torch.Tensor` of the same shape): 1 for tokens, 0 for padding.
            pixel_values (`torch.Tensor` of shape `(images, channels, height, width)`): One image a row; with `image_index`
                all images.
            pixel_mask (`torch.Tensor` of shape `(images, height, width)`): 1 for pixels, 0 for padding below and to the
                right of an image; one-tower models only.
            text_index (`torch.LongTensor` of shape `(batch, candidates)`): The text of each candidate pair; -1 where a row
                has fewer candidates, whose logit is then the lowest number of its dtype.
            image_index (`torch.LongTensor` of shape `(batch, candidates)`): Its image.
            num_hardest (`int`): How many false candidates of a row to train on: those that the model scores highest, found
                in a first pass without gradient. The first candidate has to be the true one, and the logits are of it
                and of those found. All candidates by default.
            false_pairs (`torch.BoolTensor` of shape `(all texts, images)`): For the contrastive loss: whether a text and an image
                do not belong together. All but the true pair of a row by default.
            labels (`torch.LongTensor` of shape `(batch,)`): Which candidate of a row is true, from 0 on. The loss is
                cross-entropy over the candidates; with `config.contrastive_size` InfoNCE of the true pairs among all texts and
                images is added.
            output_attentions (`bool`): Whether to return attention weights; a row for each pair.
            output_hidden_states (`bool`): Whether to return hidden states; likewise.
            image_features (`torch.Tensor` of shape `(images, patches, width)`): What `vision_features` made of the images, in
                the place of `pixel_values`; two-tower models only.

        Raises:
            ValueError: Where text or images are missing, an input does not fit the model, or there are labels and one
                candidate.
        """
        self.check_inputs(input_ids, pixel_values, image_features)
        if (text_index is None) != (image_index is None):
            raise ValueError("text_index, image_index: expected both or neither")
        if text_index is None:
            text_index, image_index = texts_of_each_image(
                input_ids, len(pixel_values if image_features is None else image_features)
            )
        if labels is not None and text_index.shape[1] == 1:
            raise ValueError("labels: say which of several texts or pairs is true; with one a row leave them out")
        text = self.model.encode_text(
            input_ids.flatten(0, -2), None if attention_mask is None else attention_mask.flatten(0, -2)
        )
        image = self.model.encode_image(pixel_values, pixel_mask, image_features)
        if num_hardest is not None:
            text_index, image_index = self.hardest_pairs(text, image, text_index, image_index, num_hardest)
        logits, fused = self.score_pairs(
            text,
            image,
            text_index,
            image_index,
            output_attentions=self.model.wants("attentions", output_attentions),
            output_hidden_states=self.model.wants("hidden_states", output_hidden_states),
        )
        losses = {}
        if labels is not None:
            losses["matching_loss"] = nn.functional.cross_entropy(logits.float(), labels)
            if self.config.contrastive_size:
                true = [index.gather(1, labels.unsqueeze(1)).squeeze(1) for index in (text_index, image_index)]
                vectors = self.text_vectors(text), self.image_vectors(image)
                losses["contrastive_loss"] = self.contrastive_head.loss(*vectors, *true, false_pairs)
        return RetrievalOutput(
            loss=sum(losses.values()) if losses else None,
            **losses,
            logits=logits,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )

    @torch.no_grad()
    def hardest_pairs(
        self,
        text: EncodedText,
        image: EncodedImage,
        text_index: torch.LongTensor,
        image_index: torch.LongTensor,
        count: int,
    ) -> tuple[torch.LongTensor, torch.LongTensor]:
        """The first candidate of each row, and of the others those that the model scores highest, as (batch, 1 + `count`) indices."""
        scores = self.score_pairs(text, image, text_index, image_index)[0]
        hardest = scores[:, 1:].topk(min(count, scores.shape[1] - 1), dim=1).indices + 1
        kept = torch.cat([torch.zeros_like(hardest[:, :1]), hardest], dim=1)
        return text_index.gather(1, kept), image_index.gather(1, kept)

    def text_vectors(self, text: EncodedText) -> torch.Tensor:
        """Vectors (B, contrastive size) of length 1, of texts alone; only with `config.contrastive_size`."""
        return self.contrastive_head.text_vectors(self.model.fuse(text, None, reads=self.reads).pooled)

    def image_vectors(self, image: EncodedImage) -> torch.Tensor:
        """Vectors (B, contrastive size) of length 1, of images alone; only with `config.contrastive_size`."""
        return self.contrastive_head.image_vectors(self.model.fuse(None, image, reads=self.reads).pooled)

    def score_pairs(
        self,
        text: EncodedText,
        image: EncodedImage,
        text_index: torch.LongTensor,
        image_index: torch.LongTensor,
        **options,
    ) -> tuple[torch.Tensor, FusedOutput]:
        """
        Scores (batch, candidates) of the pairs that `text_index` and `image_index` (batch, candidates) name, the lowest number
        of their dtype where an index is -1, and what the pairs were fused to; `options` are those of `fuse`.
        """
        fused = self.model.fuse(
            text.rows(text_index.flatten()), image.rows(image_index.flatten()), reads=self.reads, **options
        )
        scores = self.score(fused.pooled).view(text_index.shape)
        return scores.masked_fill(text_index < 0, torch.finfo(scores.dtype).min), fused

    def score(self, pooled: torch.Tensor) -> torch.Tensor:
        """Log-odds (B,) that text and image match, from the pooled vectors (B, pooled size) of pairs."""
        no_match, match = self.itm_head(pooled).unbind(dim=-1)
        return match - no_match


def texts_of_each_image(input_ids: torch.Tensor, num_images: int) -> tuple[torch.LongTensor, torch.LongTensor]:
    """The pairs (B, texts) of each image's texts, (B, texts, T) or (B, T), with it, as numbers of texts and of images."""
    if len(input_ids) != num_images:
        raise ValueError(f"expected one image a row, got {len(input_ids)} rows of text, {num_images} images")
    shape = (len(input_ids), 1 if input_ids.ndim == 2 else input_ids.shape[1])
    numbers = torch.arange(shape[0] * shape[1], device=input_ids.device).view(shape)
    return numbers, numbers // shape[1]


class ImagesAndTextClassificationHead(HeadModel):
    """
    One text with n images (NLVR2): the text is encoded once and fused with each image, and a classifier reads the n
    pooled vectors side by side. n is `config.num_images`.
    """

    def add_head(self, config) -> None:
        self.classifier = ClassificationHead(config, config.num_images * config.pooled_size, config.num_labels)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_features: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """
        Classifies each text together with its images.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): Token ids.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
            pixel_values (`torch.Tensor` of shape `(batch, num_images, channels, height, width)`): The images of a row.
            pixel_mask (`torch.Tensor` of shape `(batch, num_images, height, width)`): 1 for pixels, 0 for padding below and to the
                right of an image; one-tower models only.
            labels (`torch.LongTensor` of shape `(batch,)`): Classes, from 0 to `config.num_labels - 1`.
            output_attentions (`bool`): Whether to return attention weights; a row for each image of each text.
            output_hidden_states (`bool`): Whether to return hidden states; likewise.
            image_features (`torch.Tensor` of shape `(batch, num_images, patches, width)`): What `vision_features` made of the images, in
                the place of `pixel_values`; two-tower models only.

        Raises:
            ValueError: Where there is no text, or not `config.num_images` images a row.
        """
        num_images = self.config.num_images
        self.check_inputs(input_ids, pixel_values, image_features)
        check_images_of_rows(pixel_values, image_features, num_images)
        text = self.model.encode_text(input_ids, attention_mask)
        image = self.model.encode_image(
            *(None if given is None else given.flatten(0, 1) for given in (pixel_values, pixel_mask, image_features))
        )
        pairs = torch.arange(len(input_ids) * num_images, device=input_ids.device)
        fused = self.model.fuse(
            text.rows(pairs // num_images),
            image,
            pairs % num_images,
            self.model.wants("attentions", output_attentions),
            self.model.wants("hidden_states", output_hidden_states),
            self.reads,
        )
        logits = self.classifier(fused.pooled.unflatten(0, (-1, num_images)).flatten(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=fused.hidden_states, attentions=fused.attentions
        )


def check_images_of_rows(
    pixel_values: torch.Tensor | None, image_features: torch.Tensor | None, num_images: int | None = None
) -> None:
    """Raises `ValueError` where pixels or features are not those of several images a row, of `num_images` where that is given."""
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
    Chooses the region of an image that a text refers to (RefCOCO). The text is encoded once and fused with each region, which
    is an image of its own, and a classifier gives each pair one score.
    """

    def add_head(self, config) -> None:
        self.classifier = ClassificationHead(config, config.pooled_size, 1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_features: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """
        Scores each region of each row: `logits` (batch, regions), the lowest number of their dtype where there is no region.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): Token ids.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
            pixel_values (`torch.Tensor` of shape `(batch, regions, channels, height, width)`): The regions of a row.
            pixel_mask (`torch.Tensor` of shape `(batch, regions, height, width)`): 1 for pixels, 0 for padding below and to the
                right of a region; one-tower models only.
            region_mask (`torch.Tensor` of shape `(batch, regions)`): 1 for regions, 0 for padding, which costs nothing and is
                never chosen; all are regions by default.
            labels (`torch.LongTensor` of shape `(batch,)`): Which region is meant, from 0 on. The loss is cross-entropy
                over the regions of a row.
            output_attentions (`bool`): Whether to return attention weights; a row for each region.
            output_hidden_states (`bool`): Whether to return hidden states; likewise.
            image_features (`torch.Tensor` of shape `(batch, regions, patches, width)`): What `vision_features` made of the images, in
                the place of `pixel_values`; two-tower models only.

        Raises:
            ValueError: Where an input is missing or does not fit, a row has no region, or a label names none.
        """
        self.check_inputs(input_ids, pixel_values, image_features)
        check_images_of_rows(pixel_values, image_features)
        shape = (pixel_values if image_features is None else image_features).shape[:2]
        present = torch.ones(shape, dtype=torch.bool, device=input_ids.device)
        if region_mask is not None:
            present = region_mask.bool()
        if present.shape != shape or not present.any(dim=1).all():
            raise ValueError(f"region_mask: expected the shape {tuple(shape)} with a region in each row")
        rows = torch.arange(len(input_ids), device=input_ids.device)
        if labels is not None and not present[rows, labels].all():
            raise ValueError("labels: a label names no region of its row")
        text = self.model.encode_text(input_ids, attention_mask)
        fused = self.model.fuse(
            text.rows(rows.unsqueeze(1).expand(shape)[present]),
            self.model.encode_image(
                *(None if given is None else given[present] for given in (pixel_values, pixel_mask, image_features))
            ),
            output_attentions=self.model.wants("attentions", output_attentions),
            output_hidden_states=self.model.wants("hidden_states", output_hidden_states),
            reads=self.reads,
        )
        scores = self.classifier(fused.pooled).squeeze(-1)
        logits = scores.new_full(shape, torch.finfo(scores.dtype).min).masked_scatter(present, scores)
        return SequenceClassifierOutput(
            loss=None if labels is None else nn.functional.cross_entropy(logits.float(), labels),
            logits=logits,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )
