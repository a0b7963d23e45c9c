//! Tests of replies: the head and the body for a request, for both kinds of representation.

use super::*;
use crate::{config, representation::OutsideCaching};

use bytes::Bytes;
use http::HeaderName;

const PREFER: &[ContentCoding] = &[ContentCoding::Brotli, ContentCoding::Gzip];
const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const DATE: &str = "Sun, 06 Nov 1994 09:00:00 GMT";

fn rules() -> config::EncodingConfig {
    config::EncodingConfig {
        types: vec!["text/plain".to_owned()],
        min_size: 1024,
        prefer: PREFER.to_vec(),
        levels: PREFER.iter().map(|coding| (*coding, 5)).collect(),
        memory: 1 << 27,
    }
}

fn pairs(lines: &[(&'static str, &str)]) -> Vec<(HeaderName, HeaderValue)> {
    let value = |value: &str| HeaderValue::from_bytes(value.as_bytes()).unwrap();
    lines.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
}

fn verbatim(status: u16, lines: &[(&'static str, &str)], body: impl Into<Body>) -> Representation {
    Representation::verbatim(StatusCode::from_u16(status).unwrap(), pairs(lines), body, &rules())
}

fn ours(body: impl Into<Body>) -> Representation {
    let outside =
        OutsideCaching { cache_control: HeaderValue::from_static("private"), varies_by_authorization: false };
    Representation::new(StatusCode::OK, pairs(&[TEXT]), body, None, outside, &rules())
}

fn got(what: &Representation, method: Method, lines: &[(&'static str, &str)]) -> ContentReply {
    choose_reply(what, &method, &pairs(lines).into_iter().collect(), PREFER)
}

fn get(what: &Representation, lines: &[(&'static str, &str)]) -> ContentReply {
    got(what, Method::GET, lines)
}

fn field<'a>(reply: &'a ContentReply, name: &str) -> Option<&'a str> {
    reply.head.headers.get(name).map(|value| value.to_str().unwrap())
}

fn content(reply: &ContentReply) -> Vec<u8> {
    reply.body.to_bytes().to_vec()
}

fn packed(fields: &[(HeaderName, HeaderValue)]) -> PackedFields {
    PackedFields::pack(fields.iter().map(|(name, value)| (name, value)))
}

type Line = (&'static str, &'static str);

const TEXT: Line = ("content-type", "text/plain");
const TEN: &[u8] = b"0123456789";

fn in_pieces() -> Body {
    Body::from_pieces([&TEN[..3], &TEN[3..4], &TEN[4..]].map(Bytes::copy_from_slice).to_vec())
}

#[test]
fn a_verbatim_answer_says_what_the_origin_said() {
    let lines = [
        ("date", DATE),
        ("cache-control", "max-age=60"),
        ("set-cookie", "a=1"),
        TEXT,
        ("expires", "0"),
        ("etag", "W/\"x\""),
        ("set-cookie", "b=2"),
        ("vary", "Accept"),
        ("last-modified", CHANGED),
        ("cache-control", "public"),
    ];
    let framed = [&lines[..], &[("content-length", "99"), ("transfer-encoding", "chunked")]].concat();
    let what = verbatim(200, &framed, in_pieces());
    assert_eq!(what.headers(), pairs(&lines));
    let reply = get(&what, &[]);
    let expected = [&lines[..], &[("accept-ranges", "bytes"), ("content-length", "10")]].concat();
    assert_eq!(reply.head.headers.clone(), pairs(&expected).into_iter().collect::<HeaderMap>());
    assert_eq!((reply.head.status, content(&reply)), (StatusCode::OK, TEN.to_vec()));
    assert_eq!(what.header(&header::CACHE_CONTROL).unwrap(), "max-age=60");
    assert!(what.is_verbatim() && what.is_transformable());
    let none = get(&verbatim(200, &[("accept-ranges", "none")], TEN.to_vec()), &[]);
    assert_eq!(field(&none, "accept-ranges"), Some("none"));
}

#[test]
fn length_and_ranges_are_told_where_there_may_be_some() {
    let bare = get(&verbatim(204, &[], Body::new()), &[]);
    assert_eq!((field(&bare, "content-length"), field(&bare, "accept-ranges")), (None, None));
    let missing = get(&verbatim(404, &[], Body::new()), &[]);
    assert_eq!((field(&missing, "content-length"), field(&missing, "accept-ranges")), (Some("0"), None));
    let head = got(&ours(TEN.to_vec()), Method::HEAD, &[("range", "bytes=0-1")]);
    assert_eq!((head.head.status, head.body.len()), (StatusCode::OK, 0));
    assert_eq!((field(&head, "content-length"), field(&head, "accept-ranges")), (Some("10"), Some("bytes")));
}

#[test]
fn conditions_by_example() {
    let tagged = [("etag", "\"x\""), ("last-modified", CHANGED), ("date", DATE)];
    let dated = [("date", DATE)];
    let before = "Sun, 06 Nov 1994 08:49:36 GMT";
    let cases: [(u16, &[Line], Line, u16); 16] = [
        (200, &tagged, ("if-none-match", "\"x\""), 304),
        (200, &tagged, ("if-none-match", "W/\"x\""), 304),
        (200, &tagged, ("if-none-match", "\"y\""), 200),
        (200, &tagged, ("if-none-match", "\"x-br\""), 200),
        (200, &tagged, ("if-modified-since", CHANGED), 304),
        (200, &tagged, ("if-modified-since", before), 200),
        (200, &tagged, ("if-match", "\"y\""), 412),
        (200, &tagged, ("if-match", "\"x\""), 200),
        (200, &tagged, ("if-unmodified-since", before), 412),
        (200, &dated, ("if-modified-since", DATE), 304),
        (200, &dated, ("if-modified-since", CHANGED), 200),
        (200, &dated, ("if-unmodified-since", CHANGED), 200),
        (200, &[("etag", "x")], ("if-none-match", "x"), 304),
        (200, &[], ("if-modified-since", DATE), 200),
        (203, &tagged, ("if-none-match", "\"x\""), 304),
        (404, &tagged, ("if-none-match", "\"x\""), 404),
    ];
    for (status, lines, condition, expected) in cases {
        let what = verbatim(status, lines, TEN.to_vec());
        let reply = get(&what, &[condition]);
        assert_eq!(reply.head.status.as_u16(), expected, "{status} {lines:?} {condition:?}");
        assert_eq!(reply.body.is_empty(), !matches!(expected, 200 | 404), "{condition:?}");
    }
}

#[test]
fn a_304_carries_what_updates_a_stored_answer() {
    let kept = [
        ("cache-control", "max-age=60"),
        ("content-location", "/x"),
        ("date", DATE),
        ("etag", "\"x\""),
        ("expires", DATE),
        ("vary", "Accept"),
        ("last-modified", CHANGED),
    ];
    let lines = [&kept[..], &[TEXT, ("set-cookie", "a=1"), ("x-other", "1")]].concat();
    let reply = get(&verbatim(200, &lines, TEN.to_vec()), &[("if-none-match", "*")]);
    assert_eq!(reply.head.headers.clone(), pairs(&kept).into_iter().collect::<HeaderMap>());
}

fn long() -> Vec<u8> {
    (0..3_000).flat_map(|i: u32| format!("{i},").into_bytes()).collect()
}

#[test]
fn an_encoded_form_of_ours_has_a_weak_tag_of_the_origins() {
    let lines = [TEXT, ("etag", "\"x\""), ("repr-digest", "sha-256=:x:"), ("accept-ranges", "bytes")];
    let what = verbatim(200, &lines, long()).with_encodings(&rules(), |_, _| {});
    let accepts = ("accept-encoding", "gzip");
    let reply = get(&what, &[accepts]);
    assert_eq!(field(&reply, "content-encoding"), Some("gzip"));
    assert_eq!((field(&reply, "etag"), field(&reply, "vary")), (Some("W/\"x\""), Some("Accept-Encoding")));
    assert_eq!((field(&reply, "repr-digest"), field(&reply, "accept-ranges")), (None, None));
    assert_eq!(field(&reply, "content-length"), Some(reply.body.len().to_string().as_str()));
    assert_eq!(&reply.body, what.encoded(ContentCoding::Gzip).unwrap());
    let plain = get(&what, &[]);
    assert_eq!((field(&plain, "etag"), field(&plain, "vary")), (Some("\"x\""), Some("Accept-Encoding")));
    assert_eq!(field(&plain, "repr-digest"), Some("sha-256=:x:"));
    let unchanged = get(&what, &[accepts, ("if-none-match", "W/\"x\"")]);
    assert_eq!((unchanged.head.status.as_u16(), field(&unchanged, "etag")), (304, Some("W/\"x\"")));
    // A range refers to the plain body, whatever codings the client accepts.
    let part = get(&what, &[accepts, ("range", "bytes=0-3")]);
    assert_eq!((part.head.status.as_u16(), content(&part)), (206, b"0,1,".to_vec()));
    assert_eq!((field(&part, "etag"), field(&part, "content-encoding")), (Some("\"x\""), None));
    let weak = get(&what, &[accepts, ("range", "bytes=0-3"), ("if-range", "W/\"x\"")]);
    assert_eq!((weak.head.status.as_u16(), field(&weak, "content-encoding")), (200, Some("gzip")));
    let forbidden = [TEXT, ("cache-control", "no-transform")];
    let forbidden = verbatim(200, &forbidden, long()).with_encodings(&rules(), |_, _| {});
    assert!(!forbidden.is_transformable());
    assert_eq!(field(&get(&forbidden, &[accepts]), "content-encoding"), None);
    assert_eq!(field(&get(&forbidden, &[accepts]), "vary"), None);
}

#[test]
fn a_form_of_our_own_has_a_strong_tag_of_its_own() {
    let what = ours(long()).with_encodings(&rules(), |_, _| {});
    let plain = what.etag().unwrap().to_str().unwrap().to_owned();
    let br = format!("{}-br\"", plain.trim_end_matches('"'));
    let accepts = ("accept-encoding", "br");
    assert_eq!(field(&get(&what, &[accepts]), "etag"), Some(&br[..]));
    // A 304 has the tag that the client holds, whatever form would be sent now; else that of this form.
    let unknown = format!("\"other\", {br}");
    let gzip = br.replace("-br", "-gzip");
    for (held, told) in
        [(&plain, &plain), (&br, &br), (&gzip, &gzip), (&unknown, &br), (&"*".to_owned(), &br)]
    {
        let unchanged = get(&what, &[accepts, ("if-none-match", held)]);
        assert_eq!((unchanged.head.status.as_u16(), field(&unchanged, "etag")), (304, Some(&told[..])));
        let form = accepted_form(&what, Some(b"br"), &rules().prefer);
        assert_eq!(holds_tag(&what, form, held.as_bytes()), *held == br, "{held}");
    }
    // The bytes of one form are not continued with those of another.
    let range = ("range", "bytes=2-5");
    assert_eq!(get(&what, &[accepts, range, ("if-range", &br)]).head.status, 200);
    assert_eq!(get(&what, &[accepts, range, ("if-range", &plain)]).head.status, 206);
}

#[test]
fn a_coding_of_the_origins_is_taken_off_for_who_cannot_take_it() {
    let lines = [
        TEXT,
        ("content-encoding", "gzip"),
        ("etag", "\"x\""),
        ("content-md5", "x"),
        ("vary", "Accept-Encoding"),
    ];
    let what = verbatim(200, &lines, b"coded".to_vec());
    for accepted in [&[("accept-encoding", "br")][..], &[("accept-encoding", "")], &[]] {
        let reply = get(&what, accepted);
        assert_eq!(reply.transform, Some(BodyTransform::Decode(ContentCoding::Gzip)), "{accepted:?}");
        assert_eq!((field(&reply, "content-encoding"), field(&reply, "content-length")), (None, None));
        assert_eq!((field(&reply, "etag"), field(&reply, "content-md5")), (Some("W/\"x\""), None));
        assert_eq!((field(&reply, "accept-ranges"), content(&reply)), (None, b"coded".to_vec()));
        let head = got(&what, Method::HEAD, accepted);
        assert_eq!((head.transform, head.body.len()), (None, 0));
        assert_eq!(head.head.headers, reply.head.headers);
        let ranged = get(&what, &[accepted, &[("range", "bytes=0-1")]].concat());
        assert_eq!((ranged.head.status.as_u16(), ranged.transform), (200, reply.transform));
        for held in ["\"x\"", "W/\"x\""] {
            let unchanged = get(&what, &[accepted, &[("if-none-match", held)]].concat());
            assert_eq!((unchanged.head.status.as_u16(), field(&unchanged, "etag")), (304, Some(held)));
        }
    }
    for accepted in ["gzip", "*", "br, gzip;q=0.1", "br, identity;q=0"] {
        let reply = get(&what, &[("accept-encoding", accepted)]);
        assert_eq!((reply.transform, field(&reply, "content-encoding")), (None, Some("gzip")), "{accepted}");
        assert_eq!((field(&reply, "etag"), field(&reply, "content-length")), (Some("\"x\""), Some("5")));
        let part = get(&what, &[("accept-encoding", accepted), ("range", "bytes=0-1")]);
        assert_eq!((part.head.status.as_u16(), content(&part)), (206, b"co".to_vec()));
    }
    // A client without the field gets the form that the origin gives to everyone.
    let always = verbatim(200, &[TEXT, ("content-encoding", "gzip")], b"coded".to_vec());
    assert_eq!(get(&always, &[]).transform, None);
    assert_eq!(field(&get(&always, &[]), "vary"), Some("Accept-Encoding"));
    let foreign = verbatim(200, &[TEXT, ("content-encoding", "compress")], b"coded".to_vec());
    assert!(!foreign.is_transformable());
    assert_eq!(get(&foreign, &[("accept-encoding", "")]).transform, None);
}

#[test]
fn ranges_of_both_kinds() {
    for what in [ours(in_pieces()), verbatim(200, &[TEXT, ("x-other", "1"), ("etag", "\"x\"")], in_pieces())]
    {
        let one = get(&what, &[("range", "bytes=2-5")]);
        assert_eq!((one.head.status.as_u16(), content(&one)), (206, b"2345".to_vec()));
        assert_eq!(field(&one, "content-range"), Some("bytes 2-5/10"));
        assert_eq!(
            (field(&one, "content-length"), field(&one, "content-type")),
            (Some("4"), Some("text/plain"))
        );
        assert_eq!(field(&one, "etag"), what.etag().as_ref().map(|etag| etag.to_str().unwrap()));

        let two = get(&what, &[("range", "bytes=0-1,-2")]);
        let kind = field(&two, "content-type").unwrap();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let part = |range, text| {
            format!("--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\r\n{text}\r\n")
        };
        let expected = part("0-1", "01") + &part("8-9", "89") + &format!("--{boundary}--\r\n");
        assert_eq!((two.head.status.as_u16(), content(&two)), (206, expected.into_bytes()));
        assert_eq!(field(&two, "content-length"), Some(two.body.len().to_string().as_str()));
        assert_eq!(field(&two, "content-range"), None);

        let none = get(&what, &[("range", "bytes=10-")]);
        assert_eq!((none.head.status.as_u16(), none.body.len()), (416, 0));
        assert_eq!(field(&none, "content-range"), Some("bytes */10"));
        assert_eq!(field(&none, "content-length"), Some("0"));

        assert_eq!(get(&what, &[("range", "lines=1-2")]).head.status, 200);
        assert_eq!(got(&what, Method::HEAD, &[("range", "bytes=2-5")]).head.status, 200);
        assert_eq!(get(&what, &[("range", "bytes=2-5"), ("if-range", "\"y\"")]).head.status, 200);
        // Conditions come first.
        assert_eq!(get(&what, &[("range", "bytes=2-5"), ("if-none-match", "*")]).head.status, 304);
        assert_eq!(get(&what, &[("range", "bytes=2-5"), ("if-match", "\"y\"")]).head.status, 412);
    }
    assert_eq!(get(&verbatim(404, &[TEXT], in_pieces()), &[("range", "bytes=2-5")]).head.status, 404);
    let digests = [("content-digest", "sha-256=:x:"), ("repr-digest", "sha-256=:x:"), ("content-md5", "x")];
    let part = get(&verbatim(200, &digests, in_pieces()), &[("range", "bytes=0-1")]);
    assert_eq!((field(&part, "content-digest"), field(&part, "content-md5")), (None, None));
    assert_eq!(field(&part, "repr-digest"), Some("sha-256=:x:"));
}

#[test]
fn a_part_answers_for_what_lies_within_it() {
    let fields = pairs(&[TEXT, ("content-range", "bytes 4-8/10"), ("etag", "\"x\""), ("a", "1")]);
    let body = in_pieces().slice(4..9);
    let stored = packed(&fields);
    let part = StoredPart { fields: &stored, first: 4, total: 10, body: &body };
    let asked = |lines: &[(&'static str, &str)]| {
        partial_reply(part, &Method::GET, &pairs(lines).into_iter().collect())
    };
    for (range, expected, said) in [
        ("bytes=4-8", "45678", "bytes 4-8/10"),
        ("bytes=6-7", "67", "bytes 6-7/10"),
        ("bytes=6-7,7-8", "678", "bytes 6-8/10"),
    ] {
        let reply = asked(&[("range", range), ("if-range", "\"x\"")]).expect("within");
        assert_eq!((reply.head.status.as_u16(), content(&reply)), (206, expected.as_bytes().to_vec()));
        assert_eq!((field(&reply, "content-range"), field(&reply, "a")), (Some(said), Some("1")));
        assert_eq!(field(&reply, "content-length"), Some(expected.len().to_string().as_str()));
    }
    for range in ["bytes=3-5", "bytes=8-9", "bytes=5-", "bytes=-2", "bytes=0-", "bytes=4-4,6-6", "bytes=10-"]
    {
        assert!(asked(&[("range", range)]).is_none(), "{range}");
    }
    assert!(asked(&[]).is_none());
    assert!(asked(&[("range", "bytes=4-5"), ("if-range", "\"y\"")]).is_none());
    assert!(asked(&[("range", "bytes=4-5"), ("if-none-match", "\"x\"")]).is_none());
    let headers = pairs(&[("range", "bytes=4-5")]).into_iter().collect();
    assert!(partial_reply(part, &Method::HEAD, &headers).is_none());
    let coded = [&fields[..], &pairs(&[("content-encoding", "gzip")])].concat();
    let coded = packed(&coded);
    let coded = StoredPart { fields: &coded, ..part };
    let asked = |accepted| {
        let lines = [("range", "bytes=4-5"), ("accept-encoding", accepted)];
        partial_reply(coded, &Method::GET, &pairs(&lines).into_iter().collect())
    };
    assert!(asked("gzip").is_some() && asked("br").is_none());
}
