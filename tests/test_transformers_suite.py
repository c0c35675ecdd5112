"""
transformers' own `ModelTesterMixin` and `ConfigTester`, run on every model class. Each of their tests that does not run
is on one of the three lists below, with its reason; a test that skips itself and is on none of them fails.
"""

import contextlib
import re
import tempfile
import unittest
from fnmatch import fnmatchcase
from unittest import mock

import pytest
import torch
from test_labelled_objectives import FIELDS
from transformers import BertConfig, PreTrainedModel, ResNetConfig, ViTConfig, set_seed
from transformers.models.auto import modeling_auto
from transformers.testing_utils import torch_device
from transformers_suite import suite_or_skip

import renaissance
from renaissance import DualEncoderConfig, OneTowerConfig, RenaissanceConfig, TwoTowerConfig
from renaissance.modeling.architectures import KINDS
from renaissance.modeling.objectives import OBJECTIVES


common = suite_or_skip("test_modeling_common")
ConfigTester = suite_or_skip("test_configuration_common").ConfigTester

#: Reasons, as transformers words them, for which a test cannot run on this machine.
NOT_ON_THIS_MACHINE = (
    r"test requires (an? )?(multiple )?(accelerators?|GPUs?|MPS)",
    r"test requires Flash Attention( \d)?",
    r"test requires the kernels library",
    r"test is slow",
    r"This test requires a Nvidia or AMD GPU",
    r"This test requires an? (NVIDIA|AMD) GPU",
    r"b?float16 not supported on",
)

#: Tests that skip themselves, because they are about something that these models do not have.
NOT_APPLICABLE = {
    "test_bc_cache_name_forward": "encoders keep no keys and values from call to call",
    "test_can_load_from_already_mapped_keys": "BERT's weights have no former names to be loaded from",
    "test_causal_lm_loss_honors_shift_labels": "no causal language model",
    "test_eager_matches_batched_and_grouped_inference_*": "no mixture of experts",
    "test_encoder_decoder_loss_no_double_shift": "no decoder",
    "test_inputs_embeds": "text is given as tokens, `inputs_embeds` are refused by name",
    "test_inputs_embeds_matches_input_ids": "as `test_inputs_embeds`",
    "test_keep_in_fp32_modules": "every weight may be in half precision",
    "test_keep_in_fp32_modules_exist": "every weight may be in half precision",
    "test_keep_in_fp32_modules_strict_also_hardcode_fp32": "every weight may be in half precision",
    "test_model_rope_*": "no rotary position embeddings but those of an encoder, which has its own tests",
    "test_moe_models_record_router_logits": "no mixture of experts",
    "test_output_router_logits_from_config": "no mixture of experts",
    "test_resize_position_vector_embeddings": "text positions are as the encoder has them; image positions interpolate",
    "test_reverse_loading_mapping": "as `test_can_load_from_already_mapped_keys`",
    "test_sdpa_can_dispatch_non_composite_models": "`test_sdpa_can_dispatch_composite_models` runs instead",
    "test_sliding_window_mask": "no sliding window",
    "test_*tp_plan_*": "no tensor parallelism: these encoders fit one GPU",
    "test_vision_axial_rope": "no rotary position embeddings but those of an encoder, which has its own tests",
}

#: Tests, with the class that runs them, that would fail.
NOT_PASSED = {
    "*.test_can_capture_specific_layers_hidden_states": (
        "`output_hidden_states` is yes or no; choosing layers by number is an option of the library's capture hooks"
    ),
    "*.test_eager_matches_sdpa_inference_*_output_attentions": (
        "asks SDPA attention for its weights, which it does not keep: these models say so in an error"
    ),
    "*ImageAlone*.test_resize_tokens_embeddings": "images alone: there are no tokens to resize the embeddings of",
    "*ImageAlone*.test_enable_input_require_grads_with_gradient_checkpointing": (
        "wants a gradient from the embeddings of tokens; images alone have none"
    ),
    "OneTowerOn*Test.test_get_text_features_output_[02]": (
        "compares the width of the states with that of `text_config`; one tower has no encoder of text"
    ),
    "OneTowerOn*Test.test_get_image_features_output_[02]": (
        "compares the width of the states with a `hidden_size` of `vision_config`; one tower has none, or a convolutional encoder's"
    ),
    "OneTowerOnGridTest.test_can_set_attention_dynamically": "skips itself: a convolutional encoder has no attention",
    "TwoTowerImageAlone*.test_training_gradient_checkpointing*": (
        "looks at the model's first layer, which is in the text tower that images do not pass"
    ),
    "DualEncoderImageAlone*.test_training_gradient_checkpointing*": (
        "looks at the model's first layer, which is in the text tower that images do not pass"
    ),
    **dict.fromkeys(
        (
            f"DualEncoderTest.test_{name}"
            for name in ("attention_outputs", "hidden_states_output", "retain_grad_hidden_states_attentions")
        ),
        "nothing joins text and image: the features of either have the states and attentions of their encoder",
    ),
    "DualEncoderTest.test_eager_matches_sdpa_inference_*": (
        "compares hidden states of pretraining too, which the contrastive objective has none of: it fuses nothing"
    ),
    "TwoTower*.test_retain_grad_hidden_states_attentions": (
        "text and image run in two streams, which are joined for the output only: no gradient comes back through it"
    ),
}

