//! `deploy/kumomta`, whole, without a `KumoMTA`: its `init.lua` runs in a second gatepost, in front of the embedded injection
//! API. What is `KumoMTA`'s own there (`init`, its listeners) is called by a test in Lua that notes what it is called with.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::harness::{
    Gatepost, Recorder, Reply, STRANGER, Setup, TRUSTED, basic, get, inject, post, run, run_with,
    write,
};

const INIT: &str = include_str!("../deploy/kumomta/init.lua");
const GATEPOST: &str = include_str!("../deploy/kumomta/gatepost.yaml");
const POLICY: &str = include_str!("../lua/policy.lua");
const SECRET: &str = "0123456789abcdef-of-both-sides";

const FILES: [(&str, &str); 4] = [
    (
        "gatepost_basic.lua",
        include_str!("../deploy/kumomta/gatepost_basic.lua"),
    ),
    (
        "gatepost_basic_user.lua",
        include_str!("../deploy/kumomta/gatepost_basic_user.lua"),
    ),
    (
        "gatepost_signed.lua",
        include_str!("../deploy/kumomta/gatepost_signed.lua"),
    ),
    (
        "gatepost_signature.lua",
        include_str!("../deploy/kumomta/gatepost_signature.lua"),
    ),
];

/// `init.lua` with one of the three ways to believe gatepost.
fn init(way: &str) -> String {
    let line = "\nrequire 'gatepost_basic'\n";
    assert_eq!(INIT.matches(line).count(), 1);
    INIT.replace(line, &format!("\nrequire '{way}'\n"))
}

/// Stands for KumoMTA: nobody on loopback is trusted there either.
fn mta(way: &str, folder: &Path) -> Gatepost {
    let secret = write(folder, "secret", &format!("{SECRET}\n"));
    let secret = secret.to_str().unwrap();
    let mut setup = Setup::demo()
        .policy(&init(way))
        .with("trusted_hosts: []")
        .env("GATEPOST_SECRET_FILE", secret)
        .env("GATEPOST_KEY_FILE", secret);
    for (name, content) in FILES {
        setup = setup.file(name, content);
    }
    setup.start()
}

/// What is shipped for gatepost, with one of its three forms.
fn yaml(form: &str) -> String {
    let basic = "  identity: basic\n  identity_secret: { file: gatepost.secret }\n";
    assert_eq!(GATEPOST.matches(basic).count(), 1);
    let lines = match form {
        "bearer" => {
            "  identity: bearer\n  signature: { keys: [{ id: \"2026-11\", secret: { file: gatepost.secret } }] }\n".to_owned()
        }
        form => basic.replace("basic", form),
    };
    GATEPOST.replace(basic, &lines)
}

fn sidecar(mta: impl std::fmt::Display, form: &str) -> Gatepost {
    Setup::shipped(&yaml(form), mta, POLICY)
        .file("gatepost.secret", SECRET)
        .start()
}

