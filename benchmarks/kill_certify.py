"""Certify with two workers that are killed again and again, and see that nothing is lost, repeated or different.

    python benchmarks/kill_certify.py --kills 50

A small network on the digits is certified by `macer certify --devices 2`. Each time, kill -9 hits the command's own
process, one of its workers or all of them at a random moment: one time in four while they start, else while they work.
Where the command's own process was hit, no worker may outlive it by more than some seconds, and the same command is
given again; else it must come to its end by itself. After every kill, each row that was on the disk before must still
be there, with the seconds that it took, by which a row made again would be known. A finished directory must have the
rows of one undisturbed process; then the next one begins. Linux only. Takes some seconds per kill, most of them for
starting.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.io import loadmat

TRAINING = ("--dataset", "digits", "--network", "convnet", "--method", "cohen", "--epochs", 2, "--device", "cpu")
KINDS = ("hard", "soft")
Observed = dict[tuple[str, str], str]
"""The whole rows on disk, by kind and image."""


def macer(*words: object) -> list[str]:
    """Return a command line."""
    return [sys.executable, "-m", "macer", *map(str, words)]


def observe(directory: Path) -> Observed:
    """Return what is on disk now; no image may be there twice."""
    found: Observed = {}
    for file in directory.glob("*.tsv"):
        for line in file.read_text().split("\n")[1:-1]:
            key = (file.stem, line.split("\t")[0])
            assert key not in found, f"{file}: image {key[1]} is there twice"
            found[key] = line
    return found


def without_time(line: str) -> list[str]:
    """Return the cells of a row but the seconds it took and the checksum, which covers them."""
    cells = line.split("\t")
    return cells[:5] + cells[6:-1]


def check_finished(directory: Path, whole: Path) -> None:
    """Compare every file of a finished directory with that of one undisturbed process."""
    for kind in KINDS:
        here, there = ((each / f"{kind}.tsv").read_text().splitlines() for each in (directory, whole))
        assert [without_time(line) for line in here] == [without_time(line) for line in there], f"{directory} differs"
        np.testing.assert_array_equal(*(loadmat(each / "certificates.mat")[kind] for each in (directory, whole)))


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # one per thread
    return [int(child) for file in lists for child in file.read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def kill(process: subprocess.Popen, directory: Path, startup: float, chance: random.Random) -> bool:
    """Send kill -9 at a random moment; return False where the work was done before."""
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0, startup))
    else:
        before = len(observe(directory))
        while len(observe(directory)) <= before and process.poll() is None:
            time.sleep(0.03)
        time.sleep(chance.uniform(0, 1.5))
    if process.poll() is not None:
        return False
    others = children(process.pid)
    victims = chance.choice([[process.pid], [chance.choice(others or [process.pid])], [process.pid, *others]])
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    if process.pid in victims:
        process.wait()
        deadline = time.monotonic() + 10
        while left := [pid for pid in others if alive(pid)]:
            assert time.monotonic() < deadline, f"workers outlive their command: {left}"
            time.sleep(0.05)
    return True


def main() -> None:
    """Kill, look, go on, until there were enough kills and the last directory is finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=5, help="certify every so many of the 500 images")
    arguments = parser.parse_args()
    options = ("--device", "cpu", "--mode", "both", "--n", 20_000, "--skip", arguments.skip, "--seed", 0)
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, whole = folder / "run", folder / "whole"
        subprocess.run(macer("train", *TRAINING, "--out", run), check=True, stdout=subprocess.DEVNULL)
        started = time.monotonic()
        subprocess.run(macer("certify", run, *options, "--out", whole), check=True, stdout=subprocess.DEVNULL)
        startup = time.monotonic() - started
        kills, directories, rows = 0, 0, 0
        while kills < arguments.kills:
            directories += 1
            directory = folder / str(directories)
            command = macer("certify", run, *options, "--devices", 2, "--out", directory)
            seen: Observed = {}
            while not (directory / "certificates.mat").exists():
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                while kills < arguments.kills and kill(process, directory, startup, chance):
                    kills += 1
                    after = observe(directory)
                    lost = [key for key, line in seen.items() if after.get(key) != line]
                    assert not lost, f"rows that were there are lost or made again: {lost}"
                    seen = after
                    print(f"kill {kills}: {len(seen)} rows are there", flush=True)
                _, said = process.communicate()
                assert process.returncode in (0, -signal.SIGKILL), said
            check_finished(directory, whole)
            rows += len(observe(directory))
        print(f"{kills} kills, {directories} directories, {rows} rows: none lost, made twice or different")


if __name__ == "__main__":
    main()
