"""The bench measures what it says: orders, medians, baselines and reports; never a speed."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench
import pytest
import torch
from benchmarks import growth, loops, report, results, stand_in, timing, workloads
from benchmarks import optimizers as opt
from benchmarks.baselines import AuthorsAdam, OrdinaryLoop
from benchmarks.children import Child, Turn
from benchmarks.memory import in_use, tensor_bytes
from benchmarks.options import Options
from benchmarks.results import Line, Table, Target
from benchmarks.timing import Clock, Form, Spread
from benchmarks.workloads import Workload
from torch.nn import Parameter

from lrd.optim import kernels, masks
from lrd.optim.lr_dropout import LRDropout
from lrd.task import Setup
from tasks.models.fcnet import FCNet

CPU = torch.device("cpu")


class FakeTime:
    """A clock that stands still but for what work says it takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def form(self, label: str, *seconds: float, before: float | None = None) -> Form:
        """Takes ``seconds`` in turn at its calls, the last of them for ever."""
        left = list(seconds)

        def work() -> None:
            self.calls.append(label)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        def untimed() -> None:
            self.now += before or 0.0

        return Form(label, work, untimed if before is not None else None)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now)


# Timing


def test_forms_take_turns_after_their_warm_up():
    fake = FakeTime()
    forms = [fake.form("a", 1.0), fake.form("b", 2.0)]
    timing.interleave(forms, 3, fake.clock, least=0.1, warm=2)
    assert fake.calls == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 3


def test_a_turn_lasts_long_enough_and_its_mean_counts():
    fake = FakeTime()
    samples = timing.interleave([fake.form("a", 0.25), fake.form("b", 3.0)], 2, fake.clock, 1.0)
    assert samples == {"a": [0.25, 0.25], "b": [3.0, 3.0]}
    assert fake.calls[8:] == ["a"] * 4 + ["b"] + ["a"] * 4 + ["b"]


def test_what_comes_before_is_not_timed():
    fake = FakeTime()
    samples = timing.interleave([fake.form("a", 0.5, before=7.0)], 2, fake.clock, least=1.0)
    assert samples == {"a": [0.5, 0.5]}


def test_the_warm_up_leaves_no_trace_in_the_samples():
    fake = FakeTime()
    slow_at_first = fake.form("a", 60.0, 1.0)
    assert timing.interleave([slow_at_first], 2, fake.clock, least=0.5, warm=1) == {"a": [1.0, 1.0]}


