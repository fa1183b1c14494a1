"""What is measured, and how. A scenario's rounds are interleaved: in each, every subject has its turn, and another begins."""

import http.client
import resource
import socket
import time
from dataclasses import dataclass, field

import check
import load
from processes import Failure, forget_peak, free_port, memory, usage
from subjects import PATH, SUBJECTS, Site, basic

NANOSECONDS = 1e9
MIB = 1 << 20
# Why a subject was not measured whose program is missing.
ABSENT = "is not there"
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

OURS = ("gatepost", "gatepost-pgo", "gatepost-uncached", "gatepost-unix")
PLAIN = ("bare-pingora", "nginx", "haproxy")
ALL = (*OURS, "bare-pingora", "nginx", "nginx-auth-basic", "nginx-lua", "haproxy", "haproxy-userlist", "haproxy-lua", "caddy", "apache")
ASKING = tuple(name for name in ALL if name not in PLAIN)
SOME = ("gatepost", "gatepost-pgo", "gatepost-unix", "bare-pingora", "nginx", "nginx-lua", "haproxy", "haproxy-lua", "caddy", "apache")


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    subjects: tuple
    measure: object  # (Bench, Subject, Site, Process, Scenario) -> figures of one round
    figures: tuple = REQUESTS
    needs: frozenset = frozenset()
    options: dict = field(default_factory=dict)
    refused: bool = False  # whether every request has to be refused
    bases: tuple = ("bare-pingora", "nginx-lua", "haproxy-lua")  # what others are compared with
    rounds: int = 3  # where the command line says nothing


def url(site):
    return f"{'https' if 'tls' in site.needs else 'http'}://127.0.0.1:{site.port}{PATH}"


def wrk(bench, site, seconds, options):
    """Full load by wrk, as a scenario's options say."""
    options = dict(options)
    connections = options.pop("connections", load.CONNECTIONS)
    for name in ("body", "authorizations"):
        if name in options:
            options[name] = bench.shared / options[name]
    options.setdefault("body", bench.shared / "body-2k")
    if "wrong" in options:
        options["wrong"] = bench.next_wrong_password()
    return load.wrk(bench.processes, bench.root / "bench/wrk.lua", url(site), seconds, connections, **options)


def requests(bench, _subject, site, process, scenario):
    """CPU per request under full load."""
    return metered(process, lambda: wrk(bench, site, bench.seconds, scenario.options), scenario.refused)


def bodies(bench, _subject, site, process, scenario):
    """Bytes of bodies per CPU second, and the most memory meanwhile."""
    figures = metered(process, lambda: wrk(bench, site, bench.seconds, scenario.options), scenario.refused)
    size = (bench.shared / scenario.options["body"]).stat().st_size
    return {**figures, "mb_per_cpu_s": size / figures["cpu_us"]}


def http2(bench, _subject, site, process, scenario):
    """CPU per request under full load in HTTP/2."""

    def run():
        return load.h2load(bench.processes, url(site), bench.seconds, bench.shared / "body-2k", basic(*bench.users[0]))

    return metered(process, run, scenario.refused)


def metered(process, run, refused):
    pids = process.pids()
    forget_peak(pids)
    before, began = usage(pids), time.monotonic()
    seen = run()
    wall = time.monotonic() - began
    spent = usage(pids).since(before)
    if not seen.requests:
        raise Failure("no request was answered")
    wrong = seen.broken + (seen.requests - seen.refused if refused else seen.refused)
    if wrong > seen.requests // 1000:
        raise Failure(f"{wrong} of {seen.requests} requests were not answered as they should ({seen})")
    return {
        "cpu_us": spent / seen.requests / 1e3,
        "per_second": seen.requests / seen.seconds,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "busy": 100 * spent / NANOSECONDS / wall,
        "peak_mib": memory(pids, "VmHWM") / MIB,
        "requests": seen.requests,
    }


