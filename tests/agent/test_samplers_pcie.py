"""The PCIe sampler under the real binding, with a scripted library."""

from nvml_standin.driven import values
from nvml_standin.fixtures import A, Start, built_library, process_starter  # noqa: F401  # fixtures
from nvml_standin.standin import NOT_SUPPORTED

from vtprof_schemas import names


def test_pcie_traffic_is_in_bytes_and_what_is_refused_is_not_asked_again_soon(start: Start) -> None:
    control, driven = start()
    control.pcie(0, 1200, 340)
    control.fail(1, "pcie", NOT_SUPPORTED)
    driven.ask("pcie", "open")
    for _ in range(3):
        samples = driven.sample("pcie", after_s=10.0)
    assert values(samples, names.GPU_PCIE_TX_BYTES_PER_S) == {A: 1_200_000.0}
    assert values(samples, names.GPU_PCIE_RX_BYTES_PER_S) == {A: 340_000.0}
    assert control.calls()["pcie"] == 3 * 2 + 1
