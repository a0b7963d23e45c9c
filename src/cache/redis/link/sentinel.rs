//! The master that sentinels watch: each sentinel is asked for it with every heartbeat, and tells when it changes.
//!
//! Each sentinel has a connection and a task of its own, so that one which hangs costs nothing. Those that the configured
//! ones know of are asked as well. Of several configurations that they name the newest counts, as among the sentinels
//! themselves: [`elect`].

use super::{is_refusal, refuses_resp3, silent, CONNECT, HEARTBEAT, PULSE};
use parking_lot::Mutex;
use redis::{
    aio::MultiplexedConnection, cmd, AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{watch, Notify},
    task::JoinSet,
};

/// Host and port of a server.
pub(super) type Address = (String, u16);

/// The time for which what a sentinel named is believed, unless it is asked again.
const BELIEVED: Duration = Duration::from_secs(1);
/// The time for which a new link waits for sentinels that are slow to answer.
const ELECTION: Duration = Duration::from_millis(250);
/// Every so many heartbeats a sentinel is asked for the other sentinels.
const DISCOVERY_EVERY: u32 = 8;
/// The most sentinels that are asked.
const MOST_SENTINELS: usize = 16;
/// Channels on which a sentinel tells that the master is another one. The first comes before the second by the time that
/// the other replicas need.
const CHANNELS: [&str; 2] = ["+promoted-slave", "+switch-master"];

/// The sentinels of one master.
pub(in crate::cache::redis) struct Sentinels {
    shared: Arc<Shared>,
    /// Ends the asking when it is dropped.
    _asking: JoinSet<()>,
}

struct Shared {
    /// The name of the master.
    master: String,
    known: Mutex<Known>,
    /// Told when all sentinels are to be asked at once.
    hurry: watch::Sender<()>,
    /// Told when a sentinel has answered, or has not.
    heard: watch::Sender<()>,
    /// Told when there are more sentinels to ask.
    discovered: Notify,
}

#[derive(Default)]
struct Known {
    /// By URL.
    sentinels: BTreeMap<String, Sentinel>,
    /// The newest epoch that was ever named.
    newest: u64,
}

/// One sentinel, as it was last heard.
#[derive(Default)]
struct Sentinel {
    /// Its name among the sentinels; none: it has never answered. It may be known under two URLs.
    id: Option<String>,
    /// When the last try to ask it began that has ended by now.
    tried: Option<Instant>,
    named: Option<Naming>,
}

/// A master that a sentinel names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Naming {
    pub(super) master: Address,
    /// Rises with each failover; 0 where the sentinel doesn't tell.
    epoch: u64,
}

/// The master to go by, of what the sentinels name: that of the newest epoch; of several the one which most name, of equals
/// the one that is `linked`. A configuration older than the `newest` ever named counts only if more than half of all
/// `sentinels` name such: one that slept through a failover does not bring the old master back.
fn elect(named: &[Naming], newest: u64, sentinels: usize, linked: Option<&Address>) -> Option<Naming> {
    let epoch = named.iter().map(|naming| naming.epoch).max()?;
    if epoch < newest && named.len() * 2 <= sentinels {
        return None;
    }
    let of_epoch = || named.iter().filter(|naming| naming.epoch == epoch);
    let votes = |master: &Address| of_epoch().filter(|naming| naming.master == *master).count();
    of_epoch().max_by_key(|naming| (votes(&naming.master), Some(&naming.master) == linked)).cloned()
}

impl Known {
    /// Returns what was named by an answer to a question of `since` or later, each sentinel once.
    fn named_since(&self, since: Instant) -> Vec<Naming> {
        let fresh = self.sentinels.values().filter(|sentinel| sentinel.tried >= Some(since));
        let by_id: BTreeMap<_, _> =
            fresh.filter_map(|sentinel| Some((sentinel.id.as_ref()?, sentinel.named.clone()?))).collect();
        by_id.into_values().collect()
    }

    /// The number of sentinels that have answered at some time.
    fn electorate(&self) -> usize {
        self.sentinels.values().filter_map(|sentinel| sentinel.id.as_ref()).collect::<BTreeSet<_>>().len()
    }

