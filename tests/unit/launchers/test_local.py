"""The local launcher's output stream; tests/integration/test_local_launcher.py runs sweeps."""

import io

from lrd.launchers.local import PrefixedStdout


def test_lines_are_complete_and_have_the_job_number():
    out = io.StringIO()
    writer = PrefixedStdout(out, "[3]")
    print("\n[3] optim=adam", file=writer)
    print("epoch", 1, end="", file=writer)
    assert out.getvalue() == "[3] optim=adam\n"
    print("/2", file=writer)
    assert out.getvalue() == "[3] optim=adam\n[3] epoch 1/2\n" and not writer.isatty()
