//! A store that reports no changes: versions and the purge log are read again after a while (`poll` of `[store]`), and
//! nodes tell each other on a channel which keys they have changed.

use super::{link::Link, Redis};
use crate::telemetry::labels::StoreCall;
use redis::{cmd, PushInfo};

impl Redis {
    /// Tells how old an answer may be by this link, where it may be older than a change that was reported would leave it.
    pub(super) fn tell_bound(&self, link: &Link) {
        if link.tracked {
            return;
        }
        let bound = match self.poll.is_zero() {
            true => "versions and purges are read with each request".to_owned(),
            false => format!("a change that an application makes there is seen within {:?}", self.poll),
        };
        let others = match link.channel {
            Some(_) => "one that a node makes at once",
            None => "so is one that another node makes: SUBSCRIBE is refused as well",
        };
        let told = match self.poll.is_zero() {
            true => bound,
            false => format!("{bound}, {others}"),
        };
        tracing::warn!(redis = self.troubles.place(), "redis reports no changes: {told}");
        self.troubles.unreported(told);
    }

    /// Another node, or this one, has changed the key that the message names.
    pub(super) fn told(&self, push: &PushInfo) {
        if let Some(key) = push.data.get(1) {
            self.reported(key);
        }
    }

    /// Tells other nodes that these keys have changed, where the store does not. What gets lost is found by reading.
    pub(super) async fn tell(&self, keys: impl IntoIterator<Item = String>) {
        if !self.is_untracked() {
            return;
        }
        let channel = self.names.channel();
        for key in keys {
            let mut publish = cmd("PUBLISH");
            publish.arg(&channel).arg(key);
            let sent =
                self.call_behind(StoreCall::Bump, |mut c| async move { publish.exec_async(&mut c).await });
            sent.await.unwrap_or_default();
        }
    }
}
