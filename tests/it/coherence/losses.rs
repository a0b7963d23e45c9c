//! A store that loses writes: no generation comes back, and no bump that is owed gets lost with a connection.

use crate::support::{
    gateway::{GatewayBuilder, KPI},
    proxy::{Proxy, Which},
    *,
};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tidegate::{
    cache::{
        coherence::{
            doubt::CoherenceDoubt,
            partitions::StorePartitions,
            purge::PurgeTable,
            version::{Version, VersionSlot, VersionTable},
        },
        redis::RedisStore as Store,
    },
    clock,
    config::Config,
    telemetry::Metrics,
};

const PATH: &str = "/api/widgets/kpi";
const VERSION: &str = "dash:ver:kpi:acme";

/// Every fill gets another sequence number: a higher one is a newer generation.
fn gateway(origin: &TestOrigin, redis: &Redis) -> GatewayBuilder {
    Gateway::with(origin).redis(&redis.url()).route(PATH, KPI).event("order_created", &["kpi"])
}

async fn served(node: &Gateway) -> u64 {
    node.get_as("acme", PATH).await.ok().seq()
}

/// Waits until the node's link to the store is there and tracked, or gone.
async fn link_is(node: &Gateway, there: bool) {
    let gauge = if there { "tidegate_store_tracking" } else { "tidegate_store_up" };
    until(&format!("the link is there: {there}"), SOON, || async {
        (node.metrics().await.value(gauge, &[]) > 0.5) == there
    })
    .await;
}

/// The store is killed and comes back empty; between the two, `away` is done.
async fn lose_everything(redis: &mut Redis, node: &Gateway, away: impl AsyncFnOnce()) {
    redis.kill();
    away().await;
    link_is(node, false).await;
    redis.restart().await;
    link_is(node, true).await;
}

#[tokio::test]
async fn an_acknowledged_bump_holds_when_the_store_forgets_it() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let node = gateway(&origin, &redis).start().await;
    for round in 0..4 {
        let old = served(&node).await;
        assert_eq!(served(&node).await, old, "the old generation is in memory");
        node.bump("acme").await;
        // In every other round nobody asks before the empty store is back.
        lose_everything(&mut redis, &node, async || {
            if round % 2 == 1 {
                assert!(served(&node).await > old, "while the store is away");
            }
        })
        .await;
        for _ in 0..5 {
            assert!(served(&node).await > old, "round {round}: the old generation is back");
        }
    }
}

#[tokio::test]
async fn a_version_that_was_set_back_brings_nothing_back() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let node = gateway(&origin, &redis).start().await;
    for asked in [false, true] {
        node.bump("acme").await;
        let old = served(&node).await;
        let older: String = redis.run(&["GET", VERSION]).await;
        node.bump("acme").await;
        if asked {
            assert!(served(&node).await > old);
        }
        // As a replica that had not got the last write, or a snapshot.
        lose_everything(&mut redis, &node, async || {}).await;
        let _: () = redis.run(&["SET", VERSION, &older]).await;
        for _ in 0..5 {
            assert!(served(&node).await > old, "asked: {asked}");
        }
        let now: u64 = redis.run(&["GET", VERSION]).await;
        assert!(now > older.parse().unwrap(), "the version has moved on for all nodes");
    }
}

#[tokio::test]
async fn who_only_heard_of_a_lost_bump_serves_nothing_older() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let config = gateway(&origin, &redis);
    let (a, b) = (config.start().await, config.start().await);
    for _ in 0..2 {
        served(&a).await;
        let old = served(&b).await;
        let heard = async || b.metrics().await.value("tidegate_invalidations_total", &[("kind", "version")]);
        let before = heard().await;
        a.bump("acme").await;
        until("the other node has heard of it", SOON, || async { heard().await > before }).await;
        lose_everything(&mut redis, &b, async || {}).await;
        assert!(served(&b).await > old);
    }
}

