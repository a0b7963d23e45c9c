//! Nobody gets another's answer: by cookie, by `Authorization`, by tenant, by host, by query, or by having waited with
//! somebody else.

use crate::{
    cache::following::{fresh, gateway, with, FOLLOW, MINUTE},
    support::{gateway::token, *},
};
use futures_util::future::join_all;

#[tokio::test]
async fn a_cookie_is_set_for_the_one_who_got_it() {
    let origin = TestOrigin::start().await;
    origin.on("/login", |seen| fresh("hello").header("set-cookie", &format!("session={}", seen.number)));
    let gateway = gateway(&origin).start().await;
    for number in 1..=3 {
        let reply = gateway.get("/login").await.ok();
        assert_eq!(reply.header("set-cookie"), format!("session={number}"));
        assert!(!reply.is_hit(), "{reply:?}");
    }
}

#[tokio::test]
async fn a_cookie_is_kept_where_the_route_says_so() {
    let origin = TestOrigin::start().await;
    origin.on("/flag", |seen| fresh("hello").header("set-cookie", &format!("flag={}", seen.number)));
    let keeps = r#"cache = { follow = "origin", set_cookie = true }"#;
    let gateway = Gateway::with(&origin).route("/flag", keeps).start().await;
    for _ in 0..2 {
        assert_eq!(gateway.get("/flag").await.ok().header("set-cookie"), "flag=1");
    }
    assert_eq!(origin.count("/flag"), 1);
}

/// The answer names who asked; `directives` besides a lifetime.
fn whose(origin: &TestOrigin, path: &str, directives: &'static str) {
    origin.on(path, move |seen| {
        let who = seen.header("authorization").unwrap_or("nobody");
        with(who, &[("cache-control", &format!("max-age=60{directives}"))])
    });
}

#[tokio::test]
async fn an_answer_to_credentials_is_for_these_alone() {
    let origin = TestOrigin::start().await;
    whose(&origin, "/mine", "");
    whose(&origin, "/shared", ", public");
    let unread = format!("auth = \"off\"\n{FOLLOW}");
    let gateway = Gateway::with(&origin).route("/*", &unread).start().await;
    for _ in 0..2 {
        for who in ["Basic YW5u", "Basic Ym9i"] {
            let reply = gateway.get_with("/mine", &[("authorization", who)]).await.ok();
            assert_eq!(reply.text(), who);
        }
    }
    assert_eq!(gateway.get("/mine").await.ok().text(), "nobody");
    for who in ["Basic YW5u", "Basic Ym9i"] {
        let reply = gateway.get_with("/shared", &[("authorization", who)]).await.ok();
        assert_eq!(reply.text(), "Basic YW5u", "the origin said that it is for everyone");
    }
    assert_eq!(origin.count("/shared"), 1);
}

#[tokio::test]
async fn an_answer_to_a_verified_token_is_for_its_owner_alone() {
    let origin = TestOrigin::start().await;
    origin.on("/mine", |seen| fresh(seen.header("x-user").unwrap_or("nobody")));
    let gateway = gateway(&origin).start().await;
    for _ in 0..2 {
        for who in ["ann", "bob"] {
            let bearer = format!("Bearer {}", token("acme", who));
            let reply = gateway.get_with("/mine", &[("authorization", &bearer)]).await.ok();
            assert_eq!(reply.text(), who);
        }
    }
    assert_eq!(gateway.get("/mine").await.ok().text(), "nobody");
}

#[tokio::test]
async fn a_token_in_the_query_is_a_credential_too() {
    let origin = TestOrigin::start().await;
    origin.on("/mine", |seen| fresh(seen.header("x-user").unwrap_or("nobody")));
    let route = format!("token_query = true\n{FOLLOW}");
    let gateway = Gateway::with(&origin).route("/mine", &route).start().await;
    for who in ["ann", "bob", "ann"] {
        let reply = gateway.get(&format!("/mine?token={}", token("acme", who))).await.ok();
        assert_eq!(reply.text(), who);
    }
    assert!(origin.seen("/mine").iter().all(|seen| seen.query.is_none()), "the token goes no further");
}

#[tokio::test]
async fn cookies_that_the_answer_varies_by_tell_apart() {
    let origin = TestOrigin::start().await;
    origin.on("/cart", |seen| with(seen.header("cookie").unwrap_or("none"), &[MINUTE, ("vary", "Cookie")]));
    let gateway = gateway(&origin).start().await;
    for _ in 0..2 {
        for cookie in ["s=ann", "s=bob"] {
            assert_eq!(gateway.get_with("/cart", &[("cookie", cookie)]).await.ok().text(), cookie);
        }
        assert_eq!(gateway.get("/cart").await.ok().text(), "none");
    }
    assert_eq!(origin.count("/cart"), 3, "and each is kept");
}

