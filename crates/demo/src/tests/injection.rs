//! What is injected is stored, with the identity of who injected it.

use serde_json::{Value, json};

use super::client::{Server, post_bytes};
use super::{request, request_with};

#[tokio::test]
async fn an_injected_message_can_be_read_again() {
    let server = Server::in_memory().await;
    let body = json!({
        "envelope_sender": "noreply@example.com",
        "recipients": [
            {"email": "a@example.com"},
            {"email": "b@example.com", "name": "B", "substitutions": {"age": 42},
             "metadata": {"campaign": "x"}},
        ],
        "content": "Subject: hello {{ name }}\n\nHello there",
        "substitutions": {"title": "Fall"},
        "deferred_spool": true,
        "deferred_generation": false,
        "template_dialect": "Handlebars",
        "trace_headers": {"received_header": false, "supplemental_header": true,
                          "header_name": "X-T", "include_meta_names": ["user"]},
    });
    let headers = "X-Http-Auth: scott\r\nX-Other: 1\r\nx-other: 2\r\n\
                   Authorization: Basic c2NvdHQ6dGlnZXI=\r\n\
                   Proxy-Authorization: Basic c2NvdHQ6dGlnZXI=\r\n";
    let bytes = post_bytes(
        "/api/inject/v1",
        headers.as_bytes(),
        body.to_string().as_bytes(),
    );
    let (reply, peer) = server.raw(&bytes).await;
    assert_eq!(reply.status, 200);
    let expected = r#"{"success_count":2,"fail_count":0,"failed_recipients":[],"errors":[]}"#;
    assert_eq!(reply.body, expected);

    let message = server.get_json("/messages/2").await;
    let expected = [
        ("/id", json!(2)),
        ("/sender", json!("noreply@example.com")),
        ("/recipient", json!("b@example.com")),
        ("/name", json!("B")),
        ("/substitutions", json!({"age": 42})),
        ("/metadata", json!({"campaign": "x"})),
        ("/request_substitutions", json!({"title": "Fall"})),
        ("/content", body["content"].clone()),
        ("/size", json!(38)),
        ("/truncated", json!(false)),
        ("/options/template_dialect", json!("Handlebars")),
        ("/options/trace_headers", body["trace_headers"].clone()),
        (
            "/meta",
            json!({
                "http_auth": "scott",
                "received_from": peer.to_string(),
                "reception_protocol": "HTTP",
            }),
        ),
    ];
    for (pointer, value) in expected {
        assert_eq!(message.pointer(pointer), Some(&value), "{pointer}");
    }
    let headers = message["headers"].as_array().unwrap();
    for expected in [
        json!(["x-other", "1"]),
        json!(["x-other", "2"]),
        json!(["authorization", "[redacted]"]),
        json!(["proxy-authorization", "[redacted]"]),
    ] {
        assert!(headers.contains(&expected), "{expected} in {headers:?}");
    }
    assert!(!message.to_string().contains("c2NvdHQ6dGlnZXI="));

    let first = server.get_json("/messages/1").await;
    assert_eq!(first["recipient"], "a@example.com");
    assert_eq!(first["name"], Value::Null);
    assert_eq!(first["content"], message["content"]);
    server.stop().await;
}

