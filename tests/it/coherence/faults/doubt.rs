//! In doubt: how old an answer may be while a node can't be sure of what it knows.

use super::{all_serve, served, Data, COHERENT, PATH, VERSION};
use crate::support::{
    client::client,
    gateway::token,
    proxy::{Proxy, Which},
    *,
};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// A route that follows its origin.
const FOLLOWED: &str = "/page";

/// A node behind a proxy, and another one that isn't.
struct Two {
    data: Data,
    redis: Redis,
    proxy: Proxy,
    behind: Gateway,
    other: Gateway,
}

impl Two {
    async fn start(store: &str) -> Self {
        let (data, redis) = (Data::start().await, Redis::start().await);
        let value = data.value.clone();
        data.origin.on(FOLLOWED, move |_| {
            let value = value.load(std::sync::atomic::Ordering::SeqCst);
            Answer::json(&serde_json::json!({ "seq": value }))
                .header("cache-control", "max-age=600, stale-if-error=600")
                .header("cache-tag", "page")
                .header("etag", &format!("\"{value}\""))
        });
        let proxy = Proxy::start(redis.address()).await;
        let gateway = || data.gateway().route(FOLLOWED, "cache = \"origin\"").store(store);
        let behind = gateway().redis(&proxy.url()).start().await;
        let other = gateway().redis(&redis.url()).start().await;
        let two = Self { data, redis, proxy, behind, other };
        for node in [&two.behind, &two.other] {
            all_serve(std::slice::from_ref(node), 1, SOON).await;
            assert_eq!(two.page(node).await, 1);
        }
        two
    }

    async fn page(&self, node: &Gateway) -> u64 {
        node.get(FOLLOWED).await.ok().seq()
    }

    /// The application changes its data, and moves the version itself.
    async fn change(&self) -> u64 {
        let value = self.data.change();
        let _: () = self.redis.run(&["SET", VERSION, &format!("9{value}")]).await;
        value
    }

    /// The application changes its data, and the other node bears the purge.
    async fn purge(&self) -> u64 {
        let value = self.data.change();
        let purged = self.other.purge(&serde_json::json!({ "tags": ["page"] })).await;
        assert_eq!(purged.status, 200, "{purged:?}");
        value
    }

    async fn doubts(&self) -> bool {
        self.behind.metrics().await.value("tidegate_store_doubt_seconds", &[]) > 0.0
    }
}

/// Commands take longer than the deadline, and reports don't.
async fn slow(store: &str) -> Two {
    let two = Two::start(store).await;
    two.proxy.delay(Which::Commands, Duration::from_millis(60), Duration::ZERO);
    until("the store is found slow", SOON, || two.doubts()).await;
    two
}

