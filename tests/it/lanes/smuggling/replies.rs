//! Answers of an origin that two clients could read differently, and their outcomes for a client.

use crate::support::Say;

/// The outcome for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gets {
    /// This status with this body.
    Answer(u16, &'static str),
    /// A 5xx, or an answer that is visibly cut short.
    Failure,
}

/// An answer and what becomes of it.
#[derive(Debug, Clone)]
pub struct Reply {
    pub what: String,
    pub method: &'static str,
    pub say: Say,
    pub gets: Gets,
}

impl Reply {
    fn new(what: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { what: what.into(), method: "GET", say: Say::bytes(bytes), gets: Gets::Failure }
    }

    /// The client gets `hello`.
    fn hello(self) -> Self {
        self.answer(200, "hello")
    }

    fn answer(mut self, status: u16, body: &'static str) -> Self {
        self.gets = Gets::Answer(status, body);
        self
    }

    fn closing(mut self) -> Self {
        self.say = self.say.closing();
        self
    }

    fn to(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }
}

/// An answer that nobody asked for, behind another one.
const SECOND: &str = "HTTP/1.1 200 OK\r\nX-Answers: somebody else\r\nContent-Length: 4\r\n\r\nevil";

fn ok(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{fields}\r\n{body}")
}

fn sized(fields: &str) -> String {
    ok(&format!("{fields}Content-Length: 5\r\n"), "hello")
}

/// All answers.
pub fn all() -> Vec<Reply> {
    [framed(), chunked(), bodiless(), interim(), malformed(), hop_by_hop()].concat()
}

fn framed() -> Vec<Reply> {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let mut all: Vec<Reply> = ["+5", "-5", "0x5", "5 5", "5.0", "5,6", "5;", "five", "99999999999999999999"]
        .iter()
        .map(|length| {
            Reply::new(
                format!("the length {length:?}"),
                ok(&format!("Content-Length: {length}\r\n"), "hello"),
            )
        })
        .collect();
    all.extend(
        ["gzip", "xchunked", "chunked, identity", "chunked, gzip", "\"chunked\"", "chunked,", "identity"]
            .iter()
            .map(|coding| {
                let fields = format!("Transfer-Encoding: {coding}\r\n");
                Reply::new(format!("the coding {coding:?}"), ok(&fields, chunks)).closing()
            }),
    );
    all.extend([
        Reply::new("a length", sized("")).hello(),
        Reply::new("chunks", ok("Transfer-Encoding: chunked\r\n", chunks)).hello(),
        Reply::new("a coding that nobody knows", ok("Transfer-Encoding: unheard-of\r\n", "hello"))
            .closing()
            .hello(),
        Reply::new(
            "a coding that nobody knows beside a length",
            ok("Transfer-Encoding: unheard-of\r\nContent-Length: 3\r\n", "hello"),
        )
        .closing()
        .hello(),
        Reply::new("the end of the connection", ok("", "hello")).closing().hello(),
        Reply::new("a length, and the end of the connection", sized("Connection: close\r\n"))
            .closing()
            .hello(),
        Reply::new(
            "a length beside chunks",
            ok("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", chunks),
        )
        .hello(),
        Reply::new(
            "chunks beside a length",
            ok("Transfer-Encoding: chunked\r\nContent-Length: 300\r\n", chunks),
        )
        .hello(),
        Reply::new("two lengths", ok("Content-Length: 5\r\nContent-Length: 6\r\n", "hello")),
        Reply::new("two lengths, the same", ok("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"))
            .hello(),
        Reply::new("a list of the same length", ok("Content-Length: 5, 5\r\n", "hello")).hello(),
        Reply::new("two codings", ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunks)),
        Reply::new("a list of codings", ok("Transfer-Encoding: gzip, chunked\r\n", chunks)),
        Reply::new("a body that is longer", sized("") + " and more").hello(),
        Reply::new("a second answer behind a length", sized("") + SECOND).hello(),
        Reply::new("a second answer behind chunks", ok("Transfer-Encoding: chunked\r\n", chunks) + SECOND)
            .hello(),
        Reply::new("a body that is shorter", ok("Content-Length: 50\r\n", "hello")).closing(),
        Reply::new(
            "chunks by HTTP/1.0",
            ok("Transfer-Encoding: chunked\r\n", chunks).replace("HTTP/1.1", "HTTP/1.0"),
        )
        .closing()
        .hello(),
        Reply::new("HTTP/1.0", ok("", "hello").replace("HTTP/1.1", "HTTP/1.0")).closing().hello(),
        Reply::new(
            "HTTP/1.0 kept alive",
            sized("Connection: keep-alive\r\n").replace("HTTP/1.1", "HTTP/1.0"),
        )
        .hello(),
    ]);
    all
}

