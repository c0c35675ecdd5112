"""Cards: their metadata are the Hub's, their code loads the model with its head, and users' strings in them do nothing."""

import copy
import dataclasses
import html
import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CLASSES, tiny_bert, tiny_model, tiny_vit
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from strangers import run_elsewhere
from transformers import BertModel
from transformers.utils import hub

from renaissance import RenaissanceProcessor, TwoTowerForPreTraining, TwoTowerModel
from renaissance.model_cards.card import model_card, run_card, write_card
from renaissance.model_cards.lineage import history_of
from renaissance.model_cards.loading import loading_lines, package_lines
from renaissance.model_cards.plain_text import LONGEST, literal, plain
from renaissance.modeling.architectures import KINDS
from renaissance.tasks.run_record import Ancestor, DataSplit, MetricValue, RunRecord


#: Tasks of the Hub.
PIPELINE_TAGS = {
    "feature-extraction", "fill-mask", "image-classification", "text-classification", "visual-question-answering",
    "zero-shot-image-classification", "zero-shot-object-detection",
}  # fmt: skip
HOSTILE = (
    'a\n---\n# Title\n<script>alert(1)</script> [x](http://evil.org) ![y](z) `code` | *b* $$m$$ "q" \\ {k: v} \u202e'
)


def record_of(model, **fields) -> RunRecord:
    """The record of a finished training, with metrics."""
    record = RunRecord(
        task="SNLIVE", status="finished", did=["train", "eval"], steps=6, samples=48, epochs=2.0, seed=3
    )
    record.parameters, record.trainable_parameters = model.count_parameters()["total"]
    record.model_class, record.model_type = type(model).__name__, model.config.model_type
    record.data = [
        DataSplit("train", ["./pairs"], 24, "0123456789abcdef"),
        DataSplit("validation", ["org/snli-ve"], 10),
    ]
    record.metrics = [
        MetricValue("train_loss", "train", "loss", 0.5),
        MetricValue("eval_loss", "validation", "loss", 0.7, 10, lower_is_better=True),
        MetricValue("eval_accuracy", "validation", "accuracy", 0.75, 10, 0.5, "majority", beats_baseline=True),
        MetricValue("eval_f1", "validation", "f1", 0.25, 10, 0.5, "constant", beats_baseline=False),
        MetricValue("eval_auroc", "validation", "auroc", None, 10, 0.5, "constant"),
    ]
    return dataclasses.replace(record, **fields)


def written(card: ModelCard, folder: Path) -> ModelCard:
    """The card as somebody else reads it from its file."""
    write_card(folder, card)
    return ModelCard.load(folder / "README.md")


def blocks_of(card: ModelCard) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", card.text, flags=re.S | re.M)


def test_the_metadata_of_a_run(tmp_path):
    model = tiny_model("two-tower", "ForImageTextClassification")
    model.config.weights_from = {"text": "google/electra-small-discriminator"}
    card = written(run_card(model, record_of(model, name="org/name")), tmp_path)
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "visual-question-answering",
    )
    assert {"renaissance", "vision-language", "renaissance-two-tower", "snlive"} == set(data.tags)
    assert data.base_model == ["google/electra-small-discriminator"]
    # A folder of the author is no data set on the Hub.
    assert data.get("datasets") is None and data.metrics == ["accuracy", "f1"] and data.model_name == "org/name"
    found = [(r.metric_type, r.metric_value, r.dataset_type, r.dataset_split, r.task_name) for r in data.eval_results]
    assert found == [
        ("accuracy", 0.75, "org/snli-ve", "validation", "SNLIVE"),
        ("f1", 0.25, "org/snli-ve", "validation", "SNLIVE"),
    ]
    # A hub without this library reads the same.
    header = yaml.safe_load(str(card).split("---")[1])
    assert header["model-index"][0]["results"][0]["metrics"][0] == {
        "type": "accuracy",
        "value": 0.75,
        "name": "eval_accuracy",
    }


