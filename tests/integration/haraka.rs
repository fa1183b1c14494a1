//! Before a real Haraka with `deploy/haraka`: HTTP in, SMTP out to a server that keeps every byte.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::harness::{
    Connection, Gatepost, PATIENCE, Reply, STRANGER, Setup, TRUSTED, basic, wait_for, write,
};
use crate::mta::{Sink, repository, shipped};
use crate::program::Program;

/// In which header of the message Haraka says who sent it.
const SENT_AS: &str = "X-Sent-As";

/// Smaller than what is shipped, so that little is much.
const MAX_BYTES: usize = 64 * 1024;

/// The folder of a Haraka with the shipped plugin and configuration, which delivers everything to one server.
fn configure(folder: &Path, smtp: SocketAddr, listen: &str, sink: SocketAddr, nodes: u8) {
    let home = folder.join("haraka");
    let (config, plugins) = (home.join("config"), home.join("plugins"));
    std::fs::create_dir_all(&config).unwrap();
    std::fs::create_dir_all(&plugins).unwrap();
    let plugin = shipped("deploy/haraka/plugins/gatepost.js");
    write(&plugins, "gatepost.js", &plugin);
    let mut ini = shipped("deploy/haraka/config/gatepost.ini");
    for (from, to) in [
        ("listen=127.0.0.1:8025", format!("listen={listen}")),
        (
            ";message_header=X-Sent-As",
            format!("message_header={SENT_AS}"),
        ),
        ("max_bytes=26214400", format!("max_bytes={MAX_BYTES}")),
        ("max_memory=134217728", format!("max_memory={}", 100 * 1024)),
        ("max_recipients=1000", "max_recipients=5".to_owned()),
    ] {
        assert_eq!(ini.matches(from).count(), 1, "{from}");
        ini = ini.replace(from, &to);
    }
    write(&config, "gatepost.ini", &ini);
    write(&config, "plugins", "gatepost\nrelay\n");
    write(
        &config,
        "smtp.ini",
        &format!("listen={smtp}\nnodes={nodes}\n"),
    );
    write(&config, "log.ini", "[main]\nlevel=info\n");
    write(&config, "me", "mta.example\n");
    // As `haraka --install` writes it.
    let connection = shipped("target/haraka/node_modules/Haraka/config/connection.ini");
    write(&config, "connection.ini", &connection);
    write(
        &config,
        "relay.ini",
        "[relay]\nacl=true\nforce_routing=true\n",
    );
    write(&config, "relay_acl_allow", "127.0.0.0/8\n");
    let route = format!("[domains]\nany={{\"nexthop\":\"{sink}\"}}\n");
    write(&config, "relay_dest_domains.ini", &route);
}

fn binary() -> String {
    let binary = repository("target/haraka/node_modules/Haraka/bin/haraka");
    binary.display().to_string()
}

/// A Haraka that delivers there. Of its addresses the first takes SMTP, the second HTTP.
fn haraka(sink: &Sink) -> Program {
    let (binary, sink) = (binary(), sink.address());
    Program::start("node", &[&binary, "-c", "haraka"], 2, |listen, folder| {
        configure(folder, listen[0], &listen[1].to_string(), sink, 0);
        String::new()
    })
}

/// The configuration that is shipped for it, with the policy to start from, or another.
fn gate(haraka: impl std::fmt::Display, policy: &str) -> Setup {
    Setup::shipped(&shipped("deploy/haraka/gatepost.yaml"), haraka, policy)
}

/// All three, one behind the other.
fn chain() -> (Sink, Program, Gatepost) {
    let sink = Sink::start();
    let haraka = haraka(&sink);
    let gate = gate(haraka.addresses[1], &shipped("lua/policy.lua")).start();
    (sink, haraka, gate)
}

const FROM: &str = "X-Envelope-From: me@example.com\r\n";
const TYPE: &str = "Content-Type: message/rfc822\r\n";

