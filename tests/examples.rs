//! The example policies of `lua/examples`: each passes `gatepost check` and its own tests, and lets the right people
//! in end to end. The one that needs Redis is in `integration/`.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::harness::{STRANGER, Setup, basic, inject, run_with, write};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../lua/examples")
}

/// `users` are right credentials and the identity that comes of them; the others must not get in.
fn check(name: &str, environment: &[(&str, &str)], users: &[(&str, &str, &str)], more: &[&str]) {
    let folder = examples();
    let test = format!("{name}_test.lua");
    let (status, out, err) = run_with(&["test", &test], &folder, "", environment);
    assert_eq!(status, Some(0), "{out}{err}");
    let policy = std::fs::read_to_string(folder.join(format!("{name}.lua"))).unwrap();
    let mut setup = Setup::demo().policy(&policy);
    for file in more {
        setup = setup.file(file, &std::fs::read_to_string(folder.join(file)).unwrap());
    }
    for (key, value) in environment {
        setup = setup.env(key, value);
    }
    let gate = setup.start();
    let (status, out, err) = run_with(
        &["check", "--config", "gatepost.yaml"],
        gate.folder(),
        "",
        environment,
    );
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "gatepost.yaml: ok\n"),
        "{err}"
    );
    for (user, password, identity) in users {
        assert_eq!(
            gate.send(STRANGER, inject(&basic(user, password)))
                .unwrap()
                .status,
            200,
            "{user}"
        );
        assert_eq!(gate.messages()[0]["meta"]["http_auth"], *identity);
        assert_eq!(
            gate.send(STRANGER, inject(&basic(user, "wrong")))
                .unwrap()
                .status,
            401,
            "{user}"
        );
        assert_eq!(
            gate.send(STRANGER, inject(&basic("nobody", password)))
                .unwrap()
                .status,
            401
        );
    }
}

#[test]
fn an_inline_table() {
    check(
        "inline_table",
        &[],
        &[
            ("newsletter", "newsletter-2026", "newsletter"),
            ("shop", "shop-2026", "shop"),
        ],
        &[],
    );
}

#[test]
fn a_toml_file_with_groups() {
    check(
        "toml_groups",
        &[],
        &[("shop", "shop-2026", "shop")],
        &["users.toml"],
    );
}

#[test]
fn a_database_with_memoize() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("users.db");
    let environment = [("MAIL_USERS_DB", database.to_str().unwrap())];
    check(
        "sqlite_memoize",
        &environment,
        &[("scott", "tiger", "scott")],
        &[],
    );
}

#[test]
fn a_folder_of_secrets() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("scott"), "tiger\n").unwrap();
    std::fs::create_dir(folder.path().join("..data")).unwrap();
    let environment = [("MAIL_SECRETS", folder.path().to_str().unwrap())];
    check(
        "secret_files",
        &environment,
        &[("scott", "tiger", "scott")],
        &[],
    );
}

#[test]
fn an_account_service() {
    let service = account_service();
    let environment = [("ACCOUNT_SERVICE", service.as_str())];
    check(
        "http_service",
        &environment,
        &[("scott", "tiger", "acme")],
        &[],
    );
}

/// Knows scott/tiger of the tenant acme; breaks for `breaks`.
fn account_service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                loop {
                    while let Some(end) = crate::harness::find(&head, b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
                        head.drain(..end + 4);
                        let has = |user, password| {
                            text.contains(
                                basic(user, password).trim().to_ascii_lowercase().as_str(),
                            )
                        };
                        let (status, body) = if has("scott", "tiger") {
                            ("200 OK", r#"{"tenant": "acme", "groups": ["bulk"]}"#)
                        } else if has("breaks", "it") {
                            ("500 Internal Server Error", "")
                        } else {
                            ("401 Unauthorized", "")
                        };
                        let length = body.len();
                        write!(
                            stream,
                            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"
                        )
                        .unwrap();
                    }
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => return,
                        Ok(read) => head.extend_from_slice(&buffer[..read]),
                    }
                }
            });
        }
    });
    format!("http://{address}/v1/check")
}

/// What is shipped to stand before an MTA passes its own check, from where it stands.
#[test]
fn what_is_shipped_for_mtas_is_checked() {
    let root = examples().join("../..");
    for name in ["haraka", "kumomta", "zonemta"] {
        let copy = tempfile::tempdir().unwrap();
        let (folder, lua) = (copy.path().join("deploy/mta"), copy.path().join("lua"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(&lua).unwrap();
        let file = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        write(
            &folder,
            "gatepost.yaml",
            &file(&format!("deploy/{name}/gatepost.yaml")),
        );
        write(&lua, "policy.lua", &file("lua/policy.lua"));
        write(&folder, "gatepost.secret", "0123456789abcdef");
        let (status, out, err) =
            run_with(&["check", "--config", "gatepost.yaml"], &folder, "", &[]);
        assert_eq!(
            (status, out.as_str()),
            (Some(0), "gatepost.yaml: ok\n"),
            "{name} {err}"
        );
    }
}

/// The annotations for the Lua language server name nothing that does not exist.
#[test]
fn the_annotations_are_true() {
    let types = examples().join("../types");
    let mut lua = String::from("local test = require 'gatepost.test'\n");
    for module in ["kumo", "gatepost", "sqlite", "redis"] {
        lua += &format!("local {module} = require '{module}'\n");
        let text = std::fs::read_to_string(types.join(format!("{module}.lua"))).unwrap();
        let mut class = String::new();
        let mut names = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("---@class ") {
                name.clone_into(&mut class);
            } else if let Some(field) = line.strip_prefix("---@field ")
                && field.contains(" fun(")
            {
                names.push(format!("{class}.{}", field.split(' ').next().unwrap()));
            } else if let Some(function) = line.strip_prefix("function ")
                && let Some((name, _)) = function.split_once('(')
                && name.starts_with(&format!("{module}."))
            {
                names.push(name.to_owned());
            }
        }
        assert!(!names.is_empty(), "{module}");
        for name in names {
            lua += &format!(
                "test.case('{name}', function() test.equal(type({name}), 'function') end)\n"
            );
        }
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "types_test.lua", &lua);
    let (status, out, err) = run_with(&["test", "types_test.lua"], folder.path(), "", &[]);
    assert_eq!(status, Some(0), "{out}{err}");
}
