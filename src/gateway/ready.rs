//! The gateway's half of the fast lane: which requests can be answered from memory, and the bytes of the
//! answers.
//!
//! Decides whether the full lane would answer a request with a fresh entry from memory, and with which bytes.
//! It uses the same configuration, routes, keys, versions and purges; the heads are made by the full lane's
//! functions, once for each entry, route, listener and form. A request that it can't decide gets `None`,
//! which is never an answer and has no side effects.
//!
//! An answer needs no allocation and no map of fields: names are compared in the client's bytes, the key is
//! built in a reused buffer, and the head is copied around its placeholders.

mod told;

pub use told::Late;

use super::{
    cached::{bound_host, tenant},
    context::{date_of, Context, RequestId},
    exchange::Request,
    forward,
    send::{complete, set_age},
    serialised::{date_text, decimal, mapped, serialised, Particulars, DIGITS},
    site::{Mode, PerRoute, Site},
    Entry as Listener, Gateway, HIT,
};
use crate::{
    address::Client,
    authority::is_host,
    cache::{
        entry::Entry,
        key::{self, Key, Scheme},
        prepared::{Alike, Circumstances, Filling, Head},
        Cache, Look, Untold,
    },
    clock::{self, Reading},
    config::{Auth, CacheMode, CacheRules, Route, Scope, Template},
    identity::{self, Identity},
    name::Tenant,
    representation::{
        respond::{self, Form},
        Body,
    },
    route::Match,
    telemetry::labels::{CacheResult, TokenResult},
};
use arc_swap::Guard;
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{net::IpAddr, sync::Arc, time::Instant};

/// The largest body that is copied behind its head, in bytes; a longer one is sent from the stored entry.
const BESIDE: u64 = 15 * 1024;

/// Returns true if the fast lane may answer on a route: neither the selection of an answer nor its fields
/// depend on parts of a request that the lane doesn't read.
pub(super) fn is_swift(route: &Route) -> bool {
    let fixed = |template: &Template| matches!(template, Template::Fixed(_));
    let is_fixed = route.headers.response.iter().all(|rules| {
        rules.set.iter().all(|(_, lines)| lines.iter().all(fixed)) && rules.add.iter().all(|(_, v)| fixed(v))
    });
    let cached = !matches!(route.cache, CacheMode::Off) && route.target.origin().is_some();
    cached && is_fixed && route.signed.is_none() && !route.token_query
}

/// A request as the lane has read it: GET or HEAD, well formed, without a body, and without any field that
/// the lane can't handle. Each of these fields occurs at most once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'r> {
    /// True for HEAD.
    pub is_head: bool,
    /// Path and query as they were sent: characters of RFC 3986.
    pub target: &'r str,
    /// The path of `target`, in canonical form.
    pub path: &'r str,
    /// The query of `target`.
    pub query: &'r str,
    /// `Host`
    pub host: &'r str,
    /// `Authorization`
    pub authorization: Option<&'r [u8]>,
    /// `Accept-Encoding`
    pub accept_encoding: Option<&'r [u8]>,
    /// `If-None-Match`
    pub if_none_match: Option<&'r [u8]>,
    /// `If-Modified-Since`
    pub if_modified_since: Option<&'r [u8]>,
    /// `X-Request-Id`
    pub request_id: Option<&'r [u8]>,
    /// True if it has an `Origin`.
    pub origin: bool,
    /// True if it has cache directives: `Cache-Control`, `Pragma`.
    pub directives: bool,
    /// True if it names the client that it is forwarded for, as a proxy does.
    pub forwarded: bool,
    /// All fields.
    pub fields: &'r [httparse::Header<'r>],
}

/// The value of a request's field that `Vary` names. `Err` if it can't be determined: rules change what the
/// origin sees of the field (cookies included), or it has several lines.
fn said<'r>(asked: &Asked<'r>, route: &Route, name: &HeaderName) -> Result<Option<&'r [u8]>, Untold> {
    if *name == header::COOKIE || !route.headers.request.is_empty() || route.cors.is_some() {
        return Err(Untold);
    }
    let mut lines = asked.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_str()));
    match (lines.next(), lines.next()) {
        (line, None) => Ok(line.map(|line| line.value)),
        (_, Some(_)) => Err(Untold),
    }
}

