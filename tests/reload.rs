//! Configuration and policy change while requests go on.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::{
    Connection, Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, inject, post, wait_for,
};

/// A policy that calls everybody the same.
fn calls_everybody(name: &str) -> String {
    format!(
        "require('kumo').on('http_server_validate_auth_basic', function()
           return {{ identities = {{ {{ identity = '{name}', context = 'HttpBasicAuth' }} }} }}
         end)"
    )
}

fn reload(gate: &Gatepost) -> crate::harness::Reply {
    let mut connection = Connection::open(gate.admin, TRUSTED);
    connection.write("POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    connection.reply().unwrap()
}

/// Asks until the upstream is told this identity.
fn wait_identity(gate: &Gatepost, name: &str) {
    wait_for(&format!("everybody to be {name}"), || {
        assert_eq!(
            gate.send(STRANGER, inject(&basic("a", "b")))
                .unwrap()
                .status,
            200
        );
        gate.messages()[0]["meta"]["http_auth"] == name
    });
}

#[test]
fn every_way_to_ask_for_a_reload_works() {
    let gate = Setup::demo()
        .policy(&calls_everybody("one"))
        .with("reload: { watch: off }")
        .start();
    wait_identity(&gate, "one");
    std::fs::write(gate.folder().join("policy.lua"), calls_everybody("two")).unwrap();
    let reply = reload(&gate);
    assert_eq!((reply.status, reply.text().as_str()), (200, "reloaded\n"));
    // The cache of the old policy went with it.
    wait_identity(&gate, "two");
    std::fs::write(gate.folder().join("policy.lua"), calls_everybody("three")).unwrap();
    gate.signal("HUP");
    wait_identity(&gate, "three");
    assert_eq!(
        gate.metric("gatepost_reloads_total{result=\"success\"}"),
        2.0
    );
    assert_eq!(gate.metric("gatepost_reload_success"), 1.0);
}

/// A plain write, an editor's rename, and the way in which Kubernetes swaps a `ConfigMap`.
#[test]
fn changed_files_are_noticed() {
    let gate = Setup::demo()
        .policy(&calls_everybody("one"))
        .with("reload: { watch: 100ms }")
        .start();
    let file = gate.folder().join("policy.lua");
    wait_identity(&gate, "one");
    std::fs::write(&file, calls_everybody("written")).unwrap();
    wait_identity(&gate, "written");
    std::fs::write(
        gate.folder().join("policy.lua~"),
        calls_everybody("renamed"),
    )
    .unwrap();
    std::fs::rename(gate.folder().join("policy.lua~"), &file).unwrap();
    wait_identity(&gate, "renamed");
    let swap = |version: &str| {
        let data = gate.folder().join(version);
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("policy.lua"), calls_everybody(version)).unwrap();
        symlink(&data, gate.folder().join("..data_tmp")).unwrap();
        std::fs::rename(
            gate.folder().join("..data_tmp"),
            gate.folder().join("..data"),
        )
        .unwrap();
    };
    swap("v1");
    std::fs::remove_file(&file).unwrap();
    symlink("..data/policy.lua", &file).unwrap();
    wait_identity(&gate, "v1");
    swap("v2");
    wait_identity(&gate, "v2");
}

/// A module that the policy requires counts as the policy.
#[test]
fn a_changed_module_is_noticed() {
    let policy = "
        local who = require 'who'
        require('kumo').on('http_server_validate_auth_basic', function()
          return { identities = { { identity = who, context = 'HttpBasicAuth' } } }
        end)";
    let gate = Setup::demo()
        .policy(policy)
        .file("who.lua", "return 'one'")
        .with("reload: { watch: 100ms }")
        .start();
    wait_identity(&gate, "one");
    std::fs::write(gate.folder().join("who.lua"), "return 'two'").unwrap();
    wait_identity(&gate, "two");
}

