"""Faults on purpose: processes killed, disks that fill up or fail, files damaged, under every command that leaves something behind.

`python -m benchmarks.chaos` (`make chaos`) runs the campaigns and ends with "N tried, N survived".
"""

import sys
from pathlib import Path

sys.path.append(
    str(Path(__file__).parents[2] / "tests")
)  # the tests' tiny models, and their processes that cost no import of torch
