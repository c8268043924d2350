"""Every command in README and docs: it runs two steps, or is named here and composes.

A command that stands on several pages runs once. All run in one folder, in the order of the pages,
so that tables and figures have runs to show.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrd import cli as command_line
from lrd.analysis import resolve
from lrd.config.schema import Config

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
# Pages whose files and commands a test of their own writes and runs, with the module of their code.
OWN_PARTS = {"extending.md": "my_parts", "your_optimizer.md": "my_optimizers"}
# These only compose: what they need is the heading.
COMPOSED = {
    "full data, and more than two cores": [
        "python run.py task=cifar10 optim=adam lrd.p=0.5",
        "python run.py task=cifar10 model=densenet121 dataset=cifar100",
        "python run.py task=voc_seg optim=adam",
        "python run.py task=voc_seg optim=adam lrd.p=0.5",
        "python run.py task=voc_det optim=adam lrd.p=0.5",
        "python run.py task=voc_seg model=pspnet18 dataset.sbd=false dataset.partial=true "
        "dataset.crop=97",
        "python run.py -m task=voc_seg model=pspnet18 model.weights=none optim=sgdm lrd.p=1,0.5 "
        "dataset.sbd=false dataset.partial=true dataset.crop=97 dataset.resolution=0.3 "
        "train.batch_size=8 train.epochs=40 train.threads=1 eval.every=10 eval.pictures_every=0 "
        "data.root=data data.workers=0 run.dir=results +cluster=local",
        "python run.py -m task=voc_det model=ssdlite320_mobilenet model.weights=none optim=sgdm "
        "optim.lr=0.01 +schedule.warmup=0.05 lrd.p=1,0.5 dataset.voc12=false dataset.partial=true "
        "train.batch_size=8 train.epochs=16 train.threads=1 eval.every=8 eval.pictures_every=0 "
        "data.root=data data.workers=0 run.dir=results run.keep=weights +cluster=local",
        "python run.py task=voc_det model=ssdlite320_mobilenet dataset.voc12=false "
        "dataset.partial=true",
        "python run.py task=voc_seg optim=sgdm +model.stem=deep model.weights=resnet50_v2.pth",
        "python run.py task=voc_det optim=sgdm model.weights=vgg16_reducedfc.pth",
        "python run.py task=voc_det optim=sgdm +model.decimate_fc=true",
        "python run.py -m +experiment=fast_cifar10",
        "python run.py -m task=cifar10 optim=sgdm train=fast lrd.p=0.5,1 scale=0.43",
        "python run.py -m task=cifar10 optim=sgdm train=fast lrd.p=0.5,1 scale=0.43 "
        "train.checkpoint_every=1000 run.dir=results",
    ],
    "nothing: two steps of it are two steps of the same with scale=0.1, which run": [
        "python run.py -m +experiment=table1_mnist",
    ],
    "nothing: sweeps of MNIST run in README, into results/ in the line before it": [
        f"python run.py -m +experiment={name} +cluster=local train.threads=1 run.dir=results "
        "data.root=data run.keep=none"
        for name in ("mnist10_p", "mnist10_arms", "mnist10_sd", "mnist10_lr")
    ],
    "several GPUs, and full data": [
        "torchrun --nproc_per_node=4 run.py task=cifar10 model=resnet34",
    ],
    "SLURM": [
        "python run.py -m +experiment=table2 +cluster=slurm cluster.partition=gpu "
        "cluster.gpus_per_node=1",
    ],
}
# These neither run nor compose here; the value says what covers them.
ELSEWHERE = {
    "wandb sync runs/wandb runs/*/*/seed*/wandb": "tests/unit/loggers/test_wandb.py",
    "python scripts/bench.py": "tests/integration/test_bench.py, at toy sizes",
    "python scripts/bench.py all --threads 2": "tests/integration/test_bench.py, at toy sizes",
    "python scripts/bench.py startup --rounds 2": "tests/integration/test_bench.py",
    "python scripts/gpu_check.py --minutes 8": "tests/unit/scripts/gpu/test_check.py, on the CPU",
    "python -m scripts.compat": "tests/compat/test_compatibility.py, with the extra compat",
    "python scripts/endurance.py --kills 30": "tests/integration/test_endurance.py, fewer kills",
    "python scripts/endurance.py --kills 60 --every-optimizer": "the same",
}
TRAINED = "tests/unit/training/test_trained.py"
ELSEWHERE |= {
    "python scripts/predict.py RUN photo.jpg --out predictions": TRAINED,
    "python scripts/evaluate.py RUN eval.final_mode=sliding eval.scales=[0.5,1,1.5]": TRAINED,
    "python scripts/evaluate.py RUN dataset.holdout=200 train.device=cpu": TRAINED,
    "python scripts/evaluate.py task=voc_seg +model.stem=deep model.weights=train_epoch_50.pth "
    "dataset.sbd=false eval.final_mode=sliding eval.base_size=512": TRAINED,
    "python scripts/evaluate.py task=voc_det +model.clip_priors=true "
    "model.weights=ssd300_mAP_77.43_v2.pth": TRAINED,
    "python run.py logger=[wandb,tensorboard] wandb.mode=offline": "tests/unit/loggers",
}
TOOLS = ("ruff", "codespell", "pyright", "pytest", "pre-commit", "LRD_DATA", "LRD_VOC_LISTS")
SHORT = ["train.max_steps=2", "eval.pictures_every=0", "run.force=true"]
# Sweeps over optimizers compose them all and run one, but for this one, which runs them all.
WHOLE = "-m +experiment=quickstart"


def commands_of(page: Path) -> list[str]:
    """The commands of a page, without comments: in its sh blocks, and inline in its text."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    inline = re.findall(
        r"`((?:python|torchrun)\s[^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )
    parts = [
        part
        for block in [*blocks, *(" ".join(each.split()) for each in inline)]
        for line in block.replace("\\\n", " ").splitlines()
        for part in line.split(" && ")
    ]
    return [line for part in parts if (line := shlex.join(shlex.split(part, comments=True)))]


