//! Another configuration while the gateway runs: on SIGHUP, or when the file has changed.
//!
//! A file with a fault changes nothing. What is under way ends by the configuration that it began with; the cache, open
//! connections, the health of servers that stay, and what is counted go on.

use super::{
    listens,
    manager::{self, Stage},
    plan, trusts, Running, StartError,
};
use crate::{
    config::{Config, ConfigError},
    gateway::Site,
    listen::{Terms, Ways},
    telemetry::labels::Reload,
};
use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};
use tokio::signal::unix::Signal;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why the gateway goes on by the configuration that it has.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    File(#[from] ConfigError),
    #[error(transparent)]
    Use(#[from] StartError),
}

impl Running {
    /// Goes by the file at `path`: reads it again when `asked` to, and when it is another one than was `seen`. Never
    /// returns.
    pub async fn follow(&self, path: &Path, mut seen: Stamp, mut asked: Signal) {
        loop {
            tokio::select! {
                Some(()) = asked.recv() => seen = stamp(path),
                () = changed(path, &mut seen) => {}
            }
            manager::tell(Stage::Reloading);
            match self.reload_from(path).await {
                Ok(waiting) => {
                    self.metrics.reloaded(Reload::Applied);
                    tracing::info!(path = %path.display(), "the configuration was reloaded");
                    if !waiting.is_empty() {
                        tracing::warn!(keys = waiting.join(", "), "these changes need a restart");
                    }
                }
                Err(error) => {
                    self.metrics.reloaded(Reload::Refused);
                    tracing::error!(%error, "the configuration was not reloaded: the one before stays");
                }
            }
            manager::tell(Stage::Ready);
        }
    }

    async fn reload_from(&self, path: &Path) -> Result<Vec<&'static str>, Refused> {
        let loaded = Config::load(path)?;
        for warning in loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(self.reload(loaded.config).await?)
    }

    /// Goes by another configuration from the next request on. Returns the keys whose change needs a restart; there the
    /// gateway goes on with what it has.
    ///
    /// # Errors
    /// If a key can't be used: nothing has changed then.
    pub async fn reload(&self, config: Config) -> Result<Vec<&'static str>, StartError> {
        let now = self.site.load_full();
        let waiting = needs_restart(now.config(), &config);
        let config = Arc::new(with_what_stays(now.config(), config));
        let ways = Ways::new(&config, Some(&self.door.ways()), trusts(&config).as_ref(), &self.metrics)?;
        let plan = plan(config.clone(), &self.addresses, &self.cache, &self.metrics, Some(&now)).await?;
        self.site.store(Arc::new(Site::new(plan, &self.metrics)));
        self.cache.encode_by(config.encoding.clone());
        self.door.change(Terms::of(&config.server, self.files));
        self.door.go_by(ways).await;
        self.metrics.configured();
        Ok(waiting)
    }
}

/// Tells one state of a file from another.
pub type Stamp = Option<(u64, i64, i64, u64)>;

/// The state that a file is in; `None`: it can't be looked at.
pub fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}

/// Waits until the file is another one than was `seen`, and has been left alone for a moment: it may be written in
/// several steps.
async fn changed(path: &Path, seen: &mut Stamp) {
    let mut last = *seen;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = stamp(path);
        if now.is_some() && now != *seen && now == last {
            *seen = now;
            return;
        }
        last = now;
    }
}

/// What is built once, when the gateway starts.
fn needs_restart(now: &Config, new: &Config) -> Vec<&'static str> {
    let changes = [
        ("server.threads", now.server.threads != new.server.threads),
        ("listener.address", listens(now) != listens(new)),
        ("admin", now.admin != new.admin),
        ("log", now.log != new.log),
        ("store", now.store != new.store),
    ];
    changes.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// The new configuration, but for what needs a restart.
fn with_what_stays(now: &Config, new: Config) -> Config {
    let mut config = new;
    config.server.threads = now.server.threads;
    if listens(now) != listens(&config) {
        config.listeners.clone_from(&now.listeners);
    }
    config.admin.clone_from(&now.admin);
    config.log = now.log;
    config.store = now.store.clone();
    config
}
