"""The load generators: how they are called, and what their output says."""

import gc
import json
import random
import re
import select
import socket
import time
from dataclasses import dataclass

from processes import Failure

CONNECTIONS = 64
# HTTP/2: as many requests at once as there are connections in HTTP/1.1.
H2_CONNECTIONS, H2_STREAMS = 8, 8


@dataclass
class Load:
    """What a load generator saw of one run."""

    requests: int
    seconds: float
    refused: int  # answers of 400 and above
    broken: int  # no answer: connections that failed or broke, and timeouts
    p50_ms: float
    p99_ms: float


def wrk(processes, script, url, seconds, connections=CONNECTIONS, **options):
    arguments = ["wrk", "--threads", 1, "--connections", connections, "--duration", f"{seconds}s", "--timeout", "10s"]
    arguments += ["--script", script, url, "--", *(f"{name}={value}" for name, value in options.items())]
    return parse_wrk(processes.run("wrk", arguments, seconds + 15))


def parse_wrk(output):
    """`done` in wrk.lua writes one line for us."""
    line = next((line for line in output.split("\n") if line.startswith("RESULT ")), None)
    if line is None:
        raise Failure(f"wrk gave no result: {output[-200:]!r}")
    said = json.loads(line.removeprefix("RESULT "))
    return Load(
        requests=said["requests"],
        seconds=said["microseconds"] / 1e6,
        refused=said["refused"],
        broken=said["broken"],
        p50_ms=said["p50_us"] / 1e3,
        p99_ms=said["p99_us"] / 1e3,
    )


def h2load(processes, url, seconds, body, authorization):
    """HTTP/2. h2load can send one value of a header only, so all requests are one user's."""
    log = processes.folder / "h2load-requests"
    log.unlink(missing_ok=True)
    arguments = ["h2load", "--threads", 1, "--clients", H2_CONNECTIONS, "--max-concurrent-streams", H2_STREAMS]
    arguments += ["--duration", seconds, "--data", body, "--log-file", log]
    arguments += ["--header", f"authorization: {authorization}", "--header", "content-type: application/json", url]
    output = processes.run("h2load", arguments, seconds + 15)
    if "Application protocol: h2" not in output:
        raise Failure("h2load did not speak HTTP/2")
    return parse_h2load(output, parse_h2load_log(log.read_text()))


def steady(port, request, rate, seconds):
    """Requests at random times with a constant mean rate, whether or not answers come: what latency a load has that does not wait for them.

    h2load's `--rps` and wrk's `delay` count in milliseconds, and send all that is due in one burst. This takes some 30 microseconds of its core
    for a request; so it says how many were sent more than a millisecond late.
    """
    free = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(CONNECTIONS)]
    opened = list(free)
    # The same times in every run.
    times = random.Random(1)
    waiting, answers, durations = {}, {}, []
    late = 0
    gc.disable()
    try:
        for connection in free:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        now = time.perf_counter()
        end, due = now + seconds, now
        while due < end or (waiting and now < end + 5):
            now = time.perf_counter()
            while due <= now and due < end and free:
                connection = free.pop()
                late += now - due > 0.001
                waiting[connection] = time.perf_counter()
                if connection.send(request) != len(request):
                    raise Failure("a request was not taken at once")
                due += times.expovariate(rate)
            pause = due - time.perf_counter() if due < end and free else 0.1
            for connection in select.select(waiting, [], [], max(pause, 0))[0]:
                answer = answers.pop(connection, b"") + connection.recv(65536)
                if answer.endswith(b"}"):
                    durations.append((time.perf_counter() - waiting.pop(connection)) * 1e3)
                    free.append(connection)
                    if not answer.startswith(b"HTTP/1.1 200"):
                        raise Failure(f"answered with {answer[:60]!r}")
                elif not answer:
                    raise Failure("a connection was closed")
                else:
                    answers[connection] = answer
        if waiting:
            raise Failure(f"{len(waiting)} requests got no answer")
    finally:
        gc.enable()
        for connection in opened:
            connection.close()
    return sorted(durations), late


def parse_h2load_log(text):
    """Durations in milliseconds of the requests that were answered. A line is: start, status, duration, the last in microseconds."""
    return sorted(int(line.split("\t")[2]) / 1e3 for line in text.split("\n") if line and line.split("\t")[1] != "-1")


def parse_h2load(output, durations):
    def number(pattern):
        found = re.search(pattern, output)
        if not found:
            raise Failure(f"h2load's output has no {pattern!r}: {output[-200:]!r}")
        return float(found.group(1))

    done, succeeded = int(number(r"requests: .* (\d+) done")), int(number(r"requests: .* (\d+) succeeded"))
    milliseconds = re.search(r"finished in ([\d.]+)ms", output)
    return Load(
        requests=done,
        seconds=float(milliseconds.group(1)) / 1e3 if milliseconds else number(r"finished in ([\d.]+)s"),
        refused=done - succeeded,
        broken=int(number(r"(\d+) errored")) + int(number(r"(\d+) timeout")),
        p50_ms=percentile(durations, 50),
        p99_ms=percentile(durations, 99),
    )


def percentile(ordered, percent):
    """The smallest value that so many percent of all do not exceed."""
    if not ordered:
        return 0.0
    at = -(-len(ordered) * percent // 100)
    return ordered[max(at, 1) - 1]
