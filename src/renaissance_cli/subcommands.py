"""The subcommands: what each runs, in a line and with examples."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Subcommand:
    """
    A subcommand.

    Args:
        target: What it runs, as `module:name`: the class of a task, or a function that takes the command line.
        summary: What it does, in a line.
        details: What its help says below that: examples, and what a beginner asks next.
        recipes: How the names of its recipes begin; empty if it takes none and has a parser of its own.
        trains: Whether it needs the packages of data and training.
    """

    target: str
    summary: str
    details: str
    recipes: tuple[str, ...] = ()
    trains: bool = True

    @property
    def description(self) -> str:
        """The text above the options in its help."""
        return f"{self.summary}\n\n{self.details}"

    @property
    def is_task(self) -> bool:
        """Whether it trains, evaluates and predicts."""
        return bool(self.recipes)


OWN_FILES = """Your own data needs no recipe: see --train_file, --held_out, and the options
--*_column below. Options of the command line win over those of a recipe."""

SUBCOMMANDS = {
    "pretrain": Subcommand(
        "renaissance.tasks.pretraining:Pretraining",
        "Pretrain a vision-language encoder on images and texts of several kinds.",
        """    renaissance prepare shapes --output demo/shapes
    renaissance pretrain pretrain_shapes_two_tower --output_dir outputs/first
    renaissance pretrain --model_name_or_path outputs/first --do_train \\
        --train_file photos.csv --held_out 0.1 --output_dir outputs/second

Objectives (--objectives) are any sum of masked language modelling (mlm),
image-text matching (itm), contrastive, masked image modelling (mim), answers
(vqa), boxes (grounding) and classes of images (classification), or your own.""",
        ("pretrain",),
    ),
    "nlvr2": Subcommand(
        "renaissance.tasks.nlvr2:NLVR2",
        "NLVR2: is a sentence true of a pair of images?",
        f"""    renaissance nlvr2 nlvr2_shapes --model_name_or_path outputs/pretrained
    renaissance nlvr2 --model_name_or_path outputs/pretrained --do_train \\
        --train_file pairs.csv --held_out 0.1 --output_dir outputs/pairs

{OWN_FILES}""",
        ("nlvr2",),
    ),
    "snli-ve": Subcommand(
        "renaissance.tasks.snli_ve:SNLIVE",
        "SNLI-VE: does an image entail a sentence, contradict it, or neither?",
        f"""    renaissance snli-ve snli_ve_shapes --model_name_or_path outputs/pretrained

{OWN_FILES}""",
        ("snli_ve",),
    ),
    "image-text": Subcommand(
        "renaissance.tasks.image_text_classification:ImageTextClassification",
        "Images with texts, by classes of your own: one a row, or any number.",
        f"""    renaissance image-text --model_name_or_path outputs/pretrained --do_train \\
        --do_eval --train_file memes.csv --held_out 0.1 --label_column kind \\
        --output_dir outputs/memes

{OWN_FILES}""",
        ("image_text",),
    ),
    "vqa": Subcommand(
        "renaissance.tasks.vqav2:VQAv2",
        "VQAv2, or any other questions about images: what is the answer?",
        f"""    renaissance vqa vqav2_shapes --model_name_or_path outputs/pretrained

{OWN_FILES}""",
        ("vqav2", "easy_vqa"),
    ),
    "refcoco": Subcommand(
        "renaissance.tasks.refcoco:RefCOCO",
        "RefCOCO, RefCOCO+, RefCOCOg: which box does an expression mean?",
        f"""    renaissance refcoco refcoco_shapes --model_name_or_path outputs/pretrained

{OWN_FILES}""",
        ("refcoco",),
    ),
    "retrieval": Subcommand(
        "renaissance.tasks.retrieval:Retrieval",
        "Retrieval: images by caption and captions by image.",
        f"""    renaissance retrieval retrieval_shapes --model_name_or_path outputs/first

{OWN_FILES}""",
        ("retrieval",),
    ),
    "glue": Subcommand(
        "renaissance.tasks.glue:GLUE",
        "GLUE, or any other classification of texts or pairs of texts.",
        f"""    renaissance glue glue --model_name_or_path outputs/pretrained \\
        --task_name cola --dataset nyu-mll/glue --dataset_config cola

{OWN_FILES}""",
        ("glue",),
    ),
    "cifar10": Subcommand(
        "renaissance.tasks.cifar10:CIFAR10",
        "CIFAR-10, or any other classification of images alone.",
        f"""    renaissance cifar10 cifar10_shapes --output_dir outputs/objects

{OWN_FILES}""",
        ("cifar10",),
    ),
    "predict": Subcommand(
        "renaissance.commands.predict:main",
        "Ask a finetuned model about an image, a text, or a file of examples.",
        "",
        trains=False,
    ),
    "prepare": Subcommand(
        "renaissance.commands.prepare:main",
        "Prepare a data set: a public one, or generated scenes (shapes).",
        "",
    ),
    "convert": Subcommand(
        "renaissance.commands.convert:main", "Convert a checkpoint of ViLT or LXMERT.", "", trains=False
    ),
    "encoder": Subcommand(
        "renaissance.commands.encoder:main",
        "Train a small text or vision encoder to plug into models.",
        "",
    ),
    "study": Subcommand(
        "renaissance.commands.study:main",
        "Run an experiment of many runs from one file, table it, and trace its runs.",
        "",
    ),
    "benchmark": Subcommand(
        "renaissance.commands.benchmark:main",
        "Measure what training, ranking and loading cost.",
        "",
    ),
    "report": Subcommand(
        "renaissance.commands.report:main",
        "Write a page on a run, on several, or on a study: curves, metrics, examples.",
        "",
    ),
    "demo": Subcommand("renaissance.commands.demo:main", "Ask the finetuned model of `make demo` about drawings.", ""),
    "recipes": Subcommand(
        "renaissance_cli.recipe_files:list_recipes",
        "List the recipes that ship, or show one.",
        """    renaissance recipes
    renaissance recipes nlvr2_small > mine.yaml
    renaissance nlvr2 mine.yaml --model_name_or_path outputs/pretrained

A recipe is a YAML file with one option a line. The name of a shipped one is
enough: `renaissance pretrain pretrain_shapes_two_tower`. Options of the command
line win over those of the recipe.""",
        trains=False,
    ),
}
