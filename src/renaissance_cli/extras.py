"""The packages that the install without extras leaves out."""

from importlib.util import find_spec


#: The modules of the extra `[train]`.
TRAIN = (
    "datasets",
    "pyarrow",
    "evaluate",
    "accelerate",
    "psutil",
    "sklearn",
    "scipy",
    "xxhash",
    "requests",
    "urllib3",
)


def require_training_packages() -> None:
    """Raise `ValueError` if a package is missing that data, training and evaluation need."""
    if missing := [name for name in TRAIN if find_spec(name) is None]:
        raise ValueError(f"missing packages {', '.join(missing)}: pip install 'renaissance[train]'")


#: The modules of the extra `[report]`.
REPORT = ("matplotlib",)


def require_report_packages() -> None:
    """Raise `ValueError` if a package is missing that pictures need."""
    if missing := [name for name in REPORT if find_spec(name) is None]:
        raise ValueError(f"missing package {', '.join(missing)}: pip install 'renaissance[report]'")
