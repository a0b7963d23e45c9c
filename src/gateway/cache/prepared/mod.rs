//! The gateway's half of the prepared lane: which requests can be answered from memory, and the bytes of the
//! answers.
//!
//! Decides whether the other lanes would answer a request with a fresh entry from memory, and with which
//! bytes. It uses the same configuration, routes, keys, versions and purges; the heads are made by the same
//! functions, once for each entry, route, listener and form. A request that it can't decide gets `None`,
//! which is never an answer and has no side effects.
//!
//! An answer needs no allocation and no map of fields: names are compared in the client's bytes, the key is
//! built in a reused buffer, and the head is copied around its placeholders.

pub(crate) mod head;
mod record;
pub(crate) mod request;

pub(crate) use record::PendingLog;

use crate::{
    address::ClientAddress,
    cache::{
        entry::{
            prepared_head::{HeadConditions, HoleFilling, PreparedHead, SharedHeads},
            CacheEntry,
        },
        key::{self, CacheKey, RequestScheme},
        AmbiguousRequest, Cache, MemoryLookup,
    },
    clock::{self, ClockReading},
    config::{CacheMode, CacheRules, HeaderTemplate, RouteConfig},
    gateway::{
        cache::{
            prepared::request::{FastCaller, FastRequest},
            versioned::bound_host,
        },
        context::{connection::ListenerInfo as Listener, request_id::RequestId, RequestContext},
        headers::to_client::{complete_head, set_age},
        live::wish,
        runtime_config::{RouteMode, RouteRuntime, RuntimeConfig},
        session::native_request::NativeRequest,
        Gateway,
    },
    http::{
        authority::is_host,
        cache_status::CacheStatus,
        date::{date_text, response_date},
        names::REQUEST_ID,
    },
    identity::{self, tenant_of, Identity, TokenRule},
    name::Tenant,
    representation::{
        respond::{self, ContentForm},
        Body,
    },
    route::RouteMatch,
    telemetry::labels::{CacheResult, TokenResult},
};
use head::{map_head, serialize_head, write_decimal, EntryParticulars, MAX_DIGITS};

use arc_swap::Guard;
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{sync::Arc, time::Instant};

/// The largest body that is copied behind its head, in bytes; a longer one is sent from the stored entry.
const MAX_INLINE_BODY: u64 = 15 * 1024;

/// Returns true if the prepared lane may answer on a route: neither the selection of an answer nor its fields
/// depend on parts of a request that the lane doesn't read.
pub(crate) fn fast_path_ok(route: &RouteConfig) -> bool {
    let fixed = |template: &HeaderTemplate| matches!(template, HeaderTemplate::Fixed(_));
    let is_fixed = route.headers.response.iter().all(|rules| {
        rules.set.iter().all(|(_, lines)| lines.iter().all(fixed)) && rules.add.iter().all(|(_, v)| fixed(v))
    });
    let cached = !matches!(route.cache, CacheMode::Off) && route.target.origin().is_some();
    cached && is_fixed && route.signed.is_none() && !route.token_query
}

/// The value of a request's field that `Vary` names. `Err` if it can't be determined: rules change what the
/// origin sees of the field (cookies included), or it has several lines.
fn varying_value<'r>(
    asked: &FastRequest<'r>,
    route: &RouteConfig,
    name: &HeaderName,
) -> Result<Option<&'r [u8]>, AmbiguousRequest> {
    if *name == header::COOKIE || !route.headers.request.is_empty() || route.cors.is_some() {
        return Err(AmbiguousRequest);
    }
    let mut lines = asked.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_str()));
    match (lines.next(), lines.next()) {
        (line, None) => Ok(line.map(|line| line.value)),
        (_, Some(_)) => Err(AmbiguousRequest),
    }
}

/// Returns true if a request may want to watch what it reads, which the lane can't do.
fn is_live(asked: &FastRequest<'_>) -> bool {
    asked.fields.iter().any(|field| match field.name.len() {
        6 if field.name.eq_ignore_ascii_case("accept") => wish::names_event_stream(field.value),
        6 => field.name.eq_ignore_ascii_case("prefer"),
        _ => false,
    })
}

/// Returns true if a request has cookies.
fn has_cookie(asked: &FastRequest<'_>) -> bool {
    asked.fields.iter().any(|field| field.name.eq_ignore_ascii_case("cookie"))
}

/// An answer that has been written, for metrics and the access record.
#[derive(Debug)]
pub struct FastAnswer {
    route: usize,
    status: u16,
    bytes: u64,
    is_head: bool,
    id: RequestId,
    tenant: Option<Tenant>,
    /// The body, if it has not been written behind the head.
    pub body: Option<Body>,
}

