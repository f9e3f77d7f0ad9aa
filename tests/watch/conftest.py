"""Shared by the tests of the watch: the analyzer's tests have what makes traces."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "analyzer"))
