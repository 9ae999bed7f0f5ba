"""Writing that leaves either the old file or the new one, never half of one."""

import contextlib
import json
import os
import re
import time
import uuid

_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\..")
_LEAST_AGE = 600.0  # seconds; what is younger may be another process's, which evaluates or draws


@contextlib.contextmanager
def atomic_path(path):
    """A temporary path beside `path` to write to; it takes the place of `path` when the block
    ends, and goes when the block fails."""
    path = os.fspath(path)
    # keeps the ending, by which some writers choose the format
    temporary = os.path.join(
        os.path.dirname(path), f".{uuid.uuid4().hex[:8]}.{os.path.basename(path)}"
    )
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk
            raise OSError(error.errno, error.strerror, path) from error
        raise


def remove_leftovers(folder):
    """Removes what killed processes have left of `atomic_path` in a folder, once it is ten minutes
    old."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError):
            if _TEMPORARY.match(name) and time.time() - os.path.getmtime(path) > _LEAST_AGE:
                os.remove(path)


def write_text(path, text):
    """Writes `text` atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_json(path, value):
    """Writes `value` as JSON, atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_arrays(path, **arrays):
    """Writes named arrays to a compressed NumPy archive, atomically."""
    import numpy as np

    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _sync(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
