//! Real clients and a real server: uploads beside requests of others, and everyone gets the answer to what was asked.
//!
//! Needs Python with venv; without it the test fails and says so.

use super::ends::{connect, upload, CASES};
use crate::support::{process::Process, *};
use bytes::Bytes;
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// The time for which the clients ask.
const TIME: Duration = Duration::from_secs(10);
/// The longest start of gunicorn on a busy machine.
const STEP: Duration = Duration::from_secs(60);

/// gunicorn with threads, of an application that tells what it was asked.
async fn gunicorn() -> (Process, SocketAddr) {
    for _ in 0..5 {
        let address = free_address();
        let arguments =
            ["--worker-class", "gthread", "--threads", "8", "--keep-alive", "30", "--workers", "1"];
        let mut command = python::module("gunicorn", &arguments).await;
        command.args(["--bind", &address.to_string(), "upload_app:app"]);
        let mut process = Process::spawn("gunicorn", &mut command);
        let url = format!("http://{address}/up");
        let up = eventually("gunicorn answers or ends", STEP, || {
            let (ended, asked) = (process.ended().is_some(), client::client().get(&url));
            async move {
                let answered = client::try_send(asked).await.is_ok_and(|reply| reply.status == 200);
                (ended || answered).then_some(answered)
            }
        })
        .await;
        if up && process.ended().is_none() {
            return (process, address);
        }
    }
    panic!("gunicorn does not start");
}

/// The number of the next request: no two are alike.
fn number() -> usize {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    NUMBER.fetch_add(1, Ordering::SeqCst)
}

/// Asks by HTTP/1.1, by connections that are used again.
async fn innocent(gateway: &Gateway, end: Instant) -> usize {
    let mut asked = 0;
    while Instant::now() < end {
        let path = format!("/who/{}", number());
        let reply = gateway.get(&path).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, &*format!("GET {path} 0")));
        asked += 1;
    }
    asked
}

async fn innocent_by_http2(to: SocketAddr, end: Instant) -> usize {
    let (mut h2, mut asked) = (connect(to).await, 0);
    while Instant::now() < end {
        let path = format!("/who/{}", number());
        let answer = upload(&mut h2, "GET", &path, (&[], false, super::ends::End::Head)).await;
        assert_eq!(answer, (200, format!("GET {path} 0")));
        asked += 1;
    }
    asked
}

/// Uploads in chunks, some of which the application does not read before it answers.
async fn uploader(gateway: &Gateway, end: Instant) -> usize {
    let mut asked = 0;
    while Instant::now() < end {
        let n = number();
        let path = if n.is_multiple_of(3) { format!("/early/{n}") } else { format!("/read/{n}") };
        let pieces = (0..n % 5).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"hello")));
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
        let reply = send(gateway.request("POST", &path).body(body)).await;
        let read = if path.starts_with("/early") { 0 } else { 5 * (n % 5) };
        assert_eq!((reply.status.as_u16(), reply.text()), (200, &*format!("POST {path} {read}")));
        asked += 1;
    }
    asked
}

async fn uploader_by_http2(to: SocketAddr, end: Instant) -> usize {
    let (mut h2, mut asked) = (connect(to).await, 0_usize);
    while Instant::now() < end {
        if asked > 0 && asked.is_multiple_of(100) {
            // Of pieces as small as these a connection may bring only so many.
            h2 = connect(to).await;
        }
        let n = number();
        let path = if n.is_multiple_of(3) { format!("/early/{n}") } else { format!("/read/{n}") };
        let (method, case) = (["POST", "PUT", "DELETE"][n % 3], CASES[n % CASES.len()]);
        let answer = upload(&mut h2, method, &path, case).await;
        let read = if path.starts_with("/early") { 0 } else { case.0.concat().len() };
        assert_eq!(answer, (200, format!("{method} {path} {read}")), "{case:?}");
        asked += 1;
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_gets_the_answer_to_what_was_asked() {
    let (_process, address) = gunicorn().await;
    let mut gateway = GatewayBuilder::new(&format!("http://{address}"))
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .route("/*", "")
        .start()
        .await;
    let to = gateway.listeners(2).await[1];
    let end = Instant::now() + TIME;
    let (one, two, three, four) = tokio::join!(
        innocent(&gateway, end),
        innocent_by_http2(to, end),
        uploader(&gateway, end),
        uploader_by_http2(to, end),
    );
    for asked in [one, two, three, four] {
        assert!(asked > 20, "{one} {two} {three} {four}");
    }
    gateway.assert_sound().await;
}
