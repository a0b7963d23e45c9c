//! Another configuration while the gateway runs: on SIGHUP, or when the file or a file of a secret has changed.
//!
//! A file with a fault changes nothing. What is under way ends by the configuration that it began with; the cache, open
//! connections, the health of servers that stay, and what is counted go on.

use super::{
    listens,
    manager::{self, Stage},
    plan, trusts, Running, StartError,
};
use crate::{
    config::{self, Config, ConfigError, Redis, Stamp, Store},
    gateway::Site,
    listen::{Terms, Ways},
    telemetry::labels::Reload,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::signal::unix::Signal;

/// The interval at which the files are looked at.
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
    /// Goes by the file at `path`: reads it again when `asked` to, and when it or a file of a secret is another one than was
    /// `seen`. Never returns.
    pub async fn follow(&self, path: &Path, mut seen: Seen, mut asked: Signal) {
        loop {
            tokio::select! {
                Some(()) = asked.recv() => seen.see(seen.look()),
                () = seen.changed() => {}
            }
            manager::tell(Stage::Reloading);
            match self.reload_from(path).await {
                Ok((waiting, secret_files)) => {
                    seen.with_secrets(secret_files);
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

    /// Returns the keys that need a restart, and the files of the secrets.
    async fn reload_from(&self, path: &Path) -> Result<(Vec<&'static str>, Vec<(PathBuf, Stamp)>), Refused> {
        let loaded = Config::load(path)?;
        for warning in loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok((self.reload(loaded.config).await?, loaded.secret_files))
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
        self.cache.authenticate(config.store.redis.as_ref());
        self.cache.encode_by(config.encoding.clone());
        self.door.change(Terms::of(&config.server, self.files));
        self.door.go_by(ways).await;
        self.metrics.configured();
        Ok(waiting)
    }
}

/// The file of the configuration and those of its secrets, in the state in which they were seen.
pub struct Seen {
    /// The first is the configuration's.
    files: Vec<(PathBuf, Stamp)>,
}

impl Seen {
    /// The file at `path`, before it is read.
    pub fn before(path: &Path) -> Self {
        Self { files: vec![(path.to_owned(), config::stamp(path))] }
    }

    /// These are the files of its secrets.
    pub fn with_secrets(&mut self, files: Vec<(PathBuf, Stamp)>) {
        self.files.truncate(1);
        self.files.extend(files);
    }

    fn look(&self) -> Vec<Stamp> {
        self.files.iter().map(|(path, _)| config::stamp(path)).collect()
    }

    fn see(&mut self, now: Vec<Stamp>) {
        self.files.iter_mut().zip(now).for_each(|((_, seen), now)| *seen = now);
    }

    /// Waits until a file is another one than was seen, and all have been left alone for a moment: they may be written in
    /// several steps. One that is gone is waited for.
    async fn changed(&mut self) {
        let mut last = self.look();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.look();
            let differs = self.files.iter().zip(&now).any(|((_, seen), now)| now.is_some() && now != seen);
            if differs && now == last {
                return self.see(now);
            }
            last = now;
        }
    }
}

/// What is built once, when the gateway starts.
fn needs_restart(now: &Config, new: &Config) -> Vec<&'static str> {
    let changes = [
        ("server.threads", now.server.threads != new.server.threads),
        ("listener.address", listens(now) != listens(new)),
        ("admin", now.admin != new.admin),
        ("log", now.log != new.log),
        ("store", now.store != with_credentials_of(&now.store, new.store.clone())),
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
    if now.store != with_credentials_of(&now.store, config.store.clone()) {
        config.store = now.store.clone();
    }
    config
}

/// `store` with the credentials of `now` at the same servers.
fn with_credentials_of(now: &Store, store: Store) -> Store {
    let same = |redis: &Redis| redis.clone().known_as(None, None);
    match now.redis.as_ref().map(same) == store.redis.as_ref().map(same) {
        true => Store { redis: now.redis.clone(), ..store },
        false => store,
    }
}
