"""Section ``step``: one optimizer step, alone and with zero_grad and backward."""

import copy
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from scripts.benchmarks import measure
from scripts.benchmarks import optimizers as opt
from scripts.benchmarks.datasets import IMAGE_SETS
from scripts.benchmarks.measure import ChildProcess, Options, Quartiles, Variant
from scripts.benchmarks.optimizers import NO_EARLIER_CODE, EarlierCode
from scripts.benchmarks.report import BenchmarkTable, Bound, Measurement, measurements
from scripts.benchmarks.workloads import Workload, make_model

_FEW = 256  # parameters, for which only compiling takes long
_log = logging.getLogger(__name__)


def measure_steps(options: Options) -> Iterator[BenchmarkTable]:
    """Yield two tables for each network and optimizer, and one of the seconds to compile."""
    base = Workload("FCNet", "mnist", "fcnet", options.device.type, options.threads, options.root)
    networks = [replace(base, batch=32, hidden=(64,))] if options.quick else [base]
    if not options.quick:
        batch = 8 if options.device.type == "cpu" else 128
        resnet = replace(base, title="ResNet-34", data="cifar10", model="resnet34", batch=batch)
        networks.insert(0, resnet)
    with opt.earlier_code(options.against) as earlier:
        for network in networks:
            for name in ("sgdm", "adam") if options.quick else opt.OPTIMIZER_NAMES:
                _log.info("step: %s, %s, batch %d", name, network.title, network.batch)
                alone = _step_alone(options, name, network, earlier)
                yield alone
                yield _step_with_backward(options, name, network, alone, earlier)
    if opt.LRD_FUSED in opt.lrd_variants(options.device):
        yield _seconds_to_compile(options)


def parameter_sizes(network: Workload) -> list[torch.Size]:
    """Return the shapes of a network's parameters, without allocating them."""
    with torch.device("meta"):
        return [param.shape for param in make_model(network).parameters()]


def _targets(name: str, network: Workload, alone: bool) -> dict[str, Bound]:
    """Return the targets by variant, of the step ``alone`` or with backward."""
    if network.model != "resnet34":
        return {opt.LRD_FUSED: Bound("<=", 1.1)} if name == "adam" and alone else {}
    if name in ("rmsprop", "radam"):  # on a CPU torch has no fused form of these
        return {opt.LRD_FUSED: Bound("<", 0.4 if alone else 1.0)}
    around = {opt.LRD_SNAPSHOT: Bound("<=", 1.9)} if name == "adam" else {}
    return around | {opt.LRD_FUSED: Bound("<=", 1.05)}


def time_steps(
    options: Options,
    name: str,
    variants: Sequence[str],
    sizes: Sequence[torch.Size],
    rounds: int,
    p: float = opt.P,
    earlier: EarlierCode = NO_EARLIER_CODE,
) -> tuple[dict[str, list[float]], dict[str, tuple[float, float]]]:
    """Measure steps of an optimizer's variants on parameters of these sizes.

    Returns:
        Seconds of a step by variant and round; bytes per parameter by variant, steady and in the
        first three steps, beyond parameters and gradients.
    """
    device = options.device

    def optimizer(variant: str) -> Optimizer:
        params = opt.make_parameters(variant, sizes, device, earlier)
        return opt.make_optimizer(name, variant, params, p, earlier)

    optimizers = {variant: optimizer(variant) for variant in variants}
    timed = [Variant(label, each.step) for label, each in optimizers.items()]
    clock = measure.clock_for(device)
    samples = measure.interleave(timed, options.rounds_or(rounds), clock, options.turn_seconds)
    opt.check_paths(optimizers.values())
    del optimizers, timed
    memory = {v: step_memory(name, v, sizes, device, earlier) for v in variants}
    return samples, memory


