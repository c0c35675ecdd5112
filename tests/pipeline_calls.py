"""
What the tests and the table of tools do with pipelines on saved folders, here and in a process without this package, and a loop
that masks one token at a time.
"""

from pathlib import Path

from conftest import CLASSES, tiny_model
from PIL import Image


TEXT, OTHER = "a red circle", "a blue star left of a circle"
KINDS = (
    "Model", "ForSequenceClassification", "ForMaskedLM", "ForImageClassification", "ForPreTraining", "ForImageTextRetrieval",
    "ForVisualQuestionAnswering", "ForImageTextClassification", "ForImagesAndTextClassification",
)  # fmt: skip


def run_pipelines(root: str) -> None:
    """What is done with the folders `root/<kind>`; the source of this function is all that another process is given."""
    import json
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from pathlib import Path

    import torch
    from datasets import Dataset
    from PIL import Image
    from tokenizers import Tokenizer
    from transformers import AutoImageProcessor, AutoModelForMaskedLM, AutoProcessor, AutoTokenizer, pipeline
    from transformers.pipelines.pt_utils import KeyDataset

    text, other = "a red circle", "a blue star left of a circle"
    left, right = str(Path(root) / "left.png"), str(Path(root) / "right.png")

    def load(task: str, kind: str):
        return pipeline(task, model=str(Path(root) / kind), trust_remote_code=True, device="cpu")

    def run(task: str, kind: str, *args, **kwargs):
        return load(task, kind)(*args, **kwargs)

    results = {
        "text-classification": run("text-classification", "ForSequenceClassification", [text, other], top_k=None),
        "pair": run(
            "text-classification", "ForSequenceClassification", {"text": text, "text_pair": other}, top_k=None
        ),
        "fill-mask": run("fill-mask", "ForMaskedLM", "a [MASK] circle", top_k=3),
        "feature-extraction": run("feature-extraction", "Model", text),
        "image-classification": run("image-classification", "ForImageClassification", [left, right], batch_size=2),
        "image-feature-extraction": run("image-feature-extraction", "Model", left),
        "pooled image": run("image-feature-extraction", "Model", left, pool=True),
        "matching": run("image-text-matching", "ForImageTextRetrieval", left, text),
        "matching of pretraining": run("image-text-matching", "ForPreTraining", left, [text, other]),
        "classification": run("image-text-classification", "ForImageTextClassification", left, text),
        "zero-shot": run(
            "zero-shot-image-classification",
            "ForImageTextRetrieval",
            left,
            candidate_labels=[text, other],
            hypothesis_template="{}",
        ),
        "two images": run("image-text-classification", "ForImagesAndTextClassification", [left, right], text),
        "question": run(
            "visual-question-answering",
            "ForVisualQuestionAnswering",
            [{"image": left, "question": text}, {"image": right, "text": other}],
            batch_size=2,
            top_k=1,
        ),
    }

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/left.png"
    rows = Dataset.from_dict({"image": [left, right, left], "text": [text, other, other]})
    pipe = load("image-text-matching", "ForImageTextRetrieval")
    forms = [left, Path(left), Image.open(left), Path(left).read_bytes(), url]
    results["forms of an image"] = [pipe(image, text) for image in forms]
    results["keywords"] = [pipe(images=left, text=text), pipe(image=left, question=text)]
    results["examples one by one"] = [pipe(row) for row in rows]
    results["examples in batches"] = [
        pipe(list(rows), batch_size=2),
        list(pipe(rows, batch_size=2)),
        list(pipe((row for row in rows), batch_size=2)),
    ]
    results["best texts"] = pipe(left, [text, other, "a"], top_k=2), pipe(left, [text, other, "a"]), pipe([])
    try:
        pipe(f"{url}.jpg", text)
    except ValueError as error:
        results["no such address"] = str(error).replace(url, "URL")
    server.shutdown()
    pipe = load("text-classification", "ForSequenceClassification")
    results["texts of a data set"] = [
        list(pipe(KeyDataset(rows, "text"), batch_size=2)),
        [pipe(t)[0] for t in rows["text"]],
    ]

    folder = Path(root) / "ForMaskedLM"
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # A tokenizer is saved with the padding of its last call.
    alone.no_padding()
    results["tokens"] = [
        AutoProcessor.from_pretrained(folder, trust_remote_code=True)(text=text)["input_ids"],
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(text)["input_ids"],
        alone.encode(text).ids,
    ]
    found = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)(Image.open(left), return_tensors="pt")
    results["pixels"] = found["pixel_values"].tolist()
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    for name, images in (("text alone", {}), ("text and image", {"images": left})):
        sums = []
        for sentence in (text, other):
            ids = processor(text=sentence)["input_ids"]
            rows = []
            for place in range(1, len(ids) - 1):
                rows.append(list(ids))
                rows[-1][place] = processor.tokenizer.mask_token_id
            padded = processor.tokenizer.pad(
                {"input_ids": rows}, padding="max_length", max_length=16, return_tensors="pt"
            )
            pixels = processor(**images, return_tensors="pt") if images else {}
            with torch.no_grad():
                scores = model(**padded, **pixels).logits.log_softmax(dim=-1)
            sums.append(sum(scores[place - 1, place, ids[place]].item() for place in range(1, len(ids) - 1)))
        results[name] = sums
    (Path(root) / "results.json").write_text(json.dumps(results))


