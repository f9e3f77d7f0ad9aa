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
    import signal
    import threading

    from vtprof_agent.cli import require_extra
    from vtprof_agent.cli.options import settings, start_logging

    require_extra()
    from vtprof_agent.calibrate_host import measure
    from vtprof_agent.runner import agent

    chosen = settings(
        out, otlp_endpoint, ring_dir, metrics, config, calibrate_host,
        otlp_receive, otlp_receive_grpc, otlp_receive_http, engine_metrics,
    ).config  # fmt: skip
    start_logging(chosen.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup's is to stay
            signal.signal(number, lambda *_: stop.set())
    with agent(chosen, measure() if chosen.calibrate_host else {}) as running:
        running.run(stop.is_set, stop.wait)
