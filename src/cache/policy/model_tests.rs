//! The policy against a model of a shared cache: RFC 9111's prose, one sentence a line, slow and without
//! parsing. The model reads what the test meant to send; the policy reads the headers.
//!
//! Answers come, some are renewed by a 304, and requests come at any time after: both must agree on whether
//! the cache answers without asking the origin.

use super::{
    fields,
    origin_driven::{
        check_storable, decide_reuse,
        directives::{self, RequestDirectives},
        OriginExchange, ReuseVerdict,
    },
    test_kit::{at, date, exchange, fields as map, rules, NOW},
};
use crate::config::FollowRules;

use http::{HeaderMap, StatusCode};
use proptest::{collection::vec, option::of, prelude::*, sample::select};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
enum Directive {
    MaxAge(i64),
    SMaxage(i64),
    WhileRevalidate(i64),
    IfError(i64),
    Word(&'static str),
    /// Text that means nothing.
    Junk(&'static str),
    /// A `max-age` that is none: already stale.
    BadMaxAge(&'static str),
}

/// Times are seconds; `date`, `expires` and `last_modified` count from the second in which the answer is
/// received.
#[derive(Debug, Clone)]
struct Answer {
    cache_control: Option<Vec<Directive>>,
    targeted: Option<Vec<Directive>>,
    expires: Option<Result<i64, &'static str>>,
    date: Option<i64>,
    age: Option<i64>,
    last_modified: Option<i64>,
    etag: bool,
    vary_any: bool,
    pragma: bool,
    /// The time that the origin took.
    delay: i64,
}

#[derive(Debug, Clone)]
struct World {
    status: u16,
    authorized: bool,
    set_cookie: bool,
    /// The request shows a cookie.
    cookie: bool,
    rules: FollowRules,
    first: Answer,
    /// After so many seconds, a 304.
    renewal: Option<(i64, Answer)>,
    asked: RequestDirectives,
    /// The seconds from the last answer to the request.
    after: i64,
}

/// The model. It counts in milliseconds from the beginning of the second in which the answer is received.
impl World {
    /// May a shared cache answer without asking, `after` seconds after it received `answer`?
    fn may_answer(&self, answer: &Answer) -> bool {
        self.may_store(answer) && self.may_reuse(answer)
    }

    fn may_store(&self, answer: &Answer) -> bool {
        let has = |word| answer.has(word);
        // 3: the status is final and, with must-understand, understood; no-store is absent or so overruled.
        let understood = [200, 203, 204, 301, 302, 400, 404, 500].contains(&self.status);
        let no_store =
            (has("no-store") && !has("must-understand")) || (has("must-understand") && !understood);
        // 3, 3.5: not private; not to an authorized request, unless that is allowed.
        let allowed = has("public") || has("must-revalidate") || answer.s_maxage().is_some();
        // 3: public, or a lifetime, or a status that is cacheable by itself.
        let by_itself = [200, 203, 204, 301, 404].contains(&self.status);
        let said = has("public") || answer.explicit_lifetime().is_some() || by_itself;
        // Ours: no cookies, unless the route keeps them, and nothing that can't be used and can't be
        // validated.
        let cookie = self.set_cookie && !self.rules.set_cookie;
        let never_used = self.lifetime(answer).is_none() && !answer.has_validator();
        // Ours: what refuses one request, unless the route names it.
        let refusal = self.status == 400 && !self.rules.statuses.contains(&400);
        ![206, 304].contains(&self.status)
            && !refusal
            && !no_store
            && !has("private")
            && (!self.authorized || allowed)
            && !answer.vary_any
            && said
            && !cookie
            && !never_used
            && !(self.rules.request_directives && self.asked.no_store)
            && (answer.has_validator() || self.worth(answer))
    }

    /// Ours: what came for a cookie is not shared unless its origin said so, or for how long it is fresh.
    fn is_the_cookies(&self, answer: &Answer) -> bool {
        let has_lifetime = answer.explicit_lifetime().is_some_and(|ms| ms > 0) && !answer.has("no-cache");
        self.cookie && !answer.has("public") && !has_lifetime
    }

    /// An answer without a validator that is stale for good is not worth its place.
    fn worth(&self, answer: &Answer) -> bool {
        self.lifetime(answer).unwrap_or(0) + self.while_revalidate(answer).max(self.if_error(answer)) > 0
    }

    /// 4.2.1, 4.2.2
    fn lifetime(&self, answer: &Answer) -> Option<i64> {
        let guessable = [200, 203, 204, 301, 404].contains(&self.status) || answer.has("public");
        let pragma = answer.pragma && answer.targeted.is_none();
        let guess = || {
            let changed = answer.last_modified.filter(|_| self.rules.heuristic && guessable && !pragma)?;
            Some(((answer.made() - changed * 1_000).max(0) / 10).min(86_400_000))
        };
        answer.explicit_lifetime().or_else(guess)
    }

    /// RFC 5861, 3; 5.2.2.2, 5.2.2.8, 5.2.2.10
    fn while_revalidate(&self, answer: &Answer) -> i64 {
        let of_route = i64::try_from(self.rules.stale_while_revalidate.as_millis()).unwrap();
        let of_route = if self.lifetime(answer).is_some() { of_route } else { 0 };
        answer.grace(of_route, |d| if let Directive::WhileRevalidate(s) = d { Some(*s) } else { None })
    }

    /// RFC 5861, 4
    fn if_error(&self, answer: &Answer) -> i64 {
        let of_route = i64::try_from(self.rules.stale_if_error.as_millis()).unwrap();
        answer.grace(of_route, |d| if let Directive::IfError(s) = d { Some(*s) } else { None })
    }

    /// 4, 4.2.3, 4.2.4, 5.2.1
    fn may_reuse(&self, answer: &Answer) -> bool {
        let apparent_age = (-answer.made()).max(0);
        let corrected_age_value = answer.age.unwrap_or(0) * 1_000 + answer.delay * 1_000;
        let current_age = apparent_age.max(corrected_age_value) + self.after * 1_000;
        let lifetime = self.lifetime(answer).unwrap_or(0);
        let asked = if self.rules.request_directives { self.asked } else { RequestDirectives::default() };
        let ms = |s: u64| i64::try_from(s).unwrap() * 1_000;

        let fresh = current_age < lifetime;
        let asks_for_fresh =
            (asked.max_age.is_some() || asked.min_fresh.is_some()) && asked.max_stale.is_none();
        let revalidating = current_age < lifetime + self.while_revalidate(answer) && !asks_for_fresh;
        let forbidden = ["must-revalidate", "proxy-revalidate"].iter().any(|word| answer.has(word))
            || answer.s_maxage().is_some();
        let taken = asked.max_stale.is_some_and(|most| current_age - lifetime <= ms(most)) && !forbidden;

        let too_old = asked.max_age.is_some_and(|most| current_age > ms(most));
        let too_short = fresh && asked.min_fresh.is_some_and(|least| lifetime - current_age < ms(least));
        // At the end of its life it is fresh for no second more.
        let at_end = current_age == lifetime && asked.min_fresh.is_some_and(|least| least > 0);
        !answer.has("no-cache")
            && !asked.no_cache
            && !too_old
            && !too_short
            && !at_end
            && (fresh || revalidating || taken)
    }
}

impl Answer {
    fn said(&self) -> impl Iterator<Item = &Directive> {
        self.targeted.as_ref().or(self.cache_control.as_ref()).into_iter().flatten()
    }

    fn has(&self, word: &str) -> bool {
        self.said().any(|said| matches!(said, Directive::Word(w) if *w == word))
    }

    fn s_maxage(&self) -> Option<i64> {
        self.said().filter_map(|d| if let Directive::SMaxage(s) = d { Some(*s) } else { None }).min()
    }

    fn max_age(&self) -> Option<i64> {
        let seconds = |directive: &Directive| match directive {
            Directive::MaxAge(seconds) => Some(*seconds),
            Directive::BadMaxAge(_) => Some(0),
            _ => None,
        };
        self.said().filter_map(seconds).min()
    }

    fn explicit_lifetime(&self) -> Option<i64> {
        let expires = self.expires.filter(|_| self.targeted.is_none());
        let by_expires = expires.map(|at| at.map_or(0, |at| (at * 1_000 - self.made()).max(0)));
        self.s_maxage().or(self.max_age()).map(|seconds| seconds * 1_000).or(by_expires)
    }

    fn grace(&self, of_route: i64, read: impl Fn(&Directive) -> Option<i64>) -> i64 {
        let never = ["must-revalidate", "proxy-revalidate", "no-cache"].iter().any(|word| self.has(word));
        let otherwise = if self.s_maxage().is_some() { 0 } else { of_route };
        let said = self.said().filter_map(read).min().map(|seconds| seconds * 1_000);
        if never {
            0
        } else {
            said.unwrap_or(otherwise)
        }
    }

    /// By its `Date`, else when it was received: in the last millisecond of the second.
    fn made(&self) -> i64 {
        self.date.map_or(999, |date| date * 1_000)
    }

    fn has_validator(&self) -> bool {
        self.etag || self.last_modified.is_some()
    }

    /// 3.2: a 304 replaces what it brings. Its age is its own. `before` is how long ago this one was
    /// received.
    fn renewed_by(&self, by: &Answer, before: i64) -> Answer {
        let aged = |time: i64| time - before;
        Answer {
            cache_control: by.cache_control.clone().or(self.cache_control.clone()),
            targeted: by.targeted.clone().or(self.targeted.clone()),
            expires: by.expires.or(self.expires.map(|at| at.map(aged))),
            last_modified: by.last_modified.or(self.last_modified.map(aged)),
            etag: by.etag || self.etag,
            vary_any: by.vary_any || self.vary_any,
            pragma: by.pragma || self.pragma,
            ..by.clone()
        }
    }
}

/// Builds an answer. `at` is the second at which it is received.
impl Answer {
    fn headers(&self, at: u64, set_cookie: bool) -> HeaderMap {
        let date_at = |offset: i64| date(at.checked_add_signed(offset).unwrap());
        let mut lines: Vec<(&str, String)> = Vec::new();
        if let Some(said) = &self.targeted {
            lines.push(("cdn-cache-control", text(said)));
        }
        // Every other directive on a line of its own: it must make no difference.
        for line in self.cache_control.iter().flat_map(|said| said.chunks(2)) {
            lines.push(("Cache-Control", text(line)));
        }
        if self.cache_control.as_ref().is_some_and(Vec::is_empty) {
            lines.push(("cache-control", String::new()));
        }
        lines.extend(self.expires.map(|at| ("expires", at.map_or_else(str::to_owned, date_at))));
        lines.extend(self.date.map(|offset| ("date", date_at(offset))));
        lines.extend(self.age.map(|age| ("age", age.to_string())));
        lines.extend(self.last_modified.map(|offset| ("last-modified", date_at(offset))));
        lines.extend(self.etag.then(|| ("etag", "\"a\"".to_owned())));
        lines.extend(self.vary_any.then(|| ("vary", "accept, *".to_owned())));
        lines.extend(self.pragma.then(|| ("pragma", "no-cache".to_owned())));
        lines.extend(set_cookie.then(|| ("set-cookie", "a=b".to_owned())));
        map(&lines.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>())
    }
}

fn text(said: &[Directive]) -> String {
    let each = said.iter().map(|directive| match directive {
        Directive::MaxAge(s) => format!("max-age={s}"),
        Directive::SMaxage(s) => format!("s-maxage={s}"),
        Directive::WhileRevalidate(s) => format!("stale-while-revalidate={s}"),
        Directive::IfError(s) => format!("stale-if-error={s}"),
        Directive::Word(word) => (*word).to_owned(),
        Directive::Junk(junk) => (*junk).to_owned(),
        Directive::BadMaxAge(value) => format!("max-age={value}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The policy's own answer to the same question.
fn answers(world: &World) -> bool {
    let World { status, authorized, set_cookie, cookie, rules, first, renewal, asked, after } = world;
    // Received in the last moment of a second: so `Date` says exactly what the model takes it to say.
    let at_ms = |second: u64| second * 1_000 + 999;
    let status = StatusCode::from_u16(*status).unwrap();
    let said = [("cache-control", "no-store", asked.no_store), ("cookie", "a=b", *cookie)];
    let said: Vec<_> =
        said.into_iter().filter(|(.., is)| *is).map(|(name, value, _)| (name, value)).collect();
    let request = &map(&said);
    let headers = first.headers(NOW, *set_cookie);
    let exchange = OriginExchange {
        request,
        authorized: *authorized,
        status,
        requested_ms: at_ms(NOW) - u64::try_from(first.delay).unwrap() * 1_000,
        received: at(at_ms(NOW)),
        ..exchange(&headers)
    };
    let Ok(mut terms) = check_storable(rules, &exchange) else { return false };
    let mut last = NOW;
    if let Some((later, answer)) = renewal {
        last += u64::try_from(*later).unwrap();
        let stored = fields::stored_fields(&headers, &directives::response_directives(&headers), rules);
        let headers = answer.headers(last, false);
        let requested_ms = at_ms(last) - u64::try_from(answer.delay).unwrap() * 1_000;
        let exchange =
            OriginExchange { answer: &headers, requested_ms, received: at(at_ms(last)), ..exchange };
        let Ok(renewed) = fields::renew_terms(rules, &exchange, status, &stored).1 else { return false };
        terms = renewed;
    }
    let asked = if rules.request_directives { *asked } else { RequestDirectives::default() };
    let now_ms = at_ms(last) + u64::try_from(*after).unwrap() * 1_000;
    !matches!(decide_reuse(&terms, &asked, now_ms), ReuseVerdict::Validate(_))
}

fn model(world: &World) -> bool {
    match &world.renewal {
        _ if !world.may_store(&world.first) || world.is_the_cookies(&world.first) => false,
        None => world.may_answer(&world.first),
        Some((later, by)) => world.may_answer(&world.first.renewed_by(by, *later)),
    }
}

fn directive() -> impl Strategy<Value = Directive> {
    let words = vec!["no-store", "no-cache", "private", "public", "must-revalidate", "proxy-revalidate"];
    let rare = vec!["must-understand", "immutable", "no-transform"];
    let seconds = || 0..40_i64;
    prop_oneof![
        6 => seconds().prop_map(Directive::MaxAge),
        2 => seconds().prop_map(Directive::SMaxage),
        2 => seconds().prop_map(Directive::WhileRevalidate),
        1 => seconds().prop_map(Directive::IfError),
        2 => select(words).prop_map(Directive::Word),
        1 => select(rare).prop_map(Directive::Word),
        1 => select(vec!["foo", "foo=\"no-store\"", "max-ages=5", "foo=\"x; max-age=5\"", "bar=5", "private=\"foo\""])
            .prop_map(Directive::Junk),
    ]
}

fn loose() -> impl Strategy<Value = Directive> {
    let junk = vec!["no_store", "x=\"a, no-store, b\"", "=5", "", "public=1", "no-storeX"];
    prop_oneof![
        20 => directive(),
        1 => select(vec!["-1", "x", "5.0", "", "'5'", " 5"]).prop_map(Directive::BadMaxAge),
        2 => select(junk).prop_map(Directive::Junk),
    ]
}

/// In a structured field the last of two counts, in `Cache-Control` the stricter: one of a kind here.
fn unique(mut said: Vec<Directive>) -> Vec<Directive> {
    let mut kept: Vec<Directive> = Vec::new();
    said.retain(|d| !matches!(d, Directive::Junk("private=\"foo\"")));
    for directive in said {
        let name = |d: &Directive| text(std::slice::from_ref(d)).split('=').next().map(str::to_owned);
        if !kept.iter().any(|before| name(before) == name(&directive)) {
            kept.push(directive);
        }
    }
    kept
}

fn answer() -> impl Strategy<Value = Answer> {
    let expires =
        prop_oneof![9 => (-40..40_i64).prop_map(Ok), 1 => select(vec!["0", "-1", "soon"]).prop_map(Err)];
    let targeted = vec(directive(), 1..4).prop_map(unique).prop_filter("not empty", |said| !said.is_empty());
    (
        proptest::option::weighted(0.8, vec(loose(), 0..4)),
        proptest::option::weighted(0.15, targeted),
        of(expires),
        of(-40..10_i64),
        proptest::option::weighted(0.3, 0..40_i64),
        of(-500..5_i64),
        any::<bool>(),
        (prop::bool::weighted(0.03), prop::bool::weighted(0.1), prop_oneof![3 => Just(0_i64), 1 => 0..5_i64]),
    )
        .prop_map(|(cache_control, targeted, expires, date, age, last_modified, etag, rest)| {
            let (vary_any, pragma, delay) = rest;
            Answer {
                cache_control,
                targeted,
                expires,
                date,
                age,
                last_modified,
                etag,
                vary_any,
                pragma,
                delay,
            }
        })
}

fn asks() -> impl Strategy<Value = RequestDirectives> {
    (prop::bool::weighted(0.1), prop::bool::weighted(0.1), of(0..60_u64), of(0..60_u64), of(0..20_u64))
        .prop_map(|(no_cache, no_store, max_age, max_stale, min_fresh)| RequestDirectives {
            only_if_cached: false,
            no_cache,
            no_store,
            max_age,
            max_stale,
            min_fresh,
        })
}

prop_compose! {
    fn world()(
        status in prop_oneof![6 => Just(200_u16), 2 => select(vec![203, 204, 206, 301, 302, 400, 404, 500, 599, 304])],
        (authorized, set_cookie, keeps) in
            (prop::bool::weighted(0.15), prop::bool::weighted(0.05), any::<bool>()),
        (cookie, refusals) in (prop::bool::weighted(0.3), any::<bool>()),
        (request_directives, heuristic) in (prop::bool::weighted(0.4), prop::bool::weighted(0.8)),
        (while_revalidate, if_error) in (prop_oneof![Just(0_u64), 0..20_u64], prop_oneof![Just(0_u64), 0..20_u64]),
        first in answer(),
        renewal in proptest::option::weighted(0.3, (0..60_i64, answer())),
        asked in asks(),
        after in prop_oneof![0..60_i64, 0..10_i64],
    ) -> World {
        let rules = FollowRules {
            request_directives,
            heuristic,
            set_cookie: keeps,
            statuses: if refusals { vec![400] } else { vec![] },
            stale_while_revalidate: Duration::from_secs(while_revalidate),
            stale_if_error: Duration::from_secs(if_error),
            ..rules()
        };
        // Only what has a validator is ever renewed.
        let renewal = renewal.filter(|_| first.etag || first.last_modified.is_some());
        World { status, authorized, set_cookie, cookie, rules, first, renewal, asked, after }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_policy_answers_when_the_model_may(world in world()) {
        prop_assert_eq!(answers(&world), model(&world));
    }
}

#[test]
fn the_worlds_hold_both_verdicts() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let worlds = (0..2_000).map(|_| world().new_tree(&mut runner).unwrap().current());
    let served = worlds.filter(model).count();
    assert!((200..1_800).contains(&served), "{served} of 2000 are answered from the cache");
}
