"""One file from several mirrors: pooch verifies and places it; a broken download goes on where it ended."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

TIMEOUT = (10, 30)  # seconds to connect, and between two pieces of an answer
ATTEMPTS = 5  # at one mirror, as long as each one brings something
CHUNK = 2**14  # bytes; what came of the last one is lost in a break


def fetch_file(path: str | Path, mirrors: list[str], *, md5: str, size: int, progress: bool = True) -> None:
    """
    Download a file to *path*, unless one of this MD5 is there, from the first of several mirrors, folders, that has it.

    What came before a break is kept beside *path*, and the next attempt goes on behind it, at any mirror and in any
    process. Of several processes one downloads and the others wait for it. Where there are no file locks (Windows, some
    network disks), each process downloads for itself, and what came is kept only while it runs.
    """
    import pooch  # here: it makes a notebook without widgets warn when it is imported

    pooch.get_logger().setLevel("WARNING")  # it would tell of each attempt
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    answers, trouble = [], None
    with _alone(path, progress) as draft:
        downloader = partial(_resume, draft=draft, size=size, progress=progress)
        try:
            for mirror in mirrors:
                url = mirror + path.name
                get = partial(pooch.retrieve, url, f"md5:{md5}", path.name, path.parent, downloader=downloader)
                if (answer := _attempt(get, draft)) is None:
                    return
                answers.append(f"{urlsplit(url).netloc} {answer}")
        except OSError as error:
            trouble = error.strerror or str(error)
    kept = f" {_size(draft)} bytes are kept, and the same command goes on behind them." if _size(draft) else ""
    if trouble:
        raise OSError(f"{path} could not be written ({trouble}): make room or allow it, then try again.{kept}")
    raise OSError(
        f"{path.name} could not be had: {'; '.join(answers)}.{kept} Try again later, put the file into {path.parent}, "
        "or let BQ_DATA name a folder that has it."
    )


def draft_of(path: Path) -> Path:
    """Return the place of what has come of a file that is not whole yet."""
    return path.with_name(f".{path.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _alone(path: Path, progress: bool) -> Iterator[Path]:
    """Yield a draft that no other process writes to; the system frees the lock of one that is killed."""
    draft, own, handle = draft_of(path), path.with_name(f".{path.name}.{os.getpid()}.part"), None
    try:
        import fcntl

        handle = os.open(path.parent, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if progress:
            tqdm.write(f"{path.name}: waiting for another process", file=sys.stderr)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):  # Windows, some network disks
        draft = own
    try:
        yield draft
    finally:
        own.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


class _Refused(Exception):
    """What a mirror answered instead of sending the file."""


def _attempt(get: Callable, draft: Path) -> str | None:
    """Try to get a file, as long as that changes what is kept of it; return the last answer, or None if it is there."""
    for _ in range(ATTEMPTS):
        before = _size(draft)
        try:
            get()
            return None
        except _Refused as error:
            answer = str(error)
        except ValueError as error:  # pooch's, of the MD5; what came is gone
            answer = f"sent other bytes than the published ones ({str(error).partition('. ')[0]})"
        if _size(draft) == before:
            break
    return answer


def _resume(url: str, target: str, _pooch: object, *, draft: Path, size: int, progress: bool) -> None:
    """Download what *draft* lacks, and move it to *target* for pooch to verify: a downloader, as pooch calls them."""
    os.unlink(target)  # made by pooch, and empty; a killed process would leave it there
    have = _size(draft)
    if have < size:
        with _ask(url, have, size) as answer:
            if answer.status_code != 206:  # all of it, not the part asked for
                have = 0
            label = f"{draft.parent.name}/{url.rpartition('/')[2]}"
            bar = tqdm(total=size, initial=have, desc=label, unit="B", unit_scale=True, disable=not progress)
            with bar, draft.open("ab" if have else "wb") as file:
                with suppress(requests.RequestException):  # the size tells it
                    for piece in answer.iter_content(CHUNK):
                        bar.update(file.write(piece))
                        if file.tell() > size:
                            break  # it is another file: pooch finds another MD5
        if _size(draft) < size:
            raise _Refused(f"broke off after {_size(draft)} of {size} bytes")
    os.replace(draft, target)


def _ask(url: str, have: int, size: int) -> requests.Response:
    """Return an answer whose body, not read yet, is the file from byte *have* on, or all of it."""
    # A .gz is to come as it is, not unpacked on the way.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise _Refused(f"could not be reached ({_cause(error)})") from None
    kind, length, part = (answer.headers.get(f"Content-{key}", "") for key in ("Type", "Length", "Range"))
    if not answer.ok:
        says = f"answered {answer.status_code} {answer.reason}"
    elif kind.lower().startswith("text/html"):
        says = "sent a web page instead of the file"
    elif answer.status_code == 206 and not part.startswith(f"bytes {have}-"):
        says = f"sent another part ({part or 'unnamed'}) than the one from byte {have} on"
    elif answer.status_code != 206 and length not in ("", str(size)):
        says = f"sent {length} bytes where the file has {size}"
    else:
        return answer
    answer.close()
    raise _Refused(says)


def _cause(error: BaseException) -> str:
    """Return the system's words for what lies behind an error of requests, which wraps it several times."""
    while error.__context__ and (isinstance(error, requests.RequestException) or not isinstance(error, OSError)):
        error = error.__context__
    return getattr(error, "strerror", None) or str(error)
