//! An upstream that keeps nothing of what it gets but which requests it got, and that can go away and come back.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::harness::{find, wait_for};

/// Which requests there were, a bit for each: gatepost names them by a number of its process and a count.
#[derive(Default, Clone)]
pub(crate) struct Ids {
    bits: Vec<u64>,
    pub(crate) count: u64,
    /// Those that came more than once.
    pub(crate) again: u64,
}

impl Ids {
    pub(crate) fn note(&mut self, id: &str) {
        let digits = id.get(16..).filter(|it| it.len() == 8);
        let number = digits.and_then(|it| usize::from_str_radix(it, 16).ok());
        let number = number.unwrap_or_else(|| panic!("{id:?} is none of gatepost's own names"));
        let (word, bit) = (number / 64, 1 << (number % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.count += 1;
        } else {
            self.again += 1;
        }
    }

    /// These and those.
    pub(crate) fn add(&mut self, those: &Self) {
        let words = self.bits.len().max(those.bits.len());
        self.bits.resize(words, 0);
        for (it, more) in self.bits.iter_mut().zip(&those.bits) {
            *it |= more;
        }
        self.count = self.bits.iter().map(|it| u64::from(it.count_ones())).sum();
    }

    /// How many of these are not among those.
    pub(crate) fn without(&self, those: &Self) -> u64 {
        let those = those.bits.iter().copied().chain(std::iter::repeat(0));
        let left = self.bits.iter().zip(those).map(|(it, not)| it & !not);
        left.map(|it| u64::from(it.count_ones())).sum()
    }
}

/// What it has seen.
#[derive(Default, Clone)]
pub(crate) struct Seen {
    /// Requests whose head came.
    pub(crate) heads: Ids,
    /// Requests that came whole.
    pub(crate) wholes: Ids,
    /// Heads with a name that nobody has but who forges it.
    pub(crate) forged: u64,
}

#[derive(Default)]
struct State {
    seen: Mutex<Seen>,
    is_there: AtomicBool,
    streams: Mutex<HashMap<u64, TcpStream>>,
    next: AtomicU64,
}

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// Who forges an identity says that it is this one.
pub(crate) const FORGED: &str = "mallory";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

impl Upstream {
    pub(crate) fn start() -> Self {
        // Nobody connects from there, so that nobody gets its port while it is away.
        let listener = TcpListener::bind("127.0.0.7:0").unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            accepting: Mutex::default(),
        };
        upstream.accept(listener);
        upstream
    }

    pub(crate) fn seen(&self) -> Seen {
        self.state.seen.lock().unwrap().clone()
    }

    /// Goes away, in the middle of what it does, and comes back after this time.
    pub(crate) fn restart(&self, after: Duration) {
        self.state.is_there.store(false, Ordering::SeqCst);
        // It waits for a connection.
        drop(TcpStream::connect(self.address));
        let accepting = self.accepting.lock().unwrap().take();
        accepting.unwrap().join().unwrap();
        for (_, stream) in self.state.streams.lock().unwrap().drain() {
            // As by a process that is killed. Otherwise its kernel may leave the other side waiting for room for a minute.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
        thread::sleep(after);
        let mut listener = None;
        wait_for("the upstream's port", || {
            listener = TcpListener::bind(self.address).ok();
            listener.is_some()
        });
        self.accept(listener.unwrap());
    }

    fn accept(&self, listener: TcpListener) {
        self.state.is_there.store(true, Ordering::SeqCst);
        let state = self.state.clone();
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !state.is_there.load(Ordering::SeqCst) {
                    return;
                }
                let number = state.next.fetch_add(1, Ordering::Relaxed);
                let own = stream.try_clone().unwrap();
                state.streams.lock().unwrap().insert(number, own);
                let state = state.clone();
                let serving = move || {
                    // Whatever ends it: gatepost's side sees it.
                    let _ = state.serve(stream);
                    state.streams.lock().unwrap().remove(&number);
                };
                let small = thread::Builder::new().stack_size(256 << 10);
                small.spawn(serving).unwrap();
            }
        });
        *self.accepting.lock().unwrap() = Some(accepting);
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut got = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let end = loop {
                if let Some(end) = find(&got, b"\r\n\r\n") {
                    break end + 4;
                }
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => got.extend_from_slice(&buffer[..read]),
                }
            };
            let head = String::from_utf8_lossy(&got[..end]).into_owned();
            got.drain(..end);
            let value = |name: &str| {
                let mut lines = head.lines().filter_map(|it| it.split_once(": "));
                let line = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
                line.map(|(_, value)| value.to_owned())
            };
            let id = value("x-request-id").expect("gatepost names every request");
            {
                let mut seen = self.seen.lock().unwrap();
                seen.heads.note(&id);
                seen.forged += u64::from(head.contains(FORGED));
            }
            let mut body = Body::of(
                value("content-length"),
                value("transfer-encoding").is_some(),
            );
            while !body.take(&mut got) {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => got.extend_from_slice(&buffer[..read]),
                }
            }
            self.seen.lock().unwrap().wholes.note(&id);
            stream.write_all(ANSWER)?;
        }
    }
}

/// What is left of a request's body.
enum Body {
    Length(usize),
    Chunks,
}

impl Body {
    fn of(length: Option<String>, is_chunked: bool) -> Self {
        if is_chunked {
            Self::Chunks
        } else {
            Self::Length(length.map_or(0, |it| it.parse().unwrap()))
        }
    }

    /// Takes its bytes away. True where that was the last of it.
    fn take(&mut self, got: &mut Vec<u8>) -> bool {
        match self {
            Self::Length(left) => {
                let now = got.len().min(*left);
                got.drain(..now);
                *left -= now;
                *left == 0
            }
            Self::Chunks => loop {
                let Some(end) = find(got, b"\r\n") else {
                    return false;
                };
                let size = std::str::from_utf8(&got[..end]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                if got.len() < end + 2 + size + 2 {
                    return false;
                }
                got.drain(..end + 2 + size + 2);
                if size == 0 {
                    return true;
                }
            },
        }
    }
}
