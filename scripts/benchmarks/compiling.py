"""What the first use of a compiled step costs, in processes of their own."""

import tempfile
import time

import torch

from benchmarks import optimizers as opt
from benchmarks.children import Child, Turn
from benchmarks.options import Options
from benchmarks.results import Line, Table

FORMS = ((opt.SINGLE, "adam"), (opt.COMPILED, "adam"), (opt.SINGLE, "sgdm"))


def seconds_to_compile(options: Options, sizes: list[torch.Size]) -> Table | None:
    """Into an empty cache, then from it in a new process; None without a compiler or time."""
    if options.quick or opt.COMPILED not in opt.lrd_forms(options.device):
        return None
    lines = []
    for form, name in FORMS:
        with tempfile.TemporaryDirectory() as folder:
            for state in ("empty cache", "from the cache"):
                options.say(f"step: seconds to compile {name}, {form}, {state}")
                shapes = [tuple(size) for size in sizes]
                arguments = (name, form, shapes, str(options.device), options.threads)
                where = {"TORCHINDUCTOR_CACHE_DIR": folder}
                with Child(first_steps, *arguments, environment=where) as child:
                    lines.append(Line(f"{name}: {form}, {state}", "s", [child.turn()]))
    note = "the first three steps of a process, less what they take once compiled"
    return Table("step", "seconds to compile, once a process", "", lines, notes=[note])


def first_steps(
    name: str, form: str, shapes: list[tuple[int, ...]], device: str, threads: int
) -> Turn:
    """A function that takes the first steps and returns the seconds beyond those of later ones."""
    torch.set_num_threads(threads)

    def turn() -> float:
        params = opt.parameters([torch.Size(s) for s in shapes], torch.device(device))
        opt.lay_out(form, params)
        opt.give_gradients(params)
        optimizer, seconds = opt.make(name, form, params), []
        for _ in range(4):
            began = time.perf_counter()
            optimizer.step()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        return sum(seconds[:3]) - 3 * seconds[3]

    return turn