def step_memory(
    name: str,
    variant: str,
    sizes: Sequence[torch.Size],
    device: torch.device,
    earlier: EarlierCode = NO_EARLIER_CODE,
) -> tuple[float, float]:
    """Return bytes per parameter beyond parameters and gradients, state and scratch of a step.

    The first number is of a later step, the second the peak of the first three steps, which also
    allocate the state.
    """
    params = opt.make_parameters(variant, sizes, device, earlier)
    steady, at_first = measure.measure_tensor_memory(
        lambda: opt.make_optimizer(name, variant, params, earlier=earlier).step, device
    )
    count = sum(size.numel() for size in sizes)
    return steady / count, at_first / count


def _step_alone(
    options: Options, name: str, network: Workload, earlier: EarlierCode
) -> BenchmarkTable:
    """Measure every variant of one optimizer on the tensors of ``network``."""
    sizes, torchs = parameter_sizes(network), list(opt.torch_variants(name))
    ours, before = opt.lrd_variants(options.device), earlier.implementations
    variants = [*torchs, *ours, *before, *opt.naive_variants(name)]
    samples, memory = time_steps(options, name, variants, sizes, rounds=9, earlier=earlier)
    best = min(torchs, key=lambda label: Quartiles.of(samples[label]).median)
    bytes_ = {v: steady for v, (steady, _) in memory.items()}
    targets = _targets(name, network, alone=True)
    lines = measurements(samples, best, unit="ms", scale=1000, memory=bytes_, targets=targets)
    if {opt.NAIVE, opt.LRD_FUSED} <= samples.keys():
        lines.append(_quotient(samples, opt.NAIVE, opt.LRD_FUSED))
        lines[-1].target = Bound(">=", 20, on="value")
    lines += _against(samples, before)
    count = sum(size.numel() for size in sizes)
    title = f"{name}: the step alone, {network.title}'s {len(sizes)} tensors, {count:,} parameters"
    first = ", ".join(f"{label} {peak:.1f}" for label, (_, peak) in memory.items())
    note = (
        "memory: peak bytes of tensors per parameter beyond parameters and gradients (state and "
        f"scratch of a step); in the first three steps: {first}"
    )
    return BenchmarkTable("step", title, best, lines, memory="B/param", notes=[note])


def _quotient(samples: dict[str, list[float]], label: str, other: str) -> Measurement:
    ratios = measure.pairwise_ratios(samples[label], samples[other])
    return Measurement(f"{label} / {other}", "x", ratios)


def _against(samples: dict[str, list[float]], before: Iterable[str]) -> list[Measurement]:
    """Return the ratio of each of today's variants to its earlier form, round by round."""
    pairs = [(f"LRD, {label.rpartition(', ')[2]}", label) for label in before]
    return [_quotient(samples, now, label) for now, label in pairs if now in samples]


class _Training:
    """A copy of a network in training on one random batch, with one variant of an optimizer."""

    def __init__(
        self,
        name: str,
        variant: str,
        network: Workload,
        model: nn.Module,
        device: torch.device,
        earlier: EarlierCode,
    ) -> None:
        self.model = copy.deepcopy(model)
        params = list(self.model.parameters())
        earlier.flatten_for(variant, params)
        self.optimizer = opt.make_optimizer(name, variant, params, earlier=earlier)
        kind = IMAGE_SETS[network.data].ours
        torch.manual_seed(2)
        self.inputs = torch.rand(network.batch, *kind.shape, device=device)
        self.targets = torch.randint(kind.classes, (network.batch,), device=device)

    def forward(self) -> None:
        self.loss = F.cross_entropy(self.model(self.inputs), self.targets)

    def backward_and_step(self) -> None:
        self.optimizer.zero_grad()
        self.loss.backward()
        self.optimizer.step()

    def step(self) -> None:
        self.forward()
        self.backward_and_step()
        del self.loss


