//! The values of metric labels for requests, fills and store calls: one enum per label, used alike in access
//! records, metric labels and `Cache-Status` (RFC 9211).
//!
//! Every value is known when the program is built: no host, path, user or tenant ever becomes a label here.

use crate::config::ContentCoding;

/// A value of a metric label; the enums below are the only ones.
pub(crate) trait MetricLabel: Copy + 'static {
    /// Every value, in the order of [`MetricLabel::index`].
    const VALUES: &'static [Self];
    /// The value as the metric shows it.
    fn text(self) -> &'static str;
    /// The place of the value in [`MetricLabel::VALUES`].
    fn index(self) -> usize;
}

/// An enum whose values have one spelling each.
macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident => $text:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// The one spelling of the value.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }

        impl MetricLabel for $name {
            const VALUES: &'static [Self] = Self::ALL;

            fn text(self) -> &'static str {
                self.as_str()
            }

            fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+};
}

labels! {
    /// The outcome of a reload of the configuration.
    Reload {
        /// The gateway uses the new one.
        Applied => "applied",
        /// It has a fault: the gateway keeps the one before.
        Refused => "refused",
    }

    /// The source of the answer to a request.
    CacheResult {
        /// Fresh, from this node's memory.
        Hit => "hit",
        /// Stale, within `stale_while_revalidate`; one fill refreshes it behind the answer.
        Stale => "stale",
        /// Stale, within `stale_if_error`, because the fill failed.
        StaleIfError => "stale_if_error",
        /// This request led the fill.
        Miss => "miss",
        /// The origin confirmed that the stored answer is still good.
        Revalidated => "revalidated",
        /// This request waited on a flight that another request led.
        Collapsed => "collapsed",
        /// Found in Redis.
        Remote => "remote",
        /// The answer of a fill that was not stored.
        Uncacheable => "uncacheable",
        /// The route is not cached, or not for this method.
        Bypass => "bypass",
        /// The gateway's own answer: an event, a refusal.
        Local => "local",
        /// A file from a route's directory, or one that an origin named by `X-Accel-Redirect`.
        File => "file",
        /// A stream of a watched entry.
        Live => "live",
        /// No answer was available: a 5xx of the gateway.
        Error => "error",
    }
    /// The cause for which a watched entry was read anew.
    RefillCause {
        /// A stream began to watch it.
        Watch => "watch",
        /// A bump or a purge was reported.
        Bump => "bump",
        /// Its lifetime has ended, or it was found changed without a report.
        Ttl => "ttl",
    }
    /// The reason for which a stream of a watched entry ended.
    StreamEnd {
        /// The client left.
        Client => "client",
        /// The token of the client has expired.
        Token => "token",
        /// The gateway shuts down.
        Drain => "drain",
        /// The route is another one after a reload of the configuration.
        Reload => "reload",
        /// There were as many streams as there may be.
        Limit => "limit",
    }
    /// The class of a status code.
    StatusClass {
        /// 100 to 199
        Informational => "1xx",
        /// 200 to 299
        Success => "2xx",
        /// 300 to 399
        Redirection => "3xx",
        /// 400 to 499
        ClientError => "4xx",
        /// 500 to 599
        ServerError => "5xx",
        /// No status was sent: the client left before.
        None => "none",
    }
    /// The role of a request in its flight.
    FlightRole {
        /// It led the fill.
        Leader => "leader",
        /// It waited for the fill of another.
        Follower => "follower",
    }
    /// The reason why a fill asked the origin beside that of another node.
    HedgeReason {
        /// The other one took too long.
        Slow => "slow",
        /// The value in place of its lease was not a lease.
        NoLease => "no_lease",
    }
    /// The outcome of a fill.
    FillOutcome {
        /// The answer is in the cache.
        Stored => "stored",
        /// The origin confirmed that the stored answer is still good.
        Validated => "validated",
        /// Not stored: it sets a cookie.
        SetCookie => "set_cookie",
        /// Not stored: its status is not one that is kept.
        Status => "status",
        /// Not stored: larger than the route's `max_size`.
        TooLarge => "too_large",
        /// Not stored: the origin said `private`.
        Private => "private",
        /// Not stored: `no-store` by the origin, or by the client on a route that honours it.
        NoStore => "no_store",
        /// Not stored: the request was authorized, and the origin did not allow others the answer.
        Authorization => "authorization",
        /// Not stored: made for a request with a cookie, without an explicit lifetime.
        Cookie => "cookie",
        /// Not stored: more tags, or longer ones, than a purge can name.
        Tags => "tags",
        /// Not stored: neither a lifetime nor a validator.
        NoFreshness => "no_freshness",
        /// Not stored: `Vary: *`.
        VaryAny => "vary",
        /// Not stored: `must-understand`, with a status that this cache does not understand.
        MustUnderstand => "must_understand",
        /// Not stored: the answer to a method whose answers are not stored.
        Method => "method",
        /// Not stored: a part of the whole.
        Partial => "partial",
        /// Not stored: it names a file to be sent in its place (`X-Accel-Redirect`).
        Accel => "accel",
        /// The origin could not be asked or broke off.
        OriginError => "origin_error",
        /// The fill's deadline passed.
        Timeout => "timeout",
        /// The fill ended without an outcome: dropped at shutdown, or a panic.
        Cancelled => "cancelled",
    }
    /// A call to the store.
    StoreCall {
        /// Reading a version.
        ReadVersion => "read_version",
        /// Reading an entry.
        Get => "get",
        /// Writing an entry.
        Put => "put",
        /// Taking or renewing a lease.
        Lease => "lease",
        /// Releasing a lease.
        Release => "release",
        /// Moving a version.
        Bump => "bump",
        /// Remembering an event's id.
        Event => "event",
        /// Writing purges to their log.
        Purge => "purge",
        /// Reading the log of purges.
        ReadPurges => "read_purges",
        /// Counting a request for a shared limit.
        Limit => "limit",
    }
    /// Why a call to the store failed.
    StoreError {
        /// The deadline passed.
        Timeout => "timeout",
        /// No connection, or the breaker is open.
        Down => "down",
        /// An answer that makes no sense, or an error reply.
        Protocol => "protocol",
    }
    /// The outcome of a call to the store: `ok`, or the [`StoreError`].
    StoreOutcome {
        /// It worked.
        Ok => "ok",
        /// [`StoreError::Timeout`]
        Timeout => "timeout",
        /// [`StoreError::Down`]
        Down => "down",
        /// [`StoreError::Protocol`]
        Protocol => "protocol",
    }
    /// An invalidation: the data that this node has to discard.
    Invalidation {
        /// One version.
        Version => "version",
        /// A lease ended.
        Lease => "lease",
        /// Everything: the store was flushed.
        Flush => "flush",
        /// Everything: the connection was lost.
        Lost => "lost",
        /// The log of purges has grown.
        Purge => "purge",
        /// Everything that purges may be about: their log lacks what this node knew last.
        PurgeGap => "purge_gap",
    }
    /// The outcome of a request for a file.
    FileOutcome {
        /// All of it was sent.
        Whole => "whole",
        /// A part of it was sent, or several.
        Partial => "partial",
        /// The client has it already (304).
        NotModified => "not_modified",
        /// A condition or a range did not fit (412, 416).
        Unfit => "unfit",
        /// A directory without a slash (308).
        Slash => "slash",
        /// There is no such file.
        NotFound => "not_found",
        /// A path that means no file: dot segments, encoded slashes, hidden names.
        BadPath => "bad_path",
        /// A symbolic link that may not be followed, or leads out of the root.
        Link => "link",
        /// A directory, a pipe, a device.
        NotRegular => "not_regular",
        /// The process may not read it.
        Denied => "denied",
        /// The system failed, or the file became shorter while it was sent.
        Failed => "failed",
        /// The client left, or took nothing any more.
        Aborted => "aborted",
    }
    /// The outcome of an `X-Accel-Redirect`.
    AccelOutcome {
        /// It led to a directory: `tidegate_files_total` tells the rest.
        File => "file",
        /// It led to another origin, whose answer was sent.
        Origin => "origin",
        /// The other origin failed, or its answer is not one to be sent.
        OriginFailed => "origin_failed",
        /// No internal location has that path.
        NoLocation => "no_location",
        /// It is no path, it would lead out of its location, or there are several.
        Malformed => "malformed",
        /// It came with a status that it can't go with, and was removed.
        Status => "status",
        /// The route has `accel = false`, and it was removed.
        Off => "off",
    }
    /// The target of a purge that was ordered on this node.
    PurgeKind {
        /// A URL.
        Url => "url",
        /// A tag.
        Tag => "tag",
        /// Everything.
        All => "all",
        /// A URL, because an unsafe method succeeded there.
        Invalidation => "invalidation",
    }
    /// The outcome of an event.
    EventResult {
        /// Verified and recorded.
        Accepted => "accepted",
        /// Verified, its id seen before: nothing changed.
        Replayed => "replayed",
        /// The signature or its timestamp is wrong.
        BadSignature => "bad_signature",
        /// The body is not what it must be.
        BadBody => "bad_body",
        /// The tenant is missing or holds characters that are not allowed.
        BadTenant => "bad_tenant",
        /// The body is above `max_body`.
        TooLarge => "too_large",
        /// Above the event's `rate`.
        RateLimited => "rate_limited",
        /// It could not be recorded; the sender is asked to try again.
        StoreDown => "store_down",
        /// The same one was under way for too long; the sender is asked to try again.
        UnderWay => "under_way",
    }
    /// The outcome of a token's verification.
    TokenResult {
        /// Verified before, and remembered.
        Remembered => "remembered",
        /// Verified now.
        Verified => "verified",
        /// It doesn't verify.
        Refused => "refused",
    }
    /// The outcome of a TLS handshake.
    Handshake {
        /// A new session.
        Full => "full",
        /// A session was resumed.
        Resumed => "resumed",
        /// It exceeded its deadline.
        Timeout => "timeout",
        /// The client went away.
        Closed => "closed",
        /// The bytes are no TLS: plain HTTP, a scan.
        NotTls => "not_tls",
        /// The client supports no version of TLS that the gateway offers.
        Version => "version",
        /// No cipher suite, group or signature in common.
        NothingInCommon => "nothing_in_common",
        /// The client supports none of the protocols that ALPN offers.
        Protocol => "protocol",
        /// The client sent no certificate, or not one that is accepted.
        ClientCertificate => "client_certificate",
        /// The client refused: as a rule, our certificate.
        Refused => "refused",
        /// The client broke the protocol.
        Broken => "broken",
    }
    /// The outcome of a reload of changed certificate files.
    CertificateReload {
        /// They are in use from now on.
        Applied => "applied",
        /// They can't be used: those from before stay in use.
        Refused => "refused",
    }
    /// The outcome of reading a PROXY protocol header.
    ProxyHeader {
        /// An address.
        Proxied => "proxied",
        /// No address: a health check of the proxy (`LOCAL`).
        Local => "local",
        /// Missing or malformed.
        Malformed => "malformed",
        /// It came from a peer that is no trusted proxy.
        Untrusted => "untrusted",
        /// It exceeded its deadline.
        Timeout => "timeout",
        /// The connection was closed before.
        Closed => "closed",
    }
    /// The way in which an HTTP/2 connection ended.
    Http2End {
        /// By its client.
        Closed => "closed",
        /// After a time without a request.
        Idle => "idle",
        /// After as many requests as it may have.
        Spent => "spent",
        /// Because the gateway ends.
        Drained => "drained",
        /// Its client did not answer a ping.
        Silent => "silent",
        /// Its client sent too many resets, pings or the like.
        Flood => "flood",
        /// Its client did not send the rest of a header in time.
        Slow => "slow",
        /// Its client broke the protocol.
        Broken => "broken",
    }
    /// Why the gateway refused a request.
    RejectReason {
        /// Malformed.
        BadRequest => "bad_request",
        /// `Host` is missing or malformed.
        BadHost => "bad_host",
        /// A path with a dot segment, a NUL or a broken escape.
        BadPath => "bad_path",
        /// A path that the origin could read as one under other rules.
        EscapedSlash => "escaped_slash",
        /// No route.
        NotFound => "not_found",
        /// A route, but not for this method.
        MethodNotAllowed => "method_not_allowed",
        /// The body is above the route's `max_body`.
        BodyTooLarge => "body_too_large",
        /// More query parameters than are read.
        TooManyParameters => "too_many_parameters",
        /// The token doesn't verify.
        Token => "token",
        /// The route needs a token.
        TokenMissing => "token_missing",
        /// The route allows no upgrade.
        UpgradeRefused => "upgrade_refused",
        /// The request target is too long.
        UriTooLong => "uri_too_long",
        /// The header fields are too many, or too large.
        HeadersTooLarge => "headers_too_large",
        /// One of the route's limits is exceeded.
        RateLimited => "rate_limited",
        /// Something else than `100-continue` is expected.
        Expectation => "expectation",
        /// A method that is not for the gateway.
        NotImplemented => "not_implemented",
        /// The host is another one than the client's certificate was shown to.
        Misdirected => "misdirected",
        /// No signature of a link, or one that doesn't verify.
        Signature => "signature",
        /// The link's signature is good, and its time over.
        Expired => "expired",
        /// A preflight of an origin that isn't allowed.
        Preflight => "preflight",
        /// A malformed WebSocket handshake.
        Handshake => "handshake",
        /// A WebSocket handshake in another version than 13.
        WebSocketVersion => "websocket_version",
        /// A WebSocket of a page whose origin the route doesn't list.
        Origin => "origin",
        /// A stream of events was requested without `Accept: text/event-stream`.
        NotAcceptable => "not_acceptable",
        /// A page of another origin sent a token in a cookie.
        CrossOrigin => "cross_origin",
        /// The entries to watch are named wrongly.
        BadWatch => "bad_watch",
        /// The least version that is accepted is told wrongly.
        BadMinVersion => "bad_min_version",
    }
    /// The key by which a limit tells clients apart.
    LimitedBy {
        /// Their addresses.
        Address => "address",
        /// Their tenants.
        Tenant => "tenant",
        /// Their users.
        User => "user",
        /// A key in a header field or a query parameter.
        Key => "key",
    }
    /// The decision of a limit on a request.
    LimitOutcome {
        /// It lets it through.
        Passed => "passed",
        /// It refuses it.
        Refused => "refused",
    }
    /// Why a connection was cut off.
    CutReason {
        /// Nothing came within `header_timeout` of the accept.
        Silent => "silent",
        /// The head of a request was not whole within `header_timeout`.
        Header => "header_timeout",
        /// Nothing of a body came for `body_timeout`.
        BodyTimeout => "body_timeout",
        /// A body came slower than `body_min_rate`.
        BodyRate => "body_rate",
        /// Nothing of an answer was taken for `send_timeout`.
        SendTimeout => "send_timeout",
        /// An answer was taken slower than `send_min_rate`.
        SendRate => "send_rate",
        /// It was idle while places ran short.
        Crowded => "crowded",
    }
    /// Why a connection was closed as soon as it was accepted.
    RefuseReason {
        /// As many as may be are open.
        Full => "max_connections",
        /// As many as one address may have are open.
        Address => "max_connections_per_address",
        /// An HTTP/2 connection has reached its limit of requests under way, including those that its client
        /// has reset.
        Streams => "streams",
    }
    /// The outcome of a request to an origin.
    OriginOutcome {
        /// An answer below 500.
        Ok => "ok",
        /// A 5xx.
        ServerError => "server_error",
        /// No connection.
        ConnectFailed => "connect_failed",
        /// Too slow.
        Timeout => "timeout",
        /// The connection broke, or the answer is malformed.
        Broken => "broken",
        /// Not asked: the breaker is open.
        BreakerOpen => "breaker_open",
        /// Not asked: no server's name has an address.
        Unresolved => "unresolved",
        /// Not asked: all servers had enough to do, and as many waited as may.
        QueueFull => "queue_full",
        /// Not asked: no server had a place in time.
        QueueTimeout => "queue_timeout",
    }
    /// Why a server of an origin is left out.
    Ejection {
        /// It failed several times in a row.
        Failures => "failures",
        /// A check failed.
        Check => "check",
        /// It said so: a 503 with `Retry-After`.
        RetryAfter => "retry_after",
    }
}

