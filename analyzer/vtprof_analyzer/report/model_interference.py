"""The report's answer to "what do image requests cost text requests in the same batches?".

The effect is of the schedule as it was: how much longer the steps were, in which text requests waited, prefilled or
decoded, than like steps without encoding and without visual tokens of prompts. That a shorter step would also have let
the next one begin with a shorter queue is not in it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interference:
    """The mean effect on one time of text-only requests. Without an estimate ``why_not`` says what is missing."""

    what: str  # ttft_ms or tpot_ms
    requests: int  # text-only requests that have this time
    effect_ms: float | None  # added per request (per output token for tpot_ms), mean over these requests
    low_ms: float | None  # 95 % interval of the effect in this run
    high_ms: float | None
    share: float | None  # effect / mean of the time itself
    method: str | None  # matched_steps, or request_regression where steps could not be matched
    n_matched: int  # steps with image work that have like steps without (regression: requests used)
    matched_share: float | None  # of the text requests' exposure to image work, in steps that were matched
    regression_ms: (
        float | None
    )  # the second opinion: regression of the requests' times on the work beside them
    regression_low_ms: float | None
    regression_high_ms: float | None
    agrees: bool | None  # whether the two intervals overlap; where not, low_ms and high_ms hold both
    why_not: str | None  # why there is no estimate; None where there is one
    excludes: str | None  # what the effect does not count; None where it counts all, or there is none
