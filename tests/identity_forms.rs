//! How the MTA learns who sent a request: header, companions, Basic credentials, signature.

use std::path::Path;

use base64::Engine as _;
use serde_json::Value;

use crate::harness::{
    Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, get, inject, run, write,
};

const SECRET: &str = "correct:horse-battery";

/// A policy that names groups.
const GROUPS: &str = "
local kumo = require 'kumo'
kumo.on('http_server_validate_auth_basic', function(user, password)
  return password == 'p' and {
    identities = { { identity = user, context = 'HttpBasicAuth' } },
    groups = { 'staff', 'a,root', '100%' },
  }
end)";

fn told(upstream: &Recorder, name: &str) -> Vec<String> {
    let text = upstream.text();
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.to_owned())
        .collect()
}

#[test]
fn companions_say_more_and_cannot_be_forged() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .policy(GROUPS)
        .with("upstream.companion_headers: { mechanism: X-Auth-Mechanism, groups: X-Auth-Groups, client: X-Auth-Client }")
        .start();
    let forged = "X-Auth-Mechanism: root\r\nx_auth_groups: root\r\nX-AUTH-CLIENT: 6.6.6.6\r\nConnection: X-Auth-Groups\r\n";
    let headers = format!("{}{forged}", basic("jürgen", "p"));
    assert_eq!(gate.send(STRANGER, inject(&headers)).unwrap().status, 200);
    assert_eq!(told(&upstream, "x-http-auth"), ["jürgen"]);
    assert_eq!(told(&upstream, "x-auth-mechanism"), ["basic"]);
    assert_eq!(told(&upstream, "x-auth-groups"), ["staff,a%2Croot,100%25"]);
    assert_eq!(told(&upstream, "x-auth-client"), ["127.0.0.2"]);
    assert!(!upstream.text().contains("6.6.6.6"));

    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("upstream.companion_headers: { mechanism: X-Auth-Mechanism, groups: X-Auth-Groups }")
        .start();
    assert_eq!(gate.send(TRUSTED, inject(forged)).unwrap().status, 200);
    assert_eq!(told(&upstream, "x-auth-mechanism"), ["trusted_host"]);
    assert_eq!(
        told(&upstream, "x-auth-groups"),
        [""; 0],
        "nobody named any"
    );
    assert_eq!(gate.send(STRANGER, get("/open")).unwrap().status, 200);
    assert_eq!(
        told(&upstream, "x-auth-mechanism").len(),
        1,
        "nobody was asked"
    );
}

/// An MTA that judges `Authorization` with the very file that is shipped for KumoMTA: a second gatepost, in
/// front of the embedded injection API.
fn mta(lua: &str, folder: &Path) -> Gatepost {
    let secret = write(folder, "secret", &format!("{SECRET}\n"));
    Setup::demo()
        .policy(lua)
        .with("trusted_hosts: []")
        .env("GATEPOST_SECRET_FILE", secret.to_str().unwrap())
        .start()
}

fn sidecar(mta: &Gatepost, form: &str) -> Gatepost {
    Setup::before(mta.address)
        .with(&format!("upstream.identity: {form}"))
        .with("upstream.identity_secret: { file: secret }")
        .file("secret", SECRET)
        .with("trusted_hosts: [127.0.0.1, \"2001:db8::1\"]")
        .with("trusted_proxies: [127.0.0.3]")
        .start()
}

