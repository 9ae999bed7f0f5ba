"""Starting TensorFlow without its greetings: on a machine without a GPU they read like errors."""

import contextlib
import os
import re
import sys
import tempfile

_GREETING = re.compile(
    r"WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} .*(oneDNN|[cC][uU][dD][aA]|cuInit|cpu_feature_guard)|To enable the following instructions"
)


@contextlib.contextmanager
def without_greetings():
    """Holds back what is written to standard error meanwhile; lines that are no greeting are
    passed on at the end."""
    sys.stderr.flush()
    with tempfile.TemporaryFile(mode="w+b") as held:
        terminal = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            lines = held.read().decode(errors="replace").splitlines(keepends=True)
            sys.stderr.write("".join(line for line in lines if not _GREETING.match(line)))


def import_tensorflow():
    """Imports TensorFlow and looks for devices, which is when it greets."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_greetings():
        import tensorflow as tf
        import tensorflow_probability  # noqa: F401

        tf.config.list_physical_devices()