#[tokio::test]
async fn all_bumps_that_the_store_missed_are_made_up_for_unasked() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let node = gateway(&origin, &redis).start().await;
    let wanted: BTreeSet<String> = (0..30).map(|n| format!("dash:ver:kpi:tenant{n}")).collect();
    redis.kill();
    link_is(&node, false).await;
    let before = now_ms();
    for n in 0..30 {
        let tenant = serde_json::json!({ "tenant": format!("tenant{n}") });
        node.event("order_created", &tenant).await.problem(503);
    }
    redis.restart().await;
    // The first attempts fail, and take the link with them: what is owed has to outlive that.
    let _: () = redis.run(&["CLIENT", "PAUSE", "700", "WRITE"]).await;
    until("all thirty are recorded", SOON, || async { redis.keys().await.is_superset(&wanted) }).await;
    for key in &wanted {
        let version: u64 = redis.run(&["GET", key]).await;
        assert!(version >= before, "{key} is {version}");
    }
}

/// The bump of an application: it reads the version as Flask-Caching does, and writes what follows, pickled in the newest
/// protocol, or in the oldest.
async fn application_bumps(redis: &Redis, is_counted: bool, protocol: u8) {
    let mut client = redis.client().await;
    let read: Option<Vec<u8>> = redis::cmd("GET").arg(VERSION).query_async(&mut client).await.unwrap();
    let read = read.unwrap_or_else(|| b"1".to_vec());
    // The last run of digits is the number, in every form that is written here.
    let text = String::from_utf8_lossy(&read).into_owned();
    let text = text.trim_end_matches(|c: char| !c.is_ascii_digit() || c == 'p');
    let text = text.strip_suffix("\np0").unwrap_or(text);
    let current: u64 = text.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let next = if is_counted { current + 1 } else { (current + 1).max(now_ms()) }.to_string();
    let pickled = match protocol {
        0 => format!("!V{next}\np0\n.").into_bytes(),
        _ => {
            let length = u8::try_from(next.len()).unwrap();
            [
                b"!\x80\x05\x95",
                &[length + 4, 0, 0, 0, 0, 0, 0, 0, 0x8c, length][..],
                next.as_bytes(),
                b"\x94.",
            ]
            .concat()
        }
    };
    let () = redis::cmd("SET").arg(VERSION).arg(pickled).query_async(&mut client).await.unwrap();
}

/// Writes until the key of the version is evicted.
async fn evict(redis: &Redis) {
    let mut client = redis.client().await;
    let memory: String = redis.run(&["INFO", "memory"]).await;
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let limit = (used.parse::<u64>().unwrap() + 400_000).to_string();
    let _: () =
        redis.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", &limit]).await;
    for filler in 0.. {
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(format!("filler:{}", filler % 400)).arg(vec![b'x'; 2_000]).ignore();
        let (there,): (bool,) = pipe.cmd("EXISTS").arg(VERSION).query_async(&mut client).await.unwrap();
        if !there {
            break;
        }
    }
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
}

/// An application that counts writes a number again that was there before.
#[tokio::test]
async fn the_applications_own_bump_moves_on_after_its_key_was_lost() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let config = gateway(&origin, &redis);
    let nodes = [config.start().await, config.start().await, config.start().await];
    for node in &nodes {
        link_is(node, true).await;
    }
    let newest = async || {
        let mut newest = 0;
        for node in &nodes {
            newest = newest.max(served(node).await);
        }
        newest
    };
    for round in 0..24_u8 {
        let old = newest().await;
        let loss = ["DEL", "PEXPIRE", "FLUSHALL", "evicted", "kept"][usize::from(round) % 5];
        match loss {
            "evicted" => evict(&redis).await,
            "DEL" => redis.run(&["DEL", VERSION]).await,
            "PEXPIRE" => redis.run(&["PEXPIRE", VERSION, "0"]).await,
            "FLUSHALL" => redis.run(&["FLUSHALL"]).await,
            _ => {}
        }
        application_bumps(&redis, round % 3 != 2, round % 2 * 5).await;
        for node in &nodes {
            until(&format!("round {round}, {loss}: the bump is seen"), SOON, || async {
                served(node).await > old
            })
            .await;
        }
        for node in nodes.iter().cycle().take(9) {
            assert!(served(node).await > old, "round {round}, {loss}: the old generation is back");
        }
    }
}