def test_ratios_pair_the_rounds():
    assert timing.ratios([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == [2.0, 3.0, 1.0]


def test_a_spread_is_median_quartiles_and_minimum():
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0, 1.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0)


def test_on_a_gpu_the_device_itself_stamps_the_times(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.number = sum(call.startswith("new") for call in calls)
            calls.append(f"new {self.number}")

        def record(self) -> None:
            calls.append(f"record {self.number}")

        def synchronize(self) -> None:
            calls.append(f"wait {self.number}")

        def elapsed_time(self, end: "Event") -> float:
            return 250.0 if end.number > self.number else math.nan

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    clock = timing.clock_of(torch.device("cuda"))
    form = Form("a", lambda: calls.append("work"))
    assert timing.seconds_of(form, 2, clock) == 0.125
    begin, end = ["wait", "new 0", "new 1", "record 0"], ["record 1", "wait 1"]
    assert calls == [*begin, "work", "work", *end]


# Lines and targets


@pytest.mark.parametrize(
    ("sign", "number", "met"),
    [("<=", 1.05, True), ("<=", 1.06, False), ("<", 1.05, False), (">=", 1.05, True)],
)
def test_a_target_is_judged_on_the_median_ratio(sign: str, number: float, met: bool):
    line = Line("a", "ms", [9.0], [number, 0.1, 99.0], target=Target(sign, 1.05))
    assert line.met is met
    assert replace(line, judged=False).met is None
    assert replace(line, target=None).met is None


def test_a_target_may_bound_the_value_itself():
    assert Line("row", "min", [59.0], target=Target("<", 60, on="value")).met is True


def test_lines_have_ratios_to_the_baseline_round_by_round():
    base, other = results.lines_of(
        {"base": [1.0, 2.0], "other": [3.0, 2.0]}, "base", unit="ms", scale=1000
    )
    assert base.samples == [1000.0, 2000.0] and base.ratios == []
    assert other.ratios == [3.0, 1.0]


def table_of(*lines: Line, **settings: Any) -> Table:
    return Table("step", "a title", lines[0].label, list(lines), **settings)


def test_the_text_shows_every_number_the_target_and_whether_it_was_met():
    line = Line("ours", "ms", [2.0, 3.0, 4.0], [1.1, 1.2, 1.3], 8.0, Target("<=", 1.05))
    text = report.text(table_of(Line("torch", "ms", [2.5]), line, memory="B/param", notes=["so"]))
    head, row = (x.split() for x in text.splitlines() if x.startswith(("form", "ours")))
    assert "B/param" in head and "target" in head
    assert row == [
        "ours",
        "3",
        "ms",
        "2",
        "2.5-3.5",
        "1.200",
        "1.150-1.250",
        "8",
        "<=",
        "1.05",
        "NO",
    ]
    assert "ratios to: torch; lower is better" in text and text.endswith("  so")


def test_toy_sizes_are_not_judged():
    line = Line("ours", "ms", [2.0], [9.0], target=Target("<=", 1.05), judged=False)
    assert "not judged" in report.text(table_of(line))


# Baselines


def parameters(*shapes: tuple[int, ...]) -> list[Parameter]:
    return opt.parameters([torch.Size(shape) for shape in shapes], CPU)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_authors_style_at_p_1_is_torchs_adam(decay: float):
    sides = [parameters((5, 7), (11,)) for _ in range(2)]
    optimizers = (
        AuthorsAdam(sides[0], lr=0.01, weight_decay=decay, p=1.0),
        torch.optim.Adam(sides[1], lr=0.01, weight_decay=decay),
    )
    for step in range(20):
        for params, optimizer in zip(sides, optimizers, strict=True):
            torch.manual_seed(step)
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer.step()
    for a, b in zip(*sides, strict=True):
        torch.testing.assert_close(a, b)


def test_the_authors_style_drops_updates_and_no_moments():
    (dropped,), (whole,) = parameters((4000,)), parameters((4000,))
    for param, p in ((dropped, 0.25), (whole, 1.0)):
        before = param.detach().clone()
        opt.give_gradients([param])
        optimizer = AuthorsAdam([param], p=p)
        optimizer.step()
        kept = (param.detach() != before).float().mean().item()
        assert kept == pytest.approx(p, abs=0.04)
        param.grad, state = None, optimizer.state[param]
        param.moments = state["m"], state["v"]  # type: ignore[attr-defined]
    assert all(map(torch.equal, dropped.moments, whole.moments))  # type: ignore[attr-defined]


def test_the_ordinary_loop_really_trains():
    torch.manual_seed(0)
    model = FCNet((1, 28, 28), 10, hidden=[64])
    data = stand_in.ordinary("mnist", "", 96)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    loop = OrdinaryLoop(model, optimizer, data, CPU, batch_size=32, workers=0)
    first, *_, last = (loop.epoch() for _ in range(30))
    assert first["images"] == last["images"] == 96
    assert last["loss"] < 0.5 * first["loss"] and last["accuracy"] > 80
    assert loop.epoch(steps=2)["images"] == 64


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_both_loops_see_the_same_random_images(name: str):
    ordinary = stand_in.ordinary(name, "", 16)
    ordinary.transform.transforms = ordinary.transform.transforms[-2 if name != "mnist" else -1 :]
    ours = stand_in.RandomImages(Setup(), name=name, like=name, train=16, test=4)
    split, test = ours.splits()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (ours.mean, ours.std))
    assert len(test.index) == 4 and ours.classes == stand_in.KINDS[name].classes
    for index in range(16):
        inputs, label = ordinary[index]
        torch.testing.assert_close(inputs, (split.images[index] / 255 - mean) / std)
        assert label == split.labels[index]


# The optimizers under test


def test_the_settings_are_those_of_the_papers_runs():
    kind, settings = opt.recipe("sgdm")
    assert kind is torch.optim.SGD
    assert settings == {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    assert opt.recipe("amsgrad")[1]["amsgrad"] is True


@pytest.mark.parametrize("name", opt.NAMES)
def test_every_form_of_torchs_takes_the_same_step(name: str):
    ends = []
    for form in opt.torch_forms(name):
        params = parameters((5, 7))
        opt.give_gradients(params)
        optimizer = opt.make(name, form, params)
        optimizer.step()
        ends.append(params[0].detach())
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0])


