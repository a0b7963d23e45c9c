//! The wall clock is set while the gateway runs: what lasts, and what is told.

use crate::support::{gateway::GatewayBuilder, *};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const VERSIONED: &str = "/api/widgets/kpi";
const FOLLOWED: &str = "/page";

/// The wall clock of a gateway, which can be set; the monotonic clock goes on as it is.
struct WallClock(tempfile::TempDir);

impl WallClock {
    fn new() -> Self {
        let clock = Self(tempfile::tempdir().unwrap());
        clock.set("+0");
        clock
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("time")
    }

    /// Sets it, by so many seconds from the right time.
    fn set(&self, offset: &str) {
        let new = self.0.path().join("new");
        fs::write(&new, offset).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    /// The gateway goes by it.
    fn of(&self, builder: GatewayBuilder) -> GatewayBuilder {
        builder
            .env("LD_PRELOAD", library().to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", self.file().to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
    }
}

/// Where Debian puts it: a directory per architecture.
fn library() -> PathBuf {
    let name = Path::new("faketime/libfaketimeMT.so.1");
    let directories = fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let mut found = directories.map(|directory| directory.path().join(name)).filter(|path| path.exists());
    found.next().unwrap_or_else(|| panic!("libfaketime is not installed: scripts/ensure faketime"))
}

/// Both kinds of routes, of which answers are fresh for so many seconds.
fn routes(origin: &TestOrigin, seconds: u64) -> GatewayBuilder {
    origin
        .on(FOLLOWED, move |seen| Answer::echo(seen).header("cache-control", &format!("max-age={seconds}")));
    let rules = format!(
        r#"cache = {{ namespace = "kpi", scope = "public", ttl = "{seconds}s", stale_if_error = "10m" }}"#
    );
    Gateway::with(origin).route(VERSIONED, &rules).route(FOLLOWED, r#"cache = "origin""#)
}

/// The difference between the date of an answer and the right time, in seconds.
fn told_offset(reply: &Reply) -> i64 {
    let told = httpdate::parse_http_date(reply.header("date")).unwrap();
    let told = told.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(told).unwrap() - i64::try_from(now_ms() / 1_000).unwrap()
}

#[tokio::test]
async fn a_clock_that_is_set_back_prolongs_nothing() {
    let (origin, clock) = (TestOrigin::start().await, WallClock::new());
    let gateway = clock.of(routes(&origin, 2)).start().await;
    for path in [VERSIONED, FOLLOWED] {
        clock.set("+0");
        let first = gateway.get(path).await.ok().seq();
        clock.set("-600");
        let set = Instant::now();
        until("its time is over", SOON, || async { gateway.get(path).await.ok().seq() > first }).await;
        assert!(set.elapsed() > Duration::from_millis(500), "{path}: set back is not over at once");
    }
    // What is told goes by the clock as it is set.
    until("the date is that of the clock", SOON, || async {
        (-605..-595).contains(&told_offset(&gateway.get(VERSIONED).await.ok()))
    })
    .await;
    let age: u64 = gateway.get(VERSIONED).await.ok().header("age").parse().unwrap_or(0);
    assert!(age < 5, "an age of {age}");
}

#[tokio::test]
async fn a_clock_that_is_set_forward_ends_what_is_over_by_it() {
    let origin = TestOrigin::start().await;
    for path in [VERSIONED, FOLLOWED] {
        let clock = WallClock::new();
        let gateway = clock.of(routes(&origin, 60)).start().await;
        let first = gateway.get(path).await.ok().seq();
        assert_eq!(gateway.get(path).await.ok().seq(), first);
        clock.set("+600");
        until("its time is over", SOON, || async { gateway.get(path).await.ok().seq() > first }).await;
    }
}

#[tokio::test]
async fn an_answer_of_a_node_whose_clock_differs_is_no_fresher_than_it_is() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let config = routes(&origin, 2).redis(&redis.url());
    let right = config.start().await;
    for offset in ["-600", "+600", "+0"] {
        let clock = WallClock::new();
        clock.set(offset);
        let other = clock.of(config.clone()).start().await;
        for (first, second) in [(&right, &other), (&other, &right)] {
            let _: () = redis.run(&["INCR", "dash:ver:kpi:public"]).await;
            let before = origin.count(VERSIONED);
            until("a generation of the new version", SOON, || async {
                drop(first.get(VERSIONED).await.ok());
                origin.count(VERSIONED) > before
            })
            .await;
            let (filled, old) = (Instant::now(), first.get(VERSIONED).await.ok().seq());
            tokio::time::sleep_until((filled + Duration::from_millis(2_100)).into()).await;
            assert!(second.get(VERSIONED).await.ok().seq() > old, "{offset}");
        }
    }
}
