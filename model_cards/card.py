"""Fills the model card of a run."""

from importlib import resources
from string import Template

from transformers import PreTrainedModel, TrainingArguments


def model_card(
    title: str,
    model: PreTrainedModel,
    parameters: str,
    args: TrainingArguments,
    metrics: dict[str, float],
    checkpoint: str,
) -> str:
    """
    The card of a trained model, as Markdown.

    Args:
        title: What the model is called.
        model: The model.
        parameters: A phrase on its size.
        args: Arguments of the run.
        metrics: All metrics of the run; those of speed are left out.
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
    results = {
        name: value
        for name, value in metrics.items()
        if name.startswith(("eval_", "test_")) and not name.endswith(("_runtime", "_per_second"))
    }
    template = Template(resources.files(__package__).joinpath("template.md").read_text())
    return template.substitute(
        title=title,
        model_class=type(model).__name__,
        parameters=parameters,
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        results="\n".join(["| metric | value |", "|---|---|", *(f"| {n} | {v:.4f} |" for n, v in results.items())])
        if results
        else "Not evaluated.",
    )
