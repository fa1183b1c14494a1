//! The frames of an HTTP/2 connection, counted: those that ask for nothing are cheap to send and not free to take.
//!
//! An HTTP/2 library answers every PING and every SETTINGS, and begins and abandons a request for every HEADERS with
//! RST_STREAM behind it, for as long as somebody sends them. None of that is a fault of its own (RFC 9113 §10.5), so
//! it is counted, against what the same connection got done. Reads nine bytes of every frame and keeps nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use crate::throttle::Rate;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// A client or server gives up a stream (RFC 9113 §6.4).
pub const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// What a client sends before its first frame (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// Takes bytes apart into frames (RFC 9113 §4.1), whatever pieces they come in.
#[derive(Debug)]
pub struct FrameScanner {
    /// Bytes that belong to no frame, or to the payload of the one that has begun.
    skip: usize,
    header: [u8; 9],
    filled: usize,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// How many bytes follow the header.
    pub length: usize,
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 for the connection.
    pub stream: u32,
}

impl FrameHead {
    fn ends_stream(self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

impl FrameScanner {
    /// For what a client sends.
    #[must_use]
    pub fn of_client() -> Self {
        Self {
            skip: PREFACE_BYTES,
            header: [0; 9],
            filled: 0,
        }
    }

    /// For what a server sends.
    #[must_use]
    pub fn of_server() -> Self {
        Self {
            skip: 0,
            ..Self::of_client()
        }
    }

    /// The next frame whose header ends in these bytes, which are cut off up to that end. `None` where all is read.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let rest = bytes.get(skipped..)?;
        let wanted = self.header.get_mut(self.filled..)?;
        let taken = wanted.len().min(rest.len());
        let (header, rest) = rest.split_at_checked(taken)?;
        wanted.get_mut(..taken)?.copy_from_slice(header);
        *bytes = rest;
        self.filled += taken;
        if self.filled < self.header.len() {
            return None;
        }
        self.filled = 0;
        let [high, middle, low, kind, flags, a, b, c, d] = self.header;
        // 24 bits fit.
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.skip = length;
        Some(FrameHead {
            length,
            kind,
            flags,
            // The first bit means nothing.
            stream: u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff,
        })
    }

    /// Whether the last frame is there as a whole.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.filled == 0
    }
}

/// What one connection may send without asking for anything. Time is since its beginning.
#[derive(Debug)]
pub struct FrameAllowance {
    controls: Allowance,
    resets: Allowance,
}

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    /// PING, SETTINGS, PRIORITY, WINDOW_UPDATE, CONTINUATION, DATA with nothing in it, and what is unknown.
    #[error("more control frames than its requests call for")]
    Controls,
    /// Requests that were given up.
    #[error("too many requests given up")]
    Resets,
    /// The library's own word (ENHANCE_YOUR_CALM): headers without an end, DATA in crumbs, faults without an end.
    #[error("more than the HTTP/2 library puts up with")]
    Library,
}

impl Default for FrameAllowance {
    /// Control frames: 1000 at once, then 50 a second. A browser pings every 45 s, the busiest gRPC client with each
    /// piece of an answer, which earns it. Abandoned requests: 200 at once, then 10 a second: a client that gives up
    /// everything it has under way (100 requests) may do so twice in a row.
    fn default() -> Self {
        Self {
            controls: Allowance::new(1000, 50),
            resets: Allowance::new(200, 10),
        }
    }
}

impl FrameAllowance {
    /// How many control frames a request pays for: windows for the answer, a priority, an acknowledgement.
    const PER_REQUEST: u32 = 4;

    /// How many bytes of an answer pay for one more. Clients open the window again after 4 KiB at the earliest, most
    /// after 32 KiB, for the stream and for the connection.
    const PER_BYTES: usize = 1024;

