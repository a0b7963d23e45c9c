//! The connections to Redis: how they are made, watched and made again.
//!
//! A [`StoreLink`] is two connections to one server: one for commands and one for reports (`CLIENT TRACKING
//! ON BCAST` over RESP3). If either fails, the whole link is dropped, every version on that server is in
//! doubt, and a new link is made. A heartbeat on the reporting connection detects a silent one within a
//! second; because replies and reports share the connection, an answered heartbeat also means that all
//! earlier reports have arrived. In a cluster there is a link with each master.

mod cluster;
mod commands;
mod protocol;
mod quorum;
mod sentinel;

pub(super) use {
    cluster::{list_masters, newest_topology, ClusterSeeds, ClusterTopology},
    commands::{ClusterRedirect, CommandConnection, MasterLookup},
    quorum::MasterConfirmation,
};

use crate::{clock::now_ms, config};
use protocol::{client, is_refusal, refuses_resp3, silent, CONNECT, HEARTBEAT, PULSE};
use quorum::NamedMaster;

use redis::{
    aio::{ConnectionLike, MultiplexedConnection},
    AsyncConnectionConfig, Client, ErrorKind, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError,
    RedisResult, Value,
};
use sentinel::Sentinels;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// The callback for reports.
pub(super) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// An answered heartbeat.
#[derive(Debug, Clone, Copy)]
pub(super) enum HeartbeatKind {
    /// Of all reporting connections, if there are any: all earlier reports have arrived.
    Reports {
        /// The time when it was sent.
        sent_ms: u64,
        /// The confirmation of this master by the sentinels, if there are any.
        confirmation: Option<MasterConfirmation>,
    },
    /// Of the connection for commands.
    Commands {
        /// The time when it was sent.
        sent_ms: u64,
        /// The time that the answer took.
        took: Duration,
    },
}

/// A live link.
pub(super) struct StoreLink {
    /// For commands.
    pub(super) commands: CommandConnection,
    /// True if changes are reported.
    pub(super) tracked: bool,
    /// Notified when the link is of no more use.
    pub(super) given_up: Arc<Notify>,
    report: Option<MultiplexedConnection>,
    /// The connection for other nodes' announcements of changes, if the server does not report them.
    pub(super) channel: Option<MultiplexedConnection>,
    /// The sentinels that named the server, and their answer.
    named_by: Option<(Arc<Sentinels>, NamedMaster)>,
}

/// A link, and the time when its making began.
pub(super) struct TimedLink {
    pub(super) link: StoreLink,
    pub(super) began_ms: u64,
}

/// The servers to link with, and the way to find them.
pub(super) enum LinkServers {
    /// One server.
    One(String),
    /// The master that sentinels name, with the database and the user on the master.
    ///
    /// Shared with each link, which ends when they name another master.
    Sentinels(Arc<Sentinels>, RedisConnectionInfo),
    /// A master of a cluster.
    Node {
        /// Its URL.
        url: String,
        /// The user on it.
        settings: RedisConnectionInfo,
        /// The other masters, for redirected commands.
        elsewhere: MasterLookup,
    },
}

/// A link with other credentials.
pub(super) struct RenewedLink {
    pub(super) target: config::RedisConfig,
    pub(super) servers: LinkServers,
    pub(super) made: TimedLink,
}

impl LinkServers {
    /// The server of a configuration other than a cluster. Starts to ask sentinels.
    pub(super) fn new(target: config::RedisConfig) -> Self {
        match target {
            config::RedisConfig::Single(url) => Self::One(url),
            config::RedisConfig::Cluster(mut seeds) => Self::One(seeds.pop().unwrap_or_default()),
            config::RedisConfig::Sentinel { sentinels, master, db, credentials: (user, password) } => {
                let mut settings = RedisConnectionInfo::default().set_db(db);
                if let Some(user) = user {
                    settings = settings.set_username(user);
                }
                if let Some(password) = password {
                    settings = settings.set_password(password);
                }
                Self::Sentinels(Arc::new(Sentinels::new(&sentinels, &master)), settings)
            }
        }
    }

    /// Makes a link: reports first, so that changes of all later reads are reported.
    ///
    /// # Errors
    /// If a server can't be reached or refuses the connection. Refused tracking is no error.
    pub(super) async fn connect(
        &self,
        (prefixes, channel): (&[String], &str),
        on_push: OnPush,
        given_up: Arc<Notify>,
    ) -> RedisResult<StoreLink> {
        let link = match self {
            Self::One(url) => one(client(url.as_str(), None)?, prefixes, channel, &on_push).await,
            Self::Sentinels(sentinels, settings) => {
                let named = sentinels.master().await?;
                let client = client(named.master.clone(), Some(settings.clone()))?;
                let link = tokio::select! {
                    link = one(client, prefixes, channel, &on_push) => link?,
                    error = sentinels.left(&named) => return Err(error),
                };
                Ok(StoreLink { named_by: Some((sentinels.clone(), named)), ..link })
            }
            Self::Node { url, settings, elsewhere } => {
                let link =
                    one(client(url.as_str(), Some(settings.clone()))?, prefixes, channel, &on_push).await?;
                let (_, address) = url.split_once("://").unwrap_or_default();
                if list_masters(&link.commands.connection(), address).await?.is_cut_off {
                    return Err((ErrorKind::Io, "the server does not reach most of the cluster").into());
                }
                Ok(StoreLink { commands: link.commands.in_cluster(elsewhere.clone()), ..link })
            }
        }?;
        // A replica takes no writes: a link to it would end with the first heartbeat, and be made again for
        // ever.
        link.beat(&|_| ()).await?;
        Ok(StoreLink { given_up, ..link })
    }
}

