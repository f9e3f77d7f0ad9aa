"""What the engine said of itself on its metrics page, where the agent read that."""

import duckdb

from vtprof_analyzer.report.build_rows import rows, whole
from vtprof_analyzer.report.model import Engine


def build_engine(connection: duckdb.DuckDBPyConnection) -> Engine | None:
    """Return it; None where no page was read."""
    found = rows(connection, "SELECT * FROM engine_said")
    if not found:
        return None
    row = found[0]
    return Engine(
        name=row["engine_name"],
        version=row["engine_version"],
        ranks=row["ranks"],
        readings=row["readings"],
        seconds=row["seconds"],
        since_start=row["since_start"],
        kv_used_ratio_p50=row["kv_used_ratio_p50"],
        kv_used_ratio_max=row["kv_used_ratio_max"],
        running_p50=row["running_p50"],
        running_max=whole(row["running_max"]),
        waiting_p50=row["waiting_p50"],
        waiting_max=whole(row["waiting_max"]),
        preemptions=row["preemptions"],
        prompt_tokens=row["prompt_tokens"],
        output_tokens=row["output_tokens"],
        prefix_hit_rate=row["prefix_hit_rate"],
        mm_cache_hit_rate=row["mm_cache_hit_rate"],
        encoder_cache_hit_rate=row["encoder_cache_hit_rate"],
        ttft_ms_mean=row["ttft_ms_mean"],
        queue_ms_mean=row["queue_ms_mean"],
    )
