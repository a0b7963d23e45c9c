//! HTTP/1.1 as RFC 9112 writes it and no other way: what tests judge the bytes by that the gateway sends.
//!
//! Stricter than a server has to be: one framing field, no folded line, no chunk extension, no trailer. Independent of
//! the gateway's own reading, and of any HTTP library.

use std::fmt;

/// A message's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The first line.
    pub line: String,
    /// The fields: names in lower case, values as they are.
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// A field's value; a name that comes twice is joined as a list would be.
    pub fn field(&self, name: &str) -> Option<String> {
        let all: Vec<_> = self.all(name).map(|v| String::from_utf8_lossy(v).into_owned()).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// All values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Vec<u8>> {
        self.fields.iter().filter(move |(n, _)| n == name).map(|(_, value)| value)
    }

    fn part(&self, n: usize) -> &str {
        self.line.split(' ').nth(n).unwrap_or("")
    }
}

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its head.
    pub head: Head,
    /// Its body, out of its frame.
    pub body: Vec<u8>,
}

impl Message {
    /// A request's method.
    pub fn method(&self) -> &str {
        self.head.part(0)
    }

    /// A request's target.
    pub fn target(&self) -> &str {
        self.head.part(1)
    }

    /// A response's status.
    pub fn status(&self) -> u16 {
        self.head.part(1).parse().unwrap_or(0)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Illegal(pub String);

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Parsed<T> = Result<Option<(T, usize)>, Illegal>;

fn illegal<T>(what: impl Into<String>) -> Result<T, Illegal> {
    Err(Illegal(what.into()))
}

/// A request at the beginning of these bytes and its length; `None` while it is not whole.
pub fn request(bytes: &[u8]) -> Parsed<Message> {
    let Some((head, begin)) = head(bytes)? else { return Ok(None) };
    request_line(&head)?;
    match head.all("host").count() {
        1 => {}
        n => return illegal(format!("{n} Host fields")),
    }
    for name in ["te", "trailer", "keep-alive", "proxy-connection", "http2-settings", "proxy-authorization"] {
        if head.field(name).is_some() {
            return illegal(format!("{name} ends with a connection"));
        }
    }
    let end = frame(&head)?.unwrap_or(Frame::Length(0));
    Ok(body(bytes, begin, &end)?.map(|(body, end)| (Message { head, body }, end)))
}

/// A response at the beginning of these bytes and its length; `None` while it is not whole. `to` is the method that it
/// answers; `closed` says that no byte will come after these.
pub fn response(bytes: &[u8], to: &str, closed: bool) -> Parsed<Message> {
    let Some((head, begin)) = head(bytes)? else { return Ok(None) };
    let digits = head.part(1).len() == 3 && head.part(1).bytes().all(|b| b.is_ascii_digit());
    if head.part(0) != "HTTP/1.1" || !digits {
        return illegal(format!("status line {:?}", head.line));
    }
    let status: u16 = head.part(1).parse().unwrap_or(0);
    let framed = frame(&head)?;
    if (status < 200 || status == 204) && framed.is_some() {
        return illegal(format!("a {status} with a frame"));
    }
    let end = match framed {
        _ if to == "HEAD" || status < 200 || status == 204 || status == 304 => Frame::Length(0),
        Some(frame) => frame,
        None if !closed => return Ok(None),
        None => Frame::Length(bytes.len() - begin),
    };
    Ok(body(bytes, begin, &end)?.map(|(body, end)| (Message { head, body }, end)))
}

/// All final responses, to these methods in this order, on a connection that is closed by now. Interim ones are counted.
pub fn responses(mut bytes: &[u8], to: &[&str]) -> Result<(Vec<Message>, usize), Illegal> {
    let (mut all, mut interim) = (Vec::new(), 0);
    while !bytes.is_empty() {
        let method = to.get(all.len()).copied().unwrap_or("GET");
        let Some((message, end)) = response(bytes, method, true)? else {
            return illegal(format!("a response that is cut short: {:?}", String::from_utf8_lossy(bytes)));
        };
        bytes = &bytes[end..];
        match message.status() {
            100..=199 => interim += 1,
            _ => all.push(message),
        }
    }
    Ok((all, interim))
}

fn head(bytes: &[u8]) -> Parsed<Head> {
    let mut head = Head::default();
    let mut at = 0;
    loop {
        let Some((line, next)) = line(bytes, at)? else { return Ok(None) };
        at = next;
        if head.line.is_empty() {
            head.line = match String::from_utf8(line.to_vec()) {
                Ok(line) if !line.is_empty() => line,
                _ => return illegal("no first line"),
            };
        } else if line.is_empty() {
            return Ok(Some((head, at)));
        } else {
            head.fields.push(field(line)?);
        }
    }
}

/// A line that ends with CRLF and holds no other CR or LF, and no NUL.
fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Illegal> {
    let rest = &bytes[at..];
    let Some(end) = rest.iter().position(|b| *b == b'\n') else { return Ok(None) };
    let shown = || String::from_utf8_lossy(&rest[..=end]).into_owned();
    let Some(line) = rest[..end].strip_suffix(b"\r") else {
        return illegal(format!("a bare LF: {:?}", shown()));
    };
    if line.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        return illegal(format!("a control character: {:?}", shown()));
    }
    Ok(Some((line, at + end + 1)))
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), Illegal> {
    let shown = String::from_utf8_lossy(line);
    let Some(colon) = line.iter().position(|b| *b == b':') else {
        return illegal(format!("no field: {shown:?}"));
    };
    let name = &line[..colon];
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return illegal(format!("no name: {shown:?}"));
    }
    let value = line[colon + 1..].trim_ascii();
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()))
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn request_line(head: &Head) -> Result<(), Illegal> {
    let parts: Vec<&str> = head.line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else {
        return illegal(format!("request line {:?}", head.line));
    };
    let visible = target.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'#');
    if method.is_empty() || !method.bytes().all(is_token) || !target.starts_with('/') || !visible {
        return illegal(format!("request line {:?}", head.line));
    }
    Ok(())
}

