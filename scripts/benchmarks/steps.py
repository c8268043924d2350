"""Section ``step``: the optimizer's step, alone and with zero_grad and backward."""

from collections.abc import Iterator

from benchmarks import optimizers as opt
from benchmarks.compiling import seconds_to_compile
from benchmarks.networks import Network, fcnet, resnet34
from benchmarks.options import Options
from benchmarks.results import Line, Table, Target, lines_of
from benchmarks.subjects import Subject, check_path, step_memory
from benchmarks.timing import Form, Spread, clock_of, interleave, ratios
from benchmarks.together import targets, together

AUTHORS = Target(">=", 20, on="value")


def section(options: Options) -> Iterator[Table]:
    names = ("sgdm", "adam") if options.quick else opt.NAMES
    whole = resnet34(8 if options.device.type == "cpu" else 128)
    networks = [fcnet(32, (64,))] if options.quick else [whole, fcnet(128)]
    for network in networks:
        for name in names:
            options.say(f"step: {name}, {network.title}")
            alone = step_alone(options, name, network)
            yield alone
            yield together(options, name, network, alone)
    if compiling := seconds_to_compile(options, networks[0].sizes()):
        yield compiling


def step_alone(options: Options, name: str, network: Network) -> Table:
    """Every form of one optimizer on the tensors of ``network``."""
    sizes, device = network.sizes(), options.device
    torchs, ours = list(opt.torch_forms(name)), opt.lrd_forms(device)
    labels = [*torchs, *ours, *([opt.AUTHORS] if name == "adam" else [])]
    subjects = {label: Subject.of(name, label, sizes, device) for label in labels}
    forms = [Form(label, subject.optimizer.step) for label, subject in subjects.items()]
    samples = interleave(forms, options.how_many(9), clock_of(device), options.least)
    check_path(subjects)
    del subjects, forms
    best = min(torchs, key=lambda label: Spread.of(samples[label]).median)
    memory = {label: step_memory(name, label, sizes, device) for label in labels}
    lines = lines_of(
        samples,
        best,
        unit="ms",
        scale=1000,
        memory={label: steady for label, (steady, _) in memory.items()},
        targets=targets(name, network),
        judged=options.judged,
    )
    if {opt.AUTHORS, opt.SINGLE} <= samples.keys():
        times = ratios(samples[opt.AUTHORS], samples[opt.SINGLE])
        label = "authors' style / LRD, single pass"
        lines.append(Line(label, "x", times, target=AUTHORS, judged=options.judged))
    count = sum(size.numel() for size in sizes)
    title = f"{name}: the step alone, {network.name}'s {len(sizes)} tensors, {count:,} parameters"
    first = ", ".join(f"{label} {peak:.1f}" for label, (_, peak) in memory.items())
    return Table(
        "step",
        title,
        best,
        lines,
        memory="B/param",
        notes=[
            "memory: tensor bytes a parameter beyond parameters and gradients: state and scratch "
            f"of a step; at most in the first three steps: {first}",
        ],
    )
