//! The upstream's side of a connection, on which the head of a request waits for its body, so that both leave together.
//!
//! The library writes the head, flushes it, and then writes the body. So the kernel is told to hold back what is less than a segment (`TCP_CORK`,
//! tcp(7)) until the library waits for something: by then it has written all that there was. What that costs is two small system calls; a send
//! that leaves alone costs the way down to the network, and wakes the upstream for half a request.

use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::ext::connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{Digest, GetProxyDigest as _};
use pingora_error::ErrorType::InternalError;
use pingora_error::{Error, Result};
use pingora_http::ResponseHeader;
use rustix::net::sockopt::set_tcp_cork;

/// Makes TCP connections that can be corked.
#[derive(Debug)]
pub(crate) struct Corkable;

#[async_trait]
impl L4Connect for Corkable {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let address = address.as_inet();
        let address = address.ok_or_else(|| Error::explain(InternalError, "no TCP address"))?;
        let tcp = connect(address, None).await?;
        // The library keeps the socket to itself, and may close it at any time. A number alone might then be another's.
        let Ok(socket) = tcp.as_fd().try_clone_to_owned() else {
            // There are no more file descriptors: then head and body leave apart.
            return Ok(Stream::from(tcp));
        };
        let cork = Cork(Arc::new(socket));
        let mut stream = Stream::from(tcp);
        // There was no CONNECT and so no answer to one; the field has to be filled.
        let answer = Box::new(ResponseHeader::build(200, Some(0))?);
        stream.set_proxy_digest(ProxyDigest::new(answer, Some(Box::new(cork))));
        Ok(stream)
    }
}

/// Of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Cork(Arc<OwnedFd>);

impl Cork {
    /// That of the connection which this is about, where it has one: Unix sockets do not.
    pub(crate) fn of(digest: Option<&Digest>) -> Option<&Self> {
        let proxy = digest?.proxy_digest.as_ref()?;
        proxy.user_data.as_ref()?.downcast_ref()
    }
}

/// What is held back on behalf of one client connection, which has one request at a time.
#[derive(Debug, Default)]
pub(crate) struct HeldBack(Mutex<Option<Cork>>);

impl HeldBack {
    /// Holds back what is written from here on, until [`HeldBack::with`] has its next turn.
    pub(crate) fn begin(&self, cork: &Cork) {
        // Where the kernel does not want to, everything leaves at once.
        if set_tcp_cork(&cork.0, true).is_ok() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cork.clone());
        }
    }

    fn release(&self) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(cork) = held {
            // Where that fails the connection is gone.
            let _ = set_tcp_cork(&cork.0, false);
        }
    }

    /// Does this, and whenever that waits for something lets go what was held back, and sends what is kept for the client.
    pub(crate) async fn with<T>(
        &self,
        mut work: impl Future<Output = T> + Unpin,
        send_rest: impl Fn(&mut Context<'_>),
    ) -> T {
        std::future::poll_fn(|context: &mut Context<'_>| -> Poll<T> {
            let done = Pin::new(&mut work).poll(context);
            self.release();
            if done.is_pending() {
                send_rest(context);
            }
            done
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::tcp_cork;
    use std::net::TcpListener;

    /// What is held back leaves with the first wait, and never later: nothing else would send it for 200 ms.
    #[tokio::test]
    async fn what_is_held_back_leaves_when_there_is_something_to_wait_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SocketAddr::Inet(listener.local_addr().unwrap());
        let stream = Corkable.connect(&address).await.unwrap();
        let digest = Digest {
            proxy_digest: stream.get_proxy_digest(),
            ..Digest::default()
        };
        let cork = Cork::of(Some(&digest)).unwrap();
        let is_corked = || tcp_cork(&cork.0).unwrap();
        let held_back = HeldBack::default();
        let request = Box::pin(async {
            held_back.begin(cork);
            assert!(is_corked());
            tokio::task::yield_now().await;
            assert!(!is_corked());
            held_back.begin(cork);
        });
        let sent = std::cell::Cell::new(0);
        held_back.with(request, |_| sent.set(sent.get() + 1)).await;
        assert_eq!(sent.get(), 1);
        assert!(!is_corked());
    }
}