#[test]
fn a_stock_kumomta_learns_the_identity_from_basic_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let lua = include_str!("../deploy/kumomta/gatepost_basic.lua");
    let mta = mta(lua, folder.path());
    let gate = sidecar(&mta, "basic");
    let reader = basic("gatepost", &format!("{SECRET}:reader"));
    let newest = || newest_message(&mta, &reader)["meta"]["http_auth"].clone();
    assert_eq!(
        gate.send(STRANGER, inject(&basic("scott", "tiger")))
            .unwrap()
            .status,
        200
    );
    assert_eq!(newest(), "scott");
    assert_eq!(gate.send(TRUSTED, inject("")).unwrap().status, 200);
    assert_eq!(newest(), "127.0.0.1");
    // An identity with colons.
    let from = "X-Forwarded-For: 2001:db8::1\r\n";
    let proxy = std::net::Ipv4Addr::new(127, 0, 0, 3);
    assert_eq!(gate.send(proxy, inject(from)).unwrap().status, 200);
    assert_eq!(newest(), "2001:db8::1");
    // The attack: a client that reaches the MTA directly.
    for (user, password) in [
        ("gatepost", "scott".to_owned()),
        ("gatepost", format!("{SECRET}scott")),
        ("gatepost", format!("{SECRET}:")),
        ("gatepost", SECRET.to_owned()),
        ("gatepost", format!("{}:scott", &SECRET[..SECRET.len() - 1])),
        ("gatepost", ":scott".to_owned()),
        ("scott", format!("{SECRET}:root")),
    ] {
        let reply = mta.send(STRANGER, inject(&basic(user, &password))).unwrap();
        assert_eq!(reply.status, 401, "{user} {password}");
    }
    // The attack: a client's own credentials for the MTA, on a route that asks for none.
    let forged = basic("gatepost", &format!("{SECRET}:root"));
    assert_eq!(gate.send(STRANGER, inject(&forged)).unwrap().status, 401);
    let log = gate.logged() + &mta.logged();
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("gatepost:{SECRET}"));
    for leak in [SECRET, &encoded[..24]] {
        assert!(!log.contains(leak), "{log}");
    }
}

/// The MTA's messages, newest first. It lets in nobody but gatepost.
fn newest_message(mta: &Gatepost, credentials: &str) -> Value {
    let ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: mta\r\n{credentials}\r\n");
        mta.send(TRUSTED, request).unwrap().json()
    };
    let list = ask("/messages");
    ask(&format!("/messages/{}", list["messages"][0]["id"]))
}

#[test]
fn an_older_kumomta_learns_it_from_the_user_name() {
    let folder = tempfile::tempdir().unwrap();
    let lua = include_str!("../deploy/kumomta/gatepost_basic_user.lua");
    let mta = mta(lua, folder.path());
    let gate = sidecar(&mta, "basic_user");
    assert_eq!(
        gate.send(STRANGER, inject(&basic("scott", "tiger")))
            .unwrap()
            .status,
        200
    );
    let newest = newest_message(&mta, &basic("reader", SECRET));
    assert_eq!(newest["meta"]["http_auth"], "scott");
    // `2001:db8::1` would be the user `2001`.
    let from = "X-Forwarded-For: 2001:db8::1\r\n";
    let proxy = std::net::Ipv4Addr::new(127, 0, 0, 3);
    let reply = gate.send(proxy, inject(from)).unwrap();
    assert_eq!(reply.status, 403);
    assert_eq!(reply.json()["error"], "unsayable_identity");
    let wrong = basic("scott", "0123456789abcdef");
    assert_eq!(mta.send(STRANGER, inject(&wrong)).unwrap().status, 401);
}

/// A request with nobody's identity carries no credentials at all, and never the client's.
#[test]
fn nobody_is_nobody_for_the_mta_too() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("upstream.identity: basic")
        .with("upstream.identity_secret: { file: secret }")
        .file("secret", SECRET)
        .start();
    assert_eq!(gate.send(STRANGER, get("/open")).unwrap().status, 200);
    assert_eq!(told(&upstream, "authorization"), [""; 0]);
    assert_eq!(
        gate.send(STRANGER, inject(&basic("scott", "tiger")))
            .unwrap()
            .status,
        200
    );
    let expected =
        base64::engine::general_purpose::STANDARD.encode(format!("gatepost:{SECRET}:scott"));
    assert_eq!(
        told(&upstream, "authorization"),
        [format!("Basic {expected}")]
    );
    assert_eq!(told(&upstream, "x-http-auth"), [""; 0]);
}