/// Every message's `http_auth`, newest first, for one whom the MTA believes.
fn senders(mta: &Gatepost, credentials: &str) -> Vec<String> {
    let ask = |path: &str| -> Value {
        let request = format!("GET {path} HTTP/1.1\r\nHost: mta\r\n{credentials}\r\n");
        mta.send(TRUSTED, request).unwrap().json()
    };
    let list = ask("/messages");
    let list = list["messages"].as_array().unwrap().iter();
    list.map(|it| ask(&format!("/messages/{}", it["id"])))
        .map(|it| it["meta"]["http_auth"].as_str().unwrap().to_owned())
        .collect()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// The need: a KumoMTA with the shipped files knows who sent a message, whichever way it is told. The attacks: whoever reaches
/// it directly, and a client with credentials for it.
#[test]
fn kumomta_knows_who_sent_a_message() {
    for (way, form) in [
        ("gatepost_basic", "basic"),
        ("gatepost_basic_user", "basic_user"),
        ("gatepost_signed", "bearer"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mta = mta(way, folder.path());
        let gate = sidecar(mta.address, form);
        for (user, password, status) in [
            ("scott", "tiger", 200),
            ("scott", "lion", 401),
            ("jürgen", "grüße", 200),
        ] {
            let reply = gate.send(STRANGER, inject(&basic(user, password)));
            assert_eq!(reply.unwrap().status, status, "{form} {user}");
        }
        // Nobody passes by the side.
        for credentials in [
            String::new(),
            "X-Http-Auth: scott\r\n".to_owned(),
            basic("scott", "tiger"),
            basic("gatepost", "scott"),
            bearer("scott"),
            bearer(""),
        ] {
            let reply = mta.send(TRUSTED, inject(&credentials)).unwrap();
            assert!([400, 401].contains(&reply.status), "{form} {credentials}");
        }
        let own = format!("gatepost:{SECRET}:root");
        let own = format!("Authorization: Basic {}\r\n", STANDARD.encode(own));
        assert_eq!(gate.send(STRANGER, inject(&own)).unwrap().status, 401);
        // The reader's own credentials are what gatepost would send for it.
        let reader = match form {
            "basic" => basic("gatepost", &format!("{SECRET}:reader")),
            "basic_user" => basic("reader", SECRET),
            _ => {
                let recorder = Recorder::start();
                let other = sidecar(recorder.address, form);
                let reply = other.send(STRANGER, inject(&basic("scott", "tiger")));
                assert_eq!(reply.unwrap().status, 200);
                let value = recorder.told("authorization").unwrap();
                format!("Authorization: {value}\r\n")
            }
        };
        assert_eq!(senders(&mta, &reader), ["jürgen", "scott"], "{form}");
        // What is not the way in is not there.
        let user = basic("scott", "tiger");
        let admin = post("/api/admin/bounce/v1", &user, "{}");
        assert_eq!(gate.send(STRANGER, admin).unwrap().status, 404);
        assert_eq!(gate.send(STRANGER, get("/metrics")).unwrap().status, 404);
        let log = gate.logged() + &mta.logged();
        assert!(!log.contains(SECRET) && !log.contains("Bearer ey"), "{log}");
    }
}

/// A token of gatepost's for scott, from [`STRANGER`], and the gatepost.
fn token() -> (String, Gatepost) {
    let recorder = Recorder::start();
    let gate = sidecar(recorder.address, "bearer");
    let user = format!(
        "{}X-Gatepost-Signature: forged\r\n",
        basic("scott", "tiger")
    );
    assert_eq!(gate.send(STRANGER, inject(&user)).unwrap().status, 200);
    assert_eq!(recorder.told("x-http-auth"), None);
    let value = recorder.told("authorization").unwrap();
    let token = value.strip_prefix("Bearer ").unwrap();
    (token.to_owned(), gate)
}

/// The attack: a token of gatepost's with anything in it changed.
#[test]
fn a_token_is_good_as_it_is() {
    let (token, gate) = token();
    let forged = bearer(&token);
    assert_eq!(gate.send(STRANGER, inject(&forged)).unwrap().status, 401);
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(&token).unwrap()).unwrap();
    let [signature, method, path, client, identity] = text.split('\n').collect::<Vec<_>>()[..]
    else {
        panic!("{text}")
    };
    assert_eq!(
        [method, path, client, identity],
        ["POST", "/api/inject/v1", "127.0.0.2", "scott"]
    );
    // It is the signature of the header, which `gatepost verify` takes.
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
    assert_eq!(status, Some(0), "{out}{err}");

    let folder = tempfile::tempdir().unwrap();
    let mta = mta("gatepost_signed", folder.path());
    let say = |text: &str| -> Reply {
        let token = bearer(&URL_SAFE_NO_PAD.encode(text));
        mta.send(TRUSTED, inject(&token)).unwrap()
    };
    assert_eq!(say(&text).status, 200);
    let time = signature
        .split("time=")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let earlier = (time.parse::<u64>().unwrap() - 61).to_string();
    let changed = [
        text.replace("scott", "root"),
        text.replace("POST", "PUT"),
        text.replace("127.0.0.2", "127.0.0.1"),
        text.replace("/v1", "/v2"),
        text.replace(time, &earlier),
        text.replace("key=2026-11", "key=2026-12"),
        text.replace("v1;key", "v2;key"),
        format!("{text}\n"),
        format!("{text}\nroot"),
        format!("\n{text}"),
        text.replace("\nscott", "\n"),
        text.replace("\nscott", ""),
        signature.to_owned(),
        String::new(),
    ];
    for changed in changed {
        let reply = say(&changed);
        assert!([400, 401].contains(&reply.status), "{changed} {reply:?}");
    }
    let wrong = bearer(&format!("{token}."));
    assert_eq!(mta.send(TRUSTED, inject(&wrong)).unwrap().status, 401);
}

/// The attack: a token that is kept for later, signed with the right key.
#[test]
fn a_token_is_good_for_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let secret = write(folder.path(), "secret", SECRET);
    for (name, content) in FILES {
        write(folder.path(), name, content);
    }
    let lua = r"
local kumo = require 'kumo'
local test = require 'gatepost.test'
local verify
kumo.on = function(_, handler) verify = handler end
dofile 'gatepost_signed.lua'
local function token(age)
  local value = { 'gatepost-v1', '2026-11', tostring(os.time() - age), 'POST', '/p', '192.0.2.1', 'scott' }
  local mac = kumo.digest.hmac_sha256({ key_data = kumo.secrets.load(os.getenv 'GATEPOST_KEY_FILE') }, table.concat(value, '\n')).hex
  local signature = 'v1;key=2026-11;time=' .. value[3] .. ';mac=' .. mac
  return kumo.encode.base64url_nopad_encode(table.concat({ signature, 'POST', '/p', '192.0.2.1', 'scott' }, '\n'))
end
test.case('the age of a token', function()
  test.equal(verify(token(0)).identities[1].identity, 'scott')
  test.equal(verify(token(0)).identities[1].context, 'BearerToken')
  test.equal(verify(token(50)).identities[1].identity, 'scott')
  test.equal(verify(token(-50)).identities[1].identity, 'scott')
  test.equal(verify(token(70)), false)
  test.equal(verify(token(-70)), false)
end)";
    write(folder.path(), "age_test.lua", lua);
    let environment = [("GATEPOST_KEY_FILE", secret.to_str().unwrap())];
    let (status, out, err) = run_with(&["test", "age_test.lua"], folder.path(), "", &environment);
    assert_eq!(status, Some(0), "{out}{err}");
    // A key that anybody could guess is none.
    write(folder.path(), "secret", "0123456789abcde");
    let (status, out, _) = run_with(&["test", "age_test.lua"], folder.path(), "", &environment);
    assert_eq!(status, Some(1), "{out}");
}

