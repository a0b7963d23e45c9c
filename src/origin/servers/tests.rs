//! Tests of the choice of servers, of the queue, and of the state that a reload keeps.

use super::*;
use crate::{
    config::{BalanceMethod, HashBy, OriginConfig, ServerEntry, StickyConfig},
    origin::{
        health::{CheckFailure, CheckFailureKind},
        servers::choice::{LoadBalancing, ServerChoice},
    },
};

use http::{HeaderMap, StatusCode};
use std::{num::NonZeroU32, time::Duration};

fn settings(ports: &[u16]) -> OriginConfig {
    let servers = ports.iter().map(|port| ServerEntry::at(false, "127.0.0.1", *port)).collect();
    OriginConfig::with_defaults("app".parse().unwrap(), servers)
}

async fn pool(settings: OriginConfig) -> Arc<ServerGroup> {
    after(settings, None).await
}

async fn after(settings: OriginConfig, before: Option<&ServerGroup>) -> Arc<ServerGroup> {
    let metrics = before.map_or_else(|| Arc::new(Metrics::new().unwrap()), |before| before.metrics.clone());
    let pool = Arc::new(ServerGroup::new(settings, metrics, before));
    pool.resolve().await;
    pool
}

/// A server at the first of its addresses, for a request that begins now.
fn at(pool: &ServerGroup, server: usize) -> ServerAttempt {
    let address = pool.servers[server].state.addresses()[0].address;
    ServerAttempt::new(server, address, Instant::now())
}

fn refused() -> CheckFailure {
    CheckFailure { why: "refused".to_owned(), kind: CheckFailureKind::Unreachable }
}

async fn pick(pool: &Arc<ServerGroup>) -> Result<usize, NoUpstream> {
    pool.pick(&ServerChoice::default()).await.map(|picked| picked.server)
}

#[tokio::test]
async fn servers_are_asked_in_turn_by_weight() {
    let mut settings = OriginConfig { panic_mode: false, ..settings(&[1, 2]) };
    settings.servers[0].weight = 2;
    let pool = Arc::new(ServerGroup::new(settings, Arc::new(Metrics::new().unwrap()), None));
    assert_eq!(pick(&pool).await, Err(NoUpstream::Unresolved), "no name is resolved yet");
    pool.resolve().await;
    let mut picked = Vec::new();
    for _ in 0..6 {
        picked.push(pick(&pool).await.unwrap());
    }
    assert_eq!(picked, [0, 1, 0, 0, 1, 0]);
    pool.checked(0, Err(refused()));
    assert_eq!((pick(&pool).await, pick(&pool).await), (Ok(1), Ok(1)));
    pool.checked(1, Err(refused()));
    assert_eq!(pick(&pool).await, Err(NoUpstream::Unhealthy));
}

#[tokio::test]
async fn a_server_that_failed_a_request_or_rests_is_asked_last() {
    let pool = pool(settings(&[1, 2])).await;
    let mut choice = ServerChoice::default();
    choice.avoid_server(0, None);
    for _ in 0..4 {
        assert_eq!(pool.pick(&choice).await.unwrap().server, 1);
    }
    choice.avoid_server(1, None);
    assert!(pool.pick(&choice).await.is_ok(), "there is nobody else");
    let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, "30".parse().unwrap())]);
    pool.heed(at(&pool, 1), StatusCode::SERVICE_UNAVAILABLE, &headers);
    for _ in 0..4 {
        assert_eq!(pick(&pool).await, Ok(0));
    }
    pool.checked(0, Err(refused()));
    assert_eq!(pick(&pool).await, Ok(1), "there is nobody else");
}

/// A request whose client can be answered without it.
fn spare() -> ServerChoice {
    ServerChoice { spare: true, ..ServerChoice::default() }
}

#[tokio::test]
async fn failures_leave_a_server_alone() {
    let pool = pool(OriginConfig { panic_mode: false, ..settings(&[1, 2]) }).await;
    for server in [0, 0, 0, 1, 1, 1] {
        pool.report(at(&pool, server), OriginOutcome::ConnectFailed);
    }
    assert_eq!(pick(&pool).await, Err(NoUpstream::BreakerOpen(OriginOutcome::ConnectFailed)));
}

fn up(pool: &ServerGroup) -> bool {
    pool.metrics.render().contains("tidegate_origin_server_up{origin=\"app\",server=\"0\"} 1")
}

#[tokio::test]
async fn one_request_that_is_tried_again_leaves_a_lone_server_alone_no_sooner() {
    let pool = pool(settings(&[1])).await;
    assert!(up(&pool), "without checks as well");
    for n in 1..=3 {
        let request = at(&pool, 0);
        (0..5).for_each(|_| pool.report(request, OriginOutcome::ConnectFailed));
        assert_eq!(pool.pick(&spare()).await.is_ok(), n < 3, "{n}");
        assert_eq!(up(&pool), n < 3, "{n}");
    }
    pool.report(at(&pool, 0), OriginOutcome::Ok);
    assert!(up(&pool) && pick(&pool).await.is_ok());
}

