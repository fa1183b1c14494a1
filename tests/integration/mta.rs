//! What the tests with real MTAs share: where these deliver, and how they are asked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::wait_for;
use crate::program::Program;

/// A file or folder of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap().join(path)
}

/// A file of the repository, which an operator would take as it is.
pub(crate) fn shipped(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

/// An SMTP server of others' (aiosmtpd) that keeps what it gets.
pub(crate) struct Sink(Program);

/// A message as it was delivered.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) sender: String,
    pub(crate) recipients: Vec<String>,
    /// Each as it came, folds and all, without its line end.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Sink {
    pub(crate) fn start() -> Self {
        let python = repository("target/aiosmtpd/bin/python");
        let script = format!(
            "PYTHONDONTWRITEBYTECODE=1 PYTHONPATH='{}' exec '{}' -m aiosmtpd -n -l \"$(cat config)\" -c sink.Sink .",
            repository("tests/integration").display(),
            python.display()
        );
        let config = |listen: &[SocketAddr], _: &Path| listen[0].to_string();
        Self(Program::start("sh", &["-c", &script], 1, config))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.addresses[0]
    }

    /// Everything that came so far.
    pub(crate) fn delivered(&self) -> Vec<Delivered> {
        let files = std::fs::read_dir(self.0.folder()).unwrap();
        files
            .map(|it| it.unwrap().path())
            .filter(|it| it.extension().is_some_and(|it| it == "json"))
            .map(|it| Delivered::read(&std::fs::read_to_string(it).unwrap()))
            .collect()
    }

    /// The messages for this recipient, as soon as there are so many.
    pub(crate) fn wait(&self, recipient: &str, count: usize) -> Vec<Delivered> {
        let mut found = Vec::new();
        wait_for("a message to be delivered", || {
            found = self.delivered();
            found.retain(|it| it.recipients.iter().any(|it| it == recipient));
            found.len() >= count
        });
        assert_eq!(found.len(), count, "{found:?}");
        found
    }

    /// The one message for this recipient.
    pub(crate) fn only(&self, recipient: &str) -> Delivered {
        self.wait(recipient, 1).remove(0)
    }
}

impl Delivered {
    fn read(json: &str) -> Self {
        let value: Value = serde_json::from_str(json).unwrap();
        // One character for each byte.
        let content: Vec<u8> = value["content"]
            .as_str()
            .unwrap()
            .chars()
            .map(|it| u8::try_from(it).unwrap())
            .collect();
        let end = crate::harness::find(&content, b"\r\n\r\n").unwrap();
        let section = String::from_utf8_lossy(&content[..end]).into_owned();
        let mut headers: Vec<String> = Vec::new();
        for line in section.split("\r\n") {
            match headers.last_mut() {
                Some(last) if line.starts_with([' ', '\t']) => {
                    last.push_str("\r\n");
                    last.push_str(line);
                }
                _ => headers.push(line.to_owned()),
            }
        }
        let recipients = value["recipients"].as_array().unwrap();
        Self {
            sender: value["sender"].as_str().unwrap().to_owned(),
            recipients: recipients
                .iter()
                .map(|it| it.as_str().unwrap().to_owned())
                .collect(),
            headers,
            body: content[end + 4..].to_vec(),
        }
    }

    /// The values of a header, also where somebody wrote its name in a way of their own.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let pairs = self.headers.iter().filter_map(|it| it.split_once(':'));
        pairs
            .filter(|(key, _)| key.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }
}
