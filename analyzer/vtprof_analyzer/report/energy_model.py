"""The energy part of the report object: what requests took, by phase, and how much of the work that speaks for.

Joules. ``low`` and ``high`` are sums of the ends of each stretch's interval, as if all erred alike; no ``high`` is
above what the GPUs took, where that is known. All is of the requests whose energy is known in full.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class EnergyRow:
    """Energy of one phase of the requests whose energy is known in full."""

    phase: str
    requests: int  # of them, those with energy in it
    energy_j: float
    low_j: float | None
    high_j: float | None
    share: float | None  # of the energy of all phases
    per_request_j: float  # mean over all of them: the phases' add up to that of a request
    estimated_share: float | None  # of its energy, labelled estimated
    quality: str | None  # the weakest label: measured, attributed, estimated


@dataclass(frozen=True)
class OtherGpu:
    """A GPU that an agent watched and no server of the run names: a neighbour's, or an idle one."""

    hw_id: str
    energy_j: float  # all that it took meanwhile


@dataclass(frozen=True)
class Energy:
    """Energy that GPUs took for requests. Each step counts once, through the shares of the requests in it."""

    requests: int  # of which all work on the device has energy: everything here is over these
    requests_in_part: int  # of which some work has none: in no sum
    energy_j: float | None  # sum over phases and requests; None where no request is known in full
    low_j: float | None
    high_j: float | None
    estimated_share: float | None
    quality: str | None
    per_request_j: float | None  # mean
    per_request_low_j: float | None
    per_request_high_j: float | None
    per_request_p50_j: float | None
    per_request_p95_j: float | None
    per_output_token_j: float | None  # all phases / tokens generated
    per_output_token_low_j: float | None
    per_output_token_high_j: float | None
    decode_per_token_j: float | None  # decode alone / tokens after the first
    phases: list[EnergyRow]
    gpus: int  # of the servers, watched by agents; 0 where no energy metric of theirs was read
    gpu_energy_j: float | None  # all that these GPUs took meanwhile, idle power included
    gpu_observed_s: float | None  # how long they were watched, the longest of them
    unattributed_share: (
        float | None
    )  # of it, given to no phase: idle power, neighbours, what the fit cannot explain; None where requests were sampled
    in_part_j: float | None = None  # what is known of the requests in part
    sampled: bool = (
        False  # of the requests some were left out: these are of the kept ones, the GPUs worked for all
    )
    other_gpus: list[OtherGpu] | None = None  # watched, but of no server; None where no server names its GPUs


@dataclass(frozen=True)
class CounterCoverage:
    """How much of a phase's time has a GPU counter; without a row it has none."""

    phase: str  # encode, prefill or decode
    counter: str  # energy, dram or tensor
    known_share: float | None
    low: float | None = None  # ends of the interval of its mean over that time, 0..1; None of energy
    high: float | None = None
    tells: bool = True  # whether that mean says something of the phase; if not, its row has none