/// A request with these header lines, each with its line end.
fn request(headers: &str, message: impl AsRef<[u8]>) -> Vec<u8> {
    let message = message.as_ref();
    let mut bytes = format!(
        "POST /inject HTTP/1.1\r\nHost: gate\r\nContent-Length: {}\r\n{headers}\r\n",
        message.len()
    )
    .into_bytes();
    bytes.extend_from_slice(message);
    bytes
}

/// The usual headers, to this recipient.
fn to(recipient: &str) -> String {
    format!("{TYPE}{FROM}X-Envelope-To: {recipient}\r\n")
}

/// Scott's, who may.
fn scotts(headers: &str, message: impl AsRef<[u8]>) -> Vec<u8> {
    request(&format!("{}{headers}", basic("scott", "tiger")), message)
}

const MESSAGE: &str = "From: me@example.com\r\nSubject: hello\r\n\r\nHello.\r\n";

/// How many messages Haraka has taken, by the plugin's own lines.
fn queued(haraka: &Program) -> usize {
    haraka.output().matches("queued ").count()
}

fn error(reply: &Reply) -> String {
    reply.json()["error"].as_str().unwrap().to_owned()
}

/// The need: who sent a message is known where it arrives. The attacks: wrong credentials, and somebody else's name in every
/// place where a client can write one.
#[test]
fn haraka_knows_who_sent_a_message() {
    let (sink, haraka, gate) = chain();
    let send = |bytes: Vec<u8>| gate.send(STRANGER, bytes).unwrap();

    let reply = send(scotts(&to("plain@example.net"), MESSAGE));
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(!reply.json()["id"].as_str().unwrap().is_empty());
    let message = sink.only("plain@example.net");
    assert_eq!(message.sender, "me@example.com");
    assert_eq!(message.recipients, ["plain@example.net"]);
    assert_eq!(message.values(SENT_AS), ["scott"]);
    assert_eq!(message.values("subject"), ["hello"]);
    assert_eq!(message.body, b"Hello.\r\n");

    let wrong = [
        to("wrong@example.net"),
        format!("{}{}", basic("scott", "lion"), to("wrong@example.net")),
        format!("X-Http-Auth: scott\r\n{}", to("wrong@example.net")),
        format!(
            "{}{}",
            basic("scott\r\nX-Http-Auth: root", "tiger"),
            to("wrong@example.net")
        ),
    ];
    let statuses: Vec<_> = wrong
        .iter()
        .map(|it| send(request(it, MESSAGE)).status)
        .collect();
    assert_eq!(statuses, [401, 401, 401, 400]);

    let forged = "X-Http-Auth: root\r\nx_http_auth: root\r\nX-HTTP-AUTH: root\r\nConnection: X-Http-Auth\r\nX-Sent-As: root\r\n";
    let message = "X-Sent-As: root\r\nFrom: me@example.com\r\nx-sent-as:root\r\n  and more\r\nX-SENT-AS:\r\n\troot\r\n\r\nX-Sent-As: root\r\n";
    let headers = format!("{forged}{}", to("forged@example.net"));
    assert_eq!(send(scotts(&headers, message)).status, 200);
    let message = sink.only("forged@example.net");
    assert_eq!(message.values(SENT_AS), ["scott"]);
    assert_eq!(message.body, b"X-Sent-As: root\r\n", "a body is a body");
    assert!(!message.headers.join("\n").contains("root"), "{message:?}");

    // Nobody else's name is written so.
    let jürgen = format!("{}{}", basic("jürgen", "grüße"), to("named@example.net"));
    assert_eq!(send(request(&jürgen, MESSAGE)).status, 200);
    let message = sink.only("named@example.net");
    assert_eq!(message.values(SENT_AS), ["j%C3%BCrgen"]);

    assert_eq!(queued(&haraka), 3);
    assert_eq!(sink.delivered().len(), 3);
}

