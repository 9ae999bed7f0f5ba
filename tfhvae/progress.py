"""Progress bars, quiet where nobody watches."""

import sys

from tqdm import tqdm


def bar(total, description, unit, initial=0):
    """A bar on standard error; where that is no terminal, a line every half minute."""
    watched = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        unit_scale=True,
        dynamic_ncols=watched,
        mininterval=0.2 if watched else 30.0,
        smoothing=0.05,
    )
