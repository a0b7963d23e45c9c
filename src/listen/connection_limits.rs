//! Limits of the number of connections: in all, and per address; and of concurrent requests on one HTTP/2
//! connection.
//!
//! Counts when a connection is accepted and when it ends, and for HTTP/2 requests that can't be answered from
//! memory. An IPv6 /64 counts as one address, since its owner can use all of it. A changed limit applies to
//! new connections; existing ones are never closed for it.

use crate::telemetry::labels::RefuseReason;
use parking_lot::Mutex;
use std::{
    collections::{hash_map::Entry, HashMap},
    net::IpAddr,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc,
    },
};

/// The limits of the number of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionCaps {
    /// The most connections in all.
    pub all: usize,
    /// The most connections of one address; `None`: no limit of its own.
    pub address: Option<usize>,
}

/// The counters of connections.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    taken: AtomicUsize,
    all: AtomicUsize,
    address: AtomicUsize,
    by_address: Mutex<HashMap<ClientNetwork, usize, ahash::RandomState>>,
}

impl ConnectionLimiter {
    pub(crate) fn new(limits: ConnectionCaps) -> Arc<Self> {
        let places = Self {
            taken: AtomicUsize::new(0),
            all: AtomicUsize::new(0),
            address: AtomicUsize::new(0),
            by_address: Mutex::default(),
        };
        places.limit(limits);
        Arc::new(places)
    }

    /// Changes the limits, for new connections.
    pub(crate) fn limit(&self, limits: ConnectionCaps) {
        self.all.store(limits.all, Ordering::Relaxed);
        self.address.store(limits.address.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Takes a place for a connection whose client is not known yet: a proxy may name it in a PROXY header.
    ///
    /// # Errors
    /// If all are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Result<ConnectionPermit, RefuseReason> {
        // Counted first: dropping the place undoes it.
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let place = ConnectionPermit { places: self.clone(), network: None };
        match taken < self.all.load(Ordering::Relaxed) {
            true => Ok(place),
            false => Err(RefuseReason::Full),
        }
    }

    /// Returns true if less than an eighth of the places is left: idle connections are closed early then.
    pub(crate) fn is_crowded(&self) -> bool {
        let all = self.all.load(Ordering::Relaxed);
        self.taken.load(Ordering::Relaxed) > all - all / 8
    }
}

/// A place for one connection; dropping it frees the place.
#[derive(Debug)]
#[must_use = "the place is free again once this is dropped"]
pub(crate) struct ConnectionPermit {
    places: Arc<ConnectionLimiter>,
    network: Option<ClientNetwork>,
}

impl ConnectionPermit {
    /// Assigns the place to a client's address.
    ///
    /// # Errors
    /// If the address has as many places as it may have.
    pub(crate) fn belongs_to(&mut self, client: IpAddr) -> Result<(), RefuseReason> {
        let most = self.places.address.load(Ordering::Relaxed);
        if most == usize::MAX || self.network.is_some() {
            return Ok(());
        }
        let network = ClientNetwork::of(client);
        let mut by_address = self.places.by_address.lock();
        let held = by_address.entry(network).or_default();
        if *held >= most {
            return Err(RefuseReason::Address);
        }
        *held += 1;
        self.network = Some(network);
        Ok(())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
        let Some(network) = self.network else { return };
        if let Entry::Occupied(mut held) = self.places.by_address.lock().entry(network) {
            match *held.get() {
                0 | 1 => drop(held.remove()),
                _ => *held.get_mut() -= 1,
            }
        }
    }
}

/// The places of one HTTP/2 connection's requests that can't be answered from memory: the first concurrent
/// one uses the connection's place, each further one takes a place of its own.
#[derive(Debug)]
pub(crate) struct RequestShares {
    places: Arc<ConnectionLimiter>,
    most: usize,
    taken: Arc<SharesTaken>,
}

#[derive(Debug, Default)]
struct SharesTaken {
    all: AtomicUsize,
    /// True while a request uses the connection's own place.
    own: AtomicBool,
}

impl RequestShares {
    /// The places of a connection that may have `most` requests under way.
    pub(crate) fn new(places: Arc<ConnectionLimiter>, most: usize) -> Self {
        Self { places, most, taken: Arc::default() }
    }

    /// Takes a place for a request.
    ///
    /// # Errors
    /// If there is none. A request that the client has reset counts until its work is over.
    pub(crate) fn take(&self) -> Result<RequestPermit, RefuseReason> {
        if self.taken.all.load(Ordering::Relaxed) >= self.most {
            return Err(RefuseReason::Streams);
        }
        let place = match self.taken.own.swap(true, Ordering::Relaxed) {
            false => None,
            true => Some(self.places.take()?),
        };
        self.taken.all.fetch_add(1, Ordering::Relaxed);
        Ok(RequestPermit { taken: self.taken.clone(), place })
    }
}

/// A place for one request; dropping it frees the place.
#[derive(Debug)]
#[must_use = "the share is free again once this is dropped"]
pub(crate) struct RequestPermit {
    taken: Arc<SharesTaken>,
    /// `None`: the place of the connection.
    place: Option<ConnectionPermit>,
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.taken.all.fetch_sub(1, Ordering::Relaxed);
        if self.place.is_none() {
            self.taken.own.store(false, Ordering::Relaxed);
        }
    }
}

