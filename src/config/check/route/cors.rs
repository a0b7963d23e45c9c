//! A route's `cors`: origins as browsers write them, and permissions that browsers take.

use crate::config::{
    check::values::distinct,
    file::{fault::FaultReport, raw, OneOrMany, PlacedValue, TableField},
    AllowedOrigins, CorsConfig, OriginPattern,
};

use http::{HeaderName, HeaderValue, Method};
use std::time::Duration;

/// Checks the table, if it is there. `methods` are the route's; none: any.
pub(crate) fn check_cors(
    raw: TableField<raw::Cors>,
    methods: Option<&[Method]>,
    report: &mut FaultReport,
) -> Option<Option<Box<CorsConfig>>> {
    let Some(PlacedValue { value: raw, place }) = raw.optional()? else { return Some(None) };
    let credentials = raw.credentials.or(false);
    let may_be_any = credentials != Some(true);
    let origins = raw.origins.required("origins", &place, report);
    let origins = origins.and_then(|raw| allowed(raw, may_be_any, report));
    let allowed_methods = methods_of(raw.methods, methods, report);
    let headers = names(raw.headers, may_be_any, report);
    let expose = names(raw.expose, may_be_any, report);
    let max_age = raw.max_age.or(Duration::from_secs(3_600));
    Some(Some(Box::new(CorsConfig {
        origins: origins?,
        methods: allowed_methods?,
        headers: headers?,
        expose: expose?,
        credentials: credentials?,
        max_age: HeaderValue::from(max_age?.as_secs()),
    })))
}

fn allowed(
    raw: PlacedValue<OneOrMany<String>>,
    may_be_any: bool,
    report: &mut FaultReport,
) -> Option<AllowedOrigins> {
    let PlacedValue { value: OneOrMany(texts), place } = raw;
    match texts.as_slice() {
        [] => {
            report.fault(&place, "must hold at least one");
            return None;
        }
        [PlacedValue { value, .. }] if value == "*" && may_be_any => return Some(AllowedOrigins::Any),
        _ => {}
    }
    let read: Vec<_> = texts.into_iter().map(|text| pattern(text, may_be_any, report)).collect();
    let read: Option<Vec<_>> = read.into_iter().collect();
    distinct(read?, report).map(AllowedOrigins::Listed)
}

fn pattern(
    text: PlacedValue<String>,
    may_be_any: bool,
    report: &mut FaultReport,
) -> Option<PlacedValue<OriginPattern>> {
    let PlacedValue { value: text, place } = text;
    let complaint = match OriginPattern::parse(&text) {
        Ok(value) => return Some(PlacedValue { value, place }),
        Err(_) if text == "*" && may_be_any => "\"*\" stands for every origin: it stands alone",
        Err(_) if text == "*" => "\"*\" can't go with credentials = true: browsers refuse it",
        Err(complaint) => complaint,
    };
    report.fault(&place, complaint);
    None
}

/// The methods that are named; else the route's, else those that need no permission.
fn methods_of(
    raw: TableField<Vec<PlacedValue<Method>>>,
    route: Option<&[Method]>,
    report: &mut FaultReport,
) -> Option<HeaderValue> {
    let own = raw.or(Vec::new()).and_then(|methods| distinct(methods, report))?;
    let route = route?;
    let simple = [Method::GET, Method::HEAD, Method::POST];
    let named = match (own.as_slice(), route) {
        ([], []) => &simple,
        ([], route) => route,
        (own, _) => own,
    };
    let text = named.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    // Methods are tokens.
    HeaderValue::try_from(text).ok()
}

/// A list of fields, or `"*"`.
fn names(
    raw: TableField<OneOrMany<String>>,
    may_be_any: bool,
    report: &mut FaultReport,
) -> Option<Option<HeaderValue>> {
    let Some(PlacedValue { value: OneOrMany(texts), .. }) = raw.optional()? else { return Some(None) };
    if texts.is_empty() {
        return Some(None);
    }
    let alone = texts.len() == 1;
    let mut check = |PlacedValue { value, place }: PlacedValue<String>| {
        let complaint = match (value.as_str(), may_be_any) {
            ("*", false) => "\"*\" can't go with credentials = true: browsers take it for a field's name",
            ("*", true) if alone => return Some(PlacedValue { value, place }),
            ("*", true) => "\"*\" stands for every field: it stands alone",
            (name, _) => match HeaderName::from_bytes(name.as_bytes()) {
                Ok(_) => return Some(PlacedValue { value, place }),
                Err(_) => "must be the name of a header field",
            },
        };
        report.fault(&place, complaint);
        None
    };
    let checked: Vec<_> = texts.into_iter().map(&mut check).collect();
    let checked: Option<Vec<_>> = checked.into_iter().collect();
    let names = distinct(checked?, report)?;
    // Names are tokens.
    HeaderValue::try_from(names.join(", ")).ok().map(Some)
}
