"""Whether a process is one of several: torchrun's variables decide, all of them or none."""

import pytest

from lrd.runs.ranks import VARIABLES, ProcessRank

WHOLE = {
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"MASTER_ADDR": "node7", "MASTER_PORT": "29500"},
}


def test_a_process_of_torchrun_is_one_of_several():
    process = ProcessRank.from_environment(WHOLE)
    assert process == ProcessRank(rank=5, world=8, local_rank=1, local_world=4)
    assert not process.is_rank_zero
    assert ProcessRank.from_environment({**WHOLE, "RANK": "0", "LOCAL_RANK": "0"}).is_rank_zero


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "3"},
        {"WORLD_SIZE": "4"},
        {"WORLD_SIZE": "4", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"},
        {"RANK": "", "WORLD_SIZE": "4"},
        {"RANK": "3", "WORLD_SIZE": "1"},
        {**WHOLE, "RANK": "0", "WORLD_SIZE": "1"},  # torchrun --nproc_per_node=1
        {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3", "SLURM_JOB_ID": "7"},
        {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "3", "LOCAL_RANK": "3"},
    ],
)
def test_what_other_launchers_leave_behind_means_nothing(environment: dict[str, str]):
    assert ProcessRank.from_environment(environment) == ProcessRank()
    assert ProcessRank().is_rank_zero


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        *(({name: ""}, f"{name} too, got") for name in VARIABLES[2:]),
        ({"RANK": "8"}, "numbers that fit together, got RANK=8 WORLD_SIZE=8"),
        ({"RANK": "-1"}, "numbers that fit together"),
        ({"WORLD_SIZE": "0"}, "numbers that fit together"),
        ({"LOCAL_RANK": "4"}, "numbers that fit together"),
        ({"LOCAL_WORLD_SIZE": "9"}, "numbers that fit together"),
        ({"MASTER_PORT": "70000"}, "numbers that fit together"),
        ({"WORLD_SIZE": "four"}, "whole numbers, got RANK=5 WORLD_SIZE=four"),
    ],
)
def test_variables_that_are_missing_or_contradictory_are_a_mistake(
    changed: dict[str, str], rule: str
):
    with pytest.raises(ValueError, match=f"RANK and WORLD_SIZE must come with .*{rule}"):
        ProcessRank.from_environment({**WHOLE, **changed})


def test_a_launcher_sets_all_variables_or_removes_what_is_there(monkeypatch: pytest.MonkeyPatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "77")
    process = ProcessRank(rank=1, world=2, local_rank=1, local_world=2)
    process.export("127.0.0.1", 20_007)
    assert ProcessRank.from_environment() == process
    ProcessRank().export("127.0.0.1", 20_007)
    assert ProcessRank.from_environment({**WHOLE, "WORLD_SIZE": ""}) == ProcessRank()
    assert ProcessRank.from_environment() == ProcessRank()


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_zero_alone_prints(rank: int, capsys: pytest.CaptureFixture[str]):
    with ProcessRank(rank, 2, rank, 2).output():
        print("epoch 1")
    print("after")
    assert capsys.readouterr().out == ("epoch 1\nafter\n" if rank == 0 else "after\n")
