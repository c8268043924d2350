"""Signals that ask a run to stop."""

import os
import pickle
import signal

import pytest

from lrd.runs.signals import SIGNALS, Interrupted, StopSignals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_travels_between_processes(number: int):
    """A cell that runs in another process brings it back by pickle."""
    back = pickle.loads(pickle.dumps(Interrupted(number)))
    assert (str(back), back.number, back.status) == (
        signal.Signals(number).name,
        number,
        128 + number,
    )


@pytest.mark.parametrize(
    ("sent", "at_once"),
    [
        ([signal.SIGINT], False),
        ([signal.SIGINT, signal.SIGINT], True),
        ([signal.SIGUSR1, signal.SIGINT], False),
        ([signal.SIGINT, signal.SIGUSR1, signal.SIGINT], True),
        ([signal.SIGTERM, signal.SIGTERM], False),
    ],
)
def test_only_a_second_interrupt_ends_at_once(sent: list[int], at_once: bool):
    """Ctrl-C reaches a process on its own and through its parent, and counts once."""
    with StopSignals() as requests:
        for number in sent[:-1]:
            os.kill(os.getpid(), number)
        if at_once:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), sent[-1])
        else:
            os.kill(os.getpid(), sent[-1])
            assert requests.signal == sent[-1]
