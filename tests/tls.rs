//! TLS: listeners, certificates that change, clients with certificates, and an upstream behind it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::SanType;

use crate::harness::{
    Connection, Gatepost, PATIENCE, Recorder, STRANGER, Setup, TRUSTED, basic, get, post, run,
    wait_for, write,
};
use crate::tls_client::{Authority, Client, Over, Pair, Says, curl};

const TLS: &str = "listener.tls_certificate: server.pem\nlistener.tls_private_key: server.key\n";

/// With this certificate, before this upstream.
pub(crate) fn over_tls(
    upstream: impl std::fmt::Display,
    authority: &Authority,
    server: &Pair,
) -> Setup {
    Setup::before(upstream)
        .with(TLS)
        .file("server.pem", &server.certificate)
        .file("server.key", &server.key)
        .file("ca.pem", &authority.pem)
}

pub(crate) fn reload(gate: &Gatepost) -> (u16, String) {
    let mut connection = Connection::open(gate.admin, TRUSTED);
    connection.write("POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    let reply = connection.reply().unwrap();
    (reply.status, reply.text())
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("https://{address}{path}")
}

/// What clients do: either HTTP, either version of TLS; and what they must not get.
#[test]
fn clients_connect_as_they_like() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("http: { head_timeout: 1s, keepalive_timeout: 1s }")
        .start();
    let open = url(gate.address, "/open");
    let ask = |options: &[&str]| {
        let arguments = [&["--cacert", "ca.pem", &open][..], options].concat();
        curl(gate.folder(), &arguments)
    };
    for (options, version) in [
        (&["--http1.1"][..], "1.1"),
        (&["--http2"], "2"),
        (&["--http2-prior-knowledge"], "2"),
        (&["--no-alpn"], "1.1"),
        (&["--tlsv1.2", "--tls-max", "1.2"], "2"),
        (&["--tlsv1.3"], "2"),
        (&["--http1.1", "--data", "hello"], "1.1"),
    ] {
        assert_eq!(ask(options), (0, format!("{version} 200")), "{options:?}");
    }
    // HTTP/2 has the names of headers in small letters, and they stay as they are.
    let seen = upstream.text().to_lowercase();
    assert_eq!(seen.matches("x-forwarded-proto: https\r\n").count(), 7);
    // Refused by the handshake: what is older than TLS 1.2.
    let old = ["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"];
    assert_ne!(ask(&old).0, 0);
    // No authority, no connection: the certificate is the one that was asked for.
    assert_ne!(curl(gate.folder(), &[&open]).0, 0);
    // Two requests on one connection.
    let mut client = Client::new(&authority, None)
        .connect(gate.address, b"")
        .unwrap();
    for _ in 0..2 {
        assert_eq!(client.ask(&get("/open")).unwrap(), 200);
    }
    // Refusals go the same way, also those of the head reader.
    assert_eq!(client.ask(&get("/nowhere")).unwrap(), 404);
    assert_eq!(client.ask("GET /open HTTP/1.1\nHost: a\n\n").unwrap(), 400);
    // The preface without having agreed on HTTP/2.
    let mut client = Client::new(&authority, None)
        .connect(gate.address, b"")
        .unwrap();
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(client.ask(preface).unwrap(), 505);
    // One that is not used any more is ended in a way that nobody in between can feign.
    let mut client = Client::new(&authority, None)
        .connect(gate.address, b"")
        .unwrap();
    assert_eq!(client.ask(&get("/open")).unwrap(), 200);
    assert!(client.is_ended());
    // A client that does not go on with its handshake is cut off.
    let mut silent = gate.connect(STRANGER);
    silent.write([0x16, 3, 1]);
    silent.until_closed();
    wait_for("failed handshakes to be counted", || {
        gate.metric("gatepost_tls_handshakes_failed_total") >= 3.0
    });
}

