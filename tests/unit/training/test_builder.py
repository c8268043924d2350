"""From configuration to objects: only what was meant is ever called; every file composes."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lrd import LRDropout
from lrd.analysis.resolve import expand_sweep
from lrd.config.compose import CONFIGS, compose, to_config
from lrd.config.schema import LRD
from lrd.optim.lr_dropout import LRDropout as Wrapper
from lrd.optim.options import IMPLEMENTATIONS
from lrd.schedules import Schedule
from lrd.task import Task
from lrd.training import builder
from lrd.training.environment import cuda_switches

GROUPS = ("task", "dataset", "model", "optim", "schedule", "regularizer", "logger", "train")


def parts(*overrides: str) -> builder.Components:
    """Built without the weights that would have to be fetched."""
    config = to_config(compose(overrides))
    if config.model.get("weights") == "imagenet":
        config.model["weights"] = "none"
        config.model.pop("decimate_fc", None)
    return builder.build(config)


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


OF_ONES_OWN = ("folder", "masks", "boxes")  # data sets that need a path
# Which embedded task a model or a data set that is for no classification belongs to.
FAMILIES = {
    **{"pspnet": "shapes_seg", "ssd": "shapes_det", "_seg": "shapes_seg", "_det": "shapes_det"},
    "toy": "toy",
}


def family(option: str) -> list[str]:
    """The task that an option of the command line needs, if that is not the default one."""
    return [f"task={task}" for part, task in FAMILIES.items() if part in option][:1]


def choices() -> list[tuple[str, ...]]:
    """Every option of every group that needs neither files nor a package of its own: these have
    tests of their own."""
    found = [(f"{group}={option}",) for group in GROUPS for option in options(group)]
    mine = [("dataset=" + name,) for name in OF_ONES_OWN]
    return [c for c in found if c not in (*mine, ("logger=tensorboard",))]


@pytest.mark.parametrize("choice", choices(), ids="".join)
def test_every_file_composes_and_builds(choice: tuple[str, ...]):
    if choice[0].startswith("dataset=cifar"):
        choice = (*choice, "model=resnet18")
    if not choice[0].startswith("task="):
        choice = (*family(choice[0]), *choice)
    built = parts(*choice)
    assert isinstance(built.task, Task) and isinstance(built.optimizer, Wrapper)


def test_no_group_is_forgotten():
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    others = {"logger", "tuned", "experiment", "arm", "cluster", "search", "study"}
    assert folders == {*GROUPS, *others}


@pytest.mark.parametrize("name", options("tuned"))
def test_tuned_files_belong_to_a_pair(name: str):
    task, optim = name.split("-")
    assert task in options("task") and optim in options("optim")
    config = to_config(compose([f"task={task}", f"optim={optim}"]))
    tuned = OmegaConf.to_container(OmegaConf.load(CONFIGS / "tuned" / f"{name}.yaml"))
    assert isinstance(tuned, dict) and tuned
    for group, settings in tuned.items() if "optim" in tuned else [("optim", tuned)]:
        assert settings.items() <= getattr(config, str(group)).items()


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_builds(name: str):
    """Its first cell and its last; that every cell composes is tests/test_experiments.py's."""
    first, *_, last = expand_sweep(name, ["seed=0"])
    parts(*first)
    if not name.startswith(("figure4", "figure8", "figure9", "shapes", "ssd_120k", "smoke")):
        last = (*last, "dataset=digits", "model=fcnet")  # the network itself is built once
    parts(*last)


@pytest.mark.parametrize("model", [m for m in options("model") if not family(m)])
@pytest.mark.parametrize(
    "dataset", [d for d in options("dataset") if not family(d) and d not in OF_ONES_OWN]
)
def test_every_model_takes_every_data_set_that_makes_sense(model: str, dataset: str):
    if model == "fcnet" and dataset.startswith("cifar"):
        with pytest.raises(ValueError, match="^model=fcnet must be given gray images.*3 channels"):
            parts(f"dataset={dataset}", f"model={model}")
        return
    built = parts(f"dataset={dataset}", f"model={model}")
    data: Any = built.task
    shape, classes = data.data.shape, data.data.classes
    assert built.model(torch.zeros(2, *shape)).shape == (2, classes)