def run_pipelines_of_vectors(root: str) -> None:
    """What is done likewise with the folders of a dual encoder, which has no kinds that fuse."""
    import json
    from pathlib import Path

    from datasets import Dataset
    from transformers import pipeline
    from transformers.pipelines.pt_utils import KeyDataset

    text, other = "a red circle", "a blue star left of a circle"
    left, right = str(Path(root) / "left.png"), str(Path(root) / "right.png")

    def load(task: str, kind: str):
        return pipeline(task, model=str(Path(root) / kind), trust_remote_code=True, device="cpu")

    classify, states = (
        load("text-classification", "ForSequenceClassification"),
        load("image-feature-extraction", "Model"),
    )
    labels = {"candidate_labels": [text, other], "hypothesis_template": "{}"}
    results = {
        "text-classification": classify([text, other], top_k=None),
        "pair": classify({"text": text, "text_pair": other}, top_k=None),
        "texts of a data set": list(
            classify(KeyDataset(Dataset.from_dict({"text": [text, other]}), "text"), batch_size=2)
        ),
        "feature-extraction": load("feature-extraction", "Model")(text),
        "image-classification": load("image-classification", "ForImageClassification")([left, right], batch_size=2),
        "image-feature-extraction": states(left),
        "pooled image": states(left, pool=True),
        "zero-shot": [
            load("zero-shot-image-classification", kind)([left, right], **labels)
            for kind in ("Model", "ForPreTraining", "ForImageTextRetrieval")
        ],
    }
    (Path(root) / "results.json").write_text(json.dumps(results))


def draw_pictures() -> dict[str, Image.Image]:
    pictures = {"left": Image.new("RGB", (50, 40), "red"), "right": Image.new("RGB", (30, 40), "blue")}
    for number, picture in enumerate(pictures.values()):
        picture.paste("white", (5 * number, 0, 20, 20))
    return pictures


def save_models(root: Path, architecture: str, processor) -> dict:
    """Save a model of each of `KINDS` under `root/<kind>`, with the processor, and the pictures; return the models by kind."""
    models = {}
    if architecture == "dual-encoder":
        kinds, sizes = [kind for kind in KINDS if (architecture, kind) in CLASSES], {}
    else:
        kinds, sizes = KINDS, {"ForPreTraining": {"contrastive_size": 8}}
    for kind in kinds:
        models[kind] = tiny_model(architecture, kind, **sizes.get(kind, {}))
        models[kind].save_pretrained(root / kind)
        processor.save_pretrained(root / kind)
    for name, picture in draw_pictures().items():
        picture.save(root / f"{name}.png")
    return models