def test_a_pretrained_model_says_what_it_was_trained_on(tmp_path):
    model = tiny_model("two-tower", "ForPreTraining", objectives={"mlm": 1.0, "itm": 0.5})
    options = {"train_objectives": ["mlm+itm", "mlm"], "train_weights": [2.0, 1.0], "batches": "mixed"}
    text = written(run_card(model, record_of(model, name="org/name", options=options)), tmp_path).text
    for line in (
        "| objectives | mlm x 1, itm x 0.5 |",
        "| objectives of each data set | mlm+itm mlm |",
        "| shares of the data sets | 2 1 |",
        "| batches | mixed |",
    ):
        assert line in text, line
    other = tiny_model("two-tower", "ForImageTextClassification")
    assert "objectives" not in run_card(other, record_of(other, name="org/name")).text


@pytest.mark.parametrize(
    ("sources", "named", "kind", "shown"),
    [
        (["org/pairs"], ["org/pairs"], "org/pairs", "org/pairs"),
        (["org/pairs@v1"], ["org/pairs"], "org/pairs", "org/pairs@v1"),
        (["org/pairs.v2"], ["org/pairs.v2"], "org/pairs.v2", "org/pairs.v2"),
        (["imdb"], ["imdb"], "imdb", "imdb"),
        (["./pairs"], None, "other", "pairs"),
        (["./pairs.csv"], None, "other", "pairs.csv"),
        (["photos/*.tar"], None, "other", "photos/*.tar"),
        (["https://example.org/a.csv"], None, "other", "https://example.org/a.csv"),
        (["./pairs", "org/pairs"], ["org/pairs"], "other", "pairs, org/pairs"),
        (["org/a", "org/b"], ["org/a", "org/b"], "other", "org/a, org/b"),
        ([], None, "other", "SNLIVE"),
    ],
)
def test_only_data_on_the_hub_are_named_as_its_data_sets(described, sources, named, kind, shown, tmp_path):
    """Others are in the text."""
    record = record_of(described, name="org/name", history=[Ancestor("./start", sources=["./captions"])])
    record.data = [DataSplit("train", sources, 24), DataSplit("validation", sources, 10)]
    card = written(run_card(described, record), tmp_path)
    assert card.data.get("datasets") == named
    assert {(each.dataset_type, each.dataset_name) for each in card.data.eval_results} == {(kind, shown)}
    assert "data: ./captions" in card.text
    for source in sources:
        assert plain(source) in card.text


def test_the_text_of_a_run(tmp_path):
    model = tiny_model("two-tower", "ForImageTextClassification")
    model.freeze("vision")
    model.config.weights_from = {"text": "google/electra-small-discriminator"}
    record = record_of(
        model, name="org/name", frozen=["vision"], checkpoint="that of the last step, 6", hardware="1 x NVIDIA A100"
    )
    record.peak_gpu_memory_bytes, record.train_seconds, record.duration_seconds = int(3e9), 3600.4, 3700.0
    text = written(run_card(model, record), tmp_path).text
    for line in (
        "# org/name",
        "| text encoder | from google/electra-small-discriminator (bert, layers 2, width 32) |",
        "| vision encoder | random (vit, layers 2, width 24) |",
        "| steps | 6 |",
        "| samples | 48 |",
        "| epochs | 2.0 |",
        "| seed | 3 |",
        "| frozen in this run | vision |",
        "| data, train | ./pairs (24 rows, fingerprint 0123456789abcdef) |",
        "| peak memory | 3.00 GB of the GPU |",
        "| hardware | 1 x NVIDIA A100 |",
        "| time | 3,700 s, 3,600 s of it training |",
        "| eval_accuracy | 0.7500 | 0.5000 (majority) | 10 |",
        "| eval_auroc | not finite | 0.5000 (constant) | 10 |",
        "- eval_f1 is no better than its baseline",
        "- The vision encoder began at random weights",
        "(`pip install .` in a checkout of its code)",
        "2411.06657",
    ):
        assert line in text, line
    assert "train_loss" not in text and "eval_accuracy is no better" not in text and "not finished" not in text
    unfinished = run_card(model, record_of(model, name="org/name", status="running")).text
    assert "| state | not finished when this was written |" in unfinished


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["two-tower", pytest.param("one-tower-text", marks=pytest.mark.slow)])
def test_the_code_of_a_card_loads_and_runs_the_model_with_its_head(
    architecture, kind, processor, tmp_path, monkeypatch
):
    """The code for those who have the package, and the example."""
    model = tiny_model(architecture, kind)
    # Of a head, no weight is then by chance what a new one would have.
    model.save_pretrained(tmp_path / "model")
    shared = copy.deepcopy(processor)
    shared.fit(model)
    shared.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.pipeline_tag in PIPELINE_TAGS
    stranger, own, *example = blocks_of(card)
    assert stranger.strip() == loading_lines(model, "model") and own.strip() == package_lines(model, "model")
    assert re.search(r"\bAutoModel\b", stranger) is None or kind == "Model"
    names = {"image": Image.new("RGB", (40, 30), (200, 30, 30))}
    exec(own, names)
    assert type(names["model"]) is type(model) and isinstance(names["processor"], RenaissanceProcessor)
    loaded = names["model"].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
    # Regions have no example: they take more than a line.
    assert len(example) == (kind != "ForReferenceResolution")
    for block in example:
        exec(block, names)


