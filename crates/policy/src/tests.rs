//! Tests of the whole crate: Lua in, judgements out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_auth::{Credentials, Judgement, Secret};

use super::*;

mod attacks;
mod deadlines;
mod host;
mod message_calls;
mod message_log;
mod messages;
mod operators_tests;

/// A policy in a folder of its own.
pub(crate) struct Loaded {
    pub(crate) policy: Policy,
    counters: Arc<PolicyCounters>,
    folder: tempfile::TempDir,
}

struct Options {
    workers: usize,
    queue: usize,
    timeout: Duration,
    memory: usize,
    load_time: LoadTime,
}

const USUAL: Options = Options {
    workers: 2,
    queue: 64,
    timeout: Duration::from_secs(5),
    memory: 16 << 20,
    load_time: LoadTime(Duration::from_secs(30)),
};

fn try_load(lua: &str, options: &Options) -> Result<Loaded, LoadError> {
    let counters = Arc::default();
    try_load_counted(lua, options, &counters)
}

fn try_load_counted(
    lua: &str,
    options: &Options,
    counters: &Arc<PolicyCounters>,
) -> Result<Loaded, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.lua");
    std::fs::write(&file, lua).unwrap();
    std::fs::write(folder.path().join("helper.lua"), "return { name = ... }").unwrap();
    std::fs::write(folder.path().join("data.json"), "{\"a\": [1, 2]}").unwrap();
    std::fs::write(folder.path().join("compiled.lua"), b"\x1bLua").unwrap();
    let settings = PolicySettings {
        file,
        workers: options.workers,
        queue: options.queue,
        callback_timeout: options.timeout,
        memory_limit: options.memory,
        cache_ttl: Duration::ZERO,
        cache_capacity: 1,
    };
    let policy = Policy::load_within(options.load_time, settings, counters)?;
    Ok(Loaded {
        policy,
        counters: counters.clone(),
        folder,
    })
}

pub(crate) fn load(lua: &str) -> Loaded {
    load_with(lua, &USUAL)
}

fn load_with(lua: &str, options: &Options) -> Loaded {
    try_load(lua, options).unwrap()
}

/// The body of a handler for Basic credentials.
pub(crate) fn handler(body: &str) -> String {
    format!(
        "local kumo = require 'kumo'\nlocal gatepost = require 'gatepost'\n\
         kumo.on('http_server_validate_auth_basic', function(user, password)\n{body}\nend)"
    )
}

impl Loaded {
    /// Where the policy is.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    fn judge(&self, user: &str) -> Judgement {
        block_on(self.policy.judge(basic(user, "secret")))
    }

    fn bearer(&self, token: &str) -> Judgement {
        block_on(self.policy.judge(Credentials::Bearer {
            token: Secret::from(token),
        }))
    }
}

pub(crate) fn load_one_worker(lua: &str) -> Loaded {
    load_with(
        lua,
        &Options {
            workers: 1,
            ..USUAL
        },
    )
}

/// A handler with this body says yes.
pub(crate) fn check_body(body: &str) {
    let got = load(&handler(body)).judge("x");
    assert!(identity(&got).is_some(), "{body}: {got:?}");
}

