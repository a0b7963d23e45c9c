//! `[headers]`, and a route's `request_headers` and `response_headers`: the fields that rules may touch, the
//! values that they can have and, on cached routes, no value of a single request in a fetch for all.

use crate::config::{
    check::host::host_and_port,
    file::{fault::FaultReport, place::FilePlace, raw, OneOrMany, PlacedValue, TableField},
    headers::{
        HeaderRules, HeaderTemplate, MessageDirection, NamePattern, RouteHeaders, TemplateFault, Variable,
    },
    types::{CacheMode, CacheScope},
};

use http::{header, HeaderName};

/// Rules that were checked by themselves, and what of them still depends on the route that they are for.
#[derive(Debug, Default)]
pub(crate) struct CheckedRules {
    /// The rules.
    pub(crate) headers: RouteHeaders,
    /// The variables that request rules use, with their places in the file.
    uses: Vec<(Variable, FilePlace)>,
    /// The names that response rules set or add, with their places in the file.
    said: Vec<(HeaderName, FilePlace)>,
}

/// The route that rules are for.
pub(crate) struct RuleContext<'a> {
    /// The number of the route.
    pub(crate) index: usize,
    /// `cache`
    pub(crate) cache: &'a CacheMode,
    /// The route has a `host`.
    pub(crate) has_host: bool,
    /// The route has `cors`.
    pub(crate) cors: bool,
}

/// Checks `[headers]`. `tokens`: there is a `[jwt]`.
pub(crate) fn check_global_rules(
    raw: TableField<raw::Headers>,
    tokens: bool,
    report: &mut FaultReport,
) -> Option<CheckedRules> {
    let raw = raw.or_default();
    let security = raw.security_headers.or(false);
    let mut checked = both(raw.request_headers, raw.response_headers, tokens, report)?;
    checked.headers.security = security?;
    Some(checked)
}

/// Checks a route's tables, and how the rules for all routes fit it. `of`: the route, if its keys that matter
/// here have no fault.
pub(crate) fn check_route_rules(
    raw: raw::Headers,
    all: &CheckedRules,
    of: Option<&RuleContext<'_>>,
    tokens: bool,
    report: &mut FaultReport,
) -> Option<RouteHeaders> {
    let own = both(raw.request_headers, raw.response_headers, tokens, report);
    let security = raw.security_headers.or(all.headers.security);
    let (own, of) = (own?, of?);
    fits(all, &own, of, report);
    let mut headers = all.headers.clone();
    headers.request.extend(own.headers.request);
    headers.response.extend(own.headers.response);
    headers.security = security?;
    Some(headers)
}

/// Checks the two tables by themselves.
fn both(
    request: TableField<raw::HeaderRules>,
    response: TableField<raw::HeaderRules>,
    tokens: bool,
    report: &mut FaultReport,
) -> Option<CheckedRules> {
    let mut checked = CheckedRules::default();
    let request = rules(request, MessageDirection::Request, tokens, &mut checked, report);
    let response = rules(response, MessageDirection::Response, tokens, &mut checked, report);
    checked.headers.request.extend(request?);
    checked.headers.response.extend(response?);
    Some(checked)
}

/// Reports what of the rules does not fit the route.
fn fits(all: &CheckedRules, own: &CheckedRules, of: &RuleContext<'_>, report: &mut FaultReport) {
    const DIFFERS: &str = "differs from request to request, and";
    for (variable, place) in own.uses.iter().filter(|(variable, _)| differs(*variable, of)) {
        let name = variable.name();
        let why =
            format!("\"${name}\" {DIFFERS} what a cached route asks its origin is for all who ask the same");
        report.fault(place, why);
    }
    for (variable, place) in all.uses.iter().filter(|(variable, _)| differs(*variable, of)) {
        report.fault(place, format!("\"${}\" {DIFFERS} route[{}] is cached", variable.name(), of.index));
    }
    for (name, place) in own.said.iter().filter(|_| of.cors) {
        if name.as_str().starts_with("access-control-") {
            report.fault(place, "cors says it on this route");
        }
    }
}

/// Returns true if requests for one stored answer may have different values of the variable.
fn differs(variable: Variable, of: &RuleContext<'_>) -> bool {
    let scope = match of.cache {
        CacheMode::Off => return false,
        CacheMode::Follow(_) => None,
        CacheMode::Versioned(rules) => Some(rules.scope),
    };
    match variable {
        Variable::Path | Variable::Route => false,
        Variable::Host => scope.is_some() && !of.has_host,
        Variable::Tenant => !matches!(scope, Some(CacheScope::Tenant | CacheScope::User)),
        Variable::User | Variable::Role => scope != Some(CacheScope::User),
        Variable::ClientIp
        | Variable::RemoteAddr
        | Variable::Scheme
        | Variable::RequestId
        | Variable::Cache => true,
    }
}

/// Checks one table; `Some(None)` if it changes nothing.
fn rules(
    raw: TableField<raw::HeaderRules>,
    direction: MessageDirection,
    tokens: bool,
    checked: &mut CheckedRules,
    report: &mut FaultReport,
) -> Option<Option<HeaderRules>> {
    let Some(PlacedValue { value: raw, .. }) = raw.optional()? else { return Some(None) };
    let mut reader = RuleReader { direction, tokens, checked, report };
    let remove = raw.remove.or(OneOrMany(Vec::new()));
    let remove = remove.and_then(|OneOrMany(names)| all(names, |name| reader.pattern(&name)));
    let set = raw.set.or(raw::RuleLines(Vec::new())).and_then(|lines| reader.lines(lines, RuleAction::Set));
    let add = raw.add.or(raw::RuleLines(Vec::new())).and_then(|lines| reader.lines(lines, RuleAction::Add));
    let each = |(name, lines): (HeaderName, Vec<HeaderTemplate>)| {
        lines.into_iter().map(move |line| (name.clone(), line))
    };
    let rules = HeaderRules { remove: remove?, set: set?, add: add?.into_iter().flat_map(each).collect() };
    Some(Some(rules).filter(|rules| !rules.is_empty()))
}

