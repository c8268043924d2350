"""The tables beyond the paper: does a decay or a learning rate explain what LRD does?"""

from tabular import BASE, LRD, OPTIMIZERS, PAPER, Cell, Table

# What sets the arms of lr_control apart, as the columns call it.
RATES = {
    "base": "base",
    "base_half": "base, half the rate",
    "lrd": "LRD p = 0.5",
    "lrd_rescaled": "LRD, 1/p",
}
FACTORS = ("0.125", "0.25", "0.5", "1", "2", "4", "8")  # the grid of lr_tuned
ARMS = {"without LRD": BASE, "with LRD": LRD}


def decay() -> Table:
    """The 2 x 2 of RMSprop: the paper's arm with LRD is the authors' optimizer."""
    printed = PAPER["table1"]["cells"]["cifar10/resnet34"]["rmsprop"]
    numbers = {("rmsprop", BASE): printed["base"], ("rmsprop_authors", LRD): printed["lrd"]}
    groups = tuple(
        tuple(
            Cell("rmsprop_decay", (f"optim={optim}", p), numbers.get((optim, p)))
            for p in (BASE, LRD)
        )
        for optim in ("rmsprop", "rmsprop_authors")
    )
    return Table(
        "RMSprop's weight decay, in the update or not: test accuracy on CIFAR-10 (%), without / "
        "with learning rate dropout",
        ("Dataset",),
        ("Decay in the update", "Decay in the second moment only"),
        ((("CIFAR-10",), groups),),
        (
            ("LRD, decay in the update", 0, 1),
            ("LRD, decay in the second moment only", 2, 3),
            ("no decay in the update, without LRD", 0, 2),
            ("both, as published", 0, 3),
        ),
    )


def control() -> Table:
    """Is LRD half a learning rate?"""
    return Table(
        "Learning rate dropout against half a learning rate: final score (%)",
        ("Optimizer",),
        tuple(RATES.values()),
        tuple(
            ((name,), tuple((Cell("lr_control", (f"optim={o}", f"+arm={a}")),) for a in RATES))
            for o, name in OPTIMIZERS.items()
        ),
        (
            ("LRD - base", 0, 2),
            ("base, half the rate - base", 0, 1),
            ("LRD - base, half the rate", 1, 2),
            ("LRD, 1/p - base", 0, 3),
        ),
    )


def tuned() -> Table:
    """One grid of rates for both arms; scripts/tuned.py chooses from it."""
    return Table(
        "Learning rates as multiples of the configured one: score on held-out training samples (%)",
        ("Optimizer", "Arm"),
        tuple(f"x {factor}" for factor in FACTORS),
        tuple(
            (
                (name, arm),
                tuple(
                    (Cell("lr_tuned", (f"optim={optim}", p, f"lr_factor={f}")),) for f in FACTORS
                ),
            )
            for optim, name in OPTIMIZERS.items()
            for arm, p in ARMS.items()
        ),
    )
