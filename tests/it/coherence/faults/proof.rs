//! Proofs of stale answers: an application bumps, askers of every node never stop, and an answer is stale if it lacks a
//! change whose bump was acknowledged before the request began.

use super::*;
use std::{collections::BTreeMap, future::Future};

/// The observations of one tenant.
#[derive(Default)]
struct Seen {
    /// When the bump of each number was acknowledged.
    acknowledged: BTreeMap<u64, Instant>,
    /// The ages of stale answers: from the acknowledgement of what they lack to their request.
    stale: Vec<Duration>,
    hits: usize,
    misses: usize,
}

/// An application that bumps, askers of every node, and what they prove.
pub(super) struct Proof {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
    failures: Arc<Mutex<Vec<String>>>,
    value: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Proof {
    /// Begins to ask each node for these tenants in turn.
    pub(super) fn begin(data: &Data, nodes: &[Gateway], tenants: &[String]) -> Self {
        let seen = tenants.iter().map(|tenant| (tenant.clone(), Seen::default())).collect();
        let mut proof = Self {
            stop: Arc::default(),
            seen: Arc::new(Mutex::new(seen)),
            failures: Arc::default(),
            value: data.value.clone(),
            tasks: Vec::new(),
        };
        proof.tasks = nodes.iter().map(|node| proof.asker(node, tenants)).collect();
        proof
    }

    fn asker(&self, node: &Gateway, tenants: &[String]) -> tokio::task::JoinHandle<()> {
        let request = |tenant: &String| client().get(node.url(PATH)).bearer_auth(token(tenant, "ann"));
        let requests: Vec<_> = tenants.iter().map(|tenant| (tenant.clone(), request(tenant))).collect();
        let (stop, seen, failures) = (self.stop.clone(), self.seen.clone(), self.failures.clone());
        tokio::spawn(async move {
            for (tenant, request) in requests.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let asked = Instant::now();
                match try_send(request.try_clone().unwrap()).await {
                    Ok(reply) if reply.status == 200 => {
                        let mut seen = seen.lock().unwrap();
                        let seen = seen.get_mut(tenant).unwrap();
                        let missing = seen.acknowledged.range(reply.seq() + 1..).next().map(|(_, at)| *at);
                        seen.stale.extend(missing.filter(|at| *at < asked).map(|at| asked - at));
                        let count = if reply.is_hit() { &mut seen.hits } else { &mut seen.misses };
                        *count += 1;
                    }
                    other => failures.lock().unwrap().push(format!("{tenant}: {other:?}")),
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    }

    /// Begins to change what the origin says, and to bump this tenant. `bump` says whether it was acknowledged; one that
    /// got no answer proves nothing.
    pub(super) fn bump<F: Future<Output = bool> + Send>(
        &mut self,
        tenant: &str,
        bump: impl Fn() -> F + Send + Sync + 'static,
    ) {
        let (stop, seen, value) = (self.stop.clone(), self.seen.clone(), self.value.clone());
        let tenant = tenant.to_owned();
        self.tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let next = value.fetch_add(1, Ordering::SeqCst) + 1;
                let acknowledged = tokio::time::timeout(Duration::from_millis(300), bump()).await;
                if acknowledged == Ok(true) {
                    seen.lock().unwrap().get_mut(&tenant).unwrap().acknowledged.insert(next, Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }

    /// Waits for so many more bumps of a tenant.
    pub(super) async fn bumps(&self, tenant: &str, count: usize) {
        let bumped = || self.seen.lock().unwrap()[tenant].acknowledged.len();
        let end = bumped() + count;
        until("the application bumps", 8 * SOON, || async { bumped() >= end }).await;
    }

    /// Waits for so many more answers to a tenant; how many of them were filled.
    pub(super) async fn misses(&self, tenant: &str, answers: usize) -> usize {
        let count = || {
            let seen = self.seen.lock().unwrap();
            (seen[tenant].hits, seen[tenant].misses)
        };
        let (hits, misses) = count();
        until("the askers go on", 8 * SOON, || async { count().0 + count().1 >= hits + misses + answers })
            .await;
        count().1 - misses
    }

    /// Ends it: nothing failed, and no answer to a tenant was older than `bound` says.
    pub(super) async fn end(self, bound: impl Fn(&str) -> Duration) {
        self.stop.store(true, Ordering::Relaxed);
        join_all(self.tasks).await;
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} failed, as {}", failures.len(), failures[0]);
        for (tenant, seen) in &*self.seen.lock().unwrap() {
            let oldest = seen.stale.iter().max().copied().unwrap_or_default();
            let (stale, bumps) = (seen.stale.len(), seen.acknowledged.len());
            println!(
                "{tenant}: {bumps} bumps, {} hits, {stale} stale answers, the oldest {oldest:?}",
                seen.hits
            );
            assert!(oldest < bound(tenant), "{tenant}: {stale} stale answers, the oldest {oldest:?}");
        }
    }
}
