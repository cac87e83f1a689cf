"""Memory does not grow with n: measured in a process of its own, whose peak nothing else raises."""

import subprocess
import sys

_PROGRAM = """
import resource, torch
from macer import Hard, SmoothedClassifier, Soft
from macer.models import build
from macer.smoothing.spending import Fixed

torch.set_num_threads(1)
g = SmoothedClassifier(build("lenet", 10, (1, 28, 28)), 0.25, 10)
for n in (2_000, 40_000):
    Fixed([Hard(), Soft()], 100, n, 0.001).certify(g, torch.zeros(1, 28, 28), image_index=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_does_not_grow_with_n() -> None:
    """One batch's activations are 9 MB. Holes in the heap once made this grow by 60 to 600 MB."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    few, many = (int(line) / 1024 for line in done.stdout.split())
    assert many - few < 16, f"{many - few:.0f} MB more at n = 40,000 than at 2,000"
