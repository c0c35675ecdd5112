"""Makes the card of a model: of a run, from its record; of a model that is saved by itself, from what the model knows."""

import hashlib
import logging
import math
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from ..modeling.encoders import at_revision, source_name
from ..tasks.checkpoints import replace_file
from ..tasks.option_fields import in_words
from ..tasks.run_record import FILE_NAME, Ancestor, MetricValue, RunRecord
from .heads import HeadFacts, facts_of
from .lineage import card_list, history_of, licence_of
from .loading import install_line, loading_lines, package_lines
from .plain_text import in_metadata, is_hub_id, plain, slug


logger = logging.getLogger(__name__)

#: The licence of the code and, unless the card of the checkpoint that it came from names another, of a model.
LICENCE = "apache-2.0"
#: The last line of a card as it was made: whether of a run, and a digest of the rest, by which one that was edited is known.
MARK = re.compile(r"\n<!-- made by renaissance, (run|save) ([0-9a-f]{16}) -->\n*\Z")
#: What a card of transformers has that nobody has filled in.
STUB = "[More Information Needed]"


def model_card(title: str, model: PreTrainedModel, tags: Sequence[str] = ()) -> ModelCard:
    """
    Return the card of a model whose training is not known, other than what its checkpoint came from.

    Args:
        title: Hub id or name.
        model: The model.
        tags: Further tags.
    """
    start = model.name_or_path or ""
    # Of which commit of the Hub a model was loaded, transformers does not tell.
    history = history_of(start, local_files_only=True) if start else []
    training = "How these weights were trained is not recorded here."
    licence = licence_of(start) if start else None
    return filled(title, model, facts_of(model), history, None, training, licence, tags)


def converted_card(title: str, model: PreTrainedModel, source: str, remarks: Sequence[str]) -> ModelCard:
    """
    Return the card of a model that was converted from a checkpoint of another library.

    Args:
        title: Hub id or name.
        model: The model.
        source: Hub id or folder of the checkpoint.
        remarks: What differs from it, a line each.
    """
    name, revision = at_revision(source)
    lines = [
        f"Converted from {plain(source_name(source))}. How those weights were trained, its own card may tell.",
        "",
    ]
    lines += [f"- {plain(remark)}" for remark in remarks]
    licence = licence_of(name, **revision)
    return filled(title, model, facts_of(model), [], None, "\n".join(lines).strip(), licence)


def run_card(model: PreTrainedModel, record: RunRecord, mask_token: str | None = None) -> ModelCard:
    """
    Return the card of a model that a run trained.

    Args:
        model: The model.
        record: The record of the run.
        mask_token: The tokenizer's token for masked words, for the Hub's widget.
    """
    start = model.name_or_path if record.started_from else ""
    licence = licence_of(start, record.started_from_revision) if start else None
    facts = facts_of(model, mask_token)
    return filled(record.name, model, facts, record.history, record, table(training_facts(model, record)), licence)


def filled(
    title: str,
    model: PreTrainedModel,
    facts: HeadFacts,
    history: list[Ancestor],
    record: RunRecord | None,
    training: str,
    licence: str | None,
    tags: Sequence[str] = (),
) -> ModelCard:
    """Return a card: its metadata, and the template filled in."""
    # The encoders are among the parts.
    history = [each for each in history if not each.part]
    data = card_data(title, model, facts, history, record, licence)
    data.tags = list(dict.fromkeys([*data.tags, *tags]))
    template = Template(resources.files(__package__).joinpath("template.md").read_text(encoding="utf-8"))
    body = template.substitute(
        title=plain(title),
        summary=summary(model, facts, record),
        parts="\n".join(parts_table(model)),
        origin=origin(history),
        training=training,
        results=results_table(record.metrics if record else []),
        loading=loading_lines(model, title),
        install=install_line(),
        package=package_lines(model, title),
        example=example(facts),
        limits="\n".join(f"- {line}" for line in limits(model, facts, record)),
    )
    content = f"---\n{data.to_yaml()}\n---\n\n{body}"
    # Reads the metadata again, and raises if they are not valid.
    card = ModelCard(content)
    card.text += f"\n<!-- made by renaissance, {'run' if record else 'save'} {digest(str(card))} -->\n"
    return card


