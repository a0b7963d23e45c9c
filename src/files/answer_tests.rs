use super::*;

const NOW: u64 = 2_000_000_000;

fn stamp(length: u64, seconds: i64) -> FileIdentity {
    FileIdentity { length, modified: (seconds, 5), changed: (seconds, 5), inode: 1 }
}

fn facts() -> FileFacts {
    let etag = HeaderValue::from_static("\"6553f100.5-a\"");
    FileFacts { etag, ..FileFacts::of_file(&stamp(10, 1_700_000_000), "") }
}

fn fields() -> Vec<(HeaderName, HeaderValue)> {
    let fixed = |name, value| (name, HeaderValue::from_static(value));
    vec![
        fixed(header::CONTENT_TYPE, "text/plain"),
        fixed(header::CONTENT_DISPOSITION, "attachment"),
        fixed(header::CACHE_CONTROL, "private"),
        fixed(header::SET_COOKIE, "a=1"),
    ]
}

fn asked(method: &Method, request: &[(HeaderName, &'static str)]) -> SendPlan {
    let request = request.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect();
    plan_answer(method, &request, &facts(), &fields(), UNIX_EPOCH + Duration::from_secs(NOW))
}

fn get(request: &[(HeaderName, &'static str)]) -> SendPlan {
    asked(&Method::GET, request)
}

fn said<'p>(plan: &'p SendPlan, name: &str) -> &'p str {
    plan.head.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn the_whole_and_its_head() {
    let whole = get(&[]);
    assert_eq!((whole.head.status.as_u16(), &whole.pieces[..]), (200, &[FilePiece::File(0..10)][..]));
    for (name, value) in [
        ("content-length", "10"),
        ("content-type", "text/plain"),
        ("content-disposition", "attachment"),
        ("cache-control", "private"),
        ("set-cookie", "a=1"),
        ("etag", "\"6553f100.5-a\""),
        ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(said(&whole, name), value, "{name}");
    }
    let head = asked(&Method::HEAD, &[(header::RANGE, "bytes=0-1")]);
    assert_eq!((head.head.status.as_u16(), said(&head, "content-length")), (200, "10"));
    assert!(head.pieces.is_empty());
}

#[test]
fn an_empty_file_has_no_pieces_and_no_parts() {
    let empty = FileFacts::of_content(b"", &stamp(0, 0), "");
    let request = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static("bytes=0-"))]);
    let plan = plan_answer(&Method::GET, &HeaderMap::new(), &empty, &[], UNIX_EPOCH);
    assert_eq!((plan.head.status.as_u16(), said(&plan, "content-length")), (200, "0"));
    assert!(plan.pieces.is_empty());
    let plan = super::plan_answer(&Method::GET, &request, &empty, &[], UNIX_EPOCH);
    assert_eq!((plan.head.status.as_u16(), said(&plan, "content-range")), (416, "bytes */0"));
}

#[test]
fn parts() {
    for (asked, range, told) in [
        ("bytes=2-4", 2..5, "bytes 2-4/10"),
        ("bytes=-3", 7..10, "bytes 7-9/10"),
        ("bytes=8-", 8..10, "bytes 8-9/10"),
        ("bytes=0-99", 0..10, "bytes 0-9/10"),
    ] {
        let plan = get(&[(header::RANGE, asked)]);
        assert_eq!((plan.head.status.as_u16(), said(&plan, "content-range")), (206, told), "{asked}");
        assert_eq!(said(&plan, "content-length"), (range.end - range.start).to_string(), "{asked}");
        assert_eq!(plan.pieces, [FilePiece::File(range)], "{asked}");
    }
    let plan = get(&[(header::RANGE, "bytes=10-")]);
    assert_eq!((plan.head.status.as_u16(), said(&plan, "content-range")), (416, "bytes */10"));
    assert_eq!((said(&plan, "content-length"), said(&plan, "content-type")), ("0", ""));
    for nonsense in ["bytes=4-2", "lines=1-2", "bytes=x"] {
        assert_eq!(get(&[(header::RANGE, nonsense)]).head.status, 200, "{nonsense}");
    }
}

