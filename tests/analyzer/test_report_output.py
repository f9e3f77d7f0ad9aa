"""Writing a report: whole or not at all, and one line when it cannot be."""

import stat
from io import StringIO
from pathlib import Path

import pytest
from report_samples import SAMPLES

from vtprof_analyzer.cli.deliver import deliver
from vtprof_analyzer.report import output
from vtprof_analyzer.report.formats import REPORT_FORMATS
from vtprof_schemas.errors import BackendError, ConfigError


def test_folders_are_made_and_the_old_file_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    output.write(folder, "report.md", "old")
    path = output.write(folder, "report.md", "né\ud800w")
    assert path.read_text(encoding="utf-8") == "né\\ud800w"
    assert [file.name for file in folder.iterdir()] == ["report.md"]


def test_a_report_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    written = output.write(tmp_path, "report.md", "x")
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ConfigError, match=r"taken.*-o") as caught:
            output.write(folder, "index.html", "x")
        assert "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_the_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    with pytest.raises(ConfigError, match=r"index\.html"):
        output.write(tmp_path, "index.html", "x")


def test_a_failed_write_leaves_the_old_report_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.write(tmp_path, "index.html", "old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BackendError, match="No space left on device"):
        output.write(tmp_path, "index.html", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("index.html", "old")]


def test_a_closed_standard_output_is_one_line_unless_a_folder_gets_the_report(tmp_path: Path) -> None:
    report = SAMPLES["empty"]()
    with pytest.raises(ConfigError, match="standard output is closed; give -o"):
        deliver(report, REPORT_FORMATS, ["json"], None, None)
    deliver(report, REPORT_FORMATS, ["json"], tmp_path, None)
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


class Watched(StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """Return that somebody looks at it."""
        return True


@pytest.mark.parametrize(
    ("stdout", "columns", "widest", "shown"),
    [
        (Watched, 90, {}, "90 columns, coloured"),
        (Watched, 130, {}, "100 columns, coloured"),
        (Watched, 130, {"widest": 110}, "110 columns, coloured"),
        (StringIO, 130, {}, "80 columns, plain"),
    ],
)
def test_text_is_as_wide_as_the_terminal_within_a_bound_and_coloured_only_there(
    monkeypatch: pytest.MonkeyPatch, stdout: type[StringIO], columns: int, widest: dict[str, int], shown: str
) -> None:
    def render(content: object, width: int, color: bool, full_report: str | None) -> str:
        return f"{width} columns, {'coloured' if color else 'plain'}"

    monkeypatch.setattr("vtprof_analyzer.report.terminal.render", render)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)
    told = stdout()
    deliver(SAMPLES["empty"](), REPORT_FORMATS, ["terminal"], None, told, **widest)
    assert told.getvalue() == shown
    monkeypatch.setenv("NO_COLOR", "1")
    deliver(SAMPLES["empty"](), REPORT_FORMATS, ["terminal"], None, told, **widest)
    assert told.getvalue().endswith("plain")
