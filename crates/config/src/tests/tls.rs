//! Listeners over TLS and on Unix sockets, and an upstream over TLS.

use std::path::{Path, PathBuf};

use super::schema::parse;
use super::{MINIMAL, check};
use crate::{
    CertificateName, ClientCertificates, Listen, Listener, ListenerTls, Settings, UpstreamTls,
};

const LISTEN: &str = "  - listen: 0.0.0.0:8080";

fn settings(from: &str, to: &str) -> Settings {
    let text = MINIMAL.replacen(from, to, 1);
    parse(&text, Path::new("etc/x.yaml")).unwrap_or_else(|faults| panic!("{faults}"))
}

fn listener(keys: &str) -> Listener {
    let settings = settings(LISTEN, &format!("{LISTEN}{keys}"));
    settings.listeners[0].clone()
}

#[test]
fn files_of_a_listener_are_relative_and_watched() {
    let text = format!(
        "{LISTEN}\n    tls_certificate: a.pem\n    tls_private_key: /b.pem\n    client_ca: c.pem"
    );
    let settings = settings(LISTEN, &text);
    let files = ["etc/a.pem", "/b.pem", "etc/c.pem"].map(PathBuf::from);
    assert_eq!(settings.files, files);
    let [certificate, private_key, ca] = files;
    assert_eq!(
        settings.listeners[0].tls,
        Some(ListenerTls {
            certificate,
            private_key,
            clients: Some(ClientCertificates {
                ca,
                required: true,
                identity: None,
            }),
        })
    );
}

#[test]
fn what_is_made_of_clients_certificates() {
    let keys = "\n    tls_certificate: a\n    tls_private_key: b\n    client_ca: c\n    client_certificate: optional\n    identity_from_certificate: san_email";
    let clients = listener(keys).tls.unwrap().clients.unwrap();
    assert!(!clients.required);
    assert_eq!(clients.identity, Some(CertificateName::SanEmail));
}

/// Keys that would have no effect are hardly meant: somebody would believe that certificates are asked for.
#[test]
fn half_of_tls_is_a_fault() {
    for (keys, faults) in [
        (
            "tls_certificate: a",
            &["x.yaml:2:5: `listeners.tls_private_key` is missing, or faulty"][..],
        ),
        (
            "tls_private_key: a",
            &["x.yaml:2:5: `listeners.tls_certificate` is missing, or faulty"],
        ),
        (
            "client_ca: a",
            &[
                "x.yaml:2:5: `listeners.client_ca` is for TLS: `tls_certificate` is missing, or faulty",
            ],
        ),
        (
            "client_certificate: required",
            &[
                "x.yaml:3:25: `listeners.client_certificate` needs `client_ca`, which says whose certificates count",
            ],
        ),
        (
            "identity_from_certificate: subject_cn",
            &[
                "x.yaml:3:32: `listeners.identity_from_certificate` needs `client_ca`, which says whose certificates count",
            ],
        ),
        (
            "client_certificate: maybe",
            &["x.yaml:3:25: expected `optional` or `required`, found `maybe`"],
        ),
        (
            "unix_mode: \"0660\"",
            &["x.yaml:3:16: `listeners.unix_mode` is for `listen: unix:/path`"],
        ),
    ] {
        check(LISTEN, &format!("{LISTEN}\n    {keys}"), faults);
    }
}

#[test]
fn a_unix_socket_is_an_address_to_listen_on() {
    let unix = |keys: &str| settings("0.0.0.0:8080", &format!("unix:/run/x.sock{keys}"));
    let settings = unix("");
    let listener = &settings.listeners[0];
    assert_eq!(listener.listen, Listen::Unix("/run/x.sock".into()));
    assert_eq!(listener.listen.to_string(), "unix:/run/x.sock");
    assert_eq!(listener.unix_mode, 0o660);
    // It has no address that could be in a list.
    assert_eq!(unix("\n    proxy_protocol: true").warnings, []);
    let open = unix("\n    unix_mode: \"666\"");
    assert_eq!(open.listeners[0].unix_mode, 0o666);
    assert!(open.warnings[0].to_string().contains("everybody"));
    for mode in ["660", "\"9\"", "\"2660\"", "\"0o660\"", "rw"] {
        let text = format!("unix:/run/x.sock\n    unix_mode: {mode}");
        let text = MINIMAL.replacen("0.0.0.0:8080", &text, 1);
        let faults = parse(&text, Path::new("x.yaml")).unwrap_err().to_string();
        assert!(
            faults.contains("expected a file mode in quotes"),
            "{faults}"
        );
    }
    check(
        "0.0.0.0:8080",
        "unix:x.sock",
        &["x.yaml:2:13: a Unix socket's path must be absolute: `unix:/run/mta.sock`"],
    );
    check(
        LISTEN,
        "  - listen: unix:/x\n  - listen: unix:/x",
        &["x.yaml:3:5: unix:/x is listened on twice"],
    );
}

fn upstream(address: &str, tls: &str) -> Option<UpstreamTls> {
    let to = format!("address: {address}\n{tls}");
    settings("address: 127.0.0.1:8000", &to).upstream.tls
}

#[test]
fn an_upstream_over_tls() {
    let plain = UpstreamTls {
        ca: None,
        server_name: None,
        client: None,
        verify: true,
    };
    assert_eq!(upstream("127.0.0.1:8000", ""), None);
    for address in [
        "https://mta.example",
        "HTTPS://mta:8443",
        "\"https://[::1]:8443\"",
        "[https://mta, https://10.0.0.1]",
        "https://mta.test.:443",
    ] {
        assert_eq!(upstream(address, ""), Some(plain.clone()), "{address}");
    }
    assert_eq!(
        upstream(
            "https://10.0.0.1:8443",
            "  tls: { ca: ca.pem, server_name: mta, client_certificate: c.pem, client_key: k.pem, verify: true }"
        ),
        Some(UpstreamTls {
            ca: Some("etc/ca.pem".into()),
            server_name: Some("mta".to_owned()),
            client: Some(("etc/c.pem".into(), "etc/k.pem".into())),
            verify: true,
        })
    );
    let unsafe_one = settings(
        "address: 127.0.0.1:8000",
        "address: https://mta:8000\n  tls: { verify: false }",
    );
    assert!(unsafe_one.warnings[0].to_string().contains("whoever can"));
}

#[test]
fn faults_of_an_upstream_over_tls() {
    for (to, fault) in [
        (
            "address: 127.0.0.1:8000\n  tls: { ca: x }",
            "x.yaml:5:8: `upstream.tls` is for `address: https://host:port`",
        ),
        (
            "address: https://mta/inject",
            "x.yaml:4:12: expected `https://host:port` without a path, found `https://mta/inject`",
        ),
        (
            "address: https://my_mta",
            "x.yaml:4:3: no certificate can hold the name `my_mta`: `upstream.tls.server_name` is missing, or faulty",
        ),
        (
            "address: [https://mta, https://my_mta]",
            "x.yaml:4:3: no certificate can hold the name `my_mta`: `upstream.tls.server_name` is missing, or faulty",
        ),
        (
            "address: https://mta\n  tls: { client_key: x }",
            "x.yaml:5:8: `upstream.tls.client_certificate` and `client_key` go together",
        ),
    ] {
        check("address: 127.0.0.1:8000", to, &[fault]);
    }
}
