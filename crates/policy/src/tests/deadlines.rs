//! Calls that loop, wait or hash, and what the calls beside them notice of it.

use super::*;

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
        // With GRACE the time in which its worker must be free again. The other bounds are wide: they tell what hangs,
        // and a machine that is busy with other things is no fault.
        let timeout = Duration::from_secs(1);
        let wide = Duration::from_secs(30);
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
                begin.elapsed() < timeout + wide,
                "{body}: {:?}",
                begin.elapsed()
            );
            assert!(slowest < timeout + wide / 10, "{body}: {slowest:?}");
        });
        attacks::recovers(&loaded, &body);
        assert_eq!(loaded.counters.abandoned_workers.value(), 0, "{body}");
    }
}

/// The attack: a worker is kept in C code, and the queue wakes it for a call that another one could take.
#[test]
fn a_stuck_worker_does_not_swallow_the_calls_of_others() {
    // About ten seconds of a pattern that goes back over and over, and no hook runs meanwhile.
    let body = "if user == 'stuck' then local _ = string.find(('a'):rep(160), '.-.-.-.-b$') end return true";
    let timeout = Duration::from_secs(6);
    let loaded = load_with(
        &handler(body),
        &Options {
            workers: 2,
            timeout,
            ..USUAL
        },
    );
    block_on(async {
        let stuck = loaded.policy.judge(basic("stuck", "x"));
        let others = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            for index in 0..6 {
                let begin = Instant::now();
                let good = loaded.policy.judge(basic("good", "x")).await;
                assert_eq!(identity(&good), Some("good"), "{index}");
                assert!(
                    begin.elapsed() < timeout / 2,
                    "{index}: {:?}",
                    begin.elapsed()
                );
            }
        };
        tokio::select! {
            _ = stuck => panic!("the pattern is too quick to show anything"),
            () = others => {}
        }
    });
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

/// The attack: more guesses than the cores can hash, whether for users that there are or not. Who would be answered too late is told at once
/// to come back, in the same words; nobody is told that a password is wrong, and the policy has not failed.
#[test]
fn hashes_that_would_come_too_late_are_refused_at_once() {
    let hash = hash_password("tiger", HashAlgorithm::default()).unwrap();
    let lua = handler(
        "local users = gatepost.htpasswd 'users'
         if user:find 'by file' then return users:verify(user, password) end
         return gatepost.password.verify(user:find 'known' and HASH or nil, password)",
    );
    let lua = format!("local HASH = '{hash}'\n{lua}");
    let options = Options {
        queue: 10_000,
        timeout: Duration::from_millis(500),
        ..USUAL
    };
    let loaded = load_with(&lua, &options);
    let users = format!("known by file:{hash}\n");
    std::fs::write(loaded.folder().join("users"), users).unwrap();
    for user in ["known by file", "known"] {
        let judgement = block_on(loaded.policy.judge(basic(user, "tiger")));
        assert!(identity(&judgement).is_some(), "{user}: {judgement:?}");
    }
    let policy = Arc::new(loaded.policy);
    block_on(async {
        let kinds = ["known by file", "another by file", "known", "another"];
        let mut calls = tokio::task::JoinSet::new();
        for (number, kind) in kinds.into_iter().cycle().take(400).enumerate() {
            let policy = policy.clone();
            let credentials = basic(kind, &format!("lion {number}"));
            calls.spawn(async move { (kind, policy.judge(credentials).await) });
        }
        let mut overloaded = std::collections::BTreeMap::<_, usize>::new();
        while let Some(done) = calls.join_next().await {
            match done.unwrap() {
                (kind, Judgement::Overloaded) => *overloaded.entry(kind).or_default() += 1,
                (_, Judgement::Rejected | Judgement::TimedOut) => {}
                (kind, other) => panic!("{kind}: {other:?}"),
            }
        }
        for kind in kinds {
            assert!(overloaded.get(kind) > Some(&50), "{overloaded:?}");
        }
    });
}
