//! The rule by which a route admits requests: whether a token is read, whether one is needed, and what becomes
//! of a wrong one. Each lane asks it; they differ in how a token is verified.

use super::{Identity, TokenError};
use crate::config::{AuthMode, CacheScope};

/// The part that tokens have on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenPart {
    /// Nothing depends on a token: it is not read.
    Ignored,
    /// A valid token identifies its client. The gateway ignores any other, and the origin gets it.
    Optional,
    /// A token that is sent has to be valid, since the answer depends on it.
    Checked,
    /// A valid token is needed.
    Required,
}

/// The rule by which a route admits requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenRule {
    part: TokenPart,
    scope: Option<CacheScope>,
}

impl TokenRule {
    /// The rule of a route. `scope` is that of its stored answers, if it has a namespace; `limits_identity` is
    /// true if one of its rate limits counts by tenant or user.
    pub(crate) fn new(auth: AuthMode, scope: Option<CacheScope>, limits_identity: bool) -> Self {
        let part = match (auth, scope) {
            (AuthMode::Off, _) => TokenPart::Ignored,
            (AuthMode::Required, _) | (AuthMode::Optional, Some(CacheScope::User)) => TokenPart::Required,
            (AuthMode::Optional, Some(CacheScope::Tenant)) => TokenPart::Checked,
            // A limit may be keyed by the identity even where the answer is public.
            (AuthMode::Optional, Some(CacheScope::Public)) if !limits_identity => TokenPart::Ignored,
            (AuthMode::Optional, Some(CacheScope::Public) | None) => TokenPart::Optional,
        };
        Self { part, scope }
    }

    /// Returns true if the token of a request is read.
    pub(crate) fn reads_token(self) -> bool {
        self.part != TokenPart::Ignored
    }

    /// Returns true if a request without a token is admitted.
    pub(crate) fn admits_anonymous(self) -> bool {
        self.part != TokenPart::Required
    }

    /// Returns true if a request is refused for a wrong token; otherwise it is admitted without an identity.
    pub(crate) fn refuses_invalid(self) -> bool {
        matches!(self.part, TokenPart::Checked | TokenPart::Required)
    }

    /// Checks that the identity of a verified token has all that the route requires.
    ///
    /// # Errors
    /// As [`Identity::check_scope`].
    pub(crate) fn check_identity(self, identity: &Identity) -> Result<(), TokenError> {
        identity.check_scope(self.scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matters_as_much_as_the_answer_depends_on_it() {
        const SCOPES: [Option<CacheScope>; 4] =
            [None, Some(CacheScope::Public), Some(CacheScope::Tenant), Some(CacheScope::User)];
        for (auth, limits_identity, parts) in [
            (AuthMode::Off, true, [TokenPart::Ignored; 4]),
            (AuthMode::Required, false, [TokenPart::Required; 4]),
            (
                AuthMode::Optional,
                false,
                [TokenPart::Optional, TokenPart::Ignored, TokenPart::Checked, TokenPart::Required],
            ),
            (
                AuthMode::Optional,
                true,
                [TokenPart::Optional, TokenPart::Optional, TokenPart::Checked, TokenPart::Required],
            ),
        ] {
            let of = |scope| TokenRule::new(auth, scope, limits_identity).part;
            assert_eq!(SCOPES.map(of), parts, "{auth:?} {limits_identity}");
        }
    }
}
