"""Starts, pins and ends processes, and reads from /proc what they cost.

Every process is started in a session of its own, so that Ctrl-C reaches this program alone, which then ends them by their ids. Should this
program be killed, the kernel ends them (`setpriv --pdeathsig`).
"""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# What a process may take to end by itself.
PATIENCE_S = 3.0


class Failure(Exception):
    """Something that this run needs does not work; its text is for whoever reads the table."""


class Process:
    """One started process and its descendants."""

    def __init__(self, arguments, core, log, folder, environment=None):
        pinned = ["setpriv", "--pdeathsig", "TERM", "taskset", "--cpu-list", str(core), *map(str, arguments)]
        self.name = os.path.basename(str(arguments[0]))
        self.log = log
        with open(log, "wb") as output:
            self.popen = subprocess.Popen(
                pinned,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self):
        """Itself and all that it started."""
        children = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                status = read(f"/proc/{entry}/stat")
                if status:
                    # The name stands in parentheses and may hold anything.
                    parent = int(status.rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(entry))
        found, waiting = [], [self.popen.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting.extend(children.get(pid, []))
        return found

    def said(self):
        """The end of what it wrote, on one line."""
        text = pathlib.Path(self.log).read_text(errors="replace").split("\n")
        return " | ".join(line.strip() for line in text if line.strip())[-400:]

    def wait_until_listening(self, port, seconds=10.0):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.popen.poll() is not None:
                raise Failure(f"{self.name} ended with {self.popen.returncode}: {self.said()}")
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.005)
        raise Failure(f"{self.name} did not listen within {seconds:.0f} s: {self.said()}")

    def wait(self, seconds):
        """Waits for it to end by itself, and gives what it wrote."""
        try:
            code = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end within {seconds:.0f} s: {self.said()}") from None
        if code != 0:
            raise Failure(f"{self.name} ended with {code}: {self.said()}")
        return pathlib.Path(self.log).read_text(errors="replace")

    def stop(self):
        """Asks it to end, and ends what is left of its session after that."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            self.popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            print(f"{self.name} (process {self.popen.pid}) cannot be ended", file=sys.stderr)


class Processes:
    """All that runs; leaving the `with` ends it, whatever the reason."""

    def __init__(self, folder, core_of_subject, core_of_load):
        self.folder = folder
        self.core_of_subject = core_of_subject
        self.core_of_load = core_of_load
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Impatience must not leave anything behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in reversed(self.running):
            process.stop()
        self.running = []

    def start(self, name, arguments, core, folder=None, environment=None):
        process = Process(arguments, core, self.folder / f"{name}.log", folder or self.folder, environment)
        self.running.append(process)
        return process

    def stop(self, process):
        process.stop()
        if process in self.running:
            self.running.remove(process)

    def run(self, name, arguments, seconds):
        """Runs a load generator to its end, and gives what it wrote."""
        process = self.start(name, arguments, self.core_of_load)
        try:
            return process.wait(seconds)
        finally:
            self.stop(process)


def read(path):
    """A file of /proc, or nothing where its process has ended."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass
class Usage:
    """CPU time of some processes up to a moment, in nanoseconds."""

    threads: dict  # by thread, from schedstat
    total: int  # user and system time of whole processes, in steps of a clock tick (10 ms)

    def since(self, before):
        """Exact where no thread ended in between (a thread's own time is lost then), else to a clock tick."""
        if self.threads and before.threads.keys() <= self.threads.keys():
            return sum(time - before.threads.get(thread, 0) for thread, time in self.threads.items())
        return self.total - before.total


def usage(pids):
    """Reads /proc/PID/task/*/schedstat and, for when threads come and go, /proc/PID/stat."""
    threads, total = {}, 0
    for pid in pids:
        status = read(f"/proc/{pid}/stat")
        if status:
            fields = status.rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) * TICK
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except FileNotFoundError:
            continue
        for task in tasks:
            times = read(f"/proc/{pid}/task/{task}/schedstat").split()
            if times:
                threads[int(task)] = int(times[0])
    return Usage(threads, total)


def memory(pids, field):
    """`VmRSS` or `VmHWM` (the most since `forget_peak`) of all processes, in bytes."""
    total = 0
    for pid in pids:
        for line in read(f"/proc/{pid}/status").split("\n"):
            if line.startswith(field + ":"):
                total += int(line.split()[1]) * 1024
    return total


def forget_peak(pids):
    """Lets VmHWM begin anew. Of a process that changed its user only root can ask that; for others it is the peak since the start."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
        except PermissionError:
            continue


def free_port():
    """A port that nobody has, below those that the kernel gives to outgoing connections, so that none of them takes it in between."""
    first = int(read("/proc/sys/net/ipv4/ip_local_port_range").split()[0])
    for _ in range(1000):
        port = random.randrange(min(10_000, first - 1000), first)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise Failure("found no free port")
