//! Many at once: one request for what all may have, nobody behind the slowest for what they may not, and origins that
//! break the rules of HTTP.

use crate::{
    cache::following::{fresh, gateway, with, FOLLOW, MINUTE},
    support::*,
};
use futures_util::future::join_all;

/// Waits until this many connections are open and the origin holds this many answers.
async fn waiting(gateway: &Gateway, origin: &TestOrigin, clients: u32, held: usize) {
    until("all wait", 2 * SOON, || async {
        let open = gateway.metrics().await.value("tidegate_connections_open", &[]);
        open >= f64::from(clients) && origin.held() == held
    })
    .await;
}

#[tokio::test]
async fn a_hundred_at_once_are_one_request() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |_| fresh("for all").gated());
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let asking = join_all((0..100).map(|_| gateway.get("/x")));
    let release = async {
        waiting(&gateway, &origin, 100, 1).await;
        origin.release();
    };
    let (replies, ()) = futures_util::join!(asking, release);
    for reply in replies {
        assert_eq!(reply.ok().text(), "for all");
    }
    assert_eq!(origin.count("/x"), 1);
}

/// The origin never finishes the first one's answer: all the others have theirs meanwhile.
#[tokio::test]
async fn nobody_waits_for_the_slowest_of_private_answers() {
    let origin = TestOrigin::start().await;
    origin.on("/me", |seen| {
        let who = seen.header("cookie").unwrap();
        let answer = with(who, &[("cache-control", "private, max-age=60")]);
        if seen.number == 1 {
            answer.then_held(" at last")
        } else {
            answer
        }
    });
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let mut first = Transfer::ask_with(gateway.address(), "/me", &[("Cookie", "s=first")]).await;
    assert_eq!(first.final_head().await.status, 200);
    let clients: Vec<_> = (0..20).map(|n| format!("s={n}")).collect();
    let gateway = &gateway;
    let asking = clients
        .iter()
        .map(|who| async move { (who, gateway.get_with("/me", &[("cookie", who)]).await.ok()) });
    for (who, reply) in join_all(asking).await {
        assert_eq!(reply.text(), who, "another's answer");
    }
    assert_eq!(origin.count("/me"), 21);
    origin.release();
    assert_eq!(first.rest().await, (b"s=first at last".to_vec(), End::Clean));
}

/// Once a resource is known to be private, requests for it don't even wait for a head.
#[tokio::test]
async fn nobody_waits_for_a_head_of_what_is_known_to_be_private() {
    let origin = TestOrigin::start().await;
    origin.on("/me", |seen| {
        let who = seen.header("cookie").unwrap();
        let answer = with(who, &[("cache-control", "private")]);
        if who == "s=slow" {
            answer.gated()
        } else {
            answer
        }
    });
    let gateway = gateway(&origin).start().await;
    gateway.get_with("/me", &[("cookie", "s=0")]).await.ok();
    origin.hold();
    let slow = gateway.get_with("/me", &[("cookie", "s=slow")]);
    let others = async {
        until("the slow one is held", SOON, || async { origin.held() == 1 }).await;
        for who in ["s=1", "s=2"] {
            assert_eq!(gateway.get_with("/me", &[("cookie", who)]).await.ok().text(), who);
        }
        origin.release();
    };
    let (slow, ()) = futures_util::join!(slow, others);
    assert_eq!(slow.ok().text(), "s=slow");
}

#[tokio::test]
async fn who_followed_another_variant_gets_their_own() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| with(seen.header("x-v").unwrap(), &[MINUTE, ("vary", "X-V")]).gated());
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let values = ["a", "b", "c"];
    let asking = join_all((0..12).map(|n| {
        let gateway = &gateway;
        async move { (values[n % 3], gateway.get_with("/x", &[("x-v", values[n % 3])]).await.ok()) }
    }));
    let release = async {
        waiting(&gateway, &origin, 12, 1).await;
        origin.release();
    };
    let (replies, ()) = futures_util::join!(asking, release);
    for (value, reply) in replies {
        assert_eq!(reply.text(), value, "{reply:?}");
    }
    for value in values {
        assert!(gateway.get_with("/x", &[("x-v", value)]).await.ok().is_hit(), "{value}");
    }
}