/// An entry that answers a request.
struct PreparedHit {
    index: usize,
    entry: Arc<CacheEntry>,
    form: ContentForm,
    not_modified: bool,
    identity: Option<Arc<Identity>>,
}

impl PreparedHit {
    fn status(&self) -> StatusCode {
        if self.not_modified {
            StatusCode::NOT_MODIFIED
        } else {
            self.entry.representation.status()
        }
    }

    fn body(&self) -> Option<&Body> {
        match self.form {
            ContentForm::AsItIs => Some(self.entry.representation.body()),
            ContentForm::Encoded(coding) => self.entry.representation.encoded(coding),
            ContentForm::Decoded(_) => None,
        }
    }

    /// The body that is sent.
    fn content(&self, is_head: bool) -> Option<&Body> {
        self.body().filter(|_| !self.not_modified && !is_head)
    }

    /// The length of its body in bytes; 0 for a 304.
    fn length(&self) -> u64 {
        self.body().filter(|_| !self.not_modified).map_or(0, Body::len)
    }
}

/// Buffers for building keys.
#[derive(Debug, Default)]
pub struct KeyBuffers {
    key: String,
    query: String,
}

/// The prepared lane's view of the gateway.
pub struct FastResponder {
    gateway: Gateway,
    alike: SharedHeads,
}

impl FastResponder {
    /// The prepared lane of a gateway: the same services, the same runtime configuration.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway, alike: SharedHeads::default() }
    }

    /// The gateway, for requests that the lane can't answer.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Begins a batch of requests that have been read just now.
    pub fn visit(&self, caller: FastCaller) -> RequestBatch<'_> {
        let began = Instant::now();
        RequestBatch {
            ready: self,
            site: self.gateway.site.load(),
            caller,
            began,
            time: clock::reading_at(began),
        }
    }

    /// Counts answers of the prepared lane.
    pub fn count(&self, answers: usize) {
        self.gateway.services.metrics.answered_fast(answers as u64);
    }
}

/// A batch of requests that is answered with one configuration and one time.
pub struct RequestBatch<'v> {
    ready: &'v FastResponder,
    site: Guard<Arc<RuntimeConfig>>,
    caller: FastCaller,
    began: Instant,
    /// The same time by the wall clock: the clock is read once.
    time: ClockReading,
}

