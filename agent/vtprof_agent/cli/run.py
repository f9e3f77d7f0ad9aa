"""`vtprof-agent run`: follow the rings of a folder until SIGTERM, then write all that was read."""

from vtprof_agent.cli.options import (
    CalibrateHost,
    ConfigFile,
    EngineMetrics,
    Metrics,
    OtlpEndpoint,
    OtlpReceive,
    OtlpReceiveGrpc,
    OtlpReceiveHttp,
    Out,
    RingDir,
)


def run(
    out: Out = None,
    otlp_endpoint: OtlpEndpoint = None,
    ring_dir: RingDir = None,
    metrics: Metrics = None,
    config: ConfigFile = None,
    calibrate_host: CalibrateHost = None,
    otlp_receive: OtlpReceive = None,
    otlp_receive_grpc: OtlpReceiveGrpc = None,
    otlp_receive_http: OtlpReceiveHttp = None,
    engine_metrics: EngineMetrics = None,
) -> None:
    """Follow the rings until SIGTERM, SIGHUP or Ctrl-C, then write all that was read."""
    import logging

    from vtprof_agent.cli import require_extra
    from vtprof_agent.cli.options import settings, start_logging, stop_on_signals

    require_extra()
    from vtprof_agent.calibrate_host import measure
    from vtprof_agent.runner import agent
    from vtprof_schemas.records import RING_SUFFIX

    chosen = settings(
        out, otlp_endpoint, ring_dir, metrics, config, calibrate_host,
        otlp_receive, otlp_receive_grpc, otlp_receive_http, engine_metrics,
    ).config  # fmt: skip
    start_logging(chosen.log_level)
    stop = stop_on_signals()
    with agent(chosen, measure() if chosen.calibrate_host else {}) as running:
        if not any(chosen.ring_dir.glob(f"*{RING_SUFFIX}")):
            logging.getLogger(__name__).info(
                "no rings in %s yet: waiting for a process to record there", chosen.ring_dir
            )
        running.run(stop.is_set, stop.wait)
