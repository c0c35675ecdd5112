"""An architecture from outside the package: word embeddings, the mean of an image's patches, and one layer over both."""

import torch
from torch import nn

from renaissance import EncodedImage, EncodedText, FusedOutput, register_architecture
from renaissance.modeling.configuration_renaissance import RenaissanceConfig
from renaissance.modeling.fields import option
from renaissance.modeling.layers import Pooler, TypeEmbeddings
from renaissance.modeling.modeling_renaissance import RenaissanceBaseModel


class ToyConfig(RenaissanceConfig):
    """A toy without encoders."""

    model_type = "renaissance-toy"

    vocab_size: int = 100
    image_size: int = 32
    patch_size: int = option(16, "Height and width of a patch in pixels.")
    hidden_size: int = option(8, "Width of the toy.")


class ToyModel(RenaissanceBaseModel):
    """Adds to each word the mean of the image, and to the image the mean of the words, before one linear layer."""

    config: ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        size = config.hidden_size
        self.patch_size = (config.patch_size, config.patch_size)
        self.words = nn.Embedding(config.vocab_size, size)
        self.patches = nn.Conv2d(3, size, config.patch_size, stride=config.patch_size)
        self.type_embeddings = TypeEmbeddings(config.num_images, size)
        self.fusion = nn.Linear(size, size)
        self.text_pooler = Pooler(size)
        if config.pooler == "double":
            self.image_pooler = Pooler(size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def parts(self) -> dict[str, list[nn.Module]]:
        poolers = [self.text_pooler] + ([self.image_pooler] if self.config.pooler == "double" else [])
        cross_modal = [self.type_embeddings, self.fusion, *poolers]
        return {"text": [self.words], "vision": [self.patches], "cross_modal": cross_modal}

    def encode_text(self, input_ids, attention_mask=None) -> EncodedText:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return EncodedText(states=self.words(input_ids), mask=mask)

    def encode_image(self, pixel_values=None, pixel_mask=None, image_features=None) -> EncodedImage:
        pixels = self.normalised(pixel_values, self.patches.weight.dtype)
        states = self.patches(pixels).flatten(2).mean(dim=2, keepdim=True).transpose(1, 2)
        return EncodedImage(states=states, mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device))

    def fuse(
        self,
        text,
        image,
        image_index=None,
        output_attentions=False,
        output_hidden_states=False,
        reads=("text_states", "image_states", "pooled"),
        pooled_from=0,
    ) -> FusedOutput:
        words, picture = self.with_types(text, image, image_index)
        if text is not None and image is not None:
            mask = text.mask.unsqueeze(2)
            words, picture = words + picture, picture + (words * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        words, picture = (None if states is None else torch.tanh(self.fusion(states)) for states in (words, picture))
        pooled = self.pool(*(None if states is None else states[pooled_from:] for states in (words, picture)))
        return FusedOutput(text_states=words, image_states=picture, pooled=pooled)


register_architecture("toy", ToyConfig, ToyModel)
