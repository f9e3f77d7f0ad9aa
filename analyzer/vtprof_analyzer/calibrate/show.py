"""What was measured as text and as JSON, beside what the device table says of the same device."""

import json
from collections.abc import Sequence
from pathlib import Path

from vtprof_analyzer.devices.catalogue import look_up
from vtprof_analyzer.devices.device import CPU, Device
from vtprof_analyzer.devices.host import cpu_clock_mhz, host_device
from vtprof_analyzer.devices.measured import Entry, as_document
from vtprof_analyzer.devices.roofs import Roof, datasheet_roof
from vtprof_analyzer.report.format import percent, plain, safe, scaled


def as_text(entries: Sequence[Entry], file: Path, found_by_analyze: bool) -> str:
    """Return a table of what was measured, and where it is."""
    first = entries[0]
    where = f"{first.cores} threads, " if first.cores else ""
    lines = [f"{safe(first.device)} ({where}torch {safe(first.torch_version)})"]
    lines.append(f"  {'':<9} {'GEMM':>14} {'copy':>12} {'ridge':>14}   datasheet")
    for entry in entries:
        peak, copied = scaled(entry.peak_flops_per_s, "FLOP/s"), scaled(entry.bandwidth_bytes_per_s, "B/s")
        lines.append(
            f"  {entry.dtype:<9} {peak:>14} {copied:>12} {plain(entry.roof.ridge) + ' FLOP/B':>14}   {_beside(entry)}"
        )
    lines.append(f"Kept in {safe(file, 300)}")
    if found_by_analyze:
        lines.append("`vtprof analyze` and `vtprof estimate` use it for this device.")
    return "\n".join(lines)


def as_json(entries: Sequence[Entry], file: Path) -> str:
    """Return the document of ``calibration.schema.json``: the new entries, and what the table says beside them."""
    sheets = [sheet for entry in entries if isinstance(sheet := _sheet(entry), Roof)]
    document = as_document(list(entries)) | {
        "stored_in": str(file),
        "datasheet": [
            {
                "dtype": sheet.dtype,
                "peak_flops_per_s": sheet.peak_flops_per_s,
                "bandwidth_bytes_per_s": sheet.bandwidth_bytes_per_s,
                "ridge": sheet.ridge,
                "source": sheet.source,
                "confidence": sheet.confidence,
            }
            for sheet in sheets
        ],
    }
    return json.dumps(document, indent=2)


def _sheet(entry: Entry) -> Roof | str:
    found = _device(entry)
    return datasheet_roof(found, entry.dtype) if isinstance(found, Device) else found


def _device(entry: Entry) -> Device | str:
    if entry.kind == CPU:
        return host_device(entry.device, entry.cores, cpu_clock_mhz())
    return look_up(entry.device)


def _beside(entry: Entry) -> str:
    """Say which share of the datasheet's ceilings was attained, or of the estimated compute of a CPU."""
    sheet, device = _sheet(entry), _device(entry)
    if isinstance(sheet, Roof):
        compute = entry.peak_flops_per_s / sheet.peak_flops_per_s
        memory = entry.bandwidth_bytes_per_s / sheet.bandwidth_bytes_per_s
        return f"{percent(compute)} and {percent(memory)} of it, ridge {plain(sheet.ridge)} FLOP/B"
    peak = device.peak_flops_per_s.get(entry.dtype) if isinstance(device, Device) else None
    return f"{percent(entry.peak_flops_per_s / peak)} of an estimated peak" if peak else "not in the table"