/// cert-manager, a Secret's swap, an operator's script: the certificate changes while requests go on, and not one fails.
#[test]
fn a_certificate_changes_under_load() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("reload: { watch: 100ms }")
        .start();
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = Client::new(&authority, None);
    let mut old = client.connect(gate.address, b"").unwrap();
    thread::scope(|scope| {
        for fresh in [false, true, false, true] {
            let (client, gate, stop, asked) = (client.clone(), &gate, &stop, &asked);
            scope.spawn(move || {
                let mut connection = client.connect(gate.address, b"").unwrap();
                while !stop.load(Ordering::Relaxed) {
                    if fresh {
                        connection = client.connect(gate.address, b"").unwrap();
                    }
                    assert_eq!(connection.ask(&get("/open")).unwrap(), 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..4 {
            let next = authority.server();
            let before = asked.load(Ordering::Relaxed);
            if round % 2 == 0 {
                // One after the other: for a moment they do not belong together.
                next.write(gate.folder(), "server");
            } else {
                next.write(gate.folder(), "next");
                for ending in ["pem", "key"] {
                    let file = |name: &str| gate.folder().join(format!("{name}.{ending}"));
                    std::fs::rename(file("next"), file("server")).unwrap();
                }
                gate.signal("HUP");
            }
            wait_for("the new certificate", || {
                let connection = client.connect(gate.address, b"").unwrap();
                connection.certificate() == next.der()
            });
            wait_for("more requests", || {
                asked.load(Ordering::Relaxed) > before + 20
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    // A connection from before all of this is still served.
    assert_eq!(old.ask(&get("/open")).unwrap(), 200);
}

/// Whatever is wrong with the new files, the old certificate goes on and the log says which file it is.
#[test]
fn a_bad_certificate_at_reload_keeps_the_old() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let good = authority.server();
    let gate = over_tls(upstream.address, &authority, &good)
        .with("reload: { watch: off }\nlistener.client_ca: ca.pem\nlistener.client_certificate: optional")
        .start();
    let client = Client::new(&authority, None);
    for (file, content, words) in bad_files(&authority, &good) {
        let path = gate.folder().join(file);
        let before = std::fs::read_to_string(&path).unwrap();
        write(gate.folder(), file, &content);
        let (status, text) = reload(&gate);
        assert_eq!(status, 422, "{words}");
        assert!(text.contains(words) && text.contains(file), "{text}");
        gate.wait_log(|line| {
            let said = line["fault"].as_str().unwrap_or_default();
            line["level"] == "ERROR" && said.contains(words) && said.contains(file)
        });
        let connection = client.connect(gate.address, b"").unwrap();
        assert_eq!(connection.certificate(), good.der(), "{words}");
        std::fs::write(&path, before).unwrap();
    }
    // Both at once: a pair that belongs together and is over.
    let expired = authority.sign(Says {
        over: Over::Already,
        ..Says::default()
    });
    expired.write(gate.folder(), "server");
    let (status, text) = reload(&gate);
    assert_eq!(status, 422);
    assert!(
        text.contains("server.pem: the certificate expired at"),
        "{text}"
    );
    let next = authority.server();
    next.write(gate.folder(), "server");
    assert_eq!(reload(&gate).0, 200);
    let connection = client.connect(gate.address, b"").unwrap();
    assert_eq!(connection.certificate(), next.der());
}

/// A file, what it holds, and words of the message.
fn bad_files(authority: &Authority, good: &Pair) -> Vec<(&'static str, String, &'static str)> {
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let encrypted = good.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    vec![
        ("server.pem", String::new(), "is empty"),
        ("server.pem", half(&good.certificate), "half-written"),
        ("server.pem", good.key.clone(), "holds no certificate"),
        ("server.pem", not_der.to_owned(), "cannot be read"),
        ("server.pem", "hello\n".to_owned(), "holds no certificate"),
        ("server.key", String::new(), "is empty"),
        ("server.key", half(&good.key), "half-written"),
        ("server.key", encrypted, "the key is encrypted"),
        ("server.key", legacy.to_owned(), "the key is encrypted"),
        (
            "server.key",
            good.certificate.clone(),
            "holds no private key",
        ),
        (
            "server.key",
            authority.server().key,
            "the key does not belong to the certificate",
        ),
        ("ca.pem", String::new(), "is empty"),
        ("ca.pem", half(&authority.pem), "half-written"),
    ]
}

/// At the start there is no old one: gatepost says what is wrong and ends, and `check` says it before.
#[test]
fn a_bad_certificate_at_the_start_is_an_error() {
    let authority = Authority::new();
    let good = authority.server();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let yaml = "listeners:\n  - listen: 127.0.0.1:0\n    tls_certificate: server.pem\n    tls_private_key: server.key\n    client_ca: ca.pem\nupstream: { address: demo }\npolicy: { file: policy.lua }\nadmin: off\nroutes:\n  - { path: /x, methods: [GET], allow: [authenticated] }\n";
    write(folder, "gatepost.yaml", yaml);
    write(folder, "policy.lua", crate::harness::POLICY);
    write(folder, "ca.pem", &authority.pem);
    good.write(folder, "server");
    let gatepost = |command| run(&[command, "--config", "gatepost.yaml"], folder);
    assert_eq!(gatepost("check").0, Some(0));
    let refused = |file: &str, words: &str| {
        let (status, _, log) = gatepost("run");
        assert_eq!(status, Some(1), "{words}: {log}");
        assert!(log.contains(file) && log.contains(words), "{log}");
        assert_eq!(log.matches(words).count(), 1, "{log}");
        let (status, text, _) = gatepost("check");
        assert_eq!(status, Some(1), "{words}");
        assert!(text.contains(file) && text.contains(words), "{text}");
        assert_eq!(text.matches(words).count(), 1, "{text}");
    };
    for (file, content, words) in bad_files(&authority, &good) {
        let before = std::fs::read_to_string(folder.join(file)).unwrap();
        write(folder, file, &content);
        refused(file, words);
        write(folder, file, &before);
    }
    std::fs::remove_file(folder.join("server.key")).unwrap();
    refused("server.key", "cannot read");
    let expired = authority.sign(Says {
        over: Over::Already,
        ..Says::default()
    });
    expired.write(folder, "server");
    refused("server.pem", "the certificate expired at");
}

/// Which files they are may change, too; whether there is TLS may not.
#[test]
fn other_files_take_effect_at_a_reload() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("reload: { watch: off }")
        .start();
    let next = authority.server();
    next.write(gate.folder(), "next");
    let yaml = std::fs::read_to_string(gate.folder().join("gatepost.yaml")).unwrap();
    write(
        gate.folder(),
        "gatepost.yaml",
        &yaml.replace("server.", "next."),
    );
    assert_eq!(reload(&gate).0, 200);
    let served = || {
        let client = Client::new(&authority, None);
        client.connect(gate.address, b"").unwrap().certificate()
    };
    assert_eq!(served(), next.der());
    assert!(!gate.logged().contains("at the next start"));
    let plain: String = yaml
        .lines()
        .filter(|it| !it.contains("tls_"))
        .fold(String::new(), |text, line| text + line + "\n");
    write(gate.folder(), "gatepost.yaml", &plain);
    assert_eq!(reload(&gate).0, 200);
    gate.wait_log(|line| line["keys"] == "listeners");
    assert_eq!(served(), next.der());
}

/// Who has no certificate that the authority vouches for does not come in; who has one is who it says.
#[test]
fn a_client_certificate_is_an_identity() {
    let (authority, other, upstream) = (Authority::new(), Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("listener.client_ca: ca.pem\nlistener.identity_from_certificate: subject_cn")
        .with("upstream.companion_headers: { mechanism: X-Mechanism }\ntrusted_hosts: []")
        .start();
    for (name, by, common_name) in [
        ("scott", &authority, "scott"),
        ("forged", &other, "scott"),
        ("slash", &authority, "../etc"),
        ("address", &authority, "127.0.0.1"),
        ("spaces", &authority, " scott"),
        ("nameless", &authority, ""),
    ] {
        by.client(common_name).write(gate.folder(), name);
    }
    let expired = authority.sign(Says {
        common_name: "scott",
        over: Over::Already,
        ..Says::default()
    });
    expired.write(gate.folder(), "expired");
    let users_only = url(gate.address, "/users-only");
    let ask = |certificate: &str, options: &[&str]| {
        let files = [format!("{certificate}.pem"), format!("{certificate}.key")];
        let mut arguments = vec!["--cacert", "ca.pem", "--data", "x", &users_only];
        if !certificate.is_empty() {
            arguments.extend(["--cert", &files[0], "--key", &files[1]]);
        }
        arguments.extend(options);
        curl(gate.folder(), &arguments)
    };
    for (version, option) in [("1.1", "--http1.1"), ("2", "--http2")] {
        assert_eq!(ask("scott", &[option]), (0, format!("{version} 200")));
    }
    let tls12 = ["--tlsv1.2", "--tls-max", "1.2"];
    assert_eq!(ask("scott", &tls12), (0, "2 200".to_owned()));
    let seen = || upstream.text().to_lowercase();
    assert_eq!(seen().matches("x-http-auth: scott\r\n").count(), 3);
    assert_eq!(seen().matches("x-mechanism: certificate\r\n").count(), 3);
    // The handshake ends for who has none, one of somebody else's, or one that is over.
    for certificate in ["", "forged", "expired"] {
        let (status, text) = ask(certificate, &[]);
        assert!(
            status != 0 && text.ends_with(" 000"),
            "{certificate}: {text}"
        );
    }
    // A name that could be taken for something else is none.
    for certificate in ["slash", "address", "spaces", "nameless"] {
        assert_eq!(ask(certificate, &[]).1, "2 401", "{certificate}");
    }
    gate.wait_log(|line| {
        let detail = line["detail"].as_str().unwrap_or_default();
        detail.contains("names nobody: user name holds a slash")
    });
    // Credentials count where there are some, and the certificate does not save wrong ones.
    assert_eq!(ask("scott", &["--user", "carol:a:b:c"]).1, "2 200");
    assert!(seen().contains("x-http-auth: carol\r\n"));
    assert_eq!(ask("scott", &["--user", "scott:wrong"]).1, "2 401");
    assert_eq!(
        ask("scott", &["--header", "Authorization: Digest x"]).1,
        "2 401"
    );
    // What a client says of itself does not count beside it.
    assert_eq!(ask("scott", &["--header", "X-Http-Auth: root"]).1, "2 200");
    assert!(!seen().contains("root"));
    let accepted = "gatepost_decisions_total{mechanism=\"certificate\",outcome=\"accepted\"}";
    assert_eq!(gate.metric(accepted), 4.0);
}

/// The other names, and clients that may come without one.
#[test]
fn names_of_a_certificate_and_clients_without_one() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let two = ["a@example.com", "b@example.com"];
    let mail = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
    let dns = SanType::DnsName("Mail.Example.com".try_into().unwrap());
    let uri = SanType::URI("urn:mailer:7".try_into().unwrap());
    let all = authority.sign(Says {
        common_name: "root",
        names: vec![mail(two[0]), dns, uri],
        ..Says::default()
    });
    let twice = authority.sign(Says {
        names: two.map(mail).to_vec(),
        ..Says::default()
    });
    for (kind, expected) in [
        ("san_email", two[0]),
        ("san_dns", "mail.example.com"),
        ("san_uri", "urn:mailer:7"),
    ] {
        let gate = over_tls(upstream.address, &authority, &authority.server())
            .with("listener.client_ca: ca.pem\nlistener.client_certificate: optional")
            .with(&format!("listener.identity_from_certificate: {kind}"))
            .with("trusted_hosts: []")
            .start();
        let ask = |own: Option<&Pair>, headers: &str| {
            let client = Client::new(&authority, own);
            let mut connection = client.connect(gate.address, b"").unwrap();
            connection.ask(&post("/users-only", headers, "x")).unwrap()
        };
        assert_eq!(ask(Some(&all), ""), 200, "{kind}");
        let identity = format!("X-Http-Auth: {expected}\r\n");
        assert!(upstream.text().contains(&identity), "{kind}");
        // Which of two would be meant is a guess.
        assert_eq!(ask(Some(&twice), ""), 401, "{kind}");
        assert_eq!(ask(None, ""), 401, "{kind}");
        assert_eq!(ask(None, &basic("scott", "tiger")), 200, "{kind}");
    }
    assert!(!upstream.text().contains("root"));
}

/// The attack: a connection is kept open so that its certificate counts after its authority was taken out.
#[test]
fn trust_in_a_certificate_ends_on_open_connections_too() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("listener.client_ca: ca.pem\nlistener.identity_from_certificate: subject_cn")
        .with("reload: { watch: off }\ntrusted_hosts: []")
        .start();
    let client = Client::new(&authority, Some(&authority.client("scott")));
    let mut connection = client.connect(gate.address, b"").unwrap();
    let request = post("/users-only", "", "x");
    assert_eq!(connection.ask(&request).unwrap(), 200);
    assert_eq!(reload(&gate).0, 200);
    assert_eq!(connection.ask(&request).unwrap(), 200);
    write(gate.folder(), "ca.pem", &Authority::new().pem);
    assert_eq!(reload(&gate).0, 200);
    assert_eq!(connection.ask(&request).unwrap(), 421);
    assert!(connection.is_ended());
    assert!(
        client
            .connect(gate.address, b"")
            .and_then(|mut it| it.ask(&request))
            .is_err()
    );
}

/// A certificate that was forgotten ends while it is in use: a client's counts no more, also on a connection that is
/// open, and gatepost's own does not keep a new policy from being loaded.
#[test]
fn certificates_end_while_they_are_in_use() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let soon = |common_name| {
        authority.sign(Says {
            common_name,
            names: vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())],
            over: Over::In(Duration::from_secs(3)),
        })
    };
    let (own, scott) = (soon(""), soon("scott"));
    let gate = over_tls(upstream.address, &authority, &own)
        .with("listener.client_ca: ca.pem\nlistener.identity_from_certificate: subject_cn")
        .with("reload: { watch: off }\ntrusted_hosts: []")
        .start();
    scott.write(gate.folder(), "scott");
    let users_only = url(gate.address, "/users-only");
    let ask = || {
        let files = ["--cert", "scott.pem", "--key", "scott.key", "--insecure"];
        let arguments = [&files[..], &["--data", "x", &users_only]].concat();
        curl(gate.folder(), &arguments)
    };
    assert_eq!(ask(), (0, "2 200".to_owned()));
    let client = Client::new(&authority, Some(&scott));
    let mut connection = client.connect(gate.address, b"").unwrap();
    let request = post("/users-only", "", "x");
    assert_eq!(connection.ask(&request).unwrap(), 200);
    wait_for("the certificates to end", || ask().0 != 0);
    assert_eq!(connection.ask(&request).unwrap(), 421);
    gate.wait_log(|line| line["refusal"] == "client_certificate");
    assert_eq!(reload(&gate).0, 200);
    gate.wait_log(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("server.pem: the certificate expired at")
    });
    // Another one that is over is still no improvement.
    let expired = authority.sign(Says {
        over: Over::Already,
        ..Says::default()
    });
    expired.write(gate.folder(), "server");
    assert_eq!(reload(&gate).0, 422);
}

/// SIGTERM: a connection that waits for its next request is ended, and gatepost does not wait for it.
#[test]
fn idle_connections_end_with_gatepost() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let mut gate = over_tls(upstream.address, &authority, &authority.server()).start();
    let client = Client::new(&authority, None);
    let mut connection = client.connect(gate.address, b"").unwrap();
    assert_eq!(connection.ask(&get("/open")).unwrap(), 200);
    gate.signal("TERM");
    assert!(connection.is_ended());
    assert_eq!(gate.wait_exit(), Some(0));
}

/// Limits on connections hold before there is TLS, HTTP/2 over it is counted, and a client that has not begun its handshake does not
/// hold up the end.
#[test]
fn connections_over_tls_are_counted() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let mut gate = over_tls(upstream.address, &authority, &authority.server())
        .with("http: { max_connections_per_address: 2, head_timeout: 20s }")
        .start();
    let client = Client::new(&authority, None);
    let mut first = client.connect(gate.address, b"").unwrap();
    assert_eq!(first.ask(&get("/open")).unwrap(), 200);
    // It never says anything, so it does not hold up the end for long either.
    let _second = client.http2().connect(gate.address, b"").unwrap();
    wait_for("the count", || {
        gate.metric("gatepost_http2_connections") >= 1.0
    });
    let crowded = gate.connect(TRUSTED).until_closed();
    assert!(crowded.is_empty(), "{crowded:?}");
    assert!(gate.metric("gatepost_refusals_total{reason=\"crowded\"}") >= 1.0);
    drop(first);
    let open = || gate.metric("gatepost_connections");
    wait_for("a place", || open() < 1.5);
    let mut silent = gate.connect(TRUSTED);
    wait_for("a connection", || open() > 1.5);
    gate.signal("TERM");
    let before = Instant::now();
    assert!(silent.until_closed().is_empty());
    assert_eq!(gate.wait_exit(), Some(0));
    assert!(before.elapsed() < Duration::from_secs(10));
}

