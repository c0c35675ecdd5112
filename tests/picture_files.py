"""Image files of every kind, with the pixels that each must become, worked out from the arrays that they are made of."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image


PILLOW = int(PIL.__version__.partition(".")[0])

#: Height and width of the pictures.
SHAPE = (24, 40)


@dataclass
class Kind:
    """A kind of image file; `pixels` (H, W, 3) is `None` if it is refused, for the reason `fault`."""

    file: bytes
    pixels: np.ndarray | None = None
    fault: str = ""
    suffix: str = "png"
    #: Largest difference in levels of 255 that the file's own compression, or a conversion of colours, makes.
    tolerance: int = 0
    #: Whether Pillow's array of the file shows the same: not if it is of colours by number, or turned.
    as_array: bool = True


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def array_file(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    return file_of(Image.fromarray(array), kind, **options)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(size: tuple[int, int], bits: int, rows: bytes, *chunks: bytes) -> bytes:
    """A grey PNG file, written by hand; `rows` begin with their filter, 0."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, 0, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def blocks(values: np.ndarray) -> np.ndarray:
    """Values (4, 5, ...) as blocks of 6 by 8 pixels."""
    return values.repeat(6, axis=0).repeat(8, axis=1)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def grey3(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


DRAW = np.random.default_rng(0)
RGB = blocks(DRAW.integers(0, 256, (4, 5, 3), dtype=np.uint8))
GREY = blocks(DRAW.integers(0, 256, (4, 5), dtype=np.uint8))
ALPHA = blocks(DRAW.integers(0, 256, (4, 5), dtype=np.uint8))
DEEP = blocks(DRAW.integers(0, 2**16, (4, 5), dtype=np.uint16))
BITS = blocks(DRAW.integers(0, 2, (4, 5)).astype(bool))
NUMBERS = blocks(np.arange(20).reshape(4, 5))
COLOURS = DRAW.integers(0, 256, (20, 3), dtype=np.uint8)
SHARES = (GREY / 255).astype(np.float32)

WHOLE = Image.fromarray(RGB)
PALETTE = Image.fromarray(NUMBERS.astype(np.uint8))
PALETTE.putpalette(COLOURS.tobytes())
HALF_CLEAR = np.arange(20) * 13

#: What undoes each EXIF orientation, as a function of an array (H, W, 3).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}

PNG_FILE = file_of(WHOLE)
HUGE = (9000, 9000)
NOT_HEX = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n       7\nnot hexadecimal\n")


def with_chunk(added: bytes, last: bool = False) -> bytes:
    """The PNG file of the picture with a chunk more, before its pixels or after them."""
    place = len(PNG_FILE) - 12 if last else 33
    return PNG_FILE[:place] + added + PNG_FILE[place:]


def animated(kind: str, **options) -> bytes:
    others = [Image.new("RGB", WHOLE.size, colour) for colour in ("red", "blue")]
    return file_of(
        WHOLE.quantize(32) if kind == "GIF" else WHOLE, kind, save_all=True, append_images=others, **options
    )


KINDS = {
    "JPEG": Kind(file_of(WHOLE, "JPEG", quality=100, subsampling=0), RGB, suffix="jpg", tolerance=4),
    "MPO": Kind(
        file_of(WHOLE, "MPO", quality=100, subsampling=0, save_all=True, append_images=[Image.new("RGB", WHOLE.size)]),
        RGB, suffix="jpg", tolerance=4,
    ),
    "WebP": Kind(file_of(WHOLE, "WEBP", lossless=True), RGB, suffix="webp"),
    "BMP": Kind(file_of(WHOLE, "BMP"), RGB, suffix="bmp"),
    "PPM": Kind(file_of(WHOLE, "PPM"), RGB, suffix="ppm"),
    "TIFF": Kind(file_of(WHOLE, "TIFF", compression="tiff_lzw"), RGB, suffix="tif"),
    "grey": Kind(array_file(GREY), grey3(GREY)),
    "grey and alpha": Kind(
        array_file(np.dstack([GREY, ALPHA])), on_white(grey3(GREY), ALPHA), tolerance=1
    ),
    "1 bit": Kind(array_file(BITS), grey3(BITS * 255)),
    "16 bits, PNG": Kind(array_file(DEEP), grey3(DEEP >> 8)),
    "16 bits, TIFF": Kind(array_file(DEEP, "TIFF"), grey3(DEEP >> 8), suffix="tif"),
    "16 bits, big-endian": Kind(array_file(DEEP.astype(">u2"), "TIFF"), grey3(DEEP >> 8), suffix="tif"),
    "16 bits, PGM": Kind(
        b"P5\n40 24\n65535\n" + DEEP.astype(">u2").tobytes(), grey3(DEEP >> 8), suffix="pgm"
    ),
    "16 bits and dark, PGM": Kind(
        b"P5\n40 24\n65535\n" + GREY.astype(">u2").tobytes(), grey3(GREY * 0), suffix="pgm", as_array=False
    ),
    "16 bits, one value transparent": Kind(
        png((40, 24), 16, b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP),
            chunk(b"tRNS", struct.pack(">H", DEEP[0, 0]))),
        grey3(np.where(DEEP[0, 0] == DEEP, 255, DEEP >> 8)), as_array=False,
    ),
    "32 bits, of 8": Kind(array_file(GREY.astype(np.int32), "TIFF"), grey3(GREY), suffix="tif"),
    "32 bits, of 16": Kind(array_file(DEEP.astype(np.int32), "TIFF"), grey3(DEEP >> 8), suffix="tif"),
    "32 bits, of more": Kind(
        array_file(DEEP.astype(np.int32) * 2000, "TIFF"), fault="expected 0 to 1", suffix="tif"
    ),
    "32 bits, negative": Kind(
        array_file(GREY.astype(np.int32) - 128, "TIFF"), fault="expected 0 to 1", suffix="tif"
    ),
    "floats to 1": Kind(array_file(SHARES, "TIFF"), grey3(GREY), suffix="tif"),
    "floats to 255": Kind(array_file(GREY.astype(np.float32), "TIFF"), grey3(GREY), suffix="tif"),
    "floats to 65535": Kind(array_file(DEEP.astype(np.float32), "TIFF"), grey3(DEEP >> 8), suffix="tif"),
    "floats above 1": Kind(array_file(SHARES + np.float32(0.5), "TIFF"), fault="clip the values to 1", suffix="tif"),
    "floats, normalised": Kind(array_file(SHARES - np.float32(0.5), "TIFF"), fault="expected 0 to 1", suffix="tif"),
    "floats, not numbers": Kind(
        array_file(np.where(BITS, np.float32("nan"), SHARES), "TIFF"), fault="go from nan to nan", suffix="tif"
    ),
    "palette": Kind(file_of(PALETTE), COLOURS[NUMBERS], as_array=False),
    "palette with transparency": Kind(
        file_of(PALETTE, transparency=bytes(HALF_CLEAR.tolist())),
        on_white(COLOURS[NUMBERS], HALF_CLEAR[NUMBERS]), tolerance=1, as_array=False,
    ),
    "palette with a transparent colour": Kind(
        file_of(PALETTE, "GIF", transparency=7),
        np.where((NUMBERS == 7)[..., None], 255, COLOURS[NUMBERS]).astype(np.uint8), suffix="gif", as_array=False,
    ),
    "RGBA": Kind(array_file(np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA), tolerance=1),
    "RGBA, WebP": Kind(
        array_file(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True), on_white(RGB, ALPHA),
        suffix="webp", tolerance=1,
    ),
    "CMYK": Kind(file_of(WHOLE.convert("CMYK"), "TIFF"), RGB, suffix="tif", tolerance=1, as_array=False),
    "CMYK, JPEG": Kind(
        file_of(WHOLE.convert("CMYK"), "JPEG", quality=100), RGB, suffix="jpg", tolerance=4, as_array=False
    ),
    "YCbCr": Kind(
        file_of(WHOLE.convert("YCbCr"), "TIFF", compression="tiff_lzw"), RGB, suffix="tif", tolerance=3, as_array=False
    ),
    # Pillow before 13 writes it, and cannot read it.
    "YCbCr, uncompressed": Kind(
        file_of(WHOLE.convert("YCbCr"), "TIFF"), RGB if PILLOW >= 13 else None, fault="truncated", suffix="tif", tolerance=3,
        as_array=False,
    ),
    "LAB": Kind(file_of(WHOLE.convert("LAB"), "TIFF"), RGB, suffix="tif", tolerance=16, as_array=False),
    **{
        f"turned {number}": Kind(file_of(WHOLE, exif=turned(number)), UPRIGHT[number](RGB), as_array=False)
        for number in range(1, 9)
    },
    "turned, JPEG": Kind(
        file_of(WHOLE, "JPEG", quality=100, subsampling=0, exif=turned(6)), UPRIGHT[6](RGB),
        suffix="jpg", tolerance=4, as_array=False,
    ),
    "turned, WebP": Kind(
        file_of(WHOLE, "WEBP", lossless=True, exif=turned(5)), UPRIGHT[5](RGB), suffix="webp", as_array=False
    ),
    "turned, TIFF": Kind(file_of(WHOLE, "TIFF", exif=turned(8)), UPRIGHT[8](RGB), suffix="tif", as_array=False),
    "turned and of 16 bits": Kind(array_file(DEEP, exif=turned(6)), UPRIGHT[6](grey3(DEEP >> 8)), as_array=False),
    "orientation 0": Kind(file_of(WHOLE, exif=turned(0)), RGB),
    "orientation 99": Kind(file_of(WHOLE, exif=turned(99)), RGB),
    "EXIF garbage, WebP": Kind(file_of(WHOLE, "WEBP", lossless=True, exif=b"garbage"), RGB, suffix="webp"),
    "EXIF garbage, JPEG": Kind(
        file_of(WHOLE, "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0garbage"), RGB, suffix="jpg", tolerance=4
    ),
    "EXIF garbage, PNG": Kind(with_chunk(chunk(b"eXIf", b"garbage")), RGB),
    "EXIF garbage, PNG, at the end": Kind(with_chunk(chunk(b"eXIf", b"garbage"), last=True), RGB),
    "EXIF not hexadecimal, PNG": Kind(with_chunk(chunk(b"zTXt", NOT_HEX)), RGB),
    "animated GIF": Kind(animated("GIF"), RGB, suffix="gif", as_array=False),
    "animated WebP": Kind(animated("WEBP", lossless=True), RGB, suffix="webp", tolerance=1),
    "animated PNG": Kind(animated("PNG"), RGB),
    "1 pixel wide": Kind(array_file(RGB[:, :1]), RGB[:, :1]),
    "1 pixel high": Kind(array_file(RGB[:1]), RGB[:1]),
    "huge": Kind(
        png(HUGE, 1, (b"\0" + bytes(9000 // 8)) * 9000), fault="9000 x 9000 are 81,000,000 pixels, more than", as_array=False
    ),
    "truncated": Kind(PNG_FILE[: len(PNG_FILE) // 2], fault="truncated", as_array=False),
    "HTML": Kind(b"<html>gone</html>", fault="not an image file of the formats", as_array=False),
    "empty": Kind(b"", fault="an empty file", as_array=False),
    "EPS": Kind(file_of(WHOLE, "EPS"), fault="not an image file of the formats", suffix="eps", as_array=False),
    "icon": Kind(file_of(WHOLE, "ICO"), fault="not an image file of the formats", suffix="ico", as_array=False),
}  # fmt: skip