#: Kinds of model that take several images a text; all others take one.
SEVERAL_IMAGES = ("ForImagesAndTextClassification", "ForReferenceResolution")
TEXT_ALONE = ("ForSequenceClassification",)
IMAGE_ALONE = ("ForImageClassification",)
ONE_IMAGE = tuple(kind for kind in KINDS if kind not in (*SEVERAL_IMAGES, *TEXT_ALONE, *IMAGE_ALONE))
ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
VOCABULARY = {"vocab_size": 99, "max_position_embeddings": 64}
IMAGE = {"image_size": 8, "patch_size": 4}


def two_tower(**fields) -> TwoTowerConfig:
    """Cross-modal layers of the same sizes over a text and a vision tower."""
    sizes = {
        "cross_modal_hidden_size": 32,
        "cross_modal_layers": 2,
        "cross_modal_heads": 4,
        "cross_modal_mlp_ratio": 2,
        "contrastive_size": 8,
    }
    return TwoTowerConfig(
        text_config=BertConfig(**ENCODER, **VOCABULARY),
        vision_config=ViTConfig(**ENCODER, **IMAGE),
        **(sizes | fields),
    )


def two_tower_of_all_objectives() -> TwoTowerConfig:
    """Every objective in one model."""
    return two_tower(objectives=list(OBJECTIVES), **FIELDS)


def dual_encoder() -> DualEncoderConfig:
    """A text and a vision tower whose vectors have the width of both."""
    return DualEncoderConfig(
        text_config=BertConfig(**ENCODER, **VOCABULARY),
        vision_config=ViTConfig(**ENCODER, **IMAGE),
        contrastive_size=32,
    )


def one_tower_on_text() -> OneTowerConfig:
    """The layers of a text encoder."""
    return OneTowerConfig(encoder_config=BertConfig(**ENCODER, **VOCABULARY), contrastive_size=8, **IMAGE)


def one_tower_on_vision() -> OneTowerConfig:
    """The layers of a vision encoder."""
    return OneTowerConfig(encoder_config=ViTConfig(**ENCODER, **IMAGE), **VOCABULARY)


def one_tower_on_grid() -> OneTowerConfig:
    """The layers of a text encoder, on the 2 x 2 cells of a convolutional encoder's map."""
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="basic")
    text = BertConfig(**ENCODER, **VOCABULARY)
    return OneTowerConfig(
        encoder_config=text, vision_config=resnet, contrastive_size=8, image_size=IMAGE["image_size"]
    )


class ModelTester:
    """Configuration and inputs of tiny models, under the names that transformers' tests read."""

    batch_size = 3
    seq_length = 7
    hidden_size = ENCODER["hidden_size"]
    num_hidden_layers = ENCODER["num_hidden_layers"]
    num_attention_heads = ENCODER["num_attention_heads"]
    is_training = True

    def __init__(self, make_config, images: tuple[int, ...], takes: tuple[str, ...]):
        self.make_config = make_config
        self.images = images
        self.takes = takes
        # Of the joined sequence: the tokens, the image's class token, its 2 x 2 patches.
        self.encoder_seq_length = ("text" in takes) * self.seq_length + ("image" in takes) * (1 + 4)
        #: None is what a user gets who does not ask, which is SDPA.
        self.attention = None

    def get_config(self) -> RenaissanceConfig:
        config = self.make_config()
        config._attn_implementation = self.attention
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[RenaissanceConfig, dict]:
        shape = (self.batch_size, self.seq_length)
        text = {
            "input_ids": common.ids_tensor(shape, VOCABULARY["vocab_size"]),
            "attention_mask": common.random_attention_mask(shape),
        }
        image = {"pixel_values": common.floats_tensor((self.batch_size, *self.images, 3, 8, 8))}
        inputs = ("text" in self.takes) * [*text.items()] + ("image" in self.takes) * [*image.items()]
        return self.get_config(), dict(inputs)


def architecture(config: RenaissanceConfig) -> str:
    """`"OneTower"`, `"TwoTower"` or `"DualEncoder"`."""
    return type(config).__name__.removesuffix("Config")


def not_on_this_machine(reason: str) -> bool:
    return any(re.match(pattern, reason) for pattern in NOT_ON_THIS_MACHINE)


def not_applicable(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in NOT_APPLICABLE)


