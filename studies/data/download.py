"""One file from several mirrors: resumed after a break, verified, and in its place only when it is whole."""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

TIMEOUT = (10, 30)  # seconds to connect, and between two pieces of an answer
ATTEMPTS = 5  # at one mirror, as long as each one brings something
CHUNK = 2**14  # bytes; what came of the last one is lost in a break


def fetch_file(path: str | Path, mirrors: list[str], *, md5: str, size: int, progress: bool = True) -> None:
    """
    Bring a file to *path*, unless it is there, from the first of several mirrors that gives it.

    What came before a break is kept beside *path* under another name, and the next attempt goes on behind it, at any
    mirror and in any process; the file is moved into its place when it is whole, by its MD5. Of several processes one
    downloads and the others wait for it. Where there are no file locks (Windows, some network disks), each process
    downloads for itself, and goes on behind its own part alone.

    Parameters
    ----------
    path : file
        A file that stands there and is another one, by its MD5, is replaced.
    mirrors : list of str
        Addresses of folders that hold the file under its name.
    md5 : str
    size : int
        Of the whole file, in bytes: no more than this is ever taken.
    progress : bool
        Show a bar with the time left, on standard error.

    Raises
    ------
    OSError
        If no mirror gives the file (each one's answer is told), or it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path, progress) as draft:
        if not (path.is_file() and md5_of(path) == md5):
            _fetch(path, draft, mirrors, md5, size, progress)


def md5_of(path: str | Path) -> str:
    """Give the MD5 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def draft_of(path: Path) -> Path:
    """Give the place of what has come of a file that is not whole yet."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def _alone(path: Path, progress: bool):
    """
    Let one process at a time write into the folder of *path*; the system frees the lock of one that is killed.

    Gives the draft to write to: one of this process alone where there are no locks.
    """
    draft, handle = draft_of(path), None
    try:
        import fcntl

        handle = os.open(path.parent, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with tqdm(desc=f"{path.name}: waiting for another process", bar_format="{desc}", disable=not progress):
            fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):  # Windows, some network disks
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
    finally:
        if handle is not None:
            os.close(handle)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fetch(path: Path, draft: Path, mirrors: list[str], md5: str, size: int, progress: bool) -> None:
    if _size(draft) == size and md5_of(draft) == md5:  # ended between the last byte and the move
        os.replace(draft, path)
        return
    if _size(draft) >= size:
        draft.unlink()
    answers, who = [], "the same command" if draft == draft_of(path) else "only this process, for want of file locks,"
    label = f"{path.parent.name}/{path.name}"
    come = _size(draft)
    with tqdm(total=size, initial=come, desc=label, unit="B", unit_scale=True, disable=not progress) as bar:
        for mirror in mirrors:
            for _ in range(ATTEMPTS):
                before = _size(draft)
                try:
                    answer = _attempt(mirror + path.name, draft, md5, size, bar)
                except _Unwritable as error:
                    raise OSError(
                        f"{draft} could not be written ({error}): make room, and {who} goes on where it stopped."
                    ) from None
                after = _size(draft)
                if answer is None:
                    os.replace(draft, path)
                    return
                if after == 0:
                    draft.unlink()
                if not (after > before or after == 0 < before):  # nothing new came, and nothing wrong was dropped
                    break
            answers.append(f"{urlsplit(mirror).netloc} {answer}")
    kept = f" {_size(draft)} bytes are kept, and {who} goes on behind them." if _size(draft) else ""
    raise OSError(
        f"{path.name} could not be had: {'; '.join(answers)}.{kept} Try again later, put the file into {path.parent}, "
        "or let BQ_DATA name a folder that has it."
    )


def _attempt(url: str, draft: Path, md5: str, size: int, bar: tqdm) -> str | None:
    """Download behind what *draft* holds; give None if it is whole then, or else what the mirror answered."""
    from pooch import HTTPDownloader  # here: it makes a notebook without widgets warn when it is imported

    have, seen = _size(draft), []
    bar.n = bar.initial = have
    with draft.open("ab", buffering=0) as file:
        target = _Target(file, size, bar)

        def look(response, **_):  # before anything of the answer's body is read
            seen.append(response)
            if response.is_redirect or not response.ok:
                return
            kind, length, part = (
                response.headers.get(f"content-{key}", "").lower() for key in ("type", "length", "range")
            )
            if kind.startswith("text/html"):
                raise _Refused("sent a web page instead of the file")
            if response.status_code == 206:
                if not part.startswith(f"bytes {have}-"):
                    raise _Refused(f"sent another part ({part or 'unnamed'}) than the one from byte {have} on")
            else:
                if length and length != str(size):
                    raise _Refused(f"sent {length} bytes where the file has {size}")
                target.restart()

        # A .gz is to come as it is, not unpacked on the way.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        download = HTTPDownloader(chunk_size=CHUNK, timeout=TIMEOUT, headers=headers, hooks={"response": look})
        try:
            download(url, target, None)
        except _Refused as error:
            return str(error)
        except OSError as error:  # every one of requests' is
            if have and seen and seen[-1].status_code == 416:  # no such part: what is there is not of this file
                target.restart()
            return _reason(error, seen, f"{target.size} of {size} bytes")
        finally:
            for response in seen:
                response.close()
        if target.size < size:
            return f"broke off after {target.size} of {size} bytes"
        found = md5_of(draft)
        if found != md5:
            target.restart()
            return f"sent other bytes than the published ones (MD5 {found})"
        os.fsync(file.fileno())
    return None


def _reason(error: BaseException, seen: list, came: str) -> str:
    """Put what went wrong between us and a mirror into a few words."""
    if seen and not seen[-1].ok:
        return f"answered {seen[-1].status_code} {seen[-1].reason}".rstrip()
    chain = [error]
    while True:  # what urllib3 met is wrapped in what requests makes of it
        first = chain[-1].args[0] if chain[-1].args else None
        inner = getattr(first, "reason", None) or chain[-1].__cause__ or chain[-1].__context__
        if not isinstance(inner, BaseException) or inner in chain:
            break
        chain.append(inner)
    told = [link.strerror for link in chain if isinstance(link, OSError) and link.strerror]
    if any("timed out" in str(link) for link in chain):
        told = ["silent for too long"]
    why = told[-1] if told else type(chain[-1]).__name__
    return f"broke off after {came} ({why})" if seen else f"could not be reached ({why})"


class _Refused(OSError):
    """An answer that is not the file, or not the part of it that was asked for."""


class _Unwritable(Exception):
    """The disk, and not the mirror, stands in the way."""


class _Target:
    """A draft that takes no more bytes than the whole file has, moves the bar, and can begin anew."""

    def __init__(self, file, limit: int, bar: tqdm):
        self.file, self.limit, self.bar, self.size = file, limit, bar, file.tell()

    def write(self, chunk: bytes) -> None:
        """Append a piece, or refuse it if the file would become too long."""
        if self.size + len(chunk) > self.limit:
            self.restart()
            raise _Refused(f"sent more than the {self.limit} bytes that the file has")
        rest = memoryview(chunk)
        while rest:  # an unbuffered file may take a part
            try:
                written = self.file.write(rest)
            except OSError as error:
                raise _Unwritable(error.strerror) from None
            rest = rest[written:]
            self.size += written
            self.bar.update(written)

    def flush(self) -> None:
        """Do nothing: the file has no buffer."""

    def restart(self) -> None:
        """Drop all that came."""
        self.file.truncate(0)
        self.size = self.bar.initial = 0
        self.bar.reset()