def card_data(
    title: str,
    model: PreTrainedModel,
    facts: HeadFacts,
    history: list[Ancestor],
    record: RunRecord | None,
    licence: str | None,
) -> ModelCardData:
    """Return the metadata of a card, as the Hub reads them."""
    train = record.of_split("train") if record else None
    sources = [*(train.sources if train else []), *earlier_data(history)]
    bases = base_models(model, history)
    results = eval_results(record, facts) if record else []
    return ModelCardData(
        license=licence or LICENCE,
        library_name="transformers",
        pipeline_tag=facts.pipeline_tag,
        tags=["renaissance", "vision-language", model.config.model_type, *([slug(record.task)] if record else [])],
        base_model=bases or None,
        base_model_relation="finetune" if bases and history and bases == [history[0].name] else None,
        datasets=list(dict.fromkeys(filter(None, map(hub_data, sources)))) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=in_metadata(title),
        eval_results=results or None,
        widget=[facts.widget] if facts.widget else None,
    )


def base_models(model: PreTrainedModel, history: list[Ancestor]) -> list[str]:
    """Return the Hub ids that the model came from: that of the nearest run before it on the Hub, or else those of its encoders."""
    for ancestor in history:
        if is_hub_id(ancestor.name):
            return [ancestor.name]
    # The Hub knows repositories, not their revisions.
    names = [at_revision(name)[0] for name in model.config.weights_from.values()]
    return list(dict.fromkeys(name for name in names if is_hub_id(name)))


def earlier_data(history: list[Ancestor]) -> list[str]:
    """Return the names of the data of earlier runs."""
    return [name for ancestor in history for name in ancestor.sources]


def hub_data(source: str) -> str | None:
    """Return the Hub id of a source of data without its revision; `None` if it is a folder or file of the author."""
    name, _ = at_revision(source)
    return name if is_hub_id(name) else None


def eval_results(record: RunRecord, facts: HeadFacts) -> list[EvalResult]:
    """Return the metrics of evaluation and tests as the Hub's model index has them, without losses and values that are no numbers."""
    found = []
    for entry in record.metrics:
        if (
            entry.value is None
            or not math.isfinite(entry.value)
            or entry.split == "train"
            or entry.metric.endswith("loss")
        ):
            continue
        split = record.of_split(entry.split)
        sources = split.sources if split else []
        on_hub = hub_data(sources[0]) if len(sources) == 1 else None
        found.append(
            EvalResult(
                task_type=facts.pipeline_tag or "other",
                task_name=in_metadata(record.task),
                # It must have a type. The text of the card says more of data that is not on the Hub.
                dataset_type=on_hub or "other",
                dataset_name=in_metadata(", ".join(name.removeprefix("./") for name in sources) or record.task),
                dataset_split=in_metadata(entry.split),
                metric_type=slug(entry.metric),
                metric_name=in_metadata(entry.name),
                metric_value=entry.value,
            )
        )
    return found


def summary(model: PreTrainedModel, facts: HeadFacts, record: RunRecord | None) -> str:
    """Return what the model is, in a few sentences."""
    total, trainable = model.count_parameters()["total"]
    parts = model.config.frozen
    if record:
        # What was frozen in training need not be so now.
        trainable, parts = record.trainable_parameters, record.frozen
    frozen = f" Frozen parts: {plain(', '.join(parts))}." if parts else ""
    kind = model.config.model_type.removeprefix("renaissance-")
    share = "all" if trainable == total else f"{trainable / 1e6:.2f}M"
    return (
        f"`{type(model).__name__}`, a {plain(kind)} model of [Renaissance](https://arxiv.org/abs/2411.06657) with "
        f"{total / 1e6:.2f}M parameters, {share} of them trainable. It {facts.does}.{frozen}"
    )


