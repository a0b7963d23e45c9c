//! The heads of a representation's answers: plain, in each coding that was made, and of a 304.
//!
//! A verbatim answer repeats the origin's fields; the gateway changes only the length and the fields that
//! another coding makes wrong. RFC 9110: 8.6 (`Content-Length`), 14.3 (`Accept-Ranges`), 15.4.5 (304).

use super::{
    encoding::transform,
    response_head::{append_field, blank_head, filled_head, set_field},
    OutsideCaching, Representation,
};
use crate::{config::ContentCoding, http::framing::has_body::status_has_body};

use http::{header, HeaderName, HeaderValue, StatusCode};
use pingora_http::ResponseHeader;

/// The fields of an origin's answer that a 304 repeats (RFC 9110, 15.4.5), and its other validator.
static NOT_MODIFIED_FIELDS: [HeaderName; 7] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::VARY,
    header::LAST_MODIFIED,
];

impl Representation {
    /// The head for the body in a coding that was made here, or as it is.
    pub(super) fn head(&self, coding: Option<ContentCoding>) -> ResponseHeader {
        self.make_head(coding, coding.and_then(|c| self.encoded(c)).unwrap_or(&self.body).len())
    }

    /// The head of a 304.
    pub(super) fn not_modified_head(&self) -> ResponseHeader {
        self.make_not_modified(&self.make_head(None, self.body.len()))
    }

    /// The fields of an answer described by the gateway that can be sent before its body is whole: all but
    /// the length, the tag and fields that depend on them.
    pub fn fields_while_arriving(&self) -> Vec<(HeaderName, HeaderValue)> {
        let of_the_whole = [header::ETAG, header::CONTENT_LENGTH, header::ACCEPT_RANGES];
        let head = self.make_head(None, 0);
        let fields = head.headers.iter().filter(|(name, _)| !of_the_whole.contains(name));
        fields.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Makes the head; `coding` is one that was made here.
    pub(super) fn make_head(&self, coding: Option<ContentCoding>, length: u64) -> ResponseHeader {
        let mut head = filled_head(self.status, self.headers());
        match &self.outside {
            Some(outside) => {
                if let Some(coding) = coding {
                    transform::DIGEST_FIELDS.iter().for_each(|name| drop(head.remove_header(name)));
                    append_field(
                        &mut head,
                        header::CONTENT_ENCODING,
                        HeaderValue::from_static(coding.token()),
                    );
                }
                self.append_ours(&mut head, outside, coding);
            }
            None => {
                if coding.is_some() {
                    transform::recode_head(&mut head, coding);
                }
                if self.encodable || self.removable().is_some() {
                    transform::vary_by_encoding(&mut head);
                }
            }
        }
        // Ranges refer to the body as it is: an encoded body has none.
        if self.status == StatusCode::OK
            && coding.is_none()
            && !head.headers.contains_key(header::ACCEPT_RANGES)
        {
            append_field(&mut head, header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        if status_has_body(self.status) {
            set_field(&mut head, header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        head
    }

    /// The validators and caching fields that a 200 would have, without the fields of the content.
    pub(super) fn make_not_modified(&self, plain: &ResponseHeader) -> ResponseHeader {
        let mut head = blank_head(StatusCode::NOT_MODIFIED);
        match &self.outside {
            Some(outside) => self.append_ours(&mut head, outside, None),
            None => {
                for (name, value) in
                    plain.headers.iter().filter(|(name, _)| NOT_MODIFIED_FIELDS.contains(name))
                {
                    append_field(&mut head, name.clone(), value.clone());
                }
            }
        }
        head
    }

    fn append_ours(
        &self,
        head: &mut ResponseHeader,
        outside: &OutsideCaching,
        coding: Option<ContentCoding>,
    ) {
        // Only a 200 is a representation that a client can hold and revalidate.
        if let (StatusCode::OK, Some(etag)) = (self.status, self.etag_of(coding)) {
            append_field(head, header::ETAG, etag);
        }
        if let Some(changed) = self.header(&header::LAST_MODIFIED) {
            append_field(head, header::LAST_MODIFIED, changed);
        }
        append_field(head, header::CACHE_CONTROL, outside.cache_control.clone());
        let vary = match (self.encodable, outside.varies_by_authorization) {
            (true, true) => "Accept-Encoding, Authorization",
            (true, false) => "Accept-Encoding",
            (false, true) => "Authorization",
            (false, false) => return,
        };
        append_field(head, header::VARY, HeaderValue::from_static(vary));
    }
}