/// The need: what `init.lua` asks of KumoMTA is what keeps the identity from being forged.
#[test]
fn the_listener_trusts_nobody() {
    for way in ["gatepost_basic", "gatepost_basic_user", "gatepost_signed"] {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in FILES {
            write(folder.path(), name, content);
        }
        write(folder.path(), "init.lua", &init(way));
        let lua = r"
local kumo = require 'kumo'
local test = require 'gatepost.test'
local handlers, calls = {}, {}
kumo.on = function(event, handler)
  assert(not handlers[event], event)
  handlers[event] = handler
end
for _, name in ipairs { 'define_spool', 'configure_local_logs', 'start_http_listener' } do
  kumo[name] = function(arguments)
    calls[#calls + 1] = { name = name, arguments = arguments }
  end
end
dofile 'init.lua'
test.case('nothing is started while the file loads', function() test.equal(#calls, 0) end)
test.case('the listener', function()
  handlers.init()
  local listeners = {}
  for _, call in ipairs(calls) do
    if call.name == 'start_http_listener' then
      listeners[#listeners + 1] = call.arguments
    end
  end
  test.equal(#calls, 4)
  test.equal(#listeners, 1)
  test.equal(listeners[1].listen, '127.0.0.1:8000')
  test.equal(type(listeners[1].trusted_hosts), 'table')
  test.equal(next(listeners[1].trusted_hosts), nil)
end)
test.case('each identity has queues of its own', function()
  local meta = { http_auth = 'scott' }
  local msg = {}
  function msg:get_meta(name) return meta[name] end
  function msg:set_meta(name, value) meta[name] = value end
  handlers.http_message_generated(msg)
  test.equal(meta.tenant, 'scott')
end)
test.case('somebody is asked', function()
  local basic, bearer = handlers.http_server_validate_auth_basic, handlers.http_server_validate_auth_bearer
  assert((basic == nil) ~= (bearer == nil))
end)";
        write(folder.path(), "init_test.lua", lua);
        let (status, out, err) = run(&["test", "init_test.lua"], folder.path());
        assert_eq!(status, Some(0), "{way} {out}{err}");
        assert!(out.ends_with("4 passed, 0 failed\n"), "{out}");
    }
}

/// What is shipped for gatepost passes its own check, in every form.
#[test]
fn the_shipped_configuration_is_checked() {
    for form in ["basic", "basic_user", "bearer"] {
        let gate = sidecar("127.0.0.1:8000", form);
        let arguments = ["check", "--config", "gatepost.yaml"];
        let (status, out, err) = run(&arguments, gate.folder());
        assert_eq!(
            (status, out.as_str()),
            (Some(0), "gatepost.yaml: ok\n"),
            "{err}"
        );
    }
}
