//! The audit log: one JSON line for every authentication and for every authorization decision, and the
//! `auth_failed` lines by which fail2ban and its kin know who guesses.
//!
//! Lines are written by a thread of its own; a disk that is slow or full holds up no request. What cannot
//! be taken in time is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use gatepost_config::{AuditNames, AuditOutput};
use prometheus::IntCounter;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::record::{Facts, Record};
use crate::shared_state::name_hash;

/// Lines that may wait to be written.
const WAITING: usize = 16 * 1024;

/// What they may take together: one that tells of a message with many recipients has some hundred KiB.
const MOST_BYTES: usize = 64 << 20;

/// How long the last lines may take when gatepost ends.
const LAST: Duration = Duration::from_secs(2);

/// The way to the thread that writes.
pub(crate) struct Audit {
    /// tokio's channel, since std's sets aside room for all that may ever wait.
    to_writer: mpsc::Sender<Message>,
    /// What the lines that wait take, in bytes.
    waiting: Arc<AtomicUsize>,
    /// The output that is to be opened next, also where it is the one that is open: a file may have been moved
    /// away. Kept apart, so that whoever wants it need not wait for a writer that is stuck.
    wanted: Arc<Mutex<Option<AuditOutput>>>,
    lost: IntCounter,
}

enum Message {
    Line(String),
    /// Says that there is an output to be opened.
    Open,
    /// Writes what is there, and says so.
    Flush(SyncSender<()>),
}

impl Audit {
    /// # Errors
    ///
    /// Where the file cannot be opened, or the thread cannot be started.
    pub(crate) fn start(output: &AuditOutput, lost: IntCounter) -> io::Result<Self> {
        let sink = open(output)?;
        let (to_writer, messages) = mpsc::channel(WAITING);
        let wanted: Arc<Mutex<Option<AuditOutput>>> = Arc::default();
        let waiting: Arc<AtomicUsize> = Arc::default();
        let writer = Writer {
            sink,
            waiting: waiting.clone(),
            wanted: wanted.clone(),
            pending: 0,
            well: true,
            lost: lost.clone(),
        };
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(messages))?;
        Ok(Self {
            to_writer,
            waiting,
            wanted,
            lost,
        })
    }

    /// Opens the output anew.
    pub(crate) fn reopen(&self, output: &AuditOutput) {
        *lock(&self.wanted) = Some(output.clone());
        // Where there is no room for it, the writer looks when it has written what waits.
        let _ = self.to_writer.try_send(Message::Open);
    }

    /// Waits until everything is written, for a while.
    pub(crate) fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.to_writer.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(LAST);
        }
    }

    /// Says what was decided about a request.
    pub(crate) fn decided(&self, record: &Record, output: &AuditOutput) {
        if let Some(failure) = record.authentication.as_ref().and_then(|it| it.failure) {
            warn(record, failure);
        }
        if *output == AuditOutput::Off {
            return;
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        if let Some(authentication) = &record.authentication {
            self.line(&Line {
                event: "authentication",
                outcome: authentication.outcome,
                reason: authentication.failure,
                ..Line::of(record, &time)
            });
        }
        let allowed = record.refusal.is_none();
        if let Some(facts) = &record.facts {
            self.line(&Line {
                event: "message",
                outcome: if allowed { "allowed" } else { "denied" },
                reason: record.refusal,
                message: Some(facts),
                ..Line::of(record, &time)
            });
        }
        self.line(&Line {
            event: "authorization",
            outcome: if allowed { "allowed" } else { "denied" },
            reason: record.refusal,
            ..Line::of(record, &time)
        });
    }

    fn line(&self, line: &Line<'_>) {
        // Texts and numbers only, so it cannot fail; if it did, the line would be lost and counted.
        let sent = serde_json::to_string(line).is_ok_and(|text| self.send(text));
        if !sent {
            self.lost.inc();
        }
    }

    fn send(&self, text: String) -> bool {
        let size = text.len();
        let room = self.waiting.fetch_add(size, Ordering::Relaxed) + size <= MOST_BYTES;
        let sent = room && self.to_writer.try_send(Message::Line(text)).is_ok();
        if !sent {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
        }
        sent
    }
}

