//! The connections to Redis: how they are made, watched and made again.
//!
//! A [`Link`] is one connection for commands and one per master for reports (`CLIENT TRACKING ON BCAST` over
//! RESP3). Both live and die together: whatever goes wrong with either, the whole link is dropped, every version
//! is doubted, and a new link is made. A heartbeat on the reporting connections notices a silent one within a
//! second; because replies and reports share the connection, an answered heartbeat also means that all earlier
//! reports have arrived.

mod cluster;
mod sentinel;

use crate::{clock::now_ms, config};
use futures_util::future::try_join_all;
use redis::{
    aio::{ConnectionLike, MultiplexedConnection},
    cluster_async::ClusterConnection,
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    RedisConnectionInfo, RedisError, RedisFuture, RedisResult, Value,
};
use sentinel::{Naming, Sentinels};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_millis(500);
/// How long a heartbeat may stay unanswered. With [`HEARTBEAT`] it bounds how long a silent connection is believed.
const PULSE: Duration = Duration::from_millis(500);
/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Every so many heartbeats the masters of a cluster are listed anew.
const TOPOLOGY_EVERY: u32 = 4;

/// Where reports go.
pub(super) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// The connection for commands.
#[derive(Clone)]
pub(super) enum Commands {
    /// To one server.
    One(MultiplexedConnection),
    /// To a cluster.
    Cluster(ClusterConnection),
}

impl Commands {
    /// Whether commands on different keys can share a round trip and keep their order.
    pub(super) fn can_pipeline(&self) -> bool {
        matches!(self, Self::One(_))
    }
}

impl ConnectionLike for Commands {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// An answered heartbeat.
#[derive(Debug, Clone, Copy)]
pub(super) enum Beat {
    /// Of all connections that reports come by, where there are any: what was reported before it has arrived.
    Reports {
        /// When it was sent.
        sent_ms: u64,
    },
    /// Of the connection for commands.
    Commands {
        /// When it was sent.
        sent_ms: u64,
        /// How long the answer took.
        took: Duration,
    },
}

/// A live link.
pub(super) struct Link {
    /// For commands.
    pub(super) commands: Commands,
    /// Whether changes are reported.
    pub(super) tracked: bool,
    /// Told when the link is of no more use.
    pub(super) given_up: Arc<Notify>,
    reports: Vec<MultiplexedConnection>,
    /// On which other nodes tell what they have changed, where changes are not reported.
    pub(super) channel: Option<MultiplexedConnection>,
    masters: BTreeSet<String>,
    /// Those who named the server, and what they named.
    named_by: Option<(Arc<Sentinels>, Naming)>,
}

/// The servers to link with, and how they are found.
pub(super) enum Servers {
    /// One server.
    One(String),
    /// The master that sentinels name.
    ///
    /// Shared with each link: it ends when they name another one. With the database and the user on the master.
    Sentinels(Arc<Sentinels>, RedisConnectionInfo),
    /// A cluster.
    Cluster(Vec<String>),
}

impl Servers {
    /// The servers of a configuration. Sentinels are asked from now on.
    pub(super) fn new(target: config::Redis) -> Self {
        match target {
            config::Redis::Single(url) => Self::One(url),
            config::Redis::Cluster(seeds) => Self::Cluster(seeds),
            config::Redis::Sentinel { sentinels, master, db, credentials: (user, password) } => {
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

    /// Makes a link: reports first, so that whatever is read afterwards is reported on.
    ///
    /// # Errors
    /// If a server can't be reached or refuses us. Refused tracking is no error.
    pub(super) async fn connect(
        &self,
        (prefixes, channel): (&[String], &str),
        on_push: OnPush,
        given_up: Arc<Notify>,
    ) -> RedisResult<Link> {
        let link = match self {
            Self::One(url) => one(client(url.as_str(), None)?, prefixes, channel, &on_push).await,
            Self::Sentinels(sentinels, settings) => {
                let named = sentinels.master().await?;
                let client = client(named.master.clone(), Some(settings.clone()))?;
                let link = tokio::select! {
                    link = one(client, prefixes, channel, &on_push) => link?,
                    error = sentinels.left(&named) => return Err(error),
                };
                Ok(Link { named_by: Some((sentinels.clone(), named)), ..link })
            }
            Self::Cluster(seeds) => cluster::connect(seeds, prefixes, channel, &on_push).await,
        }?;
        // A replica takes no writes: a link to it would end with the first heartbeat, and be made anew for ever.
        link.beat(1, &|_| ()).await?;
        Ok(Link { given_up, ..link })
    }
}

async fn one(client: Client, prefixes: &[String], channel: &str, on_push: &OnPush) -> RedisResult<Link> {
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
    let reports: Vec<_> = report.into_iter().collect();
    let channel = match reports.is_empty() {
        true => listen_on(&client, channel, on_push).await?,
        false => None,
    };
    Ok(Link {
        commands: Commands::One(commands),
        tracked: !reports.is_empty(),
        given_up: Arc::default(),
        reports,
        channel,
        masters: BTreeSet::new(),
        named_by: None,
    })
}

fn client<T: IntoConnectionInfo>(at: T, settings: Option<RedisConnectionInfo>) -> RedisResult<Client> {
    let info = at.into_connection_info()?;
    let settings = settings.unwrap_or_else(|| info.redis_settings().clone());
    Client::open(info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3)))
}

/// A connection that reports changes, or none where the server refuses to.
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

/// A connection on which other nodes tell what they have changed, or none where the server refuses that as well.
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

/// A connection that hands on what the server pushes, or none where it can't.
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

/// Whether a server that works would not do it.
fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

fn refuses_resp3(error: &RedisError) -> bool {
    error.kind() == ErrorKind::RESP3NotSupported
}

impl Link {
    /// Tells of each heartbeat that is answered. Returns when the link is no longer to be believed; says why.
    pub(super) async fn watch(&self, heard: impl Fn(Beat)) -> RedisError {
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

    async fn keep_beating(&self, heard: impl Fn(Beat)) -> RedisError {
        let mut beats = 0_u32;
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            beats = beats.wrapping_add(1);
            // Beside one another: commands that take their time delay no report.
            if let Err(error) = tokio::try_join!(self.beat(beats, &heard), self.beat_commands(&heard)) {
                return error;
            }
        }
    }