#[test]
fn several_parts_are_framed() {
    let plan = get(&[(header::RANGE, "bytes=0-1,-2")]);
    assert_eq!(plan.head.status, 206);
    let boundary = said(&plan, "content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let [FilePiece::Here(first), FilePiece::File(a), FilePiece::Here(second), FilePiece::File(b), FilePiece::Here(end)] =
        &plan.pieces[..]
    else {
        panic!("{:?}", plan.pieces)
    };
    assert_eq!((a, b), (&(0..2), &(8..10)));
    let head =
        |range: &str| format!("--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: {range}\r\n\r\n");
    assert_eq!(first, head("bytes 0-1/10").as_bytes());
    assert_eq!(second, format!("\r\n{}", head("bytes 8-9/10")).as_bytes());
    assert_eq!(end, format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(said(&plan, "content-length"), body_length(&plan.pieces).to_string());
    assert_eq!(said(&plan, "content-range"), "");
}

#[test]
fn conditions() {
    const TAG: &str = "\"6553f100.5-a\"";
    const CHANGED: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const BEFORE: &str = "Tue, 14 Nov 2023 22:13:19 GMT";
    let status = |request: &[_]| get(request).head.status.as_u16();
    assert_eq!(status(&[(header::IF_NONE_MATCH, TAG)]), 304);
    assert_eq!(status(&[(header::IF_NONE_MATCH, "W/\"6553f100.5-a\"")]), 304);
    assert_eq!(status(&[(header::IF_NONE_MATCH, "\"6553f100.5-a-br\"")]), 200);
    assert_eq!(status(&[(header::IF_MODIFIED_SINCE, CHANGED)]), 304);
    assert_eq!(status(&[(header::IF_MODIFIED_SINCE, BEFORE)]), 200);
    assert_eq!(status(&[(header::IF_MATCH, "\"other\"")]), 412);
    assert_eq!(status(&[(header::IF_UNMODIFIED_SINCE, BEFORE)]), 412);
    let range = (header::RANGE, "bytes=0-0");
    for (condition, expected) in [(TAG, 206), (CHANGED, 206), ("\"other\"", 200), (BEFORE, 200)] {
        assert_eq!(status(&[range.clone(), (header::IF_RANGE, condition)]), expected, "{condition}");
    }
    let plan = get(&[(header::IF_NONE_MATCH, TAG)]);
    assert!(plan.pieces.is_empty());
    for (name, value) in
        [("etag", TAG), ("cache-control", "private"), ("content-type", ""), ("content-length", "")]
    {
        assert_eq!(said(&plan, name), value, "{name}");
    }
}

#[test]
fn who_wants_no_parts_sends_none() {
    let none = [(header::ACCEPT_RANGES, HeaderValue::from_static("none"))];
    let request = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static("bytes=0-1"))]);
    let plan = plan_answer(&Method::GET, &request, &facts(), &none, UNIX_EPOCH);
    assert_eq!((plan.head.status.as_u16(), said(&plan, "accept-ranges")), (200, "none"));
}

#[test]
fn a_tag_tells_files_contents_and_forms_apart() {
    let (first, at) = (FileIdentity { inode: 7, ..stamp(10, 1) }, |seconds| (seconds, 0));
    let tags = [
        FileFacts::of_file(&first, "").etag,
        FileFacts::of_file(&first, "-br").etag,
        FileFacts::of_file(&FileIdentity { length: 11, ..first }, "").etag,
        FileFacts::of_file(&FileIdentity { modified: at(2), ..first }, "").etag,
        // Two releases with a fixed mtime and the same length.
        FileFacts::of_file(&FileIdentity { changed: at(2), ..first }, "").etag,
        FileFacts::of_file(&FileIdentity { inode: 8, ..first }, "").etag,
        FileFacts::of_content(b"release 1", &first, "").etag,
        FileFacts::of_content(b"release 2", &first, "").etag,
        FileFacts::of_content(b"release 1", &first, "-br").etag,
    ];
    let distinct: std::collections::HashSet<_> = tags.iter().collect();
    assert_eq!(distinct.len(), tags.len());
    let copy = FileIdentity { inode: 8, changed: at(9), ..first };
    assert_eq!(FileFacts::of_content(b"release 1", &copy, "").etag, tags[6]);
}

#[test]
fn times_that_nobody_means_are_no_dates() {
    let date = |seconds| FileFacts::of_file(&stamp(10, seconds), "").modified;
    for seconds in [i64::MIN, -1, 0, 1, 315_532_800, 315_619_199] {
        assert_eq!(date(seconds), None, "{seconds}");
    }
    assert!(date(1_000_000_000).is_some());
    // Nothing changes after it is sent.
    let ahead = FileFacts::of_file(&stamp(10, NOW as i64 + 60), "");
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let whole = plan_answer(&Method::GET, &HeaderMap::new(), &ahead, &fields(), now);
    assert_eq!(said(&whole, "last-modified"), httpdate::fmt_http_date(now));
}
