//! Three replicas behind one address, with one Redis: a real haproxy gives each connection to the next of them, and says in a PROXY header whose it is.
//! Who guesses is stopped by all together, who has a quota has it once, and one of them may die in the middle of it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::haproxy::states;
use crate::harness::{
    Connection, Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, inject, wait_for,
};
use crate::mta::shipped;
use crate::program::{PROXY, Program, send};
use crate::quota::request_from;
use crate::redis::Redis;

/// Wrong credentials that are judged before an address has to wait.
const GUESSES: usize = 12;

/// Recipients of one request.
const EACH: usize = 10;

/// Requests that fit into the quota.
const FIT: usize = 3600;

const CLIENTS: usize = 6;

/// What an operator has who scales out.
struct Scene {
    gates: Vec<Gatepost>,
    haproxy: Program,
    upstream: Recorder,
    redis: Redis,
}

impl Scene {
    fn start() -> Self {
        let redis = Redis::start();
        // Long enough that there is always a request under way at each replica.
        let upstream = Recorder::behaving(|stream, _| {
            thread::sleep(Duration::from_millis(5));
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .is_ok()
        });
        let gates: Vec<_> = (0..3).map(|_| gate(&redis, &upstream)).collect();
        let haproxy = haproxy(&gates);
        wait_for("all replicas to be up", || up(&haproxy) == 3);
        Self {
            gates,
            haproxy,
            upstream,
            redis,
        }
    }

    /// The one address.
    fn address(&self) -> SocketAddr {
        self.haproxy.addresses[0]
    }

    fn status(&self, from: Ipv4Addr, password: &str) -> u16 {
        let request = inject(&basic("scott", password));
        send(self.address(), from, request).unwrap().status
    }

    /// How often the MTA got each message, by its sender.
    fn delivered(&self) -> BTreeMap<String, usize> {
        let mut delivered = BTreeMap::new();
        let text = self.upstream.text();
        for rest in text.split("\"envelope_sender\":\"").skip(1) {
            let sender = rest.split('"').next().unwrap().to_owned();
            *delivered.entry(sender).or_default() += 1;
        }
        delivered
    }
}

fn gate(redis: &Redis, upstream: &Recorder) -> Gatepost {
    let (url, recipients) = (redis.url(), FIT * EACH);
    Setup::before(upstream.address)
        .routes("\n  - { path: /api/inject/v1, methods: [POST], allow: [authenticated], message_policy: true }\n")
        .with(&format!("trusted_proxies: [{PROXY}]"))
        .with("listener.proxy_protocol: true\ndrain_delay: 500ms")
        .with(&format!("throttle: {{ per_address: {GUESSES}/hour, per_address_and_user: off, redis: \"{url}\" }}"))
        .with(&format!("quotas: {{ redis: \"{url}\", limits: [{{ for: [anyone], recipients: [{recipients}/day] }}] }}"))
        .start()
}

/// As docs/scaling.md has it.
const OPTIONS: &str = "  balance roundrobin
  option redispatch 1
  option httpchk GET /readyz
";

/// It asks each replica's `/readyz`, and a connection that cannot be made goes to another.
fn haproxy(gates: &[Gatepost]) -> Program {
    assert!(shipped("docs/scaling.md").contains(OPTIONS));
    Program::start("haproxy", &["-db", "-f", "config"], 1, |listen, folder| {
        let servers = gates.iter().enumerate().map(|(index, gate)| {
            let (address, admin) = (gate.address, gate.admin.port());
            format!("  server gatepost{index} {address} send-proxy-v2 check port {admin}\n")
        });
        let servers = servers.collect::<String>();
        let (socket, listen) = (folder.join("stats"), listen[0]);
        let socket = socket.display();
        format!(
            "global
  stats socket {socket} level user
defaults
  mode tcp
  timeout connect 10s
  timeout client 30s
  timeout server 30s
  timeout check 10s
  default-server source {PROXY} inter 100ms
listen gatepost
  bind {listen}
{OPTIONS}{servers}"
        )
    })
}

/// How many replicas haproxy gives connections to.
fn up(haproxy: &Program) -> usize {
    let states = states(haproxy);
    states.iter().filter(|it| *it == "UP L7OK").count()
}