def _step_with_backward(
    options: Options,
    name: str,
    network: Workload,
    alone: BenchmarkTable,
    earlier: EarlierCode,
) -> BenchmarkTable:
    """Measure zero_grad, backward and step together, and the forward pass on its own.

    The baseline is that of ``alone``, the table of the step alone.
    """
    device, best = options.device, alone.baseline
    ours, before = opt.lrd_variants(device)[-2:], earlier.implementations
    variants = [best, *ours, *before, *opt.naive_variants(name)]
    torch.manual_seed(0)
    model = make_model(network).to(device)

    def training(variant: str) -> _Training:
        return _Training(name, variant, network, model, device, earlier)

    trainings = {variant: training(variant) for variant in variants}
    timed = [Variant(label, t.backward_and_step, t.forward) for label, t in trainings.items()]
    timed.append(Variant("forward alone", trainings[best].forward))
    clock, rounds = measure.clock_for(device), options.rounds_or(11)
    samples = measure.interleave(timed, rounds, clock, options.turn_seconds, warmup=4)
    opt.check_paths(each.optimizer for each in trainings.values())
    del trainings, timed
    memory = {}
    for variant in variants:
        steady, _ = measure.measure_tensor_memory(lambda v=variant: training(v).step, device)
        memory[variant] = steady / 1e6
    forward = [1000 * seconds for seconds in samples.pop("forward alone")]
    targets = _targets(name, network, alone=False)
    lines = measurements(samples, best, unit="ms", scale=1000, memory=memory, targets=targets)
    title = f"{name}: zero_grad + backward + step, {network.title}, batch {network.batch}"
    notes = ["memory: peak bytes of tensors in a training step, parameters and state included"]
    table = BenchmarkTable("step", title, best, lines, memory="MB", notes=notes)

    def median(table: BenchmarkTable, label: str) -> float:
        return Quartiles.of(table.line(label).samples).median

    plain, lrd = median(alone, best), median(alone, ours[-1])
    percent = (Quartiles.of(forward).median + median(table, best)) / 100
    share = Measurement(f"{ours[-1]}: share of a training step", "%", [lrd / percent])
    added = Measurement("what LRD adds to a training step", "%", [(lrd - plain) / percent])
    if network.model == "resnet34" and device.type == "cuda":
        added.target = Bound("<", 1, on="value")
    table.lines += [Measurement("forward alone", "ms", forward), share, added]
    table.lines += _against(samples, before)
    return table


def _seconds_to_compile(options: Options) -> BenchmarkTable:
    """Compile into an empty cache, then load from the cache, each in a new process."""
    measured = [("adam", opt.LRD_FUSED), ("adam", opt.LRD_SNAPSHOT), ("sgdm", opt.LRD_FUSED)]
    lines = []
    for name, variant in measured[: 1 if options.quick else None]:
        with tempfile.TemporaryDirectory() as folder:
            caches = {"XDG_CACHE_HOME": folder, "TRITON_CACHE_DIR": f"{folder}/triton"}
            for state in ("empty cache", "from the cache"):
                _log.info("step: seconds to compile %s, %s, %s", name, variant, state)
                arguments = (name, variant, str(options.device), options.threads)
                with ChildProcess(time_first_steps, *arguments, environment=caches) as child:
                    line = f"{name}: {variant}, {state}"
                    lines.append(Measurement(line, "s", [child.turn()]))
    note = (
        f"the first three steps of a process, over {_FEW} parameters, minus the duration of three "
        "later steps; the first takes the base's step, the second the fused one"
    )
    title = "seconds to compile the kernels, once a process"
    return BenchmarkTable("step", title, "", lines, notes=[note])


def time_first_steps(name: str, variant: str, device: str, threads: int) -> Callable[[], float]:
    """Return a function that takes the first steps and returns their seconds of compilation."""
    torch.set_num_threads(threads)

    def turn() -> float:
        params = opt.make_parameters(variant, [torch.Size([_FEW])], torch.device(device))
        optimizer, seconds = opt.make_optimizer(name, variant, params), []
        for _ in range(4):
            started = time.perf_counter()
            optimizer.step()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        opt.check_paths([optimizer])
        return sum(seconds[:3]) - 3 * seconds[3]

    return turn
