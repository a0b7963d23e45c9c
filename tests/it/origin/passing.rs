//! Uncached answers: encoded on their way for clients that accept it, decoded for those that don't, else unchanged. A
//! route that keeps nothing and one whose origin forbids it behave alike.

mod heads;

use crate::support::*;
use std::io::{Read, Write};

/// Through a route that keeps nothing, and through one that may not.
const PATHS: [&str; 2] = ["/off/x", "/followed/x"];
const PRIVATE: (&str, &str) = ("cache-control", "private");

async fn gateway(origin: &TestOrigin) -> Gateway {
    let builder = Gateway::with(origin).origin("retries = 0").route("/off/*", "");
    builder.route("/followed/*", "cache = \"origin\"").start().await
}

fn text() -> String {
    "a line of the page, \n".repeat(3000)
}

fn page(body: impl Into<bytes::Bytes>) -> Answer {
    Answer::new("text/html; charset=utf-8", body).header(PRIVATE.0, PRIVATE.1).header("etag", "\"v1\"")
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// Each twice: the first request of a followed route finds out, the second knows.
fn turns() -> impl Iterator<Item = &'static str> {
    PATHS.into_iter().flat_map(|path| [path, path])
}

fn on_both(origin: &TestOrigin, answer: impl Fn(&Seen) -> Answer + Send + Sync + Clone + 'static) {
    for path in PATHS {
        origin.on(path, answer.clone());
    }
}

async fn asked(gateway: &Gateway, path: &str, accepted: &str) -> Reply {
    gateway.get_with(path, &[("accept-encoding", accepted)]).await
}

#[tokio::test]
async fn text_is_encoded_on_its_way() {
    let origin = TestOrigin::start().await;
    on_both(&origin, |_| page(text()).header("accept-ranges", "bytes").header("content-md5", "x"));
    let gateway = gateway(&origin).await;
    for path in turns() {
        for coding in ["gzip", "br", "zstd"] {
            let reply = asked(&gateway, path, coding).await.ok();
            assert_eq!(reply.header("content-encoding"), coding, "{path}: {:?}", reply.headers);
            assert!(reply.decoded() == text().as_bytes() && reply.body.len() < text().len() / 4, "{path}");
            assert_eq!(reply.header("etag"), "W/\"v1\"", "{path}");
            assert!(reply.all("vary").to_lowercase().contains("accept-encoding"), "{path}");
            for name in ["content-length", "accept-ranges", "content-md5"] {
                assert!(!reply.headers.contains_key(name), "{path}: {name} in {:?}", reply.headers);
            }
        }
        let plain = gateway.get(path).await.ok();
        assert!(plain.text() == text() && plain.header("etag") == "\"v1\"", "{path}: {:?}", plain.headers);
        assert!(
            plain.all("vary").to_lowercase().contains("accept-encoding"),
            "{path}: others get another form"
        );
    }
}

#[tokio::test]
async fn chunks_are_encoded_as_well() {
    let origin = TestOrigin::start().await;
    on_both(&origin, |_| page(text()).then_held(text()));
    let gateway = gateway(&origin).await;
    for path in turns() {
        let reply = asked(&gateway, path, "gzip").await.ok();
        assert!(reply.decoded() == [text(), text()].concat().as_bytes(), "{path}");
        assert_eq!(reply.header("content-encoding"), "gzip", "{path}");
    }
}

/// Bytes that have arrived are sent at once, however few: a page must not wait in an encoder.
#[tokio::test]
async fn an_encoder_holds_nothing_back() {
    let origin = TestOrigin::start().await;
    on_both(&origin, |_| page("the first line\n").then_held("the second line\n"));
    let gateway = gateway(&origin).await;
    for path in turns() {
        origin.hold();
        let mut client = Transfer::ask_with(gateway.address(), path, &[("Accept-Encoding", "gzip")]).await;
        assert_eq!(client.final_head().await.header("content-encoding"), Some("gzip"), "{path}");
        let (mut coded, mut line) = (Vec::new(), Vec::new());
        while line.len() < 15 {
            coded.extend_from_slice(&client.piece().await.unwrap());
            line.clear();
            // What is missing is an error here, and what is there was read before it.
            drop(flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut line));
        }
        assert_eq!(line, b"the first line\n");
        origin.release();
        let (rest, end) = client.rest().await;
        coded.extend(rest);
        line.clear();
        flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut line).unwrap();
        assert_eq!((&line[..], end), (&b"the first line\nthe second line\n"[..], End::Clean), "{path}");
    }
}