def idle(bench, subject, site, _process, scenario):
    """Memory before and with many connections that each had one request."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < IDLE_CONNECTIONS + BESIDE:
        raise Failure(f"the hard limit of descriptors is {hard}; {IDLE_CONNECTIONS + BESIDE} are needed (ulimit -Hn)")
    fresh = place(bench, subject, scenario, "-fresh")
    process = start(bench, subject, fresh)
    head = f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nAuthorization: {basic(*bench.users[0])}\r\nContent-Length: 2\r\n\r\n{{}}"
    connections = []
    end = time.monotonic() + 60
    try:
        check.check(subject, fresh, bench.users)
        before = memory(process.pids(), "VmRSS")
        while len(connections) < IDLE_CONNECTIONS:
            if time.monotonic() > end:
                raise Failure(f"only {len(connections)} connections within a minute")
            connection = socket.create_connection(("127.0.0.1", fresh.port), timeout=10)
            connections.append(connection)
            connection.sendall(head.encode())
            answer = connection.recv(4096)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise Failure(f"connection {len(connections)}: {answer[:40]!r}")
        time.sleep(0.5)
        after = memory(process.pids(), "VmRSS")
        closed = sum(1 for connection in connections if is_closed(connection))
        if closed:
            raise Failure(f"{closed} of {len(connections)} connections were closed")
    except OSError as error:
        raise Failure(f"connection {len(connections)}: {error}") from None
    finally:
        for connection in connections:
            connection.close()
        bench.processes.stop(process)
    return {"before_mib": before / MIB, "after_mib": after / MIB, "each_kb": (after - before) / IDLE_CONNECTIONS / 1e3}


def is_closed(connection):
    connection.setblocking(False)
    try:
        # What came with the first answer and was not read yet is no end.
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    return True


def started(bench, subject, _site, _process, scenario):
    """From starting the program to its first answer."""
    fresh = place(bench, subject, scenario, "-fresh")
    arguments = prepared(bench, subject, fresh)
    began = time.monotonic()
    process = launched(bench, subject, fresh, arguments)
    try:
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", fresh.port, timeout=5)
                connection.request("POST", PATH, b"{}")
                connection.getresponse().read()
                break
            except OSError:
                if time.monotonic() > began + 10 or process.popen.poll() is not None:
                    raise Failure(f"no answer: {process.said()}") from None
                time.sleep(0.0005)
            finally:
                connection.close()
        return {"ready_ms": (time.monotonic() - began) * 1e3}
    finally:
        bench.processes.stop(process)


def latency(bench, _subject, site, _process, _scenario):
    """What the subject adds to the direct way at a constant rate, half of what gatepost can."""
    rate = bench.half_rate(lambda seconds: wrk(bench, site, seconds, GOOD))
    body = (bench.shared / "body-2k").read_text()
    head = f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nAuthorization: {basic(*bench.users[0])}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    figures = {"rate": rate}
    for way, port in (("direct", bench.upstream_port), ("through", site.port)):
        durations, late = load.steady(port, request, rate, bench.seconds)
        figures |= {
            f"{way}_p50_ms": load.percentile(durations, 50),
            f"{way}_p99_ms": load.percentile(durations, 99),
            f"{way}_late": 100 * late / len(durations),
        }
    for what in ("p50_ms", "p99_ms"):
        figures[f"added_{what}"] = figures[f"through_{what}"] - figures[f"direct_{what}"]
    return figures


GOOD = {"authorizations": "good"}
BAD = {"authorizations": "bad"}
ONE = {"authorizations": "one"}
TLS = frozenset({"tls"})
STREAMING = frozenset({"streaming"})

SCENARIOS = [
    Scenario("good", "2 KB POST, good credentials", ALL, requests, options=GOOD, rounds=5),
    Scenario("bad", "2 KB POST, wrong credentials (401)", ASKING, requests, options=BAD, refused=True, rounds=5),
    Scenario(
        "trusted",
        "2 KB POST, trusted host without credentials (the plain proxies ask nobody)",
        ("gatepost", "gatepost-pgo", "gatepost-unix", *PLAIN),
        requests,
        needs=frozenset({"trusted"}),
        bases=PLAIN,
        rounds=5,
    ),
    Scenario("flood", "Flood without credentials (401)", (*ASKING, "gatepost-throttled"), requests, refused=True),
    Scenario(
        "random",
        "Flood of wrong passwords, each another (401; with the throttle 429)",
        (*ASKING, "gatepost-throttled"),
        requests,
        options={"wrong": True},
        refused=True,
    ),
    Scenario("message", "2 KB POST, message policy with a Lua handler", ("gatepost-message", "gatepost"), requests, options=GOOD, bases=("gatepost",)),
    Scenario(
        "body-100k",
        "100 KB bodies",
        SOME,
        bodies,
        (PER_CPU_SECOND, PEAK, RATE, BUSY),
        STREAMING,
        {**ONE, "body": "body-100k", "connections": 16},
        bases=PLAIN,
    ),
    Scenario(
        "body-10m",
        "10 MB bodies",
        SOME,
        bodies,
        (PER_CPU_SECOND, PEAK, RATE, BUSY),
        STREAMING,
        {**ONE, "body": "body-10m", "connections": 4},
        bases=PLAIN,
    ),
    Scenario("connect", "2 KB POST, a new connection for each", SOME, requests, options={**GOOD, "close": True}),
    Scenario("tls", "2 KB POST, TLS", SOME, requests, needs=TLS, options=GOOD),
    Scenario("http2", "2 KB POST, HTTP/2 over TLS", SOME, http2, needs=TLS),
    Scenario(
        "latency",
        "2 KB POST at half of the rate that gatepost can do: latency, and what it adds to the direct way",
        ("gatepost", "gatepost-pgo", "bare-pingora", "nginx-lua", "haproxy-lua"),
        latency,
        tuple(
            Figure(f"{way}_{what}_ms", f"{way} {what} ms", 2)
            for way in ("direct", "through", "added")
            for what in ("p50", "p99")
        )
        + (Figure("rate", "requests/s", 0), Figure("through_late", "sent late %", 1)),
    ),
    Scenario(
        "idle",
        f"{IDLE_CONNECTIONS:,} idle connections: resident memory",
        SOME,
        idle,
        (Figure("before_mib", "before MiB"), Figure("after_mib", "with them MiB"), Figure("each_kb", "KB each")),
        rounds=1,
    ),
    Scenario("start", "From start to the first answer", SOME, started, (Figure("ready_ms", "ms"),), rounds=10),
]


def place(bench, subject, scenario, suffix=""):
    """A new place for one start of a subject."""
    folder = bench.folder / f"{scenario.name}-{subject.name}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    return Site(bench.root, folder, bench.shared, free_port(), bench.upstream_port, bench.upstream_socket, scenario.needs)


def prepared(bench, subject, site):
    """Its configuration is written; these are its arguments."""
    return [subject.executable(bench.root), *subject.configure(site)]


def launched(bench, subject, site, arguments):
    environment = {"HOME": str(site.folder), "XDG_DATA_HOME": str(site.folder), "XDG_CONFIG_HOME": str(site.folder), **subject.environment}
    return bench.processes.start(site.folder.name, arguments, bench.processes.core_of_subject, site.folder, environment)


def start(bench, subject, site):
    process = launched(bench, subject, site, prepared(bench, subject, site))
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
                failed[subject.name] = f"{subject.program} {ABSENT}"
                continue
            try:
                site = place(bench, subject, scenario)
                process = start(bench, subject, site)
                ready[subject.name] = (subject, site, process)
                check.check(subject, site, bench.users)
                warm(bench, subject, site, scenario)
            except Failure as failure:
                failed[subject.name] = str(failure)
        with bench.quiet():
            in_rounds(bench, scenario, ready, rows, failed)
    finally:
        for _, _, process in ready.values():
            bench.processes.stop(process)
    return {name: rows[name] for name in scenario.subjects if name in rows}, failed


def in_rounds(bench, scenario, ready, rows, failed):
    """Every subject once, and so on; who fails once has no figures at all."""
    order = [name for name in ready if name not in failed]
    for number in range(bench.rounds or scenario.rounds):
        for name in rotated(order, number):
            if name in failed:
                continue
            try:
                figures = scenario.measure(bench, *ready[name], scenario)
                rows.setdefault(name, []).append(figures)
                bench.tell(scenario, number, name, figures)
            except Failure as failure:
                failed[name] = str(failure)
                rows.pop(name, None)


def rotated(names, by):
    by %= len(names) or 1
    return names[by:] + names[:by]


def warm(bench, subject, site, scenario):
    """Every user several times, so that what caches has cached and what pools has connections."""
    options = BAD if scenario.options == BAD else GOOD
    for _ in range(10):
        if wrk(bench, site, subject.warm_s, options).requests > 2 * len(bench.users):
            return
    raise Failure("too slow to warm up")
