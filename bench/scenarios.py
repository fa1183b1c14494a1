"""What is measured, and how. A scenario's rounds are interleaved: in each, every subject has its turn, and another begins."""

import http.client
import os
import resource
import socket
import statistics
import time
from dataclasses import dataclass, field

import check
import load
from processes import Failure, forget_peak, free_port, memory, usage
from subjects import PATH, SUBJECTS, Site, basic

NANOSECONDS = 1e9
MIB = 1 << 20
IDLE_CONNECTIONS = 10_000
# Descriptors that a process needs beside those connections.
BESIDE = 300


@dataclass(frozen=True)
class Figure:
    key: str
    title: str
    digits: int = 1
    ratio: bool = False  # the one that is compared
    higher: bool = False  # whether more is better


CPU = Figure("cpu_us", "CPU µs/request", ratio=True)
RATE = Figure("per_second", "requests/s", 0)
P50 = Figure("p50_ms", "p50 ms", 2)
P99 = Figure("p99_ms", "p99 ms", 2)
BUSY = Figure("busy", "core busy %", 0)
PER_CPU_SECOND = Figure("mb_per_cpu_s", "MB per CPU s", 0, ratio=True, higher=True)
PEAK = Figure("peak_mib", "peak MiB")
REQUESTS = (CPU, RATE, P50, P99, BUSY)

OURS = ("gatepost", "gatepost-uncached", "gatepost-unix")
PLAIN = ("bare-pingora", "nginx", "haproxy")
ALL = (*OURS, "bare-pingora", "nginx", "nginx-auth-basic", "nginx-lua", "haproxy", "haproxy-userlist", "haproxy-lua", "caddy", "apache")
ASKING = tuple(name for name in ALL if name not in PLAIN)
SOME = ("gatepost", "gatepost-unix", "bare-pingora", "nginx", "nginx-lua", "haproxy", "haproxy-lua", "caddy", "apache")


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    subjects: tuple
    measure: object  # (Bench, Site, Process, Scenario) -> figures of one round
    figures: tuple = REQUESTS
    needs: frozenset = frozenset()
    options: dict = field(default_factory=dict)
    refused: bool = False  # whether every request has to be refused
    rounds: int = 0  # instead of what the command line says


def requests(bench, site, process, scenario):
    """CPU per request under full load by wrk."""
    options = dict(scenario.options)
    connections = options.pop("connections", load.CONNECTIONS)
    body = bench.shared / options.pop("body", "body-2k")
    if "authorizations" in options:
        options["authorizations"] = bench.shared / options["authorizations"]
    if options.get("wrong"):
        options["wrong"] = bench.next_wrong_password()
    scheme = "https" if "tls" in site.needs else "http"
    url = f"{scheme}://127.0.0.1:{site.port}{PATH}"

    def run():
        return load.wrk(bench.processes, bench.root / "bench/wrk.lua", url, bench.seconds, connections, body=body, **options)

    figures, seen, spent = metered(process, run, scenario.refused)
    figures["mb_per_cpu_s"] = seen.requests * body.stat().st_size / 1e6 / (spent / NANOSECONDS)
    return figures


def http2(bench, site, process, scenario):
    """The same over HTTP/2."""
    url = f"https://127.0.0.1:{site.port}{PATH}"

    def run():
        return load.h2load(bench.processes, url, bench.seconds, bench.shared / "body-2k", basic(*bench.users[0]))

    return metered(process, run, scenario.refused)[0]


