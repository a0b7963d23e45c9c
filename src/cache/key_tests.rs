use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn rules(scope: CacheScope, query: &[&str]) -> CacheRules {
    CacheRules {
        namespace: "kpi".parse().unwrap(),
        scope,
        ttl: Duration::from_secs(20),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        query: query.iter().map(|q| q.to_string()).collect(),
        negative_ttl: Duration::ZERO,
        max_size: 1 << 20,
        fill_timeout: Duration::from_secs(30),
        hedge: None,
        stale_after: None,
        min_version_wait: Duration::from_secs(5),
        cache_control: None,
    }
}

fn key(rules: &CacheRules, tenant: &str, user: Option<&str>, path: &str, query: &str) -> CacheKey {
    let tenant = tenant.parse().unwrap();
    let query = canonical_query(&rules.query, query);
    CacheKey::derive(rules, KeyParts { host: None, tenant: &tenant, user, path, query: &query })
}

#[test]
fn keys_are_as_the_application_knows_them() {
    let names = StoreKeys::new("dash:");
    let (kpi, acme) = ("kpi".parse().unwrap(), "acme".parse().unwrap());
    assert_eq!(names.version(&kpi, &acme), "dash:ver:kpi:acme");
    let key = key(&rules(CacheScope::Tenant, &["hours"]), "acme", None, "/api/widgets/kpi", "x=1&hours=24");
    assert_eq!(names.of_version(&key, "7").body, "dash:kpi:acme:/api/widgets/kpi?hours=24:v7");
    assert_eq!(names.of_version(&key, "7").lease, "dash:lock:kpi:acme:/api/widgets/kpi?hours=24:v7");
    assert_eq!(
        names.classify_key("dash:ver:kpi:acme"),
        ReportedKey::Version { namespace: "kpi", tenant: "acme" }
    );
    assert_eq!(names.classify_key("dash:lock:kpi:acme:/x:v1"), ReportedKey::Lease);
    assert_eq!(names.classify_key("other:ver:kpi:acme"), ReportedKey::Foreign);
    assert_eq!(names.classify_key(&names.purge_log()), ReportedKey::PurgeLog);
    assert_eq!(names.classify_key("dash:purge:else"), ReportedKey::Foreign);
}

#[test]
fn a_resource_is_its_host_and_its_target() {
    assert_eq!(resource_hash("A.example:80", "/x?y=1"), resource_hash("a.example", "/x?y=1"));
    assert_eq!(resource_hash("a.example", "/ä"), resource_hash("a.example", "/%C3%A4"));
    let different = [("a.example", "/x"), ("a.example", "/X"), ("a.example", "/x?"), ("a.example:81", "/x")];
    for (i, a) in different.iter().enumerate() {
        for b in &different[i + 1..] {
            assert_ne!(resource_hash(a.0, a.1), resource_hash(b.0, b.1), "{a:?} {b:?}");
        }
    }
}

#[test]
fn a_public_scope_ignores_the_tenant_and_a_user_scope_never_meets_another() {
    let public = rules(CacheScope::Public, &[]);
    assert_eq!(key(&public, "acme", Some("a"), "/p", ""), key(&public, "globex", None, "/p", ""));
    let user = rules(CacheScope::User, &[]);
    let tenant = rules(CacheScope::Tenant, &[]);
    assert_ne!(key(&user, "acme", None, "/p", ""), key(&tenant, "acme", None, "/p", ""));
    assert_ne!(key(&user, "acme", Some("a"), "/p", ""), key(&user, "acme", Some("a/p"), "", ""));
}

#[test]
fn a_path_cannot_pose_as_a_host() {
    let rules = rules(CacheScope::Public, &[]);
    let of = |host, path| {
        CacheKey::derive(&rules, KeyParts { host, tenant: Tenant::public(), user: None, path, query: "" })
    };
    assert_ne!(of(Some("a.example"), "/pub/x"), of(None, "//a.example/pub/x"));
    assert_ne!(of(Some("a.example"), "/pub/x"), of(None, "/@a.example/pub/x"));
    assert_ne!(of(Some("a.example"), "/pub/x"), of(Some("b.example"), "/pub/x"));
}

