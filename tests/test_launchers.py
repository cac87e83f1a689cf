"""Which process of how many this is, in the environments that launchers, schedulers and shells leave."""

import pytest
from launching import srun, torchrun

from macer.compute.launchers import Launched, find_launched
from macer.errors import SettingsError

pytest_plugins = ["command"]

# As Slurm's manuals of salloc, sbatch and srun list them (23.11), for four tasks on two machines.
ALLOCATION = {
    **{"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4"},
    **{"SLURM_JOB_NUM_NODES": "2", "SLURM_NNODES": "2", "SLURM_NODELIST": "gpu[003-004]"},
    **{"SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_NTASKS_PER_NODE": "2"},
}
BATCH = {**ALLOCATION, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_TASK_PID": "99"}
INTERACTIVE_STEP = {**BATCH, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}
THIRD = {**STEP, "SLURM_PROCID": "2", "SLURM_NODEID": "1"}
ONE_MACHINE = {**STEP, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "2"}
TORCHRUN = torchrun(1, 2, 29_500)
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}


def place(launched: Launched | None) -> tuple[int, int]:
    return (0, 1) if launched is None else (launched.rank, launched.size)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (0, 1)),  # left in a shell
        (ALLOCATION, (0, 1)),  # salloc's shell on the login node
        ({**ALLOCATION, "SLURM_JOB_NAME": "interactive"}, (0, 1)),
        (BATCH, (0, 1)),
        (INTERACTIVE_STEP, (0, 1)),  # salloc's shell on the first machine
        ({**STEP, "SLURM_PTY_PORT": "40000", "SLURM_PTY_WIN_COL": "80"}, (0, 1)),  # srun --pty bash
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, (0, 1)),  # srun --ntasks=1 in it
        (STEP, (0, 4)),
        (THIRD, (2, 4)),
        ({**THIRD, "SLURM_JOB_NAME": "bash"}, (2, 4)),  # srun of a job of that name is srun all the same
        (ONE_MACHINE, (2, 3)),
        (srun(1, 2, 15_000), (1, 2)),
        (TORCHRUN, (1, 2)),
        ({**STEP, **TORCHRUN}, (1, 2)),  # srun torchrun
        ({**TORCHRUN, "GROUP_RANK": "3", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "8"}, (7, 8)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, (0, 1)),
        ({**STEP, "PMI_RANK": "0", "PMI_SIZE": "4"}, (0, 4)),  # srun --mpi=pmi2
    ],
)
def test_which_process_of_how_many(variables, expected):
    assert place(find_launched(variables)) == expected


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (MPI, "mpirun started 4 processes"),
        ({**STEP, **MPI}, "mpirun started 4 processes"),  # on machines that mpirun reaches by srun
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "mpirun started 2 processes"),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "3"}, "3 processes do not divide by 2: each machine must have the same"),
        ({**TORCHRUN, "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2"}, "3 processes do not divide by 2"),
        ({**TORCHRUN, "LOCAL_RANK": "first"}, "the environment variable LOCAL_RANK is 'first'"),
        ({**TORCHRUN, "MASTER_PORT": ""}, "MASTER_PORT"),
    ],
)
def test_what_cannot_be_is_refused(variables, says):
    with pytest.raises(SettingsError, match=says):
        find_launched(variables)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        *(("gpu[003-004]", "gpu003"), ("gpu[003,7-9]-ib", "gpu003-ib"), ("node7,node9", "node7"), ("login", "login")),
        *(("a[1-2],b[3-4]", "a1"), ("n-1-[2-3].cluster,login", "n-1-2.cluster")),
    ],
)
def test_slurms_processes_meet_on_its_first_machine(hosts, first):
    launched = find_launched({**STEP, "SLURM_NODELIST": hosts})
    assert launched is not None
    assert (launched.address, launched.port) == (first, 15_000 + 4711)
    set_by_hand = find_launched({**STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert set_by_hand is not None
    assert (set_by_hand.address, set_by_hand.port) == ("10.0.0.1", 29_500)


def test_training_in_a_batch_script_of_four_tasks_is_one_process(macer, digits, tmp_path, monkeypatch):
    for name, value in BATCH.items():
        monkeypatch.setenv(name, value)
    words = ("train", *digits.options, "--num-images", 20, "--batch-size", 20, "--epochs", 1, "--method", "cohen")
    result = macer(*words, "--out", tmp_path / "run")
    assert (result.code, result.err) == (0, "")
    assert "trained: " in result.out


def test_another_number_of_devices_than_a_launcher_started_is_refused(macer, digits, tmp_path, monkeypatch):
    for name, value in THIRD.items():
        monkeypatch.setenv(name, value)
    said = macer.refuses("train", *digits.options, "--devices", 4, "--out", tmp_path / "run")
    assert said == "macer: 4 devices on 2 machines take 8 processes, but srun started 4, 2 per machine"
    assert not (tmp_path / "run").exists()