    fn elect(&self, since: Instant, linked: Option<&Address>) -> Option<Naming> {
        elect(&self.named_since(since), self.newest, self.electorate(), linked)
    }

    /// Returns whether nothing more is to be expected than what was heard since then: from most, or tried of all.
    fn is_settled(&self, since: Instant) -> bool {
        let named = self.named_since(since).len();
        named * 2 > self.sentinels.len() || self.sentinels.values().all(|one| one.tried >= Some(since))
    }
}

impl Sentinels {
    /// Asks the sentinels at these URLs, and all that they know of, for the master of this name, until it is dropped.
    pub(super) fn new(urls: &[String], master: &str) -> Self {
        let mut known = Known::default();
        known.sentinels.extend(urls.iter().map(|url| (url.clone(), Sentinel::default())));
        let shared = Arc::new(Shared {
            master: master.to_owned(),
            known: Mutex::new(known),
            hurry: watch::Sender::new(()),
            heard: watch::Sender::new(()),
            discovered: Notify::new(),
        });
        let mut asking = JoinSet::new();
        asking.spawn(shared.clone().ask_all());
        Self { shared, _asking: asking }
    }

    /// The master that the sentinels name now: asks them anew, and waits for most of them, but not for those that hang.
    ///
    /// # Errors
    /// If none names any.
    pub(super) async fn master(&self) -> RedisResult<Naming> {
        let began = Instant::now();
        let mut heard = self.shared.heard.subscribe();
        self.shared.hurry.send_replace(());
        let settled =
            async { while !self.shared.known.lock().is_settled(began) && heard.changed().await.is_ok() {} };
        tokio::select! {
            () = settled => {}
            // Those who have answered by then are enough.
            () = tokio::time::sleep(ELECTION) => {}
        }
        let named = self.shared.known.lock().elect(began, None);
        named.ok_or_else(|| (ErrorKind::MasterNameNotFoundBySentinel, "no sentinel names the master").into())
    }

    /// Returns when the sentinels name another master than this one.
    pub(super) async fn left(&self, linked: &Naming) -> RedisError {
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

    /// The other master that the sentinels name by now, as an error.
    fn has_left(&self, linked: &Naming) -> Option<RedisError> {
        let since = Instant::now().checked_sub(BELIEVED)?;
        let (host, port) = self.shared.known.lock().elect(since, Some(&linked.master))?.master;
        ((&host, port) != (&linked.master.0, linked.master.1))
            .then(|| (ErrorKind::Io, "the sentinels name another master", format!("{host}:{port}")).into())
    }
}

impl Shared {
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
                tracing::warn!(sentinel = url, %error, "a sentinel doesn't answer; asking on");
            }
            self.record(&url, |sentinel| {
                (sentinel.tried, sentinel.named) = (Some(began.max(sentinel.tried.unwrap_or(began))), None);
            });
            pause(&mut hurry).await;
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
            let asked = Instant::now();
            hurry.mark_unchanged();
            let named = ask(&connection, &self.master).await?;
            *was_heard = true;
            self.record(url, |sentinel| {
                (sentinel.id, sentinel.tried, sentinel.named) = (Some(id.clone()), Some(asked), named);
            });
            if asks.is_multiple_of(DISCOVERY_EVERY) {
                let others =
                    query::<Vec<HashMap<String, String>>>(&mut connection, &["SENTINELS", &self.master]);
                self.discover(&optional(others.await)?.unwrap_or_default());
            }
            asks = asks.wrapping_add(1);
            pause(hurry).await;
        }
    }

    /// A connection to a sentinel, on which it tells of failovers. One that speaks no RESP3 is asked only.
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
        // A user without the right to listen may still ask.
        optional(connection.subscribe(&CHANNELS[..]).await)?;
        Ok(connection)
    }

    fn record(&self, url: &str, heard: impl FnOnce(&mut Sentinel)) {
        let mut known = self.known.lock();
        if let Some(sentinel) = known.sentinels.get_mut(url) {
            heard(sentinel);
            let epoch = sentinel.named.as_ref().map_or(0, |naming| naming.epoch);
            known.newest = known.newest.max(epoch);
        }
        drop(known);
        self.heard.send_replace(());
    }

    /// Takes in the other sentinels that one knows of.
    fn discover(&self, others: &[HashMap<String, String>]) {
        let mut known = self.known.lock();
        for other in others {
            let (Some(host), Some(port)) = (other.get("ip"), other.get("port")) else { continue };
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            let url = format!("redis://{host}:{port}");
            if known.sentinels.len() < MOST_SENTINELS && !known.sentinels.contains_key(&url) {
                known.sentinels.insert(url, Sentinel::default());
                self.discovered.notify_one();
            }
        }
    }
}

