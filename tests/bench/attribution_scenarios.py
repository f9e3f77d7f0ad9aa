"""What is served on a synthetic GPU day, how, and what else goes on there."""

from dataclasses import dataclass, field

from attribution_kernels import Model

BESIDE, TURNS, CORRELATED = "beside", "taking turns", "correlated"


@dataclass(frozen=True)
class Scenario:
    """What is served, how, and what else goes on."""

    name: str
    model: Model = field(default_factory=Model)
    requests_per_s: float = 6.0
    burst: float = 3.0
    """How much denser requests come in a burst; 1: Poisson."""
    chunk_tokens: int = 2048
    image_patches: tuple[int, ...] = (256, 1024, 2304, 4096, 9216)
    """224 to 1,344 pixels a side at 14 pixels a patch, each as frequent."""
    cached_ratio: float = 0.0
    """Share of requests whose prompt begins like one that is cached."""
    accepted: float = 0.0
    """Chance that a drafted token is accepted, if all before it were."""
    co_tenant: str = ""
    """``beside`` ours in bursts of its own, ``taking turns`` with ours in such bursts, or ``correlated`` with our load."""
    offset_ns: int = 0
    """The counters' clock is behind by so much, and nobody knows."""


_MIXTURE = Model(parameters=1.6e9, expert_parameters=27e9, width=2048, layers=48, kv_bytes_per_token=98_304)
SCENARIOS = (
    Scenario("dense"),
    Scenario("light load", requests_per_s=0.6),
    Scenario("windowed encoder, Poisson", Model(encoder_full_layers=4), burst=1.0),
    Scenario("many sequences, small images", requests_per_s=22.0, image_patches=(256, 576)),
    Scenario("mixture of experts", _MIXTURE, requests_per_s=5.0),
    Scenario("speculative decoding", Model(draft_parameters=0.5e9, drafts=3), accepted=0.7),
    Scenario("prefix cache", requests_per_s=9.0, cached_ratio=0.6),
    Scenario("co-tenant", requests_per_s=4.0, co_tenant=BESIDE),
    Scenario("clock offset 40 ms", offset_ns=40_000_000),
    Scenario("correlated co-tenant", requests_per_s=0.6, co_tenant=CORRELATED),
    Scenario("co-tenant taking turns", requests_per_s=4.0, co_tenant=TURNS),
)
