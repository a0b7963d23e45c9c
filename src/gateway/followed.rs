//! The routes that follow their origin: from a request to what the cache is asked, and from its answer to what is
//! sent.

use super::{
    cached::{stale, tenant, OriginFetcher},
    claims,
    context::Context,
    dress, forward, host,
    session::Session,
    websocket, Gateway, Next, Result,
};
use crate::{
    authority,
    cache::{
        key::{resource, Key},
        policy, AskOrigin, Asking, Fetch, Fetcher, Look,
    },
    clock::now_ms,
    config::{FollowRules, Route},
    identity,
    origin::client::Ask,
    representation::nominated_by_connection,
    telemetry::labels::CacheResult,
};
use bytes::Bytes;
use http::{header, HeaderName, HeaderValue, Method, Version};
use parking_lot::Mutex;
use pingora_http::{RequestHeader, ResponseHeader};
use std::{borrow::Cow, pin::pin, sync::Arc, time::Instant};
use tokio::sync::Notify;

/// Interim answers that may wait for their client.
const INTERIM: usize = 8;

impl Gateway {
    /// Answers as the origin's headers say, or hands on to the proxy.
    pub(super) async fn answer_followed(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        route: &Route,
        rules: &Arc<FollowRules>,
    ) -> Result<Next> {
        claims::drop_unkeyed(session.req_header_mut(), rules);
        // Others get it too: it is made for the host that it is kept under, whatever host a proxy tells.
        ctx.client.host = None;
        // Of a stream of HTTP/2 its fields don't tell.
        let has_body = !session.is_body_done();
        let request = &*websocket::with_moved_token(session.req_header(), ctx);
        if has_body || request.headers.contains_key(header::UPGRADE) {
            ctx.detail = Some("content");
            return Ok(Next::Proxy);
        }
        let key = Key::of_resource(ctx.scheme(), host(request).unwrap_or_default(), &target(route, request));
        let asked = asked(rules, request);
        let now = now_ms();
        let cache = &self.parts.cache;
        let choosing = dress::choosing(route, &request.method, &request.headers);
        match cache.look_followed(&key, &choosing, &asked, now) {
            Look::Hit(entry) => self.send_hit(session, ctx, &key, &entry).await,
            Look::Stale(entry) => {
                let wish = Wish { route, rules, key, asked: policy::Asked::default() };
                let (asking, fetcher) = self.ask_for_all(request, ctx, wish, entry.may_be_for_credentials());
                cache.refresh_followed(asking, entry.clone(), fetcher);
                ctx.result = CacheResult::Stale;
                let status = stale(&entry.terms(), now);
                self.send_entry(session, ctx, &entry, status).await
            }
            Look::Nothing if request.method == Method::HEAD && !asked.only_if_cached => {
                ctx.detail = Some("method");
                Ok(Next::Proxy)
            }
            Look::Nothing => {
                let wish = Wish { route, rules, key, asked };
                Box::pin(self.answer_missing(session, ctx, wish)).await
            }
        }
    }

    async fn answer_missing(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        wish: Wish<'_>,
    ) -> Result<Next> {
        let interim = Arc::new(Interim::default());
        // In a block: what is alive at an await takes room in the future, dropped or not.
        let (asking, fetcher) = {
            let request = websocket::with_moved_token(session.req_header(), ctx);
            self.ask(&request, ctx, wish, Some(interim.clone()))
        };
        let mut answer = pin!(self.parts.cache.answer_followed(asking, fetcher));
        let (answer, forward) = loop {
            let next = async {
                tokio::select! {
                    biased;
                    () = interim.told.notified() => None,
                    answer = &mut answer => Some(answer),
                }
            };
            if let Some(answer) = session.meanwhile(pin!(next)).await? {
                break answer;
            }
            let mut sending = pin!(send_interim(session, interim.take()));
            // The fill goes on while a client takes them: others wait for it.
            tokio::select! {
                biased;
                sent = &mut sending => sent?,
                answer = &mut answer => {
                    sending.await?;
                    break answer;
                }
            }
        };
        send_interim(session, interim.take()).await?;
        self.send_answer(session, ctx, answer, forward).await
    }

    /// The cache's request for the refresh of a stale answer, and the origin's. Ranges, conditions and
    /// directives of the client are left out: the answer is for others too. Its credentials are sent only if
    /// the stale answer may have been made for some.
    fn ask_for_all(
        &self,
        request: &RequestHeader,
        ctx: &mut Context,
        wish: Wish<'_>,
        for_credentials: bool,
    ) -> (Arc<Asking>, Fetcher) {
        let mut whole = forward::of_the_whole(request);
        if for_credentials {
            return self.ask(&whole, ctx, wish, None);
        }
        whole.remove_header(&header::AUTHORIZATION);
        let target = target(wish.route, request);
        // Without the token of the query.
        whole.set_raw_path(target.as_bytes()).unwrap_or_default();
        let shown = (ctx.identity.take(), ctx.shown.take());
        let asked = self.ask(&whole, ctx, wish, None);
        (ctx.identity, ctx.shown) = shown;
        asked
    }

