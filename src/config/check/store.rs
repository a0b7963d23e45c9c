//! `[store]`: where Redis is, and the sizes and deadlines around it. Complaints never quote a URL: it may
//! hold a password.

use super::{
    host::host_and_port,
    secret,
    surroundings::CheckEnvironment,
    values::{positive, positive_size},
};
use crate::config::{
    file::{
        fault::FaultReport,
        place::FilePlace,
        raw::{self, OneOrManyUrls, OutageTtl, SecretSource},
        PlacedValue, TableField,
    },
    types::{RedisConfig, StoreConfig},
};

use percent_encoding::percent_decode_str;
use redis::IntoConnectionInfo;
use std::time::Duration;
use url::Url;

/// Checks `[store]`.
pub(super) fn check_store(
    raw: raw::Store,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<StoreConfig> {
    let credentials = credentials(raw.user, raw.password, around, report);
    let redis = redis(raw.redis, around, report);
    let redis = redis.zip(credentials).and_then(|(redis, credentials)| known_as(redis, credentials, report));
    let prefix = raw.prefix.or(raw::StorePrefix("dash:".to_owned()));
    let memory = positive_size(raw.memory, 256 << 20, report);
    let deadline = positive(raw.deadline, Duration::from_millis(50), report);
    let longer = |lease: &Duration| deadline.is_none_or(|deadline| *lease > deadline);
    let complaint = "must be longer than deadline: it is renewed by calls that may take as long as that";
    let lease = raw.lease.or_if(Duration::from_secs(5), longer, complaint, report);
    if matches!(redis, Some(None)) {
        let given = [place_of(&raw.outage_ttl), place_of(&raw.poll)];
        given.into_iter().flatten().for_each(|place| report.warn(place, "has no effect without redis"));
    }
    let outage_ttl = match raw.outage_ttl.or(OutageTtl::Bounded(Duration::from_secs(5))) {
        Some(OutageTtl::Bounded(ttl)) => Some(Some(ttl)),
        Some(OutageTtl::Unlimited) => Some(None),
        None => None,
    };
    let poll = raw.poll.or(Duration::from_secs(1));
    Some(StoreConfig {
        redis: redis?,
        prefix: prefix?.0,
        memory: memory?,
        deadline: deadline?,
        lease: lease?,
        outage_ttl: outage_ttl?,
        poll: poll?,
        // Known when the routes are.
        largest: 0,
    })
}

fn place_of<T>(field: &TableField<T>) -> Option<&FilePlace> {
    match field {
        TableField::Given(PlacedValue { place, .. }) => Some(place),
        TableField::Absent | TableField::Faulty => None,
    }
}

/// `user` and `password`, each with its place.
type StoreCredentials = (Option<PlacedValue<String>>, Option<PlacedValue<String>>);

fn credentials(
    user: TableField<SecretSource>,
    password: TableField<SecretSource>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<StoreCredentials> {
    let mut read = |field: TableField<SecretSource>, is_secret: bool| {
        let Some(PlacedValue { value, place }) = field.optional()? else { return Some(None) };
        if is_secret && matches!(value, SecretSource::Plain(_)) {
            report.warn(&place, secret::BETTER_OUTSIDE);
        }
        Some(Some(PlacedValue { value: secret::text(value, &place, around, report)?, place }))
    };
    let (user, password) = (read(user, false), read(password, true));
    Some((user?, password?))
}

/// The same servers, with these credentials.
fn known_as(
    redis: Option<RedisConfig>,
    (user, password): StoreCredentials,
    report: &mut FaultReport,
) -> Option<Option<RedisConfig>> {
    let Some(named) = user.as_ref().or(password.as_ref()) else { return Some(redis) };
    let Some(redis) = redis else {
        report.fault(&named.place, "is of no use without redis");
        return None;
    };
    // Either could be meant: report both keys, and nothing else.
    if redis != redis.clone().known_as(None, None) {
        for PlacedValue { place, .. } in user.iter().chain(&password) {
            report.fault(place, "stands in redis as well");
        }
        return None;
    }
    let Some(password) = &password else {
        report.fault(&named.place, "needs password as well");
        return None;
    };
    Some(Some(redis.known_as(user.as_ref().map(|user| user.value.as_str()), Some(&password.value))))
}

fn redis(
    raw: TableField<OneOrManyUrls>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Option<RedisConfig>> {
    let Some(PlacedValue { value, place }) = raw.optional()? else { return Some(None) };
    let redis = match value {
        OneOrManyUrls::One(source) => {
            let url = url(source, &place, around, report)?;
            located(parse_redis_url(&url), &place, report)?
        }
        OneOrManyUrls::Many(sources) if sources.is_empty() => {
            report.fault(&place, "must hold at least one");
            return None;
        }
        OneOrManyUrls::Many(sources) => {
            let mut seed = |PlacedValue { value, place }: PlacedValue<SecretSource>| {
                let url = url(value, &place, around, report)?;
                located(cluster_seed(url), &place, report)
            };
            let seeds: Vec<_> = sources.into_iter().map(&mut seed).collect();
            RedisConfig::Cluster(seeds.into_iter().collect::<Option<_>>()?)
        }
    };
    Some(Some(redis))
}

fn url(
    source: SecretSource,
    place: &FilePlace,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<String> {
    let in_file = matches!(source, SecretSource::Plain(_));
    let url = secret::text(source, place, around, report)?;
    // The password of `scheme://user:password@host`.
    let credentials = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    if in_file && credentials.is_some_and(|(credentials, _)| credentials.contains(':')) {
        report.warn(place, format!("its password {}", secret::BETTER_OUTSIDE));
    }
    Some(url)
}

fn located<T>(result: Result<T, &'static str>, place: &FilePlace, report: &mut FaultReport) -> Option<T> {
    result.map_err(|complaint| report.fault(place, complaint)).ok()
}

const FORM: &str = "must be redis://host:port/db, rediss://…, unix:///path or redis+sentinel://…";

/// Checks one URL: a server, or sentinels.
fn parse_redis_url(url: &str) -> Result<RedisConfig, &'static str> {
    if let Some(rest) = url.strip_prefix("redis+sentinel://") {
        return sentinel(rest);
    }
    let (url, _) = parse_url_query(url)?;
    Ok(RedisConfig::Single(url))
}

/// Parses a URL and its database, and refuses what the client would ignore: it takes the database of
/// `redis://` from the path alone, and skips parameters that it doesn't know.
fn parse_url_query(text: &str) -> Result<(String, i64), &'static str> {
    const DATABASE: &str = "the database must be a number";
    const TWICE: &str = "names the database twice, in its path and as ?db=";
    let mut url: Url = text.parse().map_err(|_| FORM)?;
    if !matches!(url.scheme(), "redis" | "rediss" | "unix") {
        return Err(FORM);
    }
    if url.fragment().is_some() {
        return Err(
            "must not hold a \"#\": of TLS every certificate has to verify, and nothing else is said there",
        );
    }
    let is_socket = url.scheme() == "unix";
    let mut db: Option<i64> = None;
    for (name, value) in url.query_pairs() {
        match &*name {
            "db" if db.is_none() => db = Some(value.parse().ok().filter(|db| *db >= 0).ok_or(DATABASE)?),
            "user" | "pass" if is_socket => {}
            _ if is_socket => return Err("has a parameter that is none of db, user and pass"),
            _ => return Err("has a parameter that is not db: user and password stand before the host"),
        }
    }
    if let (Some(db), false) = (db, is_socket) {
        if !matches!(url.path().trim_matches('/'), "") && url.path().trim_matches('/').parse() != Ok(db) {
            return Err(TWICE);
        }
        url.set_query(None);
        url.set_path(&format!("/{db}"));
    }
    let url = String::from(url);
    let info = url.as_str().into_connection_info().map_err(|_| FORM)?;
    match info.redis_settings().db() {
        db if db < 0 => Err(DATABASE),
        db => Ok((url, db)),
    }
}

fn cluster_seed(url: String) -> Result<String, &'static str> {
    const SEED: &str = "a cluster's nodes must be redis:// or rediss:// URLs";
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("redis" | "rediss")) {
        return Err(SEED);
    }
    match parse_url_query(&url) {
        Err(FORM) => Err(SEED),
        Err(other) => Err(other),
        Ok((_, db)) if db != 0 => Err("a cluster has no database but 0"),
        Ok((url, _)) => Ok(url),
    }
}

