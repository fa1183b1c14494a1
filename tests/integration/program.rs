//! Starts a program of others in the foreground, with a configuration of its own in a folder of its own, and
//! says what came out on its other side.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::harness::{Connection, Recorder, Reply, wait_for, write};

/// What proxies connect from. In no test is it a client's.
pub(crate) const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// A running program. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    name: String,
    arguments: Vec<String>,
    /// Where it listens, in the order of its configuration.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Holds its configuration, and what it writes.
    folder: tempfile::TempDir,
}

impl Program {
    /// Writes the configuration and starts the program with it. Both are given the folder, and the configuration
    /// also the addresses to listen on.
    ///
    /// A free port may be taken by somebody else before the program has it; then there is another try.
    pub(crate) fn start(
        name: &str,
        arguments: &[&str],
        listeners: usize,
        config: impl Fn(&[SocketAddr], &Path) -> String,
    ) -> Self {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let addresses = free_addresses(listeners);
            write(folder.path(), "config", &config(&addresses, folder.path()));
            let mut program = Self {
                child: spawn(name, arguments, folder.path()),
                name: name.to_owned(),
                arguments: arguments.iter().map(|&it| it.to_owned()).collect(),
                addresses,
                folder,
            };
            if program.listens() {
                return program;
            }
            let output = program.output();
            assert!(
                output.contains("ddress already in use"),
                "{name} does not start: {output}"
            );
        }
        panic!("{name} finds no free port");
    }

    /// Ends it, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it once more, as it was.
    pub(crate) fn start_again(&mut self) {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        self.child = spawn(&self.name, &arguments, self.folder.path());
        assert!(self.listens(), "{} does not start again", self.name);
    }

    /// Whether it does, or has ended without.
    fn listens(&mut self) -> bool {
        let mut ended = false;
        wait_for("a program to listen", || {
            ended = self.child.try_wait().unwrap().is_some();
            ended
                || self
                    .addresses
                    .iter()
                    .all(|it| TcpStream::connect(it).is_ok())
        });
        !ended
    }

    /// What it has written so far.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).unwrap()
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the other program's output ---\n{}", self.output());
        }
    }
}

fn spawn(name: &str, arguments: &[&str], folder: &Path) -> Child {
    let output = File::options()
        .create(true)
        .append(true)
        .open(folder.join("output"))
        .unwrap();
    Command::new(name)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap_or_else(|fault| panic!("{name} is installed by `make integration`: {fault}"))
}

/// Held all at once, so that they differ. A loopback address that is nobody's client keeps their ports apart from
/// those that outgoing connections take.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.8:0").unwrap())
        .collect();
    held.iter().map(|it| it.local_addr().unwrap()).collect()
}

/// Sends one request on a connection of its own and reads its answer.
pub(crate) fn send(to: SocketAddr, from: Ipv4Addr, request: impl AsRef<[u8]>) -> Option<Reply> {
    let mut connection = Connection::open(to, from);
    connection.write(request);
    connection.reply()
}

/// An upstream that takes one request per connection, so that [`seen`] gives them in the order in which they came.
pub(crate) fn upstream() -> Recorder {
    Recorder::behaving(|stream, _| {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        false
    })
}

/// The values of a header in everything that the upstream got.
pub(crate) fn seen(upstream: &Recorder, name: &str) -> Vec<String> {
    let text = upstream.text();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.to_owned())
        .collect()
}
