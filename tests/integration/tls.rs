//! TLS as others see it: curl, openssl's client, and sslyze, which holds a server against Mozilla's recommendations.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Gatepost, Recorder, Setup, write};
use crate::tls_client::{Authority, Over, Pair, curl};

/// Where `make integration` installs it.
const SSLYZE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../target/sslyze/bin/sslyze"
);

/// As an operator gets it from a certificate authority: a chain, for ninety days.
fn server(root: &Authority) -> Pair {
    let between = root.intermediate();
    let leaf = between.server_until(Over::In(Duration::from_secs(90 * 24 * 3600)));
    Pair {
        certificate: leaf.certificate + &between.pem,
        key: leaf.key,
    }
}

fn start(root: &Authority, upstream: &Recorder, more: &str) -> Gatepost {
    let pair = server(root);
    Setup::before(upstream.address)
        .with("listener.tls_certificate: server.pem\nlistener.tls_private_key: server.key")
        .with(more)
        .file("server.pem", &pair.certificate)
        .file("server.key", &pair.key)
        .file("ca.pem", &root.pem)
        .start()
}

/// Whether openssl's client ends well, and what it says. `input` is what a person would type.
fn s_client(folder: &Path, to: SocketAddr, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("openssl")
        .current_dir(folder)
        .args(["s_client", "-CAfile", "ca.pem", "-verify_return_error"])
        .args(["-connect", &to.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed by `make integration`");
    // It may have ended by itself; and it ends where its input does.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

/// Both versions of TLS, what is agreed on, and the whole chain; nothing that is older, weaker, compressed or renegotiated.
#[test]
fn openssl_gets_what_is_good_and_nothing_else() {
    let (root, upstream) = (Authority::new(), Recorder::start());
    let gate = start(&root, &upstream, "");
    let ask =
        |arguments: &[&str], input: &str| s_client(gate.folder(), gate.address, arguments, input);
    for (version, name) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        for (alpn, agreed) in [
            ("h2,http/1.1", "ALPN protocol: h2"),
            ("http/1.1", "ALPN protocol: http/1.1"),
        ] {
            let (well, text) = ask(&[version, "-alpn", alpn, "-showcerts"], "");
            assert!(well, "{text}");
            for words in [
                name,
                agreed,
                "Verify return code: 0 (ok)",
                "Compression: NONE",
            ] {
                assert!(text.contains(words), "{words}: {text}");
            }
            assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2, "{text}");
        }
    }
    // Neither what we do not speak, nor what a client wants alone.
    assert!(!ask(&["-tls1_3", "-alpn", "spdy/3"], "").0);
    for version in ["-tls1_1", "-tls1"] {
        let (well, text) = ask(&[version, "-cipher", "ALL:@SECLEVEL=0"], "");
        assert!(!well && text.contains("SSL alert number"), "{text}");
    }
    // No forward secrecy, no authenticated encryption, no certificate.
    for ciphers in [
        "AES128-GCM-SHA256:AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384",
        "aNULL:eNULL",
    ] {
        let ciphers = format!("{ciphers}:@SECLEVEL=0");
        let (well, text) = ask(&["-tls1_2", "-cipher", &ciphers], "");
        assert!(!well && text.contains("alert handshake failure"), "{text}");
    }
    let (well, text) = ask(&["-tls1_2"], "R\n");
    assert!(!well && text.contains("no renegotiation"), "{text}");
    assert!(text.contains("Secure Renegotiation IS supported"), "{text}");
    // Neither the wrong authority nor the wrong name.
    write(gate.folder(), "other.pem", &Authority::new().pem);
    assert!(!ask(&["-CAfile", "other.pem"], "").0);
    assert!(!ask(&["-verify_hostname", "somebody.test"], "").0);
    assert!(ask(&["-verify_hostname", "mta.test"], "").0);
}

/// Clients with certificates, where they are asked for and where they have to have one. The upstream is told who they are.
#[test]
fn curl_with_a_certificate_is_who_that_says() {
    let (root, stranger, upstream) = (Authority::new(), Authority::new(), Recorder::start());
    for required in [true, false] {
        let word = if required { "required" } else { "optional" };
        let gate = start(
            &root,
            &upstream,
            &format!(
                "listener.client_ca: ca.pem\nlistener.client_certificate: {word}\n\
                 listener.identity_from_certificate: subject_cn\ntrusted_hosts: []"
            ),
        );
        root.client("scott").write(gate.folder(), "scott");
        stranger.client("scott").write(gate.folder(), "forged");
        let url = format!("https://{}/users-only", gate.address);
        let ask = |options: &[&str]| {
            let arguments = ["--cacert", "ca.pem", "--data", "x", &url];
            curl(gate.folder(), &[&arguments, options].concat())
        };
        let scott = ["--cert", "scott.pem", "--key", "scott.key"];
        for (option, version) in [
            ("--http1.1", "1.1"),
            ("--http2", "2"),
            ("--http2-prior-knowledge", "2"),
        ] {
            let (status, text) = ask(&[&scott[..], &[option]].concat());
            assert_eq!((status, text), (0, format!("{version} 200")), "{word}");
            assert_eq!(upstream.told("x-http-auth").as_deref(), Some("scott"));
        }
        let none = ask(&[]);
        if required {
            assert!(none.0 != 0 && none.1.ends_with(" 000"), "{none:?}");
        } else {
            assert_eq!(none, (0, "2 401".to_owned()));
            assert_eq!(ask(&["--user", "carol:a:b:c"]).1, "2 200");
            assert_eq!(upstream.told("x-http-auth").as_deref(), Some("carol"));
        }
        let forged = ask(&["--cert", "forged.pem", "--key", "forged.key"]);
        assert!(forged.0 != 0 && forged.1.ends_with(" 000"), "{forged:?}");
        let (_, text) = s_client(gate.folder(), gate.address, &[], "");
        assert!(text.contains("CN = tests' own"), "who is asked for: {text}");
    }
}

/// sslyze finds nothing: Mozilla's intermediate profile is kept, and none of the known attacks works.
#[test]
fn sslyze_finds_the_intermediate_profile_kept() {
    let (root, upstream) = (Authority::new(), Recorder::start());
    let gate = start(&root, &upstream, "");
    let output = Command::new(SSLYZE)
        .current_dir(gate.folder())
        .args([
            "--mozilla_config",
            "intermediate",
            "--json_out",
            "found.json",
        ])
        .arg("--early_data")
        .args(["--certinfo_ca_file", "ca.pem"])
        .arg(format!("mta.test:{}{{127.0.0.1}}", gate.address.port()))
        .output()
        .expect("sslyze is installed by `make integration`");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains(": OK - Compliant."), "{text}");
    let found = std::fs::read_to_string(gate.folder().join("found.json")).unwrap();
    let found: Value = serde_json::from_str(&found).unwrap();
    let scans = &found["server_scan_results"][0]["scan_result"];
    for (scan, key, expected) in findings() {
        assert_eq!(scans[scan]["status"], "COMPLETED", "{scan}: {text}");
        assert_eq!(scans[scan]["result"][key], expected, "{scan}: {text}");
    }
}

