"""Small data sets in public layouts, and what was made of them."""

import io
import json

from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image


def jpeg(size=(40, 30), colour="red", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def make_coco(folder, num_train=4) -> list[dict]:
    """A COCO in Karpathy's layout, with an image more of each other split; returns its entries."""
    splits = ["train"] * num_train + ["restval", "val", "test"]
    entries = []
    for index, split in enumerate(splits):
        name = f"COCO_val2014_{index:012d}.jpg"
        (folder / "val2014").mkdir(parents=True, exist_ok=True)
        (folder / "val2014" / name).write_bytes(jpeg(colour=(index * 20, 100, 100)))
        entries.append(
            {
                "filepath": "val2014",
                "filename": name,
                "cocoid": index,
                "split": split,
                "sentences": [{"raw": f" Caption {n} of {index}.\n"} for n in range(2)],
            }
        )
    write_karpathy(folder, entries)
    return entries


def write_karpathy(folder, entries) -> None:
    (folder / "karpathy").mkdir(exist_ok=True)
    (folder / "karpathy" / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))


def narrative(image_id, caption: str) -> dict:
    """A localized narrative as it is published, but for its long lists."""
    return {
        "dataset_id": "mscoco_train2017",
        "image_id": image_id,
        "annotator_id": 93,
        "caption": caption,
        "timed_caption": [{"utterance": caption, "start_time": 0.0, "end_time": 1.5}],
        "traces": [[{"x": 0.21, "y": 0.93, "t": 0.02}]],
        "voice_recording": "coco_train/coco_train_0.ogg",
    }


def write_narratives(folder, name, narratives) -> None:
    (folder / "narratives").mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(entry) + "\n" for entry in narratives)
    (folder / "narratives" / f"{name}.jsonl").write_text(content)


def make_narratives(folder) -> None:
    """Localized Narratives on images of COCO, whose training narratives are in two files, and of Flickr30k."""
    for name in ("train2017/000000000009", "train2017/000000000025", "val2017/000000000139", "val2017/000000000285"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(jpeg())
    (folder / "flickr30k-images").mkdir()
    for name in ("36979", "65567", "7"):
        (folder / "flickr30k-images" / f"{name}.jpg").write_bytes(jpeg())
    train = [narrative("9", "In this image there is a cup."), narrative("25", "Two giraffes.")]
    write_narratives(folder, "coco_train_localized_narratives-00000-of-00002", train)
    write_narratives(folder, "coco_train_localized_narratives-00001-of-00002", [narrative("9", " A cup on a table.")])
    write_narratives(
        folder, "coco_val_localized_narratives", [narrative("139", "A room."), narrative("285", "A bear.")]
    )
    for split, name in (("train", "36979"), ("val", "65567"), ("test", "7")):
        write_narratives(folder, f"flickr30k_{split}_localized_narratives", [narrative(name, "A man.")])


def caption_rows(images):
    for index, data in enumerate(images):
        yield {"image": {"bytes": data, "path": f"{index}.jpg"}, "image_id": str(index), "captions": ["a", "b"]}


def stored_images(folder, split) -> list[tuple[bytes, str]]:
    """The (bytes, path) of a split as stored, without decoding them."""
    rows = load_dataset(str(folder), split=split).cast_column("image", ImageFeature(decode=False))
    return [(image["bytes"], image["path"]) for image in rows["image"]]


def complaints(read) -> str:
    """What is wrong with a source folder: the error that its reader raises, or the entries that it leaves out, a line each."""
    try:
        splits = read()
    except ValueError as error:
        return str(error)
    return "\n".join(f"{bad['where']} {bad['reason']}" for rows in splits.values() for bad in rows.left_out.bad)


def everything_in(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if ".cache" not in path.parts)