/// A proxy that hands on TLS says first whose connection it is.
#[test]
fn a_proxy_header_comes_before_tls() {
    let (authority, upstream) = (Authority::new(), Recorder::start());
    let gate = over_tls(upstream.address, &authority, &authority.server())
        .with("listener.proxy_protocol: true\ntrusted_proxies: [127.0.0.1]\ntrusted_hosts: []")
        .start();
    let client = Client::new(&authority, None);
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n";
    let mut connection = client.connect(gate.address, header).unwrap();
    for _ in 0..2 {
        assert_eq!(connection.ask(&get("/open")).unwrap(), 200);
    }
    let seen = upstream.text();
    assert_eq!(seen.matches("X-Forwarded-For: 192.0.2.7\r\n").count(), 2);
    assert!(client.connect(gate.address, b"").is_err());
    let version2 = ["--haproxy-protocol", "--cacert", "ca.pem", "--http2"];
    let open = url(gate.address, "/open");
    let arguments = [&version2[..], &[&open]].concat();
    assert_eq!(curl(gate.folder(), &arguments), (0, "2 200".to_owned()));
}

/// An MTA behind TLS: only the one that was meant gets requests.
#[test]
fn an_upstream_over_tls_is_the_one_that_was_meant() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mta = over_tls("demo", &authority, &authority.server())
        .with("listener.client_ca: ca.pem\nlistener.client_certificate: required")
        .start();
    let own = authority.client("gatepost");
    let forged = other.client("gatepost");
    let address = format!("https://{}", mta.address);
    let gate = |tls: &str| {
        Setup::before(&address)
            .with(&format!("upstream.tls: {{ {tls} }}"))
            .file("ca.pem", &authority.pem)
            .file("other.pem", &other.pem)
            .file("own.pem", &own.certificate)
            .file("own.key", &own.key)
            .file("forged.pem", &forged.certificate)
            .file("forged.key", &forged.key)
            .start()
    };
    let client = "client_certificate: own.pem, client_key: own.key";
    for (tls, expected) in [
        (format!("ca: ca.pem, {client}"), 200),
        (format!("ca: ca.pem, server_name: mta.test, {client}"), 200),
        (format!("verify: false, {client}"), 200),
        (
            format!("ca: ca.pem, server_name: mta.example, {client}"),
            502,
        ),
        (format!("ca: other.pem, {client}"), 502),
        (client.to_owned(), 502),
        ("ca: ca.pem".to_owned(), 502),
        (
            "ca: ca.pem, client_certificate: forged.pem, client_key: forged.key".to_owned(),
            502,
        ),
    ] {
        let gate = gate(&tls);
        for _ in 0..2 {
            let reply = gate.send(TRUSTED, get("/messages")).unwrap();
            assert_eq!(reply.status, expected, "{tls}");
        }
        if expected == 502 {
            let line = gate.wait_log(|line| line["status"] == 502);
            let detail = line["detail"].as_str().unwrap().to_lowercase();
            let why = ["certificate", "tls", "alert"]
                .iter()
                .any(|it| detail.contains(it));
            assert!(why, "{detail}");
        }
    }
    // A pooled connection that another authority vouched for is not used any more.
    let gate = gate(&format!("ca: ca.pem, {client}"));
    assert_eq!(gate.send(TRUSTED, get("/messages")).unwrap().status, 200);
    write(gate.folder(), "ca.pem", &other.pem);
    assert_eq!(reload(&gate).0, 200);
    assert_eq!(gate.send(TRUSTED, get("/messages")).unwrap().status, 502);
    write(gate.folder(), "ca.pem", "");
    assert_eq!(reload(&gate).0, 422);
}