/// The gateway's own fields are part of a request: an origin whose answers depend on `X-Tenant` lists it in
/// `Vary`, and may call them public.
#[tokio::test]
async fn what_the_gateway_says_tells_answers_apart_as_well() {
    let origin = TestOrigin::start().await;
    for path in ["/x-tenant", "/x-user", "/x-forwarded-host"] {
        origin.on(path, move |seen| {
            let who = seen.header(&path[1..]).unwrap_or("nobody");
            with(who, &[("cache-control", "public, max-age=60"), ("vary", &path[1..])])
        });
    }
    let gateway = gateway(&origin).start().await;
    for (tenant, user) in [("acme", "ann"), ("globex", "bob"), ("acme", "ann")] {
        let bearer = format!("Bearer {}", token(tenant, user));
        let reply = gateway.get_with("/x-tenant", &[("authorization", &bearer)]).await.ok();
        assert_eq!(reply.text(), tenant, "another tenant's answer");
        let reply = gateway.get_with("/x-user", &[("authorization", &bearer)]).await.ok();
        assert_eq!(reply.text(), user, "another user's answer");
    }
    for path in ["/x-tenant", "/x-user"] {
        assert_eq!(gateway.get(path).await.ok().text(), "nobody", "a tenant's answer without a token");
    }
}

/// The same, from the outside: a claim that the origin never sees opens nobody's answers.
#[tokio::test]
async fn a_claim_does_not_select_what_the_gateway_says() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| {
        let who = seen.header("x-tenant").unwrap_or("nobody");
        with(who, &[("cache-control", "public, max-age=60"), ("vary", "X-Tenant")])
    });
    let gateway = gateway(&origin).start().await;
    let bearer = format!("Bearer {}", token("acme", "ann"));
    // A client that claims what it is: only the token counts.
    let fields = [("authorization", bearer.as_str()), ("x-tenant", "acme")];
    assert_eq!(gateway.get_with("/x", &fields).await.ok().text(), "acme");
    let reply = gateway.get_with("/x", &[("x-tenant", "acme")]).await.ok();
    assert_eq!(reply.text(), "nobody", "a claim without a token got the tenant's answer");
}

/// A field that `Connection` names doesn't reach the origin: the answer is one for a request without it.
#[tokio::test]
async fn a_field_that_goes_no_further_selects_nothing() {
    let origin = TestOrigin::start().await;
    origin
        .on("/x", |seen| with(seen.header("x-flavour").unwrap_or("plain"), &[MINUTE, ("vary", "X-Flavour")]));
    let gateway = gateway(&origin).start().await;
    let fields = [("Connection", "X-Flavour"), ("X-Flavour", "sweet")];
    let mut client = Transfer::ask_with(gateway.address(), "/x", &fields).await;
    assert_eq!(client.final_head().await.status, 200);
    assert_eq!(client.rest().await.0, b"plain");
    let reply = gateway.get_with("/x", &[("x-flavour", "sweet")]).await.ok();
    assert_eq!(reply.text(), "sweet", "another client has spoilt it: {reply:?}");
}

#[tokio::test]
async fn hosts_and_queries_tell_answers_apart() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| {
        fresh(&format!("{} {}", seen.header("host").unwrap(), seen.query.as_deref().unwrap_or("-")))
    });
    let gateway = gateway(&origin).start().await;
    for _ in 0..2 {
        for host in ["a.example", "b.example", "a.example:8080"] {
            for (path, query) in [("/x", "-"), ("/x?a=1", "a=1"), ("/x?a=2", "a=2"), ("/x?a=1&", "a=1&")] {
                let reply = gateway.get_with(path, &[("host", host)]).await.ok();
                assert_eq!(reply.text(), format!("{host} {query}"));
            }
        }
    }
    assert_eq!(origin.count("/x"), 12, "each was kept");
    assert!(gateway.get_with("/x", &[("host", "A.Example")]).await.ok().is_hit(), "a host has no case");
}

/// A request that waits for another one must not get the answer that was made for that one, whatever its status.
async fn waiting_together(status: u16, fields: &'static [(&'static str, &'static str)]) {
    let origin = TestOrigin::start().await;
    origin.on("/x", move |seen| {
        let who = seen.header("cookie").unwrap();
        let answer = with(who, fields).status(status);
        let varies = fields.iter().any(|(name, _)| *name == "vary");
        let answer = if varies { answer } else { answer.header("set-cookie", who) };
        if seen.number == 1 {
            answer.gated()
        } else {
            answer
        }
    });
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let clients: Vec<_> = (0..8).map(|n| format!("s=user{n}")).collect();
    let gateway = &gateway;
    let asking =
        clients.iter().map(|who| async move { (who, gateway.get_with("/x", &[("cookie", who)]).await) });
    let released = async {
        until("all wait", SOON, || async {
            let open = gateway.metrics().await.value("tidegate_connections_open", &[]);
            open >= 8.0 && origin.held() == 1
        })
        .await;
        origin.release();
    };
    let (replies, ()) = futures_util::join!(join_all(asking), released);
    for (who, reply) in replies {
        assert_eq!(reply.status.as_u16(), status);
        assert_eq!(reply.text(), who, "another's answer: {reply:?}");
        assert!([who, ""].contains(&&*reply.all("set-cookie")), "another's cookie: {reply:?}");
    }
}