def run_cards(root: str) -> None:
    """What a process without this package does: it runs the code of the card in each folder of `root`."""
    import os
    import re
    from pathlib import Path

    import torch
    from PIL import Image
    from safetensors.torch import load_file

    os.chdir(root)
    for card in sorted(Path().glob("*/README.md")):
        loading, _, *example = re.findall(r"^```python\n(.*?)^```", card.read_text(), flags=re.S | re.M)
        names = {"image": Image.new("RGB", (40, 30), (200, 30, 30))}
        exec(loading, names)
        model = names["model"]
        assert type(model).__module__.startswith("transformers_modules."), card
        assert type(model).__name__ == card.parent.name.partition("-")[2], card
        weights, saved = model.state_dict(), load_file(card.parent / "model.safetensors")
        assert all(torch.equal(weights[name], value) for name, value in saved.items()), card
        for block in example:
            exec(block, names)
        print("ran", card)


@pytest.mark.slow
def test_the_code_of_cards_runs_without_the_package(processor, tmp_path):
    models = tmp_path / "models"
    for architecture in ("two-tower", "one-tower-vision"):
        for kind in KINDS:
            model, own = tiny_model(architecture, kind), copy.deepcopy(processor)
            own.fit(model)
            folder = models / f"{architecture.replace('-', '_')}-{type(model).__name__}"
            model.save_pretrained(folder)
            own.save_pretrained(folder)
    done = run_elsewhere(tmp_path, run_cards, models, HF_HUB_OFFLINE="1")
    assert done.stdout.count("ran ") == 2 * len(KINDS)


def test_a_users_strings_are_shown_and_do_nothing(tmp_path):
    model = tiny_model("two-tower", "ForImageTextClassification")
    model.config.weights_from = {"text": HOSTILE}
    record = record_of(
        model, name=HOSTILE, task=HOSTILE, hardware=HOSTILE, history=[Ancestor(HOSTILE, task=HOSTILE, model_class="A")]
    )
    record.data = [DataSplit("train", [HOSTILE], 3), DataSplit("validation", [HOSTILE], 3)]
    record.metrics = [MetricValue(f"eval_accuracy_{HOSTILE}", "validation", f"accuracy_{HOSTILE}", 0.5, 3)]
    for made in (run_card(model, record), model_card(HOSTILE, model, [])):
        (tmp_path / "README.md").unlink(missing_ok=True)
        card = written(made, tmp_path)
        raw = (tmp_path / "README.md").read_text()
        assert raw.count("\n---\n") == 1 and "<script" not in raw and "\u202e" not in raw
        assert set(card.data.to_dict()) <= {
            "base_model", "datasets", "library_name", "license", "metrics", "model-index", "model_name", "pipeline_tag",
            "tags",
        }  # fmt: skip
        prose = re.sub(r"^```\w*\n.*?^```", "", card.text, flags=re.S | re.M)
        assert [line for line in prose.splitlines() if line.startswith("# ")] == [f"# {plain(HOSTILE)}"]
        for markup in ("[x](", "![y]", "`code`", "*b*", "$$", "http://evil"):
            assert not re.search(rf"(?<!\\){re.escape(markup)}", prose), markup
        # A row of a table has as many cells as the others.
        rows = [line for line in prose.splitlines() if line.startswith("| ")]
        assert rows and {len(re.findall(r"(?<!\\)\|", line)) for line in rows} <= {3, 4, 5}
        for block in blocks_of(card):
            compile(block, "card", "exec")


