//! The key sets of `[jwt]`: loaded before the first request, and refreshed as long as a verifier uses them.

use super::background::spawn_watched;
use crate::{
    clock::now_ms,
    config::{JwtKeys, OriginConfig, ServerEntry},
    identity::{IdentityError, Verifier, MAX_JWKS},
    origin::{
        client::{self, pingora, OriginError, OriginRequest, WholeResponse},
        servers::ServerGroup,
    },
    telemetry::metrics::Metrics,
};

use http::{header, StatusCode};
use pingora_core::connectors::http::Connector;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::timeout;
use url::Url;

/// The interval at which a JWKS file is checked.
const FILE_INTERVAL: Duration = Duration::from_secs(5);
/// The interval at which a failed fetch of a JWKS is retried.
const FETCH_RETRY_PAUSE: Duration = Duration::from_secs(5);
/// The most redirects that are followed from a key set's URL.
const MAX_REDIRECTS: usize = 5;

/// Loads a key set before the first request, and keeps it up to date. If the first fetch fails, it is
/// retried: until it succeeds tokens are refused, and everything else works.
pub(super) async fn keep_key_set(
    keys: &JwtKeys,
    verifier: &Arc<Verifier>,
    metrics: Arc<Metrics>,
) -> Result<(), IdentityError> {
    match keys {
        JwtKeys::Secrets(_) => {}
        JwtKeys::JwksFile(path) => {
            verifier.begin_with_file(path)?;
            verifier.confirm(now_ms());
            spawn_watched("jwks file", renew_key_set(KeySetSource::File(path.clone()), true, verifier));
        }
        JwtKeys::JwksUrl { url, refresh } => {
            let Some(fetcher) = KeyFetcher::new(url, metrics) else { return Ok(()) };
            let loaded = fetcher.read(verifier).await;
            spawn_watched("jwks url", renew_key_set(KeySetSource::Url(fetcher, *refresh), loaded, verifier));
        }
    }
    Ok(())
}

/// The source of a key set.
enum KeySetSource {
    File(PathBuf),
    /// A URL, with the refresh interval.
    Url(KeyFetcher, Duration),
}

impl KeySetSource {
    /// The time until the next read; `loaded`: true if it has been read successfully.
    fn pause(&self, loaded: bool) -> Duration {
        match self {
            Self::File(_) => FILE_INTERVAL,
            Self::Url(_, refresh) if loaded => *refresh,
            Self::Url(..) => FETCH_RETRY_PAUSE,
        }
    }

    /// Reads the key set. Returns true if it is usable.
    async fn read(&self, verifier: &Arc<Verifier>) -> bool {
        match self {
            Self::File(path) => read_file(path, verifier).await,
            Self::Url(fetcher, _) => fetcher.read(verifier).await,
        }
    }
}

/// Reads a key set again after each pause, and when a token has an unknown key.
fn renew_key_set(
    set: KeySetSource,
    mut loaded: bool,
    verifier: &Arc<Verifier>,
) -> impl std::future::Future<Output = ()> + Send + 'static {
    let (renewal, verifier): (_, Weak<Verifier>) = (verifier.renewal(), Arc::downgrade(verifier));
    let mut outdated = false;
    async move {
        loop {
            // Both are a reason to read it.
            let _asked = timeout(set.pause(loaded), renewal.asked()).await;
            let Some(verifier) = verifier.upgrade() else { return };
            let reading = renewal.reading();
            loaded |= set.read(&verifier).await;
            drop(reading);
            if verifier.is_outdated(now_ms()) && !outdated {
                tracing::error!(
                    "the key set is older than jwks.max_age: tokens are refused until it can be read"
                );
            }
            outdated = verifier.is_outdated(now_ms());
        }
    }
}

async fn read_file(path: &Path, verifier: &Arc<Verifier>) -> bool {
    let (path, told, verifier) = (path.to_owned(), verifier.clone(), verifier.clone());
    let read = move || verifier.load_jwks_file(&path).map(|usable| was_read(&verifier, usable));
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(usable)) => return usable,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the key set is not usable; the last good one is kept");
            told.read_failed(&error);
        }
        Err(error) => tracing::error!(%error, "reading the key set failed"),
    }
    false
}

/// Takes note of a set that was read, with so many usable keys; returns whether it is usable.
fn was_read(verifier: &Verifier, usable: usize) -> bool {
    verifier.confirm(now_ms());
    if usable == 0 {
        // Empty or all of another kind: a set that could not be read has errors of its own.
        tracing::error!("the key set has no usable key: those from before are revoked, tokens are refused");
    }
    usable > 0
}

