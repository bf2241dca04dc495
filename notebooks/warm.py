"""
Start Python warm: python -S notebooks/warm.py notebooks/execute.py 01_levels

A build of the book starts Python for the study and its workers, for Sphinx, and twice for each notebook: to conduct it
and as its kernel. Each imports the same large packages. While a build has `python notebooks/warm.py --serve`
running, a start is a fork of that, which has them already: the forked process takes over the files, environment, folder
and arguments of the one that asked for it, and ends with that. Where none serves (not on Linux, or for a notebook
executed alone), Python starts as usual.
"""

import os
import sys

SOCKET = ".cache/warm.sock"  # relative, for a socket's name has at most 107 characters
# What most of them import, and first what the study does, which begins before the rest is there. Nothing here starts a
# thread, which a fork would not have.
PACKAGES = ["h5netcdf", "scipy.stats", "sklearn.datasets", "torch", "xarray"]
LATER = ["ipykernel.kernelapp", "jupytext", "papermill", "seaborn", "studies.figures.audit", "studies.figures.levels"]
LATER += ["jupyter_book.sphinx", "myst_nb.sphinx_ext", "sphinx_book_theme", "bs4"]


def serve():
    """Fork at each request and return it, in the forked process; end once standard input is closed."""
    import contextlib
    import gc
    import importlib
    import select
    import signal
    import socket

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for what works
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as notebooks have it; read when torch is imported
    with socket.socket(socket.AF_UNIX) as listener:
        if os.path.exists(SOCKET):
            os.unlink(SOCKET)  # of a build that was killed
        try:
            listener.bind(SOCKET)
        except OSError:  # a file system without sockets
            return None
        listener.listen()  # who asks from here on waits for the imports, which would take it as long itself
        gc.disable()  # looking for garbage would be a fifth of their time
        sys.path.insert(0, os.getcwd())
        for package in PACKAGES:
            importlib.import_module(package)
        later = LATER[:]
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [], 0 if later else None)[0]):
            if not ready:
                importlib.import_module(later.pop(0))
                continue
            asked, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                gc.freeze()
                gc.enable()
                gc.set_threshold(100_000)
                return asked
            asked.close()
    os.unlink(SOCKET)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()  # they have told their status, and count for the time of the build
    os._exit(0)  # taking apart all that was imported takes a second


def become(asked) -> None:
    """Do what was asked for, as the Python that would have been started; tell the status in the end."""
    import json
    import runpy
    import signal
    import socket
    import threading

    _, files, _, _ = socket.recv_fds(asked, 1, 3)
    for ours, theirs in enumerate(files):
        os.dup2(theirs, ours)
        os.close(theirs)
    words, folder, environment, leads = json.loads(asked.makefile().readline())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[1:1] = environment.get("PYTHONPATH", folder).split(os.pathsep)
    asked.sendall(b".")
    os.environ.pop("JPY_PARENT_PID", None)  # a kernel would look for its end, but that process is not its parent
    if leads:
        os.setsid()  # a kernel does not get the Ctrl-C of the terminal

    def follow():
        asked.recv(1)  # nothing comes: the one that asked is gone
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()
    status = 0
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = words[1:], folder
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words, os.path.dirname(os.path.abspath(words[0]))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    asked.sendall(bytes([status & 255]))
    os._exit(0)


def ask(words: list[str]) -> int:
    """Have the process that serves run Python with these arguments; return its status once it ends."""
    import json
    import signal
    import socket

    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(SOCKET)
        message = [words, os.getcwd(), dict(os.environ), os.getsid(0) == os.getpid()]
        socket.send_fds(asking, [b"."], [0, 1, 2])
        asking.sendall(json.dumps(message).encode() + b"\n")
        if not asking.recv(1):
            raise ConnectionError("The process that serves has ended before it took this over.")
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other one gets it too
        asking.settimeout(1)
        while os.getppid() == parent:
            try:
                return (asking.recv(1) or b"\1")[0]
            except TimeoutError:
                pass
    return 1


def main(words: list[str]) -> None:
    """Serve, or start Python warm or else as usual."""
    if words == ["--serve"]:
        asked = serve()
        if asked:
            become(asked)
        return
    try:
        status = ask(words)
    except (AttributeError, OSError):  # no such sockets on this system; nobody serves
        os.execv(sys.executable, [sys.executable, *words])
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