#: What users' strings may hold: YAML, Markdown, HTML, templates, and characters that are not seen or not of a line.
STRINGS = [
    "---", "...", "- x", "? x", "{a: b}", "[a, b]", "key: value # comment", "null", "yes", "1e5", "2024-01-01", "%TAG ! x",
    "!!python/object/apply:os.system [ls]", "&a *a", "'", '"', "''\"", "| x", "> x", "@x", "`x`", "a:", ": a", "\\", "\\n",
    "# Title", "1. x", "+ x", "- [ ] x", "~~~", "```python", "~~x~~", "**x**", "_x_", "[x]: http://evil.org", "![x](y)",
    "[x](javascript:alert)", "| a | b |", "http://evil.org", "www.evil.org", "somebody@evil.org", "$x$", "$title", "${title}",
    "<b>", "<img src=x onerror=alert(1)>", "</td>", "<!--", "-->", "&lt;b&gt;", "&#60;b&#62;",
    "<!-- made by renaissance, run 0123456789abcdef -->", "a\n---\nlicense: mit\n---\n", "a\r\nb", "a\u2028---\u2028b", "a\x85b",
    "\ufeffa", "a\x00b", "\ud800a", "\u202ea", "größe 図 🦊 \u0301", "x" * 5000, "a\n" * 2500, "[" * 5000, "<b>" * 1700,
]  # fmt: skip
HARMLESS = "somethingharmless"


@pytest.fixture(scope="module")
def described():
    return tiny_model("two-tower", "ForImageTextClassification")


def cards_of(model, text: str) -> list[ModelCard]:
    """The cards of a run and of a model by itself, with a text in all places that a user fills."""
    model.config.weights_from = {"text": text}
    history = [Ancestor(text, task=text, model_class=text, sources=[text], revision=text)]
    record = record_of(model, name=text, task=text, hardware=text, history=history, started_from=text, precision=text)
    record.data = [DataSplit("train", [text], 3), DataSplit("validation", [text], 3)]
    record.metrics = [MetricValue(f"eval_{text}", "validation", text, 0.5, 3, 0.5, text, beats_baseline=False)]
    return [run_card(model, record), model_card(text, model, [text])]


def skeleton(card: ModelCard, text: str) -> list[str]:
    """The lines of what a card says beside a text and its digest."""
    body = card.text[: card.text.rindex("<!--")].strip()
    for written_as, name in ((literal(text), "CODE"), (plain(f"eval_{text}"), "METRIC"), (plain(text), "TEXT")):
        body = body.replace(written_as, name)
    return body.splitlines()


@pytest.mark.parametrize("text", STRINGS, ids=range(len(STRINGS)))
def test_a_users_string_changes_nothing_but_itself(described, text, tmp_path):
    # So that it is found nowhere else.
    text = f"{text} {HARMLESS}"
    expected = [skeleton(card, HARMLESS) for card in cards_of(described, HARMLESS)]
    for number, card in enumerate(cards_of(described, text)):
        read = written(card, tmp_path / str(number))
        raw = (tmp_path / str(number) / "README.md").read_text(encoding="utf-8")
        found = skeleton(read, text)
        assert len(found) == len(expected[number])
        # What is long is cut, together with what stands beside it.
        assert len(text) > LONGEST or found == expected[number]
        header = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", raw, flags=re.S)[1])
        assert header["license"] == "apache-2.0" and all(isinstance(tag, str) for tag in header["tags"])
        assert read.data.to_dict() == card.data.to_dict()


def test_plain_text_reads_as_it_was():
    assert plain("eval_accuracy of a_b c") == "eval_accuracy of a_b c"
    assert plain("_a_ *b* <b>") == r"\_a\_ \*b\* &lt;b&gt;"
    assert plain("two\n\nlines\tof\x00text") == "two lines of text"
    shown = re.sub(r"\\(.)", r"\1", html.unescape(plain(HOSTILE)))
    assert shown == " ".join(HOSTILE.replace("\u202e", " ").split())
    for text in ("plain", 'a"b', "a'b", "a\nb", "<b>", "\\", "`", "electra-größe"):
        assert eval(literal(text)) == text and not set("\n<>`") & set(literal(text))