/// Whatever is wrong with the new, the old goes on; the operator is told, and a repair is noticed.
#[test]
fn a_broken_reload_keeps_the_old() {
    let gate = Setup::demo()
        .policy(&calls_everybody("one"))
        .with("reload: { watch: 100ms }")
        .start();
    let folder = gate.folder().to_owned();
    let yaml = std::fs::read_to_string(folder.join("gatepost.yaml")).unwrap();
    // A file, what becomes of it (`None`: it is gone), and words of the log line.
    let half = &yaml[..yaml.len() / 2];
    let surprise = format!("{yaml}surprise: 1\n");
    let broken = [
        ("policy.lua", Some("local x = = 1"), "policy.lua:1:"),
        ("policy.lua", Some(""), "registers no handler"),
        ("policy.lua", None, "cannot read the policy"),
        (
            "gatepost.yaml",
            Some(surprise.as_str()),
            "unknown key `surprise`",
        ),
        ("gatepost.yaml", Some(half), "gatepost.yaml:"),
    ];
    for (index, (file, content, words)) in broken.iter().enumerate() {
        match content {
            Some(content) => std::fs::write(folder.join(file), content).unwrap(),
            None => std::fs::remove_file(folder.join(file)).unwrap(),
        }
        wait_for("the failure to be counted", || {
            gate.metric("gatepost_reload_success") == 0.0
        });
        gate.wait_log(|line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("the reload failed"))
                && line["fault"]
                    .as_str()
                    .is_some_and(|fault| fault.contains(words))
        });
        let reply = reload(&gate);
        assert_eq!(reply.status, 422, "{reply:?}");
        assert_eq!(
            gate.send(STRANGER, inject(&basic("a", "b")))
                .unwrap()
                .status,
            200
        );
        std::fs::write(folder.join("gatepost.yaml"), &yaml).unwrap();
        let repaired = format!("repaired-{index}");
        std::fs::write(folder.join("policy.lua"), calls_everybody(&repaired)).unwrap();
        wait_identity(&gate, &repaired);
        wait_for("the success to be counted", || {
            gate.metric("gatepost_reload_success") == 1.0
        });
    }
}

/// What cannot change while gatepost runs is named, and the rest changes.
#[test]
fn changes_that_need_a_restart_are_named() {
    let gate = Setup::before(Recorder::start().address)
        .with("reload: { watch: off }")
        .start();
    let file = gate.folder().join("gatepost.yaml");
    let yaml = std::fs::read_to_string(&file).unwrap();
    let changed = yaml.replace(
        "listen: 127.0.0.1:0\nupstream",
        "listen: 127.0.0.1:1\nupstream",
    ) + "threads: 1\ntrusted_proxies: [127.0.0.9]\n";
    std::fs::write(
        &file,
        changed.replace("trusted_hosts: [127.0.0.1]", "trusted_hosts: [127.0.0.2]"),
    )
    .unwrap();
    assert_eq!(reload(&gate).status, 200);
    let line = gate.wait_log(|line| line["keys"].is_string());
    assert_eq!(line["keys"], "listeners, threads");
    assert_eq!(
        gate.send(STRANGER, inject("")).unwrap().status,
        200,
        "127.0.0.2 is trusted now"
    );
    assert_eq!(
        gate.send(TRUSTED, inject("")).unwrap().status,
        401,
        "127.0.0.1 no longer is"
    );
}

/// The attack: a request that is judged by one generation and forwarded by another. Every reload changes
/// the identity and the header that carries it, which must always match; and no request fails.
#[test]
fn no_request_fails_and_none_sees_two_generations() {
    let mixed = std::sync::Arc::new(AtomicUsize::new(0));
    let count = mixed.clone();
    let upstream = Recorder::behaving(move |stream, seen| {
        let pairs: Vec<_> = seen
            .head
            .split("\r\n")
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| {
                Some((
                    name.to_ascii_lowercase().strip_prefix("x-gen-")?.to_owned(),
                    value,
                ))
            })
            .collect();
        let good = pairs.len() == 1 && pairs.iter().all(|(name, value)| name == value);
        count.fetch_add(usize::from(!good), Ordering::SeqCst);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .is_ok()
    });
    let gate = Setup::before(upstream.address)
        .policy(&calls_everybody("0"))
        .with("upstream.identity_header: X-Gen-0\nreload: { watch: off }")
        .start();
    let yaml = std::fs::read_to_string(gate.folder().join("gatepost.yaml")).unwrap();
    let done = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = gate.connect(STRANGER);
                while !done.load(Ordering::SeqCst) {
                    connection.write(post("/api/inject/v1", &basic("a", "b"), "{}"));
                    assert_eq!(connection.reply().unwrap().status, 200);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for generation in 1..=20 {
            let begin = std::time::Instant::now();
            std::fs::write(
                gate.folder().join("policy.lua"),
                calls_everybody(&generation.to_string()),
            )
            .unwrap();
            let yaml = yaml.replace("X-Gen-0", &format!("X-Gen-{generation}"));
            std::fs::write(gate.folder().join("gatepost.yaml"), yaml).unwrap();
            assert_eq!(reload(&gate).status, 200);
            std::thread::sleep(
                std::time::Duration::from_millis(100).saturating_sub(begin.elapsed()),
            );
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(mixed.load(Ordering::SeqCst), 0);
    let served = served.load(Ordering::SeqCst);
    assert!(served > 100, "{served}");
    println!("FIGURE 20 reloads under {served} requests: none failed, none mixed");
}