pub(crate) fn basic(user: &str, password: &str) -> Credentials {
    Credentials::Basic {
        user: user.to_owned(),
        password: Some(Secret::from(password)),
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

pub(crate) fn identity(judgement: &Judgement) -> Option<&str> {
    if let Judgement::Accepted(info) = judgement {
        Some(info.http_auth())
    } else {
        None
    }
}

/// What a handler returns, and the identity that it amounts to, or the judgement.
const ANSWERS: &[(&str, Option<&str>, Judgement)] = &[
    ("true", Some("who"), Judgement::Failed),
    ("false", None, Judgement::Rejected),
    ("false, true", None, Judgement::Rejected),
    ("nil", None, Judgement::Failed),
    ("'yes'", None, Judgement::Failed),
    ("'true'", None, Judgement::Failed),
    ("1", None, Judgement::Failed),
    ("0", None, Judgement::Failed),
    ("{}", None, Judgement::Failed),
    ("{ true }", None, Judgement::Failed),
    ("function() return true end", None, Judgement::Failed),
    ("error 'raised'", None, Judgement::Failed),
    ("error { code = 1 }", None, Judgement::Failed),
    ("error()", None, Judgement::Failed),
    (
        "setmetatable({}, { __index = function() return true end })",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = 'a', context = 'HttpBasicAuth' } } }",
        Some("a"),
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = 'a', context = 'GenericAuth' }, { identity = 'b', context = 'HttpBasicAuth' } }, groups = { 'g' }, peer_address = '::1' }",
        Some("b"),
        Judgement::Failed,
    ),
    ("{ identities = {} }", None, Judgement::Failed),
    (
        "{ identities = {}, groups = { 'g' } }",
        None,
        Judgement::Failed,
    ),
    ("{ groups = { 'g' } }", None, Judgement::Failed),
    ("{ identities = 'a' }", None, Judgement::Failed),
    ("{ identities = { 'a' } }", None, Judgement::Failed),
    (
        "{ identities = { { identity = 'a' } } }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = 'a', context = 'Nonsense' } } }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = 1, context = 'HttpBasicAuth' } } }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = '', context = 'HttpBasicAuth' } } }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = 'a\\r\\nb', context = 'HttpBasicAuth' } } }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = '\\xff', context = 'HttpBasicAuth' } } }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { [2] = { identity = 'a', context = 'HttpBasicAuth' } } }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = 'a', context = 'HttpBasicAuth' }, x = 1 } }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = 'a', context = 'HttpBasicAuth' } }, groups = 'g' }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identities = { { identity = 'a', context = 'HttpBasicAuth' } }, gruops = {} }",
        None,
        Judgement::Failed,
    ),
    (
        "{ identity = 'a', context = 'HttpBasicAuth' }",
        None,
        Judgement::Failed,
    ),
];

#[test]
fn a_handler_says_yes_or_no_and_everything_else_is_a_failure() {
    for (returned, accepted, otherwise) in ANSWERS {
        let body = if returned.starts_with("error") {
            (*returned).to_owned()
        } else {
            format!("return {returned}")
        };
        let got = load(&handler(&body)).judge("who");
        match accepted {
            Some(name) => assert_eq!(identity(&got), Some(*name), "{returned}: {got:?}"),
            None => assert_eq!(got, *otherwise, "{returned}"),
        }
    }
}

#[test]
fn a_handler_gets_what_was_sent() {
    let lua = handler(
        "return user == 'jürgen' and password == 'a:b' or (user == 'lonely' and password == nil)",
    );
    let policy = load(&lua).policy;
    assert_eq!(
        identity(&block_on(policy.judge(basic("jürgen", "a:b")))),
        Some("jürgen")
    );
    assert_eq!(
        block_on(policy.judge(basic("jürgen", "a"))),
        Judgement::Rejected
    );
    let lonely = Credentials::Basic {
        user: "lonely".to_owned(),
        password: None,
    };
    assert_eq!(identity(&block_on(policy.judge(lonely))), Some("lonely"));
}

#[test]
fn bearer_tokens_have_their_own_handler() {
    let loaded = load(
        "require('kumo').on('http_server_validate_auth_bearer', function(token)
           if token == 'good' then return { identities = { { identity = 't', context = 'BearerToken' } } } end
           return token == 'nameless'
         end)",
    );
    assert_eq!(identity(&loaded.bearer("good")), Some("t"));
    assert_eq!(loaded.bearer("bad"), Judgement::Rejected);
    assert_eq!(loaded.bearer("nameless"), Judgement::Failed);
    assert_eq!(loaded.judge("anybody"), Judgement::NoHandler);
    assert_eq!(
        load(&handler("return true")).bearer("x"),
        Judgement::NoHandler
    );
    assert!(
        !loaded.policy.warnings().is_empty(),
        "no handler for Basic is worth a warning"
    );
}

#[test]
fn memory_is_bounded_and_given_back() {
    for body in [
        "local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end",
        "return ('x'):rep(1 << 40)",
        "local s = 'x' while true do s = s .. s end",
        "hoard = hoard or {} while true do hoard[#hoard + 1] = ('x'):rep(100000) .. #hoard end",
        "local function f() local a, b, c, d = f(), f(), f(), f() return a, b, c, d end f()",
    ] {
        let lua = handler(&format!("if user == 'good' then return true end\n{body}"));
        let loaded = load_with(
            &lua,
            &Options {
                workers: 1,
                ..USUAL
            },
        );
        for _ in 0..3 {
            assert_eq!(loaded.judge("eater"), Judgement::Failed, "{body}");
            assert_eq!(identity(&loaded.judge("good")), Some("good"), "{body}");
        }
    }
}

