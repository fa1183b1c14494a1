//! Tests of the whole crate: Lua in, judgements out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_auth::{Credentials, Judgement, Secret};

use super::*;

mod attacks;
mod host;

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

/// The attack: Lua that does not end, in every way in which it could hide from the clock.
#[test]
fn endless_lua_ends_at_its_deadline_and_disturbs_nobody() {
    let busy = "while true do end";
    for body in [
        busy.to_owned(),
        format!("while true do pcall(function() {busy} end) end"),
        format!("while true do xpcall(function() {busy} end, print) end"),
        format!("coroutine.wrap(function() {busy} end)()"),
        format!(
            "while true do pcall(coroutine.wrap(function() while true do pcall(function() {busy} end) end end)) end"
        ),
        format!("table.sort({{3, 2, 1}}, function() {busy} end)"),
        format!(
            "table.sort({{3, 2, 1}}, function() while true do pcall(function() {busy} end) end end)"
        ),
        format!("string.gsub('x', 'x', function() {busy} end)"),
        format!("return setmetatable({{}}, {{ __index = function() {busy} end }}).x"),
        format!(
            "local _ <close> = setmetatable({{}}, {{ __close = function() {busy} end }}); error 'x'"
        ),
        "local function f() return f() end return f()".to_owned(),
        "while true do coroutine.yield() end".to_owned(),
        "coroutine.yield()".to_owned(),
    ] {
        let body = format!("if user == 'good' then return true end\n{body}");
        let timeout = Duration::from_millis(400);
        let loaded = load_with(
            &handler(&body),
            &Options {
                workers: 1,
                timeout,
                ..USUAL
            },
        );
        block_on(async {
            let begin = Instant::now();
            let (looped, slowest) = tokio::join!(loaded.policy.judge(basic("loop", "x")), async {
                let mut slowest = Duration::ZERO;
                // A call that cannot step back keeps its worker to the deadline, so `good` calls come
                // after it; one that can shares it.
                for _ in 0..20 {
                    let begin = Instant::now();
                    let good = loaded.policy.judge(basic("good", "x")).await;
                    let took = begin.elapsed();
                    slowest = slowest.max(took);
                    assert!(
                        identity(&good).is_some() || took >= timeout,
                        "{body}: {good:?}"
                    );
                }
                slowest
            });
            assert!(
                matches!(looped, Judgement::TimedOut | Judgement::Failed),
                "{body}: {looped:?}"
            );
            assert!(
                begin.elapsed() < timeout + Duration::from_secs(3),
                "{body}: {:?}",
                begin.elapsed()
            );
            assert!(
                slowest < timeout + Duration::from_millis(300),
                "{body}: {slowest:?}"
            );
        });
        assert_eq!(identity(&loaded.judge("good")), Some("good"), "{body}");
        assert_eq!(loaded.counters.abandoned_workers.value(), 0, "{body}");
    }
}

/// Plain loops step back, so the calls that share their only worker are served meanwhile.
#[test]
fn a_busy_call_shares_its_worker() {
    let timeout = Duration::from_secs(1);
    let lua = handler("if user == 'good' then return true end while true do end");
    let loaded = load_with(
        &lua,
        &Options {
            workers: 1,
            timeout,
            ..USUAL
        },
    );
    block_on(async {
        let looping = async {
            tokio::join!(
                loaded.policy.judge(basic("a", "x")),
                loaded.policy.judge(basic("b", "x"))
            )
        };
        let others = async {
            let mut slowest = Duration::ZERO;
            for _ in 0..50 {
                let begin = Instant::now();
                assert_eq!(
                    identity(&loaded.policy.judge(basic("good", "x")).await),
                    Some("good")
                );
                slowest = slowest.max(begin.elapsed());
            }
            slowest
        };
        let ((a, b), slowest) = tokio::join!(looping, others);
        assert_eq!((a, b), (Judgement::TimedOut, Judgement::TimedOut));
        println!(
            "beside two endless loops on one worker, the slowest of 50 calls took {slowest:?}"
        );
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    });
}

