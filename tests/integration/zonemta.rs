//! Before a real `ZoneMTA` with `deploy/zonemta`: HTTP in, SMTP out to a server that keeps every byte.
//!
//! It keeps its queue in a MongoDB, which Debian does not have; `SecantusDB` speaks that protocol.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    Connection, Gatepost, Reply, STRANGER, Setup, TRUSTED, basic, wait_for, write,
};
use crate::mta::{Delivered, Sink, repository, shipped};
use crate::program::Program;
use crate::redis::Redis;

/// Everything that stands behind a gatepost. What needs others comes before them, so that it ends first.
struct Chain {
    gate: Gatepost,
    zonemta: Program,
    _database: Program,
    _redis: Redis,
    sink: Sink,
}

impl Chain {
    fn start() -> Self {
        let sink = Sink::start();
        let redis = Redis::start();
        let database = database();
        let zonemta = zonemta(database.addresses[0], &redis, sink.address());
        let gate = Setup::shipped(
            &shipped("deploy/zonemta/gatepost.yaml"),
            zonemta.addresses[0],
            &shipped("lua/policy.lua"),
        )
        .start();
        Self {
            gate,
            zonemta,
            _database: database,
            _redis: redis,
            sink,
        }
    }

    /// A request with these header lines, each with its line end.
    fn send(&self, path: &str, headers: &str, body: &str) -> Reply {
        let request = request(path, headers, body);
        self.gate.send(STRANGER, request).unwrap()
    }

    /// Scott's message as it is.
    fn send_raw(&self, headers: &str, message: &str) -> Reply {
        let headers = format!("{}{TYPE}{headers}", basic("scott", "tiger"));
        self.send("/send-raw", &headers, message)
    }
}

const TYPE: &str = "Content-Type: message/rfc822\r\n";