#[test]
fn the_standard_library_is_sandboxed() {
    let loaded = load(&handler(
        "local chunk = assert(load('return ' .. user)) local ok, got = pcall(chunk)
         return { identities = { { identity = (tostring(ok) .. ' ' .. tostring(got)):gsub('%s+', ' '), context = 'GenericAuth' } } }",
    ));
    for (expression, expected) in [
        ("1 + 1", "true 2"),
        (
            "type(string.format) .. type(table.sort) .. type(math.floor) .. type(utf8.char) .. type(coroutine.wrap)",
            "true functionfunctionfunctionfunctionfunction",
        ),
        (
            "type(os.time()) .. type(os.date()) .. type(os.clock()) .. type(os.getenv)",
            "true numberstringnumberfunction",
        ),
        ("os.execute", "true nil"),
        ("os.exit", "true nil"),
        ("os.remove", "true nil"),
        ("os.rename", "true nil"),
        ("os.tmpname", "true nil"),
        ("os.setlocale", "true nil"),
        ("io.popen", "true nil"),
        ("io.write", "true nil"),
        ("io.output", "true nil"),
        ("io.tmpfile", "true nil"),
        ("io.stdout", "true nil"),
        ("require('io').popen", "true nil"),
        ("require('os').execute", "true nil"),
        ("debug", "true nil"),
        ("string.dump", "true nil"),
        ("loadfile", "true nil"),
        ("package.loadlib", "true nil"),
        ("package.cpath", "true nil"),
        ("require('package').loadlib", "true nil"),
        ("(getmetatable('').__index).dump", "true nil"),
        ("load('\\27Lua')", "true nil"),
        ("load('\\27Lua', 'x', 'b')", "true nil"),
        (
            "load(function() return nil end, 'x', 'b') ~= nil",
            "true true",
        ),
        ("load('return x', 'x', 't', { x = 7 })()", "true 7"),
        ("load('return x', 'x', 't', nil) ~= nil", "true true"),
        ("type(collectgarbage('count'))", "true number"),
        ("require('helper').name", "true helper"),
        ("require('helper') == require('helper')", "true true"),
    ] {
        let got = loaded.judge(expression);
        assert_eq!(identity(&got), Some(expected), "{expression}");
    }
    for (expression, part) in [
        ("io.open('/tmp/x', 'w')", "for reading only"),
        ("io.open('/tmp/x', 'r+')", "for reading only"),
        ("io.open('/tmp/x', 'a')", "for reading only"),
        ("io.lines()", "bad argument #1 to 'io.lines'"),
        ("collectgarbage('stop')", "collectgarbage"),
        ("collectgarbage()", "collectgarbage"),
        ("require('absent')", "module 'absent' not found"),
        ("require('compiled')", "cannot load module 'compiled'"),
        ("dofile('compiled.lua')", "attempt to load a binary chunk"),
        ("dofile(nil)", "bad argument #1 to 'dofile'"),
    ] {
        let got = loaded.judge(expression);
        let got = identity(&got).unwrap_or_default();
        assert!(
            got.starts_with("false ") && got.contains(part),
            "{expression}: {got}"
        );
    }
}

#[test]
fn files_of_the_policy_are_found_in_its_folder() {
    let loaded = load(
        &handler(
            "local data = kumo.serde.json_load(FOLDER .. '/data.json')
         return dofile('helper.lua') ~= nil and data.a[2] == 2",
        )
        .replace("FOLDER", "package.path:match('^(.-)/%?')"),
    );
    assert!(identity(&loaded.judge("x")).is_some());
}

#[test]
fn json_goes_both_ways() {
    let check = |body: &str| {
        let got = load(&handler(body)).judge("x");
        assert!(identity(&got).is_some(), "{body}: {got:?}");
    };
    check(
        "local t = kumo.json_parse('{\"a\": [1, null, \"x\"], \"b\": {\"c\": true}, \"d\": null}') return t.a[1] == 1 and t.a[3] == 'x' and t.b.c == true and t.d == nil",
    );
    check("return kumo.serde.json_encode({ 1, 2, 3 }) == '[1,2,3]'");
    check("return kumo.json_parse(kumo.json_encode_pretty({ a = 'x' })).a == 'x'");
    check(
        "local ok, fault = pcall(kumo.json_parse, '{') return not ok and tostring(fault):find('not valid JSON') ~= nil",
    );
    check(
        "local ok, fault = pcall(kumo.json_parse) return not ok and tostring(fault):find(\"bad argument #1 to 'json_parse'\") ~= nil",
    );
    check("local ok = pcall(kumo.json_encode, print) return not ok");
    check("local t = {} t.t = t return not pcall(kumo.json_encode, t)");
    check("return not pcall(kumo.json_parse, ('['):rep(100000))");
}