/// What sslyze is to find of each thing that it looks for.
fn findings() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("heartbleed", "is_vulnerable_to_heartbleed", json!(false)),
        (
            "openssl_ccs_injection",
            "is_vulnerable_to_ccs_injection",
            json!(false),
        ),
        (
            "robot",
            "robot_result",
            json!("NOT_VULNERABLE_RSA_NOT_SUPPORTED"),
        ),
        (
            "session_renegotiation",
            "is_vulnerable_to_client_renegotiation_dos",
            json!(false),
        ),
        (
            "session_renegotiation",
            "supports_secure_renegotiation",
            json!(true),
        ),
        ("tls_compression", "supports_compression", json!(false)),
        ("tls_1_3_early_data", "supports_early_data", json!(false)),
        ("tls_fallback_scsv", "supports_fallback_scsv", json!(true)),
        (
            "tls_extended_master_secret",
            "supports_ems_extension",
            json!(true),
        ),
        (
            "ssl_2_0_cipher_suites",
            "is_tls_version_supported",
            json!(false),
        ),
        (
            "ssl_3_0_cipher_suites",
            "is_tls_version_supported",
            json!(false),
        ),
        (
            "tls_1_0_cipher_suites",
            "is_tls_version_supported",
            json!(false),
        ),
        (
            "tls_1_1_cipher_suites",
            "is_tls_version_supported",
            json!(false),
        ),
        (
            "tls_1_2_cipher_suites",
            "is_tls_version_supported",
            json!(true),
        ),
        (
            "tls_1_3_cipher_suites",
            "is_tls_version_supported",
            json!(true),
        ),
    ]
}