/// The attack: every guess comes on a connection of its own, so each goes to another replica, which has not seen the one before.
#[test]
fn a_guesser_is_stopped_by_all_replicas_together() {
    let scene = Scene::start();
    let mut judged = 0;
    for _ in 0..5 * GUESSES {
        match scene.status(STRANGER, "lion") {
            401 => judged += 1,
            429 => {}
            other => panic!("{other}"),
        }
    }
    // Each further replica costs a guess, and so does each that comes before Redis was told of the last. Alone each would judge as many.
    assert!((GUESSES..2 * GUESSES).contains(&judged), "{judged}");
    let rejected = "gatepost_decisions_total{mechanism=\"basic\",outcome=\"rejected\"}";
    let by_replica: Vec<f64> = scene.gates.iter().map(|it| it.metric(rejected)).collect();
    assert!(
        by_replica.iter().all(|&it| it >= 2.0),
        "spread: {by_replica:?}"
    );
    println!("FIGURE guesses that three replicas judge of a limit of {GUESSES}: {judged}");
    // The right password helps nowhere, and is taken everywhere from others behind the same proxy.
    for _ in 0..6 {
        assert_eq!(scene.status(STRANGER, "tiger"), 429);
        assert_eq!(scene.status(Ipv4Addr::new(127, 0, 0, 3), "tiger"), 200);
    }
    // A replica that comes later learns it by the first guess.
    let late = gate(&scene.redis, &scene.upstream);
    let guess = |password: &str| {
        let request = inject(&basic("scott", password));
        let from = format!("PROXY TCP4 {STRANGER} 127.0.0.1 1024 80\r\n{request}");
        late.send(PROXY, from).unwrap().status
    };
    assert_eq!(guess("lion"), 401);
    wait_for("the new replica to learn of it", || guess("tiger") == 429);
}

/// What a client came to. It goes on until the quota is used up, and sends once more what was not answered, as clients do.
#[derive(Default)]
struct Sent {
    /// Senders of messages that were answered with 200, with how often they were sent without an answer before.
    accepted: BTreeMap<String, usize>,
    unanswered: usize,
    refused: usize,
}

fn client(number: usize, address: SocketAddr, answered: &AtomicUsize) -> Sent {
    let mut sent = Sent::default();
    let mut connection = Connection::open(address, STRANGER);
    for message in 0.. {
        let sender = format!("m{message}@client{number}.test");
        let mut tries = 0;
        loop {
            connection.write(request_from(&sender, EACH));
            let reply = connection.reply();
            let status = reply.as_ref().map(|it| it.status);
            let stays = reply.is_some_and(|it| it.header("connection") != Some("close"));
            // Now and then by another replica, as many clients would be.
            if !stays || message % 10 == 9 {
                connection = Connection::open(address, STRANGER);
            }
            match status {
                Some(200) => break,
                Some(429) => {
                    sent.refused += 1;
                    sent.unanswered += tries;
                    return sent;
                }
                Some(other) => panic!("{other}"),
                None => tries += 1,
            }
        }
        sent.unanswered += tries;
        sent.accepted.insert(sender, tries);
        answered.fetch_add(1, Ordering::Relaxed);
    }
    unreachable!("the quota ends")
}

