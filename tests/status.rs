//! The status page: what it says, what it never says, and to whom.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Connection, Gatepost, Recorder, Reply, STRANGER, Setup, TRUSTED, basic, get, inject, post,
    wait_for, write,
};
use crate::tls_client::{Authority, Over, Says};

/// One request to the admin listener with these header lines.
fn ask(gate: &Gatepost, method: &str, path: &str, headers: &str) -> Reply {
    let mut connection = Connection::open(gate.admin, TRUSTED);
    connection.write(format!(
        "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n"
    ));
    let reply = connection.until_closed();
    let head_only = method == "HEAD";
    let text = String::from_utf8(reply).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head_only || body.is_empty());
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    Reply {
        status: status.parse().unwrap(),
        headers: lines.map(header).collect(),
        body: body.as_bytes().to_vec(),
    }
}

fn here(gate: &Gatepost) -> String {
    format!("Host: {}\r\n", gate.admin)
}

fn status(gate: &Gatepost) -> Value {
    let reply = ask(gate, "GET", "/status.json", &here(gate));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn reload(gate: &Gatepost) -> u16 {
    ask(gate, "POST", "/reload", &here(gate)).status
}

/// What is counted when an answer is over may be so a moment after it was read.
fn wait_status(gate: &Gatepost, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait_for(what, || {
        last = status(gate);
        holds(&last)
    });
    last
}

/// Everything that an operator asks first, after traffic that is known.
#[test]
fn the_document_says_what_happened() {
    let gate = Setup::demo().start();
    let send = |from, request: String| gate.send(from, request).unwrap().status;
    for _ in 0..3 {
        assert_eq!(send(STRANGER, inject(&basic("scott", "tiger"))), 200);
    }
    assert_eq!(send(STRANGER, inject(&basic("scott", "lion"))), 401);
    // The client has its answer a moment before it is counted.
    wait_status(&gate, "the first refusal", |it| {
        it["refusals"] == json!({ "unauthorized": 1 })
    });
    assert_eq!(send(STRANGER, get("/nowhere")), 404);
    let open = gate.connect(STRANGER);
    let said = wait_status(&gate, "all of it", |it| {
        it["requests"]["by_status"] == json!({ "200": 3, "401": 1, "404": 1 })
            && it["requests"]["in_flight"] == 0
            && it["connections"]["open"] == 1
    });
    drop(open);
    assert_eq!(said["phase"], "ready");
    assert_eq!(said["build"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(said["process"]["id"], gate.pid());
    assert!(said["process"]["uptime"].as_f64().unwrap() < 60.0);
    assert!(said["process"]["memory_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(
        said["refusals"],
        json!({ "no_route": 1, "unauthorized": 1 })
    );
    assert_eq!(
        said["requests"]["decisions"],
        json!([
            { "mechanism": "basic", "outcome": "accepted", "count": 3 },
            { "mechanism": "basic", "outcome": "rejected", "count": 1 },
        ])
    );
    assert_eq!(
        said["cache"],
        json!({ "hits": 2, "misses": 2, "evictions": 0 })
    );
    assert_eq!(said["policy"]["generation"], 1);
    assert!(said["policy"]["workers"].as_u64().unwrap() > 0);
    assert_eq!(
        said["reload"],
        json!({ "good": true, "succeeded": 0, "failed": 0, "last": null })
    );
    assert_eq!(said["connections"]["http1"], 1);
    for (what, count) in [("request", 5), ("policy", 4), ("upstream", 3)] {
        is_a_histogram_of(count, &said["latency"][what]);
    }
    let upstream = &said["upstream"][0];
    assert_eq!(
        (&upstream["state"], &upstream["failures"]),
        (&json!("up"), &json!(0))
    );
    assert_eq!(upstream["last_error"], Value::Null);
    assert_eq!(
        said["listeners"],
        json!([{ "address": gate.address.to_string(), "tls": null }])
    );
    assert_eq!(said["throttle"], json!({ "redis": "off", "untold": 0 }));
    assert_eq!(said["shadow"], Value::Null);
    assert_eq!(said["lost"], json!({ "log_lines": 0, "audit_lines": 0 }));
    assert_eq!(
        said["refused_clients"],
        json!({ "window": 600, "top": [
            { "address": "127.0.0.2", "network": false, "count": 2, "reason": "no_route" },
        ] })
    );
}

fn is_a_histogram_of(count: u64, times: &Value) {
    let counts = times["counts"].as_array().unwrap();
    let sum: u64 = counts.iter().map(|it| it.as_u64().unwrap()).sum();
    assert_eq!(sum, count, "{times}");
    assert_eq!(counts.len(), times["bounds"].as_array().unwrap().len() + 1);
    assert!(times["sum"].as_f64().unwrap() > 0.0);
}

/// The settings as they are used, defaults included.
#[test]
fn the_configuration_in_use_is_shown() {
    let gate = Setup::demo().start();
    let said = status(&gate);
    let config = |key: &str| {
        let rows = said["config"].as_array().unwrap().iter();
        let mut found = rows.filter(|it| it["key"] == key);
        let row = found.next().unwrap_or_else(|| panic!("{key} is shown"));
        row["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(config("upstream.address"), "demo");
    assert_eq!(config("trusted_hosts"), "[127.0.0.1/32]");
    assert_eq!(config("throttle.per_address_and_user"), "10 in 1m");
    assert_eq!(config("http.max_head_bytes"), "32KiB");
    assert_eq!(
        config("routes[0]"),
        "POST /api/inject/v1, allow: [authenticated, trusted_hosts]"
    );
}

/// Something to be recognised at every place where a configuration can hold a secret, in what clients present, and where one might
/// stand by mistake.
const SECRETS: [&str; 12] = [
    TOKEN, IDENTITY, SIGNING, OLD, THROTTLE, QUOTAS, LUA, VARIABLE, PASSWORD, BEARER, MISPLACED,
    BROKEN,
];
const TOKEN: &str = "token-4f1c86a2d9e7";
const IDENTITY: &str = "identity-91bd03e75ac8";
const SIGNING: &str = "signing-5e02c7f49ab1";
const OLD: &str = "signing-old-c3d81f60b2";
const THROTTLE: &str = "throttle-redis-7ab29c";
const QUOTAS: &str = "quotas-redis-0d83fe";
const LUA: &str = "lua-secret-64bb1e9a";
const VARIABLE: &str = "variable-2c9f77e0ab";
const PASSWORD: &str = "password-8830fd1c5b";
const BEARER: &str = "bearer-e61f02d9ac47";
const MISPLACED: &str = "misplaced-b90e43f7d1";
const BROKEN: &str = "broken-17fa2ce08d";
/// Too short to be a secret that is taken.
const SHORT: &str = "broken-1";

fn full_of_secrets() -> Gatepost {
    let policy = format!("local unused = '{LUA}'\n{}", crate::harness::POLICY);
    let keys = format!(
        "{{ id: new, secret: {SIGNING} }}, {{ id: old, secret: {{ file: old-key }} }}, {{ id: env, secret: \"${{GATEPOST_TEST_SECRET}}\" }}"
    );
    Setup::demo()
        .policy(&policy)
        .env("GATEPOST_TEST_SECRET", VARIABLE)
        .file("old-key", OLD)
        .with(&format!("admin.token: {TOKEN}"))
        .with("upstream.identity: basic")
        .with(&format!("upstream.identity_secret: {IDENTITY}"))
        .with(&format!("upstream.signature: {{ keys: [{keys}] }}"))
        .with(&format!(
            "throttle: {{ redis: \"redis://user:{THROTTLE}@127.0.0.1:1/0\" }}"
        ))
        .with(&format!(
            "quotas: {{ redis: \"redis://user:{QUOTAS}@127.0.0.1:1/0\" }}"
        ))
        .start()
}

fn with_token(gate: &Gatepost, method: &str, path: &str) -> Reply {
    ask(
        gate,
        method,
        path,
        &format!("Host: a\r\nAuthorization: Bearer {TOKEN}\r\n"),
    )
}

/// The data, once page and data were searched for secrets.
fn searched(gate: &Gatepost, when: &str) -> Value {
    for path in ["/", "/status.json"] {
        let reply = with_token(gate, "GET", path);
        assert_eq!(reply.status, 200);
        for secret in SECRETS {
            assert!(
                !reply.text().contains(secret),
                "{when}: {path} shows {secret}"
            );
        }
    }
    with_token(gate, "GET", "/status.json").json()
}

/// The attack: whoever may see the page (on loopback without a token, everybody) looks for what opens something else.
#[test]
fn no_secret_is_on_the_page() {
    let gate = full_of_secrets();
    let send = |headers: &str| gate.send(STRANGER, inject(headers)).unwrap().status;
    assert_eq!(send(&basic("scott", PASSWORD)), 401);
    assert_eq!(send(&basic(PASSWORD, "x")), 401);
    assert_eq!(send(&format!("Authorization: Bearer {BEARER}\r\n")), 401);
    let query = format!("/nowhere?token={BEARER}");
    assert_eq!(gate.send(STRANGER, get(&query)).unwrap().status, 404);
    let said = searched(&gate, "at first");
    let rows = said["config"].as_array().unwrap().iter();
    let hidden: Vec<&str> = rows
        .filter(|it| it["value"] == "set, not shown")
        .map(|it| it["key"].as_str().unwrap())
        .collect();
    assert_eq!(
        hidden,
        [
            "upstream.identity_secret",
            "upstream.signature.keys",
            "quotas.redis",
            "throttle.redis",
            "admin.token"
        ]
    );
}

/// The same in what a failed reload says of a secret that stands at a wrong place, or is wrong.
#[test]
fn no_secret_is_in_the_error_of_a_reload() {
    let gate = full_of_secrets();
    let try_it = |file: &str, content: &str| {
        std::fs::write(gate.folder().join(file), content).unwrap();
        assert_eq!(with_token(&gate, "POST", "/reload").status, 422);
        let said = searched(&gate, content);
        assert_eq!(said["reload"]["good"], false);
        let error = said["reload"]["last"]["error"].as_str().unwrap();
        assert!(!error.is_empty() && !error.contains(SHORT), "{error}");
    };
    let good = std::fs::read_to_string(gate.folder().join("gatepost.yaml")).unwrap();
    for (text, instead) in [
        (IDENTITY, format!("[{MISPLACED}]")),
        (SIGNING, SHORT.to_owned()),
        ("redis://user:throttle", format!("http://user:{MISPLACED}")),
        (
            "\nthrottle:",
            format!("\nthrottle: {{ redis: \"{BROKEN}\" }}\nthrottle:"),
        ),
        (
            "address: demo",
            format!("address: https://user:{MISPLACED}@mta:1"),
        ),
        (TOKEN, format!("!{MISPLACED} x")),
        (TOKEN, format!("\"{BROKEN}")),
    ] {
        let bad = good.replace(text, &instead);
        assert_ne!(bad, good);
        try_it("gatepost.yaml", &bad);
    }
    std::fs::write(gate.folder().join("gatepost.yaml"), &good).unwrap();
    for bad in [
        format!("local users = {{ scott = 'x' '{MISPLACED}' }}"),
        format!("local users = {{ scott = 'x' [[{MISPLACED}\n{MISPLACED}]] }}"),
        format!("local users = '{BROKEN}"),
    ] {
        try_it("policy.lua", &bad);
    }
}

/// A reload that failed stays on the page until one is good, with its words.
#[test]
fn a_failed_reload_is_shown_until_one_is_good() {
    let gate = Setup::demo().with("reload: { watch: off }").start();
    let policy = gate.folder().join("policy.lua");
    let good = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, "no Lua at all").unwrap();
    assert_eq!(reload(&gate), 422);
    let said = status(&gate);
    let last = &said["reload"]["last"];
    assert!(
        last["error"].as_str().unwrap().contains("policy.lua:1: "),
        "{last}"
    );
    assert_eq!(
        (&last["why"], &said["reload"]["good"]),
        (&json!("admin"), &json!(false))
    );
    assert_eq!(
        (&said["reload"]["failed"], &said["policy"]["generation"]),
        (&json!(1), &json!(1))
    );
    assert!((last["time"].as_f64().unwrap() - said["now"].as_f64().unwrap()).abs() < 60.0);
    std::fs::write(&policy, good).unwrap();
    gate.signal("HUP");
    // A document made while the reload ends has some of these from before and some from after.
    let said = wait_status(&gate, "a good reload with its note", |it| {
        it["reload"]["good"] == true
            && it["reload"]["succeeded"] == 1
            && it["policy"]["generation"] == 2
            && it["reload"]["last"]["error"].is_null()
    });
    assert_eq!(said["reload"]["last"]["why"], "signal");
    drop(gate);
}

/// What a browser is told to keep to; and that nothing but GET is answered.
#[test]
fn the_page_is_shut_to_everything_else() {
    let gate = Setup::demo().start();
    for path in ["/", "/status", "/status.json"] {
        let reply = ask(&gate, "GET", path, &here(&gate));
        assert_eq!(reply.status, 200);
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{path}");
        }
        assert_eq!(reply.header("access-control-allow-origin"), None);
        for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            let reply = ask(&gate, method, path, &here(&gate));
            assert_eq!(
                (reply.status, reply.header("allow")),
                (405, Some("GET")),
                "{method} {path}"
            );
        }
    }
    let json = ask(&gate, "GET", "/status.json", &here(&gate));
    assert_eq!(json.header("content-type"), Some("application/json"));
    let page = ask(&gate, "GET", "/", &here(&gate));
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(
        page.header("cross-origin-opener-policy"),
        Some("same-origin")
    );
    let policy = page.header("content-security-policy").unwrap();
    let directives: Vec<&str> = policy.split("; ").collect();
    for directive in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(directives.contains(&directive), "{policy}");
    }
    for kind in ["script-src", "style-src"] {
        let one = directives.iter().find(|it| it.starts_with(kind)).unwrap();
        let hash = one.strip_prefix(&format!("{kind} 'sha256-")).unwrap();
        assert_eq!(hash.len(), 45, "one hash and nothing else: {one}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
}

/// The attack: a page in a browser on this host resolves its own name to loopback and reads who sends what (DNS rebinding), or asks
/// from its own origin. It cannot lie about Host.
#[test]
fn a_page_of_others_learns_nothing() {
    let gate = Setup::demo().start();
    let port = gate.admin.port();
    for (headers, allowed) in [
        (format!("Host: 127.0.0.1:{port}\r\n"), true),
        (format!("Host: [::1]:{port}\r\n"), true),
        (format!("Host: LocalHost:{port}\r\n"), true),
        (format!("Host: rebound.example:{port}\r\n"), false),
        (format!("Host: 127.0.0.1.example:{port}\r\n"), false),
        (
            format!("Host: localhost:{port}\r\nOrigin: http://evil.example\r\n"),
            false,
        ),
        (format!("Host: localhost:{port}\r\nOrigin: null\r\n"), false),
    ] {
        for path in ["/", "/status", "/status.json", "/metrics", "/log"] {
            let reply = ask(&gate, "GET", path, &headers);
            assert_eq!(
                reply.status,
                if allowed { 200 } else { 403 },
                "{path} {headers}"
            );
            assert!(
                allowed || !reply.text().contains("gatepost"),
                "{}",
                reply.text()
            );
        }
        // Probes tell nothing.
        assert_eq!(ask(&gate, "GET", "/livez", &headers).status, 200);
    }
    // Nor is it to be had from outside.
    for path in ["/", "/status", "/status.json"] {
        assert_eq!(gate.send(TRUSTED, get(path)).unwrap().status, 404);
    }
}

/// With a token the page is for everybody, since it says nothing; what it shows is not.
#[test]
fn with_a_token_only_the_data_needs_it() {
    let gate = Setup::demo()
        .with("admin.token: { file: token }")
        .file("token", "correct-horse-battery\n")
        .start();
    let host = "Host: gatepost.mail.svc\r\n";
    let page = ask(&gate, "GET", "/", host);
    assert_eq!(page.status, 200);
    assert!(!page.text().contains(&gate.address.to_string()));
    let bearing = |token: &str| format!("{host}Authorization: Bearer {token}\r\n");
    let data = |headers: &str| ask(&gate, "GET", "/status.json", headers);
    assert_eq!(data(host).status, 401);
    assert_eq!(data(&bearing("wrong-horse-battery")).status, 401);
    assert_eq!(
        data(&bearing("correct-horse-battery")).json()["phase"],
        "ready"
    );
}

/// When a certificate has to be renewed; and the one that a reload brings.
#[test]
fn listeners_are_shown_with_the_end_of_their_certificates() {
    let authority = Authority::new();
    let ends_in = |days: u64| {
        authority.sign(Says {
            common_name: "gate",
            over: Over::In(Duration::from_secs(days * 86400)),
            ..Says::default()
        })
    };
    let first = ends_in(3);
    let gate = Setup::demo()
        .with("listener.tls_certificate: server.pem\nlistener.tls_private_key: server.key")
        .with("listeners.- listen: 127.0.0.1:0")
        .with("reload: { watch: off }")
        .file("server.pem", &first.certificate)
        .file("server.key", &first.key)
        .start();
    let days_left = |index: usize| {
        let said = status(&gate);
        let expires = said["listeners"][index]["tls"]["expires"].as_f64()?;
        Some(((expires - said["now"].as_f64().unwrap()) / 86400.0).round())
    };
    assert_eq!((days_left(0), days_left(1)), (Some(3.0), None));
    let second = ends_in(90);
    write(gate.folder(), "server.pem", &second.certificate);
    write(gate.folder(), "server.key", &second.key);
    assert_eq!(reload(&gate), 200);
    assert_eq!(days_left(0), Some(90.0));
}

/// An operator who looks while it stops is not told that all is well.
#[test]
fn the_stop_is_shown() {
    let gate = Setup::demo().with("drain_delay: 10m").start();
    gate.signal("TERM");
    wait_status(&gate, "the stop", |it| it["phase"] == "stopping");
}

/// Redis that is to be used and is gone is on the page.
#[test]
fn a_redis_that_is_gone_is_shown() {
    let gate = Setup::demo()
        .with("throttle: { redis: \"redis://127.0.0.1:1/0\" }")
        .start();
    assert_eq!(status(&gate)["quotas"]["redis"], "off");
    let reply = gate.send(STRANGER, inject(&basic("scott", "lion")));
    assert_eq!(reply.unwrap().status, 401);
    wait_status(&gate, "the fault", |it| it["throttle"]["redis"] == "down");
}

/// The attack: many addresses, so that memory or the page grows without end. Those that come most are named.
#[test]
fn the_worst_clients_are_named_and_they_are_few() {
    let gate = Setup::demo()
        .with("throttle: off")
        .with("trusted_proxies: [127.0.0.9]")
        .start();
    let send = |client: &str| {
        let request = post(
            "/api/inject/v1",
            &format!("{}X-Forwarded-For: {client}\r\n", basic("scott", "lion")),
            "{}",
        );
        gate.send(Ipv4Addr::new(127, 0, 0, 9), request)
            .unwrap()
            .status
    };
    for index in 0..100_u32 {
        assert_eq!(send(&format!("198.51.100.{index}")), 401);
        if index % 10 == 0 {
            assert_eq!(send("203.0.113.7"), 401);
        }
        if index % 20 == 0 {
            // One network, whatever the address.
            assert_eq!(send(&format!("2001:db8:1:2::{index:x}")), 401);
        }
    }
    let said = wait_status(&gate, "all of them", |it| {
        it["refusals"]["unauthorized"] == 115
    });
    let top = said["refused_clients"]["top"].as_array().unwrap();
    assert_eq!(top.len(), 20);
    assert_eq!(
        top[0],
        json!({ "address": "203.0.113.7", "network": false, "count": 10, "reason": "unauthorized" })
    );
    assert_eq!(
        top[1],
        json!({ "address": "2001:db8:1:2::", "network": true, "count": 5, "reason": "unauthorized" })
    );
}

/// A client is not to blame for an MTA that is down; the page says what is.
#[test]
fn an_upstream_that_is_gone_is_shown() {
    let gone = {
        let free = TcpListener::bind("127.0.0.8:0").unwrap();
        free.local_addr().unwrap()
    };
    let gate = Setup::before(gone).start();
    let reply = gate.send(STRANGER, inject(&basic("scott", "tiger")));
    assert_eq!(reply.unwrap().status, 502);
    let said = wait_status(&gate, "it", |it| it["upstream"][0]["failures"] == 1);
    let upstream = &said["upstream"][0];
    assert_eq!(
        (&upstream["state"], &upstream["address"]),
        (&json!("failing"), &json!(gone.to_string()))
    );
    let error = upstream["last_error"]["error"].as_str().unwrap();
    assert!(error.contains("ConnectRefused"), "{error}");
    assert_eq!(said["refused_clients"]["top"], json!([]));
}

/// Looking costs the requests nothing: the status is asked as often as possible, and they go on.
#[test]
fn many_may_look_at_once() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    let admin: SocketAddr = gate.admin;
    std::thread::scope(|scope| {
        let lookers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let mut connection = Connection::open(admin, TRUSTED);
                    for _ in 0..50 {
                        connection.write(format!(
                            "GET /status.json HTTP/1.1\r\nHost: {admin}\r\n\r\n"
                        ));
                        assert_eq!(connection.reply().unwrap().status, 200);
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            let reply = gate.send(STRANGER, inject(&basic("scott", "tiger")));
            assert_eq!(reply.unwrap().status, 200);
        }
        lookers.into_iter().for_each(|it| it.join().unwrap());
    });
    wait_status(&gate, "them", |it| it["requests"]["by_status"]["200"] == 50);
}