fn chunked() -> Vec<Reply> {
    let with = |what: &str, body: &str| {
        Reply::new(format!("chunks: {what}"), ok("Transfer-Encoding: chunked\r\n", body))
    };
    vec![
        with("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
        with("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        with("no digit", "g\r\nhello\r\n0\r\n\r\n"),
        with("17 digits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        with("a size line that ends with LF", "5\nhello\r\n0\r\n\r\n"),
        with("a chunk that ends with LF", "5\r\nhello\n0\r\n\r\n"),
        with("a chunk that is longer than its size", "4\r\nhello\r\n0\r\n\r\n"),
        with("no end", "5\r\nhello\r\n").closing(),
        with("no end of the last", "5\r\nhello\r\n0\r\n").closing(),
        with("an extension", "5;a=b\r\nhello\r\n0\r\n\r\n").hello(),
        with("a trailer", "5\r\nhello\r\n0\r\nContent-Length: 3\r\nSet-Cookie: a=b\r\n\r\n").hello(),
    ]
}

fn bodiless() -> Vec<Reply> {
    let of = |status: &str, rest: &str| format!("HTTP/1.1 {status}\r\n{rest}");
    vec![
        Reply::new("204", of("204 No Content", "\r\n")).answer(204, ""),
        Reply::new("204 with a length of none", of("204 No Content", "Content-Length: 0\r\n\r\n"))
            .answer(204, ""),
        Reply::new("204 with a body", of("204 No Content", "Content-Length: 5\r\n\r\nhello")).answer(204, ""),
        Reply::new(
            "204 with chunks",
            of("204 No Content", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        )
        .answer(204, ""),
        Reply::new("204 and a second answer", of("204 No Content", "\r\n") + SECOND).answer(204, ""),
        Reply::new("HEAD with a body", sized("")).to("HEAD").answer(200, ""),
        Reply::new("HEAD and a second answer", ok("Content-Length: 5\r\n", "") + SECOND)
            .to("HEAD")
            .answer(200, ""),
        Reply::new("HEAD with chunks", ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"))
            .to("HEAD")
            .answer(200, ""),
    ]
}

fn interim() -> Vec<Reply> {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
    vec![
        Reply::new("100 that nobody asked for", format!("HTTP/1.1 100 Continue\r\n\r\n{}", sized("")))
            .hello(),
        Reply::new("three hints", hints.repeat(3) + &sized("")).hello(),
        Reply::new(
            "102 with a length",
            format!("HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n{}", sized("")),
        )
        .hello(),
        Reply::new(
            "103 with chunks",
            format!("HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n{}", sized("")),
        )
        .hello(),
        Reply::new("1,000 hints", hints.repeat(1_000) + &sized("")),
        Reply::new("hints without an end", hints.repeat(20)).closing(),
        Reply::new(
            "101 that nobody asked for",
            format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n{SECOND}"),
        ),
        Reply::new("101 by HTTP/1.0", "HTTP/1.0 101 Switching Protocols\r\n\r\n"),
    ]
}

fn malformed() -> Vec<Reply> {
    let many = "X: y\r\n".repeat(300);
    let long = format!("X: {}\r\n", "y".repeat(2_000_000));
    let mut all: Vec<Reply> = [
        ("nothing", String::new()),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-Le".to_owned()),
        ("no head", "hello".to_owned()),
        ("no HTTP", "220 mail ESMTP\r\n\r\n".to_owned()),
        ("HTTP/2", sized("").replace("HTTP/1.1", "HTTP/2.0")),
        ("HTTP/1.2", sized("").replace("HTTP/1.1", "HTTP/1.2")),
        ("a status of two digits", sized("").replace("200", "20")),
        ("a status of four digits", sized("").replace("200", "2000")),
        ("a status of letters", sized("").replace("200", "2OO")),
        ("the status 099", sized("").replace("200", "099")),
        ("no name", sized(": x\r\n")),
        ("no colon", sized("nonsense\r\n")),
        ("a NUL in a value", sized("X: a\0b\r\n")),
        ("CR in a value", sized("X: a\rSet-Cookie: b\r\n")),
        ("CR CR LF", sized("X: a\r\r\n")),
        ("a control character in a name", sized("X\u{1}: a\r\n")),
        ("300 fields", sized(&many)),
        ("a field of 2 MB", sized(&long)),
    ]
    .into_iter()
    .map(|(what, bytes)| Reply::new(what, bytes).closing())
    .collect();
    all.extend([
        Reply::new("LF", sized("").replace("\r\n", "\n")).hello(),
        // RFC 9112, 5.1 and 5.2: who passes them on mends these.
        Reply::new("a folded field", sized("X: a\r\n b\r\n")).hello(),
        Reply::new("a folded length", ok("Content-Length:\r\n 5\r\n", "hello")).hello(),
        Reply::new("a blank before the colon", ok("Content-Length : 5\r\n", "hello")).hello(),
        Reply::new("no reason", sized("").replace(" OK", "")).hello(),
        Reply::new("a strange reason", sized("").replace("OK", "\u{e9}\t!")).hello(),
    ]);
    all
}

fn hop_by_hop() -> Vec<Reply> {
    [
        "Connection: X-Named\r\nX-Named: 1\r\n",
        "Connection: x-named, keep-alive\r\nX-Named: 1\r\n",
        "Keep-Alive: timeout=1\r\n",
        "Proxy-Connection: close\r\n",
        "Proxy-Authenticate: Basic\r\n",
        "Proxy-Authentication-Info: x\r\n",
        "TE: trailers\r\n",
        "Trailer: X-Sum\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade\r\n",
        "Connection: Content-Length, Content-Type\r\n",
        "Connection: Transfer-Encoding\r\n",
    ]
    .iter()
    .map(|fields| Reply::new(format!("{fields:?}"), sized(fields)).hello())
    .collect()
}