/// The client of a request, and the listener that it came by.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The address of the other end.
    pub peer: IpAddr,
    /// The index of the listener.
    pub listener: usize,
    /// The version of HTTP that the client uses.
    pub version: Version,
}

/// An answer that has been written, for metrics and the access record.
#[derive(Debug)]
pub struct Answered {
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
struct Found {
    index: usize,
    entry: Arc<Entry>,
    form: Form,
    not_modified: bool,
    identity: Option<Arc<Identity>>,
}

impl Found {
    fn status(&self) -> StatusCode {
        if self.not_modified {
            StatusCode::NOT_MODIFIED
        } else {
            self.entry.representation.status()
        }
    }

    fn body(&self) -> Option<&Body> {
        match self.form {
            Form::AsItIs => Some(self.entry.representation.body()),
            Form::Encoded(coding) => self.entry.representation.encoded(coding),
            Form::Decoded(_) => None,
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
pub struct Words {
    key: String,
    query: String,
}

/// The fast lane's view of the gateway.
pub struct Ready {
    gateway: Gateway,
    alike: Alike,
}

impl Ready {
    pub(super) fn new(gateway: Gateway) -> Self {
        Self { gateway, alike: Alike::default() }
    }

    /// The gateway, for requests that the lane can't answer.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Begins a batch of requests that have been read just now.
    pub fn visit(&self, caller: Caller) -> Visit<'_> {
        let began = Instant::now();
        Visit { ready: self, site: self.gateway.site.load(), caller, began, time: clock::reading_at(began) }
    }

    /// Counts answers of the fast lane.
    pub fn count(&self, answers: usize) {
        self.gateway.parts.metrics.answered_fast(answers as u64);
    }
}

/// A batch of requests that is answered with one configuration and one time.
pub struct Visit<'v> {
    ready: &'v Ready,
    site: Guard<Arc<Site>>,
    caller: Caller,
    began: Instant,
    /// The same time by the wall clock: the clock is read once.
    time: Reading,
}

impl Visit<'_> {
    /// Appends the answer to a request to `out`; without its body if that is long. `None`: the full lane has
    /// to answer, and nothing was written.
    pub fn answer(&self, asked: &Asked<'_>, words: &mut Words, out: &mut Vec<u8>) -> Option<Answered> {
        let found = self.find(asked, words)?;
        let id = self.ready.gateway.ids.of_said(asked.request_id);
        self.write_head(&found, &id, out)?;
        if let Some(body) = found.content(asked.is_head).filter(|body| body.len() <= BESIDE) {
            body.pieces().for_each(|piece| out.extend_from_slice(piece));
        }
        Some(self.answered(found, id, asked.is_head, Some(BESIDE)))
    }

    /// The answer to an HTTP/2 request: its head, and the record of it with its body.
    pub fn answer_http2(&self, asked: &Asked<'_>, words: &mut Words) -> Option<(ResponseHeader, Answered)> {
        let found = self.find(asked, words)?;
        let id = self.ready.gateway.ids.of_said(asked.request_id);
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = found.status();
        head.headers = self.fields(&found)?;
        head.headers.insert(header::AGE, HeaderValue::from(found.entry.age_ms(self.time.now_ms) / 1_000));
        head.headers.insert(forward::REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).ok()?);
        Some((head.into(), self.answered(found, id, asked.is_head, None)))
    }

    /// The request that was read in these bytes, if the gateway can serve it without Pingora.
    pub fn request(&self, asked: &Asked<'_>, bytes: &[u8]) -> Option<Request> {
        Request::of(asked, bytes, &self.site)
    }

