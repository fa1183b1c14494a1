"""The load generators: how they are called, and what their output says."""

import json
import re
from dataclasses import dataclass

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
    line = next(line for line in output.split("\n") if line.startswith("RESULT "))
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
        raise ValueError("h2load did not speak HTTP/2")
    return parse_h2load(output, parse_h2load_log(log.read_text()))


def steady(processes, url, rate, seconds, body, authorization):
    """HTTP/1.1 at a constant rate, so that the load does not wait for the answers."""
    log = processes.folder / "h2load-requests"
    log.unlink(missing_ok=True)
    clients = 16
    arguments = ["h2load", "--h1", "--threads", 1, "--clients", clients, "--rps", f"{rate / clients:.1f}"]
    arguments += ["--duration", seconds, "--data", body, "--log-file", log]
    arguments += ["--header", f"authorization: {authorization}", "--header", "content-type: application/json", url]
    output = processes.run("h2load", arguments, seconds + 15)
    return parse_h2load(output, parse_h2load_log(log.read_text()))


def parse_h2load_log(text):
    """Durations in milliseconds of the requests that were answered. A line is: start, status, duration, the last in microseconds."""
    return sorted(int(line.split("\t")[2]) / 1e3 for line in text.split("\n") if line and line.split("\t")[1] != "-1")


def parse_h2load(output, durations):
    def number(pattern):
        return float(re.search(pattern, output).group(1))

    succeeded = int(number(r"requests: .* (\d+) succeeded"))
    return Load(
        requests=int(number(r"requests: .* (\d+) done")),
        seconds=number(r"finished in ([\d.]+)s") if re.search(r"finished in [\d.]+s", output) else number(r"finished in ([\d.]+)ms") / 1e3,
        refused=int(number(r"requests: .* (\d+) done")) - succeeded,
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