    /// What the cache is asked, and how the origin would be.
    fn ask(
        &self,
        request: &RequestHeader,
        ctx: &Context,
        wish: Wish<'_>,
        interim: Option<Arc<Interim>>,
    ) -> (Arc<Asking>, Fetcher) {
        let origin = wish.route.target.origin();
        let asking = Arc::new(Asking { method: Method::GET, ..asking(request, ctx, wish) });
        // In the form that the key has: whoever spells it otherwise has nothing made for others of his spelling.
        let host = host(request).map(authority::normalize);
        let mut ask = Ask {
            method: Method::GET,
            target: asking.target.clone(),
            headers: forward::followed_headers(request, host.as_deref(), ctx, asking.is_alone()),
            host,
            tenant: Some(tenant(ctx.identity.as_deref()).to_string()),
            spare: false,
            body: Bytes::new(),
        };
        // The client's: what the origin doesn't get to see.
        ask.headers.retain(|(name, _)| *name != header::ORIGIN || asking.headers.contains_key(name));
        dress::asked(request, ctx, &mut ask.headers, &mut ask.host);
        let interim = interim.filter(|_| request.version >= Version::HTTP_11);
        let fetcher = OriginFetcher {
            origins: ctx.site.plan.origins.clone(),
            origin,
            ask: Arc::new(ask),
            interim,
            _hold: ctx.hold.clone(),
        };
        (asking.clone(), keyed(fetcher, &asking.rules))
    }
}

fn keyed(fetcher: OriginFetcher, rules: &Arc<FollowRules>) -> Fetcher {
    match rules.key_headers.is_empty() {
        true => Box::new(fetcher),
        false => Box::new(Keyed { fetcher, rules: rules.clone() }),
    }
}

/// Says with each answer by which fields its route tells answers apart.
struct Keyed {
    fetcher: OriginFetcher,
    rules: Arc<FollowRules>,
}

impl AskOrigin for Keyed {
    fn ask(&mut self, conditions: &[(HeaderName, HeaderValue)], by: Instant, spare: bool) -> Fetch {
        let (fetched, rules) = (self.fetcher.ask(conditions, by, spare), self.rules.clone());
        Box::pin(async move {
            let mut fetched = fetched.await?;
            for line in claims::vary(&rules.key_headers) {
                fetched.headers.append(header::VARY, line);
            }
            Ok(fetched)
        })
    }

    fn is_failing(&self) -> bool {
        self.fetcher.is_failing()
    }
}

/// What a request wants, and by which rules.
pub(super) struct Wish<'r> {
    pub(super) route: &'r Route,
    pub(super) rules: &'r Arc<FollowRules>,
    pub(super) key: Key,
    pub(super) asked: policy::Asked,
}

/// The client's directives for caches, on a route that honours them.
pub(super) fn asked(rules: &FollowRules, request: &RequestHeader) -> policy::Asked {
    match rules.request_directives {
        true => policy::asked(&request.headers),
        false => policy::Asked::default(),
    }
}

/// What the cache is asked.
pub(super) fn asking(request: &RequestHeader, ctx: &Context, wish: Wish<'_>) -> Asking {
    let Wish { route, rules, key, asked } = wish;
    let request = &*websocket::with_moved_token(request, ctx);
    let (host, target) = (host(request).unwrap_or_default(), target(route, request).into_owned());
    let mut headers = dress::choosing(route, &request.method, &request.headers).into_owned();
    // The origin doesn't get to see them: they choose no variant.
    for name in nominated_by_connection(&request.headers) {
        headers.remove(name);
    }
    Asking {
        resource: resource(host, &target),
        key,
        host: host.to_owned(),
        method: request.method.clone(),
        authorized: ctx.identity.is_some()
            || ctx.subject().is_some()
            || headers.contains_key(header::AUTHORIZATION),
        headers,
        ours: ctx.site.ours.clone(),
        asked,
        rules: rules.clone(),
        usual: ctx.usual_time(),
        target,
    }
}

/// Path and query, without a token.
pub(super) fn target<'r>(route: &Route, request: &'r RequestHeader) -> Cow<'r, str> {
    let whole = request.uri.path_and_query().map_or("/", |target| target.as_str());
    match request.uri.query().filter(|_| route.token_query) {
        None => whole.into(),
        Some(query) => {
            let (path, kept) = (request.uri.path(), identity::without_query_token(query));
            if kept.is_empty() {
                path.into()
            } else {
                format!("{path}?{kept}").into()
            }
        }
    }
}

/// Interim answers on their way to the one who asked.
#[derive(Default)]
pub(super) struct Interim {
    waiting: Mutex<Vec<ResponseHeader>>,
    told: Notify,
}

impl Interim {
    /// Has one sent. A client that doesn't take them in time does without.
    pub(super) fn tell(&self, head: &ResponseHeader) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < INTERIM {
            waiting.push(head.clone());
            self.told.notify_one();
        }
    }

    fn take(&self) -> Vec<ResponseHeader> {
        std::mem::take(&mut self.waiting.lock())
    }
}

/// Sends interim answers (1xx), which have no effect on the final one.
async fn send_interim(session: &mut Session<'_>, waiting: Vec<ResponseHeader>) -> Result<()> {
    for mut interim in waiting {
        forward::undress_interim(&mut interim);
        session.write_response_header(Box::new(interim)).await?;
    }
    Ok(())
}
