"""Import first: afterwards the packages of ``tests`` can be imported, and linear algebra keeps to one thread.

The benches start a process a core; threads of each would only get in the others' way.
"""

import os
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
