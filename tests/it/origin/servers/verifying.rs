//! Servers that don't show who they are get nothing: by name and by address, on every way to them.

use super::socket;
use crate::support::tls::Authority;
use crate::support::*;

/// A server with a certificate for these hosts.
async fn server(authority: &Authority, hosts: &[&str], http2: bool) -> TestOrigin {
    let tls = Some(authority.accept(hosts, http2, false));
    TestOrigin::start_as(Spoken { tls, ..Spoken::default() }).await
}

/// Returns true if a gateway with these lines sends a request to this URL; all ways must agree.
async fn trusts(origin: &TestOrigin, url: &str, lines: &str) -> bool {
    let gateway = gateway::GatewayBuilder::new(url)
        .origin(&format!("retries = 0\n{lines}"))
        .route("/app/*", "")
        .route("/kept/*", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .route("/ws/*", "websocket = {}")
        .start()
        .await;
    let checks = origin.count("/healthz");
    let checked = gateway::GatewayBuilder::new(url)
        .origin(&format!("{lines}\nhealth = {{ path = \"/healthz\", interval = \"50ms\" }}"))
        .start()
        .await;
    let seen: usize = origin.counts().values().sum();
    // Not three failures of one kind: then nobody is asked at all.
    let proxied = gateway.get("/app/x").await.status == 200;
    let filled = gateway.get("/kept/x").await.status == 200;
    let opened = socket(&gateway, "/ws/echo").await.is_ok();
    assert_eq!([proxied, filled, opened], [proxied; 3], "{url} {lines}");
    // Until the first check it counts as up.
    until("the checks agree", SOON, || async {
        let up = checked.metrics().await.value("tidegate_origin_server_up", &[]) == 1.0;
        up == proxied && proxied == (origin.count("/healthz") > checks)
    })
    .await;
    let asked = origin.counts().values().sum::<usize>() > seen;
    assert_eq!(asked, proxied, "{url} {lines}");
    proxied
}

/// By its address, and by its name.
fn urls(origin: &TestOrigin) -> [String; 2] {
    [origin.url(), format!("https://localhost:{}", origin.address().port())]
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_asked() {
    let (authority, other) = (Authority::new(), Authority::new());
    let origin = server(&authority, &["localhost", "127.0.0.1"], true).await;
    for url in urls(&origin) {
        assert!(!trusts(&origin, &url, "").await, "the system does not know it");
        assert!(!trusts(&origin, &url, "http2 = true").await);
        assert!(!trusts(&origin, &url, &format!("tls = {{ ca = {} }}", other.toml("ca.pem"))).await);
        assert!(trusts(&origin, &url, &format!("tls = {{ ca = {} }}", authority.toml("ca.pem"))).await);
    }
}

#[tokio::test]
async fn a_server_of_another_name_or_address_is_not_asked() {
    let authority = Authority::new();
    let ca = format!("ca = {}", authority.toml("ca.pem"));
    let named = server(&authority, &["localhost"], false).await;
    let [by_address, by_name] = urls(&named);
    assert!(trusts(&named, &by_name, &format!("tls = {{ {ca} }}")).await);
    assert!(
        !trusts(&named, &by_address, &format!("tls = {{ {ca} }}")).await,
        "it is no certificate for the address"
    );
    assert!(trusts(&named, &by_address, &format!("tls = {{ {ca}, server_name = \"localhost\" }}")).await);
    assert!(!trusts(&named, &by_name, &format!("tls = {{ {ca}, server_name = \"other\" }}")).await);

    let addressed = server(&authority, &["127.0.0.1"], false).await;
    let [by_address, by_name] = urls(&addressed);
    assert!(trusts(&addressed, &by_address, &format!("tls = {{ {ca} }}")).await);
    assert!(
        !trusts(&addressed, &by_name, &format!("tls = {{ {ca} }}")).await,
        "it is no certificate for the name"
    );
    assert!(
        !trusts(&addressed, &by_address, &format!("tls = {{ {ca}, server_name = \"127.0.0.2\" }}")).await
    );
}

/// Two origins reach the same server, and only one has reason to trust it: what one has opened serves the other nothing.
#[tokio::test]
async fn trust_is_not_borrowed_from_another_origin() {
    let authority = Authority::new();
    let origin = server(&authority, &["127.0.0.1"], true).await;
    for http2 in [false, true] {
        let other = |name: &str, lines: &str| {
            format!("[[origin]]\nname = \"{name}\"\nservers = {:?}\nretries = 0\nhttp2 = {http2}\n{lines}\n[[route]]\npath = \"/{name}/*\"\norigin = \"{name}\"\n[[route]]\npath = \"/kept-{name}/*\"\norigin = \"{name}\"\ncache = {{ namespace = \"{name}\", ttl = \"60s\" }}", origin.url())
        };
        let gateway = Gateway::with(&origin)
            .raw(&other("trusts", &format!("tls = {{ ca = {} }}", authority.toml("ca.pem"))))
            .raw(&other("doubts", ""))
            .start()
            .await;
        for _ in 0..3 {
            gateway.get("/trusts/x").await.ok();
            gateway.get("/kept-trusts/x").await.ok();
            assert!(gateway.get("/doubts/x").await.status.is_server_error());
            assert!(gateway.get("/kept-doubts/x").await.status.is_server_error());
        }
        assert_eq!(origin.count("/doubts/x") + origin.count("/kept-doubts/x"), 0);
    }
}

/// A reload takes trust away, whatever is still open.
#[tokio::test]
async fn trust_ends_with_a_reload() {
    let (authority, other) = (Authority::new(), Authority::new());
    let origin = server(&authority, &["127.0.0.1"], false).await;
    let by = |authority: &Authority| {
        Gateway::with(&origin)
            .origin(&format!("retries = 0\ntls = {{ ca = {} }}", authority.toml("ca.pem")))
            .route("/app/*", "")
    };
    let gateway = by(&authority).start().await;
    gateway.get("/app/x").await.ok();
    assert!(gateway.reload(&by(&other)).await);
    gateway.get("/app/x").await.problem(502);
    assert_eq!(origin.count("/app/x"), 1);
}
