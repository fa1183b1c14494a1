//! What the log holds of a message whose handler failed or took too long: who asked, and nothing of what it says.

use std::fmt::Write as _;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};

use super::messages::{asked, message, on_message};
use super::*;
use crate::api::Common;
use crate::vm::Vm;

/// Keeps every event as text.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<String>>);

impl tracing::Subscriber for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut Fields(&mut self.0.lock().unwrap()));
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0, "{field}={value:?}").unwrap();
    }
}

/// The judgement of a handler with this body, in this thread, and what it left in the log.
fn logged(body: &str, time: Duration) -> (MessageJudgement, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.lua");
    std::fs::write(&file, on_message(body)).unwrap();
    let settings = PolicySettings {
        file,
        workers: 1,
        queue: 1,
        callback_timeout: time,
        memory_limit: USUAL.memory,
        cache_ttl: Duration::ZERO,
        cache_capacity: 1,
    };
    let kept = Kept::default();
    let judgement = tracing::subscriber::with_default(kept.clone(), || {
        // A line that another test came to first, just when this one began to listen, would be off for good.
        tracing::callsite::rebuild_interest_cache();
        block_on(async {
            let (vm, _) = Vm::load(&settings, &Common::default()).await.unwrap();
            let question = asked(message(), "scott");
            vm.judge_message(&question, Instant::now() + time, |_| {})
                .await
        })
    });
    let log = kept.0.lock().unwrap().clone();
    (judgement, log)
}

/// The attack: an error that holds what the handler saw, and a log that keeps it.
#[test]
fn nothing_of_a_message_gets_into_the_log() {
    let time = Duration::from_secs(5);
    for body in [
        "error('not for ' .. msg:recipient().email .. ' from ' .. msg:from_header().email)",
        "error('no user ' .. msg:recipient().user .. ' at ' .. msg:sender().domain)",
        "error('subject: ' .. msg:get_first_named_header_value 'Subject')",
        "error('tags: ' .. table.concat(msg:get_all_named_header_values 'X-Tag', ','))",
        "kumo.reject(550, msg:sender().email .. '\\n')",
        "local none = nil; return none[msg:recipient().email].x",
    ] {
        let (judgement, log) = logged(body, time);
        assert_eq!(judgement, MessageJudgement::Failed, "{body}");
        for part in ["Jane", "ews", "bounces", "example", "utf-8", "two"] {
            assert!(!log.contains(part), "{body}: {part} in {log}");
        }
        assert!(
            log.contains("the message policy failed") && log.contains("http_auth: \"scott\""),
            "{body}: {log}"
        );
    }
    // The author still learns where and why.
    let (_, log) = logged("local rule = nil; return rule.x", time);
    assert!(log.contains("p.lua:3: attempt to index a nil value (local 'rule')"));
    let (judgement, log) = logged("while true do end", Duration::from_millis(50));
    assert_eq!(judgement, MessageJudgement::TimedOut);
    assert!(log.contains("the message policy took too long") && log.contains("recipients: 1"));
    assert!(!log.contains("example"), "{log}");
}

/// A refusal is an answer, not a fault.
#[test]
fn a_refusal_leaves_nothing_in_the_log() {
    let (judgement, log) = logged("kumo.reject(550, 'not you')", Duration::from_secs(5));
    assert_eq!((judgement.outcome(), log.as_str()), ("rejected", ""));
}