ERRORS = {
    "optim._target_=torch.utils.collect_env.run": "must be a subclass of Optimizer, got torch",
    "optim._target_=os.system": "must be in one of torch, torchvision, lrd, tasks, got os.system",
    "optim._target_=torch.optim.Foo": "optim._target_ must be importable, got torch.optim.Foo",
    "optim._target_=torch.optim.Optimizer": "must be a subclass of Optimizer",
    "optim._target_=torch.nn.Linear": "optim._target_ must be a subclass of Optimizer",
    "optim._target_=Adam": "optim._target_ must be the dotted name of a class, got Adam",
    "task._target_=tasks.images.Digits": "task._target_ must be a subclass of Task",
    "schedule._target_=lrd.rng.fold_key": "schedule._target_ must be a subclass of Schedule",
    "model._target_=torch.hub.load": "model._target_ must be a subclass of Module",
    "dataset._target_=lrd.task.Dataset": "dataset._target_ must be a subclass of Dataset",
    "+optim.lrr=1": "optim.lrr is no setting of Adam. Did you mean optim.lr? It takes: lr, betas,",
    "+optim._partial_=true": "optim._partial_ is no setting of Adam",
    "+optim.params=[]": "optim.params is no setting of Adam",
    "+model.shape=[1,2,2]": "model.shape is no setting of FCNet",
    "+schedule.gamma=1": "schedule.gamma is no setting of Constant. It takes: none",
    "optim.lr=-1": "optim: Adam(lr=-1, weight_decay=0.0, fused=True): Invalid learning rate",
    "optim.lr=abc": "optim.lr must be a number, got abc",
    "+optim.betas={_target_: os.system, command: id}": "optim.betas must be plain values, got",
    "+optim.betas={a: 1}": "optim.betas must be a list of 2 values, each a number, got {'a': 1}",
    "+optim.betas=[0.9]": "optim.betas must be a list of 2 values, each a number, got [0.9]",
    "+optim.foreach=3": "optim.foreach must be true or false or null, got 3",
    "optim._target_=../x": "optim._target_ must be the dotted name of a class, got ../x",
    "model.hidden=abc": "model.hidden must be a list of values, each a whole number, got abc",
    "model.hidden=[0]": "model.hidden must be sizes of at least 1, got [0]",
    "model.hidden=[1000000000000]": "model: FCNet(hidden=[1000000000000]): ",
    "+regularizer.foo=3": "regularizer.foo must hold a _target_ and settings, got 3",
    "dataset.holdout=-1": "dataset.holdout must be at least 0, got -1",
    "optim._target_=torch.optim.Muon": "optim: Muon(",
    "train.accumulate=3": "train.accumulate must be a divisor of train.batch_size=128, got 3",
    "train.accumulate=0": "train.accumulate must be at least 1, got 0",
    "train.clip_norm=0": "train.clip_norm must be above 0, or null, got 0",
    "train.checkpoint_minutes=-1": "train.checkpoint_minutes must be at least 0, got -1",
    "train.checkpoint_every=0": "train.checkpoint_every must be at least 1, or null, got 0",
    "run.keep=all": "run.keep must be one of weights, last, best, none, got all",
    "schedule._target_=lrd.schedules.Warmup +schedule.warmup=5": "5 epochs of 100 are 0.05",
    "schedule=cosine schedule.floor=2": "schedule.floor must be in [0, 1], got 2",
    "task=toy train.accumulate=2": "train.accumulate must be 1 with Toy, whose loss is no mean",
    **{
        f"schedule._target_=torch.optim.lr_scheduler.{given}": line
        for given, line in {
            "LRScheduler": "schedule._target_ must be a subclass of LRScheduler",
            "_LRScheduler": "schedule: _LRScheduler()",
            "ReduceLROnPlateau": "schedule._target_ must depend on the step alone",
            "SequentialLR +schedule.milestones=[5]": "schedule must fit the task, got SequentialLR",
            "ExponentialLR": "schedule must fit the task, got ExponentialLR: missing a required",
            "ExponentialLR +schedule.gamma=a": "schedule.gamma must be a number",
            "StepLR +schedule.step_size=0": "schedule: StepLR(step_size=0)",
            "CosineAnnealingLR +schedule.T_max=0": "schedule: CosineAnnealingLR(T_max=0)",
            "CosineAnnealingLR +schedule.Tmax=9": "Did you mean schedule.T_max? It takes: T_max,",
            "OneCycleLR +schedule.max_lr=1 +schedule.epochs=1": "schedule.epochs is no setting of",
            "OneCycleLR": "schedule must fit the task, got OneCycleLR: missing a required",
            "OneCycleLR +schedule.max_lr=a": "schedule.max_lr must be a number",
            "OneCycleLR +schedule.max_lr=1 optim._target_=torch.optim.Adagrad": (
                "schedule: OneCycleLR(total_steps=1000, max_lr=1): optimizer must support momentum"
            ),
            "LambdaLR +schedule.lr_lambda=3": "schedule: LambdaLR(lr_lambda=3)",
        }.items()
    },
}


def test_micro_batches_train_without_a_graph():
    for accumulate, graph in ((1, True), (2, False)):
        config = to_config(compose(["train.cuda_graph=true", f"train.accumulate={accumulate}"]))
        trainer, _ = builder.build_trainer(config, builder.build(config))
        assert (trainer.accumulate, trainer.cuda_graph) == (accumulate, graph)