fn request(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: gate\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn database() -> Program {
    let server = repository("target/secantusdb/bin/secantusd-py");
    let script = format!(
        "exec '{}' --host 127.0.0.8 --port \"$(cat config)\" --storage-path data --standalone",
        server.display()
    );
    let config = |listen: &[SocketAddr], _: &Path| listen[0].port().to_string();
    Program::start("sh", &["-c", &script], 1, config)
}

/// With what is shipped for it, and the servers of the test.
fn zonemta(database: SocketAddr, redis: &Redis, sink: SocketAddr) -> Program {
    let home = repository("target/zonemta/node_modules/zone-mta");
    // It looks for its own plugins where it was started.
    let script = format!(
        "folder=$PWD; cd '{}'; exec node app.js --config=\"$folder/zonemta.toml\"",
        home.display()
    );
    let (redis_host, redis_port) = redis.address();
    let zonemta = Program::start("sh", &["-c", &script], 2, |listen, folder| {
        let (api, queue) = (listen[0], listen[1]);
        let mut toml = shipped("deploy/zonemta/gatepost.toml");
        for (from, to) in [
            ("host = \"127.0.0.1\"", format!("host = \"{}\"", api.ip())),
            (
                "port = 12080",
                format!("port = {}\nhostname = \"{}\"", api.port(), api.ip()),
            ),
        ] {
            assert_eq!(toml.matches(from).count(), 1, "{from}");
            toml = toml.replace(from, &to);
        }
        toml += &format!(
            "
[dbs]
mongo = \"mongodb://{database}/zone-mta\"
[dbs.redis]
host = \"{redis_host}\"
port = {redis_port}
[queueServer]
host = \"{}\"
hostname = \"{}\"
port = {}
[smtpInterfaces.feeder]
enabled = false
[dns]
caching = false
[zones.default]
host = \"{}\"
port = {}
",
            queue.ip(),
            queue.ip(),
            queue.port(),
            sink.ip(),
            sink.port()
        );
        write(folder, "zonemta.toml", &toml);
        String::new()
    });
    wait_until_loaded(&zonemta, 1);
    zonemta
}

/// It takes requests before it can do anything with them; the last of its plugins says when that is over.
fn wait_until_loaded(zonemta: &Program, starts: usize) {
    wait_for("ZoneMTA to load its plugins", || {
        let output = zonemta.output();
        let loaded = |it: &&str| it.contains("Plugins/main/") && it.contains("DeliveryLoop");
        output.lines().filter(loaded).count() >= starts
    });
}

/// Whom the message's first `Received` names.
fn sender(message: &Delivered) -> &str {
    let received = message.values("received")[0];
    let name = received
        .split_once("(Authenticated sender: ")
        .map(|it| it.1);
    name.and_then(|it| it.split_once(")\r\n"))
        .map_or("", |it| it.0)
}

fn raw(recipient: &str) -> String {
    format!("From: me@example.com\r\nTo: {recipient}\r\nSubject: hello\r\n\r\nHello.\r\n")
}

fn json_to(recipient: &str) -> Value {
    json!({
        "envelope": { "from": "me@example.com", "to": [recipient] },
        "from": "me@example.com",
        "to": recipient,
        "subject": "hello",
        "text": "Hello.",
    })
}

/// What a client would like to have been written by a server before ZoneMTA.
const RECEIVED: &str =
    "Received: from x (Authenticated sender: nobody)\r\n by y; Fri, 27 Nov 2026 18:00:00 +0000\r\n";

/// The need: ZoneMTA's log and the message say who sent it. The attack: somebody else's name, in every place where a client
/// can write one.
#[test]
fn zonemta_knows_who_sent_a_message() {
    let chain = Chain::start();
    let user = format!(
        "{}Content-Type: application/json\r\n",
        basic("scott", "tiger")
    );
    // All are sent before anything is waited for: ZoneMTA looks into its queue every few seconds.
    let reply = chain.send_raw("", &raw("plain@example.net"));
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(!reply.json()["id"].as_str().unwrap().is_empty());
    let reply = chain.send("/send", &user, &json_to("json@example.net").to_string());
    assert_eq!(reply.status, 200, "{reply:?}");
    let jürgen = format!("{}{TYPE}", basic("jürgen", "grüße"));
    let reply = chain.send("/send-raw", &jürgen, &raw("named@example.net"));
    assert_eq!(reply.status, 200, "{reply:?}");
    let forged = "X-Authenticated-User: root\r\nx_authenticated_user: root\r\nX-AUTHENTICATED-USER: root\r\n\
        X-Originating-IP: 6.6.6.6\r\nx_originating_ip: 6.6.6.6\r\nConnection: X-Authenticated-User\r\n";
    let reply = chain.send_raw(forged, &raw("forged@example.net"));
    assert_eq!(reply.status, 200, "{reply:?}");
    let body = ".\r\n..\r\n.dot\r\n \r\nf\u{fc}r\r\n\r\n.\r\n";
    let many = format!(
        "From: me@example.com\r\nTo: a@example.net, b@example.net\r\nCc: c@example.org\r\nBcc: d@example.org\r\nSubject: many\r\n\r\n{body}"
    );
    assert_eq!(chain.send_raw("", &many).status, 200);

    // What ZoneMTA believes where nobody stands before it: whatever is said.
    let direct = format!("{TYPE}X-Authenticated-User: root\r\nX-Originating-IP: 6.6.6.6\r\n");
    let mut connection = Connection::open(chain.zonemta.addresses[0], TRUSTED);
    let message = format!("{RECEIVED}{}", raw("direct@example.net"));
    connection.write(request("/send-raw", &direct, &message));
    assert_eq!(connection.reply().unwrap().status, 200);

    let message = chain.sink.only("plain@example.net");
    assert_eq!(sender(&message), "scott");
    assert_eq!(message.sender, "me@example.com");
    assert_eq!(message.body, b"Hello.\r\n");
    let message = chain.sink.only("json@example.net");
    assert_eq!(sender(&message), "scott");
    assert_eq!(message.sender, "me@example.com");
    // Other letters than ASCII's are not what they were, but nobody else's.
    assert_eq!(sender(&chain.sink.only("named@example.net")), "jÃ¼rgen");
    let message = chain.sink.only("forged@example.net");
    assert_eq!(sender(&message), "scott");
    let headers = message.headers.join("\n");
    assert!(
        !headers.contains("root") && !headers.contains("6.6.6.6"),
        "{headers}"
    );
    // Byte for byte, to several recipients of whom nobody is told of the last.
    for recipient in [
        "a@example.net",
        "b@example.net",
        "c@example.org",
        "d@example.org",
    ] {
        let message = chain.sink.only(recipient);
        assert_eq!(message.body, body.as_bytes());
        assert_eq!(message.values("bcc"), [""; 0]);
        assert_eq!(sender(&message), "scott");
    }
    let message = chain.sink.only("direct@example.net");
    assert_eq!(sender(&message), "root");
    assert!(message.headers.join("\n").contains("6.6.6.6"));
    assert!(chain.zonemta.output().contains(" auth=nobody "));
}

/// The attack: everything that ZoneMTA would take. The need: it stops and comes back, and nobody has to do anything in gatepost.
#[test]
fn what_zonemta_would_take_is_refused() {
    let mut chain = Chain::start();
    let user = format!(
        "{}Content-Type: application/json\r\n",
        basic("scott", "tiger")
    );
    for more in [
        RECEIVED,
        "X-Sending-Zone: bounces\r\n",
        "x-sending-zone: bounces\r\n",
    ] {
        let message = format!("{more}{}", raw("refused@example.net"));
        assert_eq!(chain.send_raw("", &message).status, 403, "{more}");
        let (name, value) = more.trim().split_once(": ").unwrap();
        let mut message = json_to("refused@example.net");
        message["headers"] = json!({ name: value.replace("\r\n", "") });
        let reply = chain.send("/send", &user, &message.to_string());
        assert_eq!(reply.status, 403, "{more}");
    }
    for (headers, status) in [
        (TYPE.to_owned(), 401),
        (format!("X-Authenticated-User: scott\r\n{TYPE}"), 401),
        (format!("{}{TYPE}", basic("scott", "lion")), 401),
        (basic("scott", "tiger"), 415),
    ] {
        let reply = chain.send("/send-raw", &headers, &raw("refused@example.net"));
        assert_eq!(reply.status, status, "{headers}");
    }
    for broken in ["{", "{}", "[]"] {
        let reply = chain.send("/send", &user, broken);
        assert!([400, 422].contains(&reply.status), "{broken} {reply:?}");
    }
    for path in [
        "/store/1",
        "/counter/zone/default",
        "/metrics",
        "/send/",
        "/SEND",
    ] {
        let reply = chain.send(path, &user, "");
        assert_eq!(reply.status, 404, "{path}");
    }

    chain.zonemta.kill();
    let status = chain.send_raw("", &raw("refused@example.net")).status;
    assert!([502, 503].contains(&status), "{status}");
    chain.zonemta.start_again();
    wait_until_loaded(&chain.zonemta, 2);
    let reply = chain.send_raw("", &raw("after@example.net"));
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(sender(&chain.sink.only("after@example.net")), "scott");
    let delivered = chain.sink.delivered();
    assert_eq!(delivered.len(), 1, "{delivered:?}");
}