    /// Takes a frame of the client.
    ///
    /// # Errors
    ///
    /// [`Flood`]: the connection is to be closed.
    pub fn received(&mut self, frame: FrameHead, now: Duration) -> Result<(), Flood> {
        match frame.kind {
            DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {
                self.controls.earn(pieces(frame.length));
                Ok(())
            }
            HEADERS => {
                self.controls.earn(Self::PER_REQUEST);
                Ok(())
            }
            RST_STREAM => self.resets.spend(now).map_err(|()| Flood::Resets),
            _ => self.controls.spend(now).map_err(|()| Flood::Controls),
        }
    }

    /// Notes what was sent to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.controls.earn(pieces(bytes));
    }
}

fn pieces(bytes: usize) -> u32 {
    u32::try_from(bytes / FrameAllowance::PER_BYTES).unwrap_or(u32::MAX)
}

/// Requests whose answer has ended and whose body has not. The library waits for such a body, and for nothing else of the
/// request any more, as long as its client likes. Time is since the connection's beginning.
#[derive(Debug, Default)]
pub struct Stragglers {
    /// Streams whose body is under way.
    open: Vec<u32>,
    /// Those of them that are answered, by when they are given up; the next one first.
    answered: VecDeque<(u32, Duration)>,
}

impl Stragglers {
    /// Streams that are looked after. The library takes 100 at once; others it refuses, when it gets to it.
    const MOST: usize = 1000;

    /// Takes a frame of the client. A body that goes on has `patience` for its next piece.
    pub fn received(&mut self, frame: FrameHead, now: Duration, patience: Duration) {
        let id = frame.stream;
        if frame.kind == RST_STREAM || frame.ends_stream() {
            self.forget(id);
        } else if frame.kind == HEADERS && self.open.len() < Self::MOST && !self.is_known(id) {
            self.open.push(id);
        } else if frame.kind == DATA
            && let Some(at) = self.answered.iter().position(|(it, _)| *it == id)
        {
            self.answered.remove(at);
            self.answered.push_back((id, now + patience));
        }
    }

    /// Takes a frame of the server.
    pub fn sent(&mut self, frame: FrameHead, now: Duration, patience: Duration) {
        if frame.kind == RST_STREAM {
            self.forget(frame.stream);
        } else if frame.ends_stream()
            && let Some(at) = self.open.iter().position(|it| *it == frame.stream)
        {
            self.open.swap_remove(at);
            self.answered.push_back((frame.stream, now + patience));
        }
    }

    /// When the next one is to be given up.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.answered.front().map(|(_, by)| *by)
    }

    /// One whose time is over, which is forgotten.
    pub fn overdue(&mut self, now: Duration) -> Option<u32> {
        self.answered
            .pop_front_if(|(_, by)| *by <= now)
            .map(|it| it.0)
    }

    /// Whether its answer has ended before its body.
    #[must_use]
    pub fn is_answered(&self, stream: u32) -> bool {
        self.answered.iter().any(|(it, _)| *it == stream)
    }

    fn is_known(&self, stream: u32) -> bool {
        self.open.contains(&stream) || self.is_answered(stream)
    }

    fn forget(&mut self, stream: u32) {
        self.open.retain(|it| *it != stream);
        self.answered.retain(|(it, _)| *it != stream);
    }
}

/// So many at once, which come back with time, and as they are earned.
#[derive(Debug)]
struct Allowance {
    rate: Option<Rate>,
    arrival: u64,
    /// Earned beyond what time brings; no more than `most`.
    earned: u32,
    most: u32,
}

impl Allowance {
    fn new(most: u32, a_second: u32) -> Self {
        let period = Duration::from_secs(u64::from(most / a_second.max(1)));
        Self {
            // INVARIANT: the figures above make a rate; one that could not be made would let nothing pass.
            rate: Rate::new(most, period).ok(),
            arrival: 0,
            earned: 0,
            most,
        }
    }

    fn earn(&mut self, more: u32) {
        self.earned = self.earned.saturating_add(more).min(self.most);
    }

