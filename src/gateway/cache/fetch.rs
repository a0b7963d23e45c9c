//! Requests to an origin on behalf of a fill.

use crate::{
    cache::{AskOrigin, FetchedHead, IncomingBody, MissFetcher, OriginFetch, OriginFetchError},
    config::FollowRules,
    files::accel::charset_content_type,
    gateway::{context::connection::ConnectionHold, request::untrusted_fields, respond::errors::fetch_error},
    origin::{
        client::{OriginError, OriginRequest, OriginResponse},
        OriginTable,
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{header, HeaderName, HeaderValue};
use parking_lot::Mutex;
use pingora_http::ResponseHeader;
use std::{sync::Arc, time::Instant};
use tokio::sync::Notify;

/// The most interim answers that wait for their client.
const MAX_INTERIM: usize = 8;

/// Asks an origin as often as the cache requires it, and forwards interim answers.
pub(crate) struct FillFetcher {
    pub(crate) origins: Arc<OriginTable>,
    /// `None`: a route of files, which has no origin.
    pub(crate) origin: Option<usize>,
    pub(crate) ask: Arc<OriginRequest>,
    pub(crate) interim: Option<Arc<InterimAnswers>>,
    /// The request's hold, which is kept until the fill ends.
    pub(crate) _hold: Option<ConnectionHold>,
}

impl AskOrigin for FillFetcher {
    fn ask(&mut self, conditions: &[(HeaderName, HeaderValue)], by: Instant, spare: bool) -> OriginFetch {
        let (origins, origin, interim) = (self.origins.clone(), self.origin, self.interim.clone());
        let mut ask = self.ask.clone();
        if !conditions.is_empty() || spare {
            let ask = Arc::make_mut(&mut ask);
            ask.headers.extend(conditions.iter().cloned());
            ask.spare = spare;
        }
        Box::pin(async move {
            let on_interim = move |head: &ResponseHeader| {
                if let Some(interim) = &interim {
                    interim.tell(head);
                }
            };
            let Some(origin) = origin else { return Err(OriginFetchError::Unreachable) };
            match origins.begin(origin, &ask, Some(by), &on_interim).await {
                Ok(mut answering) => {
                    let mut headers = std::mem::take(&mut answering.headers);
                    if let Some(kind) = charset_content_type(&headers) {
                        headers.insert(header::CONTENT_TYPE, kind);
                    }
                    Ok(FetchedHead {
                        status: answering.status,
                        headers,
                        body: Box::new(OriginBody(answering)),
                    })
                }
                Err(error) => Err(log_origin_error(&error, &ask.target)),
            }
        })
    }

    fn is_failing(&self) -> bool {
        self.origin.is_some_and(|origin| self.origins.pool(origin).is_failing())
    }
}

/// A body from an origin.
struct OriginBody(OriginResponse);

#[async_trait]
impl IncomingBody for OriginBody {
    async fn next(&mut self) -> std::result::Result<Option<Bytes>, OriginFetchError> {
        let piece = self.0.next().await.map_err(|error| log_origin_error(&error, ""))?;
        // Copied, because a stored slice would keep the buffer that it was read into, which may be many times
        // larger.
        Ok(piece.map(|piece| Bytes::copy_from_slice(&piece)))
    }

    fn at_hand(&mut self) -> Option<Bytes> {
        self.0.at_hand()
    }
}

fn log_origin_error(error: &OriginError, target: &str) -> OriginFetchError {
    let path = target.split('?').next().unwrap_or_default();
    tracing::warn!(%error, path, "a fill failed");
    fetch_error(error)
}

/// Interim answers on their way to the client whose request started the fill.
#[derive(Default)]
pub(crate) struct InterimAnswers {
    waiting: Mutex<Vec<ResponseHeader>>,
    pub(crate) told: Notify,
}

impl InterimAnswers {
    /// Queues one. If too many wait, because the client reads slowly, it is dropped.
    pub(crate) fn tell(&self, head: &ResponseHeader) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_INTERIM {
            waiting.push(head.clone());
            self.told.notify_one();
        }
    }

    pub(crate) fn take(&self) -> Vec<ResponseHeader> {
        std::mem::take(&mut self.waiting.lock())
    }
}

/// The fetcher of a route that follows its origin.
pub(crate) fn vary_fetcher(fetcher: FillFetcher, rules: &Arc<FollowRules>) -> MissFetcher {
    match rules.key_headers.is_empty() {
        true => Box::new(fetcher),
        false => Box::new(VaryFetcher { fetcher, rules: rules.clone() }),
    }
}

/// Adds a `Vary` for the route's `key_headers` to each fetched answer.
struct VaryFetcher {
    fetcher: FillFetcher,
    rules: Arc<FollowRules>,
}

impl AskOrigin for VaryFetcher {
    fn ask(&mut self, conditions: &[(HeaderName, HeaderValue)], by: Instant, spare: bool) -> OriginFetch {
        let (fetched, rules) = (self.fetcher.ask(conditions, by, spare), self.rules.clone());
        Box::pin(async move {
            let mut fetched = fetched.await?;
            for line in untrusted_fields::vary_lines(&rules.key_headers) {
                fetched.headers.append(header::VARY, line);
            }
            Ok(fetched)
        })
    }

    fn is_failing(&self) -> bool {
        self.fetcher.is_failing()
    }
}
