//! A demo on a loopback port, and a client that sends exactly the bytes it is told to.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::{Demo, DemoSettings};

/// A running demo.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

/// What came back.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Server {
    pub(super) async fn start(settings: DemoSettings) -> Self {
        let demo = Demo::open(settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(demo.serve(listener, async {
            let _ = stopped.await;
        }));
        Self {
            address,
            stop,
            task,
        }
    }

    pub(super) async fn in_memory() -> Self {
        Self::start(DemoSettings::default()).await
    }

    pub(super) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    /// Sends the bytes, ends its own side, and reads to the end. The peer's address comes along.
    pub(super) async fn raw(&self, bytes: &[u8]) -> (Reply, SocketAddr) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let own_address = stream.local_addr().unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .expect("an answer with a head");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (
            Reply {
                status,
                head: head.to_ascii_lowercase(),
                body: body.to_owned(),
            },
            own_address,
        )
    }

    pub(super) async fn get(&self, path: &str, accept: &str) -> Reply {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: demo\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        );
        self.raw(head.as_bytes()).await.0
    }

    pub(super) async fn get_json(&self, path: &str) -> Value {
        let reply = self.get(path, "*/*").await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.json()
    }

    /// Sends a body with extra header lines, each with its line end.
    pub(super) async fn post(&self, path: &str, header_lines: &[u8], body: &[u8]) -> Reply {
        self.raw(&post_bytes(path, header_lines, body)).await.0
    }

    pub(super) async fn inject(&self, body: &Value) -> Reply {
        self.post("/api/inject/v1", b"", body.to_string().as_bytes())
            .await
    }

    /// How many messages are stored.
    pub(super) async fn count(&self) -> usize {
        self.get_json("/messages").await["messages"]
            .as_array()
            .unwrap()
            .len()
    }
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }
}

/// A whole POST request.
pub(super) fn post_bytes(path: &str, header_lines: &[u8], body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\nContent-Length: {length}\r\n"
    );
    [head.as_bytes(), header_lines, b"\r\n", body].concat()
}
