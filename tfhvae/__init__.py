"""Hierarchical and semi-supervised variational auto-encoders in TensorFlow and Keras 3.

`import tfhvae` is cheap: `tfhvae.models`, `tfhvae.bounds` and the other parts load TensorFlow when
they are first used.
"""

import importlib

_PARTS = (
    "bounds",
    "configuration",
    "data",
    "diagnostics",
    "distributions",
    "evaluation",
    "experiments",
    "figures",
    "hardware",
    "layers",
    "models",
    "monitoring",
    "objectives",
    "plotting",
    "results",
    "traces",
    "training",
)


def __getattr__(name):
    if name in _PARTS:
        return importlib.import_module(f"tfhvae.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("tfhvae")
    raise AttributeError(f"module 'tfhvae' has no attribute {name!r}")


def __dir__():
    return sorted([*_PARTS, "__version__"])