#[test]
fn passwords_are_verified() {
    let check = |body: &str| {
        let got = load(&handler(body)).judge("x");
        assert!(identity(&got).is_some(), "{body}: {got:?}");
    };
    check("local hash = gatepost.password.hash('tiger')
           return hash:sub(1, 31) == '$argon2id$v=19$m=7168,t=5,p=1$' .. hash:sub(31, 31)
             and gatepost.password.verify(hash, 'tiger') and not gatepost.password.verify(hash, 'lion')");
    check(
        "return not gatepost.password.verify(nil, 'tiger') and not gatepost.password.verify(gatepost.password.hash('x'), nil)",
    );
    check("local ok, fault = pcall(gatepost.password.verify, 'plain-secret', 'x')
           return not ok and tostring(fault):find('unknown format') ~= nil and not tostring(fault):find('plain')");
    check(
        "return not pcall(gatepost.password.verify, '$argon2id$v=19$m=99999999,t=5,p=1$c29tZXNhbHQ$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'x')",
    );
    check(
        "local ok, fault = pcall(gatepost.password.verify, {}, 'x') return not ok and tostring(fault):find(\"bad argument #1 to 'gatepost.password.verify'\") ~= nil",
    );
    check("return gatepost.equal('a', 'a') and not gatepost.equal('a', 'b') and not gatepost.equal('a', 'ab')
             and not gatepost.equal(nil, nil) and not gatepost.equal('a', nil)");
}

#[test]
fn a_file_that_does_not_load_says_where() {
    let fault = |lua: &str| {
        try_load(lua, &USUAL)
            .err()
            .map(|fault| fault.to_string())
            .unwrap_or_default()
    };
    for (lua, part) in [
        ("local x = = 1", "p.lua:1: unexpected symbol near '='"),
        ("\n\nerror 'no database'", "p.lua:3: no database"),
        ("require 'absent'", "module 'absent' not found"),
        (
            "local kumo = require 'kumo'\nkumo.on('x')",
            "bad argument #2 to 'kumo.on' (function expected, got no value)",
        ),
        (
            "local kumo = require 'kumo'\nkumo.on(nil, print)",
            "bad argument #1 to 'kumo.on' (string expected, got no value)",
        ),
        ("", "registers no handler"),
        (
            "require('kumo').on('init', function() end)",
            "registers no handler",
        ),
        (
            "local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end",
            "not enough memory",
        ),
        ("\u{1b}Lua", "attempt to load a binary chunk"),
    ] {
        let got = fault(lua);
        assert!(got.contains(part), "{lua:?}: {got}");
        assert!(!got.contains("traceback"), "{got}");
    }
    let settings = PolicySettings {
        file: "/nonexistent/p.lua".into(),
        workers: 1,
        queue: 1,
        callback_timeout: Duration::from_secs(1),
        memory_limit: 1 << 20,
        cache_ttl: Duration::ZERO,
        cache_capacity: 1,
    };
    let absent = Policy::load(settings, &Arc::default());
    assert!(absent.err().is_some_and(|fault| {
        fault
            .to_string()
            .starts_with("/nonexistent/p.lua: cannot read the policy: ")
    }));
}

/// An operator's whole file loads, whatever else it does for `KumoMTA`.
#[test]
fn a_whole_kumomta_file_loads() {
    let loaded = load(
        "local kumo = require 'kumo'
         kumo.on('init', function() kumo.start_http_listener { listen = '0.0.0.0:8000' } end)
         kumo.define_spool { name = 'data' }
         local shaper = kumo.something.deep.setup()
         kumo.on('smtp_server_message_received', function(msg) end)
         kumo.on('http_server_validate_auth_basic', function() return false end)
         kumo.on('http_server_validate_auth_basic', function(user)
           if user == 'caller' then kumo.define_spool {} end
           if user == 'deep' then kumo.serde.nonsense.parse() end
           if user == 'register' then kumo.on('init', print) end
           return true
         end)",
    );
    let warnings = loaded.policy.warnings().join("\n");
    for part in [
        "p.lua:3: kumo.define_spool",
        "p.lua:4: kumo.something",
        "p.lua:7: http_server_validate_auth_basic is registered twice",
        "p.lua:6",
    ] {
        assert!(warnings.contains(part), "{part} in {warnings}");
    }
    assert!(!warnings.contains("start_http_listener"), "init is not run");
    assert_eq!(identity(&loaded.judge("good")), Some("good"));
    for user in ["caller", "deep", "register"] {
        assert_eq!(loaded.judge(user), Judgement::Failed, "{user}");
    }
}
