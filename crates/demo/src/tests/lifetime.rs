//! Start and end: the file that outlives the process, and a prompt shutdown.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Server;
use super::{request, request_with};
use crate::{Demo, DemoError, DemoSettings};

#[tokio::test]
async fn messages_in_a_file_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let settings = DemoSettings {
        store: Some(folder.path().join("messages.sqlite")),
    };
    let server = Server::start(settings.clone()).await;
    let recipients =
        json!([{"email": "a@example.com"}, {"email": "b@example.com", "metadata": {"m": 1}}]);
    let body = request_with("/recipients", recipients).to_string();
    let identity = "X-Http-Auth: jürgen\r\n".as_bytes();
    assert_eq!(
        server
            .post("/api/inject/v1", identity, body.as_bytes())
            .await
            .status,
        200
    );
    let before = [
        server.get_json("/messages/1").await,
        server.get_json("/messages/2").await,
    ];
    server.stop().await;

    let server = Server::start(settings).await;
    let after = [
        server.get_json("/messages/1").await,
        server.get_json("/messages/2").await,
    ];
    assert_eq!(before, after);
    assert_eq!(after[1]["meta"]["http_auth"], "jürgen");
    assert_eq!(after[1]["metadata"], json!({"m": 1}));
    assert_eq!(after[0]["content"], after[1]["content"]);
    server.inject(&request()).await;
    let list = server.get_json("/messages?limit=2").await;
    assert_eq!(list["messages"][0]["id"], 3);
    assert_eq!(list["messages"][1]["recipient"], "b@example.com");
    assert_eq!(server.get("/messages/4", "*/*").await.status, 404);
}

#[test]
fn a_file_that_cannot_be_the_store_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(
        &text,
        "not a database, but quite long enough to look like one".repeat(50),
    )
    .unwrap();
    let foreign = folder.path().join("foreign.sqlite");
    rusqlite::Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE messages (id INTEGER)")
        .unwrap();
    let cases = [
        (
            text.clone(),
            "as the demo's message store: file is not a database",
        ),
        (
            folder.path().join("missing/messages.sqlite"),
            "unable to open database file",
        ),
        (foreign.clone(), "is a database of another program"),
    ];
    for (path, words) in cases {
        let before = std::fs::read(&path).ok();
        let error = Demo::open(DemoSettings {
            store: Some(path.clone()),
        })
        .unwrap_err();
        let source = std::error::Error::source(&error);
        let told = source.map_or(error.to_string(), |source| format!("{error}: {source}"));
        assert!(told.contains(words), "{told}");
        assert!(told.contains(path.to_str().unwrap()), "{told}");
        assert_eq!(std::fs::read(&path).ok(), before);
        let is_foreign = matches!(error, DemoError::ForeignStore { .. });
        assert_eq!(is_foreign, path == foreign);
    }
}

/// The sidecar's own deadline for its end must not hang on a connection nobody uses.
#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_shutdown() {
    let server = Server::in_memory().await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: demo\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 1024];
    assert!(idle.read(&mut answer).await.unwrap() > 0);
    let begun = std::time::Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < crate::SHUTDOWN_GRACE);
}