/// Converts each item; `None` if one of them can't be read.
fn all<T, U>(list: Vec<T>, read: impl FnMut(T) -> Option<U>) -> Option<Vec<U>> {
    let read: Vec<_> = list.into_iter().map(read).collect();
    read.into_iter().collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RuleAction {
    Set,
    Add,
    Remove,
}

struct RuleReader<'a> {
    direction: MessageDirection,
    tokens: bool,
    checked: &'a mut CheckedRules,
    report: &'a mut FaultReport,
}

impl RuleReader<'_> {
    fn pattern(&mut self, name: &PlacedValue<String>) -> Option<NamePattern> {
        let prefix = match name.value.split_once('*') {
            None => return self.name(name, RuleAction::Remove).map(NamePattern::Exact),
            Some((prefix, "")) => HeaderName::from_bytes(prefix.as_bytes()).ok(),
            Some(_) => None,
        };
        match prefix {
            Some(prefix) => Some(NamePattern::Prefix(prefix.as_str().into())),
            None => {
                let complaint =
                    "must be a field's name, or the beginning of one and \"*\", such as \"X-Powered-*\"";
                self.report.fault(&name.place, complaint);
                None
            }
        }
    }

    fn lines(
        &mut self,
        raw::RuleLines(raw): raw::RuleLines,
        doing: RuleAction,
    ) -> Option<Vec<(HeaderName, Vec<HeaderTemplate>)>> {
        let mut seen: Vec<HeaderName> = Vec::new();
        all(raw, |(name, lines)| {
            let field = self.name(&name, doing);
            if let Some(field) = &field {
                match seen.contains(field) {
                    true => self
                        .report
                        .fault(&name.place, "stands there twice: several lines are written as a list"),
                    false => seen.push(field.clone()),
                }
            }
            let lines = all(lines, |line| self.template(&line, field.as_ref()));
            let (field, lines) = (field?, lines?);
            if self.direction == MessageDirection::Response {
                self.checked.said.push((field.clone(), name.place));
            }
            Some((field, lines))
        })
    }

    fn name(&mut self, name: &PlacedValue<String>, doing: RuleAction) -> Option<HeaderName> {
        let complaint = match HeaderName::from_bytes(name.value.as_bytes()) {
            Err(_) => "must be the name of a header field".to_owned(),
            Ok(field) => match (self.direction.reserved(field.as_str()), self.direction, doing) {
                (Some(why), ..) => format!("no rule may touch it: {why}"),
                (None, MessageDirection::Request, RuleAction::Add | RuleAction::Remove)
                    if field == header::HOST =>
                {
                    "can only be set: a request has exactly one".to_owned()
                }
                (None, MessageDirection::Response, RuleAction::Set | RuleAction::Remove)
                    if field == header::VARY =>
                {
                    "can only be added to: the gateway's own answers differ as well".to_owned()
                }
                _ => return Some(field),
            },
        };
        self.report.fault(&name.place, complaint);
        None
    }

    fn template(
        &mut self,
        line: &PlacedValue<raw::RuleLine>,
        field: Option<&HeaderName>,
    ) -> Option<HeaderTemplate> {
        let PlacedValue { value: raw::RuleLine(text), place } = line;
        let template = match HeaderTemplate::parse(text) {
            Ok(template) => template,
            Err(TemplateFault::Malformed(complaint)) => {
                self.report.fault(place, complaint);
                return None;
            }
            Err(TemplateFault::Unknown(name)) => {
                let known = Variable::ALL.iter().map(|variable| variable.name());
                self.report.unknown(place, format!("unknown variable \"${name}\""), &name, known);
                return None;
            }
        };
        for variable in template.variables() {
            self.variable(variable, place);
        }
        if self.direction == MessageDirection::Request && field == Some(&header::HOST) {
            self.host(&template, place);
        }
        Some(template)
    }

    fn variable(&mut self, variable: Variable, place: &FilePlace) {
        let name = variable.name();
        if self.direction == MessageDirection::Request {
            self.checked.uses.push((variable, place.clone()));
            if variable == Variable::Cache {
                self.report.fault(place, format!("\"${name}\" is known only when there is an answer"));
            }
        }
        if !self.tokens && matches!(variable, Variable::Tenant | Variable::User | Variable::Role) {
            self.report.warn(place, format!("\"${name}\" says nothing without a [jwt]"));
        }
    }

    /// Checks that a template for `Host` yields a valid host.
    fn host(&mut self, template: &HeaderTemplate, place: &FilePlace) {
        match template {
            HeaderTemplate::Fixed(value) => {
                if value.to_str().ok().and_then(|text| host_and_port(text, 80)).is_none() {
                    self.report.fault(place, "must be host or host:port");
                }
            }
            HeaderTemplate::Made(_) => {
                let known = |variable| matches!(variable, Variable::Host | Variable::Tenant);
                if !template.variables().all(known) {
                    self.report.fault(place, "may only name $host and $tenant: anything else may be no host");
                }
            }
        }
    }
}
