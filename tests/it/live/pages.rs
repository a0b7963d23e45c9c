//! Pages that watch by `/live.js`, in a real browser: they are right again after whatever happens to their stream.

use super::*;
use crate::support::{
    browser::{Browser, Page},
    client,
    gateway::{sign, token},
    process::Process,
    python,
};
use std::{future::Future, pin::Pin, time::Duration};
use tokio::sync::Semaphore;

/// Shows the entry `kpi`, and keeps all that it was told.
const PAGE: &str = r"<!doctype html><meta charset='utf-8'><title>A page</title><script src='/live.js'></script><script>
self.seen = {}; self.told = []; self.states = [];
if (given) {
    self.live = tidegate.live(given.url ?? '/live?watch=kpi', {
        ...given,
        on: { kpi: (text) => { seen = JSON.parse(text); told.push(seen); } },
        state: (state) => { self.state = state; states.push(state); },
    });
}
</script>";
const POLL: &str = "/kpi";

/// A gateway in front of an origin that counts orders; both serve the page.
struct Dashboard {
    origin: TestOrigin,
    orders: Arc<AtomicU64>,
    builder: GatewayBuilder,
    gateway: Gateway,
}

impl Dashboard {
    /// With these further lines of its route, and of `[jwt]`.
    async fn start(lines: &str, jwt: &str) -> Self {
        let (origin, orders) = (TestOrigin::start().await, Arc::new(AtomicU64::new(0)));
        origin.on("/page", |_| Answer::new("text/html", PAGE));
        let counted = orders.clone();
        origin.on("/kpi", move |seen| {
            let orders = counted.load(Ordering::SeqCst);
            Answer::json(&json!({ "orders": orders, "tenant": seen.header("x-tenant") }))
        });
        let builder = Gateway::with(&origin)
            .jwt(jwt)
            .route("/page", "")
            .route("/kpi", lines)
            .event("order_created", &["kpi"])
            .raw("[[live]]\npath = \"/live\"\nwatch = { kpi = \"/kpi\" }");
        let gateway = builder.start().await;
        Self { origin, orders, builder, gateway }
    }

    async fn usual() -> Self {
        Self::start(&route("60s", "15s"), "").await
    }

    fn page(&self) -> String {
        self.gateway.url("/page")
    }

    /// Takes an order of this tenant, and says so.
    async fn order(&self, tenant: &str) -> u64 {
        let orders = self.orders.fetch_add(1, Ordering::SeqCst) + 1;
        self.gateway.bump(tenant).await;
        orders
    }

    async fn until_watched_by(&self, watchers: u32) {
        until_watched_by(&self.gateway, "kpi", watchers).await;
    }
}

fn route(ttl: &str, ping: &str) -> String {
    format!(
        "cache = {{ namespace = \"kpi\", scope = \"tenant\", ttl = \"{ttl}\" }}\nlive = {{ ping = \"{ping}\" }}"
    )
}

/// Waits until a page shows so many orders.
async fn shows(page: &Page, orders: u64) {
    page.until(&format!("seen.orders === {orders}")).await;
}

fn bearer(token: &str) -> Value {
    json!({ "Authorization": format!("Bearer {token}") })
}

async fn ten_tabs_share_a_stream_and_outlive_the_one_that_has_it(browser: Arc<Browser>) {
    let dashboard = Dashboard::usual().await;
    let mut tabs = Vec::new();
    for n in 0..10 {
        let token =
            sign(&json!({ "sub": "ann", "tenant": "acme", "jti": n, "exp": now_ms() / 1_000 + 3_600 }));
        let given = json!({ "headers": bearer(&token), "share": "acme/ann" });
        let options = json!({ "context": "ten", "given": given });
        tabs.push(browser.open(&format!("ten-{n}"), &dashboard.page(), options).await);
    }
    for tab in &tabs {
        tab.until("seen.orders === 0 && state === 'open'").await;
    }
    dashboard.until_watched_by(1).await;
    let orders = dashboard.order("acme").await;
    for tab in &tabs {
        shows(tab, orders).await;
    }
    tabs.remove(0).close().await;
    let orders = dashboard.order("acme").await;
    for tab in &tabs {
        shows(tab, orders).await;
        assert_eq!(tab.value("told.map((state) => state.orders).join()").await, "0,1,2");
    }
    dashboard.until_watched_by(1).await;
}

