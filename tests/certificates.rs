//! What becomes of certificates as time goes on, on connections that are open and for whoever has to renew them.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::SanType;

use crate::harness::{Gatepost, Recorder, STRANGER, Setup, get, post, run, wait_for, write};
use crate::http2_client::{END_HEADERS, END_STREAM, GET_OPEN, HEADERS, Http2, frame};
use crate::tls::{over_tls, reload};
use crate::tls_client::{Authority, Client, Over, Pair, Says, TlsConnection, serve};

/// `:status: 200` and `:status: 421` as the server writes them (RFC 7541 §6).
const OK: &[u8] = b"\x88";
const MISDIRECTED: &[u8] = b"\x82\x68\x41";

/// Two connections, by either HTTP, that have had an answer each.
struct Open(TlsConnection, TlsConnection);

impl Open {
    fn of(gate: &Gatepost, client: &Client) -> Self {
        let http1 = client.connect(gate.address, b"").unwrap();
        let http2 = client.http2().connect(gate.address, b"").unwrap();
        let mut open = Self(http1, http2);
        open.is_served(1);
        open
    }

    fn is_served(&mut self, stream: u32) {
        assert_eq!(self.0.ask(&get("/open")).unwrap(), 200);
        assert!(self.1.ask_http2(stream).unwrap().starts_with(OK));
    }

    /// The next request is refused, and the connection ends.
    fn ends(mut self, gate: &Gatepost, stream: u32, why: &str) {
        assert_eq!(self.0.ask(&get("/open")).unwrap(), 421);
        assert!(self.0.is_ended());
        let fields = self.1.ask_http2(stream).unwrap();
        let status = fields.get(1..4).unwrap_or_default();
        assert_eq!(status, MISDIRECTED, "{fields:?}");
        assert!(self.1.goes_away());
        gate.wait_log(|line| line["refusal"] == "client_certificate" && line["detail"] == why);
    }
}

fn put(gate: &Gatepost, pem: &str) {
    write(gate.folder(), "ca.pem", pem);
    assert_eq!(reload(gate).0, 200);
}

fn edit(gate: &Gatepost, from: &str, to: &str) {
    let path = gate.folder().join("gatepost.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap();
    assert!(yaml.contains(from), "{yaml}");
    std::fs::write(&path, yaml.replace(from, to)).unwrap();
    assert_eq!(reload(gate).0, 200);
}

/// The attack: connections are kept open so that they outlive the trust in their certificates. Here those are but the key to
/// the listener, and nobody's identity.
#[test]
fn an_open_connection_is_let_in_anew_after_a_reload() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("listener.client_ca: ca.pem\nreload: { watch: off }")
        .start();
    let client = Client::new(&authority, Some(&authority.client("scott")));
    let mut open = Open::of(&gate, &client);
    assert_eq!(reload(&gate).0, 200);
    open.is_served(3);
    // Another one beside it changes nothing; in its place it changes all.
    let other = Authority::new().pem;
    put(&gate, &format!("{other}{}", authority.pem));
    open.is_served(5);
    put(&gate, &other);
    let why = "nobody who counts vouches for the client certificate any more";
    open.ends(&gate, 7, why);
    assert_eq!(
        gate.metric("gatepost_refusals_total{reason=\"client_certificate\"}"),
        2.0
    );
    let refused = client.connect(gate.address, b"");
    assert!(refused.and_then(|mut it| it.ask(&get("/open"))).is_err());
}

/// The attack: connections are opened ahead, before a certificate is asked for.
#[test]
fn a_demand_for_certificates_holds_on_open_connections() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("listener.client_ca: ca.pem\nlistener.client_certificate: optional")
        .with("reload: { watch: off }")
        .start();
    let nobody = Client::new(&authority, None);
    let scott = Client::new(&authority, Some(&authority.client("scott")));
    let (mut without, mut with) = (Open::of(&gate, &nobody), Open::of(&gate, &scott));
    edit(&gate, "certificate: optional", "certificate: required");
    without.ends(
        &gate,
        3,
        "a client certificate is needed, connect again with one",
    );
    with.is_served(3);
    let demand = "    client_ca: ca.pem\n    client_certificate: required\n";
    edit(&gate, demand, "");
    without = Open::of(&gate, &nobody);
    with.is_served(5);
    edit(
        &gate,
        "    tls_private_key: server.key\n",
        "    tls_private_key: server.key\n    client_ca: ca.pem\n",
    );
    without.ends(
        &gate,
        3,
        "a client certificate is needed, connect again with one",
    );
    with.is_served(7);
}

