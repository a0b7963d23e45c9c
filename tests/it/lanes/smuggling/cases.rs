//! The table: what a client sends, what of it reaches the origin, and how the connection ends.
//!
//! The groups and their verdicts stand in `docs/hostile-input.md`, which a test compares with this table.

use crate::lanes::smuggling::stage::HERE;

/// Follows each case on the same connection.
pub const PROBE: &str = "GET /app/probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// The message that an attacker wants the origin to see.
pub const SMUGGLED: &str = "GET /app/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A request that the origin is meant to get. Its target may be [`HERE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meant {
    pub method: &'static str,
    pub target: &'static str,
    pub body: Vec<u8>,
}

/// The state of the connection after the requests that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The probe is answered.
    Open,
    /// It ends without another answer.
    Closed,
    /// One of these statuses, and the end; the origin got no byte of it.
    Refused(&'static [u16]),
    /// The same, but the origin may have got a part: never a whole request.
    CutOff(&'static [u16]),
}

/// Bytes and a verdict.
#[derive(Debug, Clone)]
pub struct Case {
    pub group: &'static str,
    pub what: String,
    pub send: Vec<u8>,
    /// Answers of the gateway's own, before anything passes.
    pub own: Vec<u16>,
    pub passes: Vec<Meant>,
    pub end: End,
    /// True if the client closes its sending side.
    pub fin: bool,
}

impl Case {
    fn new(group: &'static str, what: impl Into<String>, send: impl Into<Vec<u8>>) -> Self {
        let (what, send) = (what.into(), send.into());
        Self { group, what, send, own: vec![], passes: vec![], end: End::Refused(BAD), fin: false }
    }

    fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    fn refused(self, statuses: &'static [u16]) -> Self {
        self.end(End::Refused(statuses))
    }

    fn cut_off(self) -> Self {
        self.end(End::CutOff(BAD))
    }

    /// One more request passes, and the connection goes on.
    fn passes(mut self, method: &'static str, target: &'static str, body: impl Into<Vec<u8>>) -> Self {
        self.passes.push(Meant { method, target, body: body.into() });
        self.end(End::Open)
    }

    fn own(mut self, status: u16) -> Self {
        self.own.push(status);
        self
    }

    fn fin(mut self) -> Self {
        self.fin = true;
        self
    }
}

const BAD: &[u16] = &[400];
/// A coding that is not understood, or a second field.
const CODING: &[u16] = &[400, 501];

pub const LENGTHS: &str = "lengths";
pub const CODINGS: &str = "codings";
pub const CHUNKS: &str = "chunks";
pub const LINES: &str = "lines";
pub const REQUEST_LINES: &str = "request lines";
pub const TARGETS: &str = "targets";
pub const HOSTS: &str = "hosts";
pub const METHODS: &str = "methods";
pub const EXPECTATIONS: &str = "expectations";
pub const PIPELINES: &str = "pipelines";
pub const UPGRADES: &str = "upgrades";
pub const CONNECTIONS: &str = "connection fields";

/// All cases.
pub fn all() -> Vec<Case> {
    [
        lengths(),
        codings(),
        chunks(),
        lines(),
        request_lines(),
        targets(),
        hosts(),
        methods(),
        expectations(),
        pipelines(),
        upgrades(),
        connections(),
    ]
    .concat()
}

fn get(fields: &str) -> String {
    format!("GET {HERE} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST {HERE} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

/// A POST with this body and its length, and further fields before it.
fn sized(fields: &str, body: &str) -> String {
    post(&format!("{fields}Content-Length: {}\r\n", body.len()), body)
}

/// The body that ends at once for who reads chunks, and holds another request for who reads a length.
fn two_faced() -> String {
    format!("0\r\n\r\n{SMUGGLED}")
}

fn lengths() -> Vec<Case> {
    let case = |what: &str, send: String| Case::new(LENGTHS, what, send);
    let mut cases: Vec<Case> = [
        "+5",
        "-5",
        "-0",
        "0x5",
        "5 5",
        "5.0",
        "5e0",
        "5,",
        ",5",
        "5;",
        "",
        "five",
        "5\0",
        "\u{ff15}",
        "0b101",
        "5_0",
        "99999999999999999999",
        "9223372036854775808",
        "18446744073709551621",
        "4294967301junk",
    ]
    .iter()
    .map(|value| {
        case(&format!("the length {value:?}"), post(&format!("Content-Length: {value}\r\n"), "hello"))
    })
    .collect();
    cases.extend([
        case("two lengths, the same", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")),
        case("two lengths, the first shorter", post("Content-Length: 0\r\nContent-Length: 5\r\n", "hello")),
        case("two lengths, the first longer", post("Content-Length: 5\r\nContent-Length: 0\r\n", "hello")),
        case("a list of the same length", post("Content-Length: 5, 5\r\n", "hello")),
        case("a list of lengths", post("Content-Length: 5, 6\r\n", "hello")),
        case("a blank before the colon", post("Content-Length : 5\r\n", "hello")),
        case("a tab before the colon", post("Content-Length\t: 5\r\n", "hello")),
        case("an underscore", post("Content_Length: 5\r\n", "hello")),
        case("an underscore beside the length", sized("Content_Length: 0\r\n", "hello")),
        case("a folded length", post("Content-Length:\r\n 5\r\n", "hello")),
        case("a length in a folded line", post("X: y\r\n Content-Length: 5\r\n", "hello")),
        case("a length without a name", post(": 5\r\n", "hello")),
        case("blanks around the length", post("Content-Length: \t 5 \t\r\n", "hello"))
            .passes("POST", HERE, "hello"),
        case("zeros before the length", post("Content-Length: 0005\r\n", "hello"))
            .passes("POST", HERE, "hello"),
        case("another case of the name", post("cONTENT-lENGTH: 5\r\n", "hello"))
            .passes("POST", HERE, "hello"),
        case("a request as the body", sized("", SMUGGLED)).passes("POST", HERE, SMUGGLED),
        case("no length, and a body", post("", SMUGGLED)).passes("POST", HERE, "").passes(
            "GET",
            "/app/smuggled",
            "",
        ),
        case("a body that is longer", post("Content-Length: 5\r\n", "helloXYZ"))
            .passes("POST", HERE, "hello")
            .passes("XYZGET", "/app/probe", "")
            .end(End::Closed),
        case("a body that is shorter", post("Content-Length: 5000\r\n", "hello")).fin().end(End::Closed),
        case("a length beyond the limit", post("Content-Length: 999999999999\r\n", "hello")).refused(&[413]),
    ]);
    cases
}

fn codings() -> Vec<Case> {
    let case = |what: &str, send: String| Case::new(CODINGS, what, send).refused(CODING);
    // Beside a length, each of them; the body is another one for each reading.
    let obfuscated = [
        "Transfer-Encoding: chunked",
        "transfer-encoding:CHUNKED",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding:\u{c}chunked",
        "Transfer-Encoding: \0chunked",
        "Transfer-Encoding: chunked\0",
        "\0Transfer-Encoding: chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer-Encoding\u{b}: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunk",
        "Transfer-Encoding: x chunked",
        "Transfer-Encoding: chunked x",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked;x=y",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: cow",
        "Transfer-Encoding:",
        "Transfer-Encoding: ch\u{2d}\u{e2}nked",
        "Transfer-Encoding: chunked\u{a0}",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding:\n chunked",
        "Transfer-Encoding\r\n: chunked",
        "Transfer-Encoding: chunked\r\n ",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\r\n\rTransfer-Encoding: chunked",
        "X: y\r\r\nTransfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer Encoding: chunked",
        "Transfer-Encoding chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer_Encoding: identity",
    ];
    let body = two_faced();
    let mut cases = Vec::new();
    for (n, field) in obfuscated.iter().enumerate() {
        cases.push(case(&format!("{field:?} behind a length"), sized(&format!("{field}\r\n"), &body)));
        let before = post(&format!("Content-Length: {}\r\n{field}\r\n", body.len()), &body);
        cases.push(case(&format!("{field:?} before a length"), before));
        // The first two are only spelled.
        if n > 1 {
            cases.push(case(&format!("{field:?} without a length"), post(&format!("{field}\r\n"), &body)));
        }
    }
    cases.extend([
        case("TE.CL", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "2e\r\nGET /app/smuggled HTTP/1.1\r\nX: yyyyyyyyyyyyyyyyyy\r\n0\r\n\r\n")),
        case("chunks and no length, spelled oddly", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        case("chunks by HTTP/1.0", format!("POST {HERE} HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")),
        case("chunks by HTTP/1.0, kept alive", format!("POST {HERE} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{body}")),
        case("chunks on a GET, with a length", get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + &body),
        case("Content-Encoding is none of it", sized("Content-Encoding: chunked\r\n", &body)).passes("POST", HERE, body.clone()),
        case("nor is X-Transfer-Encoding", sized("X-Transfer-Encoding: chunked\r\n", &body)).passes("POST", HERE, body.clone()),
        case("chunks", post("Transfer-Encoding: chunked\r\n", &body)).passes("POST", HERE, "").passes("GET", "/app/smuggled", ""),
        case("chunks, written oddly", post("tRANSFER-eNCODING:\t ChUnKeD \t\r\n", "5\r\nhello\r\n0\r\n\r\n")).passes("POST", HERE, "hello"),
    ]);
    cases
}

fn chunks() -> Vec<Case> {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let refused = [
        ("a size line ends with LF", "5\nhello\r\n0\r\n\r\n"),
        ("a chunk ends with LF", "5\r\nhello\n0\r\n\r\n"),
        ("a chunk ends with CR", "5\r\nhello\r0\r\n\r\n"),
        ("no end of a chunk", "5\r\nhello0\r\n\r\n"),
        ("a chunk that is longer than its size", "4\r\nhello\r\n0\r\n\r\n"),
        ("a chunk that is shorter than its size", "6\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\n\r\n"),
        ("no size behind a chunk", "5\r\nhello\r\n\r\n"),
        ("an extension without a size", ";x\r\n\r\n"),
        ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a signed size", "+5\r\nhello\r\n0\r\n\r\n"),
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("0X", "0X5\r\nhello\r\n0\r\n\r\n"),
        ("an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("a point", "5.0\r\nhello\r\n0\r\n\r\n"),
        ("a blank before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a blank behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
        ("a tab behind the size", "5\t\r\nhello\r\n0\r\n\r\n"),
        ("a word behind the size", "5 x\r\nhello\r\n0\r\n\r\n"),
        ("no digit", "g\r\nhello\r\n0\r\n\r\n"),
        ("quotes", "\"5\"\r\nhello\r\n0\r\n\r\n"),
        ("a NUL behind the size", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("17 digits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size that overflows", "fffffffffffffffb\r\nhello\r\n0\r\n\r\n"),
        ("a size with many zeros", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("LF at the end of an extension", "5;\nhello\r\n0\r\n\r\n"),
        ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("a NUL in an extension", "5;a=\0\r\nhello\r\n0\r\n\r\n"),
        ("a request in an extension", "0;\nGET /app/smuggled HTTP/1.1\nHost: a\n\n\r\n\r\n"),
        ("a trailer that is a length", "0\r\nContent-Length: 40\r\n\r\n"),
        ("a trailer that is a coding", "0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("a trailer that is a host", "0\r\nHost: b\r\n\r\n"),
        ("a trailer without a colon", "0\r\nGET /app/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a trailer that ends with LF", "0\r\nX: y\n\r\n"),
        ("a trailer with a blank before the colon", "0\r\nX : y\r\n\r\n"),
        ("a folded trailer", "0\r\nX: y\r\n z\r\n\r\n"),
        ("a last chunk that ends with LF", "0\r\n\n"),
        ("a last chunk that ends with CR", "0\r\n\rX"),
    ];
    let mut cases: Vec<Case> =
        refused.iter().map(|(what, body)| Case::new(CHUNKS, *what, chunked(body)).cut_off()).collect();
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(10_000));
    cases.push(Case::new(CHUNKS, "an extension of 10,000 bytes", chunked(&long)).cut_off());
    let passing = [
        ("an extension", "5;a=b\r\nhello\r\n0\r\n\r\n", "hello"),
        ("a quoted extension", "5 ; a=\"b;c\"\r\nhello\r\n0;d\r\n\r\n", "hello"),
        ("zeros before the size", "005\r\nhello\r\n000\r\n\r\n", "hello"),
        ("digits in upper case", "A\r\nhellohello\r\n0\r\n\r\n", "hellohello"),
        ("many chunks", "1\r\nh\r\n4\r\nello\r\n1\r\n!\r\n0\r\n\r\n", "hello!"),
        ("a trailer", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "hello"),
        ("a chunk that looks like an end", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
    ];
    cases.extend(
        passing
            .iter()
            .map(|(what, body, is)| Case::new(CHUNKS, *what, chunked(body)).passes("POST", HERE, *is)),
    );
    cases.push(Case::new(CHUNKS, "no end", chunked("5\r\nhello\r\n")).cut_off());
    cases.push(
        Case::new(CHUNKS, "no end, and the client is gone", chunked("ffff\r\nhello")).fin().end(End::Closed),
    );
    cases
}

fn lines() -> Vec<Case> {
    let case = |what: &str, send: String| Case::new(LINES, what, send);
    let with = |line: &str| get(&format!("{line}\r\n"));
    let mut cases = vec![
        case("LF behind the request line", format!("GET {HERE} HTTP/1.1\nHost: a\r\n\r\n")),
        case("LF behind a field", get("X: y\n")),
        case("LF LF at the end", format!("GET {HERE} HTTP/1.1\r\nHost: a\n\n")),
        case("LF everywhere", format!("GET {HERE} HTTP/1.1\nHost: a\n\n{}", SMUGGLED.replace('\r', ""))),
        case("CR CR LF", get("X: y\r\r\n")),
        case("CR LF CR at the end", format!("GET {HERE} HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n")),
        case("CR everywhere", format!("GET {HERE} HTTP/1.1\rHost: a\r\r\n\r\n")),
        case("CR in a value", with("X: a\rY: b")),
        case("a request behind CR in a value", with("X: a\r\rGET /app/smuggled HTTP/1.1\rHost: a")),
        case("a folded line", with("X: a\r\n b")),
        case("a line folded by a tab", with("X: a\r\n\tb")),
        case("a fold of nothing", with("X: a\r\n ")),
        case("a blank before the first field", format!("GET {HERE} HTTP/1.1\r\n Host: a\r\n\r\n")),
        case("a fold before the first field", format!("GET {HERE} HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n")),
        case("no name", with(": x")),
        case("no colon", with("nonsense")),
        case("a blank in a name", with("X Y: z")),
        case("a blank before the colon", with("X : z")),
        case("brackets in a name", with("X(y): z")),
        case("an 8-bit byte in a name", with("X\u{e9}: z")),
        case("a NUL in a name", with("X\0Y: z")),
        case("a NUL in a value", with("X: a\0b")),
        case("a control character in a value", with("X: a\u{1}b")),
        case("DEL in a value", with("X: a\u{7f}b")),
        case("a vertical tab in a value", with("X: a\u{b}b")),
        case("LF before the request", format!("\n{}", get(""))),
        case("two empty lines before the request", format!("\r\n\r\n{}", get(""))),
        case("CR before the request", format!("\r{}", get(""))),
        case("a blank before the request", format!(" {}", get(""))),
        case("a NUL before the request", format!("\0{}", get(""))),
        case("300 fields", get(&"X: y\r\n".repeat(300))).refused(&[431]),
        case("a field of 90,000 bytes", with(&format!("X: {}", "x".repeat(90_000)))).refused(&[431]),
        case("an empty line before the request", format!("\r\n{}", get(""))).passes("GET", HERE, ""),
        case("no blank behind a colon", with("X:y")).passes("GET", HERE, ""),
        case("no value", with("X:")).passes("GET", HERE, ""),
        case("UTF-8 in a value", with("X: \u{e9}")).passes("GET", HERE, ""),
        case("a tab in a value", with("X: a\tb")).passes("GET", HERE, ""),
    ];
    let mut latin = get("").into_bytes();
    latin.splice(latin.len() - 2.., b"X: \xe9\xff\r\n\r\n".iter().copied());
    cases.push(Case::new(LINES, "8-bit bytes in a value", latin).passes("GET", HERE, ""));
    cases
}

fn request_lines() -> Vec<Case> {
    let case = |what: &str, line: &str| Case::new(REQUEST_LINES, what, format!("{line}\r\nHost: a\r\n\r\n"));
    let here = |line: &str| line.replace("/x", HERE);
    vec![
        case("two blanks behind the method", &here("GET  /x HTTP/1.1")),
        case("two blanks behind the target", &here("GET /x  HTTP/1.1")),
        case("a blank at the end", &here("GET /x HTTP/1.1 ")),
        case("a tab behind the method", &here("GET\t/x HTTP/1.1")),
        case("a tab behind the target", &here("GET /x\tHTTP/1.1")),
        case("a vertical tab behind the target", &here("GET /x\u{b}HTTP/1.1")),
        case("a word too many", &here("GET /x y HTTP/1.1")),
        case("two versions", &here("GET /x HTTP/1.1 HTTP/1.1")),
        case("a request within the line", &here("GET /x HTTP/1.1\rX: y HTTP/1.1")),
        case("no version", &here("GET /x")),
        case("no version, but a blank", &here("GET /x ")),
        case("no target", "GET HTTP/1.1"),
        case("an empty target", "GET  HTTP/1.1"),
        case("no method", &here("/x HTTP/1.1")),
        case("an empty method", &here(" /x HTTP/1.1")),
        case("the version in lower case", &here("GET /x http/1.1")),
        case("another protocol", &here("GET /x HTTPS/1.1")),
        case("HTTP/1", &here("GET /x HTTP/1")),
        case("HTTP/1.10", &here("GET /x HTTP/1.10")),
        case("HTTP/01.1", &here("GET /x HTTP/01.1")),
        case("HTTP/1,1", &here("GET /x HTTP/1,1")),
        case("HTTP/-1.1", &here("GET /x HTTP/-1.1")),
        case("a NUL behind the version", &here("GET /x HTTP/1.1\0")),
        case("HTTP/0.9", &here("GET /x HTTP/0.9")).refused(&[505]),
        case("HTTP/1.2", &here("GET /x HTTP/1.2")).refused(&[505]),
        case("HTTP/2.0", &here("GET /x HTTP/2.0")).refused(&[505]),
        case("HTTP/9.9", &here("GET /x HTTP/9.9")).refused(&[505]),
        Case::new(REQUEST_LINES, "a simple request", format!("GET {HERE}\r\n\r\n")),
        Case::new(REQUEST_LINES, "the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Case::new(REQUEST_LINES, "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
        Case::new(REQUEST_LINES, "an answer", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ]
}

fn targets() -> Vec<Case> {
    let case = |what: &str, target: &str| {
        Case::new(TARGETS, what, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
    };
    let here = |target: &str| target.replace("/x", HERE);
    let absolute = |target: &str| here(&format!("http://{target}"));
    let mut cases = vec![
        case("a control character", &here("/x\u{1}")),
        case("DEL", &here("/x\u{7f}")),
        case("a NUL", &here("/x\0")),
        case("CR", &here("/x\rX")),
        case("UTF-8", &here("/x\u{e9}")),
        case("a fragment", &here("/x#y")),
        case("a fragment alone", "#"),
        case("a request in a fragment", &here("/x#/../../smuggled")),
        case("an asterisk", "*"),
        case("a host and a port", "a:80"),
        case("a name", "app"),
        case("a name that climbs", "../app/smuggled"),
        case("a query alone", "?x=y"),
        case("a backslash", "\\app\\x"),
        case("at another host", "@b/app/smuggled"),
        case("another scheme", &here("ftp://a/x")),
        case("a scheme without slashes", "http:a/app/smuggled"),
        case("a scheme of one slash", "http:/a/app/smuggled"),
        case("a scheme and no host", "http:///app/smuggled"),
        case("a scheme and backslashes", "http:\\\\a\\app\\smuggled"),
        case("another host than Host", &absolute("b/x")),
        case("another port than Host", &absolute("a:81/x")),
        case("userinfo", &absolute("u@a/x")),
        case("userinfo that looks like the host", &absolute("a@b/x")),
        case("a host that ends with a backslash", &absolute("a\\b/x")),
        case("a NUL, escaped", &here("/x%00")),
        case("a path that climbs", &here("/x/../smuggled")),
        case("a path that climbs, escaped", &here("/x/%2e%2e/smuggled")),
        case("an absolute path that climbs", &absolute("a/x/../smuggled")),
        case("20,000 bytes", &here(&format!("/x?{}", "y".repeat(20_000)))).refused(&[414]),
        case("90,000 bytes", &here(&format!("/x?{}", "y".repeat(90_000)))).refused(&[414]),
        case("an absolute target", &absolute("a/x")).passes("GET", HERE, ""),
        case("an absolute target, the scheme in upper case", &here("HTTP://a/x")).passes("GET", HERE, ""),
        case("an absolute target with a query", &absolute("a/x?y")).passes("GET", "/HERE?y", ""),
        case("CR and LF, escaped", &here("/x?y=%0d%0aX:%20z")).passes("GET", "/HERE?y=%0d%0aX:%20z", ""),
        case("quotes and angles", &here("/x?<y>=\"z\"")),
        case("braces and bars", &here("/x?{y}|z^")).passes("GET", "/HERE?{y}|z^", ""),
        Case::new(TARGETS, "an absolute target and no Host", format!("GET http://a{HERE} HTTP/1.1\r\n\r\n")),
        Case::new(
            TARGETS,
            "an absolute target and no Host, by HTTP/1.0",
            format!("GET http://a{HERE} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
        )
        .passes("GET", HERE, ""),
        Case::new(TARGETS, "an asterisk with OPTIONS and no host", "OPTIONS * HTTP/1.1\r\n\r\n"),
    ];
    let mut latin = here("GET /x").into_bytes();
    latin.extend_from_slice(b"\xe9\xff HTTP/1.1\r\nHost: a\r\n\r\n");
    cases.push(Case::new(TARGETS, "8-bit bytes", latin));
    cases
}

fn hosts() -> Vec<Case> {
    let raw =
        |what: &str, fields: &str| Case::new(HOSTS, what, format!("GET {HERE} HTTP/1.1\r\n{fields}\r\n"));
    let mut cases: Vec<Case> = [
        "a b", "a\tb", "a,b", "a, a", "a/b", "a?b", "a#b", "u@a", "u:p@a", "a\\b", "a:80:80", "a:99999",
        "a:-1", "a:x", ":80", "", "[::1", "::1", "[a]", "[::1]a", "a%41", "a\u{e9}", "<a>", "\"a\"",
        "http://a",
    ]
    .iter()
    .map(|host| raw(&format!("the host {host:?}"), &format!("Host: {host}\r\n")))
    .collect();
    cases.extend([
        raw("no Host", "X: y\r\n"),
        raw("two hosts", "Host: a\r\nHost: b\r\n"),
        raw("two hosts, the same", "Host: a\r\nhost: a\r\n"),
        raw("a blank before the colon", "Host : a\r\n"),
        raw("a host and a folded one", "Host: a\r\n Host: b\r\n"),
        raw("a folded host", "Host: a\r\n b\r\n"),
        raw("a host in a line that ends with LF", "Host: a\nHost: b\r\n"),
        raw("a port", "Host: a:8080\r\n").passes("GET", HERE, ""),
        raw("IPv6", "Host: [::1]:80\r\n").passes("GET", HERE, ""),
        raw("the host in upper case", "HOST: A\r\n").passes("GET", HERE, ""),
        Case::new(
            HOSTS,
            "no Host, by HTTP/1.0",
            format!("GET {HERE} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
        )
        .passes("GET", HERE, ""),
        raw("another Host behind an underscore", "Host: a\r\nX_Host: b\r\n").passes("GET", HERE, ""),
    ]);
    cases
}

fn methods() -> Vec<Case> {
    let case = |what: &str, method: &str, rest: &str| {
        Case::new(METHODS, what, format!("{method} {HERE} HTTP/1.1\r\nHost: a\r\n{rest}"))
    };
    let body = format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    vec![
        case("brackets", "G(T", "\r\n"),
        case("a colon", "GET:", "\r\n"),
        case("quotes", "\"GET\"", "\r\n"),
        case("a NUL", "GE\0T", "\r\n"),
        case("a control character", "GE\u{1}T", "\r\n"),
        case("UTF-8", "G\u{c9}T", "\r\n"),
        case("33 letters", &"A".repeat(33), "\r\n").refused(&[501]),
        case("40,000 letters", &"A".repeat(40_000), "\r\n").refused(&[501]),
        case("90,000 letters", &"A".repeat(90_000), "\r\n").refused(&[414]),
        case("TRACE", "TRACE", "\r\n").refused(&[501]),
        case("TRACE with a body", "TRACE", &body).refused(&[501]),
        case("CONNECT to a path", "CONNECT", "\r\n").refused(&[400, 405]),
        Case::new(METHODS, "CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").refused(&[405]),
        Case::new(METHODS, "CONNECT elsewhere", "CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n")
            .refused(&[400, 405]),
        case("lower case", "get", "\r\n").passes("get", HERE, ""),
        case("mixed case", "Post", &body).passes("Post", HERE, SMUGGLED),
        case("an unknown one", "FOO", "\r\n").passes("FOO", HERE, ""),
        case("an unknown one with a body", "FOO", &body).passes("FOO", HERE, SMUGGLED),
        case("PROPFIND", "PROPFIND", "\r\n").passes("PROPFIND", HERE, ""),
        case("HEAD", "HEAD", "\r\n").passes("HEAD", HERE, ""),
        case("HEAD with a body", "HEAD", &body).passes("HEAD", HERE, SMUGGLED),
        case("GET with a body", "GET", &body).passes("GET", HERE, SMUGGLED),
        case("GET with chunks", "GET", "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
            .passes("GET", HERE, "hi"),
        case("DELETE with a body", "DELETE", &body).passes("DELETE", HERE, SMUGGLED),
        case("OPTIONS with a body", "OPTIONS", &body).passes("OPTIONS", HERE, SMUGGLED),
    ]
}

fn expectations() -> Vec<Case> {
    let case = |what: &str, send: String| Case::new(EXPECTATIONS, what, send);
    let other = |value: &str| {
        case(&format!("expects {value:?}"), sized(&format!("Expect: {value}\r\n"), "hello")).refused(&[417])
    };
    vec![
        other("x"),
        other("200-ok"),
        other("100-continue, x"),
        other("x, 100-continue"),
        other("y 100-continue"),
        other("100-continue;x"),
        other("100-continuee"),
        other("\"100-continue\""),
        other(""),
        case("two expectations", sized("Expect: 100-continue\r\nExpect: 100-continue\r\n", "hello")).refused(&[417]),
        case("a blank before the colon", sized("Expect : 100-continue\r\n", "hello")),
        case("a folded expectation", sized("Expect:\r\n 100-continue\r\n", "hello")),
        case("expects of a GET without a body", get("Expect: x\r\n")).refused(&[417]),
        case("100-continue", sized("Expect: 100-continue\r\n", "hello")).passes("POST", HERE, "hello"),
        case("100-Continue", sized("Expect: 100-Continue\r\n", "hello")).passes("POST", HERE, "hello"),
        case("100-continue and chunks", post("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"))
            .passes("POST", HERE, "hello"),
        case("100-continue and no body", get("Expect: 100-continue\r\n")).passes("GET", HERE, ""),
        case("100-continue and an empty body", sized("Expect: 100-continue\r\n", "")).passes("POST", HERE, ""),
        case("100-continue and a request as the body", sized("Expect: 100-continue\r\n", SMUGGLED))
            .passes("POST", HERE, SMUGGLED),
        case(
            "100-continue by HTTP/1.0",
            format!("POST {HERE} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"),
        )
        .passes("POST", HERE, "hello"),
    ]
}

fn pipelines() -> Vec<Case> {
    let case = |what: &str, send: String| Case::new(PIPELINES, what, send);
    let http_10 = |fields: &str| format!("GET {HERE} HTTP/1.0\r\nHost: a\r\n{fields}\r\n");
    vec![
        case("three in a row", format!("{0}{SMUGGLED}{0}", get("")))
            .passes("GET", HERE, "")
            .passes("GET", "/app/smuggled", "")
            .passes("GET", HERE, ""),
        case("a body, then another request", format!("{}{SMUGGLED}", sized("", "hello")))
            .passes("POST", HERE, "hello")
            .passes("GET", "/app/smuggled", ""),
        case("GET with a body, then another request", get("Content-Length: 5\r\n") + "hello" + SMUGGLED)
            .passes("GET", HERE, "hello")
            .passes("GET", "/app/smuggled", ""),
        case(
            "chunks, then another request",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n") + SMUGGLED,
        )
        .passes("POST", HERE, "hello")
        .passes("GET", "/app/smuggled", ""),
        case("an empty line between them", format!("{}\r\n{SMUGGLED}", sized("", "hello")))
            .passes("POST", HERE, "hello")
            .passes("GET", "/app/smuggled", ""),
        case("close, then another request", get("Connection: close\r\n") + SMUGGLED)
            .passes("GET", HERE, "")
            .end(End::Closed),
        case("close among others, then another request", get("Connection: x, close\r\n") + SMUGGLED)
            .passes("GET", HERE, "")
            .end(End::Closed),
        case("HTTP/1.0, then another request", http_10("") + SMUGGLED)
            .passes("GET", HERE, "")
            .end(End::Closed),
        case("HTTP/1.0 kept alive", http_10("Connection: keep-alive\r\n") + SMUGGLED)
            .passes("GET", HERE, "")
            .passes("GET", "/app/smuggled", ""),
        case("a refusal, then another request", get("X : y\r\n") + SMUGGLED),
        case("a refusal of a body, then another request", sized("Content_Length: 1\r\n", "hello") + SMUGGLED),
        case(
            "a wrong Host, then another request",
            format!("GET {HERE} HTTP/1.1\r\nHost: a b\r\n\r\n{SMUGGLED}"),
        ),
        case(
            "a body, then a WebSocket with bytes behind it",
            get("Content-Length: 5\r\n")
                + "hello"
                + &get("Upgrade: websocket\r\nContent-Length: 2\r\n")
                + "hi",
        )
        .passes("GET", HERE, "hello")
        .refused(&[403]),
        case("a request, then a refusal", get("") + &get("X: y\n") + SMUGGLED)
            .passes("GET", HERE, "")
            .refused(BAD),
        case(
            "a request, then a target with a blank",
            get("") + "GET /app/ smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .passes("GET", HERE, "")
        .refused(BAD),
        case(
            "chunks, then a target with a blank",
            post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n")
                + "GET /app/ smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .passes("POST", HERE, "")
        .refused(BAD),
        case(
            "a request, then two lengths",
            get("") + &post("Content-Length: 0\r\nContent-Length: 9\r\n", SMUGGLED),
        )
        .passes("GET", HERE, "")
        .refused(BAD),
        case("a request, then garbage", get("") + "\u{0}\u{0}\u{0}\r\n\r\n")
            .passes("GET", HERE, "")
            .refused(BAD),
    ]
}

fn upgrades() -> Vec<Case> {
    let case = |what: &str, send: String| Case::new(UPGRADES, what, send);
    let h2c = "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    let websocket = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    vec![
        case("h2c", get(&format!("{h2c}Connection: Upgrade, HTTP2-Settings\r\n"))).passes("GET", HERE, ""),
        case("h2c, not named", get(&format!("{h2c}Connection: Upgrade\r\n"))).passes("GET", HERE, ""),
        case("h2c without Connection", get(h2c)).passes("GET", HERE, ""),
        case("h2c with a body", sized(&format!("{h2c}Connection: Upgrade, HTTP2-Settings\r\n"), SMUGGLED))
            .passes("POST", HERE, SMUGGLED),
        case(
            "h2c, then HTTP/2",
            get(&format!("{h2c}Connection: Upgrade\r\n")) + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        )
        .passes("GET", HERE, "")
        .refused(BAD),
        case("TLS", get("Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n")).passes("GET", HERE, ""),
        case("a list", get("Upgrade: h2c, websocket\r\nConnection: Upgrade\r\n")).own(403),
        // Nothing may follow before the answer: it could be meant for either side of it.
        case("a WebSocket where none is, then another request", get(websocket) + SMUGGLED)
            .own(403)
            .refused(BAD),
        case("a WebSocket by HTTP/1.0", format!("GET {HERE} HTTP/1.0\r\nHost: a\r\n{websocket}\r\n"))
            .own(403)
            .end(End::Closed),
        case("a WebSocket with a body", post(&format!("{websocket}Content-Length: 5\r\n"), "hello"))
            .refused(&[403]),
    ]
}

fn connections() -> Vec<Case> {
    let case = |what: &str, send: String| Case::new(CONNECTIONS, what, send);
    let named = |names: &str, body: &str| sized(&format!("Connection: {names}\r\n"), body);
    vec![
        case("Content-Length is named", named("Content-Length", SMUGGLED)).passes("POST", HERE, SMUGGLED),
        case("Content-Length is named, in upper case", named("CONTENT-LENGTH, x", SMUGGLED))
            .passes("POST", HERE, SMUGGLED),
        case(
            "Transfer-Encoding is named",
            post(
                "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
                "5\r\nhello\r\n0\r\n\r\n",
            ),
        )
        .passes("POST", HERE, "hello"),
        case("Host is named", named("Host", "hello")).cut_off(),
        case("X-Forwarded-For is named", named("X-Forwarded-For", "hello")).cut_off(),
        case(":authority is named", named(":authority", "hello")).cut_off(),
        case("what is no name is named", named("\"Content-Length\"", "hello")).cut_off(),
        case("a hundred names", named(&"x, ".repeat(100), "hello")).cut_off(),
        case("Expect is named", sized("Connection: Expect\r\nExpect: 100-continue\r\n", "hello"))
            .passes("POST", HERE, "hello"),
        case("Keep-Alive", get("Keep-Alive: timeout=5\r\nConnection: Keep-Alive\r\n"))
            .passes("GET", HERE, ""),
        case("Proxy-Connection", get("Proxy-Connection: close\r\n")).passes("GET", HERE, ""),
        case("TE", get("TE: trailers, chunked\r\nConnection: TE\r\n")).passes("GET", HERE, ""),
        case("TE without Connection", get("TE: trailers\r\n")).passes("GET", HERE, ""),
        case("Trailer", post("Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"))
            .passes("POST", HERE, ""),
        case("Proxy-Authorization", get("Proxy-Authorization: Basic eA==\r\n")).passes("GET", HERE, ""),
        case("Proxy-Authenticate", get("Proxy-Authenticate: Basic\r\n")).passes("GET", HERE, ""),
    ]
}
