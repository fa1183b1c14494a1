//! Calls for messages end in time, keep within their memory, and do not see each other.

use gatepost_message::Message;

use super::messages::{accepted, asked, judge, message, on_message};
use super::*;

/// The attack: a policy that keeps what belongs to one request, by mistake or not.
#[test]
fn a_message_is_gone_when_its_call_is_over() {
    let loaded = load_one_worker(
        "local kumo = require 'kumo'
         local kept
         kumo.on('http_message_generated', function(msg)
           if kept then
             for _, look in ipairs {
               function() return kept.msg:get_meta 'http_auth' end, function() return kept.msg:sender() end,
               function() return kept.to.email end, function() return kept.from.list end,
               function() return kept.msg:recipient_list() end, function() kept.msg:set_meta('a', 'b') end,
             } do
               local ok, fault = pcall(look)
               assert(not ok and tostring(fault):find 'is over', tostring(fault))
             end
           end
           kept = { msg = msg, to = msg:recipient(), from = msg:from_header() }
           msg:set_meta('who', msg:get_meta 'http_auth')
         end)",
    );
    let first = asked(message(), "first");
    let message_of_first = first.message.clone();
    assert_eq!(judge(&loaded, first), accepted(&[("who", "first")]));
    // Nothing of it stays in memory either.
    let limit = Instant::now() + Duration::from_secs(5);
    while Arc::strong_count(&message_of_first) > 1 {
        assert!(Instant::now() < limit);
        std::thread::yield_now();
    }
    assert_eq!(
        judge(&loaded, asked(message(), "second")),
        accepted(&[("who", "second")])
    );
}

/// Calls that take turns in one Lua state have their own message and their own values.
#[test]
fn concurrent_calls_do_not_see_each_other() {
    let loaded = load_one_worker(&on_message(
        "local who = msg:get_meta 'http_auth'
         assert(msg:get_meta 'mine' == nil)
         msg:set_meta('mine', who)
         kumo.sleep(0.01)
         assert(msg:get_meta 'mine' == who and msg:get_meta 'http_auth' == who)
         assert(msg:sender().user == who and auth_info.identities[1].identity == who)",
    ));
    block_on(async {
        let policy = Arc::new(loaded.policy);
        let mut calls = tokio::task::JoinSet::new();
        for each in 0..50 {
            let policy = policy.clone();
            calls.spawn(async move {
                let who = format!("user-{each}");
                let message = Message {
                    sender: Some(format!("{who}@example.com").parse().unwrap()),
                    ..message()
                };
                let judgement = policy.judge_message(asked(message, &who)).await;
                assert_eq!(judgement, accepted(&[("mine", &who)]));
            });
        }
        while let Some(done) = calls.join_next().await {
            done.unwrap();
        }
    });
}

#[test]
fn deadline_memory_and_queue_hold_for_messages_too() {
    // Long enough for what is good, on a busy machine.
    let timeout = Duration::from_secs(1);
    let lua = on_message(
        "local who = msg:get_meta 'http_auth'
         if who == 'loop' then while true do pcall(error) end end
         if who == 'sleep' then kumo.sleep(60) end
         if who == 'list' then while true do msg:recipient_list() end end
         if who == 'eat' then local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end end
         if who == 'hold' then local t = {} while true do t[#t + 1] = msg:sender() end end
         if who == 'sort' then table.sort({ 3, 2, 1 }, function() while true do end end) end",
    );
    let options = Options {
        workers: 1,
        queue: 2,
        timeout,
        ..USUAL
    };
    let loaded = load_with(&lua, &options);
    for (who, expected) in [
        ("loop", MessageJudgement::TimedOut),
        ("sleep", MessageJudgement::TimedOut),
        ("list", MessageJudgement::TimedOut),
    ] {
        assert_eq!(judge(&loaded, asked(message(), who)), expected, "{who}");
        assert_eq!(judge(&loaded, asked(message(), "good")), accepted(&[]));
    }
    let patient = load_with(
        &lua,
        &Options {
            workers: 1,
            ..USUAL
        },
    );
    for who in ["eat", "hold"] {
        let judgement = judge(&patient, asked(message(), who));
        assert_eq!(judgement, MessageJudgement::Failed, "{who}");
        assert_eq!(judge(&patient, asked(message(), "good")), accepted(&[]));
    }
    block_on(async {
        let policy = &loaded.policy;
        let mut calls = Vec::new();
        let mut overloaded = 0;
        for _ in 0..8 {
            let mut call = Box::pin(policy.judge_message(asked(message(), "sort")));
            match tokio::time::timeout(Duration::from_millis(5), &mut call).await {
                Ok(judgement) => {
                    assert_eq!(judgement, MessageJudgement::Overloaded);
                    overloaded += 1;
                }
                Err(_) => calls.push(call),
            }
        }
        assert!(overloaded >= 4, "{overloaded}");
    });
}

/// The need: a second policy beside the first (shadow mode) that does not count as the first.
#[test]
fn two_policies_have_counters_of_their_own() {
    let first = load_one_worker(&on_message(""));
    let second = load_one_worker(&on_message(
        "local hoard = {} string.hoard = hoard while true do hoard[#hoard + 1] = ('x'):rep(100000) .. #hoard end",
    ));
    for _ in 0..3 {
        assert_eq!(judge(&first, asked(message(), "x")), accepted(&[]));
        assert_eq!(
            judge(&second, asked(message(), "x")),
            MessageJudgement::Failed
        );
    }
    let replaced = |loaded: &Loaded| loaded.counters.replaced_states.value();
    assert_eq!(replaced(&first), 0);
    assert!(replaced(&second) > 0);
}
