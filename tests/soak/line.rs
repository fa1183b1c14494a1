//! A client's connection that costs little, and the times that answers took.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::{Connection, PATIENCE, find};

pub(crate) struct Line<S> {
    stream: S,
    got: Vec<u8>,
}

/// What a client reads of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Whether it says `Connection: close`.
    pub(crate) closes: bool,
    pub(crate) says_when_to_retry: bool,
}

impl Line<TcpStream> {
    pub(crate) fn open(to: SocketAddr, from: Ipv4Addr) -> Self {
        let stream = Connection::open(to, from).into_stream();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::over(stream)
    }

    /// Breaks off, so that the other side sees a reset.
    pub(crate) fn reset(self) {
        let linger = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        linger.unwrap();
    }

    /// Without waiting: whether the other side has said something, or has gone.
    pub(crate) fn has_heard(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let read = self.stream.read(&mut [0; 4096]);
        self.stream.set_nonblocking(false).unwrap();
        !matches!(read, Err(fault) if fault.kind() == io::ErrorKind::WouldBlock)
    }
}

impl<S: Read + Write> Line<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self {
            stream,
            got: Vec::new(),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.write(request)?;
        self.answer()
    }

    /// The next answer, with a body of some length.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        loop {
            if let Some(end) = find(&self.got, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.got[..end + 2]).to_ascii_lowercase();
                let length = head.split("\r\ncontent-length: ").nth(1);
                let length = length.map_or(0, |it| it.lines().next().unwrap().parse().unwrap());
                while self.got.len() < end + 4 + length {
                    self.read_more()?;
                }
                self.got.drain(..end + 4 + length);
                let status = head.get(9..12).and_then(|it| it.parse().ok());
                return Ok(Answer {
                    status: status.ok_or_else(|| io::Error::other(head.clone()))?,
                    closes: head.contains("\r\nconnection: close\r\n"),
                    says_when_to_retry: head.contains("\r\nretry-after: "),
                });
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.got.extend_from_slice(&buffer[..read]);
                Ok(())
            }
        }
    }
}

/// How long answers took: a count for each step of a hundredth, so that it stays small however many there are.
#[derive(Clone)]
pub(crate) struct Times {
    steps: Vec<u64>,
    count: u64,
    sum: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            // Up to e²⁰ µs: eight minutes.
            steps: vec![0; 2000],
            count: 0,
            sum: Duration::ZERO,
        }
    }
}

impl Times {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small and positive"
    )]
    pub(crate) fn note(&mut self, took: Duration) {
        let step = (took.as_secs_f64() * 1e6).max(1.0).ln() * 100.0;
        self.steps[(step as usize).min(1999)] += 1;
        self.count += 1;
        self.sum += took;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (step, more) in self.steps.iter_mut().zip(&other.steps) {
            *step += more;
        }
        self.count += other.count;
        self.sum += other.sum;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// In milliseconds, to a hundredth of itself: the time that so many of a thousand did not exceed.
    pub(crate) fn permille(&self, permille: u64) -> f64 {
        let wanted = (self.count * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (step, count) in (0_u32..).zip(&self.steps) {
            seen += count;
            if seen >= wanted {
                return (f64::from(step + 1) / 100.0).exp() / 1e3;
            }
        }
        0.0
    }

    pub(crate) fn mean(&self) -> f64 {
        match u32::try_from(self.count) {
            Ok(count @ 1..) => (self.sum / count).as_secs_f64() * 1e3,
            _ => 0.0,
        }
    }

    /// As it is printed.
    pub(crate) fn said(&self) -> String {
        format!(
            "mean {:.2} ms, p50 {:.2} ms, p99 {:.2} ms",
            self.mean(),
            self.permille(500),
            self.permille(990)
        )
    }
}
