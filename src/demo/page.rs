//! The dashboard page: a fixed document, with the current user and a token for them.
//!
//! Demo only: a real application gives a token to users who have signed in. Values from a request are put
//! into the document as JSON whose `<` is escaped, so that none of them can end the element that holds it,
//! and the page's Content-Security-Policy permits no script but its own.

use super::{orders::DemoTime, seed};
use crate::{config::Secret, name::Tenant};

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

const PAGE_TEMPLATE: &str = include_str!("page.html");
/// The lifetime of a page's token, in seconds.
const TOKEN_LIFE: u64 = 6 * 3600;

/// The claims that the gateway reads.
#[derive(Serialize)]
struct DemoClaims<'a> {
    sub: &'a str,
    tenant: &'a str,
    role: &'a str,
    iat: u64,
    exp: u64,
}

/// The initial values of the page's script.
#[derive(Serialize)]
struct PageStart<'a> {
    tenant: &'a str,
    user: &'a str,
    token: String,
    tenants: Vec<&'a str>,
}

/// The reason for which there is no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    /// The token could not be signed.
    #[error("the token can't be signed: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    /// The start values could not be written.
    #[error("the page's values can't be written: {0}")]
    Json(#[from] serde_json::Error),
}

/// A document and the policy to send with it.
pub(super) struct DemoPage {
    /// The value of `Content-Security-Policy`.
    pub(super) policy: String,
    /// The document.
    pub(super) html: String,
}

/// The page of `user` at `tenant`, with a fresh token.
///
/// # Errors
/// [`PageError`]
pub(super) fn render_page(
    tenant: &Tenant,
    user: &str,
    secret: &Secret,
    now: DemoTime,
) -> Result<DemoPage, PageError> {
    let iat = now.seconds();
    let claims = DemoClaims { sub: user, tenant: tenant.as_str(), role: "admin", iat, exp: iat + TOKEN_LIFE };
    let token =
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.reveal()))?;
    let mut tenants: Vec<&str> = seed::seed_tenants().collect();
    if !tenants.contains(&tenant.as_str()) {
        tenants.push(tenant.as_str());
    }
    let start = serde_json::to_string(&PageStart { tenant: tenant.as_str(), user, token, tenants })?;
    let nonce = format!("{:032x}", rand::random::<u128>());
    // The nonce is inserted first, so that values of a request are not searched for placeholders.
    let html =
        PAGE_TEMPLATE.replace("{{nonce}}", &nonce).replacen("{{start}}", &start.replace('<', "\\u003c"), 1);
    let policy = format!(
        "default-src 'none'; connect-src 'self'; img-src data:; style-src 'nonce-{nonce}'; \
         script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Ok(DemoPage { policy, html })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{decode, Algorithm, DecodingKey, Validation};
    use serde_json::Value;

    fn start(html: &str) -> Value {
        let (_, rest) = html.split_once(r#"id="start">"#).unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn the_token_names_who_is_looking_for_six_hours() {
        let now = DemoTime::now();
        let page = render_page(&"acme".parse().unwrap(), "bob", &Secret::new("s3"), now).unwrap();
        let start = start(&page.html);
        let token = start["token"].as_str().unwrap();
        let check = Validation::new(Algorithm::HS256);
        let claims = decode::<Value>(token, &DecodingKey::from_secret(b"s3"), &check).unwrap().claims;
        assert_eq!((&claims["sub"], &claims["tenant"]), (&"bob".into(), &"acme".into()));
        assert_eq!(claims["exp"].as_u64(), Some(now.seconds() + 21_600));
        assert_eq!(start["tenants"], serde_json::json!(["acme", "globex", "public"]));
    }

    #[test]
    fn a_user_s_name_stays_a_value() {
        let name = "</script><script>alert(1)</script>{{nonce}}{{start}}<!--";
        let plain = render_page(Tenant::public(), "bob", &Secret::new("s"), DemoTime::now()).unwrap();
        let page = render_page(Tenant::public(), name, &Secret::new("s"), DemoTime::now()).unwrap();
        assert_eq!(start(&page.html)["user"], name);
        assert_eq!(page.html.matches("<script").count(), plain.html.matches("<script").count());
        assert_ne!(page.policy, plain.policy, "a nonce is used once");
    }

    #[test]
    fn the_document_needs_nobody_else_and_makes_no_html_from_values() {
        for foreign in ["http://", "https://", "//cdn", "innerHTML", "insertAdjacentHTML", "document.write"] {
            // The namespace of SVG is a name, not an address.
            let page = PAGE_TEMPLATE.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}
