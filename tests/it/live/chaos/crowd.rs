//! The nodes, the origin, and those who watch.

use super::*;
use std::sync::{atomic::AtomicBool, Mutex};

/// The states that a watcher was told of one entry, in order.
type Told = Arc<Mutex<Vec<u64>>>;

/// A stream that is read in the background.
struct Watcher {
    node: usize,
    tenant: usize,
    path: String,
    told: Vec<(usize, Told)>,
    has_ended: Arc<AtomicBool>,
}

impl Watcher {
    async fn open(node: usize, gateway: &Gateway, tenant: usize, entries: &[usize]) -> Self {
        let names: Vec<_> = entries.iter().map(|entry| ENTRIES[*entry]).collect();
        let path = match names[..] {
            [name] => format!("/{name}"),
            _ => format!("/live?watch={}", names.join(",")),
        };
        let bearer = format!("Bearer {}", token(TENANTS[tenant], "ann"));
        let mut stream = EventStream::open(gateway.address(), &path, &[("Authorization", &bearer)]).await;
        let told: Vec<(usize, Told)> = entries.iter().map(|entry| (*entry, Told::default())).collect();
        let has_ended = Arc::new(AtomicBool::new(false));
        let (noted, ended) = (told.clone(), has_ended.clone());
        tokio::spawn(async move {
            while let Ok(event) = stream.try_next().await {
                let of_entry = noted.iter().find(|(entry, _)| ENTRIES[*entry] == event.name);
                if let Some((_, told)) = of_entry {
                    told.lock().unwrap().push(event.json()["state"].as_u64().unwrap());
                }
            }
            ended.store(true, Ordering::SeqCst);
        });
        Self { node, tenant, path, told, has_ended }
    }
}

/// All of them.
pub(super) struct Crowd {
    pub(super) nodes: Vec<Gateway>,
    /// By tenant and entry.
    truths: Arc<[[AtomicU64; ENTRIES.len()]; TENANTS.len()]>,
    watchers: Vec<Watcher>,
    _origin: TestOrigin,
}

impl Crowd {
    /// Starts three nodes, and on each a stream of every entry of every tenant, and one of all entries.
    pub(super) async fn start(redis: &Redis) -> Self {
        let (origin, truths) = (TestOrigin::start().await, Arc::<[[AtomicU64; 2]; 2]>::default());
        for (entry, name) in ENTRIES.iter().enumerate() {
            let shown = truths.clone();
            origin.on(&format!("/{name}"), move |seen| {
                let tenant =
                    TENANTS.iter().position(|tenant| seen.header("x-tenant") == Some(tenant)).unwrap();
                Answer::json(&json!({ "state": shown[tenant][entry].load(Ordering::SeqCst) }))
            });
        }
        let (mut nodes, mut watchers) = (Vec::new(), Vec::new());
        for node in 0..NODES {
            let gateway = configured(&origin, redis).start().await;
            until("the node is linked", SOON, || gateway.is_linked()).await;
            for tenant in 0..TENANTS.len() {
                for entries in [&[0][..], &[1], &[0, 1]] {
                    watchers.push(Watcher::open(node, &gateway, tenant, entries).await);
                }
            }
            nodes.push(gateway);
        }
        Self { nodes, truths, watchers, _origin: origin }
    }

    /// Changes what is true.
    pub(super) fn change(&self, tenant: usize, entry: usize) {
        self.truths[tenant][entry].fetch_add(1, Ordering::SeqCst);
    }

    fn truth(&self, tenant: usize, entry: usize) -> u64 {
        self.truths[tenant][entry].load(Ordering::SeqCst)
    }

    /// Those who were told something else last than what is true.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for Watcher { node, tenant, path, told, has_ended } in &self.watchers {
            let place = format!("{path} of {} on node {node}", TENANTS[*tenant]);
            if has_ended.load(Ordering::SeqCst) {
                wrong.push(format!("{place} has ended"));
            }
            for (entry, told) in told {
                let (told, truth) = (told.lock().unwrap(), self.truth(*tenant, *entry));
                if told.last() != Some(&truth) {
                    let from = told.len().saturating_sub(8);
                    wrong.push(format!("{place}: {} is {truth}, told {:?}", ENTRIES[*entry], &told[from..]));
                }
            }
        }
        wrong
    }

    /// Waits until all have the newest states.
    pub(super) async fn settle(&self, title: &str) {
        let end = Instant::now() + 2 * SOON;
        while !self.wrong().is_empty() {
            assert!(Instant::now() < end, "{title}: not the newest states\n{}", self.wrong().join("\n"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Keeps of what they were told only the last.
    pub(super) fn forget(&self) {
        for (_, told) in self.watchers.iter().flat_map(|watcher| &watcher.told) {
            let mut told = told.lock().unwrap();
            let last = told.pop();
            *told = last.into_iter().collect();
        }
    }

    /// Holds that states have only become newer.
    pub(super) fn assert_nothing_older(&self, title: &str) {
        for Watcher { node, path, told, .. } in &self.watchers {
            for (_, told) in told {
                let told = told.lock().unwrap();
                assert!(told.is_sorted(), "{title}: {path} on node {node} was told {told:?}");
            }
        }
    }
}

fn configured(origin: &TestOrigin, redis: &Redis) -> crate::support::GatewayBuilder {
    let mut builder = Gateway::with(origin).redis(&redis.url()).store("outage_ttl = \"1s\"");
    for name in ENTRIES {
        let cache = format!("cache = {{ namespace = \"{name}\", scope = \"tenant\", ttl = \"10m\" }}");
        let live = format!("live = {{ event = \"{name}\", ping = \"1s\" }}");
        builder = builder
            .route(&format!("/{name}"), &format!("{cache}\n{live}"))
            .event(&format!("{name}_changed"), &[name]);
    }
    builder.raw("[[live]]\npath = \"/live\"\nwatch = { kpi = \"/kpi\", chart = \"/chart\" }")
}
