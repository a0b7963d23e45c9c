//! Tests of several limits on one route.

use super::*;
use crate::config::{self, AuthMode, CacheMode, PathPattern};

use http::HeaderMap;

const SECOND: u64 = 1_000_000_000;

fn limit(name: &str, requests: u32, by: LimitBy) -> config::LimitConfig {
    let window = Duration::from_secs(60);
    config::LimitConfig { name: name.parse().unwrap(), requests, window, burst: requests, by, shared: false }
}

fn route(name: &str, limits: Vec<config::LimitConfig>) -> RouteConfig {
    RouteConfig {
        name: name.parse().unwrap(),
        host: None,
        methods: vec![],
        path: PathPattern::Prefix("/".to_owned()),
        escaped_slash: None,
        target: crate::config::RouteTarget::Origin(0),
        accel: false,
        cache: CacheMode::Off,
        auth: AuthMode::Optional,
        token_cookie: None,
        token_query: false,
        max_body: 0,
        websocket: None,
        limits,
        headers: crate::config::RouteHeaders::default(),
        cors: None,
        live: None,
        signed: None,
    }
}

fn limits(limiters: &Limiters, limits: Vec<config::LimitConfig>) -> RouteLimits {
    limiters.of(&[route("r", limits)]).remove(0).unwrap()
}

/// A request through both stages. Returns its counts, and true if it passed.
fn ask(limits: &RouteLimits, who: &ClientKey<'_>, now: u64) -> (Vec<LimitTake>, bool) {
    let mut taken = Vec::new();
    limits.take(LimitStage::Anyone, who, now, &mut taken);
    if !any_refuses(&taken) {
        limits.take(LimitStage::Identified, who, now, &mut taken);
    }
    let passed = !any_refuses(&taken);
    (taken, passed)
}

fn who(headers: &HeaderMap) -> ClientKey<'_> {
    ClientKey { address: "192.0.2.1".parse().unwrap(), tenant: Some("acme"), user: None, headers, query: "" }
}

#[test]
fn all_have_to_pass_and_a_refusal_takes_nothing_from_the_others() {
    let (limiters, headers) = (Limiters::default(), HeaderMap::new());
    let limits =
        limits(&limiters, vec![limit("address", 10, LimitBy::Address), limit("tenant", 2, LimitBy::Tenant)]);
    assert!(limits.needs_identity());
    assert_eq!(limits.policy(), "\"address\";q=10;w=60, \"tenant\";q=2;w=60");
    let (taken, passed) = ask(&limits, &who(&headers), SECOND);
    assert!(passed);
    assert_eq!(limits.left(&taken), "\"address\";r=9;t=54, \"tenant\";r=1;t=30");
    assert!(ask(&limits, &who(&headers), SECOND).1);
    for _ in 0..20 {
        let (taken, passed) = ask(&limits, &who(&headers), SECOND);
        assert!(!passed);
        assert_eq!(limits.left(&taken), "\"tenant\";r=0;t=30");
        assert_eq!(limits.refusing(&taken).map(Name::as_str).collect::<Vec<_>>(), ["tenant"]);
        assert_eq!(retry_after_seconds(&taken), 30);
    }
    // The address has eight left: the tenant's refusals took none of them.
    let other = |tenant| ClientKey { tenant: Some(tenant), ..who(&headers) };
    for tenant in ["b", "b", "c", "c", "d", "d", "e", "e"] {
        assert!(ask(&limits, &other(tenant), SECOND).1, "{tenant}");
    }
    let (taken, passed) = ask(&limits, &other("f"), SECOND);
    assert!(!passed);
    assert_eq!((limits.left(&taken), taken.len()), (HeaderValue::from_static("\"address\";r=0;t=6"), 1));
}

#[test]
fn a_reload_goes_on_with_what_is_known() {
    let (limiters, headers) = (Limiters::default(), HeaderMap::new());
    let before = limits(&limiters, vec![limit("address", 2, LimitBy::Address)]);
    assert!(ask(&before, &who(&headers), SECOND).1);
    assert!(ask(&before, &who(&headers), SECOND).1);
    // The same name at another rate, beside a new one.
    let after =
        limits(&limiters, vec![limit("other", 9, LimitBy::Address), limit("address", 4, LimitBy::Address)]);
    drop(before);
    let (taken, passed) = ask(&after, &who(&headers), SECOND);
    assert!(!passed, "{taken:?}");
    drop(after);
    let anew = limits(&limiters, vec![limit("address", 2, LimitBy::Address)]);
    assert!(ask(&anew, &who(&headers), SECOND).1, "nobody kept it meanwhile");
    assert_eq!(limiters.0.lock().len(), 1);
}

#[test]
fn what_the_store_says_counts_here() {
    let (limiters, headers) = (Limiters::default(), HeaderMap::new());
    let shared = config::LimitConfig { shared: true, ..limit("address", 6, LimitBy::Address) };
    let limits = limits(&limiters, vec![limit("key", 100, LimitBy::Query("k".to_owned())), shared]);
    let who = who(&headers);
    let mut taken = Vec::new();
    limits.take(LimitStage::Anyone, &who, SECOND, &mut taken);
    let wanted = limits.shared(LimitStage::Anyone, &taken);
    assert_eq!(wanted.len(), 1);
    assert_eq!((wanted[0].0, wanted[0].1.route.as_str(), wanted[0].1.limit.as_str()), (1, "r", "address"));
    assert!(limits.shared(LimitStage::Identified, &taken).is_empty());
    // Other nodes have allowed four by now.
    limits.told(&[(1, true, Duration::from_secs(50))], SECOND, &mut taken);
    assert_eq!(limits.left(&taken), "\"key\";r=99;t=60, \"address\";r=1;t=10");
    // Without the store this node goes on from there.
    assert!(ask(&limits, &who, SECOND).1);
    let (refused, passed) = ask(&limits, &who, SECOND);
    assert!(!passed && limits.shared(LimitStage::Anyone, &refused).is_empty());
    // In ten seconds one would pass here, and the store refuses it: neither has counted it.
    let now = 11 * SECOND;
    let mut taken = Vec::new();
    limits.take(LimitStage::Anyone, &who, now, &mut taken);
    assert!(!any_refuses(&taken));
    limits.told(&[(1, false, Duration::from_secs(57))], now, &mut taken);
    assert!(any_refuses(&taken));
    assert_eq!(
        (limits.left(&taken), retry_after_seconds(&taken)),
        (HeaderValue::from_static("\"address\";r=0;t=7"), 7)
    );
    assert!(!ask(&limits, &who, now + 6 * SECOND).1, "it was learned");
    let (taken, passed) = ask(&limits, &who, now + 7 * SECOND);
    assert!(passed, "{taken:?}");
    assert_eq!(taken[0].standing.remaining, 99, "what was refused took nothing");
}