/// The attack: a user's name that says in a header something that it does not say elsewhere.
#[test]
fn every_name_is_written_as_nobody_else_s() {
    let sink = Sink::start();
    let haraka = haraka(&sink);
    let anybody =
        "require('kumo').on('http_server_validate_auth_basic', function() return true end)";
    let gate = gate(haraka.addresses[1], anybody).start();
    for (at, (user, written)) in [
        ("=?utf-8?Q?root?=", "%3D?utf-8?Q?root?%3D"),
        ("50%", "50%25"),
        ("a b,c;\"d\"<e@f>", "a b,c;\"d\"<e@f>"),
        ("日本語", "%E6%97%A5%E6%9C%AC%E8%AA%9E"),
    ]
    .into_iter()
    .enumerate()
    {
        let recipient = format!("name{at}@example.net");
        let headers = format!("{}{}", basic(user, "x"), to(&recipient));
        let reply = gate.send(STRANGER, request(&headers, MESSAGE)).unwrap();
        assert_eq!(reply.status, 200, "{user} {reply:?}");
        assert_eq!(sink.only(&recipient).values(SENT_AS), [written]);
    }
}

/// The attack: messages and envelopes of which one reader makes more than another. Haraka's own words reach the client.
#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let (sink, haraka, gate) = chain();
    let good = to("odd@example.net");
    let (section, ends) = (
        "there has to be a header section",
        "do not all end in the same way",
    );
    let (first, second) = ("line 1 is no header", "line 2 is no header");
    let long = format!("From: a@b.example\r\n\r\n{}\r\n", "x".repeat(999));
    for (message, words) in [
        ("", section),
        ("From: a@b.example\r\n", section),
        ("\r\nHello.\r\n", section),
        ("Hello.\r\n\r\nHello.\r\n", first),
        (" X-Sent-As: root\r\n\r\n", first),
        ("From: a@b.example\r\nX-Sent-As : root\r\n\r\n", second),
        ("From: a@b.example\r\n.X-Sent-As: root\r\n\r\n", second),
        ("From: a@b.example\r\n..X-Sent-As: root\r\n\r\n", second),
        ("From: a@b.example\r\n \r\nX-Sent-As: root\r\n\r\n", second),
        (
            "From: a@b.example\r\nX: \u{b}X-Sent-As: root\r\n\r\n",
            second,
        ),
        ("From: a@b.example\rX-Sent-As: root\r\n\r\n", ends),
        ("From: a@b.example\r\nX: y\nX-Sent-As: root\r\n\r\n", ends),
        (
            "From: a@b.example\r\n\r\n.\nMAIL FROM:<a@b.example>\r\n",
            ends,
        ),
        (
            "From: a@b.example\r\n\r\n\n.\r\nMAIL FROM:<a@b.example>\r\n",
            ends,
        ),
        ("From: a@b.example\r\n\r\n\r.\r\r\n", ends),
        ("From: a@b.example\r\n\r\nzero\0\r\n", "a zero byte"),
        (&long, "line 3 is longer than 998 bytes"),
    ] {
        let reply = gate.send(STRANGER, scotts(&good, message)).unwrap();
        assert_eq!(reply.status, 400, "{message:?} {reply:?}");
        assert!(
            error(&reply).contains(words),
            "{message:?} {}",
            error(&reply)
        );
    }
    let latin = b"Subject: gr\xfc\xdfe\r\n\r\n";
    let reply = gate.send(STRANGER, scotts(&good, latin)).unwrap();
    assert_eq!(
        (reply.status, error(&reply).as_str()),
        (400, "the header section is not UTF-8")
    );

    assert_eq!(queued(&haraka), 0);
    let headers = to("even@example.net");
    let reply = gate.send(STRANGER, scotts(&headers, MESSAGE)).unwrap();
    assert_eq!(reply.status, 200);
    sink.only("even@example.net");
    assert_eq!(sink.delivered().len(), 1);
}

