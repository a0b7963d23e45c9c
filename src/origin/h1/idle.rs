//! The connections of one server that nobody uses at the moment.
//!
//! The one that was used last is used next: those that are not needed grow old, and [`Idle::sweep`] closes them, as it does
//! those that the server has closed. What has said anything since its last answer is closed when it is looked at.

use super::Connection;
use parking_lot::Mutex;
use std::{collections::VecDeque, net::SocketAddr, time::Instant};

/// Connections that one server's list holds; beyond that the oldest is closed.
const MOST: usize = 512;

/// Idle connections of one server, the oldest first.
#[derive(Debug, Default)]
pub(in crate::origin) struct Idle(Mutex<VecDeque<Kept>>);

/// To which address a connection goes (`None`: a socket of this machine), and the number of what it was verified by: none
/// that another configuration has made is used under this one.
pub(in crate::origin) type Place = (Option<SocketAddr>, u64);

#[derive(Debug)]
struct Kept {
    to: Place,
    connection: Box<Connection>,
    until: Instant,
}

impl Idle {
    /// A connection to this place that has served before and can again, as far as anyone knows.
    pub(in crate::origin) fn take(&self, to: Place, now: Instant) -> Option<Box<Connection>> {
        loop {
            let mut kept = {
                let mut all = self.0.lock();
                let place = all.iter().rposition(|kept| kept.to == to)?;
                all.remove(place)?
            };
            if kept.until > now && kept.connection.is_quiet() {
                return Some(kept.connection);
            }
        }
    }

    /// Keeps a connection, if it may serve once more.
    pub(in crate::origin) fn keep(&self, to: Place, connection: Box<Connection>, until: Instant) {
        if !connection.may_be_kept() {
            return;
        }
        let mut all = self.0.lock();
        let oldest = if all.len() >= MOST { all.pop_front() } else { None };
        all.push_back(Kept { to, connection, until });
        drop(all);
        // Closed here, where nobody waits for the list.
        drop(oldest);
    }

    /// Closes those that are of no use any more.
    pub(in crate::origin) fn sweep(&self, now: Instant) {
        let gone: Vec<Kept> = {
            let mut all = self.0.lock();
            let (good, gone): (Vec<_>, Vec<_>) = all
                .drain(..)
                .map(|mut kept| (kept.until > now && kept.connection.is_quiet(), kept))
                .partition(|(good, _)| *good);
            all.extend(good.into_iter().map(|(_, kept)| kept));
            gone.into_iter().map(|(_, kept)| kept).collect()
        };
        drop(gone);
    }

    pub(in crate::origin) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}
