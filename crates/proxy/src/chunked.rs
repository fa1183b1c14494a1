//! The chunks of a body, held against their grammar before the library reads them.
//!
//! Only a body that is chunked and has not come whole with its head gets this; all others are read as they come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use gatepost_auth::chunks::ChunkScanner;
use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead as _, ReadBuf};

/// Looks at chunks.
#[derive(Debug)]
pub(crate) struct Chunks {
    scanner: ChunkScanner,
    /// Nothing more can be said of what follows a fault.
    is_broken: bool,
}

impl Chunks {
    /// Reads on where the head left off.
    pub(crate) fn after(scanner: ChunkScanner) -> Self {
        Self {
            scanner,
            is_broken: false,
        }
    }

    pub(crate) fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_broken {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        let verdict = self.scanner.advance(new);
        Poll::Ready(match verdict {
            // What follows the body is left to whoever looks for the next request.
            Ok(_) => Ok(()),
            Err(fault) => {
                buf.set_filled(before);
                self.is_broken = true;
                Err(io::Error::new(io::ErrorKind::InvalidData, fault))
            }
        })
    }
}