#[tokio::test]
async fn what_is_not_to_be_encoded_passes_as_it_is() {
    let origin = TestOrigin::start().await;
    let small = "x".repeat(200);
    let cases: Vec<(&str, Answer)> = vec![
        ("small", page(small)),
        ("an image", Answer::new("image/png", noise(5000, 1))),
        ("no type", {
            let mut typed = Answer::new("x/y", text());
            typed = typed.header("x-case", "no type");
            typed
        }),
        ("no-transform", Answer::new("text/html", text()).header("cache-control", "private, no-transform")),
        ("encoded", page(gzip(text().as_bytes())).header("content-encoding", "gzip")),
        ("foreign", page(text()).header("content-encoding", "x-own")),
        ("a part", page(text()).status(206).header("content-range", "bytes 0-62999/99999")),
    ];
    for (case, answer) in cases {
        let answer = answer.header("x-kept", "1");
        let plain = answer.clone();
        on_both(&origin, move |_| plain.clone());
        let gateway = gateway(&origin).await;
        for path in turns() {
            let reply = asked(&gateway, path, "gzip, br, zstd").await;
            let direct = send(gateway.client().get(format!("{}{path}", origin.url()))).await;
            assert!(reply.body == direct.body, "{case} {path}: {:?}", reply.headers);
            for name in ["content-encoding", "content-type", "content-range", "etag", "content-length"] {
                assert_eq!(reply.header(name), direct.header(name), "{case} {path}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn what_has_no_body_gets_none() {
    let origin = TestOrigin::start().await;
    on_both(&origin, |seen| match seen.header("x-status") {
        Some("204") => page("").status(204),
        Some("304") => page("").status(304),
        _ => page(text()),
    });
    let gateway = gateway(&origin).await;
    for path in turns() {
        for status in ["204", "304"] {
            let fields = [("accept-encoding", "gzip"), ("x-status", status), ("if-none-match", "\"v1\"")];
            let reply = gateway.get_with(path, &fields).await;
            assert!(
                reply.body.is_empty() && !reply.headers.contains_key("content-encoding"),
                "{path}: {reply:?}"
            );
            if status == "204" {
                assert_eq!(reply.status, 204, "{path}");
            }
        }
        let head = gateway.send_with("HEAD", path, &[("accept-encoding", "gzip")]).await.ok();
        assert!(head.body.is_empty(), "{path}: {head:?}");
        assert!(gateway.get(path).await.ok().text() == text(), "{path}: the connection is in step");
    }
}

#[tokio::test]
async fn events_pass_at_once_and_plain() {
    let origin = TestOrigin::start().await;
    on_both(&origin, |_| {
        Answer::new("text/event-stream", "data: one\n\n")
            .then_held("data: two\n\n")
            .header("cache-control", "no-store")
    });
    let gateway = gateway(&origin).await;
    for path in turns() {
        origin.hold();
        let mut client =
            Transfer::ask_with(gateway.address(), path, &[("Accept-Encoding", "gzip, br")]).await;
        assert_eq!(client.final_head().await.header("content-encoding"), None, "{path}");
        assert_eq!(&client.piece().await.unwrap()[..], b"data: one\n\n", "{path}");
        origin.release();
        assert_eq!(client.rest().await, (b"data: two\n\n".to_vec(), End::Clean), "{path}");
    }
}

#[tokio::test]
async fn what_a_client_refuses_is_decoded_for_it() {
    let origin = TestOrigin::start().await;
    let brotli = {
        let mut coded = Vec::new();
        brotli::CompressorWriter::new(&mut coded, 4096, 5, 20).write_all(text().as_bytes()).unwrap();
        coded
    };
    let codings = [
        ("gzip", gzip(text().as_bytes())),
        ("br", brotli),
        ("zstd", zstd::encode_all(text().as_bytes(), 3).unwrap()),
    ];
    for (coding, body) in codings {
        let coded = body.clone();
        on_both(&origin, move |_| page(coded.clone()).header("content-encoding", coding));
        let gateway = gateway(&origin).await;
        for path in turns() {
            for accepted in ["identity", &format!("{coding};q=0"), "deflate"] {
                let reply = asked(&gateway, path, accepted).await.ok();
                assert!(reply.text() == text(), "{coding} for {accepted}, {path}");
                assert_eq!(reply.header("content-encoding"), "", "{coding} for {accepted}, {path}");
                assert_eq!(reply.header("etag"), "W/\"v1\"", "{coding} for {accepted}, {path}");
            }
            let as_it_is = asked(&gateway, path, coding).await.ok();
            assert!(as_it_is.body == body && as_it_is.header("etag") == "\"v1\"", "{coding}, {path}");
            let head = gateway.send_with("HEAD", path, &[("accept-encoding", "identity")]).await.ok();
            assert!(head.body.is_empty());
        }
    }
}

#[tokio::test]
async fn weights_are_respected() {
    let origin = TestOrigin::start().await;
    on_both(&origin, |_| page(text()));
    let gateway = gateway(&origin).await;
    for (accepted, gets) in [
        ("gzip, br", "br"),
        ("gzip;q=1, br;q=0.5", "gzip"),
        ("br;q=0, gzip;q=0.1", "gzip"),
        ("gzip;q=0, br;q=0, zstd;q=0", ""),
        ("identity", ""),
        ("identity;q=1, gzip;q=0.5", ""),
        ("*", "br"),
        ("*;q=0, zstd", "zstd"),
        ("deflate, compress", ""),
        ("", ""),
        ("GZIP", "gzip"),
    ] {
        for path in turns() {
            let reply = asked(&gateway, path, accepted).await.ok();
            assert_eq!(reply.header("content-encoding"), gets, "{accepted}, {path}");
            assert!(reply.decoded() == text().as_bytes(), "{accepted}, {path}");
        }
    }
}

/// A body that can't be decoded to its end is never a whole one.
#[tokio::test]
async fn a_broken_coding_breaks_the_transfer() {
    let origin = TestOrigin::start().await;
    let whole = gzip(&noise(100_000, 5));
    let mut flipped = whole.clone();
    flipped[50_000] ^= 0xff;
    for broken in [whole[..whole.len() / 2].to_vec(), flipped, b"no gzip at all, but long enough".to_vec()] {
        on_both(&origin, move |_| page(broken.clone()).header("content-encoding", "gzip"));
        let gateway = gateway(&origin).await;
        for path in turns() {
            let fields = [("Accept-Encoding", "identity"), ("Connection", "close")];
            let mut client = Transfer::ask_with(gateway.address(), path, &fields).await;
            let head = client.final_head().await;
            if head.status == 200 {
                assert_eq!(client.rest().await.1, End::Broken, "{path}: it looks whole");
            } else {
                assert!(head.status >= 500, "{path}: {}", head.text);
            }
        }
    }
}

/// The origin breaks off inside a text that is encoded on its way: the encoder must not close it neatly.
#[tokio::test]
async fn a_cut_text_is_not_closed_by_the_encoder() {
    let origin = TestOrigin::start().await;
    on_both(&origin, |_| page(text()).chunked().broken());
    let gateway = gateway(&origin).await;
    for path in turns() {
        for coding in ["gzip", "br", "zstd"] {
            origin.hold();
            let mut client =
                Transfer::ask_with(gateway.address(), path, &[("Accept-Encoding", coding)]).await;
            let head = client.final_head().await;
            assert_eq!((head.status, head.header("content-encoding")), (200, Some(coding)), "{path}");
            origin.release();
            assert_eq!(client.rest().await.1, End::Broken, "{path} {coding}: it looks whole");
        }
    }
}

/// A few bytes that stand for gigabytes are for the client to decode, not for the gateway to keep.
#[tokio::test]
async fn a_bomb_costs_little_memory() {
    let origin = TestOrigin::start().await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0_u8; 1 << 20];
    for _ in 0..256 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    on_both(&origin, move |_| page(bomb.clone()).header("content-encoding", "gzip"));
    let gateway = gateway(&origin).await;
    let (idle, _) = gateway.memory();
    for path in turns() {
        let fields = [("Accept-Encoding", "identity"), ("Connection", "close")];
        let mut client = Transfer::ask_with(gateway.address(), path, &fields).await;
        client.final_head().await;
        let mut read = 0_usize;
        while let Ok(piece) = client.piece().await {
            read += piece.len();
        }
        assert!(read <= 256 << 20);
    }
    let more = gateway.memory().1.saturating_sub(idle);
    assert!(more < 100 << 20, "{more} bytes more than idle");
}

/// `Connection` must not talk the gateway out of the framing: what follows would be taken for the next message.
#[tokio::test]
async fn framing_is_not_for_connection_to_name() {
    let origin = TestOrigin::start().await;
    on_both(&origin, |seen| page(seen.body.clone()));
    let gateway = gateway(&origin).await;
    let inner = "GET /off/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for named in ["Content-Length", "content-length, host", "Transfer-Encoding, Content-Length"] {
        for path in PATHS {
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: {named}, close\r\nContent-Length: {}\r\n\r\n{inner}",
                inner.len()
            );
            let reply = raw_exchange(gateway.address(), request.as_bytes()).await;
            if reply.status == 200 {
                let seen = origin.seen(path).pop().unwrap();
                assert_eq!(seen.body, inner.as_bytes(), "{named} {path}");
            }
        }
    }
    assert_eq!(origin.count("/off/smuggled"), 0);
    gateway.get("/off/smuggled").await.ok();
}

/// The lanes on which answers are encoded on their way: a file, proxied by the native session and by Pingora's, a
/// fill that arrives.
const LANES: [(&str, &[(&str, &str)]); 4] = [
    ("/files/large.txt", &[]),
    ("/off/large", &[]),
    ("/off/large", &[("Connection", "keep-alive"), ("Connection", "keep-alive")]),
    ("/followed/large", &[]),
];

/// Text that is worth encoding and takes its time.
fn large() -> Vec<u8> {
    use std::fmt::Write as _;
    let mut text = String::new();
    for n in 0_u64..200_000 {
        writeln!(text, "{} line of a page", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).unwrap();
    }
    text.into_bytes()
}

async fn with_large(origin: &TestOrigin, encoding: &str) -> (tempfile::TempDir, Gateway) {
    let tree = tempfile::TempDir::new().unwrap();
    std::fs::write(tree.path().join("large.txt"), large()).unwrap();
    for path in ["/off/large", "/followed/large"] {
        origin.on(path, |_| Answer::new("text/plain", large()).header("cache-control", "no-store"));
    }
    let files = format!("[[route]]\npath = \"/files/*\"\nfiles = {{ root = {:?} }}", tree.path());
    let builder =
        Gateway::with(origin).raw(&files).route("/off/*", "").route("/followed/*", "cache = \"origin\"");
    let builder = builder.route("/kept", r#"cache = { namespace = "kpi", scope = "public", ttl = "60s" }"#);
    let gateway = builder.raw(&format!("[encoding]\n{encoding}")).start().await;
    (tree, gateway)
}

/// Encoders that would take half a second for a piece, and ordinary hits beside them.
#[tokio::test]
async fn encoding_keeps_nobody_else_waiting() {
    let origin = TestOrigin::start().await;
    let (_tree, gateway) = with_large(&origin, "levels = { br = 11 }").await;
    gateway.get("/kept").await.ok();
    let address = gateway.address();
    let attack = async {
        for n in 0_usize.. {
            let (path, fields) = LANES[n % LANES.len()];
            let fields = [fields, &[("Accept-Encoding", "br")]].concat();
            let leaves = tokio::spawn(async move {
                let mut leaves = Transfer::ask_with(address, path, &fields).await;
                leaves.final_head().await;
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            });
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            drop(leaves);
        }
    };
    let hits = async {
        let mut took = Vec::new();
        for _ in 0..100 {
            let began = std::time::Instant::now();
            assert!(gateway.get("/kept").await.ok().is_hit());
            took.push(began.elapsed());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        took
    };
    let mut took = tokio::select! {
        () = attack => unreachable!(),
        took = hits => took,
    };
    let p90 = quantile(&mut took, 0.9);
    assert!(p90 < std::time::Duration::from_millis(250), "{p90:?}");
}

/// Clients that take nothing hold encoders; beyond what these may hold answers go plain, and say so.
#[tokio::test]
async fn what_encoders_hold_is_bounded_and_the_rest_goes_plain() {
    let origin = TestOrigin::start().await;
    let (_tree, gateway) = with_large(&origin, "memory = \"8MiB\"").await;
    let held = || async { gateway.metrics().await.value("tidegate_codec_memory_bytes", &[]) };
    for (path, fields) in LANES {
        let fields = [fields, &[("Accept-Encoding", "br")]].concat();
        let (mut encoded, mut plain) = (Vec::new(), Vec::new());
        while plain.is_empty() {
            let mut client = Transfer::ask_narrowly_with(gateway.address(), path, &fields).await;
            let head = client.final_head().await;
            assert!(
                head.header("vary").is_some_and(|vary| vary.contains("accept-encoding")),
                "{}",
                head.text
            );
            match head.header("content-encoding") {
                Some("br") => encoded.push(client),
                None => plain.push(client),
                other => panic!("{other:?}"),
            }
            assert!(encoded.len() < 10, "{path}: nothing bounds them");
        }
        assert!(!encoded.is_empty() && held().await > 1e6, "{path}");
        assert!(held().await <= f64::from(8 << 20));
        let whole = plain.pop().unwrap().rest().await;
        assert!(whole == (large(), End::Clean), "{path}");
        drop(encoded);
        until("it is given back", SOON, || async { held().await == 0.0 }).await;
    }
    assert!(gateway.metrics().await.value("tidegate_codings_refused_total", &[]) >= 4.0);
}
