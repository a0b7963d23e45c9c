//! Sessions that stay with the server that made them: by a cookie, or by what the gateway has heard.

use super::{before, counts, echoes, origins, socket};
use crate::support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Servers that begin Engine.IO sessions: each names them after itself, and knows no other's.
async fn servers(n: usize) -> Vec<TestOrigin> {
    let all = origins(n).await;
    for (server, origin) in all.iter().enumerate() {
        origin.on("/socket.io/", move |seen| {
            let sid =
                seen.query.as_deref().unwrap_or_default().split('&').find_map(|p| p.strip_prefix("sid="));
            match sid {
                None => {
                    let sid = format!("s{server}-{}", seen.number);
                    let packet =
                        format!("0{{\"sid\":\"{sid}\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000}}");
                    let payload = payload(seen.query.as_deref().unwrap_or_default(), &packet);
                    Answer::new("application/octet-stream", payload).header("x-sid", &sid)
                }
                Some(sid) if sid.starts_with(&format!("s{server}-")) => Answer::new("text/plain", "ok"),
                Some(_) => {
                    Answer::json(&serde_json::json!({"code": 1, "message": "Session ID unknown"})).status(400)
                }
            }
        });
    }
    all
}

/// An open packet as it is sent to a client that asks like this.
fn payload(query: &str, packet: &str) -> Vec<u8> {
    let asks = |pair: &str| query.split('&').any(|asked| asked == pair);
    let digits: Vec<u8> = packet.len().to_string().bytes().map(|digit| digit - b'0').collect();
    let payload = match (asks("EIO=3"), asks("b64=1")) {
        (false, _) => packet.as_bytes().to_vec(),
        (true, true) => format!("{}:{packet}2:40", packet.len()).into_bytes(),
        (true, false) => [&[0][..], &digits, &[0xff], packet.as_bytes(), &[0, 2, 0xff], b"40"].concat(),
    };
    match asks("j=0") {
        true => format!("___eio[0]({:?});", String::from_utf8(payload).unwrap()).into_bytes(),
        false => payload,
    }
}

fn sid(reply: &Reply) -> String {
    let open: serde_json::Value = serde_json::from_str(reply.text().strip_prefix('0').unwrap()).unwrap();
    open["sid"].as_str().unwrap().to_owned()
}

/// The cookie as a client sends it back.
fn cookie(reply: &Reply) -> String {
    reply.header("set-cookie").split(';').next().unwrap().to_owned()
}

const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";
const BOTH: &str = "sticky = { query = \"sid\", cookie = \"app\" }";

fn builder(all: &[TestOrigin]) -> gateway::GatewayBuilder {
    before(all).route("/socket.io/*", "websocket = {}").route("/ws/*", "websocket = {}").route("/app/*", "")
}

#[tokio::test]
async fn a_session_is_found_by_what_its_server_has_called_it() {
    let all = servers(3).await;
    let gateway = builder(&all).origin("sticky = { query = \"sid\" }").start().await;
    let mut sids = Vec::new();
    for _ in 0..9 {
        let reply = gateway.get(HANDSHAKE).await.ok();
        assert_eq!(reply.header("set-cookie"), "");
        sids.push(sid(&reply));
    }
    let made: std::collections::BTreeSet<_> = sids.iter().map(|sid| &sid[..2]).collect();
    assert_eq!(made.len(), 3, "all servers make some: {sids:?}");
    for sid in &sids {
        for method in ["GET", "POST"] {
            let target = format!("{HANDSHAKE}&sid={sid}");
            send(gateway.request(method, &target).body("40")).await.ok();
        }
    }
    // So is the WebSocket that follows.
    for sid in &sids {
        all.iter().for_each(TestOrigin::forget);
        let mut open =
            socket(&gateway, &format!("/ws/echo?EIO=4&transport=websocket&sid={sid}")).await.unwrap();
        echoes(&mut open, "2probe").await;
        let home: usize = sid[1..2].parse().unwrap();
        assert_eq!(all[home].count("/ws/echo"), 1, "{sid}: {:?}", counts(&all, "/ws/echo"));
    }
    assert_eq!(gateway.get(&format!("{HANDSHAKE}&sid=s9-unknown")).await.status, 400);
}

