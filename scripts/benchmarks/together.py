"""The step within training: zero_grad, backward and step of a real network."""

import copy

import torch

from benchmarks import optimizers as opt
from benchmarks.memory import in_use
from benchmarks.networks import Network
from benchmarks.options import Options
from benchmarks.results import Line, Table, Target, lines_of
from benchmarks.subjects import Subject, check_path
from benchmarks.timing import Form, Spread, clock_of, interleave

GENERIC, SHARE = Target("<=", 1.9), Target("<", 1, on="value")
SINGLE = {name: Target("<=", 1.05) for name in ("sgdm", "adam", "amsgrad")} | {
    name: Target("<", 1.0) for name in ("rmsprop", "radam")
}


def targets(name: str, network: Network) -> dict[str, Target]:
    """By form; they were set for the tensors of one network alone."""
    return {opt.COMPILED: GENERIC, opt.SINGLE: SINGLE[name]} if network.targets else {}


def together(options: Options, name: str, network: Network, alone: Table) -> Table:
    """zero_grad, backward and step in one, of a real network; the forward pass by itself.

    ``alone`` is of the step by itself, whose baseline is the baseline here.
    """
    device, best = options.device, alone.baseline
    labels = [best, *opt.lrd_forms(device)[-2:], *([opt.AUTHORS] if name == "adam" else [])]
    torch.manual_seed(0)
    model = network.make().to(device)
    trainings = {label: Training(name, label, network, model, device) for label in labels}
    forms = [Form(label, t.backward_and_step, t.forward) for label, t in trainings.items()]
    forms.append(Form("forward", trainings[best].forward))
    samples = interleave(forms, options.how_many(11), clock_of(device), options.least, warm=4)
    check_path({label: t.subject for label, t in trainings.items()})
    del trainings, forms
    memory = {}
    for label in labels:
        steady, _ = in_use(
            lambda form=label: Training(name, form, network, model, device).step, device
        )
        memory[label] = steady / 1e6
    lines = lines_of(
        {label: samples[label] for label in labels},
        best,
        unit="ms",
        scale=1000,
        memory=memory,
        targets=targets(name, network),
        judged=options.judged,
    )
    title = f"{name}: zero_grad + backward + step, {network.title}"
    table = Table("step", title, best, lines, memory="MB", notes=[NOTE])
    forward = [1000 * seconds for seconds in samples["forward"]]
    table.lines.append(Line("forward alone", "ms", forward))
    table.lines += shares(options, network, table, alone)
    return table


NOTE = "memory: tensor bytes at most in a training step, of parameters, state and all else"


class Training:
    """A copy of a network in training with one form of an optimizer."""

    def __init__(
        self, name: str, form: str, network: Network, model: torch.nn.Module, device: torch.device
    ) -> None:
        self.model = copy.deepcopy(model)
        params = list(self.model.parameters())
        opt.lay_out(form, params)
        self.subject = Subject(params, opt.make(name, form, params))
        self._forward = network.forward(self.model, device)

    def forward(self) -> None:
        self.loss = self._forward()

    def backward_and_step(self) -> None:
        self.subject.optimizer.zero_grad()
        self.loss.backward()
        self.subject.optimizer.step()

    def step(self) -> None:
        self.forward()
        self.backward_and_step()
        del self.loss


def shares(options: Options, network: Network, table: Table, alone: Table) -> list[Line]:
    """What LRD's step is of a training step without it, and what LRD adds, in %."""
    ours = opt.lrd_forms(options.device)[-1]
    plain, lrd, forward, rest = (
        Spread.of(t.line(label).samples).median
        for t, label in (
            (alone, alone.baseline),
            (alone, ours),
            (table, "forward alone"),
            (table, table.baseline),
        )
    )
    whole = (forward + rest) / 100
    added = Line("what LRD adds to a training step", "%", [(lrd - plain) / whole])
    if network.targets and options.device.type == "cuda":
        added.target = SHARE
    return [Line(f"{ours}: its share of a training step", "%", [lrd / whole]), added]