def test_a_scheduler_of_torch_leaves_the_optimizer_as_it_is_until_the_data_are_read():
    made = parts("schedule._target_=torch.optim.lr_scheduler.OneCycleLR", "+schedule.max_lr=0.01")
    (group,) = made.optimizer.param_groups
    assert group["lr"] == 0.001 and "max_lr" not in group and "initial_lr" not in group


@pytest.mark.parametrize(("override", "line"), ERRORS.items(), ids=ERRORS)
def test_every_mistake_is_one_line(override: str, line: str):
    with pytest.raises(ValueError) as caught:
        parts(*([override] if "{" in override else override.split()))
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("LBFGS", "must step without a closure in this loop, got LBFGS"),
        ("SparseAdam", "optim: base must take dense gradients, got SparseAdam"),
    ],
)
def test_optimizers_that_this_loop_cannot_run_say_so(target: str, line: str):
    with pytest.raises(ValueError, match=line):
        parts(f"optim._target_=torch.optim.{target}", "~optim.weight_decay")


def test_a_differentiable_optimizer_is_rejected_in_one_line():
    with pytest.raises(ValueError, match="^optim: base must have differentiable=False"):
        parts("optim=sgdm", "+optim.differentiable=true")


def test_an_implementation_that_cannot_be_is_refused_before_data_are_read():
    wanted = ["lrd.implementation=fused", "optim._target_=torch.optim.Adagrad"]
    with pytest.raises(ValueError, match="^lrd.implementation=fused: the base must be one of SGD"):
        parts("dataset=mnist", "data.root=nowhere", *wanted)


def test_the_command_line_knows_every_implementation():
    for implementation in IMPLEMENTATIONS:
        assert LRD(implementation=implementation).implementation == implementation
    listed = ", ".join(IMPLEMENTATIONS)
    with pytest.raises(ValueError, match=f"lrd.implementation must be one of {listed}, got quick"):
        LRD(implementation="quick")


def test_determinism_reaches_cublas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    parts()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    parts("train.deterministic=true")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()


def test_a_package_of_the_users_must_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_optim.py").write_text("import torch\nclass Mine(torch.optim.SGD): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = ["optim._target_=my_optim.Mine"]
    with pytest.raises(ValueError, match=r"run.allow=\[my_optim\] allows its package"):
        parts(*mine)
    built = parts(*mine, "run.allow=[my_optim]")
    assert type(built.optimizer.base).__name__ == "Mine"


def test_a_missing_gpu_is_one_line():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match="train.device must be auto or cpu.*got cuda"):
        parts("train.device=cuda")


def test_torchs_quickest_form_is_taken_unless_another_is_named():
    assert parts("optim=adam").optimizer.param_groups[0]["fused"] is True
    assert parts("optim=radam").optimizer.param_groups[0]["foreach"] is True
    plain = parts("+optim.foreach=false").optimizer.param_groups[0]
    assert plain["foreach"] is False and not plain["fused"]


def test_the_seed_decides_the_initialisation_and_nothing_else_does():
    def weights(*overrides: str) -> torch.Tensor:
        model = parts(*overrides).model
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    first = weights("seed=1", "optim=sgdm", "lrd.p=1")
    torch.rand(7)
    assert torch.equal(first, weights("seed=1", "optim=adam", "lrd.p=0.3"))
    assert not torch.equal(first, weights("seed=2"))


def test_settings_reach_what_they_set():
    built = parts("lrd.p=0.3", "seed=4", "train.threads=1", "train.precision=tf32")
    optimizer = built.optimizer
    assert isinstance(optimizer, LRDropout) and (optimizer.p, optimizer.seed) == (0.3, 4)
    assert torch.get_num_threads() == 1
    assert parts().precision == "fp32" and parts("train.precision=bf16").precision == "bf16"


@pytest.mark.parametrize("optim", ["sgdm", "rmsprop", "muon"])
@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize("task", ["shapes_seg model.head_lr_factor=10", "shapes_det"])
def test_norms_and_biases_decay_unless_told_otherwise(task: str, everything: bool, optim: str):
    """A step without gradients is the decay, and each keeps the learning rate of its group."""
    settings = ("optim.weight_decay=0.1", f"train.decay_norms_and_biases={str(everything).lower()}")
    built = parts(f"task={task.split()[0]}", *task.split()[1:], f"optim={optim}", *settings)
    before = {name: param.detach().clone() for name, param in built.model.named_parameters()}
    rates = {p: group["lr"] for group in built.optimizer.param_groups for p in group["params"]}
    plain = parts(f"task={task.split()[0]}", *task.split()[1:], f"optim={optim}")
    expected = {p: group["lr"] for group in plain.optimizer.param_groups for p in group["params"]}
    for param, theirs in zip(built.model.parameters(), plain.model.parameters(), strict=True):
        assert rates[param] == expected[theirs]
        param.grad = torch.zeros_like(param)
    built.optimizer.p = 1.0
    built.optimizer.step()
    for name, param in built.model.named_parameters():
        decays = bool(before[name].any()) and (everything or param.dim() > 1)
        assert torch.equal(param, before[name]) is not decays, name


