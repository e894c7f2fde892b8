"""Plots, drawn without a display by matplotlib, an optional extra."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def check_matplotlib(sentence: str = "A plot needs matplotlib; install it with pip install -e '.[make]', or leave --plot out.") -> None:
    """Raise ValueError, with a sentence for the user, if nothing can be drawn here."""
    if not importlib.util.find_spec("matplotlib"):
        raise ValueError(sentence)


@contextmanager
def plotted(path: Path, **options: Any) -> Iterator[Any]:
    """Yield what `pyplot.subplots(**options)` makes, a figure and its axes, and save it as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(layout="constrained", **options)
    try:
        yield figure, axes
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    finally:
        pyplot.close(figure)