/// A certificate's last second is looked at without a reload.
#[test]
fn a_certificate_ends_on_open_connections() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("listener.client_ca: ca.pem\nreload: { watch: off }")
        .start();
    let scott = authority.sign(Says {
        common_name: "scott",
        over: Over::In(Duration::from_secs(3)),
        ..Says::default()
    });
    let client = Client::new(&authority, Some(&scott));
    let open = Open::of(&gate, &client);
    let connects = || {
        let connection = client.connect(gate.address, b"");
        connection.and_then(|mut it| it.ask(&get("/open"))).is_ok()
    };
    wait_for("the certificate to end", || !connects());
    open.ends(&gate, 3, "the client certificate has expired");
}

/// Where certificates are optional, one that has counted is as good as none: it names nobody, and what is open to everybody stays so. It
/// counts again when its authority does.
#[test]
fn an_optional_certificate_that_does_not_count_any_more_is_none() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("listener.client_ca: ca.pem\nlistener.client_certificate: optional")
        .with("listener.identity_from_certificate: subject_cn")
        .with("reload: { watch: off }\ntrusted_hosts: []")
        .start();
    let client = Client::new(&authority, Some(&authority.client("scott")));
    let mut connection = client.connect(gate.address, b"").unwrap();
    let users_only = post("/users-only", "", "x");
    assert_eq!(connection.ask(&users_only).unwrap(), 200);
    put(&gate, &Authority::new().pem);
    for _ in 0..2 {
        assert_eq!(connection.ask(&users_only).unwrap(), 401);
        assert_eq!(connection.ask(&get("/open")).unwrap(), 200);
    }
    assert_eq!(upstream.text().matches("X-Http-Auth: scott\r\n").count(), 1);
    put(&gate, &authority.pem);
    assert_eq!(connection.ask(&users_only).unwrap(), 200);
    assert_eq!(upstream.text().matches("X-Http-Auth: scott\r\n").count(), 2);
}

/// Ports are mixed up. Who asks and who looks into the log read which way round it is, at once.
#[test]
fn plain_and_tls_are_told_apart() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server()).start();
    let reply = gate.send(STRANGER, get("/open")).unwrap();
    let words = "this port speaks TLS, not plain HTTP";
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["message"], words);
    gate.wait_log(|line| line["refusal"] == "bad_request" && line["detail"] == words);
    assert_eq!(gate.metric("gatepost_tls_handshakes_failed_total"), 1.0);
    // Who agrees on no protocol gets no connection.
    let client = Client::new(&authority, None).speaking("smtp");
    assert!(client.connect(gate.address, b"").is_err());
    assert_eq!(upstream.connections(), 0);

    let gate = Setup::before(upstream.address)
        .with("http: { head_timeout: 15s }")
        .start();
    let mut connection = gate.connect(STRANGER);
    // Nothing in it ends a line, so waiting for one would be waiting for the deadline.
    connection.write(b"\x16\x03\x01\0\x05hello");
    let reply = connection.reply().unwrap();
    let words = "this port speaks plain HTTP, not TLS";
    assert_eq!(reply.json()["message"], words);
    gate.wait_log(|line| line["refusal"] == "bad_request" && line["detail"] == words);
    let refused = Client::new(&authority, None).connect(gate.address, b"");
    assert!(refused.is_err());
}

/// The attack: text for the log from somebody who is not let in. What a client says in its handshake is not repeated, at any level but those
/// for looking into the insides.
#[test]
fn a_handshake_writes_nothing_into_the_log() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server()).start();
    let mut hello = Client::new(&authority, None).hello("from-the-client.test");
    // No host is called so.
    let name = hello.windows(7).position(|it| it == b"nt.test");
    hello[name.unwrap() + 1] = b'.';
    let mut connection = gate.connect(STRANGER);
    connection.write(&hello);
    // An alert, and the end.
    assert_eq!(connection.until_closed().first(), Some(&21));
    gate.wait_log(|line| {
        let detail = line["detail"].as_str().unwrap_or_default();
        line["message"] == "no TLS connection" && detail.contains("ServerName")
    });
    assert!(!gate.logged().contains("from-the-clie"));
}

