//! Tests of the choice among servers if all are out.

use super::*;
use crate::{
    config::{OriginConfig, ServerEntry},
    origin::{
        health::{CheckFailure, CheckFailureKind},
        servers::ServerAttempt,
    },
    telemetry::{labels::OriginOutcome, metrics::Metrics},
};

use std::{num::NonZeroU32, sync::Arc, time::Duration};

async fn pool(ports: &[u16], change: impl FnOnce(&mut OriginConfig)) -> Arc<ServerGroup> {
    let servers = ports.iter().map(|port| ServerEntry::at(false, "127.0.0.1", *port)).collect();
    let mut settings = OriginConfig::with_defaults("app".parse().unwrap(), servers);
    change(&mut settings);
    let pool = Arc::new(ServerGroup::new(settings, Arc::new(Metrics::new().unwrap()), None));
    pool.resolve().await;
    pool
}

fn fail(pool: &ServerGroup, server: usize) {
    for _ in 0..3 {
        let address = pool.servers[server].state.addresses()[0].address;
        pool.report(ServerAttempt::new(server, address, Instant::now()), OriginOutcome::Timeout);
    }
}

fn check_fails(pool: &ServerGroup, server: usize, kind: CheckFailureKind) {
    pool.checked(server, Ok(()));
    pool.checked(server, Err(CheckFailure { why: "why".to_owned(), kind }));
}

async fn pick(pool: &Arc<ServerGroup>) -> Result<PickedServer, NoUpstream> {
    pool.pick(&ServerChoice::default()).await
}

const LEFT_ALONE: NoUpstream = NoUpstream::BreakerOpen(OriginOutcome::Timeout);

#[tokio::test]
async fn one_server_alone_is_asked_a_few_times_at_once_while_it_fails() {
    for panic_mode in [true, false] {
        let pool = pool(&[1], |origin| origin.panic_mode = panic_mode).await;
        assert!(!pool.is_failing());
        fail(&pool, 0);
        assert!(pool.is_failing());
        let held: Vec<_> = (0..MOST_TRIALS).map(|_| pick(&pool)).collect();
        let mut held: Vec<_> =
            futures_util::future::join_all(held).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(pick(&pool).await.unwrap_err(), LEFT_ALONE, "that is enough");
        held.pop();
        held.push(pick(&pool).await.unwrap());
        // A request with a stale entry waits for the trial.
        held.clear();
        let spare = ServerChoice { spare: true, ..ServerChoice::default() };
        assert_eq!(pool.pick(&spare).await.unwrap_err(), LEFT_ALONE);
        tokio::time::sleep(Duration::from_millis(600)).await;
        drop(pool.pick(&spare).await.unwrap());
        assert_eq!(pool.pick(&spare).await.unwrap_err(), LEFT_ALONE, "one each time");
        // No request is sent twice to a server that is out.
        let mut again = ServerChoice::default();
        again.avoid_server(0, None);
        assert_eq!(pool.pick(&again).await.unwrap_err(), LEFT_ALONE);
        let address = pool.servers[0].state.addresses()[0].address;
        pool.report(ServerAttempt::new(0, address, Instant::now()), OriginOutcome::Ok);
        assert!(!pool.is_failing());
        assert!(!pool.metrics.render().contains("ejections_total{origin=\"app\",reason=\"failures\"} 1"));
    }
}

#[tokio::test]
async fn the_least_bad_is_asked_where_all_are_out() {
    let pool = pool(&[1, 2, 3], |_| ()).await;
    check_fails(&pool, 0, CheckFailureKind::Unreachable);
    fail(&pool, 1);
    assert!(!pool.is_failing());
    assert_eq!(pick(&pool).await.unwrap().server, 2, "it is not out");
    check_fails(&pool, 2, CheckFailureKind::Unwell);
    assert!(pool.is_failing());
    // Its checks succeed; then the one that answers them; last the one that can't be connected to.
    let mut held = Vec::new();
    for server in [1, 2, 0] {
        for _ in 0..MOST_TRIALS {
            let picked = pick(&pool).await.unwrap();
            assert_eq!(picked.server, server);
            held.push(picked);
        }
    }
    assert!(pick(&pool).await.is_err());
    held.clear();
    let mut choice = ServerChoice::default();
    choice.avoid_server(1, None);
    assert_eq!(pool.pick(&choice).await.unwrap().server, 2, "the other one has failed it");
}

#[tokio::test]
async fn without_panic_mode_nobody_is_asked_where_all_are_out() {
    let two = pool(&[1, 2], |origin| origin.panic_mode = false).await;
    fail(&two, 0);
    fail(&two, 1);
    assert_eq!(pick(&two).await.unwrap_err(), LEFT_ALONE);
    let one = pool(&[1], |origin| origin.panic_mode = false).await;
    check_fails(&one, 0, CheckFailureKind::Unwell);
    assert_eq!(pick(&one).await.unwrap_err(), NoUpstream::Unhealthy);
}

#[tokio::test]
async fn a_place_at_a_server_that_is_out_is_waited_for() {
    let limits = |origin: &mut OriginConfig| {
        (origin.max_connections, origin.queue_timeout) = (NonZeroU32::new(1), Duration::from_millis(50));
    };
    let pool = pool(&[1], limits).await;
    fail(&pool, 0);
    let held = pick(&pool).await.unwrap();
    assert_eq!(pick(&pool).await.unwrap_err(), NoUpstream::QueueTimeout);
    let waits = tokio::spawn({
        let pool = pool.clone();
        async move { pick(&pool).await.is_ok() }
    });
    drop(held);
    assert!(waits.await.unwrap());
}