def test_a_card_of_a_new_model_says_which_encoder_is_random(tmp_path):
    text = BertModel(tiny_bert())
    text.save_pretrained(tmp_path / "MiniLM")
    sizes = {"cross_modal_hidden_size": 16, "cross_modal_layers": 1, "cross_modal_heads": 2}
    model = TwoTowerModel.from_encoders(str(tmp_path / "MiniLM"), tiny_vit(), **sizes)
    assert model.config.weights_from == {"text": "./MiniLM"}
    model.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| text encoder | from ./MiniLM (bert, layers 2, width 32) |" in card
    assert "| vision encoder | random (vit, layers 2, width 24) |" in card and str(tmp_path) not in card
    # It is still known after the model was finetuned.
    head = TwoTowerForPreTraining.from_pretrained(tmp_path / "model")
    assert head.config.weights_from == {"text": "./MiniLM"}
    head.save_pretrained(tmp_path / "head")
    assert "from ./MiniLM (" in (tmp_path / "head" / "README.md").read_text()
    random = TwoTowerModel.from_encoders(str(tmp_path / "MiniLM"), tiny_vit(), random_init_text=True, **sizes)
    assert random.config.weights_from == {}
    one = CLASSES["one-tower", "Model"].from_encoder(str(tmp_path / "MiniLM"), image_size=32, patch_size=8)
    assert one.config.weights_from == {"encoder": "./MiniLM"}
    one.save_pretrained(tmp_path / "one")
    assert "| encoder | from ./MiniLM (bert," in (tmp_path / "one" / "README.md").read_text()
    sizes = {"image_size": 32, "patch_size": 8, "random_init_embeddings": True}
    CLASSES["one-tower", "Model"].from_encoder(str(tmp_path / "MiniLM"), **sizes).save_pretrained(tmp_path / "random")
    assert "| encoder | from ./MiniLM, embeddings random (bert," in (tmp_path / "random" / "README.md").read_text()


def test_a_finetuned_model_says_what_it_came_from(tmp_path):
    """From the record of the checkpoint it started from, or from that one's card."""
    start = tiny_model("two-tower", "ForPreTraining")
    record = record_of(
        start, task="Pretraining", run_id="77", history=[Ancestor("org/older", sources=["org/captions"])]
    )
    record.write(tmp_path / "start")
    start.save_pretrained(tmp_path / "start")
    history = history_of(str(tmp_path / "start"))
    assert [ancestor.name for ancestor in history] == ["./start", "org/older"] and history[0].run_id == "77"
    at_step = history_of(str(tmp_path / "start" / "checkpoint-4"))
    assert [ancestor.name for ancestor in at_step] == ["./checkpoint-4"]
    (tmp_path / "start" / "checkpoint-4").mkdir()
    at_step = history_of(str(tmp_path / "start" / "checkpoint-4"))
    assert (at_step[0].steps, at_step[0].samples, at_step[0].run_id) == (4, None, "77")

    model = CLASSES["two-tower", "ForImageTextClassification"].from_pretrained(tmp_path / "start")
    tuned = run_card(model, record_of(model, name="org/tuned", started_from="./start", history=history))
    assert tuned.data.base_model == ["org/older"] and tuned.data.get("base_model_relation") is None
    assert tuned.data.datasets == ["org/captions"]
    assert "- It was finetuned from ./start (" in tuned.text and "trained on Pretraining" in tuned.text
    assert "- which in turn came from org/older (data: org/captions)" in tuned.text
    of_hub = run_card(
        model, record_of(model, name="org/tuned", started_from="org/older", history=[Ancestor("org/older")])
    )
    assert of_hub.data.base_model == ["org/older"] and of_hub.data.get("base_model_relation") == "finetune"

    # A card alone, with a licence of its own.
    card_only = tmp_path / "card_only"
    start.save_pretrained(card_only)
    (card_only / "README.md").write_text("---\nlicense: cc-by-nc-4.0\ndatasets: [org/pictures]\n---\n\n# Mine\n")
    (ancestor,) = history_of(str(card_only))
    assert (ancestor.name, ancestor.sources, ancestor.task) == ("./card_only", ["org/pictures"], None)
    model = CLASSES["two-tower", "ForImageTextClassification"].from_pretrained(card_only)
    model.save_pretrained(tmp_path / "saved")
    saved = ModelCard.load(tmp_path / "saved" / "README.md")
    assert saved.data.license == "cc-by-nc-4.0" and "org/pictures" in saved.data.datasets
    # Nothing, or what cannot be read, is no reason to fail.
    for content in ("", "---\nlicense: [\n---\n", "\x00"):
        (card_only / "README.md").write_text(content)
        assert history_of(str(card_only)) == [Ancestor("./card_only")]
    (tmp_path / "start" / "run.json").write_text('{"format": 99}')
    assert history_of(str(tmp_path / "start"))[0].task is None


