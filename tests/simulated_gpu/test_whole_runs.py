"""Whole runs on the CPU and on the simulated GPU: every number and every tensor the same."""

import pytest

from tests.simulated_gpu.plugin import gpu
from tests.simulated_gpu.runs import Command, assert_equal, few_images, needs_data, train

__all__ = ["few_images"]
pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("few_images")]

SMALL = ("task=digits", "model.hidden=[16]", "train.epochs=2", "train.max_steps=19")
PHOTOS = ("+dataset.subset=36", "dataset.holdout=20", "train.batch_size=8", "train.max_steps=6")
PICTURES = ("eval.pictures_every=1",)
GRAPH = ("train.cuda_graph=true",)
# A name, what both devices get, and what the GPU alone gets.
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "digits, the kernel": ((*SMALL, "optim=adam"), GRAPH),
    "digits, noises and schedules": (
        (
            *(*SMALL, "optim=radam", "regularizer=[nl,ng]", "schedule=poly"),
            *("lrd.p_end=0.9", "lrd.schedule=linear", "lrd.rescale=true"),
        ),
        GRAPH,
    ),
    "digits, masks of tensors": (
        (*SMALL, "optim=rmsprop_authors", "regularizer=dg", "lrd.granularity=tensor"),
        GRAPH,
    ),
    "digits, micro-batches": (
        (
            *(*SMALL, "optim._target_=torch.optim.AdamW", "schedule=warmup_cosine"),
            *("train.accumulate=2", "train.clip_norm=1", "log.every_steps=3"),
        ),
        (),
    ),
    "digits, bf16 and dropout": (
        (
            *("task=digits", "model=resnet8", "train.batch_size=32", "+dataset.subset=208"),
            *("regularizer=sd", "train.precision=bf16", "train.channels_last=true"),
            *("train.epochs=2", "train.max_steps=9", "optim=sgdm"),
        ),
        GRAPH,
    ),
    "mnist": (("task=mnist", "dataset.holdout=200", "train.max_steps=8"), GRAPH),
    "cifar10, crops": (("task=cifar10", "model=resnet20", *PHOTOS, "optim=sgdm"), GRAPH),
    "cifar10, densenet": (
        ("task=cifar10", "model=densenet121", *PHOTOS[:-1], "train.max_steps=2"),
        (),
    ),
    "shapes_seg": (("task=shapes_seg", "train.batch_size=2", "train.max_steps=2", *PICTURES), ()),
    "shapes_seg, a graph": (
        (
            "task=shapes_seg",
            "dataset.crop=33",
            "train.batch_size=2",
            "train.max_steps=5",
            "eval.final_mode=whole",
        ),
        GRAPH,
    ),
    "shapes_det": (
        ("task=shapes_det", "train.batch_size=2", "train.max_steps=2", *PICTURES),
        GRAPH,
    ),
    "shapes_det, ssd300": (
        (
            "task=shapes_det",
            "model=ssd300_vgg16",
            "model.weights=none",
            "train.batch_size=2",
            "train.max_steps=2",
        ),
        (),
    ),
    "toy": (("task=toy", "train.epochs=2"), GRAPH),
}
NEVER_CAPTURED = {"shapes_det", "toy"}  # targets in lists; no batch of tensors


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_same_on_cpu_and_gpu(name: str, cli: Command):
    needs_data(name)
    common, more = RUNS[name]
    here = train(cli, "cpu", *common, "train.device=cpu")
    with gpu.watch() as events:
        there = train(cli, "gpu", *common, *more, "train.device=cuda")
    assert there.metadata["device"] != here.metadata["device"]
    assert_equal(here, there)
    captures = sum(count for (kind, _), count in events.items() if kind == "CAPTURE")
    assert captures == (bool(more) and name not in NEVER_CAPTURED)
