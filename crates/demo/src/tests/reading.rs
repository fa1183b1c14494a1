//! The other paths: lists, messages and pages, and the headers they all carry.

use serde_json::json;

use super::client::Server;
use super::{request, request_with};

#[tokio::test]
async fn drain_counts_and_keeps_nothing() {
    let server = Server::in_memory().await;
    let body = vec![0; 10_000_000];
    let reply = server
        .post("/drain", b"X-Http-Auth: scott\r\n", &body)
        .await;
    assert_eq!(
        reply.json(),
        json!({"bytes": 10_000_000, "http_auth": "scott"})
    );
    assert_eq!(server.count().await, 0);
}

#[tokio::test]
async fn lists_are_newest_first_and_limited() {
    let server = Server::in_memory().await;
    for sender in ["a@example.com", "b@example.com", "c@example.com"] {
        server
            .inject(&request_with("/envelope_sender", json!(sender)))
            .await;
    }
    let cases: [(&str, &[i64]); 5] = [
        ("", &[3, 2, 1]),
        ("?", &[3, 2, 1]),
        ("?limit=2", &[3, 2]),
        ("?limit=0", &[]),
        ("?limit=999999999", &[3, 2, 1]),
    ];
    for (query, expected) in cases {
        let list = server.get_json(&format!("/messages{query}")).await;
        let ids: Vec<i64> = list["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["id"].as_i64().unwrap())
            .collect();
        assert_eq!(ids, expected, "{query}");
    }
    let newest = server.get_json("/messages?limit=1").await["messages"][0].take();
    let mut keys: Vec<&String> = newest.as_object().unwrap().keys().collect();
    keys.sort();
    let expected = ["http_auth", "id", "recipient", "sender", "size", "time"];
    assert_eq!(keys, expected);
    let time = newest["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");

    for query in ["?limit=x", "?limit=-1", "?limt=1", "?limit"] {
        assert_eq!(
            server.get(&format!("/messages{query}"), "*/*").await.status,
            400,
            "{query}"
        );
    }
}

/// Whatever an application or an attacker injects is shown, and nothing of it is obeyed.
#[tokio::test]
async fn pages_escape_what_strangers_wrote() {
    let server = Server::in_memory().await;
    let evil = "<script>alert('1')</script>\"&";
    let body = json!({
        "envelope_sender": "\"><script>@example.com".replace(['<', '>'], ""),
        "recipients": [{"email": "'\"&@example.com", "name": evil, "metadata": {evil: evil},
                        "substitutions": {evil: evil}}],
        "content": {"text_body": evil, "headers": {evil: evil}},
        "substitutions": {evil: evil},
    });
    let headers = format!("X-Http-Auth: {evil}\r\nX-Evil: {evil}\r\n");
    let reply = server
        .post(
            "/api/inject/v1",
            headers.as_bytes(),
            body.to_string().as_bytes(),
        )
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    server.inject(&request_with("/content", json!(evil))).await;

    for path in ["/messages", "/messages/1", "/messages/2"] {
        let reply = server.get(path, "text/html").await;
        assert_eq!(reply.status, 200);
        assert!(
            reply
                .head
                .contains("content-type: text/html; charset=utf-8"),
            "{}",
            reply.head
        );
        assert!(!reply.body.contains("<script"), "{}", reply.body);
        assert!(!reply.body.contains("\"&@"), "{}", reply.body);
        assert!(
            reply.body.contains("&lt;script&gt;alert(&#39;1&#39;)"),
            "{}",
            reply.body
        );
    }
}

#[tokio::test]
async fn every_answer_forbids_scripts_and_guessing() {
    let server = Server::in_memory().await;
    server.inject(&request()).await;
    let cases = [
        ("/", "*/*", 200, "text/html"),
        ("/healthz", "*/*", 200, "text/plain"),
        ("/style.css", "*/*", 200, "text/css"),
        ("/messages", "*/*", 200, "application/json"),
        ("/messages", "text/html", 200, "text/html"),
        ("/messages/1", "application/json", 200, "application/json"),
        ("/messages/1", "text/html", 200, "text/html"),
        ("/messages/2", "*/*", 404, "application/json"),
        ("/messages/2", "text/html", 404, "text/html"),
        ("/messages/x", "*/*", 404, "application/json"),
        (
            "/messages/99999999999999999999",
            "*/*",
            404,
            "application/json",
        ),
        ("/messages/%ff", "*/*", 400, "text/plain"),
        ("/nothing", "*/*", 404, "application/json"),
        ("/nothing", "text/html", 404, "text/html"),
        ("/api/inject/v1", "*/*", 405, ""),
    ];
    for (path, accept, status, content_type) in cases {
        let reply = server.get(path, accept).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.head.contains(content_type), "{path}: {}", reply.head);
        for rule in [
            "content-security-policy: default-src 'none'; style-src 'self';",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
        ] {
            assert!(reply.head.contains(rule), "{path}: {}", reply.head);
        }
    }
    let about = server.get("/", "*/*").await.body;
    assert!(
        about.contains("demo") && about.contains("never sends"),
        "{about}"
    );
}