/// `[user:password@]host[:port][,host[:port]…]/master[/db]`
fn sentinel(rest: &str) -> Result<RedisConfig, &'static str> {
    const SENTINEL: &str = "must be redis+sentinel://[user:password@]host:port[,host:port…]/master[/db]";
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (user_and_password(credentials).ok_or(SENTINEL)?, rest),
        None => ((None, None), rest),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, path) = rest.split_once('/').ok_or(SENTINEL)?;
    let (master, db) = path.split_once('/').unwrap_or((path, ""));
    let db = match (db, query.strip_prefix("db=")) {
        (db, None) if query.is_empty() => db,
        ("", Some(db)) if !db.contains('&') => db,
        _ => return Err("has a parameter that is not db, or the database twice"),
    };
    let db = match db {
        "" => 0,
        digits => digits.parse().ok().filter(|db| *db >= 0).ok_or("the database must be a number")?,
    };
    if master.is_empty() {
        return Err(SENTINEL);
    }
    let sentinels =
        hosts.split(',').map(|host| sentinel_url(host).ok_or(SENTINEL)).collect::<Result<_, _>>()?;
    Ok(RedisConfig::Sentinel { sentinels, master: decoded(master).ok_or(SENTINEL)?, db, credentials })
}

/// Parses a sentinel's URL; the default port is 26379.
fn sentinel_url(host: &str) -> Option<String> {
    let (host, port) = host_and_port(host, 26_379)?;
    let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
    Some(format!("redis://{open}{host}{close}:{port}"))
}

