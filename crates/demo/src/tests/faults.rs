//! What is wrong is refused, with words that help, and nothing of it is stored.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Server;
use super::{request, request_with};

/// Injects each request, and expects the path and the words of its refusal.
async fn check<const N: usize>(cases: [(Value, &str, &str); N]) {
    let server = Server::in_memory().await;
    for (body, path, problem) in cases {
        let reply = server.inject(&body).await;
        assert_eq!(reply.status, 422, "{path}: {}", reply.body);
        let answer = reply.json();
        assert_eq!(answer["path"], path, "{answer}");
        let words = answer["error"].as_str().unwrap();
        assert!(words.contains(problem), "{words}");
        let field = path.rsplit('.').next().filter(|field| !field.is_empty());
        let field = field.filter(|field| !field.ends_with(']'));
        assert_eq!(answer["field"].as_str(), field, "{answer}");
    }
    assert_eq!(server.count().await, 0);
}

/// A request whose content has a text and that part.
fn part(key: &str, value: Value) -> Value {
    let mut content = json!({"text_body": "x"});
    content[key] = value;
    request_with("/content", content)
}

/// A misspelt field is a wish that would not come true.
#[tokio::test]
async fn unknown_fields_are_named_with_their_place() {
    let good = json!({"content_type": "a/b", "data": ""});
    let mut bad = good.clone();
    bad["nope"] = json!(1);
    let unknown = "unknown field `nope`, expected";
    check([
        (request_with("/nope", json!(1)), "nope", unknown),
        (
            request_with("/recipients/0/nope", json!(1)),
            "recipients[0].nope",
            unknown,
        ),
        (part("nope", json!(1)), "content.nope", unknown),
        (
            part("from", json!({"email": "", "nope": 1})),
            "content.from.nope",
            unknown,
        ),
        (
            part("attachments", json!([good, bad])),
            "content.attachments[1].nope",
            unknown,
        ),
        (
            request_with("/trace_headers", json!({"nope": 1})),
            "trace_headers.nope",
            unknown,
        ),
    ])
    .await;
}