async fn pages_are_right_again_after_the_gateway_was_killed(browser: Arc<Browser>) {
    let mut dashboard = Dashboard::usual().await;
    let mut tabs = Vec::new();
    for (n, share) in [true, true, false].into_iter().enumerate() {
        let given = json!({ "share": share });
        let options = json!({ "context": "killed", "given": given });
        tabs.push(browser.open(&format!("killed-{n}"), &dashboard.page(), options).await);
    }
    for tab in &tabs {
        tab.until("seen.orders === 0 && state === 'open'").await;
    }
    dashboard.orders.store(1, Ordering::SeqCst);
    dashboard.gateway.replace(&dashboard.builder).await;
    for tab in &tabs {
        tab.until_within(Duration::from_secs(8), "seen.orders === 1 && state === 'open'").await;
    }
}

async fn a_tab_that_comes_while_the_stream_is_away_is_told_so(browser: Arc<Browser>) {
    let dashboard = Dashboard::usual().await;
    let url = browser.proxy("away", &dashboard.gateway.url("")).await + "/page";
    let options = json!({ "context": "away", "given": { "share": "all" } });
    let first = browser.open("away-1", &url, options.clone()).await;
    first.until("seen.orders === 0 && state === 'open'").await;
    browser.proxy_mode("away", "refuse").await;
    first.until("state === 'waiting'").await;
    let second = browser.open("away-2", &url, options).await;
    shows(&second, 0).await;
    assert_eq!(second.value("states.length > 0 && !states.includes('open')").await, true);
    browser.proxy_mode("away", "pass").await;
    let orders = dashboard.order("public").await;
    for tab in [&first, &second] {
        shows(tab, orders).await;
        tab.until("state === 'open'").await;
    }
}

async fn a_page_polls_while_streams_are_refused_and_recovers_from_anything(browser: Arc<Browser>) {
    let dashboard = Dashboard::usual().await;
    let url = browser.proxy("refused", &dashboard.gateway.url("")).await + "/page";
    let given = json!({ "poll": { "kpi": POLL } });
    let page = browser.open("refused", &url, json!({ "given": given })).await;
    shows(&page, 0).await;
    browser.proxy_mode("refused", "refuse").await;
    page.until("state === 'polling'").await;
    shows(&page, dashboard.order("public").await).await;
    browser.proxy_mode("refused", "down").await;
    page.until("state === 'waiting'").await;
    let orders = dashboard.order("public").await;
    browser.proxy_mode("refused", "pass").await;
    shows(&page, orders).await;
    page.until("state === 'open'").await;
    shows(&page, dashboard.order("public").await).await;
    dashboard.until_watched_by(1).await;
}

async fn a_page_polls_behind_a_proxy_that_holds_streams_back(browser: Arc<Browser>) {
    let dashboard = Dashboard::usual().await;
    let url = browser.proxy("held", &dashboard.gateway.url("")).await + "/page";
    browser.proxy_mode("held", "buffer").await;
    let given = json!({ "poll": { "kpi": POLL } });
    let page = browser.open("held", &url, json!({ "clock": true, "given": given })).await;
    dashboard.until_watched_by(1).await;
    assert_eq!(page.value("states.join()").await, "connecting");
    // Nothing has come by then.
    page.sleep(Duration::from_secs(9)).await;
    page.until("state === 'polling' && seen.orders === 0").await;
    shows(&page, dashboard.order("public").await).await;
    browser.proxy_mode("held", "pass").await;
    page.until("state === 'open'").await;
    shows(&page, dashboard.order("public").await).await;
    dashboard.until_watched_by(1).await;
}

