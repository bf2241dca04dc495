"""One thread for small tensors, on which torch is many times slower with several."""

import sys
from contextlib import contextmanager
from functools import lru_cache


@contextmanager
def one_thread():
    """
    Keep torch and the linear-algebra libraries on one thread inside the block, and restore them after it.

    One thread rounds the same way everywhere, and is faster at this size: two of them wait for each other.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries(len(sys.modules)).limit(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _libraries(modules: int):
    """Return the linear-algebra libraries, looked for anew, which takes milliseconds, if there are other *modules*."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
