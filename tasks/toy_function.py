"""The toy example's function and its minima (paper, section 3.2). Imports nothing of this project
and no torch."""

from typing import Any

DOMAIN = ((-4.0, 0.0), (-2.0, 3.0))  # of x and of y
GOOD = (-0.7494, 1.4165)  # the global minimum, 0.0537; the paper prints (-0.74, 1.40)
BAD = (-1.5036, -0.3336)  # a local minimum, 0.2753
BEYOND = (1.6741, 0.6057)  # a local minimum outside the domain, 0.1249
# Radius of the disc around a minimum that counts as its basin: gradient descent with small steps
# from anywhere in the disc ends at the minimum. The discs of GOOD and BAD lie inside the domain.
NEAR = 0.25


def f(x: Any, y: Any) -> Any:
    """Return equation (3), element by element, of numbers, arrays or tensors.

    On the line x = 0 the value is 14.203 everywhere.
    """
    return (
        (1.5 - x**2 + x * y) ** 2 + (2.25 - x**2 + x * y**2) ** 2 + (2.625 - x**2 + x * y**3) ** 2
    )


def is_near(x: Any, y: Any, minimum: tuple[float, float]) -> Any:
    """Return whether points lie in the disc around a minimum, element by element."""
    return (x - minimum[0]) ** 2 + (y - minimum[1]) ** 2 <= NEAR**2
