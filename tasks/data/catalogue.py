"""The public data sets that `renaissance prepare` prepares, by name."""

from importlib import import_module


#: The modules of this package that read public data sets. Each describes its own in `DATA_SETS`.
READERS = (
    "karpathy",
    "visual_genome",
    "web_captions",
    "localized_narratives",
    "nlvr2",
    "cifar10",
    "snli_ve",
    "vqav2",
    "easy_vqa",
    "refcoco",
    "glue",
)

CATALOGUE = {
    name: data_set
    for reader in READERS
    for name, data_set in import_module(f".{reader}", __package__).DATA_SETS.items()
}
