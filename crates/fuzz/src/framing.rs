//! The head of a request and the chunks of a body, as they are read before the proxy library sees them. The first byte of the input says
//! which (its lowest bit: chunks) and in pieces of which size it comes; the rest is the head or the body.
//!
//! What is found does not depend on where the network cuts it. And a second reader, who knows no more than the grammar, agrees on what is
//! accepted.

use gatepost_auth::chunks::ChunkScanner;
use gatepost_auth::wire::{HeadLimits, HeadScanner};

use crate::requests::reference;
use crate::{Outcome, Verdict, must};

pub(crate) fn run(data: &[u8]) -> Outcome {
    let Some((control, bytes)) = data.split_first() else {
        return Ok(Verdict::Refused);
    };
    let step = usize::from(control >> 1 & 7) + 1;
    if control & 1 == 0 {
        head(bytes, step)
    } else {
        chunks(bytes, step)
    }
}

fn head(bytes: &[u8], step: usize) -> Outcome {
    let scan = |step: usize| {
        let mut scanner = HeadScanner::new(HeadLimits::default());
        let mut end = 0;
        loop {
            end = (end + step).min(bytes.len());
            match scanner.advance(bytes.get(..end).unwrap_or_default()) {
                Ok(None) if end < bytes.len() => {}
                Ok(Some(length)) => return Ok(Some((length, scanner.body_length()))),
                Ok(None) => return Ok(None),
                Err(fault) => return Err(fault),
            }
        }
    };
    let (whole, pieces) = (scan(bytes.len()), scan(step));
    // Of two faults the one that is seen first counts, which is another where less is seen at once.
    must(
        whole == pieces || (whole.is_err() && pieces.is_err()),
        || format!("{whole:?}, and in pieces {pieces:?}"),
    )?;
    let Ok(Some((length, body))) = whole else {
        return Ok(Verdict::Refused);
    };
    let head = bytes.get(..length).unwrap_or_default();
    let read = reference::head(head);
    must(
        read.as_ref()
            .is_some_and(|it| it.length == length && it.body.length() == body),
        || format!("a head of {length} bytes with a body of {body:?}, but {read:?}"),
    )?;
    Ok(Verdict::Accepted)
}

fn chunks(bytes: &[u8], step: usize) -> Outcome {
    let scan = |step: usize| {
        let mut scanner = ChunkScanner::default();
        let mut before = 0;
        for piece in bytes.chunks(step.max(1)) {
            match scanner.advance(piece) {
                Ok(None) => before += piece.len(),
                Ok(Some(length)) => return Ok(Some(before + length)),
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    };
    let (whole, pieces) = (scan(bytes.len()), scan(step));
    must(whole == pieces, || {
        format!("{whole:?}, and in pieces {pieces:?}")
    })?;
    let Ok(Some(length)) = whole else {
        return Ok(Verdict::Refused);
    };
    let read = reference::chunks(bytes);
    must(read.end == Some(length), || {
        format!("chunks of {length} bytes, but {read:?}")
    })?;
    Ok(Verdict::Accepted)
}