#[tokio::test]
async fn waiting_with_others_shares_no_private_answer() {
    waiting_together(200, &[("cache-control", "private")]).await;
}

#[tokio::test]
async fn waiting_with_others_shares_no_cookie() {
    waiting_together(200, &[MINUTE]).await;
}

#[tokio::test]
async fn waiting_with_others_shares_no_redirect() {
    waiting_together(302, &[("location", "/me"), ("cache-control", "no-store")]).await;
}

/// The page of an error may show who is logged in as well.
#[tokio::test]
async fn waiting_with_others_shares_no_private_error() {
    waiting_together(500, &[("cache-control", "private, no-store")]).await;
}

/// A page that has to be validated for each use, with a tag for each cookie: who waits for another's gets their own. The
/// page of nobody may be stored, and be under validation.
#[tokio::test]
async fn waiting_with_others_shares_no_page_without_a_lifetime() {
    for control in ["", "no-cache", "max-age=0", "max-age=60, no-cache", "must-revalidate"] {
        for is_stored in [false, true] {
            let origin = TestOrigin::start().await;
            origin.on("/x", move |seen| {
                let who = seen.header("cookie").unwrap_or("nobody").to_owned();
                let tag = format!("\"{who}\"");
                let answer = match seen.header("if-none-match") == Some(&tag) {
                    true => Answer::new("text/plain", "").status(304),
                    false => Answer::new("text/plain", who.clone()),
                };
                let answer = answer.header("etag", &tag);
                let answer =
                    if control.is_empty() { answer } else { answer.header("cache-control", control) };
                if seen.number == 1 + u64::from(is_stored) {
                    answer.gated()
                } else {
                    answer
                }
            });
            let gateway = gateway(&origin).start().await;
            if is_stored {
                gateway.get("/x").await.ok();
            }
            origin.hold();
            let clients = ["s=alice", "nobody", "s=bobby", "s=carol", "nobody"];
            let gateway = &gateway;
            let asking = clients.map(|who| async move {
                let cookie = [("cookie", who)];
                gateway.get_with("/x", if who == "nobody" { &[] } else { &cookie }).await
            });
            let released = async {
                until("the first one is held", SOON, || async { origin.held() == 1 }).await;
                origin.release();
            };
            let (replies, ()) = futures_util::join!(join_all(asking), released);
            for (who, reply) in clients.iter().zip(replies) {
                assert_eq!(reply.ok().text(), *who, "another's page: {control:?} {is_stored}");
            }
        }
    }
}

/// Nor is it served in place of an answer that failed, or is late, or while it is refreshed.
#[tokio::test]
async fn a_page_for_a_cookie_without_a_lifetime_is_never_served_stale() {
    for control in ["", "max-age=0", "must-revalidate"] {
        let origin = TestOrigin::start().await;
        origin.on("/x", move |seen| {
            let who = seen.header("cookie").unwrap_or("nobody");
            let answer = Answer::new("text/plain", who.to_owned()).header("etag", &format!("\"{who}\""));
            let answer = if control.is_empty() { answer } else { answer.header("cache-control", control) };
            answer.status(if seen.number == 1 { 200 } else { 503 })
        });
        let rules =
            "cache = { follow = \"origin\", stale_if_error = \"10m\", stale_while_revalidate = \"1m\" }";
        let gateway = Gateway::with(&origin).route("/x", rules).start().await;
        assert_eq!(gateway.get_with("/x", &[("cookie", "s=alice")]).await.ok().text(), "s=alice");
        for who in ["s=bobby", "s=carol"] {
            let reply = gateway.get_with("/x", &[("cookie", who)]).await;
            assert_eq!((reply.status.as_u16(), reply.text()), (503, who), "{control:?}");
        }
        assert_eq!(gateway.get("/x").await.status, 503, "{control:?}");
    }
}

/// Nor one that says what it depends on.
#[tokio::test]
async fn waiting_with_others_shares_no_error_that_varies() {
    waiting_together(500, &[("vary", "Cookie")]).await;
}

