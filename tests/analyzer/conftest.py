"""Shared by the analyzer's tests: `vtprof` as a user calls it, in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from analyze_run import RESOURCE, one_request
from otlp_builder import document, write

from vtprof_analyzer import cli


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run `vtprof` with these words in an empty folder; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vtprof", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Return a folder with three requests of a small Qwen2.5-VL on an H200, a file each."""
    folder = tmp_path / "traces"
    folder.mkdir()
    for trace in (1, 2, 3):
        write(folder / f"{trace}.jsonl", document(*one_request(trace), resource=RESOURCE))
    return folder
