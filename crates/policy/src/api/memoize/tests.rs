//! What is remembered, for how long and how much of it, and what becomes of callers who want the same.

use super::*;
use crate::tests::{basic, block_on, check_body, handler, identity, load};

/// A memoized function that counts its calls.
const COUNTING: &str = "local calls = 0
    local f = kumo.memoize(function(...) calls = calls + 1 return { n = calls, ... } end,
      { name = 'f', ttl = '5 minutes', capacity = 100 })\n";

#[test]
fn a_value_is_computed_once_for_each_list_of_arguments() {
    for body in [
        "f('a') f('a') return calls == 1 and f('a').n == 1 and f('a')[1] == 'a'",
        "f('a') f('b') f('a', 'b') f('ab') f() f(nil) f('a', nil) return calls == 7",
        "f(1) f('1') f(1.5) f(true) f('true') f(false) f(nil) return calls == 7",
        "f({ a = 1, b = 2 }) f({ b = 2, a = 1 }) return calls == 1",
        "f('\\0\\xff') f('\\0\\xfe') return calls == 2",
        "local t = f('a') t.n = 99 return f('a').n == 1",
        "return not pcall(f, print) and calls == 0",
    ] {
        check_body(&format!("{COUNTING}{body}"));
    }
}

#[test]
fn nil_is_remembered_and_errors_are_not() {
    check_body("local calls = 0
        local f = kumo.memoize(function() calls = calls + 1 return nil end, { name = 'n', ttl = 60, capacity = 1 })
        return f() == nil and f() == nil and calls == 1");
    check_body("local calls = 0
        local f = kumo.memoize(function() calls = calls + 1 error 'no' end, { name = 'e', ttl = '1m', capacity = 1 })
        return not pcall(f) and not pcall(f) and calls == 2");
    check_body(
        "local f = kumo.memoize(function() return print end, { name = 'p', ttl = '1m', capacity = 1 }) return not pcall(f)",
    );
    check_body("local calls = 0
        local f = kumo.memoize(function() calls = calls + 1 return 1 end, { name = 't', ttl = '10 ms', capacity = 1 })
        f() kumo.sleep(0.02) f() return calls == 2");
}

#[test]
fn options_are_checked() {
    for (call, words) in [
        ("kumo.memoize()", "bad argument #1"),
        ("kumo.memoize(print)", "bad argument #2"),
        ("kumo.memoize(print, {})", "needs the option 'name'"),
        (
            "kumo.memoize(print, { name = 'x' })",
            "needs the option 'ttl'",
        ),
        (
            "kumo.memoize(print, { name = 'x', ttl = '1m' })",
            "capacity",
        ),
        (
            "kumo.memoize(print, { name = 'x', ttl = 'soon', capacity = 1 })",
            "ttl",
        ),
        (
            "kumo.memoize(print, { name = 'x', ttl = '1m', capacity = 0 })",
            "capacity",
        ),
        (
            "kumo.memoize(print, { name = 'x', ttl = '1m', capacity = 1, surprise = 1 })",
            "no option 'surprise'",
        ),
        (
            "kumo.memoize(print, { name = 'x', ttl = '1m', capacity = 1 }) kumo.memoize(print, { name = 'x', ttl = '2m', capacity = 1 })",
            "is taken by a function with other options",
        ),
        (
            "for _, f in ipairs { print, function() end } do kumo.memoize(f, { name = 'x', ttl = '1m', capacity = 1 }) end",
            "is taken by another function",
        ),
        (
            "for n = 1, 1001 do kumo.memoize(print, { name = 'x' .. n, ttl = '1m', capacity = 1 }) end",
            "there are 1000 names already",
        ),
    ] {
        check_body(&format!(
            "local ok, fault = pcall(function() {call} end)
             return not ok and tostring(fault):find(\"{words}\", 1, true) ~= nil or error(fault)"
        ));
    }
}

/// All workers share one cache, and a burst of callers is one computation; one that fails leaves the others to it.
#[test]
fn workers_share_one_computation() {
    let lua = handler("error 'replaced below'");
    let lua = lua
        .replace(
            "kumo.on(",
            "
        local f = kumo.memoize(function(key)
          kumo.sleep(0.05)
          return tostring({}) .. tostring(os.clock())
        end, { name = 'shared', ttl = '1m', capacity = 10 })
        kumo.on(",
        )
        .replace(
            "error 'replaced below'",
            "return { identities = { { identity = f('x'), context = 'GenericAuth' } } }",
        );
    let loaded = load(&lua);
    let names: Vec<Option<String>> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..20)
            .map(|caller: usize| {
                let policy = &loaded.policy;
                scope.spawn(move || {
                    let judgement = block_on(policy.judge(basic(&caller.to_string(), "x")));
                    identity(&judgement).map(str::to_owned)
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(names[0].is_some());
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
}

#[test]
fn everyone_gets_a_copy_and_all_results() {
    let function = |returned: &str, body: &str| {
        check_body(&format!(
            "local calls, t = 0, {{ 1 }}
             local f = kumo.memoize(function() calls = calls + 1 return {returned} end, {{ name = 'f', ttl = '1m', capacity = 1 }})
             {body}"
        ));
    };
    function(
        "t",
        "f()[1] = 99 f()[1] = 99 return t[1] == 1 and f()[1] == 1 and f() ~= f()",
    );
    function(
        "1, nil, 'x', nil",
        "for i = 1, 2 do
           local all = table.pack(f())
           assert(all.n == 4 and all[1] == 1 and all[2] == nil and all[3] == 'x' and all[4] == nil and calls == 1)
         end
         return true",
    );
    function(
        "nil, 'no such user'",
        "f() return select(2, f()) == 'no such user' and calls == 1",
    );
    check_body(
        "local f = kumo.memoize(function() end, { name = 'f', ttl = '1m', capacity = 1 })
         return select('#', f()) == 0 and select('#', f()) == 0",
    );
}

/// The attack: names whose answers are so large that what is remembered of them fills the memory.
#[test]
fn what_is_remembered_is_bounded() {
    for (bytes, calls) in [(1_000_000, 1), (1_100_000, 3)] {
        check_body(&format!(
            "{COUNTING}
             local big = kumo.memoize(function(n) f(n, calls) return ('x'):rep(n) end, {{ name = 'b', ttl = '1m', capacity = 2 }})
             for i = 1, 3 do assert(#big({bytes}) == {bytes}) end
             return calls == {calls} or error(calls)"
        ));
    }
    for capacity in [1, 2, 10, 1000] {
        let options = Options {
            ttl: Duration::from_secs(60),
            capacity,
            populate_timeout: Duration::ZERO,
            allow_stale_reads: false,
        };
        let memo = Memo::new(options, String::new()).unwrap();
        for length in [0, 1_000_000, 0] {
            for index in 0..150_u8 {
                let results = Arc::from([Plain::String(vec![0; length])]);
                let size = length + size_of::<Plain>();
                let until = Instant::now() + Duration::from_secs(60);
                let kept = Kept {
                    results,
                    size,
                    until,
                };
                let mut key = [0; 32];
                key[0] = index;
                memo.keep(key, "x", &kept);
                assert!(memo.fresh(&key).is_some(), "{capacity}: the latest");
            }
            let held: usize = memo.values.iter().map(|(_, kept)| kept.size).sum();
            assert!(memo.values.len() <= capacity && held <= 65 << 20);
        }
        assert!(memo.values.len() >= capacity.min(150) / 2, "{capacity}");
    }
}

#[test]
fn a_function_that_calls_itself_is_told_so_at_once() {
    let fibonacci =
        "local f f = kumo.memoize(function(n) return n < 2 and n or f(n - 1) + f(n - 2) end,
          { name = 'f', ttl = '1m', capacity = 100 })";
    check_body(&format!("{fibonacci} return f(30) == 832040"));
    let begin = Instant::now();
    for function in [
        "function(n) return f(n) end",
        "function(n) local ok, fault = pcall(g, n) error(fault) end",
    ] {
        check_body(&format!(
            "local f, g
             g = function(n) return f(n) end
             f = kumo.memoize({function}, {{ name = 'f', ttl = '1m', capacity = 1 }})
             local ok, fault = pcall(f, 1)
             return not ok and tostring(fault):find('calls itself with the same arguments', 1, true) ~= nil or error(fault)"
        ));
    }
    assert!(begin.elapsed() < Duration::from_secs(4));
}

/// The need: one who fails leaves it to the next, and each who waits is woken.
#[test]
fn those_who_wait_take_over_from_one_that_fails() {
    let lua = handler("who = user return f('x') == 'good'").replace(
        "kumo.on(",
        "local who
         local f = kumo.memoize(function()
           local mine = who
           kumo.sleep(0.1)
           if mine == 'bad' then error 'bad' end
           return 'good'
         end, { name = 'f', ttl = '1m', capacity = 1 })
         kumo.on(",
    );
    let loaded = load(&lua);
    block_on(async {
        let bad = loaded.policy.judge(basic("bad", "x"));
        let good = async {
            let (one, two) = (basic("good", "1"), basic("good", "2"));
            tokio::join!(loaded.policy.judge(one), loaded.policy.judge(two))
        };
        let (bad, (one, two)) = tokio::join!(bad, good);
        assert!(
            [one, two].iter().all(|it| identity(it).is_some()),
            "{bad:?}"
        );
    });
}