/// The attack: envelopes that say more than addresses. The need: what is no message is not taken for one.
#[test]
fn what_is_no_envelope_is_refused() {
    let (sink, haraka, gate) = chain();
    let good = to("odd@example.net");
    let envelope =
        |from: &str, to: &str| format!("{TYPE}X-Envelope-From: {from}\r\nX-Envelope-To: {to}\r\n");
    for headers in [
        format!("{TYPE}{FROM}"),
        format!("{TYPE}X-Envelope-To: odd@example.net\r\n"),
        format!("{FROM}{good}"),
        envelope("me@example.com", ""),
        envelope("me@example.com", "odd@example.net,"),
        envelope("me@example.com", "odd"),
        envelope("me@example.com", "odd@example.net SIZE=1"),
        envelope("me@example.com", "<odd@example.net"),
        envelope("me@example.com", "<odd@example.net>>"),
        envelope("me@example.com", "<@b.example:odd@example.net>"),
        envelope("me@example.com", "\"odd,odd\"@example.net"),
        envelope("me@example.com", "odd@[127.0.0.1]"),
        envelope("me@example.com", "odd@example.net:25"),
        envelope("me@example.com", "ödd@example.net"),
        envelope("me", "odd@example.net"),
        envelope("<me@example.com> RET=FULL", "odd@example.net"),
    ] {
        let reply = gate.send(STRANGER, scotts(&headers, MESSAGE)).unwrap();
        assert_eq!(reply.status, 400, "{headers} {reply:?}");
        assert!(error(&reply).contains("X-Envelope-"), "{}", error(&reply));
    }
    let many = to("a@b.example,b@b.example,c@b.example,d@b.example,e@b.example,f@b.example");
    assert_eq!(
        gate.send(STRANGER, scotts(&many, MESSAGE)).unwrap().status,
        413
    );
    for kind in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: message/rfc822; charset=utf-7\r\n",
    ] {
        let headers = format!("{kind}{FROM}X-Envelope-To: odd@example.net\r\n");
        assert_eq!(
            gate.send(STRANGER, scotts(&headers, MESSAGE))
                .unwrap()
                .status,
            415,
            "{kind}"
        );
    }
    let packed = format!("Content-Encoding: gzip\r\n{good}");
    assert_eq!(
        gate.send(STRANGER, scotts(&packed, MESSAGE))
            .unwrap()
            .status,
        415
    );

    assert_eq!(
        gate.send(STRANGER, scotts(&to("even@example.net"), MESSAGE))
            .unwrap()
            .status,
        200
    );
    sink.only("even@example.net");
    assert_eq!(queued(&haraka), 1);
    assert_eq!(sink.delivered().len(), 1);
}

/// The need: what is sent is what arrives, byte for byte, dots at the beginning of lines and all.
#[test]
fn a_message_arrives_as_it_was_sent() {
    let (sink, _haraka, gate) = chain();
    let mut everything: Vec<u8> = (0..=255).filter(|it| !b"\0\r\n".contains(it)).collect();
    everything.extend_from_slice(b"\r\n");
    let long = [vec![b'x'; 998], b"\r\n".to_vec()].concat();
    let bodies: &[&[u8]] = &[
        b"",
        b"\r\n",
        b".\r\n",
        b"..\r\n...\r\n",
        b".\r\n.\r\nMAIL FROM:<root@example.com>\r\n.\r\n",
        b"a\r\n\r\n.b\r\n.\r\n\r\n\r\n",
        b"--edge\r\n\r\n.\r\n--edge--\r\n",
        b" leading\r\n\ttab\r\ntrailing \r\n",
        &everything,
        &long,
    ];
    for (at, body) in bodies.iter().enumerate() {
        let recipient = format!("body{at}@example.net");
        let head = "From: me@example.com\r\nMessage-Id: <1@example.com>\r\nDate: Fri, 27 Nov 2026 18:00:00 +0000\r\nSubject: gr\u{fc}\u{df}e\r\n one\r\n\ttwo\r\nX-Dotted: .\r\n .\r\n\r\n";
        let sent = [head.as_bytes(), body].concat();
        let reply = gate.send(STRANGER, scotts(&to(&recipient), &sent)).unwrap();
        assert_eq!(reply.status, 200, "{at} {reply:?}");
        let message = sink.only(&recipient);
        assert_eq!(
            message.body.escape_ascii().to_string(),
            body.escape_ascii().to_string()
        );
        let [received, headers @ .., sent_as] = &message.headers[..] else {
            panic!("{message:?}")
        };
        assert!(received.starts_with("Received: "), "{received}");
        assert_eq!(sent_as, "X-Sent-As: scott");
        assert_eq!(headers.join("\r\n") + "\r\n\r\n", head);
    }
    // Whose lines end as Unix has them means line ends; the last may have none.
    let unix = "From: me@example.com\nSubject: hello\n\nOne.\n.two\n.\nthree";
    let headers = to("unix@example.net");
    assert_eq!(
        gate.send(STRANGER, scotts(&headers, unix)).unwrap().status,
        200
    );
    let message = sink.only("unix@example.net");
    assert_eq!(message.body, b"One.\r\n.two\r\n.\r\nthree\r\n");

    // Several recipients, in one header and in two, of two domains; and a sender that is nobody.
    let headers = format!(
        "{TYPE}X-Envelope-From: <>\r\nX-Envelope-To: <a@example.net>, b@example.net\r\nX-Envelope-To: c@example.org\r\n"
    );
    assert_eq!(
        gate.send(STRANGER, scotts(&headers, MESSAGE))
            .unwrap()
            .status,
        200
    );
    let (one, other) = (sink.only("a@example.net"), sink.only("c@example.org"));
    assert_eq!(one.recipients, ["a@example.net", "b@example.net"]);
    assert_eq!(other.recipients, ["c@example.org"]);
    for message in [one, other] {
        assert_eq!(message.sender, "<>");
        assert_eq!(message.values(SENT_AS), ["scott"]);
        assert_eq!(message.body, b"Hello.\r\n");
    }
}