class Suite(common.ModelTesterMixin):
    """The common tests for the models of one configuration that take the same inputs; a test class names them."""

    make_config = None
    kinds: tuple[str, ...] = ()
    images: tuple[int, ...] = ()
    takes: tuple[str, ...] = ("text", "image")
    additional_model_inputs = ["pixel_values"]
    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True

    @classmethod
    def model_classes(cls) -> tuple[type[PreTrainedModel], ...]:
        return tuple(getattr(renaissance, architecture(cls.make_config()) + kind) for kind in cls.kinds)

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # The tests know base models and classifiers by the names in transformers' own mappings. The video classifiers'
        # is the one that brings a classifier its labels and does not ask it for text alone or images alone.
        config = cls.make_config()
        mappings = {
            "Model": modeling_auto.MODEL_MAPPING_NAMES,
            "ForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            "ForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
            "ForImageClassification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
            "ForImagesAndTextClassification": modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
        }
        for kind, mapping in mappings.items():
            cls.enterClassContext(mock.patch.dict(mapping, {config.model_type: architecture(config) + kind}))

    def setUp(self) -> None:
        for name, reason in NOT_PASSED.items():
            if fnmatchcase(f"{type(self).__name__}.{self._testMethodName}", name):
                super().skipTest(reason)
        common.global_rng.seed(0)
        set_seed(0)
        self.all_model_classes = self.model_classes()
        self.model_tester = ModelTester(type(self).make_config, self.images, self.takes)

    def subTest(self, *args, **kwargs) -> contextlib.AbstractContextManager:
        return contextlib.suppress(unittest.SkipTest)  # 30,000 reports take a minute; a part that fails ends its test

    def skipTest(self, reason: str) -> None:
        if not (not_on_this_machine(reason) or not_applicable(self._testMethodName)):
            self.fail(f"skips itself, and is on no list: {reason}")
        super().skipTest(reason)

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class.__name__.endswith(("ForImageTextClassification", "ForReferenceResolution")):
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long, device=torch_device)
        labelled = (
            return_labels or self._testMethodName == "test_determinism"
        )  # which compares the first output, a loss then
        if labelled and model_class.__name__ == "DualEncoderForPreTraining":
            inputs["contrastive_ids"] = torch.arange(len(inputs["input_ids"]), device=torch_device)
        elif labelled and model_class.__name__.endswith("ForPreTraining"):
            masked = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
            masked[:, 1:3] = True
            inputs["mlm_labels"] = inputs["input_ids"].masked_fill(~masked, -100)
            inputs["mlm_input_ids"] = inputs["input_ids"].masked_fill(masked, 4)
            inputs["itm_image_index"] = torch.arange(len(masked), device=torch_device).roll(1)
            inputs["itm_labels"] = torch.zeros(len(masked), dtype=torch.long, device=torch_device)
            config = self.make_config()
            for name in config.objectives.keys() - {"mlm", "itm"}:
                inputs |= OBJECTIVES[name].dummy_inputs(inputs["input_ids"], config)
        if return_labels and model_class.__name__.endswith("ForImageTextRetrieval"):
            for name in ("input_ids", "attention_mask"):
                inputs[name] = torch.stack([inputs[name], inputs[name].flip(0)], dim=1)
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long, device=torch_device)
        if return_labels and model_class.__name__.endswith("ForVisualQuestionAnswering"):
            inputs["labels"] = torch.ones(self.model_tester.batch_size, 2, device=torch_device)
        return inputs

    def test_capture_outputs_decorator(self) -> None:
        self.model_tester.attention = "eager"  # the test asks for attention weights
        super().test_capture_outputs_decorator()

    def test_model_outputs_equivalence(self) -> None:
        self.model_tester.attention = "eager"  # the test asks for attention weights
        super().test_model_outputs_equivalence()

    def test_reverse_loading_mapping(self) -> None:
        # `save_pretrained` keeps the names that the weights have in the model, in place of an encoder's former ones.
        super().test_reverse_loading_mapping(check_keys_were_modified=False)

    def test_sdpa_can_dispatch_composite_models(self) -> None:
        """As the test of the same name, which finds a model's encoders by names that these have not."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            folder = self.enterContext(tempfile.TemporaryDirectory())
            model.save_pretrained(folder)
            for asked, expected in ((None, "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")):
                loaded = model_class.from_pretrained(folder, attn_implementation=asked)
                # A convolutional encoder has no attention.
                parts = [
                    part for part in loaded.modules() if isinstance(part, PreTrainedModel) and part._supports_sdpa
                ]
                self.assertGreater(len({type(part.config) for part in parts}), 1)
                self.assertEqual({part.config._attn_implementation for part in parts}, {expected})

    def test_config(self) -> None:
        sizes = ["hidden_size", "num_attention_heads", "num_hidden_layers", "pooled_size"]
        fields = {
            "num_images": 3,
            "pooler": "single",
            "objectives": {"mlm": 0.5, "itm": 1.0},
            "frozen": ["text"],
            "layer_norm_eps": 1e-5,
        }
        if not self.make_config().fuses:
            # The layers are those of the encoders.
            sizes = ["hidden_size", "pooled_size"]
            fields["objectives"] = {"contrastive": 0.5}
        config = type(self.make_config())
        tester = ConfigTester(self, config, has_text_modality=False, common_properties=sizes, **fields)
        tester.run_common_tests()


class TwoTowerTest(Suite, unittest.TestCase):
    make_config = staticmethod(two_tower)
    kinds = ONE_IMAGE


class OneTowerOnTextTest(Suite, unittest.TestCase):
    make_config = staticmethod(one_tower_on_text)
    kinds = ONE_IMAGE


@pytest.mark.slow
class TwoTowerObjectivesTest(TwoTowerTest):
    make_config = staticmethod(two_tower_of_all_objectives)
    kinds = ("ForPreTraining",)


@pytest.mark.slow
class OneTowerImageAloneTest(Suite, unittest.TestCase):
    make_config = staticmethod(one_tower_on_vision)
    kinds = IMAGE_ALONE
    takes = ("image",)
    additional_model_inputs = []


# What follows differs from those above by its inputs or its encoder alone; the dual encoder's encoders run as those of two towers.
@pytest.mark.slow
class DualEncoderTest(Suite, unittest.TestCase):
    make_config = staticmethod(dual_encoder)
    kinds = ("Model", "ForPreTraining", "ForImageTextRetrieval")


@pytest.mark.slow
class DualEncoderTextAloneTest(DualEncoderTest):
    kinds = TEXT_ALONE
    takes = ("text",)
    additional_model_inputs = []


@pytest.mark.slow
class DualEncoderImageAloneTest(DualEncoderTest):
    kinds = IMAGE_ALONE
    takes = ("image",)
    additional_model_inputs = []


@pytest.mark.slow
class OneTowerOnVisionTest(Suite, unittest.TestCase):
    make_config = staticmethod(one_tower_on_vision)
    kinds = ONE_IMAGE


@pytest.mark.slow
class OneTowerOnGridTest(Suite, unittest.TestCase):
    make_config = staticmethod(one_tower_on_grid)
    kinds = ONE_IMAGE


@pytest.mark.slow
class TwoTowerSeveralImagesTest(TwoTowerTest):
    kinds = SEVERAL_IMAGES
    images = (2,)


@pytest.mark.slow
class OneTowerOnTextSeveralImagesTest(OneTowerOnTextTest):
    kinds = SEVERAL_IMAGES
    images = (2,)


class OneTowerOnVisionSeveralImagesTest(OneTowerOnVisionTest):
    kinds = SEVERAL_IMAGES
    images = (2,)


@pytest.mark.slow
class TwoTowerTextAloneTest(TwoTowerTest):
    kinds = TEXT_ALONE
    takes = ("text",)
    additional_model_inputs = []


@pytest.mark.slow
class OneTowerTextAloneTest(OneTowerOnTextTest):
    kinds = TEXT_ALONE
    takes = ("text",)
    additional_model_inputs = []


@pytest.mark.slow
class TwoTowerImageAloneTest(TwoTowerTest):
    kinds = IMAGE_ALONE
    takes = ("image",)
    additional_model_inputs = []


TEST_CLASSES = [test for test in globals().values() if isinstance(test, type) and issubclass(test, unittest.TestCase)]


def test_every_model_class_is_tested():
    tested = {model.__name__ for test in TEST_CLASSES for model in test.model_classes()}
    models = (getattr(renaissance, name) for name in renaissance.__all__ if name != "RenaissanceBaseModel")
    assert tested == {
        model.__name__ for model in models if isinstance(model, type) and issubclass(model, PreTrainedModel)
    }


@pytest.mark.parametrize("test_class", TEST_CLASSES)
def test_whatever_a_decorator_skips_is_on_the_list(test_class: type[Suite]):
    tests = {name: getattr(test_class, name) for name in dir(test_class) if name.startswith("test_")}
    skipped = {name: test.__unittest_skip_why__ for name, test in tests.items() if hasattr(test, "__unittest_skip__")}
    assert {name: reason for name, reason in skipped.items() if not not_on_this_machine(reason)} == {}


def test_the_lists_name_tests_that_exist():
    names = {f"{test.__name__}.{name}" for test in TEST_CLASSES for name in dir(test) if name.startswith("test_")}
    listed = [*NOT_PASSED, *(f"*.{name}" for name in NOT_APPLICABLE)]
    assert [pattern for pattern in listed if not any(fnmatchcase(name, pattern) for name in names)] == []