/// Two workers of an application count from the same value.
#[tokio::test]
async fn the_same_value_again_is_a_bump() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let config = gateway(&origin, &redis);
    let nodes = [config.start().await, config.start().await];
    for value in ["!\u{1}opaque", "1700000000000", "5", ""] {
        let _: () = redis.run(&["SET", VERSION, value]).await;
        let mut old = 0;
        for node in &nodes {
            old = old.max(served(node).await);
        }
        for node in &nodes {
            // A write is told from the one before it where the node has read that one.
            until(&format!("{value:?} is a bump"), SOON, || async {
                let _: () = redis.run(&["SET", VERSION, value]).await;
                served(node).await > old
            })
            .await;
        }
        // One bump, not one of each node after the other for ever.
        let settled: Vec<u8> = redis.run(&["GET", VERSION]).await;
        for node in nodes.iter().cycle().take(6) {
            served(node).await;
        }
        assert_eq!(redis.run::<Vec<u8>>(&["GET", VERSION]).await, settled, "{value:?}");
    }
}

/// The knowledge that a node has of a store that it is not linked with yet.
struct Knowledge {
    config: Config,
    doubt: Arc<CoherenceDoubt>,
    versions: Arc<VersionTable>,
    store: Arc<Store>,
}

impl Knowledge {
    fn of(redis: &Redis) -> Self {
        Self::with(|builder| builder.redis(&redis.url()))
    }

    fn with(store: impl Fn(GatewayBuilder) -> GatewayBuilder) -> Self {
        let builder = store(GatewayBuilder::new("http://127.0.0.1:9")).route("/x", KPI);
        let secret = |_: &str| Some("a-secret-of-the-tests-with-more-than-32-bytes".to_owned());
        let toml = builder.toml(free_address(), free_address());
        let config = Config::parse(&toml, "losses.toml", &secret).unwrap().config;
        let partitions = StorePartitions::of_store(&config.store, clock::now_ms());
        let doubt = partitions.of_purge_log().clone();
        let versions = Arc::new(VersionTable::new(partitions.clone()));
        let purges = Arc::new(PurgeTable::new(doubt.clone()));
        let metrics = Arc::new(Metrics::new().unwrap());
        let store = Arc::new(Store::new(&config.store, partitions, versions.clone(), purges, metrics));
        Self { config, doubt, versions, store }
    }

    fn slot(&self, tenant: &str) -> Arc<VersionSlot> {
        self.versions.slot(&"kpi".parse().unwrap(), &tenant.parse().unwrap())
    }
}

