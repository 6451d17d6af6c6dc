"""Lets every test import the helpers that lie beside this file (golden_io), and gives each process one thread.

Two processes of tests on two cores, each with a thread per core, would wait for one another.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
