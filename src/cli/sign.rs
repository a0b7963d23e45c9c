//! `tidegate sign`: a signed URL for a route with `signed`, as the application would make it.

use crate::{
    config::{Config, RouteConfig},
    http::canonical_path::CanonicalPath,
    name::Name,
    route::{RouteMatch, RouteTable},
    signed,
};
use http::Method;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use url::{Position, Url};

/// The arguments of the command.
pub(super) struct SignRequest<'a> {
    /// The route whose secret signs; `None`: the one that matches the URL.
    pub(super) route: Option<&'a Name>,
    /// The path prefix that the signature is valid for, if any.
    pub(super) under: Option<&'a str>,
    /// The time from now for which it is valid.
    pub(super) lifetime: Duration,
    /// An absolute URL, or a path.
    pub(super) url: &'a str,
}

/// Returns the signed URL, or the fault.
pub(super) fn sign_url(config: &Config, wish: &SignRequest<'_>, now: SystemTime) -> Result<String, String> {
    // Normalised as a browser does: characters that it would escape are signed escaped.
    let (url, is_absolute) = match wish.url.starts_with('/') {
        true => (Url::parse("http://localhost").and_then(|base| base.join(wish.url)), false),
        false => (Url::parse(wish.url), true),
    };
    let url = url.map_err(|error| format!("{}: {error}", wish.url))?;
    let route = match wish.route {
        Some(name) => config
            .routes
            .iter()
            .find(|route| route.name == *name)
            .ok_or_else(|| no_route_error(config, name))?,
        None => route_of_url(config, &url, is_absolute)?,
    };
    let secrets = route.signed.as_ref().ok_or_else(|| format!("the route {:?} has no signed", route.name))?;
    let secret = secrets.first().ok_or("the route has no secret")?;
    let until = now.checked_add(wish.lifetime).and_then(|until| until.duration_since(UNIX_EPOCH).ok());
    let expires = until.ok_or("the time can't be told")?.as_secs();
    let target = &url[Position::BeforePath..Position::AfterQuery];
    let signed = signed::sign_target(secret, target, wish.under, expires)
        .map_err(|error| format!("{}: {error}", wish.url))?;
    let before = if is_absolute { &url[..Position::BeforePath] } else { "" };
    Ok(format!("{before}{signed}{}", &url[Position::AfterQuery..]))
}

fn route_of_url<'c>(config: &'c Config, url: &Url, is_absolute: bool) -> Result<&'c RouteConfig, String> {
    let routes = RouteTable::new(&config.routes);
    let host = url.host_str().filter(|_| is_absolute);
    let methods = [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE];
    let path = CanonicalPath::of(url.path()).map_err(|fault| format!("{}: the path {fault}", url.path()))?;
    let found = methods.iter().find_map(|method| match routes.find(host, &path, url.path(), method) {
        RouteMatch::Found(index) => config.routes.get(index),
        RouteMatch::MethodNotAllowed(_) | RouteMatch::NotFound | RouteMatch::Ambiguous => None,
    });
    found.ok_or_else(|| format!("no route leads to {}", url.path()))
}

fn no_route_error(config: &Config, name: &Name) -> String {
    let signed = config.routes.iter().filter(|route| route.signed.is_some());
    let names: Vec<&str> = signed.map(|route| route.name.as_str()).collect();
    format!("no route is called {:?}; with signed there are: {}", name.as_str(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
listener = [{ address = "127.0.0.1:80" }]
[[origin]]
name = "app"
servers = "http://127.0.0.1:5000"
[[route]]
path = "/files/*"
methods = ["GET"]
origin = "app"
signed = { secret = ["the first secret, which signs 0123", "the other"] }
[[route]]
path = "/files/*"
host = "other.example"
origin = "app"
[[route]]
path = "/up"
methods = ["PUT"]
origin = "app"
signed = { secret = "for uploads" }
"#;

    fn signed(route: Option<&str>, under: Option<&str>, url: &str) -> Result<String, String> {
        let config = Config::parse(FILE, "t.toml", &|_| None).unwrap().config;
        let route = route.map(|name| name.parse::<Name>().unwrap());
        let wish = SignRequest { route: route.as_ref(), under, lifetime: Duration::from_secs(60), url };
        sign_url(&config, &wish, UNIX_EPOCH + Duration::from_secs(1_000))
    }

    fn verifies(link: &str, secret: &str) -> bool {
        let url = Url::parse("http://a").unwrap().join(link).unwrap();
        let secret = [crate::config::Secret::new(secret)];
        signed::verify_target(&secret, &url[Position::BeforePath..Position::AfterQuery], 1_060).is_ok()
    }

    #[test]
    fn the_url_stays_what_it_was() {
        let link = signed(None, None, "https://dash.example:8443/files/a b.pdf?x=ä#page=2").unwrap();
        let (before, fragment) = link.split_once('#').unwrap();
        assert_eq!(fragment, "page=2");
        assert!(
            before.starts_with("https://dash.example:8443/files/a%20b.pdf?x=%C3%A4&expires=1060&signature=")
        );
        assert!(verifies(&link, "the first secret, which signs 0123"), "{link}");
        let link = signed(None, Some("/files/a/"), "/files/a/b").unwrap();
        assert!(link.starts_with("/files/a/b?signed_path=/files/a/&expires=1060&signature="), "{link}");
        assert!(verifies(&link, "the first secret, which signs 0123"), "{link}");
    }

    #[test]
    fn the_secret_is_that_of_the_route() {
        assert!(verifies(&signed(None, None, "/up").unwrap(), "for uploads"));
        assert!(verifies(&signed(Some("up"), None, "/files/a").unwrap(), "for uploads"));
    }

    #[test]
    fn what_can_not_be_signed_is_told() {
        let told =
            |route: Option<&str>, under: Option<&str>, url: &str| signed(route, under, url).unwrap_err();
        assert_eq!(told(None, None, "/other"), "no route leads to /other");
        assert_eq!(
            told(None, None, "http://other.example/files/a"),
            "the route \"files_any_2\" has no signed"
        );
        let unknown = "no route is called \"fils\"; with signed there are: files_any, up";
        assert_eq!(told(Some("fils"), None, "/files/a"), unknown);
        assert!(told(None, None, "/files/a?expires=1").contains("must not have parameters named"));
        assert!(told(None, Some("/files/b/"), "/files/a").contains("must lie below it"));
        assert!(told(None, None, "http://[").contains("http://["));
    }
}