/// The need: messages of any size end in an answer, and none takes more memory than it may.
#[test]
fn what_is_too_large_is_refused() {
    let (sink, haraka, gate) = chain();
    let head = "From: me@example.com\r\n\r\n";
    let line = format!("{}\r\n", "x".repeat(98));
    let body = line.repeat(MAX_BYTES / 100 - 1);
    let last = "x".repeat(MAX_BYTES - head.len() - body.len() - 2);
    let fits = format!("{head}{body}{last}\r\n");
    assert_eq!(fits.len(), MAX_BYTES);
    let reply = gate.send(STRANGER, scotts(&to("fits@example.net"), &fits));
    assert_eq!(reply.unwrap().status, 200);
    let larger = format!("{head}x{body}{last}\r\n");
    let reply = gate
        .send(STRANGER, scotts(&to("large@example.net"), &larger))
        .unwrap();
    assert_eq!(reply.status, 413, "{reply:?}");
    assert_eq!(
        error(&reply),
        format!("the message is larger than {MAX_BYTES} bytes")
    );
    // The same where nobody says before how much it will be.
    let chunked = format!(
        "POST /inject HTTP/1.1\r\nHost: gate\r\n{}{}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{larger}\r\n0\r\n\r\n",
        basic("scott", "tiger"),
        to("large@example.net"),
        larger.len()
    );
    let reply = gate.send(STRANGER, chunked).unwrap();
    assert_eq!(reply.status, 413, "{reply:?}");
    let headers = "X: y\r\n".repeat(1001);
    let long = format!("{headers}\r\nHello.\r\n");
    let reply = gate
        .send(STRANGER, scotts(&to("large@example.net"), long))
        .unwrap();
    assert_eq!(
        (reply.status, error(&reply).as_str()),
        (413, "the header section has too many lines")
    );

    // For two at once there is no room: whichever comes second is refused, and the first goes on.
    let bytes = scotts(&to("slow@example.net"), &fits);
    let (most, rest) = bytes.split_at(bytes.len() - 10);
    let (tell, told) = mpsc::channel();
    let mut writers = [0, 1].map(|at| {
        let mut connection = gate.connect(STRANGER);
        connection.write(most);
        let (writer, tell) = (connection.try_clone(), tell.clone());
        thread::spawn(move || tell.send((at, connection.reply().unwrap().status)));
        writer
    });
    let (refused, status) = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(status, 503);
    writers[1 - refused].write(rest);
    let served = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(served, (1 - refused, 200));
    sink.only("slow@example.net");
    let reply = gate.send(STRANGER, scotts(&to("again@example.net"), &fits));
    assert_eq!(reply.unwrap().status, 200);
    sink.only("again@example.net");

    // Nothing stays of one who goes away in the middle.
    for _ in 0..3 {
        let mut gone = Connection::open(haraka.addresses[1], TRUSTED);
        gone.write(
            &request(
                &format!("X-Http-Auth: scott\r\n{}", to("gone@example.net")),
                &fits,
            )[..60_000],
        );
        gone.reset();
    }
    wait_for("their room to be there again", || {
        let reply = gate.send(STRANGER, scotts(&to("last@example.net"), &fits));
        reply.unwrap().status == 200
    });
}

