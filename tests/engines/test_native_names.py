"""The names that we read in engines' metrics and spans are in the source of every version that the tables claim."""

import re
from functools import cache
from pathlib import Path

import pytest
from engine_places import SOURCES_VARIABLE, sources_folder
from packaging.version import Version

from vtprof_agent.engine_metrics.table import SERIES, Series
from vtprof_agent.receiver.decode import SGLANG_SCOPE
from vtprof_analyzer.ingest import dialects

DOCUMENTED_IN = {
    "vllm": ("vllm/v1/metrics/*.py",),
    "sglang": ("sglang/srt/metrics/*.py", "sglang/srt/observability/*.py"),
}
TRACED_IN = ("sglang/srt/tracing/*.py", "sglang/srt/observability/*.py", "sglang/srt/managers/*.py")
FIRST_TRACING, FIRST_ATTRIBUTES = Version("0.5.3"), Version("0.5.10")


@cache
def _text(folder: Path, patterns: tuple[str, ...]) -> str:
    return "\n".join(
        path.read_text("utf-8", "replace") for pattern in patterns for path in sorted(folder.glob(pattern))
    )


def _sources(engine: str) -> dict[Version, Path]:
    found = {
        Version(folder.name.partition("-")[2]): folder
        for folder in sorted(sources_folder().glob(f"{engine}*-[0-9]*"))
        if (folder / engine).is_dir()
    }
    if len(found) < 3:
        pytest.fail(
            f"fewer than three versions of {engine}; name a folder of unpacked wheels in {SOURCES_VARIABLE}"
        )
    return found


@pytest.mark.parametrize("series", SERIES, ids=lambda s: s.name.replace(":", "-"))
def test_a_series_is_there_in_the_versions_of_its_row(series: Series) -> None:
    read = 0
    for version, folder in _sources(series.engine).items():
        base = Version(version.base_version)
        named = re.search(rf'"{re.escape(series.name)}"', _text(folder, DOCUMENTED_IN[series.engine]))
        if base < Version(series.since):
            assert series.marker is not None or named is None, f"{version} has it already"
        elif series.before is None or base < Version(series.before):
            assert named is not None, f"{version} has it no more"
            read += 1
        else:
            assert named is None, f"{version} still has it"
    assert read > 0


@pytest.mark.parametrize(
    "series", [s for s in SERIES if s.marker is not None], ids=lambda s: s.name.replace(":", "-")
)
def test_a_marker_tells_the_versions_of_its_series(series: Series) -> None:
    for version, folder in _sources(series.engine).items():
        there = f'"{series.marker}"' in _text(folder, DOCUMENTED_IN[series.engine])
        assert there == (Version(version.base_version) >= Version(series.since)), version


@pytest.mark.parametrize(
    "phrase", ["terms of number of queried tokens", "in terms of number of queried items"]
)
def test_vllm_s_prefix_cache_counts_tokens_and_its_media_cache_items(phrase: str) -> None:
    for version, folder in _sources("vllm").items():
        if "items" in phrase and version < Version("0.11"):
            continue
        text = re.sub(r'"\s*\n\s*f?"', "", _text(folder, DOCUMENTED_IN["vllm"]))
        assert phrase in text, version


def test_vllm_s_span_has_the_keys_that_are_read() -> None:
    for version, folder in _sources("vllm").items():
        text = _text(folder, ("vllm/tracing.py", "vllm/tracing/*.py", "vllm/v1/engine/output_processor.py"))
        assert f'"{dialects.VLLM_REQUEST_SPAN}"' in text, version
        for key in dialects.VLLM_KEYS:
            assert f'"{key.key}"' in text, (version, key.key)


def test_sglang_s_spans_have_the_names_and_keys_that_are_read() -> None:
    stages: set[str] = set()
    for version, folder in _sources("sglang").items():
        if version < FIRST_TRACING:
            continue
        text = _text(folder, TRACED_IN)
        assert '"rid"' in text and "Req {orig_rid[:8]}" in text, version
        assert "(host:{thread_info.host_id[:8]} | pid:{" in text, version
        here = {stage for stage in dialects.SGLANG_PHASES if f'"{stage}"' in text}
        assert {"tokenize", "prefill_waiting", "prefill_forward"} <= here, version
        assert here & {"decode_loop", "decode loop"}, version
        stages |= here
        if version >= FIRST_ATTRIBUTES:
            for key in dialects.SGLANG_KEYS:
                assert f'"{key.key}"' in text, (version, key.key)
            assert f'get_tracer("{SGLANG_SCOPE}")' in text, version
    if {Version("0.5.3"), Version("0.5.6")} <= set(_sources("sglang")):
        assert stages == set(dialects.SGLANG_PHASES), "each name is some version's"
