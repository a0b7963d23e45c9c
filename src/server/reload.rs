//! Reload of the configuration while the gateway runs: on SIGHUP, or when the file or a file of a secret has
//! changed.
//!
//! A file with a fault changes nothing. Requests under way keep the configuration that they began with; the
//! cache, open connections, the health of servers that stay, and counters are kept.

use super::{
    listen_addresses,
    manager::{self, ServiceStage},
    plan_runtime, proxy_trust, RunningGateway, StartError,
};
use crate::{
    config::{self, Config, ConfigError, FileStamp, RedisConfig, StoreConfig},
    gateway::build_runtime_config,
    listen::{ConnectionSettings, ListenerSet},
    telemetry::labels::Reload,
};

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::signal::unix::Signal;

/// The interval at which the files are checked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The reason for which a new configuration is refused.
#[derive(Debug, thiserror::Error)]
enum ReloadRefusal {
    #[error(transparent)]
    File(#[from] ConfigError),
    #[error(transparent)]
    Use(#[from] StartError),
}

impl RunningGateway {
    /// Follows the file at `path`: reads it again when `asked` to, and when it or a file of a secret differs
    /// from what was `seen`. Never returns.
    pub(crate) async fn follow(&self, path: &Path, mut seen: SeenFiles, mut asked: Signal) {
        loop {
            tokio::select! {
                Some(()) = asked.recv() => seen.see(seen.look()),
                () = seen.changed() => {}
            }
            manager::notify_manager(ServiceStage::Reloading);
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
            manager::notify_manager(ServiceStage::Ready);
        }
    }

    /// Returns the keys that need a restart, and the files of the secrets.
    async fn reload_from(
        &self,
        path: &Path,
    ) -> Result<(Vec<&'static str>, Vec<(PathBuf, FileStamp)>), ReloadRefusal> {
        let loaded = Config::load(path)?;
        for warning in loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok((self.reload(loaded.config).await?, loaded.secret_files))
    }

    /// Switches to another configuration for new requests. Returns the keys whose change needs a restart;
    /// their old values stay in use.
    ///
    /// # Errors
    /// If a key can't be used: nothing has changed then.
    pub(crate) async fn reload(&self, config: Config) -> Result<Vec<&'static str>, StartError> {
        let now = self.site.load_full();
        let waiting = needs_restart(now.config(), &config);
        let config = Arc::new(keep_restart_settings(now.config(), config));
        let ways =
            ListenerSet::new(&config, Some(&self.door.ways()), proxy_trust(&config).as_ref(), &self.metrics)?;
        let plan =
            plan_runtime(config.clone(), &self.addresses, &self.cache, &self.metrics, Some(&now)).await?;
        self.site.store(Arc::new(build_runtime_config(plan, &self.metrics)));
        self.cache.authenticate(config.store.redis.as_ref());
        self.cache.encode_by(config.encoding.clone());
        self.door.change(ConnectionSettings::of(&config.server, self.files));
        self.door.go_by(ways).await;
        self.metrics.configured();
        Ok(waiting)
    }
}

/// The files of the configuration and of its secrets, with the stamps of their last read.
pub(crate) struct SeenFiles {
    /// The first one is the configuration's.
    files: Vec<(PathBuf, FileStamp)>,
}

impl SeenFiles {
    /// The file at `path`, before it is read.
    pub(crate) fn before(path: &Path) -> Self {
        Self { files: vec![(path.to_owned(), config::file_stamp(path))] }
    }

    /// Adds the files of its secrets.
    pub(crate) fn with_secrets(&mut self, files: Vec<(PathBuf, FileStamp)>) {
        self.files.truncate(1);
        self.files.extend(files);
    }

    fn look(&self) -> Vec<FileStamp> {
        self.files.iter().map(|(path, _)| config::file_stamp(path)).collect()
    }

    fn see(&mut self, now: Vec<FileStamp>) {
        self.files.iter_mut().zip(now).for_each(|((_, seen), now)| *seen = now);
    }

    /// Waits until a file differs from what was seen, and all are stable for a moment, since they may be
    /// written in several steps. A missing file is waited for.
    async fn changed(&mut self) {
        let mut last = self.look();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = self.look();
            let differs = self.files.iter().zip(&now).any(|((_, seen), now)| now.is_some() && now != seen);
            if differs && now == last {
                return self.see(now);
            }
            last = now;
        }
    }
}

/// The keys that have changed and are only used at the start.
fn needs_restart(now: &Config, new: &Config) -> Vec<&'static str> {
    let changes = [
        ("server.threads", now.server.threads != new.server.threads),
        ("listener.address", listen_addresses(now) != listen_addresses(new)),
        ("admin", now.admin != new.admin),
        ("log", now.log != new.log),
        ("store", now.store != with_credentials_of(&now.store, new.store.clone())),
    ];
    changes.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// The new configuration, with the old values of keys that need a restart.
fn keep_restart_settings(now: &Config, new: Config) -> Config {
    let mut config = new;
    config.server.threads = now.server.threads;
    if listen_addresses(now) != listen_addresses(&config) {
        config.listeners.clone_from(&now.listeners);
    }
    config.admin.clone_from(&now.admin);
    config.log = now.log;
    if now.store != with_credentials_of(&now.store, config.store.clone()) {
        config.store = now.store.clone();
    }
    config
}

/// `store` with the credentials of `now`, for the same servers.
fn with_credentials_of(now: &StoreConfig, store: StoreConfig) -> StoreConfig {
    let same = |redis: &RedisConfig| redis.clone().known_as(None, None);
    match now.redis.as_ref().map(same) == store.redis.as_ref().map(same) {
        true => StoreConfig { redis: now.redis.clone(), ..store },
        false => store,
    }
}
