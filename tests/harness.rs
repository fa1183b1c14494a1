//! Starts gatepost and upstreams on free ports, speaks raw HTTP, and waits for conditions.
//!
//! Requests are written byte by byte, since most tests send what no HTTP client would.

use std::fmt::{Display, Write as _};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// No wait in any test is longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Inside `trusted_hosts` of every test configuration.
pub(crate) const TRUSTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// Outside of it.
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_gatepost");

/// A policy that knows scott, carol and jürgen, and a user for every way in which a handler can end.
pub(crate) const POLICY: &str = include_str!("data/policy.lua");

/// Asks a condition until it holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A gatepost to be started.
pub(crate) struct Setup {
    upstream: String,
    policy: String,
    routes: String,
    extra: String,
    /// The YAML, where it is not made of the above.
    whole: Option<String>,
    files: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    reader: Reader,
    keeps: Keeps,
    /// The command that runs it, with gatepost itself as the last.
    command: Vec<String>,
}

/// What becomes of the log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Follows,
    /// Nobody reads on once gatepost is ready; the pipe stays open.
    FallsAsleep,
}

/// Looks at each line of the log, and says whether it is kept.
type Keeps = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Everything that the tests ask for unless they say otherwise.
const ROUTES: &str = "
  - { path: /api/inject/v1, methods: [POST], allow: [authenticated, trusted_hosts] }
  - { path: /open, methods: [GET, POST], allow: [anyone] }
  - { path: /messages, methods: [GET], allow: [authenticated, trusted_hosts] }
  - { path: /messages/*, methods: [GET], allow: [authenticated, trusted_hosts] }
  - { path: /drain, methods: [POST], allow: [authenticated, trusted_hosts] }
  - { path: /users-only, methods: [POST], allow: [authenticated] }
";

impl Setup {
    /// In front of the embedded injection API.
    pub(crate) fn demo() -> Self {
        Self::before("demo")
    }

    /// In front of an upstream of the test's own.
    pub(crate) fn before(upstream: impl Display) -> Self {
        Self {
            upstream: upstream.to_string(),
            policy: POLICY.to_owned(),
            routes: ROUTES.to_owned(),
            extra: String::new(),
            whole: None,
            files: Vec::new(),
            environment: Vec::new(),
            reader: Reader::Follows,
            keeps: Arc::new(|_| true),
            command: vec![BINARY.to_owned()],
        }
    }

    /// With a configuration that is shipped, moved to free ports and before this upstream, and this policy.
    pub(crate) fn shipped(yaml: &str, upstream: impl Display, policy: &str) -> Self {
        let upstream = upstream.to_string();
        let mut section = "";
        let lines = yaml.lines().map(|line| {
            if !line.starts_with([' ', '#']) && !line.is_empty() {
                section = line.split(':').next().unwrap_or_default();
            }
            match (section, line.split_once(": ").map(|(key, _)| key)) {
                ("listeners", Some("  - listen")) => "  - listen: 127.0.0.1:0".to_owned(),
                ("upstream", Some("  address")) => format!("  address: {upstream}"),
                ("policy", Some("  file")) => "  file: policy.lua".to_owned(),
                _ => line.to_owned(),
            }
        });
        let mut whole = lines.collect::<Vec<_>>().join("\n");
        assert!(!whole.contains("\nadmin:"), "it is on the usual port");
        whole.push_str("\nadmin: { listen: 127.0.0.1:0 }\n");
        Self {
            whole: Some(whole),
            ..Self::before(upstream).policy(policy)
        }
    }

    /// With this policy.
    pub(crate) fn policy(mut self, lua: &str) -> Self {
        lua.clone_into(&mut self.policy);
        self
    }

    /// With one more file beside the policy.
    pub(crate) fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// With a variable in its environment.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Under a limit, as `ulimit` takes it: `-n 100`. The shell becomes gatepost, so that its process id is gatepost's.
    pub(crate) fn ulimit(self, limit: &str) -> Self {
        let script = format!("ulimit {limit} && exec \"$@\"");
        self.within(&["sh", "-c", &script, "sh"])
    }

    /// Run by a command that takes another one as its last arguments.
    pub(crate) fn within(mut self, command: &[&str]) -> Self {
        let command = command.iter().map(|&it| it.to_owned());
        self.command.splice(0..0, command);
        self
    }

    /// With nobody who reads its log once it is ready.
    pub(crate) fn unread(mut self) -> Self {
        self.reader = Reader::FallsAsleep;
        self
    }

    /// With somebody who looks at each line of the log and says whether it is kept: a long run has too many.
    pub(crate) fn looking(mut self, keeps: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.keeps = Arc::new(keeps);
        self
    }

    /// With these routes instead of the usual ones.
    pub(crate) fn routes(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.routes);
        self
    }

    /// With more top-level YAML.
    pub(crate) fn with(mut self, yaml: &str) -> Self {
        self.extra.push_str(yaml);
        self.extra.push('\n');
        self
    }

    /// The YAML as it is written; lines given to [`Setup::with`] that begin with `policy.`, `upstream.`, `admin.` or
    /// `listener.` go there, those with `listeners.` behind it.
    fn yaml(&self) -> String {
        let [
            mut policy,
            mut upstream,
            mut listener,
            mut more,
            mut admin,
            mut rest,
        ] = [const { String::new() }; 6];
        for line in self.extra.lines() {
            if let Some(line) = line.strip_prefix("listener.") {
                let _ = writeln!(listener, "    {line}");
            } else if let Some(line) = line.strip_prefix("listeners.") {
                let _ = writeln!(more, "  {line}");
            } else if let Some(line) = line.strip_prefix("policy.") {
                let _ = writeln!(policy, "  {line}");
            } else if let Some(line) = line.strip_prefix("admin.") {
                let _ = writeln!(admin, "  {line}");
            } else if let Some(line) = line.strip_prefix("upstream.") {
                let _ = writeln!(upstream, "  {line}");
            } else {
                let _ = writeln!(rest, "{line}");
            }
        }
        if let Some(whole) = &self.whole {
            return format!("{whole}{rest}");
        }
        let trusted = if rest.contains("trusted_hosts:") {
            ""
        } else {
            "trusted_hosts: [127.0.0.1]\n"
        };
        format!(
            "listeners:\n  - listen: 127.0.0.1:0\n{listener}{more}upstream:\n  address: {}\n{upstream}{trusted}policy:\n  file: policy.lua\n{policy}routes:{}admin:\n  listen: 127.0.0.1:0\n{admin}{rest}",
            self.upstream, self.routes
        )
    }

    /// Starts it and waits until it serves.
    pub(crate) fn start(&self) -> Gatepost {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("policy.lua"), &self.policy).unwrap();
        std::fs::write(folder.path().join("gatepost.yaml"), self.yaml()).unwrap();
        for (name, content) in &self.files {
            write(folder.path(), name, content);
        }
        let config = folder.path().join("gatepost.yaml");
        Gatepost::start(folder, &config, self)
    }

    /// Starts it with a configuration that is somewhere else, and waits until it serves.
    pub(crate) fn start_with(&self, config: &Path) -> Gatepost {
        Gatepost::start(tempfile::tempdir().unwrap(), config, self)
    }
}

/// A running gatepost. Killed when dropped.
pub(crate) struct Gatepost {
    child: Child,
    log: Log,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Kept until the end; it holds configuration and policy.
    folder: tempfile::TempDir,
}

impl Gatepost {
    fn start(folder: tempfile::TempDir, config: &Path, setup: &Setup) -> Self {
        let mut child = Command::new(&setup.command[0])
            .args(&setup.command[1..])
            .args(["run", "--config"])
            .arg(config)
            .envs(setup.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::follow(
            child.stderr.take().unwrap(),
            setup.reader,
            setup.keeps.clone(),
        );
        let address = log.wait(|line| line["message"] == "listening")["address"].clone();
        let admin = log.wait(|line| line["message"] == "admin listening")["address"].clone();
        log.wait(|line| line["message"] == "ready");
        let parse = |value: Value| value.as_str().unwrap().parse().unwrap();
        Self {
            child,
            log,
            address: parse(address),
            admin: parse(admin),
            folder,
        }
    }

    /// Sends one request and reads its answer; `None` where the connection closes without one.
    pub(crate) fn send(&self, from: Ipv4Addr, request: impl AsRef<[u8]>) -> Option<Reply> {
        let mut connection = self.connect(from);
        connection.write(request);
        connection.reply()
    }

    /// Opens a connection from this address.
    pub(crate) fn connect(&self, from: Ipv4Addr) -> Connection {
        Connection::open(self.address, from)
    }

    /// The messages that the embedded injection API holds, newest first.
    pub(crate) fn messages(&self) -> Vec<Value> {
        let get = |path: &str| {
            let reply = self.send(TRUSTED, get(path)).unwrap();
            assert_eq!(reply.status, 200, "{reply:?}");
            reply.json()
        };
        let list = get("/messages?limit=1000");
        let list = list["messages"].as_array().unwrap();
        list.iter()
            .map(|entry| get(&format!("/messages/{}", entry["id"])))
            .collect()
    }

    /// A page of the admin listener.
    pub(crate) fn admin(&self, path: &str) -> Reply {
        let mut connection = Connection::open(self.admin, TRUSTED);
        connection.write(get(path).replacen("Host: gate", "Host: localhost", 1));
        connection.reply().unwrap()
    }

    /// The value of a metric, by its name and labels as they are printed; 0 where it is not there.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits for a log line that is like this.
    pub(crate) fn wait_log(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.log.wait(wanted)
    }

    /// Where it listens for clients, as the log says.
    pub(crate) fn listening(&self) -> Vec<SocketAddr> {
        let lines = self.logged();
        let lines = lines
            .lines()
            .filter_map(|it| serde_json::from_str::<Value>(it).ok());
        lines
            .filter(|it| it["message"] == "listening")
            .filter_map(|it| it["address"].as_str()?.parse().ok())
            .collect()
    }

    /// Everything that was logged so far.
    pub(crate) fn logged(&self) -> String {
        self.log.text()
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let signal = match name {
            "CONT" => Signal::CONT,
            "HUP" => Signal::HUP,
            "INT" => Signal::INT,
            "KILL" => Signal::KILL,
            "QUIT" => Signal::QUIT,
            "STOP" => Signal::STOP,
            "TERM" => Signal::TERM,
            _ => panic!("no signal is called {name}"),
        };
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Where its configuration and policy are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end and gives the exit status.
    pub(crate) fn wait_exit(&mut self) -> Option<i32> {
        let mut status = None;
        wait_for("gatepost to end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// User and system time that it has taken, to a hundredth of a second.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name, which may hold spaces: state is the 3rd field, utime and stime the 14th and 15th.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// The most memory that it ever held, in bytes (`VmHWM`).
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory that it holds now, in bytes (`VmRSS`).
    pub(crate) fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(which))
            .unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }
}

impl Drop for Gatepost {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- gatepost's log ---\n{}", self.log.text());
        }
    }
}

/// Runs gatepost to its end and gives exit status, standard output and standard error.
pub(crate) fn run(arguments: &[&str], folder: &Path) -> (Option<i32>, String, String) {
    run_with(arguments, folder, "", &[])
}

/// The same with something on standard input and in the environment.
pub(crate) fn run_with(
    arguments: &[&str],
    folder: &Path,
    input: &str,
    environment: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .current_dir(folder)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends without reading is its own business.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let mut ended = false;
    let deadline = Instant::now() + PATIENCE;
    while !ended && Instant::now() < deadline {
        ended = child.try_wait().unwrap().is_some();
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert!(
        ended,
        "gatepost did not end: {}",
        text(output.stderr.clone())
    );
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Writes a file and gives its path.
pub(crate) fn write(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// The JSON log lines of a process, as they come.
#[derive(Clone)]
struct Log(Arc<(Mutex<LogState>, Condvar)>);

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    fn follow(from: impl io::Read + Send + 'static, reader: Reader, keeps: Keeps) -> Self {
        let log = Self(Arc::default());
        let writer = log.clone();
        thread::spawn(move || {
            let mut lines = BufReader::new(from).lines();
            for line in lines.by_ref().map_while(Result::ok) {
                if !keeps(&line) {
                    continue;
                }
                let asleep = reader == Reader::FallsAsleep && line.contains("\"ready\"");
                writer.0.0.lock().unwrap().lines.push(line);
                writer.0.1.notify_all();
                if asleep {
                    return std::mem::forget(lines);
                }
            }
            writer.0.0.lock().unwrap().ended = true;
            writer.0.1.notify_all();
        });
        log
    }

    fn wait(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.0.0.lock().unwrap();
        let mut seen = 0;
        loop {
            while seen < state.lines.len() {
                if let Ok(line) = serde_json::from_str(&state.lines[seen])
                    && wanted(&line)
                {
                    return line;
                }
                seen += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !state.ended,
                "log line not seen in:\n{}",
                state.lines.join("\n")
            );
            state = self.0.1.wait_timeout(state, left).unwrap().0;
        }
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().lines.join("\n")
    }
}

/// One connection, spoken to in bytes.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr, from: Ipv4Addr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&to.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// The socket alone.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Writes; that the other side has closed already is no fault here, what it answered is asked later.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Breaks off, so that the other side sees a reset.
    pub(crate) fn reset(self) {
        let linger = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        linger.unwrap();
    }

    /// The next answer, interim ones left out; `None` where the connection closes without one.
    pub(crate) fn reply(&mut self) -> Option<Reply> {
        loop {
            let reply = self.any_reply()?;
            if reply.status >= 200 {
                return Some(reply);
            }
        }
    }

    /// The next answer, interim or not.
    pub(crate) fn any_reply(&mut self) -> Option<Reply> {
        let end = loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                break end + 4;
            }
            if !self.read_more() {
                assert!(
                    self.received.is_empty(),
                    "half an answer: {:?}",
                    self.received.escape_ascii().to_string()
                );
                return None;
            }
        };
        let head = String::from_utf8(self.received.drain(..end).collect()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut reply = Reply {
            status,
            headers,
            body: Vec::new(),
        };
        if status >= 200 && status != 204 && status != 304 {
            reply.body = self.body(&reply);
        }
        Some(reply)
    }

    fn body(&mut self, reply: &Reply) -> Vec<u8> {
        if reply.header("transfer-encoding") == Some("chunked") {
            return self.chunks();
        }
        let Some(length) = reply.header("content-length") else {
            while self.read_more() {}
            return std::mem::take(&mut self.received);
        };
        self.exactly(length.parse().unwrap())
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match find(&self.received, b"\r\n") {
                    Some(end) => break end,
                    None => assert!(self.read_more(), "chunked answer broke off"),
                }
            };
            let line = self.exactly(end + 2);
            let size =
                usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
            let chunk = self.exactly(size + 2);
            if size == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    /// The next bytes, as they came.
    pub(crate) fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            assert!(self.read_more(), "answer broke off");
        }
        self.received.drain(..length).collect()
    }

    /// Everything until the other side closes, as it came.
    pub(crate) fn until_closed(&mut self) -> Vec<u8> {
        while self.read_more() {}
        std::mem::take(&mut self.received)
    }

    /// The same connection, for another thread to write to.
    pub(crate) fn try_clone(&self) -> Self {
        Self {
            stream: self.stream.try_clone().unwrap(),
            received: Vec::new(),
        }
    }

    /// Whether the other side closes without saying anything more.
    pub(crate) fn closes(&mut self) -> bool {
        self.received.is_empty() && !self.read_more()
    }

    fn read_more(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(read) => {
                self.received.extend_from_slice(&buffer[..read]);
                true
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => panic!("no answer in time"),
            Err(_) => false,
        }
    }
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// `Authorization: Basic …`, with its line end.
pub(crate) fn basic(user: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {encoded}\r\n")
}

/// A GET.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: gate\r\n\r\n")
}

/// A POST with these header lines (each with its line end).
pub(crate) fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: gate\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// A message that can be recognised by its sender.
pub(crate) fn message(sender: &str) -> String {
    serde_json::json!({
        "envelope_sender": sender,
        "recipients": [{ "email": "you@example.net" }],
        "content": "From: me@example.com\r\nSubject: hello\r\n\r\nHello.",
    })
    .to_string()
}

/// POSTs such a message to the injection API.
pub(crate) fn inject(headers: &str) -> String {
    post("/api/inject/v1", headers, &message("me@example.com"))
}

/// An upstream that keeps every byte that it gets, and answers as it is told.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    heads: Arc<Mutex<Vec<String>>>,
}

/// What an upstream does once it has read a whole request. Gives false to close the connection.
pub(crate) type Behaviour = dyn Fn(&mut TcpStream, &Seen) -> bool + Send + Sync;

/// A request as the upstream saw it.
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// How many requests this connection has seen before.
    pub(crate) earlier: usize,
}

impl Seen {
    /// All values of a header, whatever its case.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.head
            .split("\r\n")
            .filter_map(|line| line.split_once(": "))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }
}

impl Recorder {
    /// Answers every request with 200 and `ok`.
    pub(crate) fn start() -> Self {
        Self::behaving(|stream, _| {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .is_ok()
        })
    }

    /// Answers as told.
    pub(crate) fn behaving(
        behaviour: impl Fn(&mut TcpStream, &Seen) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = heads.clone();
        let behaviour = move |stream: &mut TcpStream, seen: &Seen| {
            noted.lock().unwrap().push(seen.head.clone());
            behaviour(stream, seen)
        };
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let keep = received.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (keep, behaviour) = (keep.clone(), behaviour.clone());
                let index = {
                    let mut all = keep.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                thread::spawn(move || converse(stream, &keep, index, &*behaviour));
            }
        });
        Self {
            address,
            received,
            heads,
        }
    }

    /// The value of a header of the request that came last, whatever the connection.
    pub(crate) fn told(&self, name: &str) -> Option<String> {
        let heads = self.heads.lock().unwrap();
        let mut lines = heads.last()?.lines().filter_map(|it| it.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    }

    /// Every byte, connection by connection.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.received.lock().unwrap().concat()
    }

    /// What came since it was last taken, for each connection that brought anything.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        let mut received = self.received.lock().unwrap();
        let taken = received.iter_mut().map(std::mem::take);
        taken.filter(|it| !it.is_empty()).collect()
    }

    /// As text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// How many request lines came in.
    pub(crate) fn requests(&self) -> usize {
        self.text().matches(" HTTP/1.1\r\n").count()
    }

    /// How many connections were opened.
    pub(crate) fn connections(&self) -> usize {
        self.received.lock().unwrap().len()
    }
}

fn converse(
    mut stream: TcpStream,
    keep: &Mutex<Vec<Vec<u8>>>,
    index: usize,
    behaviour: &Behaviour,
) {
    let mut pending = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut earlier = 0;
    loop {
        while let Some((seen, length)) = whole_request(&pending, earlier) {
            pending.drain(..length);
            earlier += 1;
            if !behaviour(&mut stream, &seen) {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                pending.extend_from_slice(&buffer[..read]);
                keep.lock().unwrap()[index].extend_from_slice(&buffer[..read]);
            }
        }
    }
}

/// Takes the first request apart, if it is there as a whole.
fn whole_request(bytes: &[u8], earlier: usize) -> Option<(Seen, usize)> {
    let end = find(bytes, b"\r\n\r\n")? + 4;
    let seen = Seen {
        head: String::from_utf8_lossy(&bytes[..end]).into_owned(),
        body: Vec::new(),
        earlier,
    };
    let rest = &bytes[end..];
    if seen.values("transfer-encoding").is_empty() {
        let length = seen
            .values("content-length")
            .first()
            .map_or(0, |value| value.parse().unwrap());
        let body = rest.get(..length)?.to_vec();
        return Some((Seen { body, ..seen }, end + length));
    }
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line_end = at + find(rest.get(at..)?, b"\r\n")?;
        let size =
            usize::from_str_radix(std::str::from_utf8(&rest[at..line_end]).ok()?, 16).ok()?;
        let chunk = rest.get(line_end + 2..line_end + 2 + size + 2)?;
        at = line_end + 2 + size + 2;
        if size == 0 {
            return Some((Seen { body, ..seen }, end + at));
        }
        body.extend_from_slice(&chunk[..size]);
    }
}
