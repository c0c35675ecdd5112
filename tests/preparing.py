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