/// An upstream's certificate has to be in force, vouched for, and for the upstream's name or address, whatever is right about it besides.
#[test]
fn an_upstream_with_a_bad_certificate_gets_no_request() {
    let (authority, other) = (Authority::new(), Authority::new());
    let loopback = || SanType::IpAddress(Ipv4Addr::LOCALHOST.into());
    let sign = |names: Vec<SanType>, over: Over| {
        authority.sign(Says {
            common_name: "127.0.0.1",
            names,
            over,
        })
    };
    for (what, pair, expected) in [
        ("good", sign(vec![loopback()], Over::Never), 200),
        ("over", sign(vec![loopback()], Over::Already), 502),
        (
            "another address",
            sign(
                vec![SanType::IpAddress(Ipv4Addr::new(127, 0, 0, 2).into())],
                Over::Never,
            ),
            502,
        ),
        ("only a common name", sign(Vec::new(), Over::Never), 502),
        (
            "the address as a name",
            sign(
                vec![SanType::DnsName("127.0.0.1".try_into().unwrap())],
                Over::Never,
            ),
            502,
        ),
        ("of somebody else", other.server(), 502),
    ] {
        let gate = Setup::before(format!("https://{}", serve(&pair)))
            .with("upstream.tls: { ca: ca.pem }")
            .file("ca.pem", &authority.pem)
            .start();
        let reply = gate.send(STRANGER, get("/open")).unwrap();
        assert_eq!(reply.status, expected, "{what}");
        // Why it is, is nobody's business but the operator's.
        assert!(!reply.text().contains("certificate"), "{what}");
        if expected == 502 {
            gate.wait_log(|line| {
                let detail = line["detail"].as_str().unwrap_or_default();
                line["status"] == 502 && detail.to_lowercase().contains("cert")
            });
        }
    }
}

fn permit(key: &Path, mode: u32) {
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Certificates that nobody renewed are what takes services down. So their end is a metric, and `check` counts the days.
#[test]
fn the_end_of_a_certificate_is_told_in_time() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let ending = |days: u32| -> Pair {
        authority.sign(Says {
            over: Over::In(Duration::from_secs(u64::from(days) * 86_400 + 3600)),
            ..Says::default()
        })
    };
    let gate = over_tls(upstream.address, &authority, &ending(40))
        .with("reload: { watch: off }")
        .start();
    let days_left = || {
        let series = "gatepost_tls_certificate_expiry_timestamp_seconds{listener=\"127.0.0.1:0\"}";
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        (gate.metric(series) - now.as_secs_f64()) / 86_400.0
    };
    assert!((40.0..40.1).contains(&days_left()), "{}", days_left());
    let warned = |words: &str| {
        gate.wait_log(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            line["level"] == "WARN" && message.contains(words)
        });
    };
    permit(&gate.folder().join("server.key"), 0o640);
    let check = || {
        let (status, text, _) = run(&["check", "--config", "gatepost.yaml"], gate.folder());
        assert_eq!(status, Some(0), "{text}");
        text
    };
    let text = check();
    assert!(
        text.contains("server.pem: the certificate ends at"),
        "{text}"
    );
    assert!(text.contains(", in 40 days\n"), "{text}");
    assert!(!text.contains("warning:"), "{text}");

    ending(13).write(gate.folder(), "server");
    permit(&gate.folder().join("server.key"), 0o644);
    assert_eq!(reload(&gate).0, 200);
    assert!((13.0..13.1).contains(&days_left()), "{}", days_left());
    warned(", in 13 days");
    warned("everybody on this machine may read the key (mode 0644)");
    let text = check();
    let warnings: Vec<_> = text
        .lines()
        .filter(|it| it.starts_with("warning:"))
        .collect();
    assert_eq!(warnings.len(), 2, "{text}");
    assert!(warnings[0].ends_with(", in 13 days"), "{text}");
    assert!(warnings[1].contains("(mode 0644)"), "{text}");
}

/// The attack: a client that is told to go and does not answer, so that its connection stays, one of `max_connections`.
#[test]
fn who_is_told_to_go_and_stays_is_cut_off() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("listener.client_ca: ca.pem\nlistener.client_certificate: optional")
        .with("drain_timeout: 1s\nreload: { watch: off }")
        .start();
    // It acknowledges nothing.
    let mut client = Http2::over_tls(&gate, &Client::new(&authority, None));
    let mut ask = |stream: u32| {
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET_OPEN));
        let reply = client.find(|it| it.stream == stream && it.kind == HEADERS);
        reply.unwrap().status()
    };
    assert_eq!(ask(1), Some(200));
    edit(
        &gate,
        "client_certificate: optional",
        "client_certificate: required",
    );
    assert_eq!(ask(3), Some(421));
    while client.next().is_some() {}
    wait_for("its place to be free", || {
        gate.metric("gatepost_connections") == 0.0
    });
}
