"""What one part of a step (encode, prefill or decode) costs, as arrays over steps, and its roofline floor."""

from dataclasses import dataclass

import numpy as np

from vtprof_analyzer.cost.work import Floats
from vtprof_analyzer.devices.roofs import Roof


@dataclass(frozen=True)
class PartCost:
    """FLOPs and bytes of one part; every field has one entry per step."""

    flops: Floats
    flops_attention: Floats
    """QK^T and PV only; included in ``flops``."""
    flops_visual: Floats
    """Asked for by visual query tokens; included in ``flops``. In decode 0: generated tokens are text."""
    bytes_weights: Floats
    bytes_kv_read: Floats
    bytes_kv_written: Floats
    bytes_kv_visual: Floats
    """Read for visual tokens; included in ``bytes_kv_read``. Decode only."""
    bytes_activations: Floats
    """An estimate: one pass over in- and output of every GEMM."""
    bytes_kv_visual_written: Floats
    """Written for visual tokens; included in ``bytes_kv_written``. Prefill only."""
    bytes_communication: Floats
    """Sent between devices, by all of them together (C9); not in ``bytes``, which are memory's."""

    @property
    def bytes_kv(self) -> Floats:
        """Return KV bytes read and written [B]."""
        return self.bytes_kv_read + self.bytes_kv_written

    @property
    def bytes(self) -> Floats:
        """Return all bytes [B]."""
        return self.bytes_weights + self.bytes_kv + self.bytes_activations

    @property
    def intensity(self) -> Floats:
        """Return FLOP/B; NaN where there is no work."""
        total = self.bytes
        return np.divide(self.flops, total, out=np.full_like(total, np.nan), where=total > 0)

    def floor_seconds(self, roof: Roof) -> Floats:
        """Return max(FLOPs / peak, bytes / bandwidth) per step, plus communication where the roof knows its links [s].

        Sum over steps, never max over sums (C2).
        """
        floor: Floats = np.maximum(
            self.flops / roof.peak_flops_per_s, self.bytes / roof.bandwidth_bytes_per_s
        )
        return floor + self.communication_seconds(roof)

    def communication_seconds(self, roof: Roof) -> Floats:
        """Return the time that communication takes at least [s]; 0 where the roof does not know its links."""
        if roof.link_bytes_per_s is None:
            return np.zeros_like(self.bytes_communication)
        return self.bytes_communication / roof.link_bytes_per_s


@dataclass(frozen=True)
class StepCosts:
    """Costs of steps by part."""

    encode: PartCost
    prefill: PartCost
    decode: PartCost

    def floor_seconds(self, roof: Roof) -> Floats:
        """Return each step's floor: its parts' floors added [s].

        Linear layers run prefill and decode tokens together; as weight bytes are split by tokens, the floors of the
        two parts add up to that of the common GEMM, and attention kernels run apart anyway (C2).
        """
        return (
            self.encode.floor_seconds(roof)
            + self.prefill.floor_seconds(roof)
            + self.decode.floor_seconds(roof)
        )