/// Waits for the next heartbeat, or until there is a reason to ask before.
async fn pause(hurry: &mut watch::Receiver<()>) {
    tokio::select! {
        () = tokio::time::sleep(HEARTBEAT) => {}
        _ = hurry.changed() => {}
    }
}

/// Returns what a sentinel names now. Both answers are of one moment: the questions go out together.
async fn ask(connection: &MultiplexedConnection, master: &str) -> RedisResult<Option<Naming>> {
    let (mut first, mut second) = (connection.clone(), connection.clone());
    let address = ["GET-MASTER-ADDR-BY-NAME", master];
    let state = ["MASTER", master];
    let (address, state) = tokio::join!(
        query::<Option<Address>>(&mut first, &address),
        query::<HashMap<String, String>>(&mut second, &state)
    );
    let epoch = optional(state)?.and_then(|state| state.get("config-epoch")?.parse().ok()).unwrap_or(0);
    Ok(optional(address)?.flatten().map(|master| Naming { master, epoch }))
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

/// Takes a refusal for no answer: an older sentinel, one that knows no such master, a user without the right.
fn optional<T>(answer: RedisResult<T>) -> RedisResult<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_refusal(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(port: u16, epoch: u64) -> Naming {
        Naming { master: ("127.0.0.1".to_owned(), port), epoch }
    }

    #[test]
    fn the_newest_configuration_is_elected() {
        let linked = naming(1, 0).master;
        for (named, newest, sentinels, port, why) in [
            (&[(1, 4), (1, 4), (1, 4)][..], 4, 3, Some(1), "all agree"),
            (&[(1, 4), (2, 5), (1, 4)], 5, 3, Some(2), "one has been told first"),
            (&[(2, 4), (2, 4), (1, 4)], 4, 3, Some(2), "most of one epoch"),
            (&[(2, 4), (1, 4)], 4, 3, Some(1), "as many: the linked one stays"),
            (&[(1, 4)], 5, 3, None, "one that slept through a failover"),
            (&[(1, 4), (1, 4)], 5, 3, Some(1), "most were set up anew"),
            (&[(2, 0)], 5, 1, Some(2), "the only one was set up anew"),
            (&[(2, 0), (2, 0), (1, 0)], 0, 3, Some(2), "no epochs are told"),
            (&[], 5, 3, None, "none answers"),
        ] {
            let named: Vec<_> = named.iter().map(|(port, epoch)| naming(*port, *epoch)).collect();
            let elected = elect(&named, newest, sentinels, Some(&linked));
            assert_eq!(elected.map(|naming| naming.master.1), port, "{why}");
        }
    }

    #[test]
    fn a_sentinel_with_two_urls_has_one_vote_and_old_answers_none() {
        let (before, now) = (Instant::now(), Instant::now() + Duration::from_millis(1));
        let heard = |id: &str, tried, port| Sentinel {
            id: Some(id.to_owned()),
            tried: Some(tried),
            named: Some(naming(port, 1)),
        };
        let mut known = Known { newest: 1, ..Known::default() };
        for (url, sentinel) in [
            ("a", heard("1", now, 7)),
            ("b", heard("1", now, 7)),
            ("c", heard("2", before, 8)),
            ("d", Sentinel::default()),
        ] {
            known.sentinels.insert(url.to_owned(), sentinel);
        }
        assert_eq!((known.named_since(now).len(), known.electorate()), (1, 2));
        assert_eq!(known.elect(now, None).map(|naming| naming.master.1), Some(7));
        assert!(!known.is_settled(now), "one of four");
        for sentinel in known.sentinels.values_mut() {
            sentinel.tried = Some(now);
        }
        assert!(known.is_settled(now), "all were tried");
    }
}