impl RequestBatch<'_> {
    /// Appends the answer to a request to `out`; without its body if that is long. `None`: another lane has
    /// to answer, and nothing was written.
    pub fn answer(
        &self,
        asked: &FastRequest<'_>,
        words: &mut KeyBuffers,
        out: &mut Vec<u8>,
    ) -> Option<FastAnswer> {
        let found = self.find(asked, words)?;
        let id = self.ready.gateway.services.ids.accept_client_id(asked.request_id);
        self.write_head(&found, &id, out)?;
        if let Some(body) = found.content(asked.is_head).filter(|body| body.len() <= MAX_INLINE_BODY) {
            body.pieces().for_each(|piece| out.extend_from_slice(piece));
        }
        Some(self.answered(found, id, asked.is_head, Some(MAX_INLINE_BODY)))
    }

    /// The answer to an HTTP/2 request: its head, and the record of it with its body.
    pub fn answer_http2(
        &self,
        asked: &FastRequest<'_>,
        words: &mut KeyBuffers,
    ) -> Option<(ResponseHeader, FastAnswer)> {
        let found = self.find(asked, words)?;
        let id = self.ready.gateway.services.ids.accept_client_id(asked.request_id);
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = found.status();
        head.headers = self.fields(&found)?;
        head.headers.insert(header::AGE, HeaderValue::from(found.entry.age_ms(self.time.now_ms) / 1_000));
        head.headers.insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).ok()?);
        Some((head.into(), self.answered(found, id, asked.is_head, None)))
    }

    /// The request that was read in these bytes, if the gateway can serve it without Pingora.
    pub fn request(&self, asked: &FastRequest<'_>, bytes: &[u8]) -> Option<NativeRequest> {
        NativeRequest::of(asked, bytes, &self.site)
    }

    /// Finds the entry that answers a request.
    fn find(&self, asked: &FastRequest<'_>, words: &mut KeyBuffers) -> Option<PreparedHit> {
        let (site, index) = (&**self.site, self.route(asked)?);
        let (route, at_hand) = (site.plan.config.routes.get(index)?, site.per_route.get(index)?);
        if !at_hand.swift || (asked.origin && route.cors.is_some()) {
            return None;
        }
        if at_hand.live.is_some() && is_live(asked) {
            return None;
        }
        let identity = self.identity(asked, route, at_hand.token)?;
        let entry = self.entry(asked, route, at_hand, identity.as_deref(), words)?;
        let what = &entry.representation;
        let plain = !matches!(
            what.status(),
            StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED
        );
        if !plain || entry.part().is_some() {
            return None;
        }
        if asked.accept_encoding.is_some() && Cache::would_encode(&entry) {
            return None;
        }
        let form = respond::accepted_form(what, asked.accept_encoding, &site.plan.config.encoding.prefer);
        if matches!(form, ContentForm::Decoded(_)) {
            return None;
        }
        let not_modified = respond::is_not_modified(what, asked.if_none_match, asked.if_modified_since);
        // Which of the tags an encoded form has is left to the other lanes.
        if not_modified && asked.if_none_match.is_some_and(|tags| !respond::holds_tag(what, form, tags)) {
            return None;
        }
        Some(PreparedHit { index, entry, form, not_modified, identity })
    }

    /// The record of an answer. A body that is longer than `sent` is still to be sent.
    fn answered(&self, found: PreparedHit, id: RequestId, is_head: bool, sent: Option<u64>) -> FastAnswer {
        if found.identity.is_some() {
            self.ready.gateway.services.metrics.token(TokenResult::Remembered);
        }
        let content = found.content(is_head);
        let bytes = content.map_or(0, Body::len);
        let body = content.filter(|_| sent.is_none_or(|sent| bytes > sent)).map(Body::to_send);
        FastAnswer {
            route: found.index,
            status: found.status().as_u16(),
            bytes,
            is_head,
            id,
            tenant: found.identity.and_then(|identity| identity.tenant.clone()),
            body,
        }
    }

    /// The route of a request, if no redirect, event or trusted proxy has to be considered.
    fn route(&self, asked: &FastRequest<'_>) -> Option<usize> {
        let site = &**self.site;
        if self.listener()?.redirect.is_some() || !is_host(asked.host.as_bytes()) {
            return None;
        }
        if asked.forwarded && site.trusted.contains(self.caller.peer.to_canonical()) {
            return None;
        }
        if site.plan.events.at(asked.path).is_some() || site.endpoint(asked.path).is_some() {
            return None;
        }
        let method = if asked.is_head { &Method::HEAD } else { &Method::GET };
        match site.routes.find_plain(Some(asked.host), asked.path, method) {
            RouteMatch::Found(index) => Some(index),
            RouteMatch::NotFound | RouteMatch::MethodNotAllowed(_) | RouteMatch::Ambiguous => None,
        }
    }

    fn listener(&self) -> Option<&Arc<Listener>> {
        self.site.plan.entries.get(self.caller.listener)
    }

    /// The identity of a request, if the route reads tokens: by the rule that `request::auth` asks too, from
    /// tokens that were verified before. `None`: another lane has to decide.
    fn identity(
        &self,
        asked: &FastRequest<'_>,
        route: &RouteConfig,
        rule: TokenRule,
    ) -> Option<Option<Arc<Identity>>> {
        let Some(verifier) = self.site.plan.verifier.as_ref().filter(|_| rule.reads_token()) else {
            return Some(None);
        };
        let Some(credentials) = asked.authorization else {
            let may_identify = route.token_cookie.is_some() && has_cookie(asked);
            return (rule.admits_anonymous() && !may_identify).then_some(None);
        };
        let identity = verifier.remembers(identity::plain_bearer_token(credentials)?, self.time)?;
        rule.check_identity(&identity).is_ok().then_some(Some(identity))
    }

    /// The fresh entry for a request.
    fn entry(
        &self,
        asked: &FastRequest<'_>,
        route: &RouteConfig,
        at_hand: &RouteRuntime,
        identity: Option<&Identity>,
        words: &mut KeyBuffers,
    ) -> Option<Arc<CacheEntry>> {
        let cache = &self.ready.gateway.services.cache;
        match &at_hand.mode {
            RouteMode::Versioned(_) if asked.min_version => None,
            RouteMode::Versioned(rules) => {
                self.spell(asked, route, rules, identity, words);
                match cache.look(&words.key, self.time.now_ms) {
                    MemoryLookup::Hit(entry) => Some(entry),
                    MemoryLookup::Stale(_) | MemoryLookup::Nothing => None,
                }
            }
            RouteMode::Follow(rules) => {
                if asked.directives && rules.request_directives {
                    return None;
                }
                let scheme = self.listener()?.scheme;
                CacheKey::spell_resource(&mut words.key, scheme, asked.host, asked.target);
                let said = |name: &HeaderName| match rules.key_headers.contains(name) {
                    // Whether the directives are obeyed depends on the peer.
                    true => Err(AmbiguousRequest),
                    false => varying_value(asked, route, name),
                };
                cache.look_swiftly(&words.key, said, self.time.now_ms)
            }
            RouteMode::Off | RouteMode::Files(_) => None,
        }
    }

    fn spell(
        &self,
        asked: &FastRequest<'_>,
        route: &RouteConfig,
        rules: &CacheRules,
        identity: Option<&Identity>,
        words: &mut KeyBuffers,
    ) {
        key::spell_query(&mut words.query, &rules.query, asked.query);
        let bound = bound_host(Some(asked.host), route);
        let parts = key::KeyParts {
            host: bound.as_deref(),
            tenant: tenant_of(identity),
            user: identity.and_then(|identity| identity.user.as_deref()),
            path: asked.path,
            query: &words.query,
        };
        CacheKey::spell(&mut words.key, rules, parts);
    }

    fn circumstances(&self, found: &PreparedHit, http2: bool) -> Option<HeadConditions> {
        Some(HeadConditions {
            site: self.site.number,
            route: u32::try_from(found.index).ok()?,
            listener: u32::try_from(self.caller.listener).ok()?,
            form: found.form,
            not_modified: found.not_modified,
            http2,
        })
    }

    fn write_head(&self, found: &PreparedHit, id: &RequestId, out: &mut Vec<u8>) -> Option<()> {
        let circumstances = self.circumstances(found, false)?;
        let date = date_text(self.time.wall_ms / 1_000);
        let (mut age, mut length) = ([0; MAX_DIGITS], [0; MAX_DIGITS]);
        let filling = HoleFilling {
            date: &date,
            age: write_decimal(found.entry.age_ms(self.time.now_ms) / 1_000, &mut age),
            request_id: id.as_bytes(),
            length: write_decimal(found.length(), &mut length),
            fields: found.entry.representation.fields(),
        };
        if !found.entry.prepared.write(&circumstances, &filling, out) {
            let head = self.prepare(found, circumstances)?;
            head.write(&filling, out);
            found.entry.prepared.keep(head, &self.ready.alike);
        }
        Some(())
    }

    /// The fields of a head; the caller sets `Age` and the request id.
    fn fields(&self, found: &PreparedHit) -> Option<HeaderMap> {
        let circumstances = self.circumstances(found, true)?;
        let mut length = [0; MAX_DIGITS];
        let length = write_decimal(found.length(), &mut length);
        let own = found.entry.representation.fields();
        let filling = HoleFilling { date: b"", age: b"", request_id: b"", length, fields: own };
        if let Some(fields) = found.entry.prepared.fields(&circumstances, &filling) {
            return Some(fields);
        }
        let mut fields = self.head(found)?.headers.clone();
        if response_date(&fields) == 0 {
            fields.remove(header::DATE);
        }
        let head = map_head(fields.clone(), EntryParticulars::new(own, found.length()), circumstances);
        found.entry.prepared.keep(head, &self.ready.alike);
        Some(fields)
    }

    /// Builds a head as the other lanes do.
    fn head(&self, found: &PreparedHit) -> Option<ResponseHeader> {
        let mut ctx = RequestContext::new(Arc::clone(&self.site));
        ctx.route = Some(found.index);
        ctx.entry = self.listener().cloned();
        ctx.client =
            ClientAddress::peer(self.caller.peer, self.listener().map_or(RequestScheme::Http, |l| l.scheme));
        ctx.result = CacheResult::Hit;
        // The request doesn't matter: no rule of this route has a variable, and it has no `Origin`.
        let request = RequestHeader::build(Method::GET, b"/", None).ok()?;
        let mut head = respond::head_in(&found.entry.representation, found.form, found.not_modified)?;
        set_age(&mut head, 0).ok()?;
        complete_head(&mut head, &request, &ctx, CacheStatus::HIT).ok()?;
        Some(head)
    }

    /// The same serialised for HTTP/1.1, with the positions of the values that change.
    fn prepare(&self, found: &PreparedHit, circumstances: HeadConditions) -> Option<PreparedHead> {
        let mut head = self.head(found)?;
        let date = response_date(&head.headers);
        // Pingora adds these fields, and the connection corrects them.
        head.insert_header(header::DATE, HeaderValue::from_bytes(&date_text(date)).ok()?).ok()?;
        head.insert_header(header::CONNECTION, "keep-alive").ok()?;
        let own = EntryParticulars::new(found.entry.representation.fields(), found.length());
        serialize_head(&head, own, date == 0, circumstances)
    }
}
