//! Messages of Redis reach the log and `/readyz`, with host and port; and the rights that Redis has to give.

use crate::support::{
    client::{send, Reply},
    gateway::{tidegate_output, token, KPI},
    *,
};
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

const PATH: &str = "/api/widgets/kpi";
const PASSWORD: &str = "a-password-of-the-tests";

async fn readiness(gateway: &Gateway) -> Reply {
    send(gateway.client().get(gateway.admin_url("/readyz"))).await
}

/// The reasons on `/readyz`.
async fn reasons(gateway: &Gateway) -> Vec<String> {
    let reply = readiness(gateway).await.ok().json();
    assert_eq!(reply["ready"], true, "{reply}");
    reply["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_store_that_refuses_writes_is_a_reason_in_its_own_words() {
    for (refuse, take, code) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS"),
        ("ACL SETUSER default -set -eval", "ACL SETUSER default +set +eval", "NOPERM"),
    ] {
        let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
        let gateway = Gateway::with(&origin).redis(&redis.url()).route(PATH, KPI).start().await;
        assert_eq!(reasons(&gateway).await, Vec::<String>::new(), "{code}");
        let words = |line: &'static str| line.split(' ').collect::<Vec<_>>();
        let _: () = redis.run(&words(refuse)).await;
        let place = redis.address().to_string();
        let mut asked = 0;
        until("the refusal is told", SOON, || {
            asked += 1;
            let (gateway, place, path) = (&gateway, &place, format!("{PATH}?range={asked}"));
            async move {
                gateway.get_as("acme", &path).await.ok();
                reasons(gateway).await.iter().any(|reason| {
                    reason.starts_with("the store refuses writes: redis at ")
                        && reason.contains(place.as_str())
                        && reason.contains(code)
                })
            }
        })
        .await;
        until("it is logged", SOON, || async {
            gateway.output().lines().any(|line| line.contains("redis refuses a call") && line.contains(code))
        })
        .await;
        let lines = gateway.output();
        let told = lines.lines().filter(|line| line.contains("redis refuses a call") && line.contains(code));
        let told: Vec<_> = told.collect();
        assert!(!told.is_empty() && told.len() <= 8, "{told:?}");
        assert!(told.iter().all(|line| line.contains(&place)), "{told:?}");
        let _: () = redis.run(&words(take)).await;
        until("the reason is gone", SOON, || {
            asked += 1;
            let (gateway, path) = (&gateway, format!("{PATH}?range={asked}"));
            async move {
                gateway.get_as("acme", &path).await.ok();
                reasons(gateway).await.is_empty()
            }
        })
        .await;
    }
}

/// All else is read: the doubt is about the log alone.
#[tokio::test]
async fn a_log_of_purges_that_cant_be_read_is_a_doubt_and_a_reason() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = Gateway::with(&origin).redis(&redis.url()).route(PATH, KPI).start().await;
    let doubt = async || gateway.metrics().await.value("tidegate_store_doubt_seconds", &[]);
    let told = async || {
        reasons(&gateway).await.iter().any(|reason| reason.contains("the log of purges can't be read"))
    };
    until("the node is sure", SOON, || async { doubt().await == 0.0 && !told().await }).await;
    let _: () = redis.run(&["SET", "dash:purge:log", "text"]).await;
    until("it is told", SOON, || async { doubt().await > 0.0 && told().await }).await;
    let order = gateway.purge(&json!({ "tag": "a" })).await.problem(503).json();
    let detail = order["detail"].as_str().unwrap();
    assert!(detail.contains("Redis refused to write it") && !detail.contains("protocol"), "{detail}");
    let _: u64 = redis.run(&["DEL", "dash:purge:log"]).await;
    until("the node is sure again", SOON, || async { doubt().await == 0.0 && !told().await }).await;
}