#[tokio::test]
async fn each_change_is_seen_though_commands_are_slower_than_the_deadline() {
    let two = slow("deadline = \"50ms\"").await;
    for _ in 0..5 {
        let value = two.change().await;
        all_serve(std::slice::from_ref(&two.behind), value, COHERENT).await;
        let value = two.purge().await;
        until("the purge is seen", COHERENT, || async { two.page(&two.behind).await == value }).await;
    }
    // It says so while it lasts.
    let ready = client().get(two.behind.admin_url("/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    assert!(ready.text().await.unwrap().contains("in doubt for "));
    two.proxy.heal();
    until("it is sure again", SOON, || async { !two.doubts().await }).await;
}

#[tokio::test]
async fn no_hit_waits_for_a_slow_store() {
    let two = slow("deadline = \"50ms\"").await;
    let waited = async || {
        let metrics = two.behind.metrics().await;
        let calls = ["read_version", "read_purges", "lease", "get"];
        calls
            .map(|call| metrics.value("tidegate_store_call_duration_seconds_sum", &[("call", call)]))
            .iter()
            .sum::<f64>()
    };
    let (before, asked) = (waited().await, two.data.origin.count(PATH));
    for _ in 0..50 {
        served(&two.behind).await;
        two.page(&two.behind).await;
    }
    assert_eq!(two.data.origin.count(PATH), asked, "a change would have been reported");
    two.change().await;
    two.purge().await;
    for _ in 0..50 {
        served(&two.behind).await;
        two.page(&two.behind).await;
    }
    // A few readings go on behind them.
    let waited = waited().await - before;
    assert!(waited < 1.0, "200 requests have waited {waited} s for the store");
}

#[tokio::test]
async fn without_a_link_an_answer_is_served_for_the_time_of_an_outage() {
    let two = Two::start("outage_ttl = \"1500ms\"").await;
    two.proxy.refuse();
    until("the link is lost", SOON, || async {
        two.behind.metrics().await.value("tidegate_store_up", &[]) == 0.0
    })
    .await;
    let (value, changed) = (two.change().await, Instant::now());
    assert_eq!(two.purge().await, value + 1);
    let limit = Duration::from_millis(2_500);
    for (what, is_new) in [("version", false), ("purge", true)] {
        loop {
            let (asked, seen) = (
                changed.elapsed(),
                if is_new { two.page(&two.behind).await } else { served(&two.behind).await },
            );
            if seen > value {
                break;
            }
            assert!(asked < limit, "{what}: the old answer {asked:?} after the change");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // Then it asks the origin now and then, and no more.
    let before = two.data.origin.count(PATH);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        served(&two.behind).await;
    }
    assert!(two.data.origin.count(PATH) - before <= 2, "{:?}", two.data.origin.counts());
    two.proxy.heal();
    let value = two.change().await;
    all_serve(std::slice::from_ref(&two.behind), value, SOON).await;
}

#[tokio::test]
async fn without_a_bound_an_answer_is_served_as_long_as_it_is_fresh() {
    let two = Two::start("outage_ttl = \"unlimited\"").await;
    let before = served(&two.behind).await;
    two.proxy.refuse();
    until("the link is lost", SOON, || async {
        two.behind.metrics().await.value("tidegate_store_up", &[]) == 0.0
    })
    .await;
    two.change().await;
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!(served(&two.behind).await, before);
    }
}

#[tokio::test]
async fn what_one_node_filled_in_doubt_reaches_no_other() {
    let two = slow("deadline = \"50ms\"").await;
    for _ in 0..5 {
        let value = two.change().await;
        // Filled under a version that this node has not read.
        all_serve(std::slice::from_ref(&two.behind), value, COHERENT).await;
        let (value, asked) = (two.change().await, Instant::now());
        while served(&two.other).await != value {
            assert!(asked.elapsed() < COHERENT, "what was filled before the change");
        }
    }
    // Nor does it take anything that others have stored under a name that means something else here.
    let fresh = two.data.gateway().redis(&two.proxy.url()).store("deadline = \"50ms\"").start().await;
    assert_eq!(served(&fresh).await, two.data.value.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn a_node_that_was_stopped_asks_before_it_answers() {
    let two = Two::start("outage_ttl = \"2s\"").await;
    let pid = Pid::from_raw(two.behind.pid().cast_signed());
    for behind in [false, true] {
        kill(pid, Signal::SIGSTOP).unwrap();
        let value = two.change().await;
        if behind {
            // What it would hear when it goes on is held up as well.
            two.proxy.hold(Which::All);
        }
        let path = two.behind.url(PATH);
        let asking = tokio::spawn(client().get(path).bearer_auth(token("acme", "ann")).send());
        tokio::time::sleep(Duration::from_millis(3_100)).await;
        kill(pid, Signal::SIGCONT).unwrap();
        let seen: serde_json::Value = asking.await.unwrap().unwrap().json().await.unwrap();
        assert_eq!(seen["seq"], value, "behind: {behind}");
        two.proxy.heal();
        all_serve(std::slice::from_ref(&two.behind), value, SOON).await;
        until("it is sure again", SOON, || async { !two.doubts().await }).await;
    }
}

#[tokio::test]
async fn what_may_have_been_purged_stands_in_for_no_failure() {
    let mut two = Two::start("outage_ttl = \"1s\"").await;
    two.proxy.hold(Which::Commands);
    let purged = two.purge().await;
    two.data.origin.kill();
    // Nobody could read which answers were meant, neither now nor when the time of an outage is over.
    let (began, mut answers) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_millis(2_500) {
        let reply = two.behind.get(FOLLOWED).await;
        if reply.status == 200 {
            assert!(began.elapsed() < COHERENT, "{reply:?} after the purge, for {purged}");
        } else {
            answers += 1;
        }
    }
    assert!(answers > 0);
    // The other one was not purged, and has its last generation.
    let reply = two.behind.get_as("acme", PATH).await;
    assert_eq!((reply.status.as_u16(), reply.seq()), (200, 1));
}

#[tokio::test]
async fn a_number_that_is_counted_anew_by_an_empty_store_is_another_version() {
    let mut two = Two::start("outage_ttl = \"unlimited\"").await;
    for value in [Some("2"), Some("!I3\n."), None] {
        let write = async |two: &Two| {
            if let Some(value) = value {
                let _: () = two.redis.run(&["SET", VERSION, value]).await;
            }
        };
        if value.is_some() {
            let seq = two.data.change();
            write(&two).await;
            all_serve(std::slice::from_ref(&two.behind), seq, COHERENT).await;
        }
        two.proxy.refuse();
        until("the link is lost", SOON, || async {
            two.behind.metrics().await.value("tidegate_store_up", &[]) == 0.0
        })
        .await;
        two.redis.kill();
        two.redis.restart().await;
        // As many changes as before, and none of the old ones is left.
        let seq = two.data.change();
        write(&two).await;
        two.proxy.heal();
        all_serve(std::slice::from_ref(&two.behind), seq, SOON).await;
    }
}