async fn tenants_never_see_each_others_data(browser: Arc<Browser>) {
    let dashboard = Dashboard::start(&route("60s", "15s"), "cookie = \"session\"").await;
    let mut tabs = Vec::new();
    for (n, tenant) in ["acme", "acme", "zen"].into_iter().enumerate() {
        let given = json!({ "headers": bearer(&token(tenant, "ann")) });
        let options = json!({ "context": "tenants", "given": given });
        tabs.push((tenant, browser.open(&format!("tenants-{n}"), &dashboard.page(), options).await));
    }
    // Nothing but the cookie says who they are, and it changes while the first is open.
    let login = browser.open("login", &dashboard.page(), json!({ "context": "tenants" })).await;
    for tenant in ["acme", "zen"] {
        let cookie = format!("document.cookie = 'session={}; path=/'", token(tenant, "bob"));
        login.value(&cookie).await;
        let options = json!({ "context": "tenants", "given": {} });
        let tab = browser.open(&format!("tenants-by-cookie-{tenant}"), &dashboard.page(), options).await;
        tab.until("seen.orders === 0").await;
        tabs.push((tenant, tab));
    }
    for (tenant, other) in [("acme", "zen"), ("zen", "acme"), ("acme", "zen")] {
        let orders = dashboard.order(tenant).await;
        for (_, tab) in tabs.iter().filter(|(of, _)| *of == tenant) {
            shows(tab, orders).await;
        }
        dashboard.gateway.bump(other).await;
        for (_, tab) in &tabs {
            shows(tab, orders).await;
        }
    }
    for (tenant, tab) in &tabs {
        let told = tab.value(&format!("told.every((state) => state.tenant === '{tenant}')")).await;
        assert_eq!(told, true, "{tenant}");
    }
}

async fn each_tab_has_a_stream_where_tabs_cant_share(browser: Arc<Browser>) {
    for lacks in ["channels", "locks", "permission", "security"] {
        let dashboard = Dashboard::usual().await;
        let url = match lacks {
            // Plain HTTP of a host that is not this one.
            "security" => dashboard.page().replace("127.0.0.1", "insecure.example"),
            _ => dashboard.page(),
        };
        let mut tabs = Vec::new();
        for n in 0..2 {
            let mut options = json!({ "context": lacks, "given": { "share": "all" }, "lacks": lacks });
            if lacks == "security" {
                options.as_object_mut().unwrap().remove("lacks");
            }
            tabs.push(browser.open(&format!("{lacks}-{n}"), &url, options).await);
        }
        for tab in &tabs {
            tab.until("state === 'open'").await;
        }
        dashboard.until_watched_by(2).await;
        let orders = dashboard.order("public").await;
        for tab in &tabs {
            shows(tab, orders).await;
            tab.assert_sound().await;
            tab.value("live.stop()").await;
        }
        dashboard.until_watched_by(0).await;
    }
}

async fn a_computer_that_slept_keeps_no_dead_stream(browser: Arc<Browser>) {
    let dashboard = Dashboard::start(&route("60s", "60s"), "").await;
    let page = browser.open("slept", &dashboard.page(), json!({ "clock": true, "given": {} })).await;
    page.until("seen.orders === 0").await;
    // The ping is due after a minute: silence for two is not too much.
    page.sleep(Duration::from_secs(120)).await;
    shows(&page, dashboard.order("public").await).await;
    assert_eq!(page.value("states.join()").await, "connecting,open");
    page.sleep(Duration::from_secs(200)).await;
    page.until("states.filter((state) => state === 'open').length === 2").await;
    // Back on a network that may be another one.
    page.value("void dispatchEvent(new Event('online'))").await;
    page.until("states.filter((state) => state === 'open').length === 3").await;
    shows(&page, dashboard.order("public").await).await;
    assert_eq!(page.value("told.map((state) => state.orders).join()").await, "0,1,2");
    dashboard.until_watched_by(1).await;
}

async fn a_frozen_tab_is_robbed_of_the_stream(browser: Arc<Browser>) {
    let dashboard = Dashboard::usual().await;
    let open = |name: &'static str, clock: bool| {
        let options = json!({ "context": "frozen", "clock": clock, "given": { "share": "all" } });
        let (browser, url) = (browser.clone(), dashboard.page());
        async move { browser.open(name, &url, options).await }
    };
    let first = open("frozen-1", false).await;
    first.until("state === 'open'").await;
    let second = open("frozen-2", true).await;
    second.until("state === 'open'").await;
    first.become_state("frozen").await;
    // Nothing was heard for longer than pings permit, and nobody answers.
    for seconds in [45, 6] {
        second.sleep(Duration::from_secs(seconds)).await;
    }
    second.until("states.filter((state) => state === 'open').length === 2").await;
    let orders = dashboard.order("public").await;
    shows(&second, orders).await;
    first.become_state("active").await;
    shows(&first, orders).await;
    dashboard.until_watched_by(1).await;
}

