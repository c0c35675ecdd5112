"""Masked language modelling and image-text matching on images with captions."""

from datasets import Features, Image, List, Value


#: One row an image; its captions lie together, so that an image is stored once.
FEATURES = Features({"image": Image(), "image_id": Value("string"), "captions": List(Value("string"))})
