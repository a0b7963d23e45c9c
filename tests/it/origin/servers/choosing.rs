//! Which server is asked: weights, load, keys; and what is tried again.

use super::{before, counts, origins, socket};
use crate::support::*;
use socket2::{Domain, Socket, Type};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

#[tokio::test]
async fn weights_share_out_fills_and_proxied_requests_alike() {
    let all = origins(2).await;
    let servers = format!("[{:?}, {{ url = {:?}, weight = 2 }}]", all[0].url(), all[1].url());
    let gateway = gateway::GatewayBuilder::new(&all[0].url())
        .raw(&format!("[[origin]]\nname = \"weighted\"\nservers = {servers}"))
        .raw("[[route]]\npath = \"/app/*\"\norigin = \"weighted\"")
        .raw("[[route]]\npath = \"/kept/*\"\norigin = \"weighted\"\ncache = { namespace = \"n\", ttl = \"60s\" }")
        .start()
        .await;
    for n in 0..30 {
        gateway.get("/app/x").await.ok();
        gateway.get(&format!("/kept/{n}")).await.ok();
    }
    let kept = |origin: &TestOrigin| (0..30).map(|n| origin.count(&format!("/kept/{n}"))).sum::<usize>();
    let totals: Vec<usize> = all.iter().map(|origin| origin.count("/app/x") + kept(origin)).collect();
    assert_eq!(totals, [20, 40]);
    assert!(all.iter().all(|origin| kept(origin) > 0 && origin.count("/app/x") > 0));
}