/// The same while the answer arrives: its head is known, and it isn't theirs.
#[tokio::test]
async fn who_joins_another_variant_while_it_arrives_gets_their_own() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| {
        let value = seen.header("x-v").unwrap();
        let answer = with(value, &[MINUTE, ("vary", "X-V")]);
        if value == "slow" {
            answer.then_held("!")
        } else {
            answer
        }
    });
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let mut slow = Transfer::ask_with(gateway.address(), "/x", &[("X-V", "slow")]).await;
    assert_eq!(slow.final_head().await.status, 200);
    for value in ["a", "b"] {
        assert_eq!(gateway.get_with("/x", &[("x-v", value)]).await.ok().text(), value);
    }
    origin.release();
    assert_eq!(slow.rest().await, (b"slow!".to_vec(), End::Clean));
}

/// Bytes behind the end of an answer are no answer to the next request: they could be anybody's.
#[tokio::test]
async fn what_follows_an_answer_is_nobodys() {
    const TWO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: no-store\r\n\r\npage\
                       HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: max-age=60\r\n\r\nevil";
    let origin = RawOrigin::start(TWO, "").await;
    origin.release();
    let gateway = GatewayBuilder::new(&origin.url()).route("/*", FOLLOW).route("/off/*", "").start().await;
    for path in ["/a", "/b", "/off/a", "/c", "/off/b", "/a"] {
        assert_eq!(gateway.get(path).await.ok().text(), "page", "{path}");
    }
}

/// An answer whose end is not clear is none, and nothing of it is kept.
#[tokio::test]
async fn an_answer_of_two_lengths_is_none() {
    const ODD: [&str; 3] =
        ["Content-Length: 4\r\nContent-Length: 8", "Content-Length: 4, 8", "Content-Length: +4"];
    for lengths in ODD {
        let head = format!("HTTP/1.1 200 OK\r\n{lengths}\r\nCache-Control: max-age=60\r\n\r\n");
        let origin = RawOrigin::start(head, "page").await;
        origin.release();
        let builder = GatewayBuilder::new(&origin.url()).origin("retries = 0");
        let gateway = builder.route("/*", FOLLOW).route("/off/*", "").start().await;
        for path in ["/x", "/off/x"] {
            let reply = attempt(&gateway, path).await;
            let refused = reply.as_ref().is_none_or(|reply| reply.status == 502);
            assert!(refused, "{lengths} {path}: {reply:?}");
        }
        assert!(origin.requests() >= 2);
    }
}

async fn attempt(gateway: &Gateway, path: &str) -> Option<Reply> {
    client::try_send(gateway.request("GET", path)).await.ok()
}

/// More interim answers than anyone waits for, of a kind that nobody knows.
#[tokio::test]
async fn interim_answers_are_passed_on_and_never_kept() {
    let hints =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n".repeat(20);
    let page =
        format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: max-age=60\r\n\r\npage");
    let origin = RawOrigin::start(page, "").await;
    origin.release();
    let gateway = GatewayBuilder::new(&origin.url()).route("/*", FOLLOW).route("/off/*", "").start().await;
    for path in ["/x", "/off/x"] {
        let mut client = Transfer::ask(gateway.address(), path).await;
        let head = client.final_head().await;
        assert_eq!((head.status, head.header("link")), (200, None), "{path}");
        assert_eq!(client.rest().await, (b"page".to_vec(), End::Clean), "{path}");
    }
    let mut hit = Transfer::ask(gateway.address(), "/x").await;
    assert_eq!(hit.head().await.status, 200, "no hints come out of the cache");
}
