"""The toy example's function and the places on it (paper, section 3.2). Imports nothing of ours."""

from typing import Any

DOMAIN = ((-4.0, 0.0), (-2.0, 3.0))  # of x and of y
GOOD = (-0.7494, 1.4165)  # the least value, 0.0537; the paper prints (-0.74, 1.40)
BAD = (-1.5036, -0.3336)  # a local minimum, 0.2753
BEYOND = (1.6741, 0.6057)  # one outside the domain, 0.1249
# What is this close to a minimum is in its basin: from anywhere in the disc, descent by small steps
# ends there. The discs of GOOD and BAD lie inside the domain.
NEAR = 0.25


def f(x: Any, y: Any) -> Any:
    """Equation (3), element by element: of numbers, of arrays, of tensors.

    On the line x = 0 it is 14.203 throughout.
    """
    return (
        (1.5 - x**2 + x * y) ** 2 + (2.25 - x**2 + x * y**2) ** 2 + (2.625 - x**2 + x * y**3) ** 2
    )


def near(x: Any, y: Any, minimum: tuple[float, float]) -> Any:
    """Whether points lie in the disc around a minimum, element by element."""
    return (x - minimum[0]) ** 2 + (y - minimum[1]) ** 2 <= NEAR**2
