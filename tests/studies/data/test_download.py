"""Downloads from a server on this machine that does all that mirrors do: nothing half-written is taken for whole."""

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.data import download

ROOT = Path(__file__).resolve().parents[3]
CONTENT = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
OTHER = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
PAGE = b"<!DOCTYPE html><title>Sign in</title>"
NAME = "images.gz"
PART = 6 * download.CHUNK  # a third, nearly


class Mirror(BaseHTTPRequestHandler):
    """Answers in the way that the first folder of the address names."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        way = self.path.split("/")[1]
        asked = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.server.asked.append((way, asked))
        self.close_connection = True
        getattr(self, way)(asked)

    def send(self, content, start=0, *, stop=None, kind="application/gzip", length=None, pause=0.0):
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Connection", "close")
        if length is not False:
            self.send_header("Content-Length", str(length or len(content) - start))
        self.end_headers()
        for place in range(start, len(content) if stop is None else stop, 4096):
            self.wfile.write(content[place : min(place + 4096, stop or len(content))])
            time.sleep(pause)

    def good(self, asked):
        self.send(CONTENT, asked)

    def whole_only(self, asked):  # knows no ranges
        self.send(CONTENT)

    def truncated(self, asked):  # ends a third further on, each time
        self.send(CONTENT, asked, stop=min(len(CONTENT), asked + PART))

    def stuck(self, asked):  # never gets beyond the same place
        self.send(CONTENT, stop=PART)

    def short(self, asked):  # a shorter file, and its length says so
        self.send(CONTENT[:-1])

    def cut(self, asked):  # without a length, so that only the end of the connection says where it ends
        self.send(CONTENT, stop=1_000, length=False)

    def extended(self, asked):
        self.send(CONTENT + b"\0")

    def endless(self, asked):
        self.send(CONTENT + bytes(100_000), length=False)

    def tampered(self, asked):
        self.send(OTHER, asked)

    def tampered_part(self, asked):
        self.send(OTHER, stop=PART // 2)

    def page(self, asked):
        self.send(PAGE, kind="text/html; charset=utf-8")

    def page_as_archive(self, asked):
        self.send(PAGE * (len(CONTENT) // len(PAGE)) + b" " * (len(CONTENT) % len(PAGE)))

    def elsewhere(self, asked):
        self.send_response(302)
        self.send_header("Location", f"/good/{NAME}")
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def missing(self, asked):
        self.send_error(404)

    def broken(self, asked):
        self.send_error(503)

    def no_such_part(self, asked):
        if asked:
            self.send_error(416)
        else:
            self.good(0)

    def wrong_part(self, asked):
        self.send_response(206)
        self.send_header("Content-Range", f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def slow(self, asked):  # 3 s altogether
        self.send(CONTENT, asked, pause=0.04)

    def silent(self, asked):
        time.sleep(2)

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.daemon_threads, server.asked = True, []
    server.handle_error = lambda *arguments: None  # a client that is killed
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield server
    server.shutdown()
    server.server_close()
    thread.join()


def mirrors(server, *ways: str) -> list[str]:
    return [f"http://127.0.0.1:{server.server_port}/{way}/" for way in ways]


def fetch(server, folder: Path, *ways: str) -> list[tuple[str, int]]:
    """Fetch from mirrors of the ways named, and return what each of them was asked for: (way, first byte)."""
    server.asked.clear()
    download.fetch_file(folder / NAME, mirrors(server, *ways), md5=MD5, size=len(CONTENT), progress=False)
    assert (folder / NAME).read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == [NAME]
    return server.asked.copy()


@pytest.fixture
def get(server, tmp_path):
    return lambda *ways: fetch(server, tmp_path, *ways)


def refusal(get, *ways: str) -> str:
    with pytest.raises(OSError) as caught:
        get(*ways)
    message = str(caught.value)
    assert message.startswith(f"{NAME} could not be had: 127.0.0.1:") and "\n" not in message
    assert "or let BQ_DATA name a folder that has it." in message
    return message.replace("127.0.0.1:", "").split("had: ")[1]


# Whole


@pytest.mark.parametrize("way", ["good", "whole_only", "elsewhere"])
def test_a_file_that_is_sent_whole_is_there(get, way):
    assert get(way)[0] == (way, 0)


def test_a_file_that_is_there_is_not_asked_for_again_and_another_one_is_replaced(get, tmp_path):
    get("good")
    assert get("missing") == []
    for wrong in (b"", CONTENT[:-1], CONTENT + b"\0", OTHER, PAGE):
        (tmp_path / NAME).write_bytes(wrong)
        assert get("good") == [("good", 0)]


@pytest.mark.parametrize("first", [
    "truncated", "stuck", "short", "cut", "extended", "endless", "tampered", "tampered_part", "page", "page_as_archive",
    "missing", "broken", "wrong_part", "silent",
])  # fmt: skip
def test_the_second_mirror_makes_up_for_the_first(get, first, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (0.5, 0.5))
    asked = get(first, "whole_only")
    assert asked[0] == (first, 0)
    assert ("whole_only" in [way for way, _ in asked]) == (first != "truncated")  # which is resumed until it is whole


def test_a_mirror_that_takes_no_connection_is_passed_over(server, tmp_path):
    with socket.socket() as closed:  # bound, and so no one else's, but not listening
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        path = tmp_path / NAME
        download.fetch_file(path, [nobody, *mirrors(server, "good")], md5=MD5, size=len(CONTENT), progress=False)
        path.unlink()
        with pytest.raises(OSError, match=r"127\.0\.0\.1:\d+ could not be reached \(Connection refused\)\. Try again"):
            download.fetch_file(path, [nobody], md5=MD5, size=len(CONTENT), progress=False)
    assert list(tmp_path.iterdir()) == []


# What each mirror answered


@pytest.mark.parametrize(
    "way, answer",
    [
        ("missing", "answered 404 Not Found"),
        ("broken", "answered 503 Service Unavailable"),
        ("page", "sent a web page instead of the file"),
        ("page_as_archive", "sent other bytes than the published ones (MD5 "),
        ("tampered", f"expected md5:{MD5} but got {hashlib.md5(OTHER).hexdigest()})"),
        ("short", "sent 299999 bytes where the file has 300000"),
        ("extended", "sent 300001 bytes where the file has 300000"),
        ("endless", "sent other bytes than the published ones (MD5 "),
        ("stuck", f"broke off after {PART} of 300000 bytes"),
        ("cut", "broke off after 1000 of 300000 bytes"),
        ("wrong_part", "sent another part (bytes 0-299999/300000) than the one from byte 5000 on"),
        ("silent", "could not be reached (timed out)"),
    ],
)
def test_each_answer_is_told_and_nothing_is_taken_for_whole(get, tmp_path, monkeypatch, way, answer):
    monkeypatch.setattr(download, "TIMEOUT", (0.5, 0.5))
    if way == "wrong_part":
        download.draft_of(tmp_path / NAME).write_bytes(CONTENT[:5000])
    message = refusal(get, way, "missing")
    assert answer in message and message.count("; ") == 1 and "answered 404 Not Found" in message
    kept = {"stuck": PART, "cut": 1_000, "wrong_part": 5_000}.get(way)
    assert (f"{kept} bytes are kept, and the same command goes on behind them." in message) == bool(kept)
    drafts = [download.draft_of(tmp_path / NAME)] if kept else []
    assert list(tmp_path.iterdir()) == drafts
    for draft in drafts:
        assert draft.read_bytes() == CONTENT[:kept]


# Resumed


@settings(max_examples=25)
@given(st.data())
def test_it_goes_on_behind_any_beginning_at_any_mirror(tmp_path_factory, server, data):
    folder = tmp_path_factory.mktemp("draft")
    have = data.draw(st.integers(0, len(CONTENT)))
    download.draft_of(folder / NAME).write_bytes(CONTENT[:have])
    ways = data.draw(st.lists(st.sampled_from(["missing", "truncated", "whole_only", "good"]), max_size=3))
    asked = fetch(server, folder, *ways, "good")
    assert [start for _, start in asked[:1]] == ([] if have == len(CONTENT) else [have])


def test_a_truncated_answer_is_resumed_where_it_ended(get):
    assert get("truncated") == [("truncated", i * PART) for i in range(4)]


def test_a_wrong_beginning_is_dropped_when_the_whole_is_wrong(get, tmp_path):
    draft = download.draft_of(tmp_path / NAME)
    for wrong in (OTHER[:70_000], PAGE, OTHER, OTHER + OTHER):
        draft.write_bytes(wrong)
        asked = get("good")
        assert asked == ([("good", len(wrong))] if len(wrong) < len(CONTENT) else []) + [("good", 0)]
        (tmp_path / NAME).unlink()
    # Its second answer, which knows no ranges, brings nothing new: the next mirror goes on behind the wrong part.
    assert get("tampered_part", "good")[-2:] == [("good", PART // 2), ("good", 0)]


def test_a_mirror_of_a_shorter_file_is_passed_over_and_nothing_kept_is_lost(get, tmp_path):
    download.draft_of(tmp_path / NAME).write_bytes(CONTENT[:9])
    assert "answered 416 Requested Range Not Satisfiable. 9 bytes are kept" in refusal(get, "no_such_part")
    assert get("no_such_part", "good") == [("no_such_part", 9), ("good", 9)]


# Stopped, killed, two at once, no room


def child(folder: Path, server, *ways: str, before: str = "") -> subprocess.Popen:
    """Fetch in a process of its own, and print how it ended."""
    code = (
        f"import sys\n{before}\nfrom studies.data import download\n"
        "try: download.fetch_file(sys.argv[1], sys.argv[2:], md5=%r, size=%d)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
        "except OSError as error: print(error)\n"
        "else: print('whole')" % (MD5, len(CONTENT))
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", "-c", code, str(folder / NAME), *mirrors(server, *ways)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_draft(folder: Path, process: subprocess.Popen) -> int:
    """Wait until something, but not all, of the file has come; return how much."""
    draft, end = download.draft_of(folder / NAME), time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if draft.exists() and draft.stat().st_size > 8192:
            return draft.stat().st_size
        time.sleep(0.01)
    pytest.fail(f"nothing came: {process.communicate()}")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_download_is_not_there_and_goes_on(server, get, tmp_path, end):
    process = child(tmp_path, server, "slow")
    came = wait_for_draft(tmp_path, process)
    process.send_signal(end)
    out, error = process.communicate(timeout=60)
    assert (out, process.returncode) == (("interrupted\n", 0) if end == signal.SIGINT else ("", -signal.SIGKILL))
    assert "Traceback" not in error
    draft = download.draft_of(tmp_path / NAME)
    assert list(tmp_path.iterdir()) == [draft]
    kept = draft.read_bytes()
    assert came <= len(kept) < len(CONTENT) and CONTENT.startswith(kept)
    assert get("good") == [("good", len(kept))]


@pytest.mark.slow
def test_of_two_processes_one_downloads_and_the_other_waits(server, tmp_path):
    server.asked.clear()
    first = child(tmp_path, server, "slow")
    wait_for_draft(tmp_path, first)
    second = child(tmp_path, server, "slow")
    (out_1, error_1), (out_2, error_2) = first.communicate(timeout=60), second.communicate(timeout=60)
    assert out_1 == out_2 == "whole\n"
    assert f"{NAME}: waiting for another process" in error_2 and "waiting" not in error_1
    assert server.asked == [("slow", 0)]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.slow
def test_one_that_waits_takes_over_from_one_that_is_killed(server, tmp_path):
    server.asked.clear()
    first = child(tmp_path, server, "slow")
    wait_for_draft(tmp_path, first)
    second = child(tmp_path, server, "slow")
    time.sleep(0.5)
    first.kill()
    first.communicate()
    assert second.communicate(timeout=60)[0] == "whole\n"
    assert [way for way, _ in server.asked] == ["slow", "slow"] and server.asked[1][1] > 0
    assert (tmp_path / NAME).read_bytes() == CONTENT


WITHOUT = "import fcntl\ndef flock(*a): raise OSError(95, 'Operation not supported')\nfcntl.flock = flock\n"


@pytest.mark.slow
def test_without_locks_two_at_once_do_not_meet(server, tmp_path):
    both = [child(tmp_path, server, "slow", before=WITHOUT) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["whole\n", "whole\n"]
    assert (tmp_path / NAME).read_bytes() == CONTENT and len(list(tmp_path.iterdir())) == 1


def test_without_locks_a_process_goes_on_behind_its_own_part_and_leaves_none(server, tmp_path):
    server.asked.clear()
    out, _ = child(tmp_path, server, "stuck", "missing", before=WITHOUT).communicate(timeout=60)
    assert f"broke off after {PART} of 300000 bytes; " in out and "kept" not in out
    assert server.asked == [("stuck", 0), ("stuck", PART), ("missing", PART)] and list(tmp_path.iterdir()) == []


def limit(size: int) -> str:
    return f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def test_a_full_disk_is_one_line_and_what_came_is_kept(server, get, tmp_path):
    out, error = child(tmp_path, server, "good", "good", before=limit(100_000)).communicate(timeout=60)
    draft = download.draft_of(tmp_path / NAME)
    assert out == (
        f"{tmp_path / NAME} could not be written (File too large): make room or allow it, then try again. "
        "100000 bytes are kept, and the same command goes on behind them.\n"
    )
    assert "Traceback" not in error and server.asked[-1] == ("good", 0)
    assert list(tmp_path.iterdir()) == [draft] and draft.read_bytes() == CONTENT[:100_000]
    assert get("good") == [("good", 100_000)]  # there is room again


def test_an_endless_answer_is_stopped_soon_after_the_file_s_size(server, tmp_path):
    before = limit(len(CONTENT) + 2 * download.CHUNK)  # it would send 100,000 bytes more
    out, _ = child(tmp_path, server, "endless", before=before).communicate(timeout=60)
    assert "sent other bytes than the published ones" in out and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_or_written_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        download.fetch_file(tmp_path / "file" / NAME, mirrors(server, "good"), md5=MD5, size=9, progress=False)


@pytest.mark.slow
def test_progress_tells_the_file_its_size_and_the_time_left(server, tmp_path, capsys):
    download.draft_of(tmp_path / NAME).write_bytes(CONTENT[:150_000])
    download.fetch_file(tmp_path / NAME, mirrors(server, "slow"), md5=MD5, size=len(CONTENT))
    shown = capsys.readouterr().err
    assert f"{tmp_path.name}/{NAME}:" in shown and "/300k [" in shown and "100%" in shown
    assert " 50%|" in shown and " 0%|" not in shown  # it begins where the draft ends
    assert "<00:0" in shown