#[tokio::test]
async fn a_dead_address_is_passed_over_and_the_server_is_not() {
    let pool = pool(settings(&[1])).await;
    let both: Vec<SocketAddr> = ["127.0.0.1:1", "[::1]:1"].map(|address| address.parse().unwrap()).into();
    pool.servers[0].state.has_addresses(both.iter().copied().map(Some));
    let picked = async || pool.pick(&ServerChoice::default()).await.unwrap().address.unwrap();
    assert_ne!(picked().await, picked().await, "in turn");
    let mut choice = ServerChoice::default();
    choice.avoid_server(0, Some(both[1]));
    for _ in 0..4 {
        assert_eq!(pool.pick(&choice).await.unwrap().address, Some(both[0]), "it failed the request");
    }
    assert_eq!(pool.addresses(0, Some(both[1]), Instant::now()), [both[1], both[0]]);
    for _ in 0..3 {
        pool.missed(0, both[1], Instant::now());
    }
    let keyed = ServerChoice { key: Some(7), ..ServerChoice::default() };
    for _ in 0..4 {
        assert_eq!(picked().await, both[0]);
        assert_eq!(pool.pick(&keyed).await.unwrap().address, Some(both[0]));
    }
    assert_eq!(pool.addresses(0, Some(both[0]), Instant::now()), [both[0]]);
    assert!(up(&pool));
    // Its state survives another resolution.
    pool.servers[0].state.has_addresses(both.iter().rev().copied().map(Some));
    assert_eq!((picked().await, picked().await), (both[0], both[0]));
    for _ in 0..3 {
        pool.report(ServerAttempt::new(0, Some(both[0]), Instant::now()), OriginOutcome::Timeout);
    }
    assert!(!up(&pool));
    assert!(matches!(pool.pick(&spare()).await, Err(NoUpstream::BreakerOpen(_))));
    assert!(pick(&pool).await.is_ok(), "there is no other");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_told_from_a_server_that_fails() {
    let mut both = OriginConfig { panic_mode: false, ..settings(&[1]) };
    both.servers.push(ServerEntry::at(false, "nobody.invalid", 1));
    let pool = pool(both).await;
    assert!(pool.has_unresolved());
    assert_eq!(pick(&pool).await, Ok(0));
    for _ in 0..3 {
        pool.report(at(&pool, 0), OriginOutcome::ConnectFailed);
    }
    assert!(matches!(pick(&pool).await, Err(NoUpstream::BreakerOpen(_))));
    let lone = OriginConfig { servers: vec![ServerEntry::at(false, "nobody.invalid", 1)], ..settings(&[]) };
    let pool = after(lone, None).await;
    assert_eq!(pick(&pool).await, Err(NoUpstream::Unresolved));
    assert!(!up(&pool));
}

#[tokio::test]
async fn the_least_busy_is_asked() {
    let pool = pool(OriginConfig { balance: BalanceMethod::LeastConnections, ..settings(&[1, 2, 3]) }).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(pool.pick(&ServerChoice::default()).await.unwrap());
    }
    let of = |held: &[PickedServer], server| held.iter().filter(|picked| picked.server == server).count();
    assert_eq!([of(&held, 0), of(&held, 1), of(&held, 2)], [2, 2, 2]);
    held.retain(|picked| picked.server != 1);
    for _ in 0..2 {
        held.push(pool.pick(&ServerChoice::default()).await.unwrap());
    }
    assert_eq!(of(&held, 1), 2);
}