/// The attack: whoever is on the same host asks the plugin itself. It takes nothing that nobody stands for.
#[test]
fn the_plugin_asks_for_one_identity() {
    let sink = Sink::start();
    let haraka = haraka(&sink);
    let send = |bytes: Vec<u8>| {
        let mut connection = Connection::open(haraka.addresses[1], TRUSTED);
        connection.write(bytes);
        connection.reply().unwrap().status
    };
    let good = to("direct@example.net");
    let said = |identity: &str| request(&format!("{identity}{good}"), MESSAGE);
    assert_eq!(send(said("")), 403);
    assert_eq!(send(said("X-Http-Auth:\r\n")), 403);
    assert_eq!(send(said("X-Http-Auth: a\r\nX-Http-Auth: b\r\n")), 400);
    let mut latin = said("X-Http-Auth: j?rgen\r\n");
    let at = latin.iter().position(|it| *it == b'?').unwrap();
    latin[at] = 0xfc;
    assert_eq!(send(latin), 400);
    let text = |method: &str, path: &str| {
        let bytes = String::from_utf8(said("X-Http-Auth: scott\r\n")).unwrap();
        bytes.replacen("POST /inject", &format!("{method} {path}"), 1)
    };
    assert_eq!(send(text("PUT", "/inject").into_bytes()), 405);
    assert_eq!(send(text("POST", "/").into_bytes()), 404);
    assert_eq!(send(text("POST", "/inject?x").into_bytes()), 404);
    assert_eq!(queued(&haraka), 0);
    assert_eq!(send(text("POST", "/inject").into_bytes()), 200);
    assert_eq!(sink.only("direct@example.net").values(SENT_AS), ["scott"]);
}

/// The attack: the name of somebody else in a message that comes by SMTP, where nobody asks gatepost.
#[test]
fn mail_by_smtp_has_no_identity() {
    let sink = Sink::start();
    let haraka = haraka(&sink);
    let stream = TcpStream::connect(haraka.addresses[0]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut say = |text: &str, code: &str| {
        (&stream).write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            reader.read_line(&mut line).unwrap();
            // The last line of an answer has a blank behind the code.
            if line.get(3..4) != Some("-") {
                break;
            }
        }
        assert!(line.starts_with(code), "{text}: {line}");
    };
    say("", "220");
    say("EHLO client.example\r\n", "250");
    say("MAIL FROM:<me@example.com>\r\n", "250");
    say("RCPT TO:<smtp@example.net>\r\n", "250");
    say("DATA\r\n", "354");
    say(
        "From: me@example.com\r\nX-Sent-As: root\r\nX-SENT-AS : root\r\nx-sent-as\t:root\r\n..X-Sent-As: root\r\n..X-Sent-As : root\r\n\r\nHello.\r\n.\r\n",
        "250",
    );
    let message = sink.only("smtp@example.net");
    assert_eq!(message.values(SENT_AS), [""; 0], "{message:?}");
    assert_eq!(message.values("from"), ["me@example.com"]);
    assert_eq!(message.body, b"Hello.\r\n");
}