/// The part of an address that is counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ClientNetwork {
    V4(u32),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
}

impl ClientNetwork {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.into()),
            #[allow(clippy::cast_possible_truncation, reason = "64 bits are left of 128")]
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_come_back() {
        let places = ConnectionLimiter::new(ConnectionCaps { all: 2, address: None });
        let first = places.take().unwrap();
        let second = places.take().unwrap();
        assert_eq!(places.take().unwrap_err(), RefuseReason::Full);
        assert_eq!(places.take().unwrap_err(), RefuseReason::Full, "a refusal takes no place");
        drop(first);
        let third = places.take().unwrap();
        assert!(places.take().is_err());
        drop((second, third));
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_address_has_its_share() {
        let places = ConnectionLimiter::new(ConnectionCaps { all: 100, address: Some(2) });
        let take = |client: &str| {
            let mut place = places.take()?;
            place.belongs_to(ip(client))?;
            Ok::<_, RefuseReason>(place)
        };
        let first = take("192.0.2.1").unwrap();
        let second = take("::ffff:192.0.2.1").unwrap();
        assert_eq!(take("192.0.2.1").unwrap_err(), RefuseReason::Address);
        let other = take("192.0.2.2").unwrap();
        let six = (take("2001:db8::1").unwrap(), take("2001:db8::ffff:1").unwrap());
        assert_eq!(take("2001:db8::2").unwrap_err(), RefuseReason::Address, "the same /64");
        let seven = take("2001:db8:0:1::1").unwrap();
        assert_eq!(places.taken.load(Ordering::Relaxed), 6);
        drop(first);
        let again = take("192.0.2.1").unwrap();
        drop((second, other, six, seven, again));
        assert!(places.by_address.lock().is_empty());
    }

    #[test]
    fn another_limit_sends_nobody_away() {
        let places = ConnectionLimiter::new(ConnectionCaps { all: 4, address: None });
        let mut first = places.take().unwrap();
        first.belongs_to(ip("192.0.2.1")).unwrap();
        let second = places.take().unwrap();
        places.limit(ConnectionCaps { all: 1, address: Some(1) });
        assert!(places.take().is_err());
        drop(second);
        assert!(places.take().is_err(), "the first is still there");
        drop(first);
        let mut next = places.take().unwrap();
        next.belongs_to(ip("192.0.2.1")).unwrap();
    }

    #[test]
    fn requests_that_share_a_connection_take_places() {
        let places = ConnectionLimiter::new(ConnectionCaps { all: 4, address: None });
        let (one, two) = (places.take().unwrap(), places.take().unwrap());
        let (of_one, of_two) = (RequestShares::new(places.clone(), 3), RequestShares::new(places.clone(), 3));
        let first = of_one.take().unwrap();
        let more = (of_one.take().unwrap(), of_one.take().unwrap());
        assert_eq!(of_one.take().unwrap_err(), RefuseReason::Streams);
        // Each connection has a place for one request.
        let other = of_two.take().unwrap();
        assert_eq!(of_two.take().unwrap_err(), RefuseReason::Full);
        assert_eq!(places.take().unwrap_err(), RefuseReason::Full);
        drop(first);
        let again = of_one.take().unwrap();
        drop(more.0);
        let further = of_two.take().unwrap();
        drop((again, more.1, other, further, one, two));
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
        assert_eq!(of_one.taken.all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_last_eighth_is_a_crowd() {
        let places = ConnectionLimiter::new(ConnectionCaps { all: 16, address: None });
        let mut held: Vec<_> = (0..14).map(|_| places.take().unwrap()).collect();
        assert!(!places.is_crowded());
        held.push(places.take().unwrap());
        assert!(places.is_crowded());
        held.clear();
        assert!(!places.is_crowded());
    }

    proptest! {
        /// No sequence of events exceeds a limit, and all places are free at the end.
        #[test]
        fn counts_are_right(steps in proptest::collection::vec((0_u8..4, any::<bool>()), 0..200)) {
            let places = ConnectionLimiter::new(ConnectionCaps { all: 6, address: Some(2) });
            let mut held: Vec<(u8, ConnectionPermit)> = Vec::new();
            for (client, comes) in steps {
                if !comes {
                    if let Some(at) = held.iter().position(|(owner, _)| *owner == client) {
                        drop(held.remove(at));
                    }
                    continue;
                }
                let own = held.iter().filter(|(owner, _)| *owner == client).count();
                let taken = places.take().and_then(|mut place| {
                    place.belongs_to(IpAddr::from([192, 0, 2, client]))?;
                    Ok(place)
                });
                prop_assert_eq!(taken.is_ok(), held.len() < 6 && own < 2);
                held.extend(taken.ok().map(|place| (client, place)));
            }
            prop_assert_eq!(places.taken.load(Ordering::Relaxed), held.len());
            held.clear();
            prop_assert!(places.by_address.lock().is_empty());
        }
    }
}
