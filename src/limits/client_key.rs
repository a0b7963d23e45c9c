//! The client that a request is counted for: its address, tenant, user, or a key in the request.
//!
//! Pure. A client is a number here. For a tenant, a user or a key that number is a part of a SHA-256, so that
//! no key is in memory, in the store or in a log as it was sent. A request without the key, or with the same
//! key twice, is counted by its address: otherwise all such clients would share one bucket, or each could
//! have any number of them.

use crate::{address, cache::key::canonical_query, config::LimitBy};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use std::{fmt, net::IpAddr};

/// The client that a bucket belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BucketOwner(u128);

/// The properties that tell clients apart.
#[derive(Debug, Clone, Copy)]
pub struct ClientKey<'r> {
    /// The client's address.
    pub address: IpAddr,
    /// Its tenant, if a verified token names one.
    pub tenant: Option<&'r str>,
    /// Its user, likewise.
    pub user: Option<&'r str>,
    /// The request's headers.
    pub headers: &'r HeaderMap,
    /// Its query, without the `?`.
    pub query: &'r str,
}

impl BucketOwner {
    /// The client that a request is counted for.
    pub fn of(by: &LimitBy, who: &ClientKey<'_>) -> Self {
        let shown = match by {
            LimitBy::Address => None,
            LimitBy::Tenant => who.tenant.map(|tenant| Self::of_text(b't', &[tenant.as_bytes()])),
            LimitBy::User => {
                // No tenant has an empty name.
                let tenant = who.tenant.unwrap_or_default();
                who.user.map(|user| Self::of_text(b'u', &[tenant.as_bytes(), user.as_bytes()]))
            }
            LimitBy::Header(name) => {
                let mut values = who.headers.get_all(name).iter();
                let value = values.next().map(|value| value.as_bytes()).filter(|value| !value.is_empty());
                value.filter(|_| values.next().is_none()).map(|value| Self::of_text(b'h', &[value]))
            }
            LimitBy::Query(name) => {
                let shown = canonical_query(std::slice::from_ref(name), who.query);
                // Escaped as they are, neither name nor value holds an `&`; an empty value ends with the `=`.
                let one = !shown.is_empty() && !shown.contains('&') && !shown.ends_with('=');
                one.then(|| Self::of_text(b'q', &[shown.as_bytes()]))
            }
        };
        shown.unwrap_or_else(|| Self::of_address(who.address))
    }

    /// Formats it for the name of a key in the store: 32 hexadecimal digits.
    pub fn digits(self) -> String {
        format!("{:032x}", self.0)
    }

    fn of_address(address: IpAddr) -> Self {
        const V4: u128 = 4 << 120;
        const V6: u128 = 6 << 120;
        match address::network_of(address) {
            IpAddr::V4(v4) => Self(V4 | u128::from(v4.to_bits())),
            IpAddr::V6(v6) => Self(V6 | (v6.to_bits() >> 64)),
        }
    }

    fn of_text(kind: u8, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update([kind]);
        for part in parts {
            // With its length before it, no part can pose as another.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        Self(digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }

    #[cfg(test)]
    pub(crate) fn of_test(n: u128) -> Self {
        Self(n)
    }
}

impl fmt::Debug for BucketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Partition(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn who(headers: &HeaderMap) -> ClientKey<'_> {
        ClientKey { address: "192.0.2.1".parse().unwrap(), tenant: None, user: None, headers, query: "" }
    }

    #[test]
    fn who_is_told_apart() {
        let none = HeaderMap::new();
        let (by_address, plain) = (BucketOwner::of(&LimitBy::Address, &who(&none)), who(&none));
        let other = ClientKey { address: "192.0.2.2".parse().unwrap(), ..plain };
        assert_ne!(by_address, BucketOwner::of(&LimitBy::Address, &other));
        let of = |address: &str| {
            BucketOwner::of(&LimitBy::Address, &ClientKey { address: address.parse().unwrap(), ..plain })
        };
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("0.0.0.1"), of("0:0:0:1::"));

        let tenant = |tenant| BucketOwner::of(&LimitBy::Tenant, &ClientKey { tenant, ..plain });
        assert_eq!(tenant(None), by_address);
        assert_ne!(tenant(Some("acme")), by_address);
        assert_ne!(tenant(Some("acme")), tenant(Some("globex")));
        let user = |tenant, user| BucketOwner::of(&LimitBy::User, &ClientKey { tenant, user, ..plain });
        assert_eq!(user(Some("acme"), None), by_address);
        assert_ne!(user(Some("acme"), Some("ann")), user(Some("globex"), Some("ann")));
        assert_ne!(user(None, Some("ann")), by_address);
        assert_ne!(user(None, Some("ann")), user(Some("acme"), Some("ann")));
        assert_ne!(user(Some("ab"), Some("c")), user(Some("a"), Some("bc")));
        assert_ne!(user(Some("acme"), Some("ann")), tenant(Some("acme")));
    }

    #[test]
    fn a_key_is_shown_once_or_not_at_all() {
        let name = HeaderName::from_static("x-api-key");
        let by = LimitBy::Header(name.clone());
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(name.clone(), value.parse().unwrap());
            }
            BucketOwner::of(&by, &who(&headers))
        };
        let by_address = with(&[]);
        assert_eq!(by_address, BucketOwner::of(&LimitBy::Address, &who(&HeaderMap::new())));
        assert_ne!(with(&["a"]), by_address);
        assert_ne!(with(&["a"]), with(&["b"]));
        assert_eq!(with(&["a", "b"]), by_address);
        assert_eq!(with(&[""]), by_address);

        let (by, headers) = (LimitBy::Query("key".to_owned()), HeaderMap::new());
        let with = |query| BucketOwner::of(&by, &ClientKey { query, ..who(&headers) });
        assert_ne!(with("key=a"), by_address);
        assert_ne!(with("key=a"), with("key=b"));
        assert_eq!(with("key=a"), with("x=1&%6Bey=%61&y"));
        for query in ["", "Key=a", "key=a&key=b", "key=", "key", "x=key"] {
            assert_eq!(with(query), by_address, "{query}");
        }
    }

    #[test]
    fn nothing_shows_what_was_shown() {
        let key = BucketOwner::of_text(b'h', &[b"secret"]);
        assert_eq!(format!("{key:?}"), "Partition(…)");
        assert_eq!(key.digits().len(), 32);
        assert!(!key.digits().contains(&hex(b"secret")));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