#[tokio::test]
async fn a_store_that_is_away_is_told_with_its_place_and_the_reason() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let (nobody, _refusing) = refused_address();
    let _: () = redis.run(&["CONFIG", "SET", "requirepass", PASSWORD]).await;
    let with = |credentials: &str| format!("redis://{credentials}{}/0", redis.address());
    for (url, place, said) in [
        (format!("redis://{nobody}"), nobody.to_string(), "refused"),
        (with(""), redis.address().to_string(), "NOAUTH"),
        (with(":another-password-of-the-tests@"), redis.address().to_string(), "WRONGPASS"),
    ] {
        let gateway = Gateway::with(&origin).redis(&url).route(PATH, KPI).event("e", &["kpi"]).start().await;
        until("the reason is told", SOON, || async {
            let reasons = reasons(&gateway).await;
            reasons.iter().any(|reason| {
                reason.starts_with("the store is away: redis at ")
                    && reason.contains(&place)
                    && reason.contains(said)
            })
        })
        .await;
        let lines = gateway.output();
        let told: Vec<_> = lines.lines().filter(|line| line.contains("redis can't be reached")).collect();
        // A busy machine may miss a deadline first; what does not change is said once.
        let with_reason = told.iter().filter(|line| line.contains(said)).count();
        assert!(with_reason == 1 && told.iter().all(|line| line.contains(&place)), "{lines}");
        assert!(!lines.contains("password-of-the-tests"), "{lines}");
        let config = gateway.config();
        let bump = tidegate_output(&["bump", "--config", config.to_str().unwrap(), "kpi", "acme"]).await;
        let told = String::from_utf8_lossy(&bump.stderr).into_owned();
        assert!(!bump.status.success() && told.contains(&place) && told.contains(said), "{told}");
        assert!(!told.contains("password-of-the-tests"), "{told}");
    }
}

#[tokio::test]
async fn the_database_of_a_redis_url_is_the_one_that_is_used() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    for (number, form) in [(7, "?db=7"), (5, "/5")] {
        let url = format!("{}{form}", redis.url());
        let gateway = Gateway::with(&origin).redis(&url).route(PATH, KPI).start().await;
        let before = gateway.get_as("acme", PATH).await.ok().seq();
        // The application bumps in its database.
        let client = redis::Client::open(format!("{}/{number}", redis.url())).unwrap();
        let mut application = client.get_multiplexed_async_connection().await.unwrap();
        let version = now_ms() + 1_000;
        let set: () = redis::cmd("SET")
            .arg("dash:ver:kpi:acme")
            .arg(version)
            .query_async(&mut application)
            .await
            .unwrap();
        let () = set;
        until("the bump is seen", SOON, || async { gateway.get_as("acme", PATH).await.ok().seq() > before })
            .await;
    }
}

/// A replica refuses writes: there is no link to it, instead of one that ends and is made anew.
#[tokio::test]
async fn a_replica_in_the_place_of_a_master_is_a_reason() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let (nobody, _refusing) = refused_address();
    let gateway = Gateway::with(&origin).redis(&redis.url()).route(PATH, KPI).start().await;
    assert_eq!(reasons(&gateway).await, Vec::<String>::new());
    let _: () = redis.run(&["REPLICAOF", &nobody.ip().to_string(), &nobody.port().to_string()]).await;
    until("the reason is told", SOON, || async {
        reasons(&gateway).await.iter().any(|reason| reason.contains("the server is no master"))
    })
    .await;
    let linked = |lines: &str| lines.matches("linked to redis").count();
    let before = linked(&gateway.output());
    for asked in 0..20 {
        gateway.get_as("acme", &format!("{PATH}?range={asked}")).await.ok();
    }
    assert_eq!(linked(&gateway.output()), before);
    let _: () = redis.run(&["REPLICAOF", "NO", "ONE"]).await;
    until("the reason is gone", SOON, || async { reasons(&gateway).await.is_empty() }).await;
}

