//! Tests of the plan for an answer in transit, and of the changes to its head.

use super::*;
use crate::representation::response_head::{append_field, blank_head};

use BodyTransform::{Decode, Encode};

fn rules() -> config::EncodingConfig {
    config::EncodingConfig {
        types: vec!["application/json".to_owned(), "text/event-stream".to_owned()],
        min_size: 1024,
        prefer: vec![ContentCoding::Brotli, ContentCoding::Gzip],
        levels: Default::default(),
        memory: 1 << 27,
    }
}

fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn planned(accepted: &str, status: u16, answer: &[(&'static str, &str)]) -> Option<BodyTransform> {
    let request = fields(&[("accept-encoding", accepted)]);
    plan_transform(&request, StatusCode::from_u16(status).unwrap(), &fields(answer), &rules())
}

const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

#[test]
fn plain_text_is_encoded_for_who_takes_it() {
    let br = Some(Encode(ContentCoding::Brotli));
    assert_eq!(planned("gzip, br", 200, &[JSON]), br);
    assert_eq!(planned("gzip", 200, &[JSON]), Some(Encode(ContentCoding::Gzip)));
    assert_eq!(planned("br", 404, &[JSON]), br);
    assert_eq!(planned("br", 200, &[JSON, ("content-length", "1024")]), br);
    assert_eq!(planned("br", 200, &[JSON, ("content-encoding", "identity")]), br);
    assert_eq!(planned("br", 200, &[JSON, ("cache-control", "max-age=1, x-no-transform")]), br);
    assert_eq!(planned("zstd", 200, &[JSON]), None);
    assert_eq!(planned("", 200, &[JSON]), None);
    assert_eq!(planned("br", 200, &[JSON, ("content-length", "1023")]), None);
    assert_eq!(planned("br", 200, &[("content-type", "image/png")]), None);
    assert_eq!(planned("br", 200, &[("content-type", "text/event-stream;x=y")]), None);
    assert_eq!(planned("br", 200, &[]), None);
    assert_eq!(planned("br", 200, &[JSON, ("cache-control", "max-age=1, No-Transform")]), None);
    assert_eq!(planned("br", 200, &[JSON, ("content-range", "bytes 0-1/2")]), None);
    for status in [103, 204, 205, 206, 304] {
        assert_eq!(planned("br", status, &[JSON]), None, "{status}");
    }
}

#[test]
fn what_a_client_cannot_take_is_decoded() {
    let gzip = [JSON, ("content-encoding", "gzip")];
    assert_eq!(planned("br", 200, &gzip), Some(Decode(ContentCoding::Gzip)));
    assert_eq!(planned("", 200, &gzip), Some(Decode(ContentCoding::Gzip)));
    assert_eq!(planned("gzip;q=0, *", 200, &gzip), Some(Decode(ContentCoding::Gzip)));
    let image = [("content-type", "image/svg+xml"), ("content-encoding", "X-GZIP")];
    assert_eq!(planned("identity", 200, &image), Some(Decode(ContentCoding::Gzip)));
    assert_eq!(planned("br, gzip;q=0.1", 200, &gzip), None);
    assert_eq!(planned("*", 200, &gzip), None);
    // No form is accepted: it stays as it is.
    assert_eq!(planned("br, identity;q=0", 200, &gzip), None);
    assert_eq!(planned("br", 200, &[JSON, ("content-encoding", "gzip, br")]), None);
    assert_eq!(planned("br", 200, &[JSON, ("content-encoding", "deflate")]), None);
    assert_eq!(planned("br", 206, &gzip), None);
    let forbidden = [JSON, ("content-encoding", "gzip"), ("cache-control", "no-transform")];
    assert_eq!(planned("br", 200, &forbidden), None);
    let silent = plan_transform(&HeaderMap::new(), StatusCode::OK, &fields(&gzip), &rules());
    assert_eq!(silent, None);
}

#[test]
fn a_client_that_forbids_it_gets_it_as_it_is() {
    let request = [("accept-encoding", "br"), ("cache-control", "no-transform")];
    let of = |request: &[_]| plan_transform(&fields(request), StatusCode::OK, &fields(&[JSON]), &rules());
    assert_eq!(of(&request), None);
    assert_eq!(of(&request[..1]), Some(Encode(ContentCoding::Brotli)));
}

#[test]
fn a_304_has_the_tag_that_is_held() {
    let tagged = |status, condition: &str, tag: &str| {
        let mut head = blank_head(StatusCode::from_u16(status).unwrap());
        set_field(&mut head, header::ETAG, tag.parse().unwrap());
        let request = fields(&[("if-none-match", condition), ("accept-encoding", "br")]);
        assert_eq!(plan_transform(&request, head.status, &head.headers, &rules()), None);
        fit_head(&mut head, &request, None, &rules());
        head.headers[header::ETAG].to_str().unwrap().to_owned()
    };
    for (condition, tag, told) in [
        ("W/\"a\"", "\"a\"", "W/\"a\""),
        ("\"b\", W/\"a\"", "\"a\"", "W/\"a\""),
        ("\"a\"", "\"a\"", "\"a\""),
        // The client holds both, and the strong one is better.
        ("W/\"a\", \"a\"", "\"a\"", "\"a\""),
        ("*", "\"a\"", "\"a\""),
        ("W/\"b\"", "\"a\"", "\"a\""),
        ("\"a\"", "W/\"a\"", "W/\"a\""),
    ] {
        assert_eq!(tagged(304, condition, tag), told, "{condition} {tag}");
    }
    assert_eq!(tagged(412, "W/\"a\"", "\"a\""), "\"a\"");
}

fn adjusted(lines: &[(&'static str, &str)], transform: Option<BodyTransform>) -> HeaderMap {
    let mut head = blank_head(StatusCode::OK);
    for (name, value) in &fields(lines) {
        append_field(&mut head, name.clone(), value.clone());
    }
    adjust_head(&mut head, transform, &rules());
    head.headers.clone()
}

#[test]
fn a_head_says_nothing_of_bytes_that_are_gone() {
    let plain = [
        JSON,
        ("content-length", "5000"),
        ("etag", "\"x\""),
        ("accept-ranges", "bytes"),
        ("repr-digest", "sha-256=:x:"),
        ("content-digest", "sha-256=:x:"),
        ("digest", "x"),
        ("content-md5", "x"),
        ("vary", "Origin"),
        ("x-other", "1"),
    ];
    let expected = [
        JSON,
        ("content-encoding", "br"),
        ("etag", "W/\"x\""),
        ("vary", "Origin, Accept-Encoding"),
        ("x-other", "1"),
    ];
    assert_eq!(adjusted(&plain, Some(Encode(ContentCoding::Brotli))), fields(&expected));
    let coded = [JSON, ("content-length", "9"), ("content-encoding", "gzip"), ("etag", "\"x\"")];
    let decoded = [JSON, ("etag", "W/\"x\""), ("vary", "Accept-Encoding")];
    assert_eq!(adjusted(&coded, Some(Decode(ContentCoding::Gzip))), fields(&decoded));
    // A tag that is weak already, or malformed, is left alone.
    for etag in ["W/\"x\"", "x"] {
        assert_eq!(adjusted(&[JSON, ("etag", etag)], Some(Encode(ContentCoding::Gzip)))["etag"], *etag);
    }
}

#[test]
fn vary_says_that_others_get_another_form() {
    let vary = |lines: &[_]| {
        adjusted(lines, None)
            .get_all("vary")
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(vary(&[JSON]), ["Accept-Encoding"]);
    assert_eq!(vary(&[JSON, ("content-encoding", "br")]), ["Accept-Encoding"]);
    assert_eq!(vary(&[JSON, ("vary", "accept-encoding")]), ["accept-encoding"]);
    assert_eq!(vary(&[JSON, ("vary", "Origin"), ("vary", "ACCEPT-ENCODING")]), ["Origin", "ACCEPT-ENCODING"]);
    assert_eq!(vary(&[JSON, ("vary", "Origin"), ("vary", "X")]), ["Origin, X, Accept-Encoding"]);
    assert_eq!(vary(&[JSON, ("vary", "*")]), ["*"]);
    assert!(vary(&[("content-type", "image/png")]).is_empty());
    assert!(vary(&[JSON, ("content-length", "10")]).is_empty());
    assert!(vary(&[JSON, ("cache-control", "no-transform")]).is_empty());
    let before = adjusted(&[JSON, ("content-length", "5000"), ("etag", "\"x\"")], None);
    assert_eq!(
        (&before["etag"], &before["content-length"]),
        (&"\"x\"".parse().unwrap(), &"5000".parse().unwrap())
    );
}
