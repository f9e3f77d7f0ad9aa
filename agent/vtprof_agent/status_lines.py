"""A live agent's state in lines for people: what is wrong, what was lost, what it costs, and then what it works on."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from vtprof_agent.budget import LEVELS, MOST
from vtprof_agent.counters.meter import COUNTERS
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

RECENT_S: Final = 300.0
"""A loss that is not older is a problem at present."""
_UNITS: Final = ("_mj", "_mw", "_mhz", "_ratio", "_bytes", "_bytes_per_s")
_WORST_FIRST: Final = (names.QUALITY_ESTIMATED, names.QUALITY_ATTRIBUTED, names.QUALITY_MEASURED)
State = Mapping[str, Any]


def problems(agent: State, unix_ns: int) -> list[str]:
    """Return what is wrong at present, worst first; raises what a malformed state makes."""
    found = [
        f"{gpu['uuid']}{_named(gpu)} is not read {_since(gpu['since_unix_ns'], unix_ns)}: {gpu['reason']}"
        for gpu in agent["gpus"]
        if gpu["since_unix_ns"] is not None
    ]
    found += [
        f"sampler {one['name']} is off {_since(one['since_unix_ns'], unix_ns)}: {one['reason']}"
        for one in agent["samplers"]
        if one["reason"] is not None and one["missed"]
    ]
    found += [
        f"{gpu['uuid']}: sampler {name} tells nothing of it {_since(since_ns, unix_ns)}{_refusal(gpu, name)}"
        for gpu in agent["gpus"]
        for name, since_ns in gpu["silent"].items()
    ]
    found += [
        f"{one['target']} takes nothing: {one['last_error']}{_waiting(one)}"
        for one in agent["destinations"]
        if one["last_error"]
    ]
    found += [
        f"{one['count'] - _before(one)} {one['what']}, the last {_since(one['last_unix_ns'], unix_ns, 'at')}"
        for one in agent["losses"]
        if one["last_unix_ns"] is not None and unix_ns - one["last_unix_ns"] <= RECENT_S * NS_PER_S
    ]
    if int(agent["detail"]) < MOST:
        found.append(f"detail is lowered: {agent['detail_reason']}")
    if agent["detail_refused"]:
        pids = ", ".join(str(int(pid)) for pid in agent["detail_refused"])
        found.append(f"PID {pids}: the ring may not be written, so the probe there records all that it can")
    return found


def lines(agent: State, *, verbose: bool = False) -> list[str]:
    """Return the state, losses and costs first; raises what a malformed state makes."""
    detail, kept = int(agent["detail"]), float(agent["keep_ratio"])
    lost = [f"{one['count']} {one['what']}{_earlier(one)}" for one in agent["losses"] if one["count"]]
    told = [
        f"lost: {', '.join(lost) or 'nothing'}; {_read(agent)}",
        f"cost: {agent['cpu_ratio']:.3f} cores, {agent['rss_bytes'] / 1e6:.1f} MB of memory; {_probe(agent)}",
        f"detail {detail} ({LEVELS[detail]}), {_working(agent)}, version {agent['version']}",
    ]
    if kept < 1:
        told.append(
            f"{kept:g} of ordinary requests are kept, all slow and failed ones; {agent['requests_sampled_out']} were"
            " left out"
        )
    told += [
        f"to {one['target']}: {one['spans_delivered']} spans delivered{_waiting(one)}"
        for one in agent["destinations"]
    ]
    told += _samplers(agent, verbose)
    fits: dict[str, list[State]] = {}
    for fit in agent["attribution"]:
        fits.setdefault(fit["hw_id"], []).append(fit)
    gpus = {gpu["uuid"]: gpu for gpu in agent["gpus"]}
    cut = {gpu["details"].get("mig_of") for gpu in agent["gpus"]}
    for uuid in dict.fromkeys((*gpus, *fits)):
        gpu = gpus.get(uuid)
        away = "" if gpu is None or gpu["reason"] is None else f"not read ({gpu['reason']}); "
        missing = gpu.get("missing", {}) if gpu is not None else {}
        untold_keys = [] if gpu is None or uuid in cut else _lacking(gpu)
        left_out = f"; not told: {', '.join(untold_keys)}" if untold_keys else ""
        more = " (--verbose says why)" if untold_keys and not verbose else ""
        told.append(f"{uuid}{_named(gpu) if gpu else ''}: {away}{_worst(fits.get(uuid, ()))}{left_out}{more}")
        if verbose:
            told += [f"  {_fit(fit)}{_no_more(fit['key'], missing)}" for fit in fits.get(uuid, ())]
            fitted = {fit["key"] for fit in fits.get(uuid, ())}
            rest = dict.fromkeys(COUNTERS, "no sampler that is on tells it") if gpu is not None else {}
            told += [
                f"  {_short(key)}: not told: {why}"
                for key, why in {**rest, **missing}.items()
                if key not in fitted
            ]
    return told


def _lacking(gpu: State) -> list[str]:
    """Return the counters that are not told of a GPU though they could be: a MIG instance has no energy of its own."""
    instance = "mig_of" in gpu["details"]
    wanted = [key for key in COUNTERS if not (instance and key == names.GPU_ENERGY_MJ)]
    return [_short(key) for key in wanted if key in gpu.get("missing", {})]


def untold(missing: Mapping[str, str]) -> str:
    """Return quantities that are not told, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for key, why in missing.items():
        by_reason.setdefault(why, []).append(_short(key))
    return ", ".join(f"{', '.join(keys)} ({why})" for why, keys in by_reason.items())


