"""`make bench`: what a request costs in gatepost, in its peers, and in the bare proxy library, measured side by side.

One core has the subject, another the upstream and the load. The figure that counts is CPU time of the subject's processes per answered request,
read from /proc; requests per second depend on the rest of the machine, too.
"""

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.dont_write_bytecode = True

import chart
import report
import scenarios
import subjects
from processes import Failure, Processes, free_port, read

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Where docs/performance.md has the tables.
MARKS = ("<!-- begin: make bench -->", "<!-- end: make bench -->")


class Bench:
    """What all scenarios share."""

    def __init__(self, arguments, processes, folder):
        self.root = ROOT
        self.processes = processes
        self.folder = folder
        self.shared = folder / "shared"
        self.rounds = arguments.rounds
        self.seconds = arguments.seconds
        self.lock = arguments.lock
        self.users = subjects.users()
        self.upstream_port = free_port()
        self.upstream_socket = folder / "upstream.sock"
        self.rate = 0.0
        self.wrong_passwords = int(time.time()) % 1000 * 1_000_000

    def half_rate(self, full_load):
        """Half of what the first subject (gatepost, if it is one) can do, found once; the same for all."""
        if not self.rate:
            self.rate = full_load(self.seconds).requests / self.seconds / 2
        return self.rate

    def next_wrong_password(self):
        """Where the next run may begin to count, so that none sends what another did."""
        self.wrong_passwords = (self.wrong_passwords + 5_000_000) % 1_000_000_000
        return self.wrong_passwords

    @contextlib.contextmanager
    def quiet(self):
        """Nobody else who respects the lock works meanwhile."""
        if not self.lock:
            yield
            return
        with open(self.lock, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def tell(self, scenario, number, name, figures):
        main = next(figure for figure in scenario.figures if figure.ratio or figure is scenario.figures[-1])
        print(f"  {scenario.name}, round {number + 1}: {name} {report.number(figures[main.key], main.digits)} {main.title}", file=sys.stderr)

    def prepare(self):
        """Users, bodies, a certificate, and the upstream."""
        self.shared.mkdir(parents=True, exist_ok=True)
        good = [subjects.basic(name, password) for name, password in self.users]
        bad = [subjects.basic(name, password[::-1]) for name, password in self.users]
        for name, lines in {"good": good, "bad": bad, "one": good[:1]}.items():
            (self.shared / name).write_text("\n".join(lines) + "\n")
        for name, size in {"body-2k": 2048, "body-100k": 100_000, "body-10m": 10_000_000}.items():
            (self.shared / name).write_text(message(size))
        for name, options in {"bcrypt": ["-B", "-C", "4"], "sha1": ["-s"]}.items():
            self.hashes(self.shared / name, options)
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=bench"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", self.shared / "server.key", "-out", self.shared / "server.pem"]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        folder = self.folder / "upstream"
        folder.mkdir(exist_ok=True)
        arguments = subjects.upstream(folder, self.upstream_port, self.upstream_socket)
        upstream = self.processes.start("upstream", arguments, self.processes.core_of_load, folder)
        upstream.wait_until_listening(self.upstream_port)

    def hashes(self, path, options):
        """The users' passwords, hashed by htpasswd; kept, since a thousand processes take a few seconds."""
        if path.exists() and len(path.read_text().split()) == len(self.users):
            return
        lines = []
        for name, password in self.users:
            command = ["htpasswd", "-n", "-i", *options, name]
            made = subprocess.run(command, input=password, capture_output=True, text=True, check=True, timeout=10)
            lines.append(made.stdout.strip())
        path.write_text("\n".join(lines) + "\n")


