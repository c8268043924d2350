"""What curves look like, so that they are told apart by the colour-blind and in grey."""

from collections.abc import Sequence

from tabular import OPTIMIZERS

# Okabe and Ito's colours: told apart by the colour-blind too.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
HUES = dict(zip(OPTIMIZERS, (BLUE, GREEN, VERMILION, PURPLE, ORANGE), strict=True))
# What is ordered goes from dark to light: five steps of viridis.
RAMP = ("#440154", "#3E4A89", "#26828E", "#35B779", "#9FDA3A")
Line = str | tuple[float, tuple[float, ...]]  # as matplotlib has it: a name, or offset and dashes
Looks = Sequence[tuple[str, str, Line, str]]  # label, colour, line and marker of every curve

# Curves that share a panel differ in hue, lightness, line and marker; one line alone is solid.
NONE = (BLACK, "--", "o")
KEPT: Looks = (
    ("p = 1 (no LRD)", *NONE),
    ("p = 0.1", RAMP[0], (0, (1, 1)), "v"),
    ("p = 0.3", RAMP[1], (0, (3, 1)), "s"),
    ("p = 0.5", RAMP[2], "-", "D"),
    ("p = 0.7", RAMP[3], (0, (5, 1, 1, 1)), "^"),
    ("p = 0.9", RAMP[4], (0, (8, 2)), "P"),
)
REGULARIZERS: Looks = (
    ("no regularization", *NONE),
    ("SD", ORANGE, (0, (3, 1)), "^"),
    ("NG", GREEN, (0, (5, 1, 1, 1)), "v"),
    ("NL", VERMILION, (0, (1, 1)), "P"),
    ("LRD", BLUE, "-", "s"),
    ("LRD and SD", SKY, (0, (8, 2)), "D"),
    ("LRD and NG", PURPLE, (0, (8, 2, 1, 2)), "X"),
)
GRADIENTS: Looks = (
    ("base", *NONE),
    ("LRD", BLUE, "-", "s"),
    ("DG", ORANGE, (0, (5, 1, 1, 1)), "^"),
)
UNITS_KEPT: Looks = (
    ("p_sd = 1 (no SD)", *NONE),
    ("p_sd = 0.9", RAMP[3], "-", "D"),
    ("p_sd = 0.8", RAMP[2], (0, (8, 2)), "^"),
    ("p_sd = 0.7", RAMP[1], (0, (3, 1)), "s"),
    ("p_sd = 0.6", RAMP[0], (0, (1, 1)), "v"),
)