def metered(process, run, refused):
    pids = process.pids()
    try:
        forget_peak(pids)
    except PermissionError:
        # A process that changed its user cannot be asked to; then it is the peak since it began.
        pass
    before, began = usage(pids), time.monotonic()
    seen = run()
    wall = time.monotonic() - began
    spent = usage(pids).since(before)
    if not seen.requests:
        raise Failure("no request was answered")
    # What is in flight at the end counts as broken for some load generators.
    wrong = seen.broken + (seen.requests - seen.refused if refused else seen.refused)
    if wrong > max(seen.requests // 1000, load.CONNECTIONS):
        raise Failure(f"{wrong} of {seen.requests} requests were not answered as they should ({seen})")
    figures = {
        "cpu_us": spent / seen.requests / 1e3,
        "per_second": seen.requests / seen.seconds,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "busy": 100 * spent / NANOSECONDS / wall,
        "peak_mib": memory(pids, "VmHWM") / MIB,
        "requests": seen.requests,
    }
    return figures, seen, spent


GOOD = {"authorizations": "good"}
BAD = {"authorizations": "bad"}
ONE = {"authorizations": "one"}

SCENARIOS = [
    Scenario("good", "2 KB POST, good credentials", ALL, requests, options=GOOD),
    Scenario("bad", "2 KB POST, wrong credentials (401)", ASKING, requests, options=BAD, refused=True),
    Scenario("trusted", "2 KB POST, trusted host without credentials", ("gatepost", "gatepost-unix", *PLAIN), requests, needs=frozenset({"trusted"})),
]


def place(bench, subject, scenario):
    """A new place for one start of a subject."""
    folder = bench.folder / f"{scenario.name}-{subject.name}"
    folder.mkdir(parents=True, exist_ok=True)
    return Site(bench.root, folder, bench.shared, free_port(), bench.upstream_port, bench.upstream_socket, scenario.needs)


def start(bench, subject, site):
    arguments = [subject.executable(bench.root), *subject.configure(site)]
    environment = {"HOME": str(site.folder), "XDG_DATA_HOME": str(site.folder), "XDG_CONFIG_HOME": str(site.folder), **subject.environment}
    process = bench.processes.start(site.folder.name, arguments, bench.processes.core_of_subject, site.folder, environment)
    try:
        process.wait_until_listening(site.port)
    except Failure:
        bench.processes.stop(process)
        raise
    return process


def run(bench, scenario, names):
    """The figures of every round by subject, and why others have none."""
    rows, failed, ready = {}, {}, {}
    wanted = [subject for subject in SUBJECTS if subject.name in scenario.subjects and subject.name in names]
    try:
        for subject in wanted:
            if not subject.executable(bench.root):
                failed[subject.name] = f"{subject.program} is not there"
                continue
            try:
                site = place(bench, subject, scenario)
                process = start(bench, subject, site)
                ready[subject.name] = (site, process)
                check.check(subject, site, bench.users)
                warm(bench, subject, site)
            except Failure as failure:
                failed[subject.name] = str(failure)
        order = [name for name in ready if name not in failed]
        for number in range(scenario.rounds or bench.rounds):
            for name in rotated(order, number):
                if name in failed:
                    continue
                site, process = ready[name]
                try:
                    with bench.quiet():
                        figures = scenario.measure(bench, site, process, scenario)
                    rows.setdefault(name, []).append(figures)
                    bench.tell(scenario, number, name, figures)
                except Failure as failure:
                    failed[name] = str(failure)
                    rows.pop(name, None)
    finally:
        for _, process in ready.values():
            bench.processes.stop(process)
    return {name: rows[name] for name in scenario.subjects if name in rows}, failed


def rotated(names, by):
    by %= len(names) or 1
    return names[by:] + names[:by]


def warm(bench, subject, site):
    """Every user once, so that what caches has cached and what pools has connections."""
    if site.needs & {"trusted", "message"}:
        return
    scheme = "https" if "tls" in site.needs else "http"
    url = f"{scheme}://127.0.0.1:{site.port}{PATH}"
    for _ in range(10):
        seen = load.wrk(
            bench.processes, bench.root / "bench/wrk.lua", url, 1, body=bench.shared / "body-2k", authorizations=bench.shared / "good"
        )
        if seen.requests > 2 * len(bench.users):
            return
    raise Failure("too slow to warm up")