/// The proxy must be the only one who sets the header. If it lets a client's own through beside
/// its own, no choice between the two may hide that.
#[tokio::test]
async fn the_identity_is_what_the_header_says_once() {
    let server = Server::in_memory().await;
    let cases: [(&[u8], Value, bool); 7] = [
        (b"", Value::Null, false),
        (b"X-Http-Auth: scott\r\n", json!("scott"), false),
        (b"x-http-auth:   10.0.0.7  \r\n", json!("10.0.0.7"), false),
        (
            "X-Http-Auth: jürgen-日本\r\n".as_bytes(),
            json!("jürgen-日本"),
            false,
        ),
        (b"X-Http-Auth: j\xfcrgen\r\n", Value::Null, false),
        (
            b"X-Http-Auth: scott\r\nx-http-auth: root\r\n",
            Value::Null,
            true,
        ),
        (
            b"X-Http-Auth: scott\r\nX-Http-Auth: scott\r\n",
            Value::Null,
            true,
        ),
    ];
    for (id, (headers, http_auth, conflict)) in (1..).zip(cases) {
        let body = request().to_string();
        let reply = server
            .post("/api/inject/v1", headers, body.as_bytes())
            .await;
        assert_eq!(reply.status, 200);
        let meta = server.get_json(&format!("/messages/{id}")).await["meta"].take();
        assert_eq!(meta["http_auth"], http_auth, "{}", headers.escape_ascii());
        let seen = meta["http_auth_conflict"].as_bool().unwrap_or_default();
        assert_eq!(seen, conflict, "{}", headers.escape_ascii());

        let drained = server.post("/drain", headers, b"12345").await.json();
        assert_eq!(drained["bytes"], 5);
        assert_eq!(drained["http_auth"], http_auth);
    }
}

#[tokio::test]
async fn content_comes_as_text_or_in_parts() {
    let server = Server::in_memory().await;
    let cases = [
        (json!("Subject: ü\r\n\r\nhello"), 20),
        (json!(""), 0),
        (
            json!({
                "text_body": "hello",
                "html_body": "<p>hello",
                "amp_html_body": "<p>",
                "subject": "Hi",
                "from": {"email": "a@b.c", "name": "A"},
                "reply_to": {"email": "r@b.c"},
                "headers": {"X-A": "b"},
                "attachments": [{"data": "YQ==", "content_type": "a/b", "base64": true,
                                 "file_name": "f", "content_id": "c"}],
            }),
            42,
        ),
        (json!({"html_body": "x"}), 1),
    ];
    for (id, (content, size)) in (1..).zip(cases) {
        let reply = server
            .inject(&request_with("/content", content.clone()))
            .await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let message = server.get_json(&format!("/messages/{id}")).await;
        assert_eq!(message["content"], content);
        assert_eq!(message["size"], size);
        assert_eq!(message["truncated"], false);
    }
}

#[tokio::test]
async fn a_long_content_is_cut_and_says_so() {
    let server = Server::in_memory().await;
    let long = "a".repeat(3 * 1024 * 1024);
    server.inject(&request_with("/content", json!(long))).await;
    let message = server.get_json("/messages/1").await;
    assert_eq!(message["truncated"], true);
    assert_eq!(message["size"], long.len());
    assert_eq!(message["content"].as_str().unwrap().len(), 1024 * 1024);
}

#[tokio::test]
async fn a_wrong_recipient_fails_alone() {
    let server = Server::in_memory().await;
    let emails = [
        "a@example.com",
        "nobody",
        "b@example.com\r\nDATA",
        "",
        "c@example.com",
    ];
    let recipients: Vec<Value> = emails.iter().map(|email| json!({"email": email})).collect();
    let reply = server
        .inject(&request_with("/recipients", json!(recipients)))
        .await;
    assert_eq!(reply.status, 200);
    let answer = reply.json();
    assert_eq!(answer["success_count"], 2);
    assert_eq!(answer["fail_count"], 3);
    assert_eq!(answer["failed_recipients"], json!(emails[1..4]));
    assert_eq!(answer["errors"].as_array().unwrap().len(), 3);
    assert_eq!(
        answer["errors"][0],
        "nobody: the address is not of the form local@domain"
    );
    assert_eq!(server.count().await, 2);

    let reply = server
        .inject(&request_with("/recipients", json!([{"email": "x"}])))
        .await;
    assert_eq!(
        (reply.status, reply.json()["fail_count"].clone()),
        (200, json!(1))
    );
    assert_eq!(server.count().await, 2);
}

/// `KumoMTA` answers such a request before it has generated anything.
#[tokio::test]
async fn deferred_generation_reports_no_success() {
    let server = Server::in_memory().await;
    let reply = server
        .inject(&request_with("/deferred_generation", json!(true)))
        .await;
    assert_eq!(reply.json()["success_count"], 0);
    assert_eq!(server.count().await, 1);
}
