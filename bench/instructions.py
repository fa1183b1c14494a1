#!/usr/bin/env python3
"""How many instructions a request takes, and how many allocations: counted by valgrind's callgrind, so the same every time.

`make instructions` counts, prints a table against the counts in instructions.json, and fails where one has grown by more than
5 %. `make instructions RECORD=1` writes the file anew. `instructions.py --functions NAME` says where the instructions of one
row go.

Everything is run twice, with N and with 3 N requests: the difference divided by 2 N is one request, without start and end.

This is a script and not the crate gungraun, since that counts functions of a bench alone: what is paid for is the whole binary
with its sockets, which it cannot start and feed.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDED = ROOT / "bench" / "instructions.json"

# By how much a count may grow.
TOLERANCE = 0.05

# No wait of anything here is longer, in seconds.
PATIENCE = 120

# Cases of crates/proxy/benches/decide.rs, and how often each is decided about. What goes through a worker thread takes longer.
DECISIONS = {
    "good": 1000,
    "good_uncached": 500,
    "wrong_password": 500,
    "unknown_user": 500,
    "no_credentials": 1000,
    "no_route": 1000,
    "trusted_v4_of_1": 1000,
    "trusted_v4_of_10000": 1000,
    "trusted_v6_of_1": 1000,
    "trusted_v6_of_10000": 1000,
}

# Requests through the whole program.
REQUESTS = 500

# valgrind knows no SHA instructions, so what takes a real processor a hundred of them would be most of a decision here.
NOT_COUNTED = re.compile(r"^sha2::sha256::compress256$")

ALLOCATIONS = re.compile(
    r"^(malloc|calloc|realloc|aligned_alloc|memalign|posix_memalign|mi_(malloc|zalloc|calloc|realloc|rezalloc)\w*)$"
)
RELEASES = re.compile(r"^(free|cfree|mi_free\w*)$")

POLICY = """
local kumo = require 'kumo'
local users = {}
for number = 1, 1000 do users['user' .. number] = 'password' .. number end
kumo.on('http_server_validate_auth_basic', function(user, password) return users[user] == password end)
"""

# Nothing that goes by the clock, and no log.
SETTINGS = """
listeners: [{{ listen: '127.0.0.1:{port}' }}]
upstream: {{ address: '127.0.0.1:{upstream}' }}
policy: {{ file: policy.lua, workers: 1 }}
admin: off
threads: 1
reload: {{ watch: off }}
log: {{ level: {level} }}
http: {{ max_requests_per_connection: off }}
decision_cache: {{ ttl: 1h }}
routes: [{{ path: /api/inject/v1, methods: [POST], allow: [authenticated] }}]
"""

HEAD = """POST /api/inject/v1 HTTP/1.1\r
Host: mail.example.com\r
User-Agent: client/1.0\r
Accept: */*\r
Authorization: Basic dXNlcjUwMDpwYXNzd29yZDUwMA==\r
Content-Type: application/json\r
Content-Length: {length}\r
\r
"""
BODY = b"x" * 2048
REQUEST = HEAD.format(length=len(BODY)).encode() + BODY
ANSWER_BODY = b'{"success_count":1,"fail_count":0,"failed_recipients":[],"errors":[]}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER_BODY)
) + ANSWER_BODY


class Failed(Exception):
    """What went wrong, for whoever ran this."""


class Profile:
    """What callgrind counted: of every function its own instructions, of every pair of functions the calls."""

    def __init__(self, file):
        self.own = collections.Counter()
        self.calls = collections.Counter()
        self.called = collections.Counter()
        function = callee = None
        is_call = False
        for line in open(file, encoding="utf-8", errors="replace"):
            line = line.rstrip("\n")
            if line.startswith("fn="):
                function = line[3:]
            elif line.startswith("cfn="):
                callee = line[4:]
            elif line.startswith("calls="):
                self.calls[function, callee] += int(line[6:].split()[0])
                is_call = True
            elif line[:1].isdigit():
                instructions = int(line.split()[1])
                if is_call:
                    self.called[function, callee] += instructions
                    is_call = False
                else:
                    self.own[function] += instructions

    def __sub__(self, other):
        difference = Profile(os.devnull)
        for name in ("own", "calls", "called"):
            counter = getattr(difference, name)
            counter.update(getattr(self, name))
            counter.subtract(getattr(other, name))
        return difference

    def instructions(self):
        return sum(count for name, count in self.own.items() if not NOT_COUNTED.match(name))

    def calls_of(self, kind):
        """From outside: an allocator's functions may call each other."""
        pairs = self.calls.items()
        return sum(count for (caller, callee), count in pairs if kind.match(callee) and not kind.match(caller))

    def inclusive(self):
        total = collections.Counter(self.own)
        for (caller, callee), instructions in self.called.items():
            if caller != callee:
                total[caller] += instructions
        return total


def build(arguments):
    """Builds something, and gives the path of the program."""
    command = ["cargo", "build", "--locked", "--release", "--message-format", "json-render-diagnostics", *arguments]
    out = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    programs = [json.loads(line).get("executable") for line in out.splitlines()]
    return [program for program in programs if program][-1]


def callgrind(file, command):
    options = ["--tool=callgrind", f"--callgrind-out-file={file}", "--compress-strings=no", "--compress-pos=no"]
    return ["valgrind", *options, *command]


def run(command, log):
    done = subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}")


def decision(program, case, times, file, log):
    run(callgrind(file, [program, "--decide", case, str(times)]), log)
    return Profile(file)


def read_whole(connection, rest):
    """One message with a Content-Length; gives what came behind it."""
    while (end := rest.find(b"\r\n\r\n")) < 0:
        rest += receive(connection)
    length = re.search(rb"content-length: *(\d+)", rest[:end], re.IGNORECASE)
    whole = end + 4 + int(length[1])
    while len(rest) < whole:
        rest += receive(connection)
    return rest[:whole], rest[whole:]


def receive(connection):
    got = connection.recv(65536)
    if not got:
        raise EOFError
    return got


@contextlib.contextmanager
def upstream():
    """Answers everything at once. Gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        rest = b""
        with connection, contextlib.suppress(EOFError, OSError):
            while True:
                _, rest = read_whole(connection, rest)
                connection.sendall(ANSWER)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(PATIENCE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=serve, args=[connection], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def connect(port, process):
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        time.sleep(0.02)
    raise Failed("the program under valgrind does not listen")


def through(command, stop, port, requests, file, log):
    """So many requests through a proxy, one after the other on one connection."""
    process = subprocess.Popen(callgrind(file, command), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        with connect(port, process) as connection:
            rest = b""
            for _ in range(requests):
                connection.sendall(REQUEST)
                answer, rest = read_whole(connection, rest)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    raise Failed(f"answered with {answer[:200]!r}")
        process.send_signal(stop)
        process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return Profile(file)


def gatepost(program, folder, requests, file, log, level="error"):
    with upstream() as port_of_upstream:
        port = free_port()
        (folder / "policy.lua").write_text(POLICY)
        config = folder / "config.yaml"
        config.write_text(SETTINGS.format(port=port, upstream=port_of_upstream, level=level))
        return through([program, "run", "--config", config], signal.SIGTERM, port, requests, file, log)


def bare_pingora(program, requests, file, log):
    with upstream() as port_of_upstream:
        port = free_port()
        addresses = ["--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{port_of_upstream}"]
        return through([program, *addresses], signal.SIGINT, port, requests, file, log)


class Bench:
    """The rows of the table. Programs are built when they are asked for."""

    def __init__(self, folder, log):
        self.folder = folder
        self.log = log
        self.programs = {}
        self.rows = {f"decide {case}": (times, self.decision_of(case)) for case, times in DECISIONS.items()}
        self.rows["request through bare pingora"] = (REQUESTS, self.bare)
        self.rows["request"] = (REQUESTS, self.whole("error"))
        self.rows["request with access log"] = (REQUESTS, self.whole("info"))

    def program(self, *arguments):
        if arguments not in self.programs:
            self.programs[arguments] = build(arguments)
        return self.programs[arguments]

    def decision_of(self, case):
        program = ("--package", "gatepost-proxy", "--bench", "decide", "--features", "bench")
        return lambda times, file: decision(self.program(*program), case, times, file, self.log)

    def bare(self, times, file):
        program = self.program("--package", "gatepost-proxy", "--example", "bare_pingora")
        return bare_pingora(program, times, file, self.log)

    def whole(self, level):
        program = ("--package", "gatepost")
        return lambda times, file: gatepost(self.program(*program), self.folder, times, file, self.log, level)

    def count(self, name):
        """Of all that one row does, what belongs to its requests; and how many those are."""
        times, measure = self.rows[name]
        few = measure(times, self.folder / "few")
        many = measure(3 * times, self.folder / "many")
        return many - few, 2 * times


def output_of(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def built_with():
    """What counts depend on beside the code."""
    return {
        "compiler": output_of("rustc", "--version").strip(),
        "libc": " ".join(platform.libc_ver()),
        "valgrind": output_of("valgrind", "--version").strip(),
        "machine": platform.machine(),
    }


def show_functions(bench, name):
    difference, times = bench.count(name)
    inclusive = difference.inclusive()
    print(f"{name}: {difference.instructions() / times:.0f} instructions; inclusive, own, calls of one request")
    calls = collections.Counter()
    for (caller, callee), count in difference.calls.items():
        if caller != callee:
            calls[callee] += count
    for function, count in inclusive.most_common(400):
        if count >= times:
            print(f"{count / times:10.0f} {difference.own[function] / times:10.0f} {calls[function] / times:8.2f}  {function}")


def table(bench):
    """Of every row instructions and allocations of one request."""
    counts = {}
    print(f"{'':32} {'instructions':>12} {'allocations':>12}")
    for name in bench.rows:
        difference, times = bench.count(name)
        instructions = round(difference.instructions() / times)
        allocations = round(difference.calls_of(ALLOCATIONS) / times, 1)
        counts[name] = {"instructions": instructions, "allocations": allocations}
        print(f"{name:32} {instructions:12} {allocations:12.1f}", flush=True)
    return counts


def grown(counts, recorded):
    """What has more instructions than were written down, by more than may be."""
    for name, count in counts.items():
        before = recorded.get(name, {}).get("instructions")
        if before is None:
            yield f"{name}: not written down yet"
        elif count["instructions"] > before * (1 + TOLERANCE):
            yield f"{name}: {count['instructions']} instructions instead of {before}"


def compare(counts):
    recorded = json.loads(RECORDED.read_text())
    faults = list(grown(counts, recorded["counts"]))
    if not faults:
        return print("none has grown")
    here = built_with()
    for fault in faults:
        print(fault)
    if here != recorded["built_with"]:
        return print(f"counted with {recorded['built_with']}, here {here}: that may be why, so this is a warning")
    sys.exit("counts have grown: mend it, or write them down with RECORD=1 and say why")


def main():
    parser = argparse.ArgumentParser(description="Counts instructions and allocations of a request.")
    parser.add_argument("--record", action="store_true", help="write the counts down")
    parser.add_argument("--functions", metavar="ROW", help="where the instructions of one row go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open(pathlib.Path(folder) / "log", "w+") as log:
        bench = Bench(pathlib.Path(folder), log)
        try:
            if arguments.functions:
                return show_functions(bench, arguments.functions)
            counts = table(bench)
        except Failed as fault:
            log.seek(0)
            sys.exit(f"{fault}\n{log.read()[-4000:]}")
    if arguments.record:
        text = json.dumps({"built_with": built_with(), "counts": counts}, indent=2)
        RECORDED.write_text(text + "\n")
    else:
        compare(counts)


if __name__ == "__main__":
    main()