async fn one(client: Client, prefixes: &[String], channel: &str, on_push: &OnPush) -> RedisResult<StoreLink> {
    let plain = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
    let report = report_on(&client, prefixes, on_push).await?;
    let commands = match client.get_multiplexed_async_connection_with_config(&plain).await {
        Err(error) if refuses_resp3(&error) => {
            let settings = client.get_connection_info().redis_settings().clone();
            let older = client.get_connection_info().clone();
            let older = older.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP2));
            Client::open(older)?.get_multiplexed_async_connection_with_config(&plain).await?
        }
        other => other?,
    };
    let channel = match report {
        None => listen_on(&client, channel, on_push).await?,
        Some(_) => None,
    };
    Ok(StoreLink {
        commands: CommandConnection::new(commands),
        tracked: report.is_some(),
        given_up: Arc::default(),
        report,
        channel,
        named_by: None,
    })
}

/// A connection that reports changes, or `None` if the server refuses to.
async fn report_on(
    client: &Client,
    prefixes: &[String],
    on_push: &OnPush,
) -> RedisResult<Option<MultiplexedConnection>> {
    let Some(mut connection) = pushing(client, on_push).await? else { return Ok(None) };
    let mut tracking = redis::cmd("CLIENT");
    tracking.arg("TRACKING").arg("ON").arg("BCAST");
    for prefix in prefixes {
        tracking.arg("PREFIX").arg(prefix);
    }
    match tracking.exec_async(&mut connection).await {
        Ok(()) => Ok(Some(connection)),
        Err(error) if is_refusal(&error) => {
            tracing::warn!(%error, "redis refuses CLIENT TRACKING");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A connection for other nodes' announcements of changes, or `None` if the server refuses that as well.
async fn listen_on(
    client: &Client,
    channel: &str,
    on_push: &OnPush,
) -> RedisResult<Option<MultiplexedConnection>> {
    let Some(mut connection) = pushing(client, on_push).await? else { return Ok(None) };
    match connection.subscribe(channel).await {
        Ok(()) => Ok(Some(connection)),
        Err(error) if is_refusal(&error) => {
            tracing::warn!(%error, channel, "redis refuses SUBSCRIBE");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A connection that passes on pushed messages, or `None` if there can't be one.
async fn pushing(client: &Client, on_push: &OnPush) -> RedisResult<Option<MultiplexedConnection>> {
    let on_push = on_push.clone();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(PULSE))
        .set_push_sender(move |push| {
            on_push(push);
            Ok::<(), std::convert::Infallible>(())
        });
    match client.get_multiplexed_async_connection_with_config(&config).await {
        Err(error) if refuses_resp3(&error) => Ok(None),
        other => other.map(Some),
    }
}

impl StoreLink {
    /// The confirmation of this master by the sentinels; `None`: there are no sentinels.
    pub(super) fn confirmation(&self) -> Option<MasterConfirmation> {
        self.named_by.as_ref().map(|(sentinels, _)| sentinels.confirmation())
    }

    /// Calls back for each answered heartbeat. Returns the reason when the link can't be trusted any more.
    pub(super) async fn watch(&self, heard: impl Fn(HeartbeatKind)) -> RedisError {
        let left = async {
            match &self.named_by {
                Some((sentinels, named)) => sentinels.left(named).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = self.keep_beating(heard) => error,
            error = left => error,
        }
    }

    async fn keep_beating(&self, heard: impl Fn(HeartbeatKind)) -> RedisError {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            // Concurrently: slow commands delay no report.
            if let Err(error) = tokio::try_join!(self.beat(&heard), self.beat_commands(&heard)) {
                return error;
            }
        }
    }

    async fn beat_commands(&self, heard: &impl Fn(HeartbeatKind)) -> RedisResult<()> {
        let (began, sent_ms) = (Instant::now(), now_ms());
        pulse(&mut self.commands.clone()).await?;
        heard(HeartbeatKind::Commands { sent_ms, took: began.elapsed() });
        Ok(())
    }

    /// Waits for the reports of all changes up to now: the reporting connection has answered.
    ///
    /// # Errors
    /// If it did not, or its server is no longer a master.
    pub(super) async fn hear_all(&self) -> RedisResult<()> {
        match &self.report {
            Some(report) => pulse(&mut report.clone()).await,
            None => Ok(()),
        }
    }

    async fn beat(&self, heard: &impl Fn(HeartbeatKind)) -> RedisResult<()> {
        let sent_ms = now_ms();
        match self.tracked {
            true => self.hear_all().await?,
            false => pulse(&mut self.commands.clone()).await?,
        }
        heard(HeartbeatKind::Reports { sent_ms, confirmation: self.confirmation() });
        Ok(())
    }
}

/// Asks for the role, so that a demoted master is detected as well.
async fn pulse(connection: &mut impl ConnectionLike) -> RedisResult<()> {
    let role = redis::cmd("ROLE");
    let answer = tokio::time::timeout(PULSE, role.query_async::<Vec<Value>>(connection));
    let answer = match answer.await.map_err(|_| silent())? {
        // A user without the permission for `ROLE` still gets a heartbeat.
        Err(error) if is_refusal(&error) => return Ok(()),
        answer => answer?,
    };
    match answer.first() {
        Some(Value::BulkString(role)) if role != b"master" => {
            Err((ErrorKind::Io, "the server is no master").into())
        }
        _ => Ok(()),
    }
}