    /// Finds the entry that answers a request.
    fn find(&self, asked: &Asked<'_>, words: &mut Words) -> Option<Found> {
        let (site, index) = (&**self.site, self.route(asked)?);
        let (route, at_hand) = (site.plan.config.routes.get(index)?, site.per_route.get(index)?);
        if !at_hand.swift || (asked.origin && route.cors.is_some()) {
            return None;
        }
        let identity = self.identity(asked, route, at_hand)?;
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
        let form = respond::form(what, asked.accept_encoding, &site.plan.config.encoding.prefer);
        if matches!(form, Form::Decoded(_)) {
            return None;
        }
        let not_modified = respond::is_not_modified(what, asked.if_none_match, asked.if_modified_since);
        // Which of the tags an encoded form has is left to the full lane.
        if not_modified && asked.if_none_match.is_some_and(|tags| !respond::holds(what, form, tags)) {
            return None;
        }
        Some(Found { index, entry, form, not_modified, identity })
    }

    /// The record of an answer. A body that is longer than `sent` is still to be sent.
    fn answered(&self, found: Found, id: RequestId, is_head: bool, sent: Option<u64>) -> Answered {
        if found.identity.is_some() {
            self.ready.gateway.parts.metrics.token(TokenResult::Remembered);
        }
        let content = found.content(is_head);
        let bytes = content.map_or(0, Body::len);
        let body = content.filter(|_| sent.is_none_or(|sent| bytes > sent)).map(Body::to_send);
        Answered {
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
    fn route(&self, asked: &Asked<'_>) -> Option<usize> {
        let site = &**self.site;
        if self.listener()?.redirect.is_some() || !is_host(asked.host.as_bytes()) {
            return None;
        }
        if asked.forwarded && site.trusted.contains(self.caller.peer.to_canonical()) {
            return None;
        }
        if site.plan.events.at(asked.path).is_some() {
            return None;
        }
        let method = if asked.is_head { &Method::HEAD } else { &Method::GET };
        match site.routes.find_plain(Some(asked.host), asked.path, method) {
            Match::Found(index) => Some(index),
            Match::NotFound | Match::MethodNotAllowed(_) | Match::Ambiguous => None,
        }
    }

    fn listener(&self) -> Option<&Arc<Listener>> {
        self.site.plan.entries.get(self.caller.listener)
    }

    /// The identity of a request, if the route needs one: as `admission` determines it, from tokens that were
    /// verified before.
    fn identity(
        &self,
        asked: &Asked<'_>,
        route: &Route,
        at_hand: &PerRoute,
    ) -> Option<Option<Arc<Identity>>> {
        let scope = at_hand.mode.rules().map(|rules| rules.scope);
        let Some(verifier) = self.site.plan.verifier.as_ref().filter(|_| route.auth != Auth::Off) else {
            return Some(None);
        };
        let needed = route.auth == Auth::Required || scope == Some(Scope::User);
        if !needed && scope == Some(Scope::Public) {
            return Some(None);
        }
        let Some(credentials) = asked.authorization else { return (!needed).then_some(None) };
        let identity = verifier.remembers(identity::plain_bearer(credentials)?, self.time)?;
        identity.check_scope(scope).is_ok().then_some(Some(identity))
    }

    /// The fresh entry for a request.
    fn entry(
        &self,
        asked: &Asked<'_>,
        route: &Route,
        at_hand: &PerRoute,
        identity: Option<&Identity>,
        words: &mut Words,
    ) -> Option<Arc<Entry>> {
        let cache = &self.ready.gateway.parts.cache;
        match &at_hand.mode {
            Mode::Versioned(rules) => {
                self.spell(asked, route, rules, identity, words);
                match cache.look(&words.key, self.time.now_ms) {
                    Look::Hit(entry) => Some(entry),
                    Look::Stale(_) | Look::Nothing => None,
                }
            }
            Mode::Follow(rules) => {
                if asked.directives && rules.request_directives {
                    return None;
                }
                let scheme = self.listener()?.scheme;
                Key::spell_resource(&mut words.key, scheme, asked.host, asked.target);
                let said = |name: &HeaderName| match rules.key_headers.contains(name) {
                    // Whether the directives are obeyed depends on the peer.
                    true => Err(Untold),
                    false => said(asked, route, name),
                };
                cache.look_swiftly(&words.key, said, self.time.now_ms)
            }
            Mode::Off | Mode::Files(_) => None,
        }
    }

    fn spell(
        &self,
        asked: &Asked<'_>,
        route: &Route,
        rules: &CacheRules,
        identity: Option<&Identity>,
        words: &mut Words,
    ) {
        key::spell_query(&mut words.query, &rules.query, asked.query);
        let bound = bound_host(Some(asked.host), route);
        let parts = key::Parts {
            host: bound.as_deref(),
            tenant: tenant(identity),
            user: identity.and_then(|identity| identity.user.as_deref()),
            path: asked.path,
            query: &words.query,
        };
        Key::spell(&mut words.key, rules, parts);
    }

    fn circumstances(&self, found: &Found, http2: bool) -> Option<Circumstances> {
        Some(Circumstances {
            site: self.site.number,
            route: u32::try_from(found.index).ok()?,
            listener: u32::try_from(self.caller.listener).ok()?,
            form: found.form,
            not_modified: found.not_modified,
            http2,
        })
    }

    fn write_head(&self, found: &Found, id: &RequestId, out: &mut Vec<u8>) -> Option<()> {
        let circumstances = self.circumstances(found, false)?;
        let date = date_text(self.time.wall_ms / 1_000);
        let (mut age, mut length) = ([0; DIGITS], [0; DIGITS]);
        let filling = Filling {
            date: &date,
            age: decimal(found.entry.age_ms(self.time.now_ms) / 1_000, &mut age),
            request_id: id.as_bytes(),
            length: decimal(found.length(), &mut length),
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
    fn fields(&self, found: &Found) -> Option<HeaderMap> {
        let circumstances = self.circumstances(found, true)?;
        let mut length = [0; DIGITS];
        let length = decimal(found.length(), &mut length);
        let own = found.entry.representation.fields();
        let filling = Filling { date: b"", age: b"", request_id: b"", length, fields: own };
        if let Some(fields) = found.entry.prepared.fields(&circumstances, &filling) {
            return Some(fields);
        }
        let mut fields = self.head(found)?.headers.clone();
        if date_of(&fields) == 0 {
            fields.remove(header::DATE);
        }
        let head = mapped(fields.clone(), Particulars::new(own, found.length()), circumstances);
        found.entry.prepared.keep(head, &self.ready.alike);
        Some(fields)
    }

    /// Builds a head as the full lane does.
    fn head(&self, found: &Found) -> Option<ResponseHeader> {
        let mut ctx = Context::new(Arc::clone(&self.site));
        ctx.route = Some(found.index);
        ctx.entry = self.listener().cloned();
        ctx.client = Client::peer(self.caller.peer, self.listener().map_or(Scheme::Http, |l| l.scheme));
        ctx.result = CacheResult::Hit;
        // The request doesn't matter: no rule of this route has a variable, and it has no `Origin`.
        let request = RequestHeader::build(Method::GET, b"/", None).ok()?;
        let mut head = respond::head_in(&found.entry.representation, found.form, found.not_modified)?;
        set_age(&mut head, 0).ok()?;
        complete(&mut head, &request, &ctx, &HIT).ok()?;
        Some(head)
    }

    /// The same serialised for HTTP/1.1, with the positions of the values that change.
    fn prepare(&self, found: &Found, circumstances: Circumstances) -> Option<Head> {
        let mut head = self.head(found)?;
        let date = date_of(&head.headers);
        // Pingora adds these fields, and the connection corrects them.
        head.insert_header(header::DATE, HeaderValue::from_bytes(&date_text(date)).ok()?).ok()?;
        head.insert_header(header::CONNECTION, "keep-alive").ok()?;
        let own = Particulars::new(found.entry.representation.fields(), found.length());
        serialised(&head, own, date == 0, circumstances)
    }
}
