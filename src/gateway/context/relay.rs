//! A proxied answer while it is sent to the client.

use crate::{
    cache::{ForwardStart, ResponseCapture},
    files::accel::{AccelFields, LocateError, LocatedTarget},
    gateway::body::{codec::BodyCodec, pacing::PacedBody},
};

use http::HeaderMap;

/// The state of a proxied answer while it is sent.
#[derive(Default)]
pub(crate) struct ProxiedResponse {
    pub(crate) codec: Option<BodyCodec>,
    pub(crate) capture: Option<ResponseCapture>,
    /// The number of interim answers received.
    pub(crate) interim: u32,
    /// The file or location that is sent in place of the answer (`X-Accel-Redirect`).
    pub(crate) order: Option<Box<AccelRedirect>>,
    pub(crate) orders: AccelFields,
    pub(crate) pace: Option<PacedBody>,
    /// The time at which the request was sent to the origin.
    pub(crate) sent: Option<ForwardStart>,
}

impl ProxiedResponse {
    /// Returns true if an `X-Accel-Redirect` replaces the answer.
    pub(crate) fn is_ordered(&self) -> bool {
        self.order.is_some()
    }

    /// Returns true if a coding is applied to or removed from the body: digests of the original don't match
    /// it.
    pub(crate) fn is_coded(&self) -> bool {
        self.codec.is_some()
    }

    /// Takes the redirect that is carried out when the exchange has ended.
    pub(crate) fn take_order(&mut self) -> Option<Box<AccelRedirect>> {
        self.order.take()
    }
}

/// The file or URL that an origin ordered instead of its own answer.
pub(crate) struct AccelRedirect {
    pub(crate) located: Result<LocatedTarget, LocateError>,
    pub(crate) answer: HeaderMap,
    pub(crate) orders: AccelFields,
}