/// In the order in which people read it.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    event: &'static str,
    request_id: &'a str,
    client: Option<String>,
    peer: Option<String>,
    mechanism: Option<&'static str>,
    user: Option<&'a str>,
    outcome: &'static str,
    reason: Option<&'static str>,
    method: Option<&'a str>,
    route: Option<&'a str>,
    policy_generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a Facts>,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record, time: &'a str) -> Self {
        Self {
            time,
            event: "",
            request_id: &record.request_id,
            client: record.client.map(|it| it.to_string()),
            peer: record.peer.map(|it| it.to_string()),
            mechanism: record
                .authentication
                .as_ref()
                .and_then(|it| it.mechanism)
                .map(gatepost_auth::Mechanism::as_str),
            user: record.identity.as_deref().or(record.user.as_deref()),
            outcome: "",
            reason: None,
            method: record.method.as_ref().map(http::Method::as_str),
            route: record.route.as_deref(),
            policy_generation: record.generation,
            message: None,
        }
    }
}

/// The line that fail2ban reads; `deploy/fail2ban` has the filter. The client stands before anything that
/// the client chose, and the name is quoted as Rust quotes: nothing in it ends the quotes or the line.
fn warn(record: &Record, reason: &'static str) {
    if let Some(client) = record.client {
        let user = record.user.as_deref().unwrap_or_default();
        tracing::warn!(target: "auth", "auth_failed client={client} user={user:?} reason={reason}");
    }
}

/// What logs call a user whom the policy did not accept.
pub(crate) fn shown_name(name: &str, names: AuditNames) -> String {
    let hash = match names {
        AuditNames::Plain => false,
        AuditNames::HashSecrets => looks_like_secret(name),
        AuditNames::HashAll => true,
    };
    if !hash {
        return name.to_owned();
    }
    format!("sha256:{:016x}", name_hash(name) >> 64)
}

/// Whether a name is more likely a key, a token or a password that was put into the wrong field: it begins
/// like the keys of well-known services, or is long, of one word, and mixes letters with digits.
fn looks_like_secret(name: &str) -> bool {
    const BEGINNINGS: [&str; 14] = [
        "AKIA",
        "ASIA",
        "AIza",
        "eyJ",
        "ghp_",
        "gho_",
        "ghs_",
        "glpat-",
        "github_pat_",
        "sk-",
        "sk_",
        "SG.",
        "xoxb-",
        "xoxp-",
    ];
    if BEGINNINGS
        .iter()
        .any(|it| name.starts_with(it) && name.len() >= 16)
    {
        return true;
    }
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_-.~!#$%^&*".contains(&byte);
    let digits = name.bytes().filter(u8::is_ascii_digit).count();
    let letters = name.bytes().filter(u8::is_ascii_alphabetic).count();
    let mixed_case = name.bytes().any(|it| it.is_ascii_uppercase())
        && name.bytes().any(|it| it.is_ascii_lowercase());
    let odd = name.bytes().any(|it| b"+/=!#$%^&*".contains(&it));
    // Dots and dashes between words are what host and service names are made of.
    let plain_words = name.split(['.', '-', '_']).all(|part| part.len() < 16);
    (name.len() >= 20 && name.bytes().all(word) && digits >= 3 && letters >= 3 && !plain_words)
        || (name.len() >= 12 && mixed_case && digits >= 1 && odd)
}

type Sink = Box<dyn Write + Send>;

fn open(output: &AuditOutput) -> io::Result<Sink> {
    Ok(match output {
        AuditOutput::Off => Box::new(io::sink()),
        AuditOutput::Stdout => Box::new(BufWriter::new(io::stdout())),
        AuditOutput::File(path) => {
            let file = open_file(path).map_err(|fault| {
                let shown = path.display();
                io::Error::new(fault.kind(), format!("the audit log {shown}: {fault}"))
            })?;
            Box::new(BufWriter::new(file))
        }
    })
}

