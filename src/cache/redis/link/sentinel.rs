//! The master that sentinels watch: each sentinel is asked for it with every heartbeat, and reports changes.
//!
//! Each sentinel has a connection and a task of its own, so that one which hangs costs nothing. Those known
//! to the configured ones are asked as well. [`KnownMaster`] evaluates their answers.

use super::{
    protocol::{is_refusal, refuses_resp3, silent, CONNECT, HEARTBEAT, PULSE},
    quorum::{KnownMaster, KnownSentinel, MasterConfirmation, NamedMaster, SentinelAddress, MOST_SENTINELS},
};
use crate::clock::now_ms;

use parking_lot::Mutex;
use redis::{
    aio::MultiplexedConnection, cmd, AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult,
};
use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{watch, Notify},
    task::JoinSet,
};

/// The time for which a sentinel's answer is trusted, unless it is asked again.
const BELIEVED: Duration = Duration::from_secs(1);
/// The time for which a new link waits for sentinels that are slow to answer.
const ELECTION: Duration = Duration::from_millis(250);
/// The number of heartbeats between two questions for the other sentinels.
const DISCOVERY_EVERY: u32 = 8;
/// Channels on which a sentinel reports another master. The first precedes the second by the time that the
/// other replicas need.
const CHANNELS: [&str; 2] = ["+promoted-slave", "+switch-master"];

/// The sentinels of one master.
pub(in crate::cache::redis) struct Sentinels {
    shared: Arc<SentinelShared>,
    /// Ends the questions when it is dropped.
    _asking: JoinSet<()>,
}

struct SentinelShared {
    /// The name of the master.
    master: String,
    known: Mutex<KnownMaster>,
    /// Notified when all sentinels are to be asked at once.
    hurry: watch::Sender<()>,
    /// Notified when a sentinel has answered, or has not.
    heard: watch::Sender<()>,
    /// Notified when there are more sentinels to ask.
    discovered: Notify,
}

impl Sentinels {
    /// Asks the sentinels at these URLs, and all that they know, for the master of this name, until it is
    /// dropped.
    pub(super) fn new(urls: &[String], master: &str) -> Self {
        let shared = Arc::new(SentinelShared {
            master: master.to_owned(),
            known: Mutex::new(KnownMaster::new(urls)),
            hurry: watch::Sender::new(()),
            heard: watch::Sender::new(()),
            discovered: Notify::new(),
        });
        let mut asking = JoinSet::new();
        asking.spawn(shared.clone().ask_all());
        Self { shared, _asking: asking }
    }

    /// The master that the sentinels name now: asks them again, and waits for most of them, but not for those
    /// that hang.
    ///
    /// # Errors
    /// If none names any.
    pub(super) async fn master(&self) -> RedisResult<NamedMaster> {
        let began = Instant::now();
        let mut heard = self.shared.heard.subscribe();
        self.shared.hurry.send_replace(());
        let settled =
            async { while !self.shared.known.lock().is_settled(began) && heard.changed().await.is_ok() {} };
        tokio::select! {
            () = settled => {}
            // The answers so far are enough then.
            () = tokio::time::sleep(ELECTION) => {}
        }
        let named = self.shared.known.lock().elect(began, None);
        named.ok_or_else(|| (ErrorKind::MasterNameNotFoundBySentinel, "no sentinel names the master").into())
    }

    /// The extent to which they confirm the master that they named.
    pub(super) fn confirmation(&self) -> MasterConfirmation {
        self.shared.known.lock().confirmation()
    }

    /// Waits until the sentinels name another master than this one. Returns that as an error.
    pub(super) async fn left(&self, linked: &NamedMaster) -> RedisError {
        let mut heard = self.shared.heard.subscribe();
        loop {
            if let Some(error) = self.has_left(linked) {
                return error;
            }
            if heard.changed().await.is_err() {
                return silent();
            }
        }
    }

    /// An error if the sentinels name another master by now.
    fn has_left(&self, linked: &NamedMaster) -> Option<RedisError> {
        let since = Instant::now().checked_sub(BELIEVED)?;
        let (host, port) = self.shared.known.lock().elect(since, Some(&linked.master))?.master;
        ((&host, port) != (&linked.master.0, linked.master.1))
            .then(|| (ErrorKind::Io, "the sentinels name another master", format!("{host}:{port}")).into())
    }
}

impl SentinelShared {
    /// Keeps asking each sentinel that is known.
    async fn ask_all(self: Arc<Self>) {
        let (mut asked, mut asking) = (BTreeSet::new(), JoinSet::new());
        loop {
            let known: Vec<String> = self.known.lock().sentinels.keys().cloned().collect();
            for url in known {
                if asked.insert(url.clone()) {
                    asking.spawn(self.clone().keep_asking(url));
                }
            }
            self.discovered.notified().await;
        }
    }

    async fn keep_asking(self: Arc<Self>, url: String) {
        let mut hurry = self.hurry.subscribe();
        let mut told = false;
        loop {
            let began = Instant::now();
            let mut was_heard = false;
            let Err(error) = self.converse(&url, &mut hurry, &mut was_heard).await;
            if was_heard || !told {
                told = true;
                tracing::warn!(sentinel = url, %error, "a sentinel doesn't answer; still asking");
            }
            self.record(&url, |sentinel| {
                (sentinel.tried, sentinel.named) = (Some(began.max(sentinel.tried.unwrap_or(began))), None);
            });
            // One that was slow once is asked again before its answer is too old.
            let since = if was_heard { began } else { Instant::now() };
            pause(since, &mut hurry).await;
        }
    }

