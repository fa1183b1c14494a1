//! What connections cost that do nothing, in memory.

use std::net::SocketAddr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{Connection, Gatepost, Recorder, Setup, TRUSTED, get, inject, wait_for};
use crate::tls_client::{Authority, Client, TlsConnection};

/// Without optimisation, beside all other tests, it is a tenth.
const CONNECTIONS: u32 = if cfg!(debug_assertions) { 1000 } else { 10_000 };

/// What the test and gatepost have open beside connections.
const BESIDE: u64 = 300;

/// The connections stand on both sides, so both processes need as many descriptors.
fn raise_limit() {
    let wanted = u64::from(CONNECTIONS) + BESIDE;
    let maximum = getrlimit(Resource::Nofile).maximum;
    assert!(
        maximum.is_none_or(|it| it >= wanted),
        "the hard limit of file descriptors is {maximum:?}; this test needs {wanted} (`ulimit -Hn`)"
    );
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

fn start(upstream: &Recorder, more: &str) -> Gatepost {
    raise_limit();
    Setup::before(upstream.address)
        .with("http: { max_connections: 10100, keepalive_timeout: 10m }")
        .with(more)
        .start()
}

/// Mail applications keep connections open for hours. Each has had a request, so whatever is made for one and kept, is there.
#[test]
fn ten_thousand_idle_connections_fit() {
    let upstream = Recorder::start();
    let gate = start(&upstream, "");
    let open = |_| {
        let mut connection = gate.connect(TRUSTED);
        connection.write(inject(""));
        assert_eq!(connection.reply().unwrap().status, 200);
        connection
    };
    let each = measure(&gate, "HTTP/1.1", open);
    // 250 MiB for ten thousand.
    assert!(each < 26_000, "{each} bytes for each");
    let total = gate.resident_memory();
    assert!(total < 250 << 20, "{total} bytes");
}

/// The same over TLS, and in HTTP/2.
#[test]
fn what_idle_connections_cost_over_tls_and_in_http2() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let server = authority.server();
    let setup = Setup::before(upstream.address)
        .with("http: { max_connections: 10100, keepalive_timeout: 10m }")
        .with("listener.tls_certificate: server.pem\nlistener.tls_private_key: server.key")
        .file("server.pem", &server.certificate)
        .file("server.key", &server.key);
    raise_limit();
    let gate = setup.start();
    let client = Client::new(&authority, None);
    let open = |_| -> TlsConnection {
        let mut connection = client.connect(gate.address, b"").unwrap();
        assert_eq!(connection.ask(&get("/open")).unwrap(), 200);
        connection
    };
    let each = measure(&gate, "HTTP/1.1 over TLS", open);
    assert!(each < 60_000, "{each} bytes for each");
    let gate = start(&upstream, "");
    let address: SocketAddr = gate.address;
    let open = |_| {
        let mut connection = Connection::open(address, TRUSTED);
        // GET, http, /open, gate (RFC 7541 §6); the frame ends headers and stream.
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        bytes.extend([0, 0, 15, 1, 5, 0, 0, 0, 1]);
        bytes.extend(b"\x82\x86\x04\x05/open\x01\x04gate");
        connection.write(bytes);
        // Frames until one ends the stream.
        loop {
            let head = connection.exactly(9);
            connection.exactly(usize::from(head[1]) << 8 | usize::from(head[2]));
            if head[8] == 1 && head[3] < 2 && head[4] & 1 == 1 {
                return connection;
            }
        }
    };
    let each = measure(&gate, "HTTP/2", open);
    assert!(each < 60_000, "{each} bytes for each");
}

/// Bytes for each connection, beyond what gatepost takes by itself.
fn measure<C>(gate: &Gatepost, what: &str, open: impl Fn(u32) -> C) -> u64 {
    let before = gate.resident_memory();
    let connections: Vec<_> = (0..CONNECTIONS).map(open).collect();
    wait_for("all to be open", || {
        gate.metric("gatepost_connections") >= f64::from(CONNECTIONS)
    });
    let after = gate.resident_memory();
    let each = after.saturating_sub(before) / u64::from(CONNECTIONS);
    let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20);
    println!(
        "FIGURE memory with {CONNECTIONS} idle connections, {what}: {} ({} before them, {each} bytes each)",
        mib(after),
        mib(before)
    );
    drop(connections);
    each
}