/// RFC 9111, 5.2.2.4: the cookie is not to be kept, and the rest is. The one for whom it was set gets it.
#[tokio::test]
async fn a_cookie_that_is_left_out_of_what_is_kept_reaches_its_owner_and_nobody_else() {
    let origin = TestOrigin::start().await;
    for (path, control) in [
        ("/no-cache", "max-age=60, no-cache=\"set-cookie\""),
        ("/private", "max-age=60, private=\"Set-Cookie\""),
    ] {
        origin.on(path, move |_| with("x", &[("cache-control", control), ("set-cookie", "session=1")]));
    }
    let gateway = gateway(&origin).start().await;
    let mut lost = Vec::new();
    for path in ["/no-cache", "/private"] {
        let first = gateway.get(path).await.ok();
        lost.extend((first.header("set-cookie") != "session=1").then_some(path));
        let second = gateway.get(path).await.ok();
        assert!(!second.is_hit() || !second.headers.contains_key("set-cookie"), "{path}: {second:?}");
    }
    assert!(lost.is_empty(), "the client whose request it was did not get its cookie: {lost:?}");
}

/// Nobody said for how long it is fresh, and it may be the page of the one whose cookie it was.
#[tokio::test]
async fn a_page_for_a_cookie_is_not_shared_by_guess() {
    let origin = TestOrigin::start().await;
    let changed = ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT");
    origin.on("/x", move |seen| with(seen.header("cookie").unwrap_or("nobody"), &[changed]));
    let gateway = gateway(&origin).start().await;
    for _ in 0..2 {
        for who in ["s=ann", "s=bob"] {
            let reply = gateway.get_with("/x", &[("cookie", who)]).await.ok();
            assert_eq!(reply.text(), who, "another's page: {reply:?}");
            assert!(reply.cache_status().contains("detail=cookie"), "{reply:?}");
        }
    }
    // Who shows none is not kept from sharing by those who do.
    assert_eq!(gateway.get("/x").await.ok().text(), "nobody");
    assert!(gateway.get("/x").await.ok().is_hit());
}

/// A request that the origin refuses does not mean that it refuses the next one.
#[tokio::test]
async fn a_refusal_is_not_kept_unless_the_route_says_so() {
    let origin = TestOrigin::start().await;
    let codes = [400, 401, 403, 406, 413, 429, 431];
    let keeps = r#"cache = { follow = "origin", statuses = [400, 401, 403, 406, 413, 429, 431] }"#;
    let mut config = gateway(&origin);
    for code in codes {
        for path in [format!("/{code}"), format!("/kept/{code}")] {
            origin.on(&path, move |seen| match seen.header("x-odd") {
                Some(_) => with("odd", &[MINUTE]).status(code),
                None => fresh("the page"),
            });
        }
        config = config.route(&format!("/kept/{code}"), keeps);
    }
    let gateway = config.start().await;
    for code in codes {
        for (path, kept) in [(format!("/{code}"), false), (format!("/kept/{code}"), true)] {
            assert_eq!(gateway.get_with(&path, &[("x-odd", "1")]).await.status.as_u16(), code);
            let reply = gateway.get(&path).await;
            assert_eq!(reply.status.as_u16() == code, kept, "{path}: {reply:?}");
        }
    }
}

/// A server's error that the first one's own fields may have caused. Those who wait ask again, one at a time.
#[tokio::test]
async fn an_error_of_ones_own_making_is_ones_own() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.header("x-odd") {
        Some(_) => with("stumbled", &[]).status(500).gated(),
        None => fresh("the page"),
    });
    origin.on("/down", |_| with("down", &[]).status(500).gated());
    origin.on("/overload", |_| with("busy", &[]).status(503).gated());
    for (path, most) in [("/x", 2), ("/down", 20), ("/overload", 1)] {
        // A gateway of its own: no connection is open before somebody waits on it.
        let gateway = &gateway(&origin).start().await;
        let origin = &origin;
        origin.hold();
        let odd = gateway.get_with(path, &[("x-odd", "1")]);
        let others = async {
            until("the odd one is at the origin", SOON, || async { origin.held() == 1 }).await;
            let led = || async { gateway.metrics().await.value("tidegate_connections_open", &[]) };
            let asking = join_all((0..30).map(|_| gateway.get(path)));
            let release = async {
                until("all are connected", SOON, || async { led().await >= 31.0 }).await;
                // What is asked on them is read while the gateway answers this.
                for _ in 0..10 {
                    led().await;
                }
                origin.release();
            };
            futures_util::join!(asking, release).0
        };
        let (odd, others) = futures_util::join!(odd, others);
        assert!(odd.status.is_server_error(), "{odd:?}");
        for reply in others {
            assert_eq!(reply.status.is_success(), path == "/x", "{path}: {reply:?}");
        }
        assert!(origin.count(path) <= most, "{path}: {}", origin.count(path));
    }
}
