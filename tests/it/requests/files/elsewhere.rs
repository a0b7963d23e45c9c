//! Internal locations at another origin: a bucket, say, whose signed URLs stay inside.

use crate::{requests::files::DIGITS, support::*};

/// An application and a bucket behind it.
struct Stage {
    app: TestOrigin,
    bucket: TestOrigin,
    gateway: Gateway,
}

impl Stage {
    async fn set() -> Self {
        let (app, bucket) = (TestOrigin::start().await, TestOrigin::start().await);
        let accel = format!(
            "[[origin]]\nname = \"s3\"\nservers = [{:?}]\nretries = 0\n\
             [[accel]]\ninternal = \"/s3/\"\norigin = \"s3\"\nprefix = \"/bucket/\"",
            bucket.url()
        );
        let gateway =
            Gateway::with(&app).route("/*", "").route("/follow/*", "cache = \"origin\"").raw(&accel);
        let gateway = gateway.start().await;
        Self { app, bucket, gateway }
    }

    /// The application orders this.
    fn orders(&self, path: &str, target: &'static str) {
        self.app.on(path, move |_| {
            Answer::new("text/html", "")
                .header("x-accel-redirect", target)
                .header("content-disposition", "attachment")
                .header("set-cookie", "a=1")
        });
    }
}

#[tokio::test]
async fn a_signed_url_stays_inside() {
    let stage = Stage::set().await;
    stage.bucket.on("/bucket/a/b.pdf", |_| {
        Answer::new("application/pdf", DIGITS)
            .header("etag", "\"s3\"")
            .header("x-amz-request-id", "1")
            .header("x-accel-redirect", "/s3/other")
            .header("set-cookie", "bucket=1")
    });
    for path in ["/x", "/follow/x"] {
        stage.orders(path, "/s3/a/b.pdf?X-Amz-Signature=abc%2Fdef");
        let fields =
            [("authorization", "Bearer x"), ("cookie", "b=2"), ("range", "bytes=0-3"), ("x-other", "1")];
        let reply = stage.gateway.get_with(path, &fields).await.ok();
        assert_eq!((reply.text(), reply.header("content-type")), (DIGITS, "application/pdf"), "{path}");
        assert_eq!((reply.header("etag"), reply.header("content-disposition")), ("\"s3\"", "attachment"));
        assert_eq!(reply.all("set-cookie"), "a=1");
        for name in ["x-amz-request-id", "x-accel-redirect", "location"] {
            assert!(!reply.headers.contains_key(name), "{name}: {reply:?}");
        }
        let seen = stage.bucket.seen("/bucket/a/b.pdf").pop().unwrap();
        assert_eq!(seen.query.as_deref(), Some("X-Amz-Signature=abc%2Fdef"));
        assert_eq!((seen.header("range"), seen.header("authorization")), (Some("bytes=0-3"), None));
        assert_eq!((seen.header("cookie"), seen.header("x-other")), (None, None));
        assert_eq!(seen.header("host"), Some(stage.bucket.address().to_string().as_str()));
    }
    // A URL that is signed for GET is not asked by HEAD.
    let head = stage.gateway.send_with("HEAD", "/x", &[]).await.ok();
    assert_eq!((head.header("content-length"), head.body.len()), ("10", 0));
    assert_eq!(stage.bucket.seen("/bucket/a/b.pdf").pop().unwrap().method, "GET");
    assert_eq!(stage.gateway.metrics().await.value("tidegate_accel_total", &[("outcome", "origin")]), 3.0);
}

#[tokio::test]
async fn parts_and_conditions_are_the_buckets() {
    let stage = Stage::set().await;
    stage.orders("/x", "/s3/big file.bin");
    stage.bucket.on("/bucket/big%20file.bin", |seen| {
        match (seen.header("range"), seen.header("if-none-match")) {
            (Some(_), _) => Answer::new("a/b", "12").status(206).header("content-range", "bytes 1-2/10"),
            (_, Some(_)) => Answer::new("a/b", "").status(304).header("etag", "\"s3\""),
            _ => Answer::new("a/b", DIGITS),
        }
    });
    let part = stage.gateway.get_with("/x", &[("range", "bytes=1-2")]).await;
    assert_eq!((part.status.as_u16(), part.text()), (206, "12"));
    assert_eq!(part.header("content-range"), "bytes 1-2/10");
    let fresh = stage.gateway.get_with("/x", &[("if-none-match", "\"s3\"")]).await;
    assert_eq!(
        (fresh.status.as_u16(), fresh.header("etag"), fresh.header("content-type")),
        (304, "\"s3\"", "")
    );
    let head = stage.gateway.send_with("HEAD", "/x", &[]).await.ok();
    assert_eq!((head.header("content-length"), head.body.len()), ("10", 0));
    assert_eq!(stage.bucket.seen("/bucket/big%20file.bin").pop().unwrap().method, "HEAD");
}

#[tokio::test]
async fn what_the_bucket_says_of_itself_stays_inside() {
    let mut stage = Stage::set().await;
    const TOLD: &str = "<Error><Code>AccessDenied</Code><Key>a/b</Key></Error>";
    stage.orders("/x", "/s3/a");
    for (status, expected) in [(403, 502), (500, 502), (307, 502), (404, 404), (410, 404)] {
        stage.bucket.on("/bucket/a", move |_| {
            Answer::new("application/xml", TOLD).status(status).header("location", "http://bucket.example/a")
        });
        let reply = stage.gateway.get("/x").await.problem(expected);
        assert!(!reply.text().contains("AccessDenied") && reply.header("location").is_empty(), "{reply:?}");
    }
    stage.orders("/out", "/s3/../other/a");
    stage.gateway.get("/out").await.problem(502);
    stage.bucket.kill();
    stage.gateway.get("/x").await.problem(502);
    let metrics = stage.gateway.metrics().await;
    assert_eq!(metrics.value("tidegate_accel_total", &[("outcome", "origin_failed")]), 4.0);
}

#[tokio::test]
async fn what_breaks_off_at_the_bucket_breaks_off() {
    let stage = Stage::set().await;
    stage.orders("/x", "/s3/a");
    stage.bucket.on("/bucket/a", |_| Answer::new("a/b", DIGITS).length(100).broken());
    stage.bucket.hold();
    let mut transfer = Transfer::ask(stage.gateway.address(), "/x").await;
    assert_eq!(transfer.final_head().await.header("content-length"), Some("100"));
    stage.bucket.release();
    assert_eq!(transfer.rest().await.1, End::Broken);
    // It streams: what there is arrives before the rest.
    stage.bucket.on("/bucket/a", |_| Answer::new("a/b", "first").then_held("second"));
    stage.bucket.hold();
    let mut transfer = Transfer::ask(stage.gateway.address(), "/x").await;
    transfer.final_head().await;
    assert_eq!(transfer.piece().await.unwrap(), "first");
    stage.bucket.release();
    assert_eq!(transfer.rest().await, (b"second".to_vec(), End::Clean));
}