    /// Asks one sentinel with each heartbeat, and whenever there is a reason to, until it no longer answers.
    async fn converse(
        &self,
        url: &str,
        hurry: &mut watch::Receiver<()>,
        was_heard: &mut bool,
    ) -> RedisResult<Infallible> {
        let mut connection = self.listen(url).await?;
        let id = optional(query::<String>(&mut connection, &["MYID"]).await)?;
        let id = id.unwrap_or_else(|| url.to_owned());
        let mut asks = 0_u32;
        loop {
            let (asked, asked_ms) = (Instant::now(), now_ms());
            hurry.mark_unchanged();
            let named = ask(&connection, &self.master).await?;
            *was_heard = true;
            self.record(url, |sentinel| {
                if named.is_some() {
                    sentinel.named_ms = asked_ms;
                }
                (sentinel.id, sentinel.tried, sentinel.named) = (Some(id.clone()), Some(asked), named);
            });
            if asks.is_multiple_of(DISCOVERY_EVERY) {
                let others =
                    query::<Vec<HashMap<String, String>>>(&mut connection, &["SENTINELS", &self.master]);
                self.discover(url, &optional(others.await)?.unwrap_or_default());
            }
            asks = asks.wrapping_add(1);
            pause(asked, hurry).await;
        }
    }

    /// A connection to a sentinel, on which it reports failovers. One without RESP3 is only asked.
    async fn listen(&self, url: &str) -> RedisResult<MultiplexedConnection> {
        let hurry = self.hurry.clone();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(PULSE));
        let listening = config.clone().set_push_sender(move |push: PushInfo| {
            if matches!(push.kind, PushKind::Message | PushKind::Disconnection) {
                hurry.send_replace(());
            }
            Ok::<(), Infallible>(())
        });
        let client = |protocol| {
            let info = url.into_connection_info()?;
            let settings = info.redis_settings().clone().set_protocol(protocol);
            Client::open(info.set_redis_settings(settings))
        };
        let newer = client(ProtocolVersion::RESP3)?;
        let mut connection = match newer.get_multiplexed_async_connection_with_config(&listening).await {
            Err(error) if refuses_resp3(&error) => {
                let older = client(ProtocolVersion::RESP2)?;
                return older.get_multiplexed_async_connection_with_config(&config).await;
            }
            other => other?,
        };
        // A user without the permission to subscribe may still ask.
        optional(connection.subscribe(&CHANNELS[..]).await)?;
        Ok(connection)
    }

    fn record(&self, url: &str, heard: impl FnOnce(&mut KnownSentinel)) {
        self.known.lock().record(url, heard);
        self.heard.send_replace(());
    }

    /// Adds the other sentinels that one knows.
    fn discover(&self, url: &str, others: &[HashMap<String, String>]) {
        let mut known = self.known.lock();
        let ids = others.iter().filter_map(|other| other.get("runid").filter(|id| !id.is_empty()).cloned());
        let ids = ids.take(MOST_SENTINELS).collect();
        known.record(url, |sentinel| sentinel.others = ids);
        for other in others {
            let (Some(host), Some(port)) = (other.get("ip"), other.get("port")) else { continue };
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            let url = format!("redis://{host}:{port}");
            if known.add(url) {
                self.discovered.notify_one();
            }
        }
    }
}

/// Waits for the next heartbeat, due after the one of `since`, or until there is a reason to ask earlier.
async fn pause(since: Instant, hurry: &mut watch::Receiver<()>) {
    tokio::select! {
        () = tokio::time::sleep_until((since + HEARTBEAT).into()) => {}
        _ = hurry.changed() => {}
    }
}

/// Returns the master that a sentinel names now. Both answers are of one moment: the questions are sent
/// together.
async fn ask(connection: &MultiplexedConnection, master: &str) -> RedisResult<Option<NamedMaster>> {
    let (mut first, mut second) = (connection.clone(), connection.clone());
    let address = ["GET-MASTER-ADDR-BY-NAME", master];
    let state = ["MASTER", master];
    let (address, state) = tokio::join!(
        query::<Option<SentinelAddress>>(&mut first, &address),
        query::<HashMap<String, String>>(&mut second, &state)
    );
    let epoch = optional(state)?.and_then(|state| state.get("config-epoch")?.parse().ok()).unwrap_or(0);
    Ok(optional(address)?.flatten().map(|master| NamedMaster { master, epoch }))
}

fn query<'a, T: redis::FromRedisValue>(
    connection: &'a mut MultiplexedConnection,
    words: &[&str],
) -> impl Future<Output = RedisResult<T>> + 'a {
    let mut command: Cmd = cmd("SENTINEL");
    command.arg(words);
    async move {
        let answer = tokio::time::timeout(PULSE, command.query_async(connection));
        answer.await.unwrap_or_else(|_| Err(silent()))
    }
}

/// Converts a refusal to `None`: an older sentinel, one that does not know the master, a user without the
/// permission.
fn optional<T>(answer: RedisResult<T>) -> RedisResult<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_refusal(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