def message(size):
    """An injection in KumoMTA's JSON, of exactly so many bytes."""
    frame = {
        "envelope_sender": "sender@bench.example",
        "recipients": [{"email": "recipient@bench.example"}],
        "content": "From: sender@bench.example\r\nTo: recipient@bench.example\r\nSubject: bench\r\n\r\n",
    }
    line = "A line of a message whose words nobody reads: it has to be there, and to be long.\r\n"
    missing = size - len(json.dumps(frame))
    text = line * (missing // len(json.dumps(line)[1:-1]))
    frame["content"] += text
    frame["content"] += "." * (size - len(json.dumps(frame)))
    return json.dumps(frame)


def machine():
    model = next((line.partition(":")[2].strip() for line in read("/proc/cpuinfo").split("\n") if line.startswith("model name")), platform.machine())
    system = next((line.partition("=")[2].strip('"') for line in read("/etc/os-release").split("\n") if line.startswith("PRETTY_NAME=")), "")
    return {"processor": model, "cores": os.cpu_count(), "architecture": platform.machine(), "system": system, "kernel": platform.release()}


def versions():
    found = {subject.title: subject.version_text(ROOT) for subject in subjects.SUBJECTS if subject.version and subject.executable(ROOT)}
    lock = re.search(r'name = "pingora-proxy"\nversion = "([^"]+)"', (ROOT / "Cargo.lock").read_text())
    return {**found, "pingora-proxy": lock.group(1) if lock else ""}


def commit():
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    return said.stdout.strip()


def self_check():
    """The bench's own tests: a figure from a misread output would look like any other."""
    suite = unittest.defaultTestLoader.discover(str(ROOT / "bench"), "*_test.py")
    result = unittest.TextTestRunner(stream=open(os.devnull, "w", encoding="utf-8")).run(suite)
    for _, trace in result.failures + result.errors:
        print(trace, file=sys.stderr)
    if not result.wasSuccessful() or not result.testsRun:
        sys.exit("the bench's own tests fail")


def chosen(words):
    """Scenarios and subjects of `ONLY`; where it names none of a kind, all of that kind."""
    of_scenario = [scenario for scenario in scenarios.SCENARIOS if scenario.name in words]
    of_subject = [subject.name for subject in subjects.SUBJECTS if subject.name in words]
    known = {scenario.name for scenario in scenarios.SCENARIOS} | {subject.name for subject in subjects.SUBJECTS}
    for word in words:
        if word not in known:
            sys.exit(f"ONLY: no scenario and no subject is called {word}; there are {', '.join(sorted(known))}")
    return of_scenario or scenarios.SCENARIOS, of_subject or [subject.name for subject in subjects.SUBJECTS]


def main():
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=0, help="rounds of every scenario; 0: what each is worth, 5 of those with 2 KB and 3 of most others")
    parser.add_argument("--seconds", type=int, default=2, help="how long each subject is loaded in a round")
    parser.add_argument("--only", default="", help="names of scenarios and subjects, with spaces or commas")
    parser.add_argument("--lock", default=os.environ.get("BENCH_LOCK"), help="a file that is locked while something is measured, for a shared machine")
    arguments = parser.parse_args()
    words = arguments.only.replace(",", " ").split()
    wanted, names = chosen(words)
    self_check()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("ended by a signal"))
    # Where nginx and haproxy are, and not in everybody's PATH.
    os.environ["PATH"] += ":/usr/sbin"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("one core alone: the load takes time from what is measured, so only CPU per request means something", file=sys.stderr)
    folder = ROOT / "target/bench"
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "run").mkdir(parents=True)
    os.sched_setaffinity(0, {cores[-1] if len(cores) < 2 else cores[1]})
    began = datetime.datetime.now(datetime.timezone.utc)
    results = {
        "date": began.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "versions": versions(),
        "scenarios": {},
    }
    with Processes(folder / "run", cores[0], cores[1 if len(cores) > 1 else 0]) as processes:
        bench = Bench(arguments, processes, folder / "run")
        bench.shared = folder / "shared"
        bench.prepare()
        for scenario in wanted:
            rows, failed = scenarios.run(bench, scenario, names)
            lines = report.table(scenario.figures, scenario.bases, rows, failed, subjects.TITLES)
            print(f"\n{scenario.title}\n{report.terminal(lines)}", flush=True)
            results["scenarios"][scenario.name] = {"title": scenario.title, "rounds": rows, "failed": failed, "table": lines}
            write(results, ROOT / "target/bench/part")
    results["took_s"] = round((datetime.datetime.now(datetime.timezone.utc) - began).total_seconds())
    lines = report.targets(results["scenarios"])
    if len(lines) > 1:
        print(f"\nTargets\n{report.terminal(lines)}")
    if words:
        print("\nin target/bench/part; only a run of everything replaces bench/results")
    else:
        # Beside each other, so that the document and what it stands on change together.
        write(results, ROOT / "bench/results", ROOT / "docs/performance.svg")
        page = ROOT / "docs/performance.md"
        tables = report.document(results, lines, "###")
        page.write_text(report.put_between(page.read_text(), *MARKS, tables))
        print(f"\nin bench/results, docs/performance.md and docs/performance.svg, after {results['took_s']} s")
    # A subject that is not there was not asked for, or the table says so.
    failed = [(scenario, name, why) for scenario, of in results["scenarios"].items() for name, why in of["failed"].items()]
    missing = [f"{name} ({scenario})" for scenario, name, why in failed if not why.endswith(scenarios.ABSENT)]
    if missing:
        sys.exit(f"not measured: {', '.join(missing)}")


def write(results, folder, picture=None):
    """As JSON with every round, as tables in markdown, and what a good request costs as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    rounded = json.loads(json.dumps(results), parse_float=lambda text: round(float(text), 3))
    (folder / "latest.json").write_text(json.dumps(rounded, indent=1, ensure_ascii=False) + "\n")
    lines = report.targets(results["scenarios"])
    (folder / "latest.md").write_text(report.document(results, lines))
    good = results["scenarios"].get("good")
    if good and good["rounds"]:
        (picture or folder / "performance.svg").write_text(chart.of_costs(good["rounds"], subjects.TITLES))


if __name__ == "__main__":
    try:
        main()
    except (Failure, subprocess.SubprocessError) as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
