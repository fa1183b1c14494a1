//! HTTP/2 by hand, frame by frame (RFC 9113), since what the tests send no library would.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::{Connection, Gatepost, PATIENCE};
use crate::tls_client::{Client, TlsConnection};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// `GET /open` and `POST /open` from `gate`, by indexes of the static table and literals (RFC 7541 §6).
pub(crate) const GET_OPEN: &[u8] = b"\x82\x86\x04\x05/open\x01\x04gate";
pub(crate) const POST_OPEN: &[u8] = b"\x83\x86\x04\x05/open\x01\x04gate";

/// A frame as it is written.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// A header field that is no part of any table, with a value of up to 126 + 2²¹ bytes (RFC 7541 §5.1, §6.2.2).
pub(crate) fn literal<T: AsRef<[u8]> + ?Sized, U: AsRef<[u8]> + ?Sized>(
    name: &T,
    value: &U,
) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name.as_ref(), value.as_ref()] {
        let mut left = text.len();
        if left < 127 {
            field.push(u8::try_from(left).unwrap());
        } else {
            field.push(127);
            left -= 127;
            while left >= 128 {
                field.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            field.push(u8::try_from(left).unwrap());
        }
        field.extend(text);
    }
    field
}

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The reason of RST_STREAM and GOAWAY.
    pub(crate) fn reason(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(
            self.payload[at..at + 4].try_into().unwrap(),
        ))
    }

    /// `:status`, as far as it is in the static table or a literal.
    pub(crate) fn status(&self) -> Option<u16> {
        if self.kind != HEADERS {
            return None;
        }
        // Changes of the table's size come first.
        let size_updates = self.payload.iter().take_while(|it| **it >> 5 == 1);
        let payload = &self.payload[size_updates.count()..];
        Some(match payload[0] {
            0x88 => 200,
            0x89 => 204,
            0x8a => 206,
            0x8b => 304,
            0x8c => 400,
            0x8d => 404,
            0x8e => 500,
            // A literal with the name `:status` and a value of three digits, plain or in Huffman's code.
            _ => {
                let coded = &payload[2..];
                let digits = if payload[1] & 0x80 == 0 {
                    String::from_utf8(coded[..3].to_vec()).unwrap()
                } else {
                    huffman_digits(&coded[..usize::from(payload[1] & 0x7f)])
                };
                digits.parse().unwrap()
            }
        })
    }
}

/// Digits as RFC 7541, appendix B, codes them: `0` to `2` in five bits, the others in six.
fn huffman_digits(coded: &[u8]) -> String {
    let bits: String = coded.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut digits, mut at) = (String::new(), 0);
    while digits.len() < 3 {
        let five = u8::from_str_radix(&bits[at..at + 5], 2).unwrap();
        if five < 3 {
            digits.push(char::from(b'0' + five));
            at += 5;
        } else {
            let six = u8::from_str_radix(&bits[at..at + 6], 2).unwrap();
            digits.push(char::from(b'3' + six - 0b01_1001));
            at += 6;
        }
    }
    digits
}

trait Duplex: Read + Write + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Duplex for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Duplex for TlsConnection {
    fn tcp(&self) -> &TcpStream {
        self.socket()
    }
}

/// One connection of HTTP/2.
pub(crate) struct Http2 {
    stream: Box<dyn Duplex>,
    received: Vec<u8>,
}

/// What became of a connection that was sent too much.
#[derive(Debug)]
pub(crate) struct End {
    /// The reason that GOAWAY gave, if it came through.
    pub(crate) reason: Option<u32>,
    /// How many batches were sent.
    pub(crate) batches: u32,
}

impl Http2 {
    /// With prior knowledge.
    pub(crate) fn open(gate: &Gatepost, from: Ipv4Addr) -> Self {
        Self::begin(Box::new(Connection::open(gate.address, from).into_stream()))
    }

    /// As agreed in the handshake.
    pub(crate) fn over_tls(gate: &Gatepost, client: &Client) -> Self {
        Self::begin(Box::new(client.http2().connect(gate.address, b"").unwrap()))
    }

    fn begin(stream: Box<dyn Duplex>) -> Self {
        let mut it = Self {
            stream,
            received: Vec::new(),
        };
        it.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // SETTINGS_HEADER_TABLE_SIZE 0: what comes back is no reference to what came before.
        it.send(frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]));
        it
    }

    /// Sends; whether the other side is still there.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok() && self.stream.flush().is_ok()
    }

    /// The next frame; `None` where the connection closes first.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        self.stream.tcp().set_read_timeout(Some(PATIENCE)).unwrap();
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            match self.read() {
                Got::Some => {}
                Got::Nothing => panic!("no frame in time"),
                Got::Closed => return None,
            }
        }
    }

    /// The next frame that is like this; `None` where the connection closes first.
    pub(crate) fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Sends batches, and reads whatever comes, until the connection closes. Panics where it does not.
    pub(crate) fn flood(&mut self, mut batch: impl FnMut(u32) -> Vec<u8>) -> End {
        let tcp = self.stream.tcp();
        tcp.set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let (deadline, mut batches, mut reason) = (Instant::now() + PATIENCE, 0, None);
        let mut open = true;
        while open {
            assert!(
                Instant::now() < deadline,
                "still open after {batches} batches, {reason:?}"
            );
            open = self.send(batch(batches));
            batches += 1;
            while let Some(frame) = self.take() {
                reason = frame.reason().filter(|_| frame.kind == GOAWAY).or(reason);
            }
            match self.read() {
                Got::Closed => break,
                Got::Some | Got::Nothing => {}
            }
        }
        // What it said before it closed may be there still.
        while let Got::Some = self.read() {}
        while let Some(frame) = self.take() {
            reason = frame.reason().filter(|_| frame.kind == GOAWAY).or(reason);
        }
        End { reason, batches }
    }

    fn read(&mut self) -> Got {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Got::Closed,
            Ok(read) => {
                self.received.extend_from_slice(&buffer[..read]);
                Got::Some
            }
            Err(fault) if matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Got::Nothing
            }
            Err(_) => Got::Closed,
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head = self.received.get(..9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let whole = self.received.get(..9 + length)?;
        let frame = Frame {
            kind: whole[3],
            flags: whole[4],
            stream: u32::from_be_bytes(whole[5..9].try_into().unwrap()),
            payload: whole[9..].to_vec(),
        };
        self.received.drain(..9 + length);
        Some(frame)
    }
}

enum Got {
    Some,
    Nothing,
    Closed,
}