def test_a_saved_card_is_renewed_unless_somebody_wrote_it(tmp_path):
    file = tmp_path / "README.md"
    pretraining, matching = (tiny_model("two-tower", kind) for kind in ("ForPreTraining", "ForImageTextRetrieval"))
    pretraining.save_pretrained(tmp_path)
    assert "TwoTowerForPreTraining" in file.read_text()
    matching.save_pretrained(tmp_path)
    text = file.read_text()
    assert "TwoTowerForPreTraining" not in text and "TwoTowerForImageTextRetrieval" in text
    file.write_text(edited := text.replace("## Limits", "## What I know"))
    pretraining.save_pretrained(tmp_path)
    assert file.read_text() == edited
    # The card of a run knows more than one of the same model that is saved.
    file.unlink()
    write_card(tmp_path, run_card(matching, record_of(matching, name="org/name")))
    of_run = file.read_text()
    matching.save_pretrained(tmp_path)
    assert file.read_text() == of_run
    pretraining.save_pretrained(tmp_path)
    assert "TwoTowerForPreTraining" in file.read_text()


class FakeHub:
    """The calls of the Hub that a push makes; what is committed is kept."""

    def __init__(self):
        self.files = {}

    def create_repo(self, repo_id: str, **kwargs):
        return type("Repository", (), {"repo_id": f"owner/{repo_id.split('/')[-1]}"})

    def create_commit(self, operations: list, **kwargs) -> str:
        for operation in operations:
            self.files[operation.path_in_repo] = Path(operation.path_or_fileobj).read_text(errors="replace")
        return "done"


@pytest.mark.parametrize("there", [None, "# Mine, by hand\n"])
def test_a_pushed_model_has_its_card(there, tmp_path, monkeypatch):
    """With the owner's name; one that is in the repository stays."""
    fake = FakeHub()
    monkeypatch.setattr(hub, "hf_api", lambda *args, **kwargs: fake)

    class CardThere(ModelCard):
        @classmethod
        def load(cls, repo_id: str, **kwargs) -> ModelCard:
            if there is None:
                raise EntryNotFoundError("no card")
            return ModelCard(there)

    monkeypatch.setattr(hub, "ModelCard", CardThere)
    tiny_model("two-tower", "ForSequenceClassification").push_to_hub("name", tags=["mine"])
    monkeypatch.undo()
    card = ModelCard(fake.files["README.md"])
    assert {"config.json", "modeling_two_tower.py"} <= set(fake.files)
    if there:
        assert "Mine, by hand" in card.text and "More Information" not in card.text
        return
    assert "# owner/name" in card.text and "More Information" not in card.text
    assert 'TwoTowerForSequenceClassification.from_pretrained("owner/name")' in card.text
    assert card.data.pipeline_tag == "text-classification" and card.data.license == "apache-2.0"
    assert {"mine", "renaissance"} <= set(card.data.tags) and card.data.widget == [{"text": "a dog on a lawn"}]


def test_a_masked_language_models_widget_has_its_mask():
    model = tiny_model("two-tower", "ForMaskedLM")
    assert run_card(model, record_of(model, name="a"), "<mask>").data.widget == [{"text": "a dog on a <mask>."}]
    assert run_card(model, record_of(model, name="a")).data.get("widget") is None


def test_a_users_own_class_has_a_card(tmp_path):
    """That of the class that it extends, under its name."""

    class Mine(TwoTowerForPreTraining):
        pass

    model = Mine(tiny_model("two-tower", "ForPreTraining").config)
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "AutoModelForPreTraining" in card and f"from {__name__} import Mine" in card