/// Public authorities sign through others. What the file holds beside the certificate goes along, so that clients find their way to
/// the authority that they trust.
#[test]
fn the_whole_chain_is_shown() {
    let (root, upstream) = (Authority::new(), Recorder::start());
    let between = root.intermediate();
    let leaf = between.server();
    let chain = Pair {
        certificate: leaf.certificate.clone() + &between.pem,
        key: leaf.key.clone(),
    };
    for (pair, well) in [(&chain, true), (&leaf, false)] {
        let gate = over_tls(upstream.address, &root, pair).start();
        let connected = Client::new(&root, None).connect(gate.address, b"");
        assert_eq!(connected.is_ok(), well);
    }
}

/// The attack: connections that say by ALPN that they are HTTP/2, and then nothing, each of them one of `max_connections`.
#[test]
fn http2_has_to_begin_in_time() {
    let authority = Authority::new();
    let gate = over_tls("demo", &authority, &authority.server())
        .with("http: { head_timeout: 500ms }")
        .start();
    let client = Client::new(&authority, None).http2();
    for beginning in ["", "PRI *"] {
        let mut stream = client.connect(gate.address, b"").unwrap().into_stream();
        stream.write_all(beginning.as_bytes()).unwrap();
        stream.sock.set_read_timeout(Some(PATIENCE)).unwrap();
        let begin = Instant::now();
        let mut all = Vec::new();
        let end = stream.read_to_end(&mut all);
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(10), "{end:?} after {took:?}");
    }
    let counted = "gatepost_refusals_total{reason=\"head_timed_out\"}";
    wait_for("both to be counted", || gate.metric(counted) > 1.5);
    wait_for("both to be gone", || {
        gate.metric("gatepost_connections") < 0.5
    });
    assert!(!gate.logged().contains("handshake error"));
}
