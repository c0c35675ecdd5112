"""Fetches images from the web into a folder, before training starts."""

import functools
import hashlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import requests
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm
from urllib3.exceptions import DecodeError, HTTPError, LocationValueError, ReadTimeoutError

from ...modeling.fields import check_bounds, option
from ...processing.decoding import MAX_PIXELS
from .image_checks import check_image


logger = logging.getLogger(__name__)

#: How many redirects of one URL are followed.
MAX_REDIRECTS = 5

#: Seconds between two tries, times the number of tries so far.
PAUSE = 0.5


#: Errors of addresses that cannot be asked for: not of the form of a URL, or led on to another protocol.
WRONG_ADDRESS = requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema

#: Some servers turn away clients without a name.
HEADERS = {"User-Agent": "renaissance"}


class NoFile(NamedTuple):
    """Why there is no file for an image: the kind of reason, and a message that names the image."""

    reason: str
    message: str


@dataclass
class Downloading:
    """Fetches images by HTTP: the options, the folder where an image that was fetched once is found again, and what has failed so
    far, which is not asked for again."""

    folder: str | None = option(
        None,
        "Folder that keeps the images that are downloaded.",
        default_is="renaissance/images in the cache of Hugging Face (HF_HOME)",
    )
    timeout: float = option(20.0, "Seconds after which one try to download an image is given up.", within="(0, 86400]")
    retries: int = option(2, "Number of further tries after a failed one.", within="[0, 1000]")
    threads: int = option(16, "Number of images that are downloaded at a time.", within="[1, 1024]")
    max_megabytes: float = option(50.0, "Largest size of a downloaded image.", within="(0, inf)")

    def __post_init__(self):
        self.folder = self.folder or str(Path(HF_HOME) / "renaissance" / "images")
        self.failed: dict[str, NoFile] = {}
        check_bounds(self, prefix="download_")

    def fetch(self, urls: Sequence[str], max_pixels: int = MAX_PIXELS) -> dict[str, str | NoFile]:
        """
        Return for each URL the file that it was fetched to, or the reason why it was not, such as an image of more than
        `max_pixels`. The first process fetches; all get the same answer, because they must leave out the same rows.
        """
        found = [self.fetch_all(urls, max_pixels) if PartialState().is_main_process else None]
        return broadcast_object_list(found)[0]

    def fetch_all(self, urls: Sequence[str], max_pixels: int) -> dict[str, str | NoFile]:
        """Fetch the URLs that the folder lacks, several at a time; log how many there were and why some failed."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        found = {url: str(self.file(url)) for url in urls}
        absent = [url for url, file in found.items() if not Path(file).is_file()]
        missing = [url for url in absent if url not in self.failed]
        logger.info(f"{folder}: {len(urls) - len(absent)} of {len(urls)} images are there; fetching {len(missing)}")
        with ThreadPoolExecutor(self.threads) as pool:
            fetched = pool.map(functools.partial(self.try_to_fetch, max_pixels=max_pixels), missing)
            results = tqdm(fetched, total=len(missing), desc="images", unit="image", disable=None)
            self.failed |= {url: fault for url, fault in zip(missing, results, strict=True) if fault}
        faults = {url: self.failed[url] for url in absent if url in self.failed}
        for reason, count in Counter(fault.reason for fault in faults.values()).most_common():
            logger.warning(f"{count} of {len(absent)} images could not be fetched: {reason}")
        if known := len(absent) - len(missing):
            logger.info(f"{known} images of an earlier split or file were not asked for again")
        return found | faults

    def file(self, url: str) -> Path:
        """Return the file that a URL is fetched to."""
        return Path(self.folder) / hashlib.sha256(url.encode()).hexdigest()

    def try_to_fetch(self, url: str, max_pixels: int) -> NoFile | None:
        """Fetch a URL into its file; return the reason why the last of several tries failed, if all do. An address that
        is wrong, and content that is no image, are not asked for again."""
        for number in range(1 + self.retries):
            time.sleep(PAUSE * number)
            try:
                content = within(self.timeout, functools.partial(self.content, url))
                # A damaged image is not kept: the server may have a whole one later.
                check_image({"bytes": content, "path": None, "name": url}, max_pixels)
            except requests.RequestException as error:
                reason = reason_of(error)
                if isinstance(error, WRONG_ADDRESS):
                    return NoFile(reason, f"{reason}: {url}")
            except ValueError as error:
                return NoFile("downloaded, but no usable image", f"downloaded, but no usable image: {error}")
            else:
                self.keep(url, content)
                return None
        tries = f"{1 + self.retries} times" if self.retries else "once"
        return NoFile(reason, f"{reason}: {url} (tried {tries})")

    def content(self, url: str) -> bytes:
        """Return what one request gives; raise `requests.RequestException` if it fails, `ValueError` if it is too large."""
        end, most = time.monotonic() + self.timeout, int(self.max_megabytes * 1e6)
        with requests.Session() as session:
            session.max_redirects = MAX_REDIRECTS
            with self.response(session, url) as response:
                response.raise_for_status()
                content = bytearray()
                try:
                    # Not `iter_content`, which waits for whole parts: a slow server may never fill one.
                    while part := response.raw.read1(65_536, decode_content=True):
                        content += part
                        if len(content) > most:
                            raise ValueError(f"{url}: larger than download_max_megabytes, {self.max_megabytes:g}")
                        if time.monotonic() > end:
                            raise requests.Timeout
                except ReadTimeoutError as error:
                    raise requests.Timeout from error
                except DecodeError as error:
                    raise requests.exceptions.ContentDecodingError from error
                except HTTPError as error:
                    raise requests.exceptions.ChunkedEncodingError from error
                if response.raw.length_remaining:
                    raise requests.exceptions.ChunkedEncodingError
        return bytes(content)

    def response(self, session: requests.Session, url: str) -> requests.Response:
        """Return the answer to a request, whose content is not read yet; raise `requests.RequestException` if it fails."""
        try:
            return session.get(url, headers=HEADERS, timeout=self.timeout, stream=True)
        except (LocationValueError, UnicodeError) as error:
            # Of hosts that no name server could be asked for, which requests lets through.
            raise requests.exceptions.InvalidURL from error

    def keep(self, url: str, content: bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        with NamedTemporaryFile(dir=self.folder, delete=False) as file:
            file.write(content)
        os.chmod(file.name, 0o644)
        os.replace(file.name, self.file(url))


def within(seconds: float, work: Callable[[], bytes]) -> bytes:
    """Return what `work` does; raise `requests.Timeout` if that takes longer, and leave it alone. The time-outs of a request are
    of single reads, of which a server can ask for any number before the content begins: for headers and for redirects."""
    done = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError as error:
        raise requests.Timeout from error


def is_url(path: str | None) -> bool:
    """Return whether this is an address on the web."""
    return path is not None and path.lower().startswith(("http://", "https://"))


def reason_of(error: requests.RequestException) -> str:
    """Return why a request failed, in words that are the same for all failures of a kind."""
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    kinds = {
        requests.exceptions.InvalidSchema: "redirected to an address that is not http or https",
        requests.exceptions.InvalidURL: "not a valid URL",
        requests.TooManyRedirects: f"more than {MAX_REDIRECTS} redirects",
        requests.Timeout: "time-out",
        requests.exceptions.ChunkedEncodingError: "the connection broke off",
        requests.exceptions.ContentDecodingError: "compressed data that cannot be unpacked",
        requests.exceptions.SSLError: "no secure connection, such as for an invalid certificate",
        requests.exceptions.ProxyError: "no connection to the proxy",
        requests.ConnectionError: "no connection",
    }
    return next((reason for kind, reason in kinds.items() if isinstance(error, kind)), "the request failed")