impl StatusClass {
    /// The class of `status`; [`StatusClass::None`] for anything outside 100 to 599.
    pub const fn of(status: u16) -> Self {
        match status / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            5 => Self::ServerError,
            _ => Self::None,
        }
    }
}

impl From<Result<(), StoreError>> for StoreOutcome {
    fn from(result: Result<(), StoreError>) -> Self {
        match result {
            Ok(()) => Self::Ok,
            Err(StoreError::Timeout) => Self::Timeout,
            Err(StoreError::Down) => Self::Down,
            Err(StoreError::Protocol) => Self::Protocol,
        }
    }
}

impl ContentCoding {
    /// Every coding, in the order of declaration.
    pub const ALL: &'static [Self] = &[Self::Brotli, Self::Zstd, Self::Gzip];

    /// The name in `Accept-Encoding`, `Content-Encoding`, the configuration and the metrics.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

impl MetricLabel for ContentCoding {
    const VALUES: &'static [Self] = Self::ALL;

    fn text(self) -> &'static str {
        self.token()
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn holds<L: MetricLabel + std::fmt::Debug>() {
        let mut seen = HashSet::new();
        for (place, value) in L::VALUES.iter().enumerate() {
            let text = value.text();
            assert_eq!(value.index(), place, "{value:?}");
            assert!(seen.insert(text), "{text} twice");
            assert!(
                text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{text}"
            );
        }
    }

