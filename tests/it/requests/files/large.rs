//! Large files: in no one's memory, and in no one's way.

use crate::{requests::files::Tree, support::*};
use std::fs::{File, OpenOptions};

const LARGE: usize = 64 << 20;

async fn gateway(origin: &TestOrigin, tree: &Tree) -> Gateway {
    origin.on("/ordered", |_| Answer::new("a/b", "").header("x-accel-redirect", "/protected/large"));
    Gateway::with(origin)
        .route("/ordered", "")
        .raw(&format!("[[route]]\npath = \"/*\"\n{}", tree.files("")))
        .raw(&tree.accel())
        .start()
        .await
}

#[tokio::test]
async fn large_files_arrive_and_are_not_kept() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let content = noise(LARGE, 7);
    tree.write("www/large", &content);
    tree.write("big/large", &content);
    let gateway = gateway(&origin, &tree).await;
    let expected = sha256(&content);
    drop(content);
    gateway.get("/").await.ok();
    let (before, _) = gateway.memory();
    for path in ["/large", "/ordered"] {
        let replies = tokio::join!(gateway.get(path), gateway.get(path), gateway.get(path));
        for reply in [replies.0, replies.1, replies.2] {
            assert_eq!(sha256(&reply.ok().body), expected, "{path}");
        }
    }
    let (_, most) = gateway.memory();
    assert!(most < before + (LARGE as u64) / 2, "{before} bytes before, {most} at most");
    let middle = format!("bytes={}-{}", LARGE / 2, LARGE / 2 + 999_999);
    let part = gateway.get_with("/large", &[("range", &middle)]).await;
    assert_eq!((part.status.as_u16(), part.body.len()), (206, 1_000_000));
    assert_eq!(part.body, noise(LARGE, 7)[LARGE / 2..LARGE / 2 + 1_000_000]);
}

#[tokio::test]
async fn who_takes_nothing_is_in_nobodys_way() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    File::create(tree.at("www/large")).unwrap().set_len(1 << 30).unwrap();
    let mut gateway = gateway(&origin, &tree).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut transfer = Transfer::ask_narrowly(gateway.address(), "/large").await;
        assert_eq!(transfer.final_head().await.header("content-length"), Some("1073741824"));
        waiting.push(transfer);
    }
    assert_eq!(gateway.get("/digits.txt").await.ok().body.len(), 10);
    drop(waiting);
    let aborted = || async {
        gateway.metrics().await.value("tidegate_files_total", &[("outcome", "aborted")]) as u64 == 20
    };
    until("all who left are counted", SOON, aborted).await;
    gateway.assert_sound().await;
}

#[tokio::test]
async fn a_file_that_becomes_shorter_breaks_off() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    File::create(tree.at("www/large")).unwrap().set_len(1 << 28).unwrap();
    let mut gateway = gateway(&origin, &tree).await;
    let mut transfer = Transfer::ask_narrowly(gateway.address(), "/large").await;
    assert_eq!(transfer.final_head().await.status, 200);
    OpenOptions::new().write(true).open(tree.at("www/large")).unwrap().set_len(1000).unwrap();
    let (body, end) = transfer.rest().await;
    assert_eq!(end, End::Broken, "{} bytes", body.len());
    let failed = || async {
        gateway.metrics().await.value("tidegate_files_total", &[("outcome", "failed")]) as u64 == 1
    };
    until("it is counted", SOON, failed).await;
    gateway.assert_sound().await;
}