def parts_table(model: PreTrainedModel) -> list[str]:
    """Return the lines of the table of parts: what each one's first weights were, and their number."""
    config, counts = model.config, model.count_parameters()
    lines = []
    slots = config.encoders()
    for slot in slots:
        own = getattr(config, f"{slot.name}_config")
        source = config.weights_from.get(slot.name)
        start = f"from {plain(source)}" if source else "random"
        if source and getattr(config, "random_init_embeddings", False):
            start += ", embeddings random"
        sizes = [
            (name, getattr(own, field, None))
            for name, field in (("layers", "num_hidden_layers"), ("width", "hidden_size"))
        ]
        shape = "".join(f", {name} {value}" for name, value in sizes if isinstance(value, int))
        number = counts.get(slot.name, counts["cross_modal"])[0]
        lines.append(f"| {slot.role} | {start} ({plain(own.model_type)}{shape}) | {number / 1e6:.2f}M |")
    # The layers of one tower are those of its encoder.
    if slots and not any(slot.name == "encoder" for slot in slots):
        source = config.weights_from.get("cross_modal")
        start = f"from {plain(source)}" if source else "random"
        lines.append(f"| cross-modal layers | {start} | {counts['cross_modal'][0] / 1e6:.2f}M |")
    if counts["head"][0]:
        lines.append(f"| head | {head_start(model)} | {counts['head'][0] / 1e6:.2f}M |")
    return lines


def head_start(model: PreTrainedModel) -> str:
    """Return what the first weights of a head were: a checkpoint that was converted may bring all of it, or some modules."""
    sources = {name: model.config.weights_from.get(name) for name in model.head_modules()}
    if len(set(sources.values())) == 1:
        source = next(iter(sources.values()))
        return f"from {plain(source)}" if source else "random"
    return ", ".join(f"{plain(name)} {f'from {plain(each)}' if each else 'random'}" for name, each in sources.items())


def origin(history: list[Ancestor]) -> str:
    """Return the runs before, one a line, the last one first."""
    if not history:
        return "It was built from the parts above; no checkpoint of Renaissance came before it."
    lines = []
    for number, ancestor in enumerate(history):
        verb = "It was finetuned from" if number == 0 else "which in turn came from"
        facts = []
        if ancestor.task:
            facts.append(f"{plain(ancestor.model_class)}, trained on {plain(ancestor.task)}")
        if ancestor.sources:
            rows = "" if ancestor.rows is None else f", {ancestor.rows:,} rows"
            facts.append(f"data: {plain(', '.join(ancestor.sources))}{rows}")
        for name in ("steps", "samples", "epochs", "seed"):
            if (value := getattr(ancestor, name)) is not None:
                facts.append(f"{name}: {value:,}" if isinstance(value, int) and name != "seed" else f"{name}: {value}")
        if ancestor.revision:
            facts.append(f"revision {plain(ancestor.revision)}")
        lines.append(f"- {verb} {plain(ancestor.name)}" + (f" ({'; '.join(facts)})" if facts else ""))
    return "\n".join(lines)


def training_facts(model: PreTrainedModel, record: RunRecord) -> dict[str, object]:
    """Return what a card says of a run's training, by name."""
    memory = record.peak_gpu_memory_bytes or record.peak_memory_bytes or 0
    weights = model.config.objectives if hasattr(model, "objectives") else {}
    facts = {"task": record.task, "state": "" if record.status == "finished" else "not finished when this was written"}
    for split in record.data:
        rows = "a stream" if split.rows is None else f"{split.rows:,} rows"
        digest_of_rows = f", fingerprint {split.fingerprint}" if split.fingerprint else ""
        facts[f"data, {split.split}"] = f"{', '.join(split.sources) or 'of its own'} ({rows}{digest_of_rows})"
    facts |= {
        "objectives": ", ".join(f"{name} x {weight:g}" for name, weight in weights.items()),
        "objectives of each data set": in_words(record.options.get("train_objectives") or ""),
        "shares of the data sets": in_words(record.options.get("train_weights") or ""),
        "batches": record.options.get("batches"),
        "finetuned from": record.started_from,
        "steps": record.steps,
        "samples": record.samples,
        "epochs": record.epochs,
        "checkpoint": record.checkpoint,
        "input removed from all rows": record.options.get("remove_input"),
        "frozen in this run": ", ".join(record.frozen) or "nothing",
        "pooler": model.config.pooler,
        "seed": record.seed,
        "learning rate": record.learning_rate,
        "batch size": record.batch_size,
        "precision": record.precision,
        "hardware": record.hardware,
        "time": f"{record.duration_seconds:,.0f} s, {record.train_seconds:,.0f} s of it training",
        "peak memory": f"{memory / 1e9:.2f} GB" + (" of the GPU" if record.peak_gpu_memory_bytes else ""),
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "commit": record.commit and record.commit + (" and changes" if record.uncommitted_changes else ""),
    }
    return facts