    async fn beat_commands(&self, heard: &impl Fn(Beat)) -> RedisResult<()> {
        let (began, sent_ms) = (Instant::now(), now_ms());
        pulse(&mut self.commands.clone()).await?;
        heard(Beat::Commands { sent_ms, took: began.elapsed() });
        Ok(())
    }

    /// Hears the reports of all changes up to now: every reporting connection has answered.
    ///
    /// # Errors
    /// If one did not, or is no longer a master's.
    pub(super) async fn hear_all(&self) -> RedisResult<()> {
        try_join_all(self.reports.iter().map(|report| {
            let mut report = report.clone();
            async move { pulse(&mut report).await }
        }))
        .await
        .map(drop)
    }

    async fn beat(&self, beats: u32, heard: &impl Fn(Beat)) -> RedisResult<()> {
        let (mut commands, sent_ms) = (self.commands.clone(), now_ms());
        match self.reports.is_empty() {
            true => pulse(&mut commands).await?,
            false => self.hear_all().await?,
        }
        heard(Beat::Reports { sent_ms });
        if !commands.can_pipeline() && beats.is_multiple_of(TOPOLOGY_EVERY) {
            let listed = tokio::time::timeout(PULSE, cluster::masters(&mut commands))
                .await
                .map_err(|_| silent())??;
            if listed != self.masters {
                return Err((ErrorKind::Io, "the cluster's masters changed").into());
            }
        }
        Ok(())
    }
}

/// Asks for the role, so that a master that was demoted is noticed as well.
async fn pulse(connection: &mut impl ConnectionLike) -> RedisResult<()> {
    let role = redis::cmd("ROLE");
    let answer = tokio::time::timeout(PULSE, role.query_async::<Vec<Value>>(connection));
    let answer = match answer.await.map_err(|_| silent())? {
        // Users without the right to ask for the role still get their pulse.
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

fn silent() -> RedisError {
    (ErrorKind::Io, "the server doesn't answer").into()
}
