"""Loaders that shuffle: their samples cannot be told by number."""

# Parts of the names of torch's samplers and of most others, in small letters, and the whole names of those that keep an
# order.
_SHUFFLES, _KEEPS = ("random", "shuffle"), ("SequentialSampler", "BatchSampler", "_InfiniteConstantSampler")


def samplers(source) -> list:
    """Return what a loader, or one that is being gone through, takes its order from, the outermost first."""
    first = [getattr(source, name, None) for name in ("batch_sampler", "sampler", "_index_sampler")]
    if first[0] is not None:
        first[1] = None  # a loader of batches has another one, which it does not use
    found = [sampler for sampler in first if sampler is not None]
    for sampler in found:
        found += [getattr(sampler, "sampler", None)] * (getattr(sampler, "sampler", None) is not None)
    return found


def check_listed(source, name: str) -> None:
    """Refuse a loader that shuffles where its samples are to be listed by number."""
    for sampler in samplers(source):
        kind = type(sampler).__name__
        if getattr(sampler, "shuffle", False) is True or any(word in kind.lower() for word in _SHUFFLES):
            raise ValueError(
                f"{name} comes from a loader that shuffles ({kind}): the samples that flip could not be told by their "
                "numbers; give one with shuffle=False."
            )


def order_note(split) -> str:
    """Say that samples are numbered as a loader orders them, if that may be another order than that of the rows."""
    others = [kind for kind in (type(sampler).__name__ for sampler in samplers(split)) if kind not in _KEEPS]
    if not others:
        return ""
    return (
        f"Held-out samples are listed by their place in the loader, which {others[0]} orders: give ids for their names."
    )