#[test]
fn the_key_of_a_resource_is_its_scheme_its_host_and_its_target() {
    let of = |host, target| CacheKey::of_resource(RequestScheme::Http, host, target);
    assert_eq!(of("Example.com.", "/a?b=1").as_str(), "@http/example.com/a?b=1");
    assert_eq!(of("example.com:80", "/a?b=1"), of("example.com", "/a?b=1"));
    assert_ne!(of("example.com:8080", "/a"), of("example.com", "/a"));
    for (one, other) in [("/a?b", "/a%3Fb"), ("/a:b", "/a%3Ab"), ("/a", "/a?"), ("/A", "/a"), ("/a", "/a/")] {
        assert_ne!(of("h", one), of("h", other), "{one} {other}");
    }
    let long = format!("/{}", "x".repeat(500));
    assert!(of("h", &long).as_str().len() < 100);
    let names = StoreKeys::new("dash:");
    assert_eq!(names.of_resource(&of("h", "/a")).body, "dash:@http/h/a");
    let variant = names.of_variant(&of("h", "/a"), "7f", Bytes::new());
    assert_eq!((&*variant.body, &*variant.lease), ("dash:@http/h/a:7f", "dash:lock:@http/h/a:7f"));
    for target in ["/a", &long] {
        assert_ne!(CacheKey::of_resource(RequestScheme::Https, "h", target), of("h", target));
    }
    assert_ne!(
        CacheKey::of_resource(RequestScheme::Https, "", "/h/a"),
        CacheKey::of_resource(RequestScheme::Https, "h", "/a")
    );
}

#[test]
fn long_variants_are_hashed_and_stay_apart() {
    let rules = rules(CacheScope::Tenant, &["q"]);
    let long = |c: &str| key(&rules, "acme", None, "/p", &format!("q={}", c.repeat(5_000)));
    assert_ne!(long("a"), long("b"));
    assert!(long("a").as_str().len() < 100);
}

type Asked = (String, Option<String>, String, Vec<(String, String)>);

fn asked() -> impl Strategy<Value = Asked> {
    let word = "[a-b:/%?&=~# é\\x00v1]{0,6}";
    (
        "[ab.-]{1,3}",
        proptest::option::of(word),
        "/[a-b:%?v/#3A]{0,8}",
        proptest::collection::vec(("[hx]", word), 0..4),
    )
}

fn query_of(pairs: &[(String, String)]) -> String {
    let escape = |t: &str| percent_encoding::percent_encode(t.as_bytes(), WORD).to_string();
    pairs.iter().map(|(n, v)| format!("{}={}", escape(n), escape(v))).collect::<Vec<_>>().join("&")
}

proptest! {
    #[test]
    fn different_askers_never_share_a_key(a in asked(), b in asked(), scope in 0..3_usize) {
        let scope = [CacheScope::Public, CacheScope::Tenant, CacheScope::User][scope];
        let rules = rules(scope, &["h"]);
        let listed = |x: &Asked| x.3.iter().filter(|(n, _)| n == "h").cloned().collect::<Vec<_>>();
        let same = (scope == CacheScope::Public || a.0 == b.0)
            && (scope != CacheScope::User || a.1.as_deref().unwrap_or("") == b.1.as_deref().unwrap_or(""))
            && a.2 == b.2
            && listed(&a) == listed(&b);
        let of = |x: &Asked| key(&rules, &x.0, x.1.as_deref(), &x.2, &query_of(&x.3));
        // `?` and `#` can't stand in a path that was parsed; here they must not confuse it either.
        prop_assert_eq!(of(&a) == of(&b), same, "{:?} {:?}", of(&a), of(&b));
    }

    #[test]
    fn only_listed_parameters_count(path in "/[a-z]{1,5}", hours in 0..99_u8, junk in "[a-gi-z=&%+]{0,40}") {
        let rules = rules(CacheScope::Tenant, &["hours"]);
        let plain = key(&rules, "acme", None, &path, &format!("hours={hours}"));
        prop_assert_eq!(&plain, &key(&rules, "acme", None, &path, &format!("{junk}&hours={hours}&{junk}")));
        prop_assert_eq!(&plain, &key(&rules, "acme", None, &path, &format!("hour%73={hours}")));
    }

    #[test]
    fn generations_and_leases_are_different_names(version in "[0-9]{1,5}", other in "[0-9]{1,5}") {
        let names = StoreKeys::new("dash:");
        let key = key(&rules(CacheScope::Tenant, &[]), "acme", None, "/p", "");
        let (one, two) = (names.of_version(&key, &version), names.of_version(&key, &other));
        prop_assert_eq!(one.body == two.body, version == other);
        prop_assert_ne!(&one.body, &one.lease);
    }

    #[test]
    fn event_ids_never_meet(a in "[a-c:%/]{1,6}", b in "[a-c:%/]{1,6}") {
        let names = StoreKeys::new("dash:");
        prop_assert_eq!(names.event("/e", &a) == names.event("/e", &b), a == b);
        prop_assert_ne!(names.event("/e", &a), names.event("/f", &a));
    }
}