async fn a_page_is_live_by_the_end_of_the_lifetime_alone(browser: Arc<Browser>) {
    let dashboard = Dashboard::start(&route("1s", "15s"), "").await;
    let page = browser.open("ttl", &dashboard.page(), json!({ "given": {} })).await;
    for orders in 0..3 {
        dashboard.orders.store(orders, Ordering::SeqCst);
        shows(&page, orders).await;
    }
    assert!(dashboard.origin.count("/kpi") >= 3);
}

/// gunicorn with the application.
async fn flask(redis: &Redis) -> (Process, String) {
    for _ in 0..5 {
        let address = free_address();
        let mut command = python::module("gunicorn", &["--workers", "1", "--threads", "2"]).await;
        command.args(["--worker-class", "gthread", "--bind", &address.to_string(), "cached_app:app"]);
        command.env("CACHED_REDIS", redis.url()).env("CACHED_PAGE", PAGE);
        let (mut process, url) = (Process::spawn("gunicorn", &mut command), format!("http://{address}"));
        let up = eventually("gunicorn answers or ends", 6 * SOON, || {
            let (ended, asked) = (process.ended().is_some(), client::client().get(format!("{url}/page")));
            async move {
                let answered = client::try_send(asked).await.is_ok_and(|reply| reply.status == 200);
                (ended || answered).then_some(answered)
            }
        })
        .await;
        if up && process.ended().is_none() {
            return (process, url);
        }
    }
    panic!("gunicorn does not start");
}

async fn a_version_that_flask_caching_moves_changes_the_page(browser: Arc<Browser>) {
    let redis = Redis::start().await;
    let (_flask, url) = flask(&redis).await;
    let gateway = GatewayBuilder::new(&url)
        .redis(&redis.url())
        .store("prefix = \"dash:\"")
        .route("/kpi", &route("60s", "15s"))
        .route("/*", "")
        .raw("[[live]]\npath = \"/live\"\nwatch = { kpi = \"/kpi\" }")
        .start()
        .await;
    until("changes are reported", SOON, || gateway.is_linked()).await;
    let page = browser.open("flask", &gateway.url("/page"), json!({ "given": {} })).await;
    shows(&page, 0).await;
    for orders in 1..4 {
        page.value("fetch('/orders', { method: 'POST' }).then(() => 0)").await;
        shows(&page, orders).await;
    }
    assert_eq!(page.value("told.map((state) => state.orders).join()").await, "0,1,2,3");
}

type Scenario = fn(Arc<Browser>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), (|browser| Box::pin($name(browser))) as Scenario)),*]
    };
}

/// One browser for all: its start is what takes long. Each has its own gateway and origin.
/// With `SCENARIO` set, those whose names have it.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_right_whatever_happens_to_their_stream() {
    let (browser, turns) = (Browser::start(), Arc::new(Semaphore::new(4)));
    let scenarios = scenarios![
        ten_tabs_share_a_stream_and_outlive_the_one_that_has_it,
        pages_are_right_again_after_the_gateway_was_killed,
        a_tab_that_comes_while_the_stream_is_away_is_told_so,
        a_page_polls_while_streams_are_refused_and_recovers_from_anything,
        a_page_polls_behind_a_proxy_that_holds_streams_back,
        tenants_never_see_each_others_data,
        each_tab_has_a_stream_where_tabs_cant_share,
        a_computer_that_slept_keeps_no_dead_stream,
        a_frozen_tab_is_robbed_of_the_stream,
        a_page_is_live_by_the_end_of_the_lifetime_alone,
        a_version_that_flask_caching_moves_changes_the_page,
    ];
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let running: Vec<_> = scenarios
        .into_iter()
        .filter(|(name, _)| name.contains(&wanted))
        .map(|(name, scenario)| {
            let (browser, turns) = (browser.clone(), turns.clone());
            let task = tokio::spawn(async move {
                let _turn = turns.acquire_owned().await;
                let began = std::time::Instant::now();
                scenario(browser).await;
                println!("{name}: {:?}", began.elapsed());
            });
            (name, task)
        })
        .collect();
    let mut failed = Vec::new();
    for (name, task) in running {
        failed.extend(task.await.is_err().then_some(name));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
