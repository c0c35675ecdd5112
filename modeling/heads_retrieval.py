"""The head of retrieval: how well texts fit images, pair by pair, and, if asked for, by vectors of each alone."""

import torch
from torch import nn
from transformers.utils import can_return_tuple

from .answers import COMPARING, MATCHING
from .features import FeaturesOfEither
from .heads import HeadModel, mean_loss
from .objectives import Contrastive, ImageTextMatching
from .outputs import DualEncoderOutput, EncodedImage, EncodedText, FusedOutput, RetrievalOutput


class ImageTextRetrievalHead(FeaturesOfEither, HeadModel):
    """
    Scores how well texts fit an image: the log-odds of "match" under the image-text-matching head of pretraining.

    With `config.contrastive_size` it also has the vectors of the contrastive objective, of texts alone and of images alone, whose
    cosines say in one matrix product which of many pairs are worth a score. They learn from the contrastive loss beside that of
    matching (Li et al. 2021, ALBEF, section 3.2).
    """

    options = ("contrastive_size", "contrastive_loss")
    pipeline_task = MATCHING

    @classmethod
    def without_fusing(cls) -> type[HeadModel]:
        return VectorRetrievalHead

    def add_head(self, config) -> None:
        self.itm_head = ImageTextMatching().make_head(config)
        if config.contrastive_size:
            self.contrastive_head = Contrastive().make_head(config)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return two texts an image."""
        inputs = super().dummy_inputs
        ids = inputs["input_ids"]
        return inputs | {"input_ids": ids.unsqueeze(1).expand(-1, 2, -1), "labels": ids.new_zeros(len(ids))}

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
        text_ids: torch.LongTensor | None = None,
        image_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        image_features: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> RetrievalOutput:
        """
        Score candidate pairs: `logits` (batch, candidates). They are the texts of each image, or those that `text_index` and
        `image_index` name, among them texts with other images. One image with many texts is one row of candidates; one text with
        many images has a row for each image. Each text and each image is encoded once, however many pairs it is
        in. To rank all pairs of many images and texts, call `encode_text`, `encode_image` and `fuse`, and apply `score`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, texts, tokens)` or `(texts, tokens)`): The texts of each image,
                or its one text; with `text_index` all texts. `attention_mask` has the same shape.
            text_index (`torch.LongTensor` of shape `(batch, candidates)`): The text of each candidate pair; -1 if a row has fewer
                candidates, whose logit is then the lowest number of its dtype.
            image_index (`torch.LongTensor` of shape `(batch, candidates)`): Its image.
            num_hardest (`int`): Number of false candidates of a row to train on, by default all: those that the model scores
                highest in a first pass without gradient. The first candidate has to be true; logits are of it and those found.
            text_ids, image_ids (`torch.LongTensor` of shapes `(all texts,)` and `(images, texts of an image)`): Which texts are
                true of which images, as `info_nce` takes it for the contrastive loss; by default only the pairs of a row.
            labels (`torch.LongTensor` of shape `(batch,)`): Which candidate of a row is true, from 0 on. The loss is
                cross-entropy over the candidates, plus, with `config.contrastive_size`, InfoNCE of the true pairs.

        The other arguments are those of `HeadModel`; hidden states and attentions have a row for each pair.

        Raises:
            ValueError: If text or images are missing, an input does not fit the model, or there are labels and one candidate.
        """
        fuse_options = self.fuse_options(**kwargs)
        self.check_inputs(input_ids, pixel_values, image_features)
        if (text_index is None) != (image_index is None):
            raise ValueError("text_index, image_index: expected both or neither")
        if text_index is None:
            num_images = (pixel_values if image_features is None else image_features).shape[0]
            text_index, image_index = texts_of_each_image(input_ids, num_images)
        if labels is not None and text_index.shape[1] == 1:
            raise ValueError("labels: say which of several texts or pairs is true; with one a row leave them out")
        mask = None if attention_mask is None else attention_mask.flatten(0, -2)
        text = self.model.encode_text(input_ids.flatten(0, -2), mask)
        image = self.model.encode_image(pixel_values, pixel_mask, image_features)
        if num_hardest is not None:
            text_index, image_index = self.hardest_pairs(text, image, text_index, image_index, num_hardest)
        logits, fused = self.score_pairs(text, image, text_index, image_index, **fuse_options)
        losses = {}
        if labels is not None:
            if self.config.fuses:
                losses["matching"] = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
            if self.config.contrastive_size:
                true = [index.gather(1, labels.unsqueeze(1)).squeeze(1) for index in (text_index, image_index)]
                losses["contrastive"] = self.contrastive_loss(text, image, *true, text_ids, image_ids)
            losses = {name: mean_loss(total, labels.shape[0], num_items_in_batch) for name, total in losses.items()}
        return RetrievalOutput(
            loss=sum(losses.values()) if losses else None,
            losses=losses or None,
            logits=logits,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )

    def contrastive_loss(
        self,
        text: EncodedText,
        image: EncodedImage,
        text_index: torch.LongTensor,
        image_index: torch.LongTensor,
        text_ids: torch.LongTensor | None,
        image_ids: torch.LongTensor | None,
    ) -> torch.Tensor:
        """Return the sum () of `info_nce` over the true pairs (B,) of texts and images."""
        vectors = self.text_vectors(text), self.image_vectors(image)
        if text_ids is None:
            text_ids = torch.arange(vectors[0].shape[0], device=text_index.device)
            image_ids = text_index.new_full((vectors[1].shape[0], 1), -1)
        pairs = text_index, image_index, text_ids, image_ids
        return self.contrastive_head.loss(*vectors, *pairs, of_all_processes=self.training)[0]

    @torch.no_grad()
    def hardest_pairs(
        self,
        text: EncodedText,
        image: EncodedImage,
        text_index: torch.LongTensor,
        image_index: torch.LongTensor,
        count: int,
    ) -> tuple[torch.LongTensor, torch.LongTensor]:
        """Return indices (batch, 1 + `count`) of the first candidate of each row and the best scored of the others."""
        scores = self.score_pairs(text, image, text_index, image_index)[0]
        hardest = scores[:, 1:].topk(min(count, scores.shape[1] - 1), dim=1).indices + 1
        kept = torch.cat([torch.zeros_like(hardest[:, :1]), hardest], dim=1)
        return text_index.gather(1, kept), image_index.gather(1, kept)

    def text_vectors(self, text: EncodedText) -> torch.Tensor:
        """Return vectors (B, contrastive size) of length 1, of texts alone; only with `config.contrastive_size`."""
        return self.contrastive_head.text_vectors(self.model, text)

    def image_vectors(self, image: EncodedImage) -> torch.Tensor:
        """Return vectors (B, contrastive size) of length 1, of images alone; only with `config.contrastive_size`."""
        return self.contrastive_head.image_vectors(self.model, image)

    def score_pairs(
        self,
        text: EncodedText,
        image: EncodedImage,
        text_index: torch.LongTensor,
        image_index: torch.LongTensor,
        **options,
    ) -> tuple[torch.Tensor, FusedOutput]:
        """
        Return scores (batch, candidates) of the pairs that `text_index` and `image_index` (batch, candidates) name, the lowest
        number of their dtype if an index is -1, and the output of `fuse`, whose options are `options`.
        """
        pairs = text.rows(text_index.flatten().clamp(min=0)), image.rows(image_index.flatten().clamp(min=0))
        fused = self.model.fuse(*pairs, reads=self.reads, **options)
        scores = self.score(fused.pooled).view(text_index.shape)
        return scores.masked_fill(text_index < 0, torch.finfo(scores.dtype).min), fused

    def score(self, pooled: torch.Tensor) -> torch.Tensor:
        """
        Return log-odds (B,) that text and image match, in single precision, from the pooled vectors (B, pooled size) of
        pairs.
        """
        no_match, match = self.itm_head(pooled).float().unbind(dim=-1)
        return match - no_match


class VectorRetrievalHead(ImageTextRetrievalHead):
    """
    Scores how well texts fit images by the vectors of a model that fuses nothing: the logits of the contrastive objective. The
    loss is that objective's alone.
    """

    options = ()
    #: A cosine orders texts and images. It is no probability that they match.
    pipeline_task = COMPARING

    def add_head(self, config) -> None:
        """Add nothing: the vectors are the base model's."""

    @property
    def contrastive_head(self) -> nn.Module:
        return self.model.contrastive_head

    def score_pairs(
        self,
        text: EncodedText,
        image: EncodedImage,
        text_index: torch.LongTensor,
        image_index: torch.LongTensor,
        **options,
    ) -> tuple[torch.Tensor, DualEncoderOutput]:
        """As that of any retrieval head, of vectors; there are no states of pairs."""
        texts, images = self.text_vectors(text), self.image_vectors(image)
        pairs = texts[text_index.clamp(min=0)], images[image_index.clamp(min=0)]
        head = self.contrastive_head
        scores = head.biased(head.scale() * (pairs[0] * pairs[1]).sum(dim=-1))
        return scores.masked_fill(text_index < 0, torch.finfo(scores.dtype).min), DualEncoderOutput()


def texts_of_each_image(input_ids: torch.Tensor, num_images: int) -> tuple[torch.LongTensor, torch.LongTensor]:
    """
    Return the pairs (B, texts) of each image's texts, (B, texts, T) or (B, T), with it, as numbers of texts and of images. One text
    (1, T) goes with each image, (B, 1), and one image with each text (texts, T), (1, texts).
    """
    device = input_ids.device
    if input_ids.ndim == 2 and num_images == 1:
        numbers = torch.arange(input_ids.shape[0], device=device).unsqueeze(0)
        return numbers, torch.zeros_like(numbers)
    if input_ids.ndim == 2 and input_ids.shape[0] == 1:
        numbers = torch.arange(num_images, device=device).unsqueeze(1)
        return torch.zeros_like(numbers), numbers
    if input_ids.shape[0] != num_images:
        raise ValueError(
            f"expected one image a row of texts, or one text or one image for all, got {input_ids.shape[0]} rows of text and "
            f"{num_images} images; text_index and image_index name any other pairs"
        )
    shape = (input_ids.shape[0], 1 if input_ids.ndim == 2 else input_ids.shape[1])
    numbers = torch.arange(shape[0] * shape[1], device=device).view(shape)
    return numbers, numbers // shape[1]