fn user_and_password(credentials: &str) -> Option<(Option<String>, Option<String>)> {
    let (user, password) = credentials.split_once(':')?;
    let (user, password) = (decoded(user)?, decoded(password)?);
    Some((Some(user).filter(|user| !user.is_empty()), Some(password).filter(|password| !password.is_empty())))
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_are_taken_apart() {
        let url = "redis+sentinel://me:p%40ss@10.0.0.1:26380,sentinel-b,[::1]:5/main/3";
        let Ok(RedisConfig::Sentinel { sentinels, master, db, credentials }) = parse_redis_url(url) else {
            panic!("refused");
        };
        assert_eq!(sentinels, ["redis://10.0.0.1:26380", "redis://sentinel-b:26379", "redis://[::1]:5"]);
        assert_eq!((master.as_str(), db), ("main", 3));
        assert_eq!(credentials, (Some("me".to_owned()), Some("p@ss".to_owned())));
        let Ok(RedisConfig::Sentinel { db, credentials, .. }) =
            parse_redis_url("redis+sentinel://:pw@a/main")
        else {
            panic!("refused");
        };
        assert_eq!((db, credentials), (0, (None, Some("pw".to_owned()))));
    }

    #[test]
    fn what_is_no_place_of_a_redis() {
        for bad in [
            "",
            "localhost",
            "http://a",
            "redis://",
            "redis+sentinel://",
            "redis+sentinel://a",
            "redis+sentinel://a/",
            "redis+sentinel://a:x/m",
            "redis+sentinel://a,/m",
            "redis+sentinel://a/m/x",
            "redis+sentinel://a/m/-1",
            "redis+sentinel://user@a/m",
            "redis+sentinel://a:/m",
            "redis+sentinel://a/m?db=x",
            "redis+sentinel://a/m/1?db=2",
            "redis+sentinel://a/m?timeout=1",
            "redis://h/x",
            "redis://h/-1",
            "redis://h?db=x",
            "redis://h?db=-1",
            "redis://h?db=1&db=2",
            "redis://h/1?db=2",
            "redis://h?protocol=resp3",
            "redis://h?timeout=5&db=1",
            "rediss://h/1#insecure",
            "redis://h#x",
            "unix:///run/redis.sock?password=x",
            "unix:///run/redis.sock?db=x",
        ] {
            assert!(parse_redis_url(bad).is_err(), "{bad:?}");
        }
        for good in ["redis://127.0.0.1:6379/0", "rediss://u:p@h/1", "unix:///run/redis.sock"] {
            assert!(matches!(parse_redis_url(good), Ok(RedisConfig::Single(_))), "{good:?}");
        }
        for seed in ["redis://h/7", "redis://h?db=7", "redis://h?x=1", "rediss://h#insecure"] {
            assert!(cluster_seed(seed.to_owned()).is_err(), "{seed}");
        }
        assert!(cluster_seed("unix:///run/redis.sock".to_owned()).is_err());
        assert!(cluster_seed("redis+sentinel://a/m".to_owned()).is_err());
    }

    #[test]
    fn credentials_are_those_of_every_server() {
        let known = |url: &str| parse_redis_url(url).map(|redis| redis.known_as(Some("me"), Some("p@:/ %s")));
        for (url, wanted) in [
            ("redis://h:1/2", "redis://me:p%40%3A%2F%20%s@h:1/2"),
            ("rediss://old:word@h", "rediss://me:p%40%3A%2F%20%s@h"),
            (
                "unix:///run/redis.sock?db=7&pass=word",
                "unix:///run/redis.sock?db=7&user=me&pass=p%40%3A%2F+%25s",
            ),
        ] {
            let Ok(RedisConfig::Single(read)) = known(url) else { panic!("{url} is refused") };
            assert_eq!(read, wanted);
            let settings = read.as_str().into_connection_info().unwrap().redis_settings().clone();
            assert_eq!((settings.username(), settings.password()), (Some("me"), Some("p@:/ %s")), "{read}");
            assert_eq!(
                RedisConfig::Single(read).known_as(None, None),
                parse_redis_url(url).unwrap().known_as(None, None)
            );
        }
        let RedisConfig::Cluster(seeds) =
            RedisConfig::Cluster(vec!["redis://a".into(), "redis://b".into()]).known_as(None, Some("p"))
        else {
            panic!("no cluster");
        };
        assert_eq!(seeds, ["redis://:p@a", "redis://:p@b"]);
        let Ok(RedisConfig::Sentinel { credentials, .. }) = known("redis+sentinel://a/main") else {
            panic!("refused")
        };
        assert_eq!(credentials, (Some("me".to_owned()), Some("p@:/ %s".to_owned())));
    }

    #[test]
    fn the_database_of_a_url_is_heeded_wherever_it_stands() {
        for (url, db) in [
            ("redis://h", 0),
            ("redis://h/7", 7),
            ("redis://h?db=7", 7),
            ("redis://h/?db=7", 7),
            ("redis://h/7?db=7", 7),
            ("rediss://u:p%40@h:1/?db=3", 3),
            ("unix:///run/redis.sock?db=7", 7),
            ("unix:///run/redis.sock?db=7&user=u&pass=p", 7),
        ] {
            let Ok(RedisConfig::Single(read)) = parse_redis_url(url) else { panic!("{url} is refused") };
            let info = read.as_str().into_connection_info().unwrap();
            assert_eq!(info.redis_settings().db(), db, "{url}: {read}");
        }
        let info = parse_redis_url("rediss://u:p%40@h:1/?db=3");
        let Ok(RedisConfig::Single(read)) = info else { panic!("refused") };
        assert_eq!(read.as_str().into_connection_info().unwrap().redis_settings().password(), Some("p@"));
        let Ok(RedisConfig::Sentinel { master, db, .. }) = parse_redis_url("redis+sentinel://a/main?db=7")
        else {
            panic!("refused");
        };
        assert_eq!((master.as_str(), db), ("main", 7));
    }
}