fn open_file(path: &Path) -> io::Result<File> {
    // Opening a named pipe would wait for a reader.
    if std::fs::metadata(path).is_ok_and(|it| !it.is_file()) {
        return Err(io::Error::other("it is not a file"));
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own.
struct Writer {
    sink: Sink,
    waiting: Arc<AtomicUsize>,
    wanted: Arc<Mutex<Option<AuditOutput>>>,
    /// Lines that the sink has taken and may still lose.
    pending: u64,
    well: bool,
    lost: IntCounter,
}

impl Writer {
    /// Writes until nobody can have anything to say any more.
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(first) = messages.blocking_recv() {
            // What came meanwhile goes out together.
            let meanwhile = std::iter::from_fn(|| messages.try_recv().ok());
            for message in std::iter::once(first).chain(meanwhile.take(WAITING)) {
                match message {
                    Message::Line(line) => self.line(line),
                    Message::Open => self.open_wanted(),
                    Message::Flush(done) => {
                        self.flush();
                        let _ = done.send(());
                    }
                }
            }
            self.flush();
            self.open_wanted();
        }
    }

    fn line(&mut self, mut line: String) {
        self.pending += 1;
        self.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        line.push('\n');
        let written = self.sink.write_all(line.as_bytes());
        self.note(written);
    }

    fn flush(&mut self) {
        let written = self.sink.flush();
        let well = written.is_ok();
        self.note(written);
        if well {
            self.pending = 0;
        }
    }

    /// The lines that are lost are counted; that there are some is said once.
    fn note(&mut self, written: io::Result<()>) {
        match written {
            Err(fault) => {
                self.lost.inc_by(self.pending);
                self.pending = 0;
                if self.well {
                    tracing::error!(%fault, "audit lines are lost: they cannot be written");
                }
                self.well = false;
            }
            Ok(()) if !self.well && self.pending == 0 => {
                self.well = true;
                tracing::info!("audit lines are written again");
            }
            Ok(()) => {}
        }
    }

    fn open_wanted(&mut self) {
        let Some(output) = lock(&self.wanted).take() else {
            return;
        };
        self.flush();
        match open(&output) {
            Ok(sink) => self.sink = sink,
            Err(fault) => tracing::error!(%fault, "the old audit log goes on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that hangs: what waits is bounded in bytes, and comes out whole when it goes on.
    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let (to_writer, messages) = mpsc::channel(WAITING);
        let lost = IntCounter::new("lost", "lost").unwrap();
        let waiting: Arc<AtomicUsize> = Arc::default();
        let audit = Audit {
            to_writer,
            waiting: waiting.clone(),
            wanted: Arc::default(),
            lost: lost.clone(),
        };
        let sent = |size: usize| audit.send("x".repeat(size));
        assert!(sent(MOST_BYTES - 10));
        assert!(!sent(11));
        assert!(sent(10));
        assert!(!sent(1));
        drop(audit);
        let writer = Writer {
            sink: Box::new(io::sink()),
            waiting: waiting.clone(),
            wanted: Arc::default(),
            pending: 0,
            well: true,
            lost,
        };
        writer.run(messages);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn names_that_look_like_secrets_are_hashed() {
        for name in [
            "AKIAIOSFODNN7EXAMPLE",
            "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "dGhpc2lzYXNlY3JldDEyMzQ1Njc4OTA=",
            "Tr0ub4dor&3xyz",
        ] {
            let shown = shown_name(name, AuditNames::HashSecrets);
            assert!(
                shown.starts_with("sha256:") && shown.len() == 23,
                "{name} {shown}"
            );
            assert_eq!(
                shown,
                shown_name(name, AuditNames::HashAll),
                "the same at every time"
            );
            assert_eq!(shown_name(name, AuditNames::Plain), name);
        }
        for name in [
            "scott",
            "newsletter@example.com",
            "mail-relay-03.eu-west-1.example.com",
            "jürgen müller",
            "svc_billing_2026",
            "customer-000000123456",
            "ABC",
        ] {
            assert_eq!(shown_name(name, AuditNames::HashSecrets), name);
            assert_ne!(shown_name(name, AuditNames::HashAll), name);
        }
    }
}
