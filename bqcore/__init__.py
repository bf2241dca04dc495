"""Decision boundaries of quantized classifiers; ``bqcore.audit`` compares any two classifiers."""

_HOME = {
    "audit": "auditing",
    "sweep": "blame",
    "blame_layers": "blame",
    "plan_bits": "blame",
    "layers": "perlayer",
    "model_bytes": "perlayer",
}


def __getattr__(name: str):
    # Imported when first asked for: torch and xarray take seconds, which `import bqcore.checks` need not wait for.
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