def test_an_optimizer_without_weight_decay_leaves_out_none():
    line = "train.decay_norms_and_biases must be true with Rprop, which has no weight decay"
    with pytest.raises(ValueError, match=line):
        parts("optim._target_=torch.optim.Rprop", "train.decay_norms_and_biases=false")


@pytest.mark.parametrize(
    "task",
    [
        ("task=shapes_seg", "model=pspnet18", "dataset.crop=33", "schedule=poly"),
        ("task=shapes_det", "model=ssdlite320_mobilenet"),
    ],
)
def test_segmentation_and_detection_take_micro_batches_clipping_and_warmup(task: tuple[str, ...]):
    """Batch norm in eval mode, which sees no batch: then a step is the step of the whole batch."""
    settings = ("optim=sgdm", "model.weights=none", "train.batch_size=6", "lrd.p=1")
    settings = (*task, *settings, "train.max_steps=2", "train.clip_norm=0.5", "data.workers=0")
    found = []
    for accumulate in (1, 3):
        warm = ("+schedule.warmup=0.5", f"train.accumulate={accumulate}", "train.epochs=1")
        config = to_config(compose([*settings, *warm]))
        built = builder.build(config)
        trainer, _ = builder.build_trainer(config, built)
        total = trainer.steps * trainer.epochs
        assert isinstance(trainer.schedule, Schedule)
        assert trainer.schedule(0, total) == pytest.approx(1 / round(total / 2))
        batch = next(built.task.train_batches(0))
        built.model.train()
        for module in built.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout2d):
                module.eval()
        _, loss = trainer._gradients(batch)
        grads = [p.grad for p in built.model.parameters() if p.grad is not None]
        found.append((loss.item(), torch.cat([grad.flatten() for grad in grads])))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("order", [["tf32", "fp32", "tf32"], ["fp32", "tf32", "bf16"]])
def test_every_name_of_torchs_switches_can_be_read_back(order: list[str]):
    """Other libraries, and inductor, read the older names, which may raise."""
    for precision in order:
        parts(f"train.precision={precision}")
        expected = precision == "tf32"
        assert torch.backends.cuda.matmul.allow_tf32 is expected
        assert torch.backends.cudnn.allow_tf32 is expected
        assert (torch.backends.cuda.matmul.fp32_precision == "tf32") is expected
        assert torch.get_float32_matmul_precision() == ("high" if expected else "highest")
        with torch.backends.cudnn.flags(enabled=True):
            pass


def test_convolutions_are_chosen_by_time_only_where_nothing_must_repeat():
    for overrides, expected in (
        ([], False),
        (["train=fast"], True),
        (["train=fast", "train.deterministic=true"], False),
        (["train.cudnn_benchmark=true"], True),
    ):
        parts(*overrides)
        assert torch.backends.cudnn.benchmark is expected, overrides
        assert cuda_switches() == {"tf32": False, "cudnn_benchmark": expected}  # for run.json
    parts("train.precision=tf32")
    assert cuda_switches() == {"tf32": True, "cudnn_benchmark": False}


@pytest.mark.parametrize("wanted", [True, False])
def test_channels_last_images_stay_so_and_filters_are_stored_so(wanted: bool):
    """The layers keep the images' layout, and no convolution converts its filters."""
    model = parts("dataset=cifar10", "model=resnet8", f"train.channels_last={wanted}").model
    seen: list[bool] = []
    last = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    last.register_forward_hook(
        lambda m, i, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    model(torch.randn(2, 3, 32, 32))
    assert seen == [wanted]
    filters = [p for p in model.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in filters) is wanted


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_channels_last_filters_train_to_the_bits_of_row_major_ones(precision: str):
    """Fused: the mask counts a filter in row-major order, whatever its order in memory."""
    trained = []
    for keeps in (True, False):
        settings = ["dataset=cifar10", "model=resnet8", "optim=adam", "train.channels_last=true"]
        built = parts(*settings, "lrd.p=0.5")
        model, generator = built.model, torch.Generator().manual_seed(0)
        for param in model.parameters() if not keeps else ():
            param.data = param.data.contiguous()
        for _ in range(3):
            images = torch.randn(4, 3, 32, 32, generator=generator)
            labels = torch.randint(10, (4,), generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
            built.optimizer.zero_grad()
            loss.backward()
            built.optimizer.step()
        assert built.optimizer.path == "fused"
        trained.append([param.detach() for param in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))