def test_the_eager_form_compiles_nothing_and_keeps_lrds_bits(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> Callable[..., None]:
        raise AssertionError("compiled")

    monkeypatch.setattr(kernels, "compiled_restore", refuse)
    params = parameters((3000,))
    opt.give_gradients(params)
    before = params[0].detach().clone()
    optimizer = opt.make("adam", opt.EAGER, params, p=0.3)
    optimizer.step()
    mask = masks.keep_mask(0, 0, 0.3, start=0, count=3000, device=CPU)
    assert torch.equal(params[0].detach() != before, mask.view(-1))
    assert kernels.COMPILE


def test_without_a_compiler_there_is_the_eager_path_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "COMPILE", False)
    assert opt.lrd_forms(CPU) == [opt.EAGER]


# Memory


def test_tensor_bytes_are_exact():
    for _ in range(2):  # nothing of the first time counts in the second
        kept: list[torch.Tensor] = []

        def work(kept: list[torch.Tensor] = kept) -> None:
            kept.append(torch.zeros(1000))
            kept[0] = torch.zeros(2000)  # while the 1000 are there still
            torch.zeros(500)

        assert tensor_bytes(work, CPU) == (12_000, 8_000)


def test_memory_in_use_is_what_stays_and_the_scratch_of_a_later_call():
    def make() -> Callable[[], object]:
        stays, calls = torch.zeros(1000), []

        def work() -> int:
            calls.append(1)
            return len(torch.cat([stays] * (5 if len(calls) == 1 else 2)))

        return work

    assert in_use(make, CPU) == (12_000, 24_000)


def test_a_fused_adam_has_two_moments_and_no_scratch():
    from benchmarks.subjects import step_memory

    steady, first = step_memory("adam", opt.FUSED, [torch.Size([50, 100])], CPU)
    assert steady == pytest.approx(8, abs=0.1) and first == pytest.approx(8, abs=0.1)


# Child processes


def echo(prefix: str) -> Turn:
    import os

    return lambda word: f"{prefix} {word} {os.environ.get('BENCH_TEST', '')} {os.getpid()}"


def broken() -> Turn:
    raise ArithmeticError("no such thing")


def test_children_are_processes_with_an_environment_of_their_own():
    import os

    with Child(echo, "a", environment={"BENCH_TEST": "x"}) as a, Child(echo, "b") as b:
        a.ask("1")
        b.ask("2")
        first, second = a.answer().split(" "), b.answer().split(" ")
        assert first[:3] == ["a", "1", "x"] and second[:3] == ["b", "2", ""]
        assert len({first[3], second[3], str(os.getpid())}) == 3
        memory = a.memory()
        assert memory is None or memory >= 0


def test_a_child_that_fails_says_why():
    with Child(broken) as child, pytest.raises(RuntimeError, match="no such thing"):
        child.turn()


# Loops


def toy(**changes: Any) -> Workload:
    made = Workload.of(Options(quick=True), "mnist", "fcnet")
    return replace(made, **changes)


def test_a_turn_of_our_loop_is_an_epoch_or_its_first_steps():
    turn = workloads.ours(toy(), ["train=paper"])
    for steps, images in ((3, 96), (None, 256), (3, 96)):
        done = turn(steps)
        assert done["images"] == pytest.approx(images)
        assert 0 < done["seconds"] < done["whole"]
    assert done["how"]["implementation"] == "generic"


