//! `kumo.http` against services on loopback.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::tests::{basic, block_on, check_body, handler, identity, load_one_worker};

/// A server on loopback that answers each request by its head and body.
pub(in super::super) fn serve(
    answer: impl Fn(&str) -> (&'static str, String) + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let (mut text, mut buffer) = (String::new(), [0; 4096]);
                while let Ok(read) = stream.read(&mut buffer)
                    && read > 0
                {
                    text += &String::from_utf8_lossy(&buffer[..read]);
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let length = head
                        .to_ascii_lowercase()
                        .split_once("content-length: ")
                        .map_or(0, |(_, rest)| {
                            rest.lines()
                                .next()
                                .unwrap()
                                .trim()
                                .parse::<usize>()
                                .unwrap()
                        });
                    if body.len() < length {
                        continue;
                    }
                    let (status, body) = answer(&text);
                    text.clear();
                    let more = if status.starts_with("302") {
                        format!("Location: {body}\r\n")
                    } else {
                        String::new()
                    };
                    let _ = write!(
                        stream,
                        "HTTP/1.1 {status}\r\nX-Test: yes\r\n{more}Content-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                }
            });
        }
    });
    format!("http://{address}")
}

/// Echoes the whole request.
fn echo() -> String {
    serve(|request| ("200 OK", request.to_owned()))
}

#[test]
fn requests_are_sent_as_they_were_made() {
    let url = echo();
    let check = |chain: &str, parts: &[&str]| {
        let finds: Vec<String> = parts
            .iter()
            .map(|part| format!("assert(text:find([[{part}]], 1, true), text)"))
            .collect();
        check_body(&format!(
            "local client = kumo.http.build_client {{ user_agent = 'tester', timeout = '5 seconds' }}
             local text = client:{chain}:send():text():lower() {} return true",
            finds.join(" ")
        ));
    };
    check(
        &format!("get('{url}/a?b=c')"),
        &["get /a?b=c http/1.1", "user-agent: tester"],
    );
    check(
        &format!("post('{url}/'):header('X-A', 'b'):headers {{ ['X-C'] = 'd' }}:body('hello')"),
        &["post /", "x-a: b", "x-c: d", "\r\n\r\nhello"],
    );
    check(
        &format!("put('{url}/'):form_url_encoded {{ a = 'b c', d = 1 }}"),
        &["put /", "a=b+c&d=1"],
    );
    check(
        &format!("get('{url}/'):basic_auth('scott', 'tiger')"),
        &["authorization: basic c2nvdhq6dglnzxi="],
    );
    check(
        &format!("get('{url}/'):bearer_auth('token')"),
        &["authorization: bearer token"],
    );
}

#[test]
fn answers_tell_everything() {
    let url = serve(|request| {
        if request.starts_with("GET /missing") {
            ("404 Not Found", "gone".to_owned())
        } else {
            ("200 OK", "grüße".to_owned())
        }
    });
    check_body(&format!(
        "local c = kumo.http.build_client {{}} local r = c:get('{url}/'):send()
         assert(r:status_code() == 200 and r:status_reason() == 'OK' and r:status_is_success())
         assert(not r:status_is_client_error() and not r:status_is_server_error())
         assert(r:text() == 'grüße' and r:bytes() == 'grüße' and r:content_length() == 7)
         assert(r:headers():get('X-Test') == 'yes' and r:headers()['x-test'] == 'yes' and r:headers().absent == nil)
         r = c:get('{url}/missing'):send()
         return r:status_code() == 404 and r:status_is_client_error() and not r:status_is_success()"
    ));
    check_body(
        "return kumo.http.build_url('http://a/b?c=d', { e = 'f g', h = 1 }) == 'http://a/b?c=d&e=f+g&h=1'",
    );
}

#[test]
fn what_goes_wrong_raises() {
    let url = echo();
    for (call, words) in [
        (
            "kumo.http.build_client(1)",
            "bad argument #1 to 'kumo.http.build_client'",
        ),
        (
            "kumo.http.build_client { surprise = 1 }",
            "has no option 'surprise'",
        ),
        (
            "kumo.http.build_client { timeout = 'soon' }",
            "'timeout' is a time span",
        ),
        ("client:get()", "bad argument #1 to 'get'"),
        ("client:get 'nonsense'", "relative URL without a base"),
        (
            "client:get 'file:///etc/passwd'",
            "'file' is not spoken here",
        ),
        ("client:get(URL):header('a b', 'c')", "cannot be sent"),
        ("client:get(URL):header('a', 'b\\r\\nc')", "cannot be sent"),
        ("client:get(URL):body {}", "bad argument #1 to 'body'"),
        (
            "local r = client:get(URL) r:send() r:send()",
            "was sent already",
        ),
        (
            "client:get 'http://127.0.0.1:1/':send()",
            "cannot be reached",
        ),
        ("kumo.http.build_url('nonsense', {})", "kumo.http.build_url"),
    ] {
        check_body(&format!(
            "local URL = '{url}/' local client = kumo.http.build_client()
             local ok, fault = pcall(function() {call} end)
             return not ok and tostring(fault):find([[{words}]], 1, true) ~= nil or error(fault)"
        ));
    }
}