def table(facts: dict[str, object]) -> str:
    """Return facts as a table, without those that are not known."""
    lines = [f"| {plain(name)} | {plain(value)} |" for name, value in facts.items() if value not in (None, "")]
    note = f"`run.yaml` has the options of the run, and repeats it; `{FILE_NAME}` is its record."
    return "\n".join(["| | |", "|---|---|", *lines, "", note])


def results_table(metrics: list[MetricValue]) -> str:
    """Return the metrics of evaluation and tests as a table, each beside its baseline."""
    lines = []
    for entry in metrics:
        if entry.split != "train":
            # A record that is read has nothing for it.
            known = entry.value is not None and math.isfinite(entry.value)
            value = f"{entry.value:.4f}" if known else "not finite"
            baseline = "" if entry.baseline is None else f"{entry.baseline:.4f} ({plain(entry.baseline_kind)})"
            lines.append(
                f"| {plain(entry.name)} | {value} | {baseline} | {'' if entry.rows is None else entry.rows} |"
            )
    if not lines:
        return "Not evaluated."
    return "\n".join(["| metric | value | baseline | rows |", "|---|---|---|---|", *lines])


def example(facts: HeadFacts) -> str:
    """Return the block that calls the model; nothing if it needs more than a line."""
    if facts.inputs is None:
        return ""
    lines = [
        "import torch",
        "",
        f'inputs = processor({facts.inputs}, return_tensors="pt")',
        "with torch.no_grad():",
        "    outputs = model(**inputs)",
        f"print({facts.result})",
    ]
    about = "Then, with a PIL `image`:" if "image" in facts.inputs else "Then:"
    return "\n".join(["", about, "", "```python", *lines, "```", ""])


def limits(model: PreTrainedModel, facts: HeadFacts, record: RunRecord | None) -> list[str]:
    """Return what the model cannot do, and what is not known of it."""
    found = [facts.limit] if facts.limit else []
    base, inputs = model.base_model, facts.inputs or "images text"
    if base.text_limit is not None and "text" in inputs:
        found.append(f"Texts of more than {base.text_limit} tokens are cut.")
    if "images" in inputs:
        found.append(
            "Images are scaled to {} x {} pixels, in which small things are lost.".format(*base.image_shape[1:])
        )
    random = [slot.role for slot in model.config.encoders() if slot.name not in model.config.weights_from]
    if random:
        found.append(
            f"The {' and the '.join(random)} began at random weights, so the model knows only its training data."
        )
    for entry in record.metrics if record else []:
        if entry.split != "train" and entry.beats_baseline is False:
            found.append(f"{plain(entry.name)} is no better than its baseline, which ignores the input.")
    found.append(
        "It was not examined for bias or safety; it repeats what is in the data of its encoders and of its training."
    )
    found.append("The licences of its base models and of its data apply too.")
    return found


def digest(content: str) -> str:
    """Return a digest of a card's text."""
    return hashlib.blake2b(content.strip().encode(), digest_size=8).hexdigest()


def may_replace(text: str, model_class: str | None = None) -> bool:
    """
    Return whether a card may be replaced: a stub of transformers, or one of this package that nobody has edited, and that is not of
    a run with a model of `model_class`.
    """
    mark = MARK.search(text)
    if mark is None or mark[2] != digest(text[: mark.start()]):
        return STUB in text
    return mark[1] == "save" or model_class is None or f"`{model_class}`" not in text


def write_card(folder: Path, card: ModelCard, model_class: str | None = None) -> bool:
    """
    Write a card as README.md, unless there is one that somebody wrote or edited, or that of a run with a model of `model_class`;
    return whether it was written.
    """
    path = folder / "README.md"
    if path.is_file() and not may_replace(path.read_text(encoding="utf-8"), model_class):
        if model_class is None:
            # Not of a model that is saved during a run, whose card comes later.
            logger.info(f"{path} stays as it is; delete it for a new one")
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, str(card))
    return True


def add_card(folder: str | Path, model: PreTrainedModel, title: str | None = None) -> None:
    """
    Write the card of a model that is saved or pushed by itself, with the tags of a card that is there already. The card of a run
    stays.

    Args:
        folder: Where the model lies.
        title: Hub id; by default the name of the folder.
    """
    folder = Path(folder)
    tags = card_list(folder / "README.md", "tags")
    write_card(folder, model_card(title or folder.resolve().name, model, tags), type(model).__name__)
