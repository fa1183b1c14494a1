//! `gatepost test` with messages: what a test file can say of them, and what it is told where it is wrong.

const POLICY: &str = "
local kumo = require 'kumo'
kumo.on('http_message_generated', function(msg, auth_info)
  if msg:get_meta 'http_auth' == 'broken' then error 'broken' end
  local from = msg:from_header()
  if from and from.domain ~= 'example.com' then kumo.reject(550, 'not your domain') end
  msg:set_meta('tenant', auth_info.groups[1] or 'none')
  msg:set_meta('who', msg:get_meta 'http_auth')
  msg:set_meta('sender', msg:sender().email)
  msg:set_meta('recipients', msg:num_recipients())
  msg:set_meta('subject', msg:get_first_named_header_value 'Subject' or '')
  msg:set_meta('tags', table.concat(msg:get_all_named_header_values 'X-Tag', ' '))
  msg:set_meta('from', msg:get_first_named_header_value 'From' or '')
end)
";

/// The results of the cases of a test file, by name.
fn results(cases: &str) -> Vec<(String, Result<(), String>)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policy.lua"), POLICY).unwrap();
    let file = folder.path().join("policy_test.lua");
    let head = "local test = require 'gatepost.test' local policy = test.policy 'policy.lua'\n";
    std::fs::write(&file, format!("{head}{cases}")).unwrap();
    let cases = crate::run_tests(&file).unwrap();
    cases
        .into_iter()
        .map(|case| (case.name, case.result))
        .collect()
}

#[test]
fn messages_are_judged_as_requests_would_be() {
    let results = results(
        "test.case('accepted', function()
           local answer = policy:message {
             user = 'scott', groups = { 'acme', 'eu' }, sender = 's@example.com', recipients = { 'a@example.org', 'b@example.org' },
             from = 'News@example.com', headers = { Subject = 'Hi', ['X-Tag'] = { 'one', 'two' } },
           }
           test.accepts(answer)
           test.allows(answer)
           local meta = answer.meta
           test.equal(meta.tenant, 'acme')
           test.equal(meta.who, 'scott')
           test.equal(meta.sender, 's@example.com')
           test.equal(meta.recipients, '2')
           test.equal(meta.subject, 'Hi')
           test.equal(meta.tags, 'one two')
           test.equal(meta.from, 'News@example.com')
         end)
         test.case('a trusted host', function()
           local meta = policy:message({ recipients = 'a@example.org' }).meta
           test.equal(meta.who, '127.0.0.1')
           test.equal(meta.sender, '')
           test.equal(policy:message({ recipients = 'a@example.org', received_from = '2001:db8::1' }).meta.who, '2001:db8::1')
         end)
         test.case('rejected', function()
           local answer = policy:message { user = 'scott', recipients = { 'a@example.org' }, from = 'x@evil.example' }
           test.rejects(answer)
           test.denies(answer)
           test.rejects(answer, 550)
           test.rejects(answer, 550, 'not your domain')
           test.rejects(answer, nil, 'not your domain')
         end)
         test.case('failed', function()
           test.fails(policy:message { user = 'broken', recipients = { 'a@example.org' } })
           test.fails(policy:message { user = 'scott', recipients = { 'a@example.org' }, from = { 'x@example.com', 'y@example.com' } })
         end)
         test.case('mistakes of the test', function()
           local function raises(message, pattern) test.raises(function() policy:message(message) end, pattern) end
           raises({ nonsense = 1 }, 'a message has no `nonsense`')
           raises({}, 'a message needs `recipients`')
           raises({ recipients = 'nobody' }, '`recipients`: the address holds no `@`')
           raises({ recipients = { 1 } }, '`recipients` is a string or a list of strings')
           raises({ recipients = 'a@example.org', sender = 'x' }, '`sender`: ')
           raises({ recipients = 'a@example.org', headers = { from = 'x' } }, 'as `from`')
           raises({ recipients = 'a@example.org', headers = { 'Subject: x' } }, 'a table of values by name')
           raises({ recipients = 'a@example.org', headers = { Subject = 1 } }, '`Subject` is a string')
           raises({ recipients = 'a@example.org', groups = { 'x' } }, 'belong to a `user`')
           raises({ recipients = 'a@example.org', user = '' }, 'identity or group is empty')
           raises({ recipients = 'a@example.org', received_from = 'x' }, 'no IP address')
         end)",
    );
    assert_eq!(results.len(), 5);
    for (name, result) in results {
        assert_eq!(result, Ok(()), "{name}");
    }
}

#[test]
fn a_case_that_fails_says_what_came_instead() {
    let good = "policy:message { user = 'scott', recipients = 'a@example.org' }";
    let bad =
        "policy:message { user = 'scott', recipients = 'a@example.org', from = 'x@evil.example' }";
    for (body, words) in [
        (
            format!("test.accepts({bad})"),
            "expected accepted, got rejected with 550 not your domain",
        ),
        (
            format!("test.rejects({good})"),
            "expected rejected, got accepted",
        ),
        (
            format!("test.rejects({bad}, 551)"),
            "expected rejected with 551, got rejected with 550 not your domain",
        ),
        (
            format!("test.rejects({bad}, 550, 'no')"),
            "expected rejected with 550 no, got rejected with 550 not your domain",
        ),
        (
            format!("test.rejects({bad}, nil, 'no')"),
            "expected rejected with no, got rejected with 550 not your domain",
        ),
        (
            format!("test.fails({good})"),
            "expected failed, got accepted",
        ),
        (
            "test.accepts(policy:message { user = 'broken', recipients = 'a@example.org' })"
                .to_owned(),
            "expected accepted, got failed",
        ),
        (
            format!("test.rejects({good}, nil, nil, 'my own words')"),
            "my own words",
        ),
    ] {
        let results = results(&format!("test.case('x', function() {body} end)"));
        let fault = results[0].1.clone().unwrap_err();
        assert!(fault.ends_with(words), "{body}: {fault}");
        assert!(fault.contains("policy_test.lua:2: "), "{body}: {fault}");
    }
}