/// The attack: Lua where no hook runs. `string.find` spends seconds in C; and Lua runs an error handler
/// inside of the hook that raised the error, where hooks are off.
#[test]
fn a_worker_that_cannot_be_interrupted_is_abandoned_and_replaced() {
    for body in [
        "return string.find(('a'):rep(400), '.-.-.-.-.-b$') ~= nil",
        "xpcall(function() while true do end end, function() local t = os.clock() while os.clock() < t + 8 do end end)",
    ] {
        let lua = handler(&format!("if user ~= 'stuck' then return true end {body}"));
        let timeout = Duration::from_millis(200);
        let loaded = load_with(
            &lua,
            &Options {
                workers: 1,
                timeout,
                ..USUAL
            },
        );
        assert_eq!(loaded.judge("stuck"), Judgement::TimedOut, "{body}");
        let deadline = Instant::now() + Duration::from_secs(10);
        while identity(&loaded.judge("good")).is_none() {
            assert!(
                Instant::now() < deadline,
                "the stuck worker was not replaced: {body}"
            );
        }
        let abandoned = loaded.counters.abandoned_workers.value();
        assert_eq!((abandoned, loaded.policy.stats().workers), (1, 1), "{body}");
        // The number of workers that can be stuck at once is bounded.
        for _ in 0..6 {
            loaded.judge("stuck");
        }
        assert!(
            loaded.counters.abandoned_workers.value() <= 2,
            "{body}: {:?}",
            loaded.policy.stats()
        );
    }
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
fn calls_beyond_the_queue_are_turned_away_at_once() {
    // The only worker is kept busy by a call that cannot step back.
    let lua = handler("table.sort({3, 2, 1}, function() while true do end end) return true");
    let timeout = Duration::from_millis(500);
    let loaded = load_with(
        &lua,
        &Options {
            workers: 1,
            queue: 4,
            timeout,
            ..USUAL
        },
    );
    block_on(async {
        let (first, rest) = tokio::join!(loaded.policy.judge(basic("first", "x")), async {
            let deadline = Instant::now() + Duration::from_secs(5);
            while loaded.policy.stats().queued > 0 {
                assert!(Instant::now() < deadline);
                tokio::task::yield_now().await;
            }
            let begin = Instant::now();
            let mut waiting = Vec::new();
            let mut overloaded = 0;
            for user in 0..10 {
                let call = loaded.policy.judge(basic(&format!("more-{user}"), "x"));
                let mut call = Box::pin(call);
                // A call takes its place in the queue when it is first looked at.
                match tokio::time::timeout(Duration::ZERO, &mut call).await {
                    Ok(judgement) => {
                        assert_eq!(judgement, Judgement::Overloaded);
                        overloaded += 1;
                    }
                    Err(_) => waiting.push(call),
                }
            }
            assert!(begin.elapsed() < timeout);
            overloaded
        });
        assert!(matches!(first, Judgement::TimedOut | Judgement::Failed));
        // Four wait; the worker may have taken one more before it got stuck.
        assert!(rest >= 5, "{rest}");
    });
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

/// Hashing happens beside the worker: the calls that share it are served meanwhile.
#[test]
fn hashing_does_not_keep_others_waiting() {
    let lua = handler(
        "if user == 'good' then return true end for _ = 1, 5 do gatepost.password.hash('x') end return true",
    );
    let loaded = load_with(
        &lua,
        &Options {
            workers: 1,
            ..USUAL
        },
    );
    block_on(async {
        let hashing = loaded.policy.judge(basic("slow", "x"));
        let others = async {
            for _ in 0..20 {
                assert!(identity(&loaded.policy.judge(basic("good", "x")).await).is_some());
            }
            Instant::now()
        };
        let ((slow, slow_done), others_done) =
            tokio::join!(async { (hashing.await, Instant::now()) }, others);
        assert!(identity(&slow).is_some());
        assert!(others_done < slow_done);
    });
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

/// A policy that is replaced under load: no call is lost, and dropping does not wait.
#[test]
fn dropping_a_policy_does_not_wait_for_its_calls() {
    let lua = handler("table.sort({3, 2, 1}, function() while true do end end) return true");
    let loaded = load_with(
        &lua,
        &Options {
            timeout: Duration::from_secs(2),
            ..USUAL
        },
    );
    block_on(async {
        let call = loaded.policy.judge(basic("x", "y"));
        assert!(
            tokio::time::timeout(Duration::from_millis(20), call)
                .await
                .is_err()
        );
    });
    let begin = Instant::now();
    drop(loaded);
    assert!(begin.elapsed() < Duration::from_millis(500));
}

#[test]
fn many_calls_at_once_get_their_own_answers() {
    let loaded = load(&handler(
        "return { identities = { { identity = 'is ' .. user .. password, context = 'GenericAuth' } } }",
    ));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let loaded = &loaded;
            scope.spawn(move || {
                block_on(async {
                    for turn in 0..200 {
                        let (user, password) = (format!("{thread}"), format!("-{turn}"));
                        let got = loaded.policy.judge(basic(&user, &password)).await;
                        assert_eq!(
                            identity(&got),
                            Some(format!("is {user}{password}").as_str())
                        );
                    }
                });
            });
        }
    });
}

/// The need: handlers that wait for something must not wait for each other.
#[test]
fn two_hundred_slow_handlers_take_little_longer_than_one() {
    let service = crate::api::slow_service(Duration::from_secs(1));
    let lua = handler(&format!(
        "return client:get('{service}'):send():status_code() == 200"
    ))
    .replace(
        "kumo.on(",
        "local client = kumo.http.build_client {}\nkumo.on(",
    );
    let loaded = load_with(
        &lua,
        &Options {
            workers: 4,
            queue: 1024,
            timeout: Duration::from_secs(20),
            ..USUAL
        },
    );
    let begin = Instant::now();
    block_on(async {
        let policy = Arc::new(loaded.policy);
        let mut calls = tokio::task::JoinSet::new();
        for caller in 0..200 {
            let policy = policy.clone();
            calls.spawn(async move { policy.judge(basic(&caller.to_string(), "x")).await });
        }
        while let Some(judgement) = calls.join_next().await {
            assert!(identity(&judgement.unwrap()).is_some());
        }
    });
    let took = begin.elapsed();
    println!("FIGURE 200 handlers that each wait 1 s, on 4 workers: {took:.1?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A handler that waits for something that does not come is given up at its deadline, and the worker is free.
#[test]
fn the_deadline_holds_across_waits() {
    let timeout = Duration::from_millis(200);
    let lua = handler("if user == 'slow' then kumo.sleep(60) end return true");
    let loaded = load_with(
        &lua,
        &Options {
            workers: 1,
            timeout,
            ..USUAL
        },
    );
    let begin = Instant::now();
    assert_eq!(loaded.judge("slow"), Judgement::TimedOut);
    assert!(begin.elapsed() < timeout + Duration::from_secs(1));
    assert_eq!(identity(&loaded.judge("good")), Some("good"));
    assert_eq!(loaded.counters.abandoned_workers.value(), 0);
}
