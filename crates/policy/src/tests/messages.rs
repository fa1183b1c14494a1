//! `http_message_generated`: what a handler sees of a message, and what comes of each of its endings.

use std::net::{IpAddr, Ipv4Addr};

use gatepost_auth::{AuthInfo, Identity, IdentityContext};
use gatepost_message::Message;

use super::*;

/// A file with this body as the handler for messages.
pub(super) fn on_message(body: &str) -> String {
    format!(
        "local kumo = require 'kumo'\n\
         kumo.on('http_message_generated', function(msg, auth_info)\n{body}\nend)"
    )
}

pub(super) fn message() -> Message {
    Message {
        sender: Some("bounces+7@mail.example.com".parse().unwrap()),
        recipients: vec!["Jane.Doe@Example.ORG".parse().unwrap()],
        from: vec!["News@example.com".parse().unwrap()],
        headers: [
            ("From", "The News <News@example.com>"),
            ("Subject", "=?utf-8?q?gr=C3=BC=C3=9Fe?="),
            ("X-Tag", "one"),
            ("x-tag", "two"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        fields: Vec::new(),
        size: 100,
        template: false,
    }
}

pub(super) fn asked(message: Message, who: &str) -> MessageQuestion {
    MessageQuestion {
        message: Arc::new(message),
        auth: (!who.is_empty()).then(|| AuthInfo::basic(who).unwrap()),
        http_auth: who.to_owned(),
        received_from: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    }
}

pub(super) fn judge(loaded: &Loaded, question: MessageQuestion) -> MessageJudgement {
    block_on(loaded.policy.judge_message(question))
}

pub(super) fn accepted(meta: &[(&str, &str)]) -> MessageJudgement {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    MessageJudgement::Accepted {
        meta: meta.iter().map(pair).collect(),
    }
}

fn rejected(code: u16, text: &str) -> MessageJudgement {
    MessageJudgement::Rejected {
        code,
        text: text.to_owned(),
    }
}

/// The handler with this body judges the usual message of scott.
fn check(body: &str, expected: &MessageJudgement) {
    check_of(body, message(), expected);
}

fn check_of(body: &str, message: Message, expected: &MessageJudgement) {
    let loaded = load(&on_message(body));
    assert_eq!(judge(&loaded, asked(message, "scott")), *expected, "{body}");
}

/// Each holds for the usual message.
const SEEN: &[&str] = &[
    "msg:sender().email == 'bounces+7@mail.example.com' and msg:sender().user == 'bounces+7' and msg:sender().domain == 'mail.example.com'",
    "tostring(msg:sender()) == 'bounces+7@mail.example.com'",
    "msg:recipient().email == 'Jane.Doe@example.org' and msg:recipient().user == 'Jane.Doe'",
    "#msg:recipient_list() == 1 and msg:recipient_list()[1].domain == 'example.org' and msg:num_recipients() == 1",
    "msg:from_header().email == 'News@example.com' and msg:from_header().user == 'News' and tostring(msg:from_header()) == 'News@example.com'",
    "#msg:from_header().list == 1 and msg:from_header().list[1].domain == 'example.com'",
    "msg:get_first_named_header_value 'subject' == '=?utf-8?q?gr=C3=BC=C3=9Fe?='",
    "msg:get_first_named_header_value 'X-TAG' == 'one' and msg:get_first_named_header_value 'absent' == nil",
    "table.concat(msg:get_all_named_header_values 'X-Tag', ' ') == 'one two' and #msg:get_all_named_header_values 'absent' == 0",
    "msg:get_meta 'http_auth' == 'scott' and msg:get_meta 'received_from' == '192.0.2.7' and msg:get_meta 'reception_protocol' == 'HTTP'",
    "msg:get_meta 'tenant' == nil and tostring(msg) == 'message'",
    "#auth_info.identities == 1 and auth_info.identities[1].identity == 'scott' and auth_info.identities[1].context == 'HttpBasicAuth'",
    "#auth_info.groups == 0 and auth_info.peer_address == '192.0.2.7'",
    "not pcall(function() msg.x = 1 end) and not pcall(function() msg:sender().email = 'x' end)",
    "getmetatable(msg) == false",
];

/// Each raises an error that holds the text.
const RAISES: &[(&str, &str)] = &[
    ("msg:nonsense()", "msg has no 'nonsense' in gatepost"),
    ("return msg.nonsense", "msg has no 'nonsense' in gatepost"),
    (
        "return msg:sender().domian",
        "an address has no 'domian' in gatepost",
    ),
    ("return msg:from_header().name", "an address has no 'name'"),
    ("return msg:recipient().list", "an address has no 'list'"),
    (
        "msg:get_meta()",
        "bad argument #1 to 'msg:get_meta' (string expected, got no value)",
    ),
    (
        "msg:set_meta(1, 'x')",
        "bad argument #1 to 'msg:set_meta' (string expected, got",
    ),
    (
        "msg:get_first_named_header_value()",
        "bad argument #1 to 'msg:get_first_named_header_value'",
    ),
    (
        "msg:get_all_named_header_values {}",
        "bad argument #1 to 'msg:get_all_named_header_values'",
    ),
    (
        "msg:set_meta('http_auth', 'x')",
        "'http_auth' is set by gatepost",
    ),
    (
        "msg:set_meta('received_from', nil)",
        "'received_from' is set by gatepost",
    ),
    (
        "msg:set_meta('reception_protocol', 'x')",
        "'reception_protocol' is set by gatepost",
    ),
    ("msg:set_meta('', 'x')", "a name is one line"),
    ("msg:set_meta('a\\n', 'x')", "a name is one line"),
    ("msg:set_meta(('a'):rep(129), 'x')", "a name is one line"),
    ("msg:set_meta('a', 'x\\r\\ny')", "a value is one line"),
    ("msg:set_meta('a', ('x'):rep(1025))", "a value is one line"),
    ("msg:set_meta('a', '\\xff')", "not valid UTF-8"),
    ("msg:set_meta('a', {})", "a value is a string"),
    ("msg:set_meta('a', 1 / 0)", "a value is a string"),
    ("msg:set_meta('a', 0 / 0)", "a value is a string"),
    ("msg:set_meta('a', msg)", "a value is a string"),
    (
        "for i = 1, 65 do msg:set_meta('k' .. i, i) end",
        "at most 64 values",
    ),
    (
        "kumo.reject(200, 'x')",
        "bad argument #1 to 'kumo.reject' (code between 400 and 599",
    ),
    (
        "kumo.on('init', print)",
        "kumo.on cannot be called during a request",
    ),
    ("kumo.define_spool {}", "is not available in gatepost"),
    ("who = msg", "the global 'who' is set"),
];

#[test]
fn a_handler_sees_the_message() {
    for seen in SEEN {
        check(&format!("assert({seen})"), &accepted(&[]));
    }
}

#[test]
fn what_a_handler_may_not_do_raises_and_refuses() {
    for (body, text) in RAISES {
        let caught = format!(
            "local ok, fault = pcall(function() {body} end)
             assert(not ok and tostring(fault):find({text:?}, 1, true), tostring(fault))"
        );
        let got = judge(&load(&on_message(&caught)), asked(message(), "scott"));
        assert_eq!(got.outcome(), "accepted", "{body}");
        check(body, &MessageJudgement::Failed);
    }
}

/// The mistake: a file that signs here, gets no error, and sends unsigned.
#[test]
fn what_only_the_mta_can_do_raises() {
    for name in [
        "set_sender",
        "set_recipient",
        "append_header",
        "prepend_header",
        "get_data",
        "set_data",
        "remove_all_named_headers",
        "import_scheduling_header",
        "dkim_sign",
        "queue_name",
        "id",
        "to_header",
        "get_all_headers",
        "check_fix_conformance",
    ] {
        check(
            &format!(
                "assert(type(msg.{name}) == 'function')
                 local ok, fault = pcall(msg.{name}, msg, 'x', {{}})
                 assert(not ok and tostring(fault):find('msg:{name} is not available before the MTA', 1, true))
                 msg:{name}('x', {{}})"
            ),
            &MessageJudgement::Failed,
        );
    }
}

#[test]
fn every_ending_has_its_judgement() {
    let failed = MessageJudgement::Failed;
    for (body, expected) in [
        ("", accepted(&[])),
        ("return true", accepted(&[])),
        ("return false", accepted(&[])),
        ("return nil", accepted(&[])),
        ("return 1, {}, print", accepted(&[])),
        ("error 'raised'", failed.clone()),
        ("error { code = 550 }", failed.clone()),
        ("error()", failed.clone()),
        ("coroutine.yield() error 'late'", failed.clone()),
        ("kumo.sleep(0.001) error 'late'", failed.clone()),
        ("kumo.reject(550, 'not you')", rejected(550, "not you")),
        ("kumo.reject(400, '')", rejected(400, "")),
        ("kumo.reject(599, 'grüße')", rejected(599, "grüße")),
        (
            "kumo.sleep(0.001) kumo.reject(450, 'later')",
            rejected(450, "later"),
        ),
        (
            "coroutine.wrap(function() kumo.reject(550, 'deep') end)()",
            rejected(550, "deep"),
        ),
        (
            "local _, fault = pcall(kumo.reject, 550, 'again') error(fault)",
            rejected(550, "again"),
        ),
        // As in KumoMTA: who catches it has not refused.
        ("pcall(kumo.reject, 550, 'caught')", accepted(&[])),
        // A text alone is no refusal any more.
        (
            "local _, fault = pcall(kumo.reject, 550, 'x') error(tostring(fault))",
            failed.clone(),
        ),
        ("kumo.reject(550, 'a\\r\\nb')", failed.clone()),
        ("kumo.reject(200, 'x')", failed.clone()),
        ("kumo.reject(600, 'x')", failed.clone()),
        ("kumo.reject('x', 'x')", failed.clone()),
        ("kumo.reject(550)", failed),
        (
            "kumo.reject(550, ('x'):rep(511) .. 'üü')",
            rejected(550, &"x".repeat(511)),
        ),
    ] {
        check(body, &expected);
    }
}

#[test]
fn set_meta_is_returned_as_text() {
    check(
        "msg:set_meta('tenant', 'acme') msg:set_meta('count', 3) msg:set_meta('share', 0.5)
         msg:set_meta('bulk', true) msg:set_meta('gone', 'x') msg:set_meta('gone', nil)
         msg:set_meta('tenant', 'grüße') msg:set_meta('long', ('x'):rep(1024)) msg:set_meta('long', '')
         assert(msg:get_meta 'tenant' == 'grüße' and msg:get_meta 'count' == 3 and msg:get_meta 'share' == 0.5)
         assert(msg:get_meta 'bulk' == true and msg:get_meta 'gone' == nil and msg:get_meta 'long' == '')",
        &accepted(&[
            ("bulk", "true"),
            ("count", "3"),
            ("long", ""),
            ("share", "0.5"),
            ("tenant", "grüße"),
        ]),
    );
}

#[test]
fn a_message_without_sender_or_from() {
    let bare = Message {
        sender: None,
        from: Vec::new(),
        headers: Vec::new(),
        ..message()
    };
    check_of(
        "local s = msg:sender()
         assert(s.email == '' and s.user == '' and s.domain == '' and tostring(s) == '')
         assert(msg:from_header() == nil)",
        bare,
        &accepted(&[]),
    );
}

/// The attack: a header that a rule looks at, and that the MTA makes another one of afterwards.
#[test]
fn a_value_with_a_template_is_not_shown() {
    let with = |template, value: &str| {
        let mut message = message();
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        message.headers.push(header("X-Tenant", "mine"));
        message.headers.push(header("x-tenant", value));
        message.headers.push(header("X-Other", value));
        Message {
            template,
            ..message
        }
    };
    let all = "return msg:get_all_named_header_values 'X-Tenant'";
    let first = "return msg:get_first_named_header_value 'X-Other'";
    for value in ["{{ x }}", "a{{x}}", "{% if a %}", "a {# b #}"] {
        for rule in [all, first] {
            check_of(rule, with(true, value), &MessageJudgement::Failed);
            check_of(rule, with(false, value), &accepted(&[]));
        }
        check_of(
            "local ok, fault = pcall(msg.get_first_named_header_value, msg, 'X-Other')
             assert(not ok and tostring(fault):find('the header holds a template, which the MTA fills in later', 1, true))
             assert(msg:get_first_named_header_value 'X-Tenant' == 'mine')
             assert(#msg:get_all_named_header_values 'X-Tag' == 2)",
            with(true, value),
            &accepted(&[]),
        );
    }
    for value in ["{ x }", "}} %}", "{"] {
        check_of(all, with(true, value), &accepted(&[]));
        check_of(first, with(true, value), &accepted(&[]));
    }
}

/// The attack: a second address in `From`, behind one that the rule allows.
#[test]
fn several_addresses_in_from_are_no_address() {
    let two = || Message {
        from: vec![
            "a@example.com".parse().unwrap(),
            "b@evil.example".parse().unwrap(),
        ],
        ..message()
    };
    for rule in [
        "if msg:from_header().domain ~= 'example.com' then kumo.reject(550, 'no') end",
        "local from = msg:from_header() if from and from.domain ~= 'example.com' then kumo.reject(550, 'no') end",
        "return msg:from_header().email",
        "return tostring(msg:from_header())",
    ] {
        check_of(rule, two(), &MessageJudgement::Failed);
    }
    check_of(
        "local list = msg:from_header().list
         assert(#list == 2 and list[1].email == 'a@example.com' and list[2].domain == 'evil.example')",
        two(),
        &accepted(&[]),
    );
    // A From in which nothing was found is not one that is not there.
    let strange = Message {
        from: Vec::new(),
        ..message()
    };
    check_of(
        "assert(msg:from_header() ~= nil and #msg:from_header().list == 0) return msg:from_header().domain",
        strange,
        &MessageJudgement::Failed,
    );
}

#[test]
fn several_recipients_are_a_list() {
    let many = || Message {
        recipients: (0..10_000)
            .map(|each| format!("user-{each}@example.org").parse().unwrap())
            .collect(),
        ..message()
    };
    check_of("msg:recipient()", many(), &MessageJudgement::Failed);
    check_of(
        "local ok, fault = pcall(msg.recipient, msg)
         assert(not ok and tostring(fault):find('10000 recipients; use msg:recipient_list()', 1, true))
         local list = msg:recipient_list()
         assert(msg:num_recipients() == 10000 and #list == 10000 and list[10000].user == 'user-9999')",
        many(),
        &accepted(&[]),
    );
}

#[test]
fn auth_info_says_who_asks() {
    let loaded = load(&on_message(
        "local names = {}
         for _, one in ipairs(auth_info.identities) do names[#names + 1] = one.identity .. '/' .. one.context end
         msg:set_meta('names', table.concat(names, ' '))
         msg:set_meta('groups', table.concat(auth_info.groups, ' '))
         msg:set_meta('peer', auth_info.peer_address)
         msg:set_meta('who', msg:get_meta 'http_auth')",
    ));
    let identity = |name: &str, context| Identity {
        identity: name.to_owned(),
        context,
    };
    let info = AuthInfo::new(
        vec![
            identity("tenant-7", IdentityContext::GenericAuth),
            identity("scott", IdentityContext::HttpBasicAuth),
        ],
        vec!["bulk".to_owned(), "eu".to_owned()],
    );
    let user = MessageQuestion {
        auth: Some(info.unwrap()),
        ..asked(message(), "scott")
    };
    let host = MessageQuestion {
        auth: None,
        ..asked(message(), "192.0.2.7")
    };
    let nobody = asked(message(), "");
    for (question, names, groups, who) in [
        (
            user,
            "tenant-7/GenericAuth scott/HttpBasicAuth",
            "bulk eu",
            Some("scott"),
        ),
        (host, "", "", Some("192.0.2.7")),
        (nobody, "", "", None),
    ] {
        let mut meta = vec![("groups", groups), ("names", names), ("peer", "192.0.2.7")];
        meta.extend(who.map(|who| ("who", who)));
        assert_eq!(judge(&loaded, question), accepted(&meta));
    }
}

/// The need: one file with the user check and the message policy, which is what operators have.
#[test]
fn both_kinds_of_handlers_share_the_workers() {
    let lua = handler("return password == 'secret'")
        + "\nkumo.on('http_message_generated', function(msg)
             if msg:get_meta 'http_auth' ~= 'scott' then kumo.reject(550, 'only scott') end
           end)";
    let loaded = load_one_worker(&lua);
    assert!(loaded.policy.handles_messages() && loaded.policy.handles_basic());
    block_on(async {
        let (judgement, good, bad) = tokio::join!(
            loaded.policy.judge(basic("scott", "secret")),
            loaded.policy.judge_message(asked(message(), "scott")),
            loaded.policy.judge_message(asked(message(), "adams")),
        );
        assert_eq!(identity(&judgement), Some("scott"));
        assert_eq!((good, bad), (accepted(&[]), rejected(550, "only scott")));
    });
}

#[test]
fn a_file_needs_one_of_the_three_handlers() {
    let loaded = load(&on_message(""));
    assert!(loaded.policy.handles_messages() && !loaded.policy.handles_basic());
    assert_eq!(loaded.judge("anybody"), Judgement::NoHandler);
    let without = load(&handler("kumo.reject(550, 'x')"));
    assert!(!without.policy.handles_messages());
    assert_eq!(
        judge(&without, asked(message(), "scott")),
        MessageJudgement::NoHandler
    );
    // In an authentication handler a refusal is a failure, as before.
    assert_eq!(without.judge("scott"), Judgement::Failed);
    let none = try_load("require('kumo').on('init', print)", &USUAL).err();
    let none = none.unwrap().to_string();
    assert!(none.contains("kumo.on('http_message_generated', …)"));
    // A helper that signs is the MTA's business; a file that has one loads.
    let helper = load(
        &(handler("return true")
            + "\nlocal signer = require('policy-extras.dkim_sign'):setup {}
             kumo.on('http_message_generated', signer)"),
    );
    assert!(!helper.policy.handles_messages());
    let warnings = helper.policy.warnings().join("\n");
    assert!(
        warnings.contains("p.lua:7: the handler for http_message_generated is a helper"),
        "{warnings}"
    );
}