#[tokio::test]
async fn wrong_types_are_named_with_their_place() {
    let missing = "missing field `content_type`";
    check([
        (json!({}), ".", "missing field"),
        (
            request_with("/content", json!(1)),
            "content",
            "expected an RFC 822 message",
        ),
        (
            request_with("/content", Value::Null),
            "content",
            "invalid type: null",
        ),
        (
            part("subject", json!(1)),
            "content.subject",
            "expected a string",
        ),
        (
            part("headers", json!({"X": 1})),
            "content.headers.X",
            "invalid type",
        ),
        (
            part("attachments", json!([{"data": ""}])),
            "content.attachments[0]",
            missing,
        ),
        (
            request_with("/template_dialect", json!("PHP")),
            "template_dialect",
            "unknown variant",
        ),
        (
            request_with("/recipients", json!([{}])),
            "recipients[0]",
            "missing field `email`",
        ),
        (
            request_with("/recipients", json!(["a@b"])),
            "recipients[0]",
            "invalid type",
        ),
        (
            request_with("/recipients/0/metadata", json!("x")),
            "recipients[0].metadata",
            "a map",
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_no_mail_can_be_made_of_is_named_with_its_place() {
    let big = json!({"x": "y".repeat(1024 * 1024)});
    let textless = json!({"subject": "x"});
    let two_lines = json!("a@b.c\r\nDATA");
    check([
        (
            request_with("/envelope_sender", json!("nobody")),
            "envelope_sender",
            "local@domain",
        ),
        (
            request_with("/envelope_sender", json!("")),
            "envelope_sender",
            "empty",
        ),
        (
            request_with("/envelope_sender", two_lines),
            "envelope_sender",
            "control character",
        ),
        (
            request_with("/recipients", json!([])),
            "recipients",
            "at least one",
        ),
        (
            request_with("/content", textless),
            "content",
            "at least one of text_body",
        ),
        (
            request_with("/recipients/0/metadata", big.clone()),
            "recipients[0]",
            "longer than",
        ),
        (
            request_with("/substitutions", big),
            "substitutions",
            "longer than",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_fault_is_described_shortly_even_if_its_name_is_long() {
    let server = Server::in_memory().await;
    let reply = server
        .inject(&request_with(
            &format!("/{}", "x".repeat(100_000)),
            json!(1),
        ))
        .await;
    assert_eq!(reply.status, 422);
    assert!(reply.body.len() < 4096, "{} bytes", reply.body.len());
}

#[tokio::test]
async fn only_json_is_json_whatever_its_content_type_says() {
    let server = Server::in_memory().await;
    let good = request().to_string();
    let twice = format!("{good}{good}");
    let duplicate = good.replacen('{', r#"{"content":"", "#, 1);
    let nested = "[".repeat(100_000);
    let cases: [(&[u8], &[u8], u16); 10] = [
        (b"Content-Type: application/json\r\n", good.as_bytes(), 200),
        (b"Content-Type: text/plain\r\n", good.as_bytes(), 200),
        (b"", good.as_bytes(), 200),
        (b"Content-Type: application/json\r\n", b"", 400),
        (
            b"Content-Type: application/json\r\n",
            b"envelope_sender=a",
            400,
        ),
        (b"", b"{\"envelope_sender\": \"\xff\"}", 400),
        (b"", &good.as_bytes()[..good.len() - 1], 400),
        (b"", twice.as_bytes(), 400),
        (b"", duplicate.as_bytes(), 422),
        (b"", nested.as_bytes(), 422),
    ];
    for (headers, body, status) in cases {
        let reply = server.post("/api/inject/v1", headers, body).await;
        assert_eq!(
            reply.status,
            status,
            "{}: {}",
            body.escape_ascii(),
            reply.body
        );
        assert!(
            reply.head.contains("content-type: application/json"),
            "{}",
            reply.head
        );
    }
    assert_eq!(server.count().await, 3);
}

/// A request that broke off on its way must not become a message, not even when its JSON happens
/// to be complete.
#[tokio::test]
async fn a_body_that_breaks_off_stores_nothing() {
    let server = Server::in_memory().await;
    let json = request().to_string();
    let chunk = format!("{:x}\r\n{json}\r\n", json.len());
    let head = "POST /api/inject/v1 HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n";
    let cases = [
        format!(
            "{head}Content-Length: {}\r\n\r\n{}",
            json.len(),
            &json[..json.len() / 2]
        ),
        format!("{head}Content-Length: {}\r\n\r\n{json}", json.len() + 10),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}"),
    ];
    for case in cases {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(case.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        // The server is done with the request once it closes.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(
            !answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            answer.escape_ascii()
        );
    }
    assert_eq!(server.count().await, 0);

    let whole = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
    assert_eq!(server.raw(whole.as_bytes()).await.0.status, 200);
    assert_eq!(server.count().await, 1);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_before_it_is_sent() {
    let server = Server::in_memory().await;
    let length = 128 * 1024 * 1024 + 1;
    let head = format!(
        "POST /api/inject/v1 HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\
         Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    let (reply, _) = server.raw(head.as_bytes()).await;
    assert_eq!(reply.status, 413, "no `100 Continue` first");
}

/// Without `Expect` the client is sending already, and must get to read why it is refused.
#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_readably() {
    let body = axum::body::Body::from(vec![b' '; 1000]);
    let headers = axum::http::HeaderMap::new();
    let limited = crate::body::read(body, &headers, 999, |_| Ok(())).await;
    assert_eq!(limited.unwrap_err().status(), 413);

    let server = Server::in_memory().await;
    let body = vec![b'!'; 4 * 1024 * 1024];
    let reply = server.post("/api/inject/v1", b"", &body).await;
    assert_eq!(
        reply.status, 400,
        "a fault in the first byte, four megabytes on their way"
    );
}