/// Socket.IO 1 and 2 (Flask-SocketIO 4) frame what they send otherwise, and by JSONP it is a script.
#[tokio::test]
async fn sessions_of_engine_io_3_are_found_as_well() {
    let all = servers(3).await;
    let gateway = builder(&all).origin("sticky = { query = \"sid\" }").start().await;
    for form in ["EIO=3", "EIO=3&b64=1", "EIO=3&b64=1&j=0", "EIO=4&j=0"] {
        let target = format!("/socket.io/?{form}&transport=polling");
        for _ in 0..8 {
            let sid = gateway.get(&target).await.ok().header("x-sid").to_owned();
            for method in ["GET", "POST"] {
                let request = gateway.request(method, &format!("{target}&sid={sid}"));
                let binary =
                    request.header("content-type", "application/octet-stream").body(&b"\0\x01\xff2"[..]);
                let reply = send(binary).await;
                assert_eq!(reply.status, 200, "{form} {method} {sid}: {reply:?}");
            }
        }
    }
}

/// A session that begins as a WebSocket is named in its first message.
#[tokio::test]
async fn a_session_that_begins_as_a_websocket_is_heard_as_well() {
    const OPEN: &str = "0{\"sid\":\"ws-1\"}";
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let first = [head.as_bytes(), &[0x81, u8::try_from(OPEN.len()).unwrap()], OPEN.as_bytes()].concat();
    let (maker, others) = (RawOrigin::start(first, "").await, origins(2).await);
    let gateway = builder(&others)
        .server(&maker.url())
        .origin("sticky = { query = \"sid\" }\nretries = 0")
        .start()
        .await;
    let ask = async |target: &str| {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut read = String::new();
        // Whoever doesn't upgrade answers with JSON.
        while !read.contains(OPEN) && !read.ends_with('}') {
            let mut piece = [0; 1024];
            let n = tokio::time::timeout(SOON, stream.read(&mut piece)).await.unwrap().unwrap();
            assert!(n > 0, "{read:?}");
            read.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
        read.contains(OPEN)
    };
    let mut found = false;
    for _ in 0..3 {
        found |= ask("/socket.io/?EIO=4&transport=websocket").await;
    }
    assert!(found && maker.requests() == 1);
    for n in 2..5 {
        assert!(ask("/socket.io/?EIO=4&transport=websocket&sid=ws-1").await);
        assert_eq!(maker.requests(), n, "it is asked, and no other");
    }
}

#[tokio::test]
async fn what_is_heard_outlives_a_reload() {
    let all = servers(3).await;
    let first = builder(&all).origin("sticky = { query = \"sid\" }");
    let gateway = first.start().await;
    let sids = [sid(&gateway.get(HANDSHAKE).await.ok()), sid(&gateway.get(HANDSHAKE).await.ok())];
    assert!(gateway.reload(&first.clone().origin("retries = 5")).await);
    for sid in sids.iter().cycle().take(8) {
        gateway.get(&format!("{HANDSHAKE}&sid={sid}")).await.ok();
    }
}

#[tokio::test]
async fn a_session_is_found_by_its_cookie_on_any_node() {
    let all = servers(3).await;
    let nodes = [builder(&all).origin(BOTH).start().await, builder(&all).origin(BOTH).start().await];
    for _ in 0..6 {
        let reply = nodes[0].get(HANDSHAKE).await.ok();
        let said = reply.all("set-cookie");
        assert!(said.starts_with("app=") && said.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{said}");
        assert!(!said.contains("127.0.0.1"), "{said}");
        let (sid, cookie) = (sid(&reply), cookie(&reply));
        for node in nodes.iter().chain(&nodes) {
            let fields = [("cookie", &*format!("a=1; {cookie}; b=2"))];
            let reply = node.get_with(&format!("{HANDSHAKE}&sid={sid}"), &fields).await.ok();
            assert_eq!(reply.header("set-cookie"), "", "it has it already");
        }
        let home: usize = sid[1..2].parse().unwrap();
        let seen = all[home].seen("/socket.io/").pop().unwrap();
        assert_eq!(seen.header("cookie"), Some("a=1; b=2"), "the cookie is the gateway's own");
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_replaced() {
    let mut all = servers(2).await;
    let gateway = builder(&all).origin(BOTH).start().await;
    let reply = gateway.get(HANDSHAKE).await.ok();
    let (sid, old) = (sid(&reply), cookie(&reply));
    let home: usize = sid[1..2].parse().unwrap();
    all[home].kill();
    // The other one doesn't know the session, which makes Socket.IO connect anew.
    let lost = gateway.get_with(&format!("{HANDSHAKE}&sid={sid}"), &[("cookie", &old)]).await;
    assert_eq!(lost.status, 400, "{lost:?}");
    let anew = gateway.get_with(HANDSHAKE, &[("cookie", &old)]).await.ok();
    let other = cookie(&anew);
    assert!(!other.is_empty() && other != old, "{anew:?}");
    gateway.get_with(&format!("{HANDSHAKE}&sid={}", self::sid(&anew)), &[("cookie", &other)]).await.ok();
}

#[tokio::test]
async fn with_a_secret_the_cookie_is_another_one() {
    let all = servers(1).await;
    let plain = builder(&all).origin(BOTH).start().await;
    let with = |secret: &str| {
        builder(&all).origin(&format!("sticky = {{ cookie = \"app\", secret = \"{secret}\" }}"))
    };
    let (one, two) = (with("one").start().await, with("two").start().await);
    let mut cookies = std::collections::BTreeSet::new();
    for gateway in [&plain, &one, &two] {
        cookies.insert(cookie(&gateway.get("/app/x").await.ok()));
    }
    assert_eq!(cookies.len(), 3);
}

/// Nothing that others could get names a server, and the cookie makes no variant.
#[tokio::test]
async fn no_shared_answer_carries_the_cookie() {
    let all = origins(2).await;
    for origin in &all {
        origin.on("/follow", |seen| {
            Answer::echo(seen).header("cache-control", "max-age=60").header("vary", "cookie")
        });
        origin.on("/app/public", |seen| Answer::echo(seen).header("cache-control", "public, max-age=60"));
        origin.on("/posted", |seen| {
            Answer::echo(seen).header("cache-control", "max-age=60").header("content-location", "/posted")
        });
    }
    let gateway = builder(&all)
        .origin(BOTH)
        .route("/kept", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .route("/follow", "cache = \"origin\"")
        .route("/posted", "cache = \"origin\"")
        .start()
        .await;
    let mine = cookie(&gateway.get("/app/x").await.ok());
    assert!(mine.starts_with("app="));
    for fields in [&[][..], &[("cookie", &*mine)]] {
        for path in ["/kept", "/follow", "/app/public"] {
            let reply = gateway.get_with(path, fields).await.ok();
            assert_eq!(reply.header("set-cookie"), "", "{path}: {reply:?}");
        }
    }
    for path in ["/kept", "/follow"] {
        assert_eq!(counts(&all, path).iter().sum::<usize>(), 1, "{path} is one answer for all");
    }
    // The answer to a POST may be kept: the one who asked gets the cookie, the one who reads it later doesn't.
    let posted = send(gateway.request("POST", "/posted").body("x")).await.ok();
    assert!(posted.header("set-cookie").starts_with("app="), "{posted:?}");
    let read = gateway.get("/posted").await.ok();
    assert!(read.is_hit(), "{read:?}");
    assert_eq!(read.header("set-cookie"), "");
}

/// A client on TLS gets a `Secure` cookie, also if another machine terminates the TLS.
#[tokio::test]
async fn over_tls_the_cookie_stays_there() {
    let all = servers(1).await;
    let gateway = builder(&all).setting("trusted_proxies = [\"127.0.0.0/8\"]").origin(BOTH).start().await;
    for (proto, secure) in [("https", true), ("http", false)] {
        let fields = [("x-forwarded-proto", proto), ("x-forwarded-for", "1.2.3.4")];
        let said = gateway.get_with(HANDSHAKE, &fields).await.ok().all("set-cookie");
        assert_eq!(said.ends_with("; Secure"), secure, "{proto}: {said}");
    }
}
