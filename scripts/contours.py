"""What is drawn in a panel of Figure 4: the function's contours, the paths, the minima."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from cells import Filled
from looks import BLACK, BLUE, VERMILION
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from panels import GREY

from lrd.runs.store import Run
from tasks.landscape import BAD, BEYOND, DOMAIN, GOOD, f, near

Place = tuple[float, float]
VIEW = ((-4.15, 2.05), (-2.1, 3.1))  # the domain, and where those go that leave it
LEVELS = np.geomspace(0.06, 3e4, 14)
PALE = ListedColormap(colormaps["Greys"](np.linspace(0, 0.45, 256)))
EDGE: dict[str, Any] = {
    "color": BLACK,
    "markerfacecolor": "white",
    "markeredgewidth": 0.8,
    "linestyle": "",
}
MINIMA: dict[Place, dict[str, Any]] = {
    GOOD: {"label": "optimum", "marker": "*", "markersize": 9, **EDGE},
    BAD: {"label": "bad local minimum", "marker": "X", "markersize": 6.5, **EDGE},
    BEYOND: {"label": "minimum outside the domain", "marker": "P", "markersize": 6, **EDGE},
}
START: dict[str, Any] = {"marker": "o", "markersize": 3, "color": BLACK, "linestyle": ""}
# A path by where it ends: told apart by hue, by lightness and by line.
LINES: dict[Place | None, dict[str, Any]] = {
    GOOD: {"label": "path to the optimum", "color": BLUE, "linestyle": "-"},
    BAD: {"label": "path to the bad minimum", "color": VERMILION, "linestyle": (0, (4, 1.2))},
    None: {"label": "path to neither", "color": BLACK, "linestyle": (0, (1, 1))},
}
FIRST: dict[str, Any] = {"linewidth": 1.2, "zorder": 4}
OTHER: dict[str, Any] = {"linewidth": 0.6, "zorder": 3, "alpha": 0.5}


def draw_function(axis: Axes) -> ScalarMappable:
    """Contours at log-spaced levels, f in grey below, the border of the domain and the minima."""
    x, y = np.meshgrid(*(np.linspace(*side, 200) for side in VIEW))
    values = f(x, y)
    # An image below, since filled contours are most of a megabyte as paths.
    look: dict[str, Any] = {"cmap": PALE, "aspect": "auto", "interpolation": "bilinear"}
    norm = LogNorm(LEVELS[0], LEVELS[-1])
    shade = axis.imshow(values, norm=norm, origin="lower", extent=(*VIEW[0], *VIEW[1]), **look)
    axis.contour(x, y, values, LEVELS, colors=GREY, linewidths=0.3, alpha=0.6)
    (x0, x1), (y0, y1) = DOMAIN
    border = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=GREY, ls="-.", lw=0.6)
    axis.add_patch(border)
    for place, mark in MINIMA.items():
        axis.plot([place[0]], [place[1]], zorder=5, **mark)
    axis.set(xlim=VIEW[0], ylim=VIEW[1])
    return shade


def draw_paths(axis: Axes, *cells: Filled) -> None:
    """Every seed's path from every named start: the first seed's in full, the others' faint.

    ``cells`` differ in how often they log alone, so that one seed's runs are on the same path.
    """
    by_seed: dict[int, list[Run]] = defaultdict(list)
    for run in (run for filled in cells for run in filled.runs):
        by_seed[run.seed].append(run)
    for number, seed in enumerate(sorted(by_seed)):
        for path in paths(by_seed[seed]).values():
            x, y = path.T
            axis.plot(x, y, **LINES[end(path)] | (OTHER if number else FIRST))
            axis.plot(x[:1], y[:1], zorder=4.5, **START)


def paths(runs: Sequence[Run]) -> dict[str, NDArray[np.float64]]:
    """(n, 2) of every named start: where it begins, and where the runs' epochs say that it was.

    Raises ValueError, in one line, where an epoch does not say so.
    """
    found: dict[str, dict[int, Any]] = {}
    for run in runs:
        lines = run.metrics
        for name, start in named(run).items():
            try:
                places = {m["step"]: (float(m[f"x_{name}"]), float(m[f"y_{name}"])) for m in lines}
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{run.folder}: an epoch has no place of {name}") from error
            found[name] = found.get(name, {0: start}) | places
    return {name: np.array([at for _, at in sorted(p.items())]) for name, p in found.items()}


def named(run: Run) -> dict[str, Any]:
    """The named starts of a run's configuration."""
    prefix = "dataset.named."
    return {k.removeprefix(prefix): v for k, v in run.identity.items() if k.startswith(prefix)}


def end(path: NDArray[np.float64]) -> Place | None:
    """The minimum of the domain that a path ends at, if it does."""
    x, y = path[-1]
    return next((minimum for minimum in (GOOD, BAD) if near(x, y, minimum)), None)


def handles() -> list[Line2D]:
    """The legend's entries."""
    looks = [*LINES.values(), START | {"label": "start"}, *MINIMA.values()]
    return [Line2D([], [], **look) for look in looks]