    fn spend(&mut self, now: Duration) -> Result<(), ()> {
        if let Some(left) = self.earned.checked_sub(1) {
            self.earned = left;
            return Ok(());
        }
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let rate = self.rate.ok_or(())?;
        if rate.wait(self.arrival, now).is_some() {
            return Err(());
        }
        self.arrival = rate.charge(self.arrival, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn heads(scanner: &mut FrameScanner, mut bytes: &[u8]) -> Vec<FrameHead> {
        std::iter::from_fn(|| scanner.next(&mut bytes)).collect()
    }

    proptest! {
        /// However the bytes are cut, the same frames come out.
        #[test]
        fn pieces_make_no_difference(
            frames in prop::collection::vec((any::<u8>(), any::<u8>(), 0_usize..70_000), 0..8),
            cuts in prop::collection::vec(1_usize..40_000, 1..20),
        ) {
            let mut bytes = vec![b'P'; PREFACE_BYTES];
            for (kind, flags, length) in &frames {
                bytes.extend(frame(*kind, *flags, &vec![7; *length]));
            }
            let mut scanner = FrameScanner::of_client();
            let mut found = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (piece, more) = rest.split_at((*cut).min(rest.len()));
                found.extend(heads(&mut scanner, piece));
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            let wanted: Vec<_> = frames
                .iter()
                .map(|&(kind, flags, length)| FrameHead { length, kind, flags, stream: 1 })
                .collect();
            prop_assert_eq!(found, wanted);
            prop_assert!(scanner.is_between_frames());
        }
    }

    /// Every bit of a head is where RFC 9113 §4.1 has it, and a server begins without a preface.
    #[test]
    fn a_head_is_read_whole() {
        let mut scanner = FrameScanner::of_server();
        assert!(scanner.is_between_frames());
        let head = [1, 2, 3, 4, 5, 0x80 | 6, 7, 8, 9];
        assert!(heads(&mut scanner, &head[..5]).is_empty());
        assert!(!scanner.is_between_frames(), "within a head");
        let found = heads(&mut scanner, &head[5..]);
        let wanted = FrameHead {
            length: 0x01_02_03,
            kind: 4,
            flags: 5,
            stream: 0x06_07_08_09,
        };
        assert_eq!(found, [wanted]);
        assert!(!scanner.is_between_frames(), "before its payload");
        assert!(heads(&mut scanner, &vec![0; 0x01_02_03]).is_empty());
        assert!(scanner.is_between_frames());
    }

    const PING: FrameHead = FrameHead {
        length: 8,
        kind: 6,
        flags: 0,
        stream: 1,
    };
    const REQUEST: FrameHead = FrameHead {
        length: 20,
        kind: 1,
        flags: 5,
        stream: 1,
    };
    const GIVEN_UP: FrameHead = FrameHead {
        length: 4,
        kind: 3,
        flags: 0,
        stream: 1,
    };

    fn how_many(allowance: &mut FrameAllowance, frame: FrameHead, now: Duration) -> usize {
        (0..100_000)
            .take_while(|_| allowance.received(frame, now).is_ok())
            .count()
    }

    #[test]
    fn control_frames_are_paid_for_by_time_and_by_work() {
        let mut it = FrameAllowance::default();
        let at = Duration::from_secs;
        assert_eq!(how_many(&mut it, PING, at(0)), 1000);
        assert_eq!(it.received(PING, at(0)), Err(Flood::Controls));
        assert_eq!(how_many(&mut it, PING, at(2)), 100);
        it.received(REQUEST, at(2)).unwrap();
        assert_eq!(how_many(&mut it, PING, at(2)), 4);
        it.sent(64 * 1024);
        assert_eq!(how_many(&mut it, PING, at(2)), 64);
        it.sent(usize::MAX);
        assert_eq!(how_many(&mut it, PING, at(2)), 1000, "no more is saved up");
        assert_eq!(how_many(&mut it, PING, at(1000)), 1000);
    }

    /// The attack of CVE-2023-44487: each request is given up at once. Requests do not pay for it.
    #[test]
    fn requests_do_not_pay_for_giving_them_up() {
        let mut it = FrameAllowance::default();
        let mut resets = 0;
        let flood = loop {
            it.received(REQUEST, Duration::ZERO).unwrap();
            match it.received(GIVEN_UP, Duration::ZERO) {
                Ok(()) => resets += 1,
                Err(flood) => break flood,
            }
        };
        assert_eq!((resets, flood), (200, Flood::Resets));
    }

    /// Only DATA that brings nothing is a control frame; its end is something.
    #[test]
    fn data_that_brings_nothing_is_counted() {
        let data = |length, flags| FrameHead {
            length,
            kind: 0,
            flags,
            stream: 1,
        };
        let mut it = FrameAllowance::default();
        assert_eq!(how_many(&mut it, data(0, 0), Duration::ZERO), 1000);
        it.received(data(0, 1), Duration::ZERO).unwrap();
        it.received(data(1, 0), Duration::ZERO).unwrap();
        assert_eq!(
            it.received(data(0, 0), Duration::ZERO),
            Err(Flood::Controls)
        );
        it.received(data(16_384, 0), Duration::ZERO).unwrap();
        assert_eq!(how_many(&mut it, PING, Duration::ZERO), 16);
    }

    /// Only a body that goes on behind its answer has a deadline, and each piece of it moves that.
    #[test]
    fn what_straggles_is_known() {
        let at = Duration::from_secs;
        let frame = |kind, flags, stream| FrameHead {
            length: 1,
            kind,
            flags,
            stream,
        };
        let mut it = Stragglers::default();
        for stream in [1, 3, 5, 7, 9] {
            it.received(frame(HEADERS, 0, stream), at(0), at(10));
        }
        it.received(frame(HEADERS, END_STREAM, 11), at(0), at(10));
        it.received(frame(DATA, END_STREAM, 9), at(1), at(10));
        assert_eq!(it.deadline(), None);
        for stream in [1, 3, 5, 9, 11] {
            it.sent(frame(HEADERS, 0, stream), at(2), at(10));
            it.sent(frame(DATA, END_STREAM, stream), at(2), at(10));
        }
        it.sent(frame(RST_STREAM, 0, 7), at(2), at(10));
        assert_eq!(it.deadline(), Some(at(12)));
        it.received(frame(DATA, 0, 1), at(8), at(10));
        it.received(frame(RST_STREAM, 0, 3), at(8), at(10));
        assert_eq!(it.overdue(at(11)), None);
        assert_eq!((it.overdue(at(12)), it.overdue(at(17))), (Some(5), None));
        assert_eq!((it.overdue(at(18)), it.deadline()), (Some(1), None));
    }

    /// Each stream is looked after once, those that are not there not at all, and no more than there is room for.
    #[test]
    fn stragglers_are_counted_once() {
        let at = Duration::from_secs;
        let frame = |kind, flags, stream| FrameHead {
            length: 1,
            kind,
            flags,
            stream,
        };
        let mut it = Stragglers::default();
        for _ in 0..2 {
            it.received(frame(HEADERS, 0, 1), at(0), at(10));
            it.received(frame(HEADERS, 0, 1), at(0), at(10));
            it.sent(frame(DATA, END_STREAM, 1), at(0), at(10));
        }
        assert!(it.is_answered(1) && !it.is_answered(3));
        assert_eq!((it.overdue(at(11)), it.overdue(at(11))), (Some(1), None));
        it.received(frame(DATA, 0, 3), at(0), at(10));
        it.sent(frame(DATA, END_STREAM, 3), at(0), at(10));
        assert!(!it.is_answered(3));
        let most = u32::try_from(Stragglers::MOST).unwrap();
        for stream in 0..=most {
            it.received(frame(HEADERS, 0, stream), at(0), at(10));
        }
        for stream in [most - 1, most] {
            it.sent(frame(DATA, END_STREAM, stream), at(0), at(10));
        }
        assert!(it.is_answered(most - 1) && !it.is_answered(most));
    }
}