    #[test]
    fn each_value_has_one_place_and_one_spelling() {
        holds::<CacheResult>();
        holds::<StatusClass>();
        holds::<FlightRole>();
        holds::<HedgeReason>();
        holds::<FillOutcome>();
        holds::<StoreCall>();
        holds::<StoreError>();
        holds::<StoreOutcome>();
        holds::<Invalidation>();
        holds::<FileOutcome>();
        holds::<AccelOutcome>();
        holds::<PurgeKind>();
        holds::<EventResult>();
        holds::<TokenResult>();
        holds::<RejectReason>();
        holds::<LimitedBy>();
        holds::<LimitOutcome>();
        holds::<CutReason>();
        holds::<RefuseReason>();
        holds::<OriginOutcome>();
        holds::<Ejection>();
        holds::<Handshake>();
        holds::<CertificateReload>();
        holds::<ProxyHeader>();
        holds::<Http2End>();
        holds::<ContentCoding>();
    }

    #[test]
    fn a_status_has_the_class_of_its_first_digit() {
        let classes = [
            (99, "none"),
            (100, "1xx"),
            (204, "2xx"),
            (304, "3xx"),
            (499, "4xx"),
            (599, "5xx"),
            (600, "none"),
            (0, "none"),
        ];
        for (status, class) in classes {
            assert_eq!(StatusClass::of(status).as_str(), class, "{status}");
        }
    }

    #[test]
    fn a_store_outcome_is_spelt_as_its_error() {
        for &error in StoreError::ALL {
            assert_eq!(StoreOutcome::from(Err(error)).as_str(), error.as_str());
        }
        assert_eq!(StoreOutcome::ALL.len(), StoreError::ALL.len() + 1);
    }
}
