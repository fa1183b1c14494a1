//! How many connections there are, all together and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gatepost_auth::address::limited_as;
use gatepost_auth::{Networks, Refusal};

/// Who is connected.
#[derive(Default)]
pub(crate) struct Crowd(Mutex<Connected>);

#[derive(Default)]
struct Connected {
    total: usize,
    /// An IPv6 client is its /64. Nobody who left is in it, so it is as large as the number of connections at the most.
    by_address: HashMap<IpAddr, usize>,
}

/// A connection's place; given back when it is dropped.
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    address: Option<IpAddr>,
}

impl Crowd {
    /// Lets a peer in. Trusted proxies bring the connections of others, so they are not held to the limit by address. Who has no
    /// address counts in all alone.
    ///
    /// # Errors
    ///
    /// [`Refusal::Crowded`].
    pub(crate) fn enter(
        self: &Arc<Self>,
        peer: Option<IpAddr>,
        limits: (usize, Option<usize>),
        trusted_proxies: &Networks,
    ) -> Result<Place, Refusal> {
        let (most, most_by_address) = limits;
        let mut connected = self.lock();
        let too_many = |peer| {
            let from_there = connected.by_address.get(&limited_as(peer));
            let from_there = from_there.copied().unwrap_or(0);
            most_by_address.is_some_and(|most| from_there >= most)
                && !trusted_proxies.contains(peer)
        };
        if connected.total >= most || peer.is_some_and(too_many) {
            return Err(Refusal::Crowded);
        }
        connected.total += 1;
        let address = peer.map(limited_as);
        if let Some(address) = address {
            *connected.by_address.entry(address).or_default() += 1;
        }
        drop(connected);
        Ok(Place {
            crowd: self.clone(),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = self.crowd.lock();
        connected.total = connected.total.saturating_sub(1);
        if let Some(address) = self.address
            && let Some(count) = connected.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                connected.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_auth::address::parse_network;

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let crowd = Arc::new(Crowd::default());
        let proxies: Networks = [parse_network("10.0.0.1").unwrap()].into_iter().collect();
        let enter = |from: &str| crowd.enter(from.parse().ok(), (5, Some(2)), &proxies);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_err(), "too many from there");
        let _proxy: Vec<_> = (0..3).map(|_| enter("10.0.0.1").unwrap()).collect();
        assert!(enter("192.0.2.2").is_err(), "too many in all");
        drop(first);
        assert!(enter("192.0.2.1").is_ok(), "a place is given back");
        let net: Vec<_> = ["2001:db8::1"]
            .iter()
            .map(|it| enter(it).unwrap())
            .collect();
        assert_eq!(crowd.lock().by_address.len(), 3);
        drop(net);
        assert_eq!(crowd.lock().by_address.len(), 2);
    }

    #[test]
    fn who_has_no_address_counts_in_all_alone() {
        let crowd = Arc::new(Crowd::default());
        let enter = |from: Option<IpAddr>| crowd.enter(from, (3, Some(1)), &Networks::default());
        let local: Vec<_> = (0..3).map(|_| enter(None).unwrap()).collect();
        assert!(enter(None).is_err());
        assert!(enter("192.0.2.1".parse().ok()).is_err());
        assert!(crowd.lock().by_address.is_empty());
        drop(local);
        assert!(enter("0.0.0.0".parse().ok()).is_ok());
    }
}
