//! docs/migrate-nginx.md: what it says of nginx is what nginx does, and gatepost with the same file of passwords does the same, or what the page
//! says instead.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Gatepost, Recorder, STRANGER, Setup, basic, inject, run_with, write};
use crate::program::{Program, send, upstream};

/// Stands for the address that the page lets in without a password.
const LET_IN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// The first block of the page in this language.
fn block(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/migrate-nginx.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    text.replace("10.20.0.7", &LET_IN.to_string())
}

fn output(command: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(command)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A user for each form in which a password can be kept; all have the password `tiger`.
fn users() -> Vec<(String, String)> {
    let openssl = |form| output("openssl", &["passwd", form, "tiger"], "");
    let own = |form| {
        let (status, out, _) = run_with(
            &["hash", "--algorithm", form],
            Path::new("."),
            "tiger\n",
            &[],
        );
        assert_eq!(status, Some(0));
        out.trim().to_owned()
    };
    let sha1 = "openssl dgst -sha1 -binary | openssl base64";
    let salted = "{ printf tiger; printf salt; } | openssl dgst -sha1 -binary | { cat; printf salt; } | openssl base64";
    [
        ("apr1", openssl("-apr1")),
        ("sha256", openssl("-5")),
        ("sha512", openssl("-6")),
        ("bcrypt", own("bcrypt")),
        ("sha512own", own("sha512-crypt")),
        (
            "sha",
            format!("{{SHA}}{}", output("sh", &["-c", sha1], "tiger")),
        ),
        (
            "ssha",
            format!("{{SSHA}}{}", output("sh", &["-c", salted], "")),
        ),
    ]
    .map(|(user, hash)| (user.to_owned(), hash))
    .into()
}

fn nginx(mta: SocketAddr, passwords: &str) -> Program {
    let location = block("nginx").replace("127.0.0.1:8000", &mta.to_string());
    let arguments = ["-p", ".", "-c", "config", "-e", "stderr"];
    Program::start("nginx", &arguments, 1, |listen, folder| {
        write(folder, "mail.htpasswd", passwords);
        // Its worker has no other user to become where it is not root's, and the file is the test's.
        let folder = folder.display();
        format!(
            "daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {};
    {location}
  }}
}}
",
            listen[0]
        )
    })
}

fn gate(mta: SocketAddr, passwords: &str, folder: &Path) -> Gatepost {
    let yaml = block("yaml")
        .replace("0.0.0.0:8080", "127.0.0.1:0")
        .replace("127.0.0.1:8000", &mta.to_string());
    let yaml = format!("{yaml}admin: {{ listen: 127.0.0.1:0 }}\n");
    let config = write(folder, "gatepost.yaml", &yaml);
    write(folder, "policy.lua", &block("lua"));
    write(folder, "mail.htpasswd", passwords);
    Setup::demo().start_with(&config)
}

/// The answer's status, and who the MTA was told.
fn ask(to: SocketAddr, mta: &Recorder, from: Ipv4Addr, headers: &str) -> (u16, Option<String>) {
    let before = mta.bytes().len();
    let status = send(to, from, inject(headers)).unwrap().status;
    let arrived = mta.bytes().len() > before;
    let told = arrived.then(|| mta.told("X-Http-Auth").unwrap_or_default());
    (status, told)
}

#[test]
fn the_guide_from_nginx_is_true() {
    let users = users();
    let lines: Vec<String> = users
        .iter()
        .map(|(user, it)| format!("{user}:{it}\n"))
        .collect();
    let passwords = lines.concat();
    let (there, here) = (upstream(), upstream());
    let nginx = nginx(there.address, &passwords);
    let folder = tempfile::tempdir().unwrap();
    let gate = gate(here.address, &passwords, folder.path());
    let both = |from, headers: &str| {
        let nginx = ask(nginx.addresses[0], &there, from, headers);
        (nginx, ask(gate.address, &here, from, headers))
    };
    // The same.
    for (user, _) in &users {
        let expected = (200, Some(user.clone()));
        let (nginx, gate) = both(STRANGER, &basic(user, "tiger"));
        assert_eq!((&nginx, &gate), (&expected, &expected), "{user}");
        let (nginx, gate) = both(STRANGER, &basic(user, "lion"));
        assert_eq!((nginx, gate), ((401, None), (401, None)), "{user}");
    }
    for headers in [String::new(), basic("nobody", "tiger"), basic("apr1", "")] {
        let (nginx, gate) = both(STRANGER, &headers);
        assert_eq!((nginx, gate), ((401, None), (401, None)), "{headers}");
    }
    let forged = format!("{}X-Http-Auth: root\r\n", basic("apr1", "tiger"));
    let (nginx_told, gate_told) = both(STRANGER, &forged);
    assert_eq!(nginx_told, gate_told);
    // What is different, as the page says.
    let (nginx_let_in, gate_let_in) = both(LET_IN, "");
    assert_eq!(nginx_let_in, (200, Some(String::new())));
    assert_eq!(gate_let_in, (200, Some(LET_IN.to_string())));
    let (nginx_wrong, gate_wrong) = both(LET_IN, &basic("apr1", "lion"));
    assert_eq!(nginx_wrong.0, 200);
    assert_eq!(gate_wrong, (401, None));
    // And the MTA sees no password, from either.
    for mta in [&there, &here] {
        assert!(!mta.text().to_ascii_lowercase().contains("authorization:"));
    }
}