/// The reason for a failed fetch of a key set.
#[derive(Debug, thiserror::Error)]
enum KeyFetchError {
    #[error(transparent)]
    Ask(#[from] OriginError),
    #[error("the answer was {0}")]
    Status(StatusCode),
    #[error("a redirect without a valid Location")]
    Nowhere,
    #[error("a redirect from https to http is not followed")]
    Downgrade,
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
}

struct KeyFetcher {
    connector: Arc<Connector>,
    url: Url,
    /// The pool of the URL's host.
    pool: Arc<ServerGroup>,
    metrics: Arc<Metrics>,
}

impl KeyFetcher {
    fn new(url: &str, metrics: Arc<Metrics>) -> Option<Self> {
        let url: Url = url.parse().ok()?;
        let pool = Arc::new(ServerGroup::new(origin_of(&url)?, metrics.clone(), None));
        Some(Self { connector: pingora::make_connector(), url, pool, metrics })
    }

    async fn read(&self, verifier: &Verifier) -> bool {
        let got = match self.fetch().await {
            Ok(got) => got,
            Err(error) => {
                tracing::warn!(%error, url = %self.url, "the key set was not fetched");
                verifier.read_failed(&error);
                return false;
            }
        };
        let replaced = std::str::from_utf8(&got.body).map(|text| verifier.replace_jwks(text));
        match replaced {
            Ok(Ok(usable)) => return was_read(verifier, usable),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the key set is not usable; the last good one is kept");
                verifier.read_failed(&error);
            }
            Err(error) => {
                tracing::warn!(%error, "the key set is not UTF-8 text; the last good one is kept");
                verifier.read_failed(&error);
            }
        }
        false
    }

    /// Fetches the URL, and follows redirects.
    async fn fetch(&self) -> Result<WholeResponse, KeyFetchError> {
        let mut url = self.url.clone();
        for redirects in 0..=MAX_REDIRECTS {
            let pool = match redirects {
                0 => self.pool.clone(),
                _ => {
                    let origin = origin_of(&url).ok_or(KeyFetchError::Nowhere)?;
                    Arc::new(ServerGroup::new(origin, self.metrics.clone(), None))
                }
            };
            pool.resolve().await;
            let ask = OriginRequest::get(&url[url::Position::BeforePath..url::Position::AfterQuery]);
            let got = client::send_request(&self.connector, &pool, &ask, MAX_JWKS as u64).await?;
            match got.status {
                status if status.is_success() => return Ok(got),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => url = redirect_target(&url, &got)?,
                status => return Err(KeyFetchError::Status(status)),
            }
        }
        Err(KeyFetchError::Redirects)
    }
}

/// The target of a redirect.
fn redirect_target(from: &Url, got: &WholeResponse) -> Result<Url, KeyFetchError> {
    let location = got.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let to = location.and_then(|location| from.join(location).ok()).ok_or(KeyFetchError::Nowhere)?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(to),
        ("https", "http") => Err(KeyFetchError::Downgrade),
        _ => Err(KeyFetchError::Nowhere),
    }
}

/// An origin for the host of a URL.
fn origin_of(url: &Url) -> Option<OriginConfig> {
    let (host, port) = (url.host_str()?, url.port_or_known_default()?);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let servers = vec![ServerEntry::at(url.scheme() == "https", host, port)];
    let read_timeout = Duration::from_secs(5);
    Some(OriginConfig { read_timeout, ..OriginConfig::with_defaults("jwks".parse().ok()?, servers) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::HeaderMap;

    #[test]
    fn redirects_lead_to_https_or_stay_with_http() {
        let to = |from: &str, location: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.extend(location.map(|location| (header::LOCATION, location.parse().unwrap())));
            let got = WholeResponse { status: StatusCode::FOUND, headers, body: Bytes::new() };
            redirect_target(&from.parse().unwrap(), &got)
                .map(|url| url.to_string())
                .map_err(|e| e.to_string())
        };
        let (plain, tls) = ("http://a/keys?v=1", "https://a/keys");
        for (from, location, url) in [
            (plain, "/other", "http://a/other"),
            (plain, "other", "http://a/other"),
            (plain, "//b:8080/x", "http://b:8080/x"),
            (plain, "https://b/x?y", "https://b/x?y"),
            (tls, "https://b/x", "https://b/x"),
            (tls, "?v=2", "https://a/keys?v=2"),
        ] {
            assert_eq!(to(from, Some(location)), Ok(url.to_owned()), "{from} {location}");
        }
        assert_eq!(to(tls, Some("http://a/keys")), Err(KeyFetchError::Downgrade.to_string()));
        for nowhere in [None, Some("http://"), Some("file:///etc/passwd"), Some("ftp://a/x"), Some("data:,x")]
        {
            assert_eq!(to(plain, nowhere), Err(KeyFetchError::Nowhere.to_string()), "{nowhere:?}");
        }
    }
}