def plain(command: str) -> str:
    return command.replace("'", "")


def documented() -> dict[str, Path]:
    """The first page of each command, in the order of the pages."""
    first: dict[str, Path] = {}
    for page in PAGES:
        if page.name not in OWN_PARTS:
            for command in commands_of(page):
                first.setdefault(command, page)
    return first


COMMANDS = [
    pytest.param(command, id=f"{page.parent.name}/{page.stem}: {plain(command)}")
    for command, page in documented().items()
]
NAMED = {command: need for need, commands in COMPOSED.items() for command in commands}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run; it has the published results."""
    made = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "results", made / "results")
    (made / "docs" / "images").mkdir(parents=True)
    return made


def jobs_of(arguments: list[str]) -> list[list[str]]:
    """The overrides of every job of ``run.py ARGUMENTS``."""
    if "-m" not in arguments:
        return [arguments]
    overrides = [argument for argument in arguments if argument != "-m"]
    named = [a.partition("=")[2] for a in overrides if a.startswith("+experiment=")]
    if named:
        rest = [a for a in overrides if not a.startswith(("+experiment=", "hydra."))]
        return [list(job) for job in resolve.expand_sweep(named[0], rest)]
    (batch,) = BasicSweeper.split_arguments(
        OverridesParser.create().parse_overrides(overrides), None
    )
    return batch


def composed(arguments: list[str]) -> list[Config]:
    return [resolve.resolve(job).config for job in jobs_of(arguments)]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    return command_line.main()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages that a command imports
@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_works(
    command: str,
    folder: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
):
    program, *arguments = shlex.split(command)
    monkeypatch.chdir(folder)
    if plain(command) in NAMED:
        assert composed(arguments[arguments.index("run.py") + 1 :])
    elif plain(command) in ELSEWHERE or program in TOOLS:
        pass  # its own tests, or the gate
    elif program == "pip":
        check_pip(arguments)
    elif program == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", *arguments, *SHORT]
        torchrun[torchrun.index("run.py")] = str(ROOT / "run.py")
        subprocess.run(torchrun, check=True)
    elif arguments[0] == "run.py":
        check_run(arguments[1:], request, monkeypatch)
    else:
        assert program == "python" and arguments[0].startswith("scripts/"), command
        module = import_module(arguments[0].removesuffix(".py").replace("/", "."))
        if module.__name__ == "scripts.bench":
            arguments.append("--quick")  # a benchmark of real size takes minutes
        monkeypatch.setattr(sys, "argv", arguments)
        assert module.main(arguments[1:]) == 0


def check_pip(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
        assert set(extra.split(",")) <= project["optional-dependencies"].keys()
    assert arguments[0] == "install" and any(a.startswith(".") for a in arguments)


def check_run(
    arguments: list[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            run(arguments, monkeypatch)
        return
    if "--cfg" in arguments:
        assert run(arguments, monkeypatch) == 0
        return
    short = [a for a in arguments if not a.startswith("run.dir=results")] + SHORT
    (config, *_) = composed(short)
    if config.dataset["name"] in ("mnist", "cifar10"):
        short.append(f"data.root={request.getfixturevalue('real_data')}")
    if config.dataset["name"] == "cifar10":  # ResNet-34 takes a minute for all test images
        short.append("dataset.holdout=200")
    if "-m" in short:
        short += one_of_a_sweep(arguments)
    if config.wandb.mode != "disabled":
        monkeypatch.setenv("WANDB_SILENT", "true")
    assert run(short, monkeypatch) == 0


def one_of_a_sweep(arguments: list[str]) -> list[str]:
    """Overrides that leave one seed of a sweep, and one optimizer of an experiment's."""
    given = {resolve.setting_name(argument) for argument in arguments}
    named = [a.partition("=")[2] for a in arguments if a.startswith("+experiment=")]
    swept = resolve.sweep_parameters(named[0]) if named else {}
    wanted = {"seed": "0"} | ({} if " ".join(arguments) == WHOLE else {"optim": "adam"})
    return [f"{k}={v}" for k, v in wanted.items() if k not in given and (k in swept or k == "seed")]


def test_every_named_command_is_documented():
    known = {plain(command) for command in documented()}
    assert {*NAMED, *ELSEWHERE} - known == set()
    assert f"python run.py {WHOLE}" in known


@pytest.mark.slow
def test_every_python_block_runs(tmp_path: Path):
    """A page's blocks run in one namespace; README's five lines need a model.

    tests/compat runs the recipes, which need the extra compat.
    """
    for page in PAGES:
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        if page.name in (*OWN_PARTS, "recipes.md") or not blocks:
            continue
        if page.name == "README.md":
            model = "import torch\nmodel = torch.nn.Linear(2, 2)\n"
            blocks.insert(0, model)
        code = "\n".join(blocks).replace('("runs")', f"({str(ROOT / 'results')!r})")
        script = tmp_path / f"{page.stem}.py"
        script.write_text(code)
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
        assert done.returncode == 0, f"{page.name}: {done.stderr}"