/// A password that is rotated: the server takes both, the file changes, the old one is taken away.
#[tokio::test]
async fn credentials_follow_their_file() {
    let (origin, redis, cluster) = (TestOrigin::start().await, Redis::start().await, Cluster::start().await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    for (nodes, place) in [
        (vec![&redis], format!("redis = {:?}", redis.url())),
        (cluster.nodes.iter().collect(), format!("redis = {:?}", cluster.urls())),
    ] {
        let all = async |words: &'static str| {
            for node in &nodes {
                let _: redis::Value = node.run(&words.split(' ').collect::<Vec<_>>()).await;
            }
        };
        all("ACL SETUSER tidegate on >one ~* &* +@all").await;
        std::fs::write(&file, "one\n").unwrap();
        let builder = Gateway::with(&origin)
            .store(&place)
            .store(&format!("user = \"tidegate\"\npassword = {{ file = {:?} }}", file.to_str().unwrap()))
            .route(PATH, KPI)
            .event("order_created", &["kpi"]);
        let gateway = builder.start().await;
        let is_linked = async || gateway.metrics().await.value("tidegate_store_tracking", &[]) > 0.5;
        until("there is a link", SOON, is_linked).await;
        // Another one that is refused: it is told, and the link stays.
        std::fs::write(&file, "three\n").unwrap();
        until("the refusal is told", SOON, || async {
            let reasons = reasons(&gateway).await;
            reasons.iter().any(|reason| {
                reason.starts_with("the store refuses the new credentials: redis at ")
                    && reason.contains("WRONGPASS")
            })
        })
        .await;
        assert!(is_linked().await);
        gateway.bump("acme").await;
        // At once, where it is asked to.
        all("ACL SETUSER tidegate >two").await;
        std::fs::write(&file, "two\n").unwrap();
        assert!(gateway.reload(&builder).await);
        gateway.says("linked to redis by other credentials").await;
        until("the reason is gone", SOON, || async { reasons(&gateway).await.is_empty() }).await;
        // The server gets to know a password after the gateway.
        all("ACL SETUSER tidegate <one").await;
        std::fs::write(&file, "four\n").unwrap();
        until("the refusal is told", SOON, || async { !reasons(&gateway).await.is_empty() }).await;
        all("ACL SETUSER tidegate >four").await;
        until("the reason is gone", SOON, || async { reasons(&gateway).await.is_empty() }).await;
        all("ACL SETUSER tidegate <two").await;
        all("CLIENT KILL TYPE normal SKIPME yes").await;
        gateway.says("the link to redis is lost").await;
        until("there is a link again", SOON, is_linked).await;
        gateway.bump("acme").await;
        let lines = gateway.output();
        assert!(!lines.contains("need a restart"), "{lines}");
    }
}

/// The rights that docs/redis.md tells to give, one line of `ACL SETUSER`.
fn documented() -> Vec<String> {
    let document = include_str!("../../../docs/redis.md");
    let lines: Vec<_> = document.lines().skip_while(|line| !line.contains("ACL SETUSER tidegate")).collect();
    let command: String = lines.iter().take_while(|line| line.starts_with("    ")).copied().collect();
    command.replace('\\', " ").split_whitespace().map(|word| word.replace("PASSWORD", PASSWORD)).collect()
}

/// The commands that were called since the last reset, in the words of ACL rules.
async fn called(redis: &Redis) -> BTreeSet<String> {
    let stats: String = redis.run(&["INFO", "commandstats"]).await;
    let name = |line: &str| Some(line.strip_prefix("cmdstat_")?.split(':').next()?.to_owned());
    stats.lines().filter_map(name).collect()
}

#[tokio::test]
async fn the_rights_in_the_document_are_enough_and_none_too_many() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let rights = documented();
    assert_eq!(rights[..3], ["ACL", "SETUSER", "tidegate"], "{rights:?}");
    let _: () = redis.run(&rights.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let _: () = redis.run(&["CONFIG", "RESETSTAT"]).await;
    let url = format!("redis://tidegate:{PASSWORD}@{}", redis.address());
    let builder = Gateway::with(&origin)
        .redis(&url)
        .store("lease = \"300ms\"")
        .route(PATH, KPI)
        .route("/followed", "cache = { follow = \"origin\", redis = \"1MiB\" }")
        .route("/limited", "limit = { rate = \"100/1s\", shared = true }")
        .event("order_created", &["kpi"]);
    let nodes = [builder.start().await, builder.start().await];
    for node in &nodes {
        until("the link is tracked", SOON, || async {
            node.metrics().await.value("tidegate_store_tracking", &[]) > 0.5
        })
        .await;
    }
    origin.on("/followed", |_| {
        Answer::new("text/plain", "x").header("cache-control", "max-age=60").header("cache-tag", "t")
    });
    // A fill that is longer than its lease, with another node that waits for it.
    origin.on(PATH, |seen| Answer::echo(seen).after(Duration::from_millis(500)));
    let (one, two) = tokio::join!(nodes[0].get_as("acme", PATH), nodes[1].get_as("acme", PATH));
    assert_eq!(one.ok().seq(), two.ok().seq());
    for node in &nodes {
        node.get("/followed").await.ok();
        node.get("/limited").await.ok();
    }
    nodes[0].bump("acme").await;
    // A version that an application has made to expire is made to stay.
    let ahead = (now_ms() + 1_000_000).to_string();
    let _: () = redis.run(&["SET", "dash:ver:kpi:acme", &ahead, "EX", "1000"]).await;
    nodes[0].bump("acme").await;
    nodes[0].get_as("acme", PATH).await.ok();
    nodes[0].purge(&json!({ "tag": "t" })).await.ok();
    until("the purge is seen on the other node", SOON, || async {
        !nodes[1].get("/followed").await.ok().is_hit()
    })
    .await;
    send(nodes[0].request("POST", "/followed").bearer_auth(token("acme", "ann"))).await;
    until("the lease is given back", SOON, || async {
        !redis.keys().await.iter().any(|key| key.contains("lock:"))
    })
    .await;
    // By a new link, what was known is read again.
    let _: redis::Value = redis.run(&["CLIENT", "KILL", "USER", "tidegate"]).await;
    for node in &nodes {
        node.says("the link to redis is lost").await;
        until("the doubt is over", SOON, || async { reasons(node).await.is_empty() }).await;
    }
    for node in &nodes {
        let lines = node.output();
        assert!(!lines.contains("refuses") && !lines.contains("NOPERM"), "{lines}");
        assert_eq!(reasons(node).await, Vec::<String>::new());
    }
    let denied: Vec<redis::Value> = redis.run(&["ACL", "LOG"]).await;
    assert!(denied.is_empty(), "{denied:?}");
    let called = called(&redis).await;
    let unused: Vec<_> = rights
        .iter()
        .filter_map(|right| right.strip_prefix('+'))
        .filter(|right| !called.contains(*right))
        .collect();
    assert!(unused.is_empty(), "never called: {unused:?}; called: {called:?}");
}

