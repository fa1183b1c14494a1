//! Standard error, written by a thread of its own. Whoever reads it may stop reading (a pipe into a logger that hangs, a paused
//! terminal), and a write to it then waits for ever; a proxy thread must not. Lines that find no room are dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Lines that may wait to be written: a second or two at full load.
const WAITING: usize = 8 * 1024;

/// What they may take together, in bytes: a policy's lines can be long.
const MOST_BYTES: usize = 32 << 20;

/// How long the last lines may take when gatepost ends.
const LAST: Duration = Duration::from_secs(2);

/// The way to the thread that writes. Takes whole lines.
#[derive(Clone)]
pub(crate) struct Background {
    /// tokio's channel, since std's sets aside room for all that may ever wait.
    to_writer: Sender<Message>,
    /// What the lines that wait take, in bytes.
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    /// Asks to be told when everything before it is written.
    Flush(SyncSender<()>),
}

impl Background {
    /// # Errors
    ///
    /// Where the thread cannot be started.
    pub(crate) fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (to_writer, messages) = channel(WAITING);
        let log = Self {
            to_writer,
            waiting: Arc::default(),
            lost: Arc::default(),
        };
        let (waiting, lost) = (log.waiting.clone(), log.lost.clone());
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(sink, messages, &waiting, &lost))?;
        Ok(log)
    }

    /// How many lines were not written.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, for a while.
    fn flush(&self) {
        let deadline = Instant::now() + LAST;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.to_writer.try_send(message) {
            if Instant::now() > deadline {
                return;
            }
            message = back;
            thread::sleep(Duration::from_millis(5));
        }
        // Too late or in time: gatepost ends either way.
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Write for Background {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let size = line.len();
        let room = self.waiting.fetch_add(size, Ordering::Relaxed) + size <= MOST_BYTES;
        if !room
            || self
                .to_writer
                .try_send(Message::Line(line.to_vec()))
                .is_err()
        {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line at a time, each in one write: two processes may share the pipe while one takes over from the other, and what is short
/// enough is not mixed then (pipe(7), `PIPE_BUF`).
fn write_all(
    mut sink: impl Write,
    mut messages: Receiver<Message>,
    waiting: &AtomicUsize,
    lost: &AtomicU64,
) {
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Line(line) => {
                waiting.fetch_sub(line.len(), Ordering::Relaxed);
                if sink.write_all(&line).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => {
                let _ = sink.flush();
                let _ = done.send(());
            }
        }
    }
}

/// Sees to it that the last lines are written, however gatepost ends.
#[must_use]
pub(crate) struct LastLines(pub(crate) Background);

impl Drop for LastLines {
    fn drop(&mut self) {
        Background::flush(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc;

    /// Writes what it is allowed to.
    struct Stalling {
        permits: mpsc::Receiver<()>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stalling {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Without anybody who could allow it any more, everything is allowed.
            let _ = self.permits.recv();
            self.text.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A log whose sink takes a line for each permit, and all of them without, and what that has got.
    fn stalled() -> (Background, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (permit, permits) = mpsc::channel();
        let text: Arc<Mutex<Vec<u8>>> = Arc::default();
        let sink = Stalling {
            permits,
            text: text.clone(),
        };
        (Background::start(sink).unwrap(), permit, text)
    }

    /// Whoever logs is not held up by a sink that hangs; what is lost is counted, and what is not comes in its order, to the last.
    #[test]
    fn a_sink_that_hangs_holds_up_nobody() {
        let (mut log, permit, text) = stalled();
        let all = WAITING + 100;
        for number in 0..all {
            log.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        let lost = usize::try_from(log.lost()).unwrap();
        // One line may be with the sink already.
        assert!(lost == 100 || lost == 99, "{lost}");
        drop(permit);
        drop(LastLines(log));
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        let written: Vec<usize> = text.lines().map(|it| it.parse().unwrap()).collect();
        assert_eq!(written, (0..all - lost).collect::<Vec<_>>());
    }

    /// Long lines are bounded by what they take, not by their number.
    #[test]
    fn long_lines_have_no_more_room_than_short_ones() {
        let (mut log, permit, text) = stalled();
        let line = vec![b'x'; MOST_BYTES / 4];
        for _ in 0..8 {
            log.write_all(&line).unwrap();
        }
        // One may be with the sink already.
        let lost = usize::try_from(log.lost()).unwrap();
        assert!(lost == 4 || lost == 3, "{lost}");
        drop(permit);
        drop(LastLines(log));
        assert_eq!(text.lock().unwrap().len(), (8 - lost) * line.len());
    }
}
