//! Unsafe methods: what succeeds ends what is stored of its target and of the places that it names on its own host.

use crate::{
    cache::following::{fresh, gateway, with, FOLLOW, MINUTE},
    support::*,
};

const HERE: (&str, &str) = ("host", "a.example");
const ELSEWHERE: (&str, &str) = ("host", "b.example");

/// Returns true if the stored answer is still served.
async fn is_kept(gateway: &Gateway, host: (&str, &str), path: &str) -> bool {
    gateway.get_with(path, &[host]).await.ok().is_hit()
}

#[tokio::test]
async fn an_unsafe_method_that_succeeds_ends_what_is_stored() {
    let origin = TestOrigin::start().await;
    for path in ["/x", "/list", "/item"] {
        origin.on(path, |seen| match seen.method.as_str() {
            "GET" => fresh(&seen.number.to_string()),
            _ => {
                with("", &[("location", "/list"), ("content-location", "http://a.example/item")]).status(201)
            }
        });
    }
    let gateway = gateway(&origin).start().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "UNKNOWN"] {
        for path in ["/x", "/x?other=1", "/list", "/item"] {
            gateway.get_with(path, &[HERE]).await.ok();
            gateway.get_with(path, &[ELSEWHERE]).await.ok();
        }
        assert!(is_kept(&gateway, HERE, "/x").await);
        assert_eq!(gateway.send_with(method, "/x", &[HERE]).await.status, 201);
        for path in ["/x", "/list", "/item"] {
            assert!(!is_kept(&gateway, HERE, path).await, "{method}: {path}");
        }
        assert!(is_kept(&gateway, HERE, "/x?other=1").await, "{method}: another resource");
        for path in ["/x", "/list", "/item"] {
            assert!(is_kept(&gateway, ELSEWHERE, path).await, "{method}: {path} of another host");
        }
    }
}

/// RFC 9111, 4.4: else any application could empty another's cache.
#[tokio::test]
async fn places_on_other_hosts_are_left_alone() {
    let origin = TestOrigin::start().await;
    for path in ["/x", "/item"] {
        origin.on(path, |seen| match seen.method.as_str() {
            "GET" => fresh("x"),
            _ => with("", &[("location", "http://b.example/item"), ("content-location", "//b.example/item")]),
        });
    }
    let gateway = gateway(&origin).start().await;
    for host in [HERE, ELSEWHERE] {
        gateway.get_with("/item", &[host]).await.ok();
    }
    gateway.send_with("POST", "/x", &[HERE]).await.ok();
    assert!(is_kept(&gateway, ELSEWHERE, "/item").await && is_kept(&gateway, HERE, "/item").await);
}

#[tokio::test]
async fn what_fails_or_is_safe_ends_nothing() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.header("x-status") {
        None => fresh("x"),
        Some(status) => with("", &[("location", "/x")]).status(status.parse().unwrap()),
    });
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    for (method, status) in
        [("POST", "500"), ("DELETE", "404"), ("PUT", "409"), ("POST", "503"), ("OPTIONS", "200")]
    {
        assert_eq!(gateway.send_with(method, "/x", &[("x-status", status)]).await.status.as_str(), status);
        assert!(gateway.get("/x").await.ok().is_hit(), "{method} {status}");
    }
    assert_eq!(gateway.send_with("POST", "/x", &[("x-status", "303")]).await.status, 303);
    assert!(!gateway.get("/x").await.ok().is_hit(), "a redirect is a success as well");
}

#[tokio::test]
async fn all_variants_end() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| with(seen.header("x-v").unwrap_or("none"), &[MINUTE, ("vary", "X-V")]));
    let gateway = gateway(&origin).start().await;
    for value in ["a", "b", "c"] {
        gateway.get_with("/x", &[("x-v", value)]).await.ok();
    }
    gateway.send_with("PUT", "/x", &[("x-v", "d")]).await.ok();
    for value in ["a", "b", "c"] {
        assert!(!gateway.get_with("/x", &[("x-v", value)]).await.ok().is_hit(), "{value}");
    }
}

/// A change is often taken by a route of its own: what it changes is stored all the same.
#[tokio::test]
async fn a_change_through_a_route_that_keeps_nothing_counts_too() {
    let origin = TestOrigin::start().await;
    for path in ["/x", "/change"] {
        origin.on(path, |seen| match seen.method.as_str() {
            "GET" => fresh("x"),
            _ => with("", &[("location", "/x")]).status(201),
        });
    }
    let gateway = Gateway::with(&origin)
        .route("/x", &format!("methods = [\"GET\"]\n{FOLLOW}"))
        .route("/x", "methods = [\"POST\"]")
        .route("/change", "")
        .start()
        .await;
    for target in ["/x", "/change"] {
        gateway.get("/x").await.ok();
        assert!(gateway.get("/x").await.ok().is_hit());
        assert_eq!(gateway.send_with("POST", target, &[]).await.status, 201);
        assert!(!gateway.get("/x").await.ok().is_hit(), "POST {target} left what it changed");
    }
}

/// An answer to a request from before the change must not be stored after it.
#[tokio::test]
async fn a_fill_under_way_is_overtaken_by_a_change() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match (seen.method.as_str(), seen.number) {
        ("GET", 1) => fresh("old").gated(),
        ("GET", _) => fresh("new"),
        _ => with("", &[]).status(204),
    });
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let first = gateway.get("/x");
    let change = async {
        until("the fill is under way", SOON, || async { origin.held() == 1 }).await;
        assert_eq!(gateway.send_with("POST", "/x", &[]).await.status, 204);
        // Who comes after the change doesn't wait for what was asked before it.
        assert_eq!(gateway.get("/x").await.ok().text(), "new");
        origin.release();
    };
    let (first, ()) = futures_util::join!(first, change);
    assert_eq!(first.ok().text(), "old");
    assert_eq!(gateway.get("/x").await.ok().text(), "new");
}