const KEYS: &str = "upstream.signature: { keys: [{ id: new, secret: { file: new } }, { id: old, secret: { file: old } }] }";

/// What the upstream gets verifies with `gatepost verify`, and with nothing changed.
#[test]
fn the_signature_verifies_and_nothing_else_does() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with(KEYS)
        .file("new", "0123456789abcdef-new")
        .file("old", "0123456789abcdef-old\n")
        .start();
    let headers = format!(
        "{}X-Gatepost-Signature: forged\r\n",
        basic("scott", "tiger")
    );
    assert_eq!(gate.send(STRANGER, inject(&headers)).unwrap().status, 200);
    let signature = &told(&upstream, "x-gatepost-signature")[..];
    let [signature] = signature else {
        panic!("{signature:?}")
    };
    assert!(signature.starts_with("v1;key=new;time="), "{signature}");
    let verify = |method: &str, path: &str, identity: &str, client: &str, signature: &str| {
        let arguments = [
            "verify",
            "--config",
            "gatepost.yaml",
            method,
            path,
            signature,
            "--identity",
            identity,
            "--client",
            client,
        ];
        let (status, out, err) = run(&arguments, gate.folder());
        (status, out + &err)
    };
    let (status, out) = verify("POST", "/api/inject/v1", "scott", "127.0.0.2", signature);
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "VALID, signed with the key new\n")
    );
    for (method, path, identity, client) in [
        ("GET", "/api/inject/v1", "scott", "127.0.0.2"),
        ("POST", "/api/inject/v2", "scott", "127.0.0.2"),
        ("POST", "/api/inject/v1", "root", "127.0.0.2"),
        ("POST", "/api/inject/v1", "scott", "127.0.0.1"),
    ] {
        let (status, out) = verify(method, path, identity, client, signature);
        assert_eq!(
            (status, out.as_str()),
            (Some(1), "INVALID: the signature is wrong\n")
        );
    }
    let older = signature.replacen("time=1", "time=0", 1);
    assert_eq!(
        verify("POST", "/api/inject/v1", "scott", "127.0.0.2", &older).0,
        Some(1)
    );
    assert!(!gate.logged().contains("0123456789abcdef"));
}

/// The shipped Lua agrees with the vectors, and refuses what differs from them.
#[test]
fn the_vectors_verify_in_the_shipped_lua() {
    let folder = tempfile::tempdir().unwrap();
    let lua = include_str!("../deploy/kumomta/gatepost_signature.lua");
    write(folder.path(), "gatepost_signature.lua", lua);
    write(
        folder.path(),
        "vectors.json",
        include_str!("data/signature.json"),
    );
    let test = "
local kumo = require 'kumo'
local signature = require 'gatepost_signature'
require('gatepost.test').case('the vectors', function()
    local vectors = kumo.serde.json_load 'vectors.json'
    assert(#vectors >= 5)
    for _, v in ipairs(vectors) do
      local keys = { [v.key] = { key_data = v.secret } }
      local function verify(header, request, now)
        return signature.verify(keys, header, request, now or v.time, 60)
      end
      assert(verify(v.header, v) == v.key)
      assert(verify(v.header, v, v.time + 60) == v.key)
      local function refused(why, ...)
        local key, fault = verify(...)
        assert(key == nil and fault:find(why, 1, true), tostring(key) .. tostring(fault))
      end
      refused('too far', v.header, v, v.time + 61)
      refused('wrong', v.header, { method = v.method, path = v.path, client = v.client, identity = 'root' })
      refused('wrong', v.header, { method = v.method, path = v.path .. 'x', client = v.client, identity = v.identity })
      refused('malformed', v.header .. ';', v)
      refused('malformed', v.header:upper(), v)
      refused('malformed', '', v)
      refused('unknown', (v.header:gsub('key=', 'key=x')), v)
    end
end)";
    write(folder.path(), "signature_test.lua", test);
    let (status, out, err) = run(&["test", "signature_test.lua"], folder.path());
    assert_eq!(status, Some(0), "{out}{err}");
}
