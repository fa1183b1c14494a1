"""Tests of what can be tested without a server: `make bench` runs them first."""

import unittest
import xml.dom.minidom

import chart
import check
import load
import report
import subjects
from processes import Failure, Usage
from scenarios import CPU, RATE, rotated

WRK = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 64 connections
Requests/sec:  20000.00

RESULT {"requests": 20002, "microseconds": 1000100, "refused": 7, "broken": 1, "p50_us": 1500, "p99_us": 2900}
"""

H2LOAD = """starting benchmark...
spawning thread #0: 8 total client(s). Timing-based test with 0s of warm-up time and 1s of main duration for measurements.
Application protocol: h2

finished in 1.00s, 21000.00 req/s, 1.00MB/s
requests: 21000 total, 21064 started, 21000 done, 20990 succeeded, 10 failed, 2 errored, 1 timeout
status codes: 20990 2xx, 0 3xx, 10 4xx, 0 5xx
"""


class Page(unittest.TestCase):
    def test_only_what_is_between_the_marks_is_replaced(self):
        self.assertEqual(report.put_between("a <b>\nold\n<e> c\n", "<b>", "<e>", "new\n"), "a <b>\n\nnew\n\n<e> c\n")
        for text in ("", "<b> old", "<e> old <b>"):
            with self.assertRaises(ValueError):
                report.put_between(text, "<b>", "<e>", "new")


class Outputs(unittest.TestCase):
    def test_wrk(self):
        self.assertEqual(load.parse_wrk(WRK), load.Load(20002, 1.0001, 7, 1, 1.5, 2.9))

    def test_h2load(self):
        log = "1700000000000000\t200\t1500\n1700000000000000\t200\t500\n1700000000000000\t-1\t9\n"
        durations = load.parse_h2load_log(log)
        self.assertEqual(durations, [0.5, 1.5])
        self.assertEqual(load.parse_h2load(H2LOAD, durations), load.Load(21000, 1.0, 10, 3, 0.5, 1.5))
        self.assertEqual(load.parse_h2load(H2LOAD.replace("in 1.00s", "in 250.00ms"), []).seconds, 0.25)

    def test_percentile(self):
        for percent, wanted in [(1, 1), (50, 50), (99, 99), (100, 100)]:
            self.assertEqual(load.percentile(list(range(1, 101)), percent), wanted)
        self.assertEqual(load.percentile([7], 99), 7)


    def test_unknown_output_is_a_failure(self):
        for read in (load.parse_wrk, lambda text: load.parse_h2load(text, [])):
            with self.assertRaises(Failure):
                read("unable to connect\n")


class Accounting(unittest.TestCase):
    def test_threads_are_summed_while_none_ended(self):
        before, after = Usage({1: 100, 2: 50}, 0), Usage({1: 300, 2: 50, 3: 25}, 10_000_000)
        self.assertEqual(after.since(before), 225)

    def test_an_ended_thread_leaves_the_clock_ticks(self):
        self.assertEqual(Usage({1: 300}, 30_000_000).since(Usage({1: 100, 2: 50}, 10_000_000)), 20_000_000)


class Checks(unittest.TestCase):
    def test_every_spelling_and_every_occurrence_is_seen(self):
        head = "POST / HTTP/1.1\r\nx-http-auth: a\r\nHost: b\r\nX_HTTP_AUTH: mallory\r\n\r\n"
        self.assertEqual(check.told(head), ["a", "mallory"])

    def test_names_are_used_once(self):
        self.assertEqual(len(subjects.TITLES), len(subjects.SUBJECTS))


class Reports(unittest.TestCase):
    ROWS = {
        "gatepost": [{"cpu_us": 30.0, "per_second": 1}, {"cpu_us": 20.0, "per_second": 3}, {"cpu_us": 40.0, "per_second": 2000}],
        "bare-pingora": [{"cpu_us": 15.0, "per_second": 4}],
    }

    def test_the_cheapest_stands_first_and_others_are_compared_with_it(self):
        lines = report.table((CPU, RATE), ("bare-pingora", "nginx"), self.ROWS, {"caddy": "not there"}, subjects.TITLES)
        self.assertEqual(lines[0], ["subject", "CPU µs/request", "min–max", "÷ bare pingora-proxy", "requests/s"])
        self.assertEqual(lines[1], ["bare pingora-proxy", "15.0", "15.0–15.0", "1.00", "4"])
        self.assertEqual(lines[2], ["gatepost", "30.0", "20.0–40.0", "2.00", "3"])
        self.assertEqual(lines[3], ["Caddy basicauth", "not measured: not there"])
        for text in [report.terminal(lines), report.markdown(lines)]:
            self.assertEqual(len(text.split("\n")), 4 if text.startswith("subject") else 5)

    def test_targets_are_held_against_medians_where_there_are_some(self):
        results = {"good": {"rounds": self.ROWS}}
        self.assertEqual(
            report.targets(results),
            [
                ["what", "measured", "built with a profile", "target", ""],
                ["a good request against bare pingora-proxy", "2.00", "", "at most 1.00", "missed"],
            ],
        )
        results = {"good": {"rounds": {"gatepost": [{"cpu_us": 7.0}], "apache": [{"cpu_us": 21.0}]}}, "bad": {"rounds": {}}}
        self.assertEqual(report.targets(results)[1:], [["a good request against Apache", "0.33", "", "at most 0.35", "reached"]])
        rounds = {"gatepost": [{"cpu_us": 12.0}], "gatepost-pgo": [{"cpu_us": 9.0}], "apache": [{"cpu_us": 30.0}]}
        bad = {"gatepost": [{"cpu_us": 6.0}], "gatepost-pgo": [{"cpu_us": 10.0}]}
        self.assertEqual(
            report.targets({"good": {"rounds": rounds}, "bad": {"rounds": bad}})[1:],
            [
                ["a good request against Apache", "0.40", "0.30", "at most 0.35", "reached with a profile"],
                ["a 401 against a good request", "0.50", "1.11", "at most 1.00", "reached"],
            ],
        )

    def test_the_chart_is_xml_whatever_stands_in_it(self):
        text = chart.bars("a < b & c", '"note"', [("<x>", True, 1.0, 0.5, 2.0), ("y", False, 0.0, 0.0, 0.0)])
        self.assertEqual(len(xml.dom.minidom.parseString(text).getElementsByTagName("rect")), 2)
        xml.dom.minidom.parseString(chart.of_costs(self.ROWS, subjects.TITLES))

    def test_order(self):
        self.assertEqual(rotated(["a", "b", "c"], 4), ["b", "c", "a"])
        self.assertEqual(rotated([], 4), [])


if __name__ == "__main__":
    unittest.main()
