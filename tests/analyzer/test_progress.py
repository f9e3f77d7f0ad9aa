"""Progress on stderr: bars for those who watch, lines now and then for those who read a log."""

import sys

import pytest

from vtprof_analyzer.cli.progress import counted


def told(monkeypatch: pytest.MonkeyPatch, steps: list[tuple[float, int]]) -> list[str]:
    """Return the lines of work of 40, of which so many are done at each time [s], where nobody watches."""
    now, said = 0.0, list[str]()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with counted("requests", said.append, lambda: now) as progress:
        for second, done in steps:
            now = second
            progress(done, 40)
    return said


def test_without_a_terminal_slow_work_says_how_far_it_is_and_quick_work_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A minute before the first one is no part of it; then a line for each fifteen seconds in which one was done.
    slow = [(60.0, 0), (70.0, 1), (75.0, 2), (80.0, 3), (89.0, 4), (105.0, 6), (121.0, 40)]
    assert told(monkeypatch, slow) == ["2 of 40 requests", "6 of 40 requests"]
    assert told(monkeypatch, [(0.0, 0), (5.0, 20), (14.0, 40)]) == []


def test_who_says_nothing_without_a_terminal_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with counted("measuring") as progress:
        progress(1, 2)
    assert capsys.readouterr() == ("", "")