#[tokio::test]
async fn the_least_busy_is_asked_open_sockets_counted() {
    let all = origins(2).await;
    for origin in &all {
        origin.on("/app/slow", |seen| Answer::echo(seen).gated());
        origin.hold();
    }
    let gateway = before(&all)
        .origin("balance = \"least-connections\"")
        .route("/app/*", "")
        .route("/kept", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .route("/ws/*", "websocket = {}")
        .start()
        .await;
    let mut sockets = vec![socket(&gateway, "/ws/echo").await.unwrap()];
    let busy = usize::from(all[1].count("/ws/echo") == 1);
    for _ in 0..4 {
        gateway.get("/app/x").await.ok();
    }
    gateway.get("/kept").await.ok();
    assert_eq!((all[busy].count("/app/x"), all[1 - busy].count("/app/x")), (0, 4));
    assert_eq!((all[busy].count("/kept"), all[1 - busy].count("/kept")), (0, 1));
    // The other one is busier with two that it doesn't answer.
    let mut asking = Vec::new();
    for n in 1..=3 {
        asking.push(tokio::spawn(send(gateway.request("GET", "/app/slow"))));
        until("it is asked", SOON, || async { counts(&all, "/app/slow").iter().sum::<usize>() == n }).await;
    }
    assert_eq!((all[busy].count("/app/slow"), all[1 - busy].count("/app/slow")), (1, 2));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("tidegate_origin_requests_under_way", &[("origin", "app")]), 4.0);
    all.iter().for_each(TestOrigin::release);
    for asking in asking {
        asking.await.unwrap().ok();
    }
    drop(sockets.pop());
    until("nothing is under way", SOON, || async {
        gateway.metrics().await.value("tidegate_origin_requests_under_way", &[]) == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_path_keeps_its_server_and_few_move_when_one_goes() {
    let mut all = origins(3).await;
    let gateway = before(&all)
        .origin("balance = { hash = \"path\" }")
        .route("/app/*", "")
        .route("/kept/*", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .start()
        .await;
    let paths: Vec<String> = (0..60).map(|n| format!("/app/{n}")).collect();
    let homes = async |all: &[TestOrigin]| {
        all.iter().for_each(TestOrigin::forget);
        let mut homes = Vec::new();
        for path in &paths {
            for query in ["", "?a=1"] {
                gateway.get(&format!("{path}{query}")).await.ok();
            }
            homes.push(all.iter().position(|origin| origin.count(path) == 2));
        }
        homes
    };
    let first = homes(&all).await;
    assert!((0..3).all(|n| first.contains(&Some(n))) && !first.contains(&None), "{first:?}");
    all[1].kill();
    // The breaker has to learn of it.
    until("nobody asks it", SOON, || async {
        all.iter().for_each(TestOrigin::forget);
        for path in &paths {
            gateway.get(path).await.ok();
        }
        gateway.metrics().await.value("tidegate_origin_ejections_total", &[("reason", "failures")]) > 0.0
    })
    .await;
    let without = homes(&all).await;
    for (before, after) in first.iter().zip(&without) {
        assert!(before == after || (*before == Some(1) && *after != *before), "{before:?} → {after:?}");
    }
    all[1].restart().await;
    until("it is asked again", SOON, || async { homes(&all).await == first }).await;
    // A fill goes by its path as well: a miss of another version goes to the same server.
    gateway.get("/kept/1").await.ok();
    assert_eq!(counts(&all, "/kept/1").iter().sum::<usize>(), 1);
}

#[tokio::test]
async fn a_client_and_a_tenant_keep_their_server() {
    let all = origins(3).await;
    let by = |by: &str| {
        format!(
            "[[origin]]\nname = \"{by}\"\nbalance = {{ hash = \"{by}\" }}\nservers = {:?}",
            all.iter().map(TestOrigin::url).collect::<Vec<_>>()
        )
    };
    let gateway = before(&all)
        .setting("trusted_proxies = [\"127.0.0.0/8\"]")
        .raw(&by("client"))
        .raw(&by("tenant"))
        .raw("[[route]]\npath = \"/client\"\norigin = \"client\"")
        .raw("[[route]]\npath = \"/tenant\"\norigin = \"tenant\"\nauth = \"required\"")
        .start()
        .await;
    let mut homes = std::collections::BTreeSet::new();
    for n in 1..=20_u8 {
        all.iter().for_each(TestOrigin::forget);
        let client =
            reqwest::Client::builder().no_proxy().local_address(std::net::IpAddr::from([127, 0, 0, n]));
        let client = client.build().unwrap();
        for _ in 0..3 {
            send(client.get(gateway.url("/client"))).await.ok();
            gateway.get_as(&format!("tenant{n}"), "/tenant").await.ok();
        }
        for path in ["/client", "/tenant"] {
            let home = all.iter().position(|origin| origin.count(path) == 3);
            homes.insert((path, home.unwrap_or_else(|| panic!("{path} {n}: {:?}", counts(&all, path)))));
        }
    }
    assert_eq!(homes.len(), 6, "every server has some of each: {homes:?}");
}

#[tokio::test]
async fn a_server_that_wants_to_rest_is_left_alone_where_there_are_others() {
    let all = origins(2).await;
    for origin in &all {
        origin.on("/app/x", |seen| match seen.query.as_deref() {
            Some("full") => Answer::echo(seen).status(503).header("retry-after", "30"),
            Some("mine") => Answer::echo(seen).status(429).header("retry-after", "30"),
            _ => Answer::echo(seen),
        });
    }
    let gateway = before(&all).route("/app/*", "").start().await;
    assert_eq!(gateway.get("/app/x?mine").await.status, 429);
    assert_eq!(gateway.get("/app/x?full").await.status, 503);
    let resting = usize::from(all[1].seen("/app/x").iter().any(|seen| seen.query.as_deref() == Some("full")));
    all.iter().for_each(TestOrigin::forget);
    for _ in 0..6 {
        gateway.get("/app/x").await.ok();
    }
    assert_eq!((all[resting].count("/app/x"), all[1 - resting].count("/app/x")), (0, 6));
    let ejected =
        gateway.metrics().await.value("tidegate_origin_ejections_total", &[("reason", "retry_after")]);
    assert_eq!(ejected, 1.0);
    // Where both want to, both are asked.
    assert_eq!(gateway.get("/app/x?full").await.status, 503);
    all.iter().for_each(TestOrigin::forget);
    for _ in 0..6 {
        gateway.get("/app/x").await.ok();
    }
    assert_eq!(counts(&all, "/app/x"), [3, 3]);
}

#[tokio::test]
async fn what_broke_before_an_answer_is_asked_elsewhere_if_it_may_be() {
    let (good, bad) = (TestOrigin::start().await, RawOrigin::start_closing("", "").await);
    bad.release();
    let gateway = Gateway::with(&good).server(&bad.url()).route("/app/*", "").start().await;
    for _ in 0..4 {
        gateway.get("/app/x").await.ok();
    }
    assert!(bad.requests() > 0);
    // What may have had an effect is not repeated.
    let (good, bad) = (TestOrigin::start().await, RawOrigin::start_closing("", "").await);
    bad.release();
    let gateway = Gateway::with(&good).server(&bad.url()).route("/app/*", "").start().await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(send(gateway.request("POST", "/app/x").body("x")).await.status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
    assert_eq!((good.count("/app/x"), bad.requests()), (1, 1));
}

#[tokio::test]
async fn an_answer_that_has_begun_is_never_begun_anew() {
    let (good, bad) = (
        TestOrigin::start().await,
        RawOrigin::start_closing("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "").await,
    );
    bad.release();
    good.on("/app/x", |_| Answer::new("text/plain", "0123456789"));
    let gateway = Gateway::with(&good).server(&bad.url()).route("/app/*", "").start().await;
    let mut ends = Vec::new();
    for _ in 0..2 {
        // What broke off may have done so before its head had left the gateway.
        let reply = client::try_send(gateway.request("GET", "/app/x")).await;
        ends.push(reply.ok().map(|reply| (reply.status.as_u16(), reply.text().to_owned())));
    }
    ends.sort();
    assert_eq!(ends, [None, Some((200, "0123456789".to_owned()))]);
}

#[tokio::test]
async fn what_is_known_of_servers_outlives_a_reload() {
    let mut all = origins(2).await;
    all[0].kill();
    let first = before(&all).origin("connect_timeout = \"1s\"").route("/app/*", "");
    let gateway = first.start().await;
    let ejections =
        async || gateway.metrics().await.value("tidegate_origin_ejections_total", &[("reason", "failures")]);
    until("the dead one is left alone", SOON, || async {
        gateway.get("/app/x").await.ok();
        ejections().await >= 1.0
    })
    .await;
    assert_eq!(ejections().await, 1.0);
    for retries in 3..6 {
        assert!(gateway.reload(&first.clone().origin(&format!("retries = {retries}"))).await);
        for _ in 0..6 {
            gateway.get("/app/x").await.ok();
        }
    }
    assert_eq!(ejections().await, 1.0, "it was never taken back for new");
    all[0].restart().await;
    until("it is asked again", Duration::from_secs(20), || async {
        gateway.get("/app/x").await.ok();
        all[0].count("/app/x") > 0
    })
    .await;
}

/// One of two servers hangs. Once it is out, its trials cost no client its answer, and none the whole `read_timeout`.
#[tokio::test]
async fn the_trial_of_a_server_that_hangs_costs_no_client_its_answer() {
    let all = origins(2).await;
    for origin in &all {
        for path in ["/app/x", "/kept"] {
            origin.on(path, |seen| Answer::echo(seen).gated());
        }
    }
    let gateway = before(&all)
        .origin("retries = 0\nread_timeout = \"4s\"")
        .route("/app/*", "")
        .route("/kept", "cache = { namespace = \"n\", ttl = \"60s\", query = [\"n\"] }")
        .start()
        .await;
    all[0].hold();
    all[1].release();
    until("the server that hangs is out", Duration::from_secs(60), || async {
        gateway.get("/app/x").await;
        gateway.metrics().await.value("tidegate_origin_server_up", &[("server", "0")]) == 0.0
    })
    .await;
    let mut asked = 0;
    for path in ["/app/x", "/kept"] {
        for _ in 0..2 {
            let before = all[0].count(path);
            until("it is tried", Duration::from_secs(30), || {
                asked += 1;
                let (gateway, all, target) = (&gateway, &all, format!("{path}?n={asked}"));
                async move {
                    gateway.get(&target).await.ok();
                    all[0].count(path) > before
                }
            })
            .await;
        }
    }
    all[0].release();
    until("it is back", Duration::from_secs(30), || async {
        gateway.get("/app/x").await.ok();
        gateway.metrics().await.value("tidegate_origin_server_up", &[]) == 2.0
    })
    .await;
}

/// A server whose queue of connections is full: the kernel drops what else comes, without a word.
struct FullServer {
    address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl FullServer {
    fn start() -> Self {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let client = socket();
            client.set_nonblocking(true).unwrap();
            // Those that find room are connected a moment later.
            drop(client.connect(&address.into()));
            sockets.push(client);
        }
        Self { address, _sockets: sockets }
    }
}

/// The same where it is the connection that does not come in time.
#[tokio::test]
async fn the_trial_of_a_server_that_takes_no_connection_costs_no_retry() {
    let (full, origin) = (FullServer::start(), TestOrigin::start().await);
    origin.on("/app/x", Answer::echo);
    let gateway = gateway::GatewayBuilder::new(&format!("http://{}", full.address))
        .server(&origin.url())
        .origin("retries = 0\nconnect_timeout = \"200ms\"")
        .route("/app/*", "")
        .start()
        .await;
    until("the server that takes no connection is out", Duration::from_secs(60), || async {
        gateway.get("/app/x").await;
        gateway.metrics().await.value("tidegate_origin_server_up", &[("server", "0")]) == 0.0
    })
    .await;
    let timeouts = || async {
        gateway.metrics().await.value("tidegate_origin_requests_total", &[("outcome", "timeout")])
    };
    let before = timeouts().await;
    until("it is tried twice", Duration::from_secs(30), || async {
        gateway.get("/app/x").await.ok();
        timeouts().await >= before + 2.0
    })
    .await;
}