def ago(seconds: float | None) -> str:
    """Return a length of time, roughly."""
    seconds = seconds or 0.0
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _since(then_ns: int, unix_ns: int, word: str = "since") -> str:
    at = datetime.fromtimestamp(then_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{word} {at} ({ago((unix_ns - then_ns) / NS_PER_S)}{' ago' if word == 'at' else ''})"


def _probe(agent: State) -> str:
    return f"the probe takes at most {100 * agent['probe_ratio']:.2f} % of a process's time"


def _read(agent: State) -> str:
    before = int(agent.get("records_read_before", 0))
    return f"{agent['records_read']} records read" + (f" ({before} before this agent)" if before else "")


def _working(agent: State) -> str:
    rings, running, held = agent["rings"], agent["open_requests"], int(agent.get("held_requests", 0))
    ended = f" and {held} ended, waiting for their counters" if held else ""
    return f"{rings} ring{'s' * (rings != 1)}, {running} request{'s' * (running != 1)} in flight{ended}"


def _before(loss: State) -> int:
    return int(loss.get("before", 0))


def _earlier(loss: State) -> str:
    """Return how much of a loss is of the time before the agent started."""
    before = _before(loss)
    return "" if not before else f" ({'all' if before == loss['count'] else before} before this agent)"


def _refusal(gpu: State, sampler: str) -> str:
    reason = gpu.get("refused", {}).get(sampler)
    return f": {reason}" if reason else ""


def _named(gpu: State) -> str:
    return f" ({gpu['name']})" if gpu["name"] else ""


def _waiting(destination: State) -> str:
    waits = destination["spooled_bytes"]
    return "" if waits is None else f", {_size(waits)} wait on disk"


def _size(many: float) -> str:
    """Return a size in bytes, in a unit of which there is at least a tenth."""
    if many < 1e5:
        return f"{many / 1e3:.1f} kB" if many >= 100 else f"{many:.0f} bytes"
    return f"{many / 1e6:.1f} MB"


def _gpu_samplers(agent: State) -> list[State]:
    return [one for one in agent["samplers"] if one["name"] != "host"]


def _samplers(agent: State, verbose: bool) -> list[str]:
    """Return who is read in a line; why others are not where that is asked, or where no GPU is read at all."""
    on = [one["name"] for one in agent["samplers"] if one["reason"] is None]
    off = [one for one in agent["samplers"] if one["reason"] is not None]
    if not on and not off:
        return ["samplers: none"]
    why = verbose or all(one["reason"] is not None for one in _gpu_samplers(agent))
    more = "" if why or not off else f"; off: {', '.join(one['name'] for one in off)} (--verbose says why)"
    told = [f"samplers: {', '.join(on) or 'none'}{more}"]
    return told + [f"  {one['name']} is off: {one['reason']}" for one in off if why]


def _worst(fits: Iterable[State]) -> str:
    """Return the counter of a GPU that is attributed worst, and whether others may use the GPU."""
    found = sorted(fits, key=lambda fit: (_WORST_FIRST.index(fit["quality"]), -_badness(fit)))
    if not found:
        return "nothing of it is attributed yet"
    worst = found[0]
    why = worst.get("why") or _condition(worst)
    tenant = (
        "; others may use this GPU"
        if any(fit["co_tenant"] and fit.get("why") != why for fit in found)
        else ""
    )
    return f"at worst {worst['quality']} ({_counter(worst)}: {why}){tenant}"


def _badness(fit: State) -> float:
    condition = fit["condition_number"]
    return float("inf") if condition is None else float(condition)


def _counter(fit: State) -> str:
    return _short(fit["key"])


def _short(key: object) -> str:
    """Return a quantity's name for people: of its attribute key what is not its unit."""
    short = str(key).removeprefix("vtprof.gpu.")
    return next((short.removesuffix(unit) for unit in _UNITS if short.endswith(unit)), short)


def _no_more(key: object, missing: Mapping[str, str]) -> str:
    return f", not told any more: {missing[str(key)]}" if key in missing else ""


def _condition(fit: State) -> str:
    condition = fit["condition_number"]
    return "no fit yet" if condition is None else f"condition number {condition:.3g}"


def _fit(fit: State) -> str:
    idle, refused, failures = fit["unattributed_ratio"], fit["refused"], fit["failures"]
    return ", ".join(
        [f"{_counter(fit)}: {fit['quality']}"]
        + ([fit["why"]] if fit.get("why") else [])
        + ([_condition(fit)] if _condition(fit) != fit.get("why") else [])
        + [f"{fit['windows']} windows"]
        + ([] if idle is None else [f"{100 * idle:.1f} % unattributed"])
        + ([f"{fit['lag_ns'] / 1e6:.0f} ms late"] if fit["lag_ns"] else [])
        + ([f"windows refused: {refused}"] if refused else [])
        + ([f"fits failed: {failures}"] if failures else [])
        + (["others may use this GPU"] if fit["co_tenant"] and not fit.get("why") else [])
    )
