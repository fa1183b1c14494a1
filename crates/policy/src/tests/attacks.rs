//! Policies that, by accident or not, would let the wrong ones in or take a worker away for good.

use super::*;

const ONE: Options = Options {
    workers: 1,
    timeout: Duration::from_secs(1),
    ..USUAL
};

/// Lua that neither a hook nor a deadline can interrupt.
const STUCK: &str = "string.find(('a'):rep(400), '.-.-.-.-.-b$')";

/// Runs out of memory and keeps it.
const HOARD: &str = "string.hoard = string.hoard or {} local hoard = string.hoard while true do hoard[#hoard + 1] = ('x'):rep(100000) .. #hoard end";

pub(super) fn recovers(loaded: &Loaded, name: &str) {
    let limit = Instant::now() + Duration::from_secs(10);
    while identity(&loaded.judge("good")).is_none() {
        assert!(
            Instant::now() < limit,
            "{name}: {:?}",
            loaded.policy.stats()
        );
    }
}

/// The attack: a password check inside of a coroutine, whose wait looks like a yes.
#[test]
fn a_wait_inside_a_coroutine_is_not_an_answer() {
    let wrong = "local check = function() return gatepost.password.verify(HASH, 'lion') end\n";
    let right = "local check = function() return gatepost.password.verify(HASH, 'tiger') end\n";
    let good = |body: &str| format!("{right}{body}");
    let bad = |body: &str| format!("{wrong}{body}");
    let wrap = "if coroutine.wrap(check)() then return true end return false";
    let resume = "local ok, said = coroutine.resume(coroutine.create(check)) return ok and said";
    let nested = "return coroutine.wrap(function() return coroutine.wrap(check)() end)()";
    let caught = "return select(2, pcall(coroutine.wrap(check)))";
    let values = "local seen = {}
        for word in coroutine.wrap(function() coroutine.yield 'a' check() coroutine.yield 'b' end) do seen[#seen + 1] = word end
        return table.concat(seen) == 'ab'";
    let comparator =
        "table.sort({ 2, 1 }, function() return coroutine.wrap(check)() end) return true";
    let rejected = Judgement::Rejected;
    for (body, expected) in [
        (bad(wrap), Some(&rejected)),
        (bad(resume), Some(&rejected)),
        (bad(nested), Some(&rejected)),
        (bad(caught), Some(&rejected)),
        (good(wrap), None),
        (good(resume), None),
        (good(nested), None),
        (good(caught), None),
        (good(values), None),
        // Nothing can wait inside of `table.sort`, so it raises.
        (good(comparator), Some(&Judgement::Failed)),
    ] {
        let lua = format!(
            "local HASH\n{}",
            handler(&format!(
                "HASH = HASH or gatepost.password.hash('tiger')\n{body}"
            ))
        );
        let got = load(&lua).judge("who");
        match expected {
            Some(expected) => assert_eq!(got, *expected, "{body}"),
            None => assert_eq!(identity(&got), Some("who"), "{body}: {got:?}"),
        }
    }
}

#[test]
fn coroutines_are_what_they_are_in_lua() {
    for body in [
        "local f = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b, nil end) return f(1) == 2 and select('#', f(5)) == 2",
        "local co = coroutine.create(error) local ok, said = coroutine.resume(co, 'x') return not ok and said == 'x' and coroutine.status(co) == 'dead'",
        "local f = coroutine.wrap(function() error('x', 0) end) local ok, said = pcall(f) return not ok and said == 'x'",
        "local f = coroutine.wrap(function() error { 7 } end) local ok, said = pcall(f) return not ok and said[1] == 7",
        "local f = coroutine.wrap(function() end) f() local ok, said = pcall(f) return not ok and said:find('dead') ~= nil",
        "local f f = coroutine.wrap(function() return f() end) return not pcall(f)",
        "return not pcall(coroutine.resume) and not pcall(coroutine.wrap, 1)",
        "local closed local f = coroutine.wrap(function() local _ <close> = setmetatable({}, { __close = function() closed = true end }) error 'x' end) pcall(f) return closed",
    ] {
        let got = load(&handler(body)).judge("who");
        assert_eq!(identity(&got), Some("who"), "{body}: {got:?}");
    }
}

/// The attack: code of the policy that runs where no clock watches it.
#[test]
fn no_code_of_the_policy_runs_beside_the_clock() {
    let endless = "function() while true do end end";
    for (body, expected) in [
        (
            format!("return setmetatable({{}}, {{ __index = {endless} }})"),
            Judgement::Failed,
        ),
        (
            format!(
                "return {{ identities = {{ setmetatable({{}}, {{ __index = {endless} }}) }} }}"
            ),
            Judgement::Failed,
        ),
        (
            format!("setmetatable({{}}, {{ __gc = {endless} }}) error 'x'"),
            Judgement::Failed,
        ),
        (
            format!("error(setmetatable({{}}, {{ __tostring = {endless} }}))"),
            Judgement::TimedOut,
        ),
    ] {
        let lua = handler(&format!("if user == 'good' then return true end {body}"));
        // What raises does so at once. Code beside the clock would keep the worker, so that it times out or is given up.
        let timeout = Duration::from_secs(if expected == Judgement::TimedOut {
            1
        } else {
            5
        });
        let loaded = load_with(&lua, &Options { timeout, ..ONE });
        for _ in 0..2 {
            assert_eq!(loaded.judge("bad"), expected, "{body}");
            recovers(&loaded, &body);
        }
        assert_eq!(loaded.counters.abandoned_workers.value(), 0, "{body}");
    }
}

/// A policy that makes a new coroutine for each that the deadline ended, layers of them.
#[test]
fn layers_of_coroutines_end_at_the_deadline() {
    let mut body = "while true do end".to_owned();
    for make in [
        "coroutine.resume(coroutine.create(function() BODY end))",
        "pcall(coroutine.wrap(function() BODY end))",
    ]
    .repeat(2)
    {
        body = format!("while true do {} end", make.replace("BODY", &body));
        let lua = handler(&format!("if user == 'good' then return true end {body}"));
        let loaded = load_with(&lua, &ONE);
        assert_eq!(loaded.judge("bad"), Judgement::TimedOut, "{body}");
        recovers(&loaded, &body);
        assert_eq!(loaded.counters.abandoned_workers.value(), 0, "{body}");
    }
}

/// The attack: a file that was saved half-written, or that a reload refused, comes in when a worker is replaced.
#[test]
fn a_replaced_worker_runs_the_policy_that_was_loaded() {
    let lua = format!(
        "local helper = require 'helper'\n{}",
        handler(&format!(
            "if user == 'hoard' then {HOARD} end if user == 'stuck' then {STUCK} end return user == 'good' and helper.name == 'helper'"
        ))
    );
    for trouble in ["hoard", "stuck"] {
        for changed in [
            "require('kumo').on('http_server_validate_auth_basic', function() return true end)",
            "local x = = 1",
        ] {
            let timeout = Duration::from_millis(if trouble == "hoard" { 5000 } else { 200 });
            let loaded = load_with(&lua, &Options { timeout, ..ONE });
            std::fs::write(loaded.folder.path().join("p.lua"), changed).unwrap();
            std::fs::write(loaded.folder.path().join("helper.lua"), "return {").unwrap();
            loaded.judge(trouble);
            recovers(&loaded, changed);
            let replaced =
                loaded.counters.abandoned_workers.value() + loaded.counters.replaced_states.value();
            assert_eq!(
                (replaced, loaded.judge("other")),
                (1, Judgement::Rejected),
                "{trouble}, {changed}"
            );
            assert_eq!(loaded.policy.stats().workers, 1);
        }
    }
}

/// A replacement that does not come up, since something that the file needs is gone, comes up once it is back.
#[test]
fn a_worker_that_cannot_be_replaced_is_tried_again() {
    let lua = handler(&format!("if user == 'stuck' then {STUCK} end return true"))
        + "\nassert(io.open(package.path:match('^(.-)/%?') .. '/data.json'))";
    let loaded = load_with(
        &lua,
        &Options {
            timeout: Duration::from_millis(200),
            ..ONE
        },
    );
    let data = loaded.folder.path().join("data.json");
    std::fs::remove_file(&data).unwrap();
    loaded.judge("stuck");
    let limit = Instant::now() + Duration::from_secs(10);
    while loaded.counters.abandoned_workers.value() == 0 {
        assert!(Instant::now() < limit);
        loaded.judge("good");
    }
    std::fs::write(&data, "{}").unwrap();
    recovers(&loaded, "data");
}

/// A client that goes away early must not keep its stuck worker from being noticed.
#[test]
fn a_stuck_worker_is_replaced_though_nobody_waits() {
    let lua = handler(&format!("if user == 'stuck' then {STUCK} end return true"));
    let loaded = load_with(&lua, &ONE);
    block_on(async {
        let call = loaded.policy.judge(basic("stuck", "x"));
        assert!(
            tokio::time::timeout(Duration::from_millis(50), call)
                .await
                .is_err()
        );
        let limit = Instant::now() + Duration::from_secs(10);
        while loaded.counters.abandoned_workers.value() == 0 {
            assert!(Instant::now() < limit);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    recovers(&loaded, "stuck");
}

/// The attack: a name that does not exist is true as Lua sees it.
#[test]
fn an_unknown_name_lets_nobody_in() {
    for body in [
        "if kumo.no_such_check then return true end return false",
        "if kumo.serde.no_such_check then return true end return false",
        "if absent.users[user] then return true end return false",
        "return kumo.no_such_check(user)",
        "return absent",
    ] {
        let lua = format!(
            "local absent = require('kumo').no_such_table\n{}",
            handler(body)
        );
        assert_eq!(load(&lua).judge("who"), Judgement::Failed, "{body}");
    }
}

#[test]
fn logging_takes_any_bytes() {
    for body in [
        "print('\\xff', nil, 1) return true",
        "kumo.log_info('\\xff', nil, true, {}) return true",
    ] {
        let got = load(&handler(body)).judge("who");
        assert_eq!(identity(&got), Some("who"), "{body}: {got:?}");
    }
}

#[test]
fn a_peer_address_is_a_text() {
    let body = "return { identities = { { identity = user, context = 'HttpBasicAuth' } }, peer_address = 7 }";
    assert_eq!(load(&handler(body)).judge("who"), Judgement::Failed);
}

/// The attack: a `local` forgotten, and two clients at a time: the one would get the name of the other.
#[test]
fn calls_do_not_see_each_other_through_globals() {
    for body in [
        "who = user",
        "_G.who = user",
        "rawset(_G, 'who', user)",
        "early = user",
        "load('who = ...')(user)",
        "coroutine.wrap(function() who = user end)()",
    ] {
        let lua = format!("early = 1\n{}", handler(&format!("{body} return true")));
        assert_eq!(load(&lua).judge("scott"), Judgement::Failed, "{body}");
    }
}

#[test]
fn globals_of_the_loading_policy_are_what_they_are_in_lua() {
    let before = "count = 1 count = count + 1 function _G.twice(n) return 2 * n end\n\
        setmetatable(_G, { __index = function(_, name) return name == 'absent' and 7 or nil end })\n\
        rawset(_G, 'raw', 5) local seen = 0 for name in pairs(_G) do if name == 'count' then seen = seen + 1 end end\n\
        assert(seen == 1 and getmetatable(_G).__index and require '_G' == _G and _G._G == _G)\n";
    let body = "return count == 2 and twice(2) == 4 and absent == 7 and raw == 5 and _G.print == print and missing == nil";
    let got = load(&format!("{before}{}", handler(body))).judge("who");
    assert_eq!(identity(&got), Some("who"), "{got:?}");
}

/// The need: the whole `init.lua`, whose other half sets up helpers that do not exist here.
#[test]
fn helpers_of_whole_files_are_set_up_in_steps() {
    let before = "local kumo = require 'kumo'\nlocal shaping = require 'policy-extras.shaping'\n\
        local shaper = shaping:setup_with_automation { publish = {} }\n\
        kumo.on('get_egress_path_config', shaper.get_egress_path_config)\n\
        kumo.on('get_queue_config', require('policy-extras.queue'):setup({}))\n\
        local answer = kumo.no_such_check()\n";
    let body = "if user == 'helped' then return shaper.allowed(user) end
        if user == 'early' then return answer end return true";
    let loaded = load(&format!("{before}{}", handler(body)));
    assert_eq!(identity(&loaded.judge("good")), Some("good"));
    assert_eq!(loaded.judge("helped"), Judgement::Failed);
    assert_eq!(loaded.judge("early"), Judgement::Failed);
    let asked = "local kumo = require 'kumo' kumo.on('http_server_validate_auth_basic', require('policy-extras.x').check)";
    assert!(try_load(asked, &USUAL).is_err());
}

/// The need: a policy in several files, one of which asks something while it loads.
#[test]
fn a_required_module_may_wait_while_it_loads() {
    let module = "local db = require('sqlite').open ':memory:'\n\
        db:execute 'CREATE TABLE t (name TEXT)' db:execute(\"INSERT INTO t VALUES ('scott')\")\n\
        return { names = db:execute 'SELECT name FROM t', where = ... }";
    let lua = format!(
        "package.preload.names = load [==[{module}]==]\n\
         local names = require 'names'\n\
         assert(require 'names' == names and names.where == 'names')\n\
         local ok, fault = pcall(require, 'absent')\n\
         assert(not ok and fault:find \"module 'absent' not found\" and fault:find 'absent.lua', fault)\n\
         assert(not pcall(require))\n{}",
        handler("return user == names.names[1]")
    );
    let loaded = load(&lua);
    assert_eq!(identity(&loaded.judge("scott")), Some("scott"));
    assert_eq!(loaded.judge("carol"), Judgement::Rejected);
}

/// The attack: a statement that does not end, or a file that is locked, and so many calls that wait for it that no thread is
/// left for another database.
#[test]
fn a_stuck_database_leaves_the_others_alone() {
    let endless = "db:execute 'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n'";
    let locked = "local own = table.remove(many) own:execute 'SELECT * FROM t'";
    for stuck in [endless, locked] {
        let lua = handler(&format!(
            "if user == 'good' then return other:execute('SELECT 1')[1] == 1 end {stuck}"
        ));
        let lua = format!(
            "local sqlite = require 'sqlite' local db, other = sqlite.open 'x.db', sqlite.open ':memory:'
             local many = {{}} for i = 1, 40 do many[i] = sqlite.open('x.db', 2000) end
             db:execute 'CREATE TABLE IF NOT EXISTS t (x)'\n{lua}"
        );
        let options = Options {
            timeout: Duration::from_secs(1),
            ..ONE
        };
        let loaded = load_with(&lua, &options);
        let holder = rusqlite::Connection::open(loaded.folder().join("x.db")).unwrap();
        holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
        block_on(async {
            let calls = (0..40).map(|call: u32| {
                let password = call.to_string();
                Box::pin(loaded.policy.judge(basic("stuck", &password)))
            });
            let mut calls: Vec<_> = calls.collect();
            // Asked, and thereby in the queue before the good one.
            std::future::poll_fn(|context| {
                for call in &mut calls {
                    assert!(call.as_mut().poll(context).is_pending());
                }
                std::task::Poll::Ready(())
            })
            .await;
            let judgement = loaded.policy.judge(basic("good", "x")).await;
            assert!(identity(&judgement).is_some(), "{stuck}: {judgement:?}");
        });
    }
}

/// The attack: a computation that nothing can interrupt, and a key that nobody else gets to compute.
#[test]
fn a_stuck_computation_does_not_keep_its_key() {
    let lua = handler("who = user return f('x')").replace(
        "kumo.on(",
        &format!(
            "local who
             local f = kumo.memoize(function() if who == 'stuck' then {STUCK} end return true end,
               {{ name = 'f', ttl = '1m', capacity = 1 }})
             kumo.on("
        ),
    );
    let options = Options { workers: 2, ..ONE };
    let loaded = load_with(&lua, &options);
    assert_eq!(loaded.judge("stuck"), Judgement::TimedOut);
    recovers(&loaded, "memoize");
}