/// Owed bumps don't wait for known versions, nor do the requests of others: in a store that has kept it all, and in an
/// empty one, where all of it has to be moved on. `VERSIONS=1000000` measures more of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owed_bumps_are_paid_first_whatever_else_is_known() {
    const OWED: usize = 30;
    let known: usize = std::env::var("VERSIONS").map_or(30_000, |number| number.parse().unwrap());
    for is_kept in [true, false] {
        let redis = Redis::start().await;
        let (node, mut client) = (Knowledge::of(&redis), redis.client().await);
        let tenants: Vec<String> = (0..known).map(|number| format!("tenant{number}")).collect();
        if is_kept {
            for some in tenants.chunks(10_000) {
                let mut set = redis::cmd("MSET");
                some.iter().for_each(|tenant| {
                    set.arg(format!("dash:ver:kpi:{tenant}")).arg(1_700_000_000_000_u64);
                });
                let () = set.query_async(&mut client).await.unwrap();
            }
        }
        let held: Vec<_> = tenants.iter().map(|tenant| node.slot(tenant)).collect();
        held.iter().for_each(|slot| {
            slot.learn_version(slot.ticket(clock::now_ms()), &Version::new(b"1700000000000"))
        });
        let owing: Vec<_> = (0..OWED).map(|number| node.slot(&format!("owing{number}"))).collect();
        let before = clock::now_ms();
        owing.iter().for_each(|slot| drop(slot.bump_here(before)));
        let link = tokio::spawn(node.store.clone().keep_linked(node.config.store.redis.clone().unwrap()));
        until("there is a link", SOON, || async { node.store.is_up() }).await;
        let (began, mut longest, mut paid) = (Instant::now(), Duration::ZERO, None);
        let (mut failed, mut count) = (0, 0);
        while node.doubt.since_ms(clock::now_ms()).is_some() || paid.is_none() {
            let asked = Instant::now();
            failed += usize::from(node.store.get("dash:nothing".to_owned()).await.is_err());
            longest = longest.max(asked.elapsed());
            count += 1;
            if paid.is_none() && owing.iter().all(|slot| !slot.owes_bump()) {
                paid = Some(began.elapsed());
            }
            assert!(began.elapsed() < 12 * SOON, "not in time; paid: {paid:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (paid, all) = (paid.unwrap(), began.elapsed());
        println!("kept: {is_kept}: {OWED} owed bumps after {paid:?}, {known} versions after {all:?}; of {count} reads in between {failed} failed, none took more than {longest:?}");
        assert!(paid < Duration::from_secs(1) && paid <= all, "{paid:?} of {all:?}");
        for slot in &owing {
            let version: u64 = redis.run(&["GET", &format!("dash:ver:kpi:{}", slot.tenant())]).await;
            assert!(version >= before);
        }
        // Each one that was lost was moved, and none that was not.
        let keys: Vec<Vec<u8>> = redis.run(&["KEYS", "dash:ver:*"]).await;
        assert_eq!(keys.len(), known + OWED);
        let some: u64 = redis.run(&["GET", "dash:ver:kpi:tenant7"]).await;
        assert_eq!(some == 1_700_000_000_000, is_kept);
        link.abort();
    }
}

/// Where the store reports no changes, others are told of many at once: not by a round trip each.
#[tokio::test]
async fn what_is_paid_is_told_to_other_nodes_in_one_go() {
    const OWED: usize = 600;
    let redis = Redis::start().await;
    let _: () = redis
        .run(&["ACL", "SETUSER", "hosted", "on", ">word", "~*", "&*", "+@all", "-client|tracking"])
        .await;
    let proxy = Proxy::start(redis.address()).await;
    proxy.delay(Which::All, Duration::from_millis(5), Duration::from_millis(5));
    let url = proxy.url().replace("redis://", "redis://hosted:word@");
    let node = Knowledge::with(|builder| builder.redis(&url));
    let owing: Vec<_> = (0..OWED).map(|number| node.slot(&format!("owing{number}"))).collect();
    owing.iter().for_each(|slot| drop(slot.bump_here(clock::now_ms())));
    let link = tokio::spawn(node.store.clone().keep_linked(node.config.store.redis.clone().unwrap()));
    until("there is a link", SOON, || async { node.store.is_up() }).await;
    let (began, all) = (Instant::now(), format!("cmdstat_publish:calls={OWED},"));
    until("all are told", 2 * SOON, || async {
        redis.run::<String>(&["INFO", "commandstats"]).await.contains(&all)
    })
    .await;
    // Each by itself takes 10 ms.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(owing.iter().all(|slot| !slot.owes_bump()));
    link.abort();
}

/// Owed bumps of values that Redis can't count, and in a cluster.
#[tokio::test]
async fn owed_bumps_are_paid_whatever_stands_there() {
    let (redis, cluster) = (Redis::start().await, Cluster::start().await);
    let ahead = now_ms() + 1_000_000;
    for is_cluster in [false, true] {
        let node = match is_cluster {
            false => Knowledge::of(&redis),
            true => Knowledge::with(|builder| builder.cluster(&cluster.urls())),
        };
        let slots: Vec<_> = (0..20).map(|number| node.slot(&format!("tenant{number}"))).collect();
        for (number, slot) in slots.iter().enumerate() {
            let name = format!("dash:ver:kpi:{}", slot.tenant());
            let value =
                [format!("{ahead}"), format!("!V{ahead}\np0\n."), "x".to_owned(), u64::MAX.to_string()];
            match is_cluster {
                false => redis.run::<()>(&["SET", &name, &value[number % 4]]).await,
                true => cluster.set(&name, &value[number % 4]).await,
            }
            slot.bump_here(now_ms());
        }
        let link = tokio::spawn(node.store.clone().keep_linked(node.config.store.redis.clone().unwrap()));
        until("all are paid", SOON, || async { slots.iter().all(|slot| !slot.owes_bump()) }).await;
        for (number, slot) in slots.iter().enumerate() {
            let name = format!("dash:ver:kpi:{}", slot.tenant());
            let value = match is_cluster {
                false => redis.run::<Vec<u8>>(&["GET", &name]).await,
                true => cluster.find(&name).await.unwrap(),
            };
            let version: u64 = String::from_utf8(value).unwrap().parse().unwrap();
            assert_eq!(version > ahead, number % 4 < 2, "{number}: {version} {ahead} {is_cluster}");
            assert!(version >= ahead - 1_000_000, "{number}: {version}");
        }
        link.abort();
    }
}