enum Frame {
    Length(usize),
    Chunked,
}

/// One framing field, or none.
fn frame(head: &Head) -> Result<Option<Frame>, Illegal> {
    let lengths: Vec<_> = head.all("content-length").collect();
    let codings: Vec<_> = head.all("transfer-encoding").collect();
    let alike = ["content_length", "transfer_encoding"];
    if head.fields.iter().any(|(name, _)| alike.contains(&name.as_str())) {
        return illegal("a name that some take for a framing field");
    }
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(None),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            match String::from_utf8_lossy(length).parse() {
                Ok(length) => Ok(Some(Frame::Length(length))),
                Err(_) => illegal("a length without measure"),
            }
        }
        ([], [coding]) if coding.as_slice() == b"chunked" => Ok(Some(Frame::Chunked)),
        _ => illegal(format!("framed by {lengths:?} and {codings:?}")),
    }
}

fn body(bytes: &[u8], begin: usize, frame: &Frame) -> Parsed<Vec<u8>> {
    match frame {
        Frame::Length(length) => {
            let end = begin + length;
            Ok(bytes.get(begin..end).map(|body| (body.to_vec(), end)))
        }
        Frame::Chunked => chunks(bytes, begin),
    }
}

fn chunks(bytes: &[u8], mut at: usize) -> Parsed<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some((size, next)) = line(bytes, at)? else { return Ok(None) };
        let text = String::from_utf8_lossy(size);
        let digits = !size.is_empty() && size.len() < 16 && size.iter().all(u8::is_ascii_hexdigit);
        let Some(size) = digits.then(|| usize::from_str_radix(&text, 16).ok()).flatten() else {
            return illegal(format!("chunk size {text:?}"));
        };
        let end = next + size;
        match bytes.get(end..end + 2) {
            None => return Ok(None),
            Some(b"\r\n") if size == 0 => return Ok(Some((body, end + 2))),
            Some(b"\r\n") => body.extend_from_slice(&bytes[next..end]),
            Some(other) => return illegal(format!("{other:?} behind a chunk")),
        }
        at = end + 2;
    }
}
