"""The /metrics page as a scraper sees it, over HTTP."""

import shutil
import subprocess
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ring_records import SINGLE, assemble

from vtprof_agent.export.prometheus import PrometheusPage, parse_address
from vtprof_schemas import names
from vtprof_schemas.errors import ConfigError


def _scraped() -> str:
    page = PrometheusPage("1.2.3")
    requests, _, _ = assemble(SINGLE)
    page.observe(requests["1"])
    page.set_kv_bytes(visual=2000, other=1200)
    page.add_energy("GPU-1", 5_000)
    page.add_energy("GPU-1", 7_500)
    page.refresh({page.records_read: 11, page.records_lost: 2})
    page.refresh({page.records_read: 15, page.records_lost: 2})
    url, stop = page.serve("127.0.0.1:0")
    try:
        with urllib.request.urlopen(url) as response:
            return str(response.read().decode())
    finally:
        stop()


def _values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_finished_request_is_counted_in_its_visual_stratum() -> None:
    values = _values(_scraped())
    # 20 visual tokens: stratum 256. TTFT 101 ns; TPOT (225 - 201) / 2 = 12 ns; decode 20 ns.
    stratum = (names.LABEL_VISUAL_STRATUM, "256")
    assert values[names.PROM_TTFT + "_count", (stratum,)] == 1
    assert values[names.PROM_TTFT + "_sum", (stratum,)] == pytest.approx(101e-9)
    assert values[names.PROM_TPOT + "_sum", (stratum,)] == pytest.approx(12e-9)
    assert values[names.PROM_PHASE_DURATION + "_sum", (("phase", "decode"), stratum)] == pytest.approx(20e-9)


def test_tokens_kv_energy_and_records_have_their_series() -> None:
    values = _values(_scraped())
    assert values[names.PROM_TOKENS, (("modality", "text"),)] == 10
    assert values[names.PROM_TOKENS, (("modality", "image"),)] == 20
    assert values[names.PROM_TOKENS, (("modality", "output"),)] == 3
    assert values[names.PROM_KV_BYTES, (("modality", "visual"),)] == 2000
    assert values[names.PROM_KV_BYTES, (("modality", "other"),)] == 1200
    assert values[names.PROM_GPU_ENERGY, (("gpu", "GPU-1"),)] == 2.5
    assert values[names.PROM_RECORDS_LOST, ()] == 2
    assert values["vtprof_agent_records_read_total", ()] == 15
    assert values["vtprof_agent_cpu_seconds_total", ()] > 0
    assert values["vtprof_agent_resident_memory_bytes", ()] > 1_000_000


@pytest.mark.promtool
@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)"
)
def test_promtool_finds_no_fault_with_the_page() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=_scraped(), capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_address_without_a_host_is_this_machine_only() -> None:
    assert parse_address("9464") == parse_address(":9464") == ("127.0.0.1", 9464)
    assert parse_address("[::1]:9464") == ("::1", 9464)
    for wrong in ("", "host:", "host:port", "1:70000"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            parse_address(wrong)


def test_a_host_that_is_no_name_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        PrometheusPage("1").serve("a..b:0")


def test_a_taken_port_is_one_clear_line() -> None:
    url, stop = PrometheusPage("1").serve("127.0.0.1:0")
    port = url.rpartition(":")[2].partition("/")[0]
    try:
        with pytest.raises(ConfigError, match="cannot listen"):
            PrometheusPage("1").serve(f"127.0.0.1:{port}")
    finally:
        stop()
