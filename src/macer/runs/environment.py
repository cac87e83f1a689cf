"""What a result depends on besides its settings: versions, device, commit, command line and date."""

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

import macer
from macer.compute.device import describe_device


def environment(device: torch.device | None) -> dict[str, str]:
    """Return the table [environment] of a run that begins now.

    Args:
        device: what computes; None if that is recorded later.
    """
    found = {
        "macer": macer.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **({} if device is None else {"device": describe_device(device)}),
        "threads": str(torch.get_num_threads()),
        "command": command_line(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    commit = _git_commit()
    return found | ({"git_commit": commit} if commit else {})


def command_line() -> str:
    """Return the command that this process was started with, as a shell takes it: macer's, or a script of one's own."""
    program = Path(sys.argv[0])
    as_module = (program.parent.name, program.name) == ("macer", "__main__.py")
    name = "macer" if as_module or program.stem == "macer" else program.name or "python"
    return shlex.join([name, *sys.argv[1:]])


def _tracked(folder: Path) -> bool:
    """Return whether git tracks this package's files, and not just a directory above a virtual environment."""
    command = ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name]
    return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


def _git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, marked if files have been changed since."""
    here = Path(__file__).parent
    try:
        if not _tracked(here):
            return None
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