/// The need: a crash of Haraka costs answers, not mail, and nobody has to do anything about it in gatepost.
#[test]
fn haraka_may_come_and_go() {
    let (sink, mut haraka, gate) = chain();
    let send = |recipient: &str| {
        let reply = gate
            .send(STRANGER, scotts(&to(recipient), MESSAGE))
            .unwrap();
        reply.status
    };
    assert_eq!(send("before@example.net"), 200);
    sink.only("before@example.net");
    haraka.kill();
    for _ in 0..3 {
        let status = send("during@example.net");
        assert!([502, 503].contains(&status), "{status}");
    }
    // Wrong credentials are wrong also while there is nobody who could be told.
    let wrong = format!("{}{}", basic("scott", "lion"), to("during@example.net"));
    let reply = gate.send(STRANGER, request(&wrong, MESSAGE)).unwrap();
    assert_eq!(reply.status, 401);
    haraka.start_again();
    assert_eq!(send("after@example.net"), 200);
    assert_eq!(sink.only("after@example.net").values(SENT_AS), ["scott"]);
    // What was delivered may have been so twice, if it was killed before it made a note of that; what was refused was not.
    let mut delivered = sink.delivered();
    delivered.retain(|it| it.recipients == ["during@example.net"]);
    assert!(delivered.is_empty(), "{delivered:?}");
}

/// The need: with `message_policy: true` the same request is read by gatepost first, by the same rules.
#[test]
fn gatepost_judges_the_message_first() {
    let sink = Sink::start();
    let haraka = haraka(&sink);
    let yaml = shipped("deploy/haraka/gatepost.yaml")
        .replace("# message_policy", "message_policy")
        .replace("# message_format", "message_format");
    let gate = Setup::shipped(&yaml, haraka.addresses[1], &shipped("lua/policy.lua"))
        .with("message_rules: [{ for: [{ identity: scott }], senders: [example.com], from: [example.com] }]")
        .start();
    let send = |headers: &str, message: &str| {
        let reply = gate.send(STRANGER, scotts(headers, message)).unwrap();
        reply.status
    };
    let good = to("judged@example.net, <other@example.net>");
    let other = good.replace("me@example.com", "me@example.org");
    assert_eq!(send(&other, MESSAGE), 403);
    assert_eq!(
        send(&good, &MESSAGE.replace("example.com", "example.org")),
        403
    );
    assert_eq!(queued(&haraka), 0);
    assert_eq!(send(&good, MESSAGE), 200);
    let message = sink.only("judged@example.net");
    assert_eq!(
        message.recipients,
        ["judged@example.net", "other@example.net"]
    );
    assert_eq!(message.values(SENT_AS), ["scott"]);
}

/// The need: several processes, and a socket that only a group may use.
#[test]
fn haraka_s_workers_share_a_unix_socket() {
    let sink = Sink::start();
    let (binary, address) = (binary(), sink.address());
    let haraka = Program::start("node", &[&binary, "-c", "haraka"], 1, |listen, folder| {
        let socket = folder.join("inject.sock");
        // One that a crash has left there.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        configure(
            folder,
            listen[0],
            &format!("{}:660", socket.display()),
            address,
            2,
        );
        String::new()
    });
    let socket = haraka.folder().join("inject.sock");
    wait_for("both workers to listen", || {
        haraka.output().matches("listening on /").count() >= 2
    });
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let gate = gate(
        format!("unix:{}", socket.display()),
        &shipped("lua/policy.lua"),
    )
    .start();
    for at in 0..4 {
        let recipient = format!("socket{at}@example.net");
        let reply = gate
            .send(STRANGER, scotts(&to(&recipient), MESSAGE))
            .unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(sink.only(&recipient).values(SENT_AS), ["scott"]);
    }
}

/// The attack: a slip of an operator's opens the route to everybody. Haraka does not start so.
#[test]
fn the_plugin_listens_on_loopback_alone() {
    for listen in [
        "0.0.0.0:0",
        "[::]:0",
        "192.0.2.1:8025",
        "localhost:8025",
        "8025",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = "127.0.0.8:9".parse().unwrap();
        configure(
            folder.path(),
            "127.0.0.8:0".parse().unwrap(),
            listen,
            nowhere,
            0,
        );
        // One that starts does not end by itself.
        let patience = PATIENCE.as_secs().to_string();
        let output = Command::new("timeout")
            .args([&patience, "node", &binary(), "-c", "haraka"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{listen}: {text}");
        assert!(
            text.contains("listen has to be on loopback or a Unix socket"),
            "{listen}: {text}"
        );
    }
}
