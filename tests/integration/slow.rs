//! Clients that are slow on purpose, by slowhttptest in its four modes: a good client is served all the while.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Recorder, STRANGER, Setup, basic, get, inject, wait_for};

/// Open at once, all from one address.
const SLOW: usize = 400;

/// slowhttptest against `/open`; ended when dropped.
struct Slow(Child);

impl Slow {
    fn start(gate: std::net::SocketAddr, mode: &str) -> Self {
        let mut arguments = vec![
            "-c", "400", "-r", "200", "-l", "30", "-p", "3", "-i", "1", mode,
        ];
        let url = format!("http://{gate}/open");
        arguments.extend(["-u", &url]);
        if mode == "-B" {
            arguments.extend(["-t", "POST", "-s", "8192", "-x", "10"]);
        }
        if mode == "-X" {
            // Reads 5 bytes each second, with a small window.
            arguments.extend(["-w", "10", "-y", "20", "-n", "1", "-z", "5", "-k", "3"]);
        }
        let child = Command::new("slowhttptest")
            .args(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .expect("slowhttptest is installed by `make integration`");
        Self(child)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The attack: slow heads, slow bodies, many ranges, slow readers. What they hold is bounded in time and by address, and
/// everybody else is served at once.
#[test]
fn a_good_client_is_served_beside_slow_ones() {
    let big = "x".repeat(500_000);
    let upstream = Recorder::behaving(move |stream, _| {
        use std::io::Write as _;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", big.len());
        stream
            .write_all(&[head.as_bytes(), big.as_bytes()].concat())
            .is_ok()
    });
    for mode in ["-H", "-B", "-R", "-X"] {
        let gate = Setup::before(upstream.address)
            .with("http: { head_timeout: 3s, body_timeout: 3s, max_connections: 1000, max_connections_per_address: 300 }")
            .start();
        let slow = Slow::start(gate.address, mode);
        let open = "gatepost_connections";
        // It comes from 127.0.0.1, and the limit by address keeps the rest of it out.
        // Those of the other modes have their answer and may be gone: what they ask for fits into a socket.
        wait_for("the slow ones to be there", || {
            matches!(mode, "-R" | "-X")
                || gate.metric(open) > 100.0
                || gate.metric("gatepost_refusals_total{reason=\"crowded\"}") > 50.0
        });
        let begin = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut served = 0;
        while begin.elapsed() < Duration::from_secs(5) {
            let asked = Instant::now();
            let reply = gate
                .send(STRANGER, inject(&basic("scott", "tiger")))
                .unwrap();
            assert_eq!(reply.status, 200, "{mode}");
            slowest = slowest.max(asked.elapsed());
            served += 1;
        }
        assert!(slowest < Duration::from_secs(2), "{mode}: {slowest:?}");
        assert!(gate.metric(open) <= 310.0, "{mode}");
        println!(
            "FIGURE beside {SLOW} slow clients ({mode}): {served} requests served in 5 s, the slowest in {slowest:.1?}"
        );
        drop(slow);
        wait_for("the slow ones to be gone", || gate.metric(open) < 3.0);
        assert_eq!(
            gate.send(Ipv4Addr::new(127, 0, 0, 4), get("/open"))
                .unwrap()
                .status,
            200
        );
    }
}