/// Without the right to have changes reported, and with those that the document adds then.
#[tokio::test]
async fn the_rights_for_a_channel_are_enough() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let mut rights = documented();
    rights.retain(|right| right != "+client|tracking");
    let document = include_str!("../../../docs/redis.md");
    let further = document.lines().find(|line| line.trim_start().starts_with("&dash:changes ")).unwrap();
    rights.extend(further.split_whitespace().map(str::to_owned));
    let _: () = redis.run(&rights.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let url = format!("redis://tidegate:{PASSWORD}@{}", redis.address());
    let builder = Gateway::with(&origin).redis(&url).store("poll = \"60s\"").route(PATH, KPI);
    let builder = builder.event("order_created", &["kpi"]);
    let nodes = [builder.start().await, builder.start().await];
    let old = nodes[1].get_as("acme", PATH).await.ok().seq();
    nodes[0].bump("acme").await;
    until("the bump is seen", SOON, || async { nodes[1].get_as("acme", PATH).await.ok().seq() > old }).await;
    let denied: Vec<std::collections::HashMap<String, redis::Value>> = redis.run(&["ACL", "LOG"]).await;
    let what = |entry: &std::collections::HashMap<String, redis::Value>| {
        redis::from_redis_value::<String>(entry["object"].clone()).unwrap()
    };
    assert!(denied.iter().all(|entry| what(entry) == "client|tracking"), "{denied:?}");
}

/// The same in a cluster, with what the document adds for it.
#[tokio::test]
async fn the_rights_for_a_cluster_are_enough() {
    let (origin, cluster) = (TestOrigin::start().await, Cluster::start().await);
    let mut rights = documented();
    let document = include_str!("../../../docs/redis.md");
    let further = document.split("a cluster `").nth(1).and_then(|text| text.split('`').next()).unwrap();
    rights.extend(further.split(' ').map(str::to_owned));
    assert!(rights.contains(&"+cluster|slots".to_owned()), "{rights:?}");
    for node in &cluster.nodes {
        let _: () = node.run(&rights.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let with_user = |url: &String| url.replace("redis://", &format!("redis://tidegate:{PASSWORD}@"));
    let urls: Vec<String> = cluster.urls().iter().map(with_user).collect();
    let builder = Gateway::with(&origin).cluster(&urls).route(PATH, KPI).event("order_created", &["kpi"]);
    let nodes = [builder.start().await, builder.start().await];
    for node in &nodes {
        until("the link is tracked", SOON, || async {
            node.metrics().await.value("tidegate_store_tracking", &[]) > 0.5
        })
        .await;
    }
    let old = nodes[1].get_as("acme", PATH).await.ok().seq();
    nodes[0].bump("acme").await;
    until("the bump is seen", SOON, || async { nodes[1].get_as("acme", PATH).await.ok().seq() > old }).await;
    for node in &nodes {
        let lines = node.output();
        assert!(!lines.contains("refuses") && !lines.contains("NOPERM"), "{lines}");
    }
    for node in &cluster.nodes {
        let denied: Vec<redis::Value> = node.run(&["ACL", "LOG"]).await;
        assert!(denied.is_empty(), "{denied:?}");
    }
}
