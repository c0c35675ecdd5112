"""Fills the model card of a run."""

from importlib import resources
from string import Template

from transformers import PreTrainedModel, TrainingArguments


#: How metrics of speed end.
SPEED = ("_runtime", "_per_second", "_preparation_time")


def model_card(
    title: str,
    model: PreTrainedModel,
    parameters: str,
    args: TrainingArguments,
    results: list[tuple[str, ...]],
    checkpoint: str,
) -> str:
    """
    The card of a trained model, as Markdown.

    Args:
        title: What the model is called.
        model: The model.
        parameters: A phrase on its size.
        args: Arguments of the run.
        results: The lines of a table of the run's metrics, the first one the names of its columns and the first column
            the names of the metrics; those of speed are left out.
        checkpoint: A phrase on which checkpoint of the run this is, and why.
    """
    config = model.config
    facts = {
        "encoders": ", ".join(
            f"{name.removesuffix('_config')}: {getattr(config, name).model_type}" for name in config.sub_configs
        ),
        "checkpoint": checkpoint,
        "frozen in this run": ", ".join(config.frozen) or "nothing",
        "pooler": config.pooler,
        "seed": args.seed,
        "learning rate": args.learning_rate,
        "batch size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
    }
    header, *lines = [line for line in results if not line[0].endswith(SPEED)]
    table = ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *lines)]
    template = Template(resources.files(__package__).joinpath("template.md").read_text())
    return template.substitute(
        title=title,
        model_class=type(model).__name__,
        parameters=parameters,
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        results="\n".join(table) if lines else "Not evaluated.",
    )