/// The attack: a service that never answers, or never stops answering.
#[test]
fn a_service_is_bounded_in_time_and_size() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    check_body(&format!(
        "local c = kumo.http.build_client {{ timeout = '200 ms' }}
         local ok, fault = pcall(function() c:get('http://{address}/'):send() end)
         return not ok and tostring(fault):find 'did not answer in time' ~= nil or error(fault)"
    ));
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endless.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in endless.incoming().map_while(Result::ok) {
            // An answer before the question would be another fault.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            let piece = vec![b'x'; 1 << 20];
            while stream.write_all(&piece).is_ok() {}
        }
    });
    let huge = serve(|_| ("200 OK", "x".repeat(11 << 20)));
    for url in [format!("http://{address}/"), huge] {
        check_body(&format!(
            "local ok, fault = pcall(function() kumo.http.build_client():get('{url}'):send() end)
             return not ok and tostring(fault):find 'longer than' ~= nil or error(fault)"
        ));
    }
}

/// The attack: a service that sends the client, and its credentials, elsewhere.
#[test]
fn a_redirect_to_another_host_gets_no_credentials() {
    let elsewhere = echo().replace("127.0.0.1", "localhost");
    let target = elsewhere.clone();
    let url = serve(move |_| ("302 Found", format!("{target}/there")));
    check_body(&format!(
        "local r = kumo.http.build_client():get('{url}/'):basic_auth('scott', 'tiger'):send():text():lower()
         return r:find('get /there', 1, true) ~= nil and not r:find 'authorization' or error(r)"
    ));
}

/// The need: a handler that makes its client anew for each request pays for one connection.
#[test]
fn clients_made_for_each_call_share_their_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer), Ok(1..)) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                }
            });
        }
    });
    let lua = handler(&format!(
        "return kumo.http.build_client {{ user_agent = user }}:get('http://{address}/'):send():text() == 'ok'"
    ));
    let loaded = load_one_worker(&lua);
    for user in ["a", "a", "a", "b", "a", "b"] {
        let got = block_on(loaded.policy.judge(basic(user, "x")));
        assert_eq!(identity(&got), Some(user), "{got:?}");
    }
    assert_eq!(
        opened.load(Ordering::SeqCst),
        2,
        "one for each set of options"
    );
}

/// The attack: a service whose answers, or a policy whose requests, fill the memory outside of Lua's limit of 16 MiB.
#[test]
fn answers_and_requests_are_bounded_together() {
    let url = serve(|_| ("200 OK", "x".repeat(5 << 20)));
    let lua = handler(&format!(
        "local client, kept = kumo.http.build_client {{}}, {{}}
         if user == 'keeps' then
           for i = 1, 4 do kept[i] = client:get('{url}/'):send() end
         elseif user == 'hoards' then
           local body = ('x'):rep(1 << 20)
           for i = 1, 32 do kept[i] = client:post('{url}/'):body(body) end
         else
           for i = 1, 8 do kept[1] = client:get('{url}/'):send() end
         end
         return #kept > 0"
    ));
    let loaded = load_one_worker(&lua);
    for user in ["keeps", "lets-go", "hoards", "keeps", "lets-go"] {
        let got = block_on(loaded.policy.judge(basic(user, "x")));
        if user == "lets-go" {
            assert_eq!(identity(&got), Some(user), "{got:?}");
        } else {
            assert_eq!(got, gatepost_auth::Judgement::Failed, "{user}");
        }
    }
    check_body(&format!(
        "local kept, client = {{}}, kumo.http.build_client {{}}
         local ok, fault = pcall(function() for i = 1, 4 do kept[i] = client:get('{url}/'):send() end end)
         return not ok and #kept == 3 and tostring(fault):find 'more than 16777216 bytes together' ~= nil or error(fault)"
    ));
}
