"""One thread for small tensors, on which torch is many times slower with several."""

from contextlib import contextmanager


@contextmanager
def one_thread():
    """
    Keep torch and the linear-algebra libraries on one thread inside the block, and restore them after it.

    One thread rounds the same way everywhere, and is faster at this size: two of them wait for each other.
    """
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