#[tokio::test]
async fn a_key_stays_with_its_server() {
    let pool =
        pool(OriginConfig { balance: BalanceMethod::Hash(HashBy::Client), ..settings(&[1, 2, 3, 4]) }).await;
    let of = async |client: &str| {
        let client = Some(client.parse().unwrap());
        let choice = pool.choice(&LoadBalancing { client, ..LoadBalancing::default() });
        pool.pick(&choice).await.unwrap().server
    };
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..40 {
        let client = format!("10.0.0.{n}");
        let first = of(&client).await;
        seen.insert(first);
        assert_eq!((of(&client).await, of(&format!("::ffff:{client}")).await), (first, first));
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(of("2001:db8::1").await, of("2001:db8::ffff:2").await, "a network is one client");
}

fn limited(ports: &[u16], most: u32, queue: usize, time: Duration) -> OriginConfig {
    OriginConfig { max_connections: NonZeroU32::new(most), queue, queue_timeout: time, ..settings(ports) }
}

/// Waits until this many requests are queued.
async fn waiting(pool: &Arc<ServerGroup>, n: i64) {
    while pool.state.metrics.queued.get() != n {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_finds_no_place_waits_his_turn() {
    let pool = pool(limited(&[1, 2], 1, 3, Duration::from_secs(60))).await;
    let held = (
        pool.pick(&ServerChoice::default()).await.unwrap(),
        pool.pick(&ServerChoice::default()).await.unwrap(),
    );
    assert_ne!(held.0.server, held.1.server);
    let (told, mut order) = tokio::sync::mpsc::channel(8);
    let mut waiters = Vec::new();
    for n in 0..3 {
        let (pool, told) = (pool.clone(), told.clone());
        let queue = pool.clone();
        waiters.push(tokio::spawn(async move {
            let picked = pool.pick(&ServerChoice::default()).await.unwrap();
            told.send((n, picked)).await.unwrap();
        }));
        waiting(&queue, n + 1).await;
    }
    assert_eq!(pick(&pool).await, Err(NoUpstream::QueueFull));
    let freed = held.0.server;
    drop(held.0);
    let (first, picked) = order.recv().await.unwrap();
    assert_eq!((first, picked.server), (0, freed));
    drop(picked);
    let (second, picked) = order.recv().await.unwrap();
    assert_eq!(second, 1);
    // A request that has left the queue doesn't get the next place.
    waiters.pop().unwrap().abort();
    waiting(&pool, 0).await;
    drop(picked);
    assert_eq!(pick(&pool).await, Ok(freed));
    drop(held.1);
    assert_eq!(pool.state.metrics.under_way.get(), 0);
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let pool = pool(limited(&[1], 1, 10, Duration::from_millis(20))).await;
    let held = pool.pick(&ServerChoice::default()).await.unwrap();
    assert_eq!(pick(&pool).await, Err(NoUpstream::QueueTimeout));
    assert_eq!(pool.state.metrics.queued.get(), 0);
    drop(held);
    assert_eq!(pick(&pool).await, Ok(0));
}

#[tokio::test]
async fn without_a_queue_nobody_waits() {
    let pool = pool(limited(&[1], 1, 0, Duration::from_secs(60))).await;
    let held = pool.pick(&ServerChoice::default()).await.unwrap();
    assert_eq!(pick(&pool).await, Err(NoUpstream::QueueFull));
    drop(held);
    assert_eq!(pick(&pool).await, Ok(0));
}

#[tokio::test]
async fn who_waits_for_a_server_that_fails_is_told() {
    let limited = limited(&[1], 1, 10, Duration::from_secs(60));
    let pool = pool(OriginConfig { panic_mode: false, ..limited }).await;
    let held = pool.pick(&ServerChoice::default()).await.unwrap();
    let asking = tokio::spawn({
        let pool = pool.clone();
        async move { pick(&pool).await }
    });
    waiting(&pool, 1).await;
    pool.checked(0, Err(refused()));
    assert_eq!(asking.await.unwrap(), Err(NoUpstream::Unhealthy));
    drop(held);
}

fn sticky(ports: &[u16]) -> OriginConfig {
    let sticky = StickyConfig { query: Some("sid".into()), cookie: Some("app".into()), secret: None };
    OriginConfig { sticky: Some(sticky), ..settings(ports) }
}

#[tokio::test]
async fn a_session_stays_by_its_cookie_or_its_name() {
    let pool = pool(sticky(&[1, 2, 3])).await;
    let picked = pool.pick(&ServerChoice::default()).await.unwrap();
    let cookie = pool.cookie(picked.endpoint, None, &HeaderMap::new(), false).unwrap();
    let token = cookie.to_str().unwrap().split(['=', ';']).nth(1).unwrap().to_owned();
    assert!(pool.cookie(picked.endpoint, Some(&token), &HeaderMap::new(), false).is_none());
    pool.state.remember("abc", picked.endpoint.unwrap(), Instant::now());
    let by_cookie = LoadBalancing { cookie: Some(&token), ..LoadBalancing::default() };
    let by_name = LoadBalancing { query: Some("EIO=4&sid=abc"), ..LoadBalancing::default() };
    for who in [by_cookie, by_name] {
        let choice = pool.choice(&who);
        for _ in 0..5 {
            assert_eq!(pool.pick(&choice).await.unwrap().server, picked.server);
        }
    }
    // Neither the cookie of another origin nor an unknown session.
    for who in [
        LoadBalancing { cookie: Some("AAAAAAAAAAAAAAAA"), ..LoadBalancing::default() },
        LoadBalancing { query: Some("sid=x"), ..LoadBalancing::default() },
    ] {
        let choice = pool.choice(&who);
        let mut all = std::collections::BTreeSet::new();
        for _ in 0..3 {
            all.insert(pool.pick(&choice).await.unwrap().server);
        }
        assert_eq!(all.len(), 3);
    }
    // If the server is gone, others are asked.
    pool.checked(picked.server, Err(refused()));
    assert_ne!(pool.pick(&pool.choice(&by_cookie)).await.unwrap().server, picked.server);
}

#[tokio::test]
async fn a_session_waits_for_its_own_server_and_holds_up_nobody() {
    let limits = limited(&[1, 2], 1, 10, Duration::from_secs(60));
    let pool = pool(OriginConfig { sticky: sticky(&[]).sticky, ..limits }).await;
    let held = pool.pick(&ServerChoice::default()).await.unwrap();
    pool.state.remember("abc", held.endpoint.unwrap(), Instant::now());
    let asking = tokio::spawn({
        let pool = pool.clone();
        async move {
            let choice = pool.choice(&LoadBalancing { query: Some("sid=abc"), ..LoadBalancing::default() });
            pool.pick(&choice).await.unwrap().server
        }
    });
    waiting(&pool, 1).await;
    let other = pick(&pool).await.unwrap();
    assert_ne!(other, held.server);
    assert_eq!(pool.state.metrics.queued.get(), 1, "its server has no place yet");
    let own = held.server;
    drop(held);
    assert_eq!(asking.await.unwrap(), own);
}

#[tokio::test]
async fn what_is_known_goes_on_after_a_reload() {
    let first =
        pool(OriginConfig { health: Some(check()), ..limited(&[1, 2], 1, 10, Duration::from_secs(60)) })
            .await;
    first.checked(1, Err(refused()));
    for _ in 0..3 {
        first.report(at(&first, 0), OriginOutcome::Timeout);
    }
    while first.may_retry() {}
    first.state.remember("abc", 7, Instant::now());
    let next = OriginConfig { health: Some(check()), retries: 5, ..settings(&[3, 2, 1]) };
    let second = after(next, Some(&first)).await;
    assert!(!first.is_newest() && second.is_newest());
    // Of the three only the new one is available.
    for _ in 0..3 {
        assert_eq!(pick(&second).await, Ok(0));
    }
    assert!(!second.may_retry(), "the budget is as it was, but for what was earned");
    assert_eq!(second.state.recall("abc", Instant::now()), Some(7));
    // Without checks nothing would notice that it is healthy again.
    let third = after(settings(&[2]), Some(&second)).await;
    assert_eq!(pick(&third).await, Ok(0));
}

#[tokio::test]
async fn a_reload_that_makes_room_lets_in_who_comes_and_who_waits() {
    let first = pool(limited(&[1], 1, 10, Duration::from_secs(60))).await;
    let held = first.pick(&ServerChoice::default()).await.unwrap();
    let asking = tokio::spawn({
        let first = first.clone();
        async move { pick(&first).await }
    });
    waiting(&first, 1).await;
    let second = after(settings(&[1]), Some(&first)).await;
    assert_eq!(pick(&second).await, Ok(0));
    drop(held);
    assert_eq!(asking.await.unwrap(), Ok(0));
}

fn check() -> crate::config::HealthConfig {
    crate::config::HealthConfig {
        path: "/".into(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        host: None,
        headers: Vec::new(),
    }
}

/// A server that answers each request, and closes the connection.
async fn answering() -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.read(&mut [0; 4096]).await);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_dead_address_of_a_name_costs_no_request() {
    use crate::origin::client::{self, pingora};
    let there = answering().await;
    // As with `localhost`: an address of the other family, on which the server does not listen.
    let dead = SocketAddr::new("::1".parse().unwrap(), there.port());
    let ask = client::OriginRequest::get("/");
    let connector = pingora::make_connector();
    for pingoras in [false, true] {
        let pool = pool(OriginConfig { retries: 0, ..settings(&[there.port()]) }).await;
        pool.servers[0].state.has_addresses([dead, there].map(Some));
        for n in 0..30 {
            let answered = match pingoras {
                false => client::begin_request(&connector, &pool, &ask, None, &|_| ())
                    .await
                    .map(|begun| begun.status),
                true => {
                    let PickedServer { server, address, .. } =
                        pool.pick(&ServerChoice::default()).await.unwrap();
                    let at = ServerAttempt::new(server, address, Instant::now());
                    let begun = pingora::PingoraExchange::begin(&connector, &pool, &ask, at, &|_| ()).await;
                    begun.map(|(status, _, exchange)| {
                        assert_eq!(exchange.address, Some(there), "{n}");
                        status
                    })
                }
            };
            assert_eq!(answered.unwrap(), 200, "{n}, by Pingora's connector: {pingoras}");
        }
        // It is known to fail by now, and not asked any more.
        assert_eq!(pool.addresses(0, Some(there), Instant::now()), [there], "{pingoras}");
        assert!(up(&pool));
    }
}
