//! The idle connections of one server.
//!
//! The connection that was used last is reused first: connections that are not needed grow old, and
//! [`IdleConnections::sweep`] closes them, as well as those that the server has closed. A connection with
//! unexpected bytes is closed when it is looked at.

use super::OriginConnection;
use parking_lot::Mutex;
use std::{collections::VecDeque, net::SocketAddr, time::Instant};

/// The most idle connections of one server; beyond that the oldest is closed.
const MAX_IDLE: usize = 512;

/// Idle connections of one server, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct IdleConnections(Mutex<VecDeque<IdleConnection>>);

/// The address that a connection leads to (`None`: a UNIX socket), and the number of its verification
/// settings, so that a connection is never reused under others.
pub(in crate::origin) type ConnectionGroup = (Option<SocketAddr>, u64);

#[derive(Debug)]
struct IdleConnection {
    to: ConnectionGroup,
    connection: Box<OriginConnection>,
    until: Instant,
}

impl IdleConnections {
    /// Takes a connection for this place that can be reused, as far as is known.
    pub(in crate::origin) fn take(&self, to: ConnectionGroup, now: Instant) -> Option<Box<OriginConnection>> {
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

    /// Keeps a connection, if it may be reused.
    pub(in crate::origin) fn keep(
        &self,
        to: ConnectionGroup,
        connection: Box<OriginConnection>,
        until: Instant,
    ) {
        if !connection.may_be_kept() {
            return;
        }
        let mut all = self.0.lock();
        let oldest = if all.len() >= MAX_IDLE { all.pop_front() } else { None };
        all.push_back(IdleConnection { to, connection, until });
        drop(all);
        // Closed here, after the lock is released.
        drop(oldest);
    }

    /// Closes connections that can't be reused any more.
    pub(in crate::origin) fn sweep(&self, now: Instant) {
        let gone: Vec<IdleConnection> = {
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