/// Clients that send all the time while the first replica goes, and what came of it. It is gone before they have done.
fn send_until_used_up(scene: &mut Scene, signal: &str) -> Vec<Sent> {
    let (address, answered) = (scene.address(), AtomicUsize::new(0));
    let mut first = scene.gates.remove(0);
    thread::scope(|scope| {
        let answered = &answered;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || client(number, address, answered)))
            .collect();
        wait_for("the first third", || {
            answered.load(Ordering::Relaxed) > FIT / 3
        });
        first.signal(signal);
        assert_eq!(first.wait_exit(), (signal == "TERM").then_some(0));
        assert!(answered.load(Ordering::Relaxed) < FIT - 100, "too late");
        clients.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

/// What an identity has used, as each of these replicas says.
fn used(gates: &[Gatepost]) -> Vec<u64> {
    let used = |gate: &Gatepost| gate.admin("/quota/scott").json()[0]["used"].as_u64();
    gates.iter().map(|it| used(it).unwrap()).collect()
}

/// How often Redis was asked to run a script, and how many microseconds it took for one.
fn scripts(redis: &Redis) -> (usize, f64) {
    let mut stream = TcpStream::connect(redis.address()).unwrap();
    stream.write_all(b"INFO commandstats\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|it| it.strip_prefix("cmdstat_eval:"));
    let field = |name: &str| {
        let fields = line.unwrap().split(',');
        let mut pairs = fields.filter_map(|it| it.split_once('='));
        pairs.find(|(key, _)| *key == name).unwrap().1.to_owned()
    };
    let calls = field("calls").parse().unwrap();
    (calls, field("usec_per_call").parse().unwrap())
}

/// The need: a replica dies with requests under way. Whatever a client was told is accepted the MTA has, once; what it was not told about it sends
/// again, to replicas that are there; and all that passed, before and after, is no more than the quota, to the message.
#[test]
fn nothing_accepted_is_lost_and_the_quota_is_exact_though_a_replica_is_killed() {
    let mut scene = Scene::start();
    let sent = send_until_used_up(&mut scene, "KILL");
    let unanswered: usize = sent.iter().map(|it| it.unanswered).sum();
    assert!(unanswered >= 1, "nobody noticed");
    wait_for("haproxy to have noticed", || up(&scene.haproxy) == 2);
    let delivered = scene.delivered();
    for (sender, tries) in sent.iter().flat_map(|it| &it.accepted) {
        let times = delivered.get(sender).copied().unwrap_or_default();
        assert!(
            (1..=1 + tries).contains(&times),
            "{sender}: {times} of {tries}"
        );
    }
    let (calls, microseconds) = scripts(&scene.redis);
    // It was charged before it went on, so a replica that died in between has charged what nobody got.
    let charged = used(&scene.gates);
    assert_eq!(charged, [(FIT * EACH) as u64; 2]);
    let total: usize = delivered.values().sum();
    assert!(
        (FIT - unanswered..=FIT).contains(&total),
        "{total} of {FIT}, {unanswered} unanswered"
    );
    // Redis is asked once for each request.
    let refused: usize = sent.iter().map(|it| it.refused).sum();
    assert!(
        (FIT + refused..=FIT + refused + unanswered).contains(&calls),
        "{calls} for {FIT} and {refused}, {unanswered} unanswered"
    );
    println!(
        "FIGURE with a replica killed, of {FIT} messages that the quota allows: {total} at the MTA, {unanswered} tries without an answer, charged {}",
        charged[0]
    );
    println!(
        "FIGURE Redis, for the quota of a request: one call, {microseconds} µs of its processor"
    );
    // One that takes its place has nothing to learn.
    let late = gate(&scene.redis, &scene.upstream);
    let request = request_from("late@client.test", EACH);
    let proxied = format!("PROXY TCP4 {STRANGER} 127.0.0.1 1024 80\r\n{request}");
    assert_eq!(late.send(PROXY, proxied).unwrap().status, 429);
    scene.gates.clear();
}

/// The need: a replica is taken away, as an autoscaler does. haproxy sees that it is not ready, its clients are told to come back, and nobody
/// goes without an answer.
#[test]
fn a_replica_that_is_stopped_is_missed_by_nobody() {
    let mut scene = Scene::start();
    let sent = send_until_used_up(&mut scene, "TERM");
    assert!(sent.iter().all(|it| it.unanswered == 0));
    let delivered = scene.delivered();
    assert!(delivered.values().all(|&it| it == 1), "{delivered:?}");
    assert_eq!(delivered.len(), FIT);
    let accepted: usize = sent.iter().map(|it| it.accepted.len()).sum();
    assert_eq!(accepted, FIT);
    assert_eq!(used(&scene.gates), [(FIT * EACH) as u64; 2]);
    // Still behind the one address, and still one quota.
    let request = request_from("late@client.test", EACH);
    for from in [STRANGER, TRUSTED] {
        assert_eq!(send(scene.address(), from, &request).unwrap().status, 429);
    }
}