@pytest.mark.parametrize("form", [loops.ORDINARY, opt.AUTHORS])
def test_a_turn_of_the_ordinary_loop_is_an_epoch_or_its_first_steps(form: str):
    turn = workloads.ordinary(toy(), form, 0)
    assert [turn(steps)["images"] for steps in (3, None)] == [96, 256]


def test_the_ordinary_loop_gets_none_of_our_switches(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any) -> None:
        raise AssertionError("lrd.build sets switches of torch for the whole process")

    monkeypatch.setattr("lrd.training.builder.build", refuse)
    workloads.ordinary(toy(), loops.ORDINARY, 0)


def test_operations_are_counted_by_hand():
    weights = [784 * 32, 32 * 10]
    by_hand = 2 * (3 * sum(weights) - weights[0])  # the images need no gradient
    assert loops.flops_per_image(toy()) == by_hand


def test_a_sweep_divides_the_same_number_among_its_tensors():
    for tensors in (1, 5, 500):
        sizes = growth.split(5_000_000, tensors)
        assert len(sizes) == tensors and sum(s.numel() for s in sizes) == 5_000_000


# The command


def run_bench(folder: Path, *arguments: str) -> dict[str, Any]:
    assert bench.main([*arguments, "--quick", "--out", str(folder)]) == 0
    return json.loads((folder / "bench.json").read_text())


def check(out: dict[str, Any], rounds: int) -> None:
    assert out["facts"]["threads"] == 1 and out["facts"]["hardware"]["cores"] >= 1
    for table in out["tables"]:
        assert table["lines"] and table["title"]
        for line in table["lines"]:
            assert all(math.isfinite(n) for n in line["samples"]), line
            assert len(line["samples"]) in (1, rounds) or "epoch" in line["label"]
            assert line["met"] is None  # toys are not judged


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


@pytest.mark.parametrize("section", ["step", "loop", "data", "growth"])
def test_a_section_gives_tables_numbers_and_a_chart(
    section: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(kernels, "COMPILE", False)
    out = run_bench(tmp_path, section, "--rounds", "3")
    check(out, 3)
    text = capsys.readouterr().out
    assert all(table["title"] in text for table in out["tables"])
    assert {table["section"] for table in out["tables"]} == {section}
    charts = [f"{section}.png"] * (section != "growth") + [f"{section}-sweeps.png"] * (
        section == "growth"
    )
    assert charts and all(is_png(tmp_path / name) for name in charts)
    assert f"written: {tmp_path / 'bench.json'} {tmp_path / charts[0]}" in text
    assert out["facts"]["command"].startswith(f"python scripts/bench.py {section} --rounds 3")


@pytest.mark.slow
def test_everything_compiled(tmp_path: Path):
    out = run_bench(tmp_path, "all", "--rounds", "2")
    check(out, 2)
    assert {table["section"] for table in out["tables"]} == set(bench.SECTIONS)
    forms = {line["label"] for table in out["tables"] for line in table["lines"]}
    assert {opt.SINGLE, opt.COMPILED, opt.EAGER, opt.AUTHORS, opt.FUSED} <= forms


@pytest.mark.slow
def test_the_single_pass_is_what_is_measured():
    params = parameters((40, 50), (60,))
    opt.lay_out(opt.SINGLE, params)
    opt.give_gradients(params)
    optimizer = opt.make("adam", opt.SINGLE, params)
    for _ in range(2):
        optimizer.step()
    assert isinstance(optimizer, LRDropout) and optimizer.path == "single_pass"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--rounds", "0"], "must be at least 1, got 0"),
        (["speed"], "invalid choice: 'speed'"),
    ],
)
def test_a_wrong_command_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit, match="2"):
        bench.main(arguments)
    assert line in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["step", "--device", "cuda"]) == 2
    assert (
        capsys.readouterr().err
        == "error: --device must be cpu where torch finds no GPU, got cuda\n"
    )
