//! Reads the session id from the first packet of an Engine.IO session, as a server sends it.
//!
//! Pure. A polling session begins with the body of the first answer, a WebSocket with its first message. Both
//! hold an *open* packet, `0{"sid":"…",…}` (Engine.IO 4). In version 3 its length precedes it: as text,
//! `96:0{…}`, if the client doesn't accept binary packets (`b64=1`) or there are none; otherwise as bytes,
//! `00 09 06 ff` and `0{…}`. With JSONP (`j=0`) all of that is within a call, `___eio[0]("…")`. Anything
//! else, a compressed body, or an id that doesn't come within some kilobytes is ignored: the session is then
//! found by its cookie or not at all.

use http::{header, HeaderMap, StatusCode};
use std::borrow::Cow;

/// The most bytes of an answer that are searched.
const MAX_BODY_BYTES: usize = 4 * 1024;
/// The longest session id, in bytes.
const MAX_SESSION_BYTES: usize = 200;

/// Searches an answer for the session id while it passes.
#[derive(Debug)]
pub(crate) struct SessionSniffer {
    framed: bool,
    heard: Vec<u8>,
}

impl SessionSniffer {
    /// A search in the answer to a request with this query; `None` if the request doesn't begin a session: it
    /// has an id already (`name`), or isn't Engine.IO.
    pub(crate) fn to(
        name: &str,
        query: Option<&str>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let query = query?;
        if query_parameter(query, name).is_some() || headers.contains_key(header::CONTENT_ENCODING) {
            return None;
        }
        match (query_parameter(query, "transport")?, status) {
            ("polling", StatusCode::OK) => Some(Self { framed: false, heard: Vec::new() }),
            ("websocket", StatusCode::SWITCHING_PROTOCOLS) if extensions_leave_text(headers) => {
                Some(Self { framed: true, heard: Vec::new() })
            }
            _ => None,
        }
    }

    /// Processes a piece of the answer; `end`: it is the last one.
    pub(crate) fn hear(mut self, piece: Option<&[u8]>, end: bool) -> SniffResult {
        if let Some(piece) = piece {
            let room = MAX_BODY_BYTES - self.heard.len();
            self.heard.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let packet = match self.framed {
            true => text_frame(&self.heard).map(Cow::Borrowed),
            false => Some(without_call(&self.heard)),
        };
        match packet.and_then(|packet| session_of_packet(&packet)) {
            Some(session) => SniffResult::Session(session),
            None if end || self.heard.len() >= MAX_BODY_BYTES => SniffResult::Nothing,
            None => SniffResult::More(self),
        }
    }
}

/// The result so far.
#[derive(Debug)]
pub(crate) enum SniffResult {
    /// More bytes are needed.
    More(SessionSniffer),
    /// The session id.
    Session(String),
    /// There is no session id.
    Nothing,
}

/// The value of the first parameter of this name, as it is written in the query.
pub(crate) fn query_parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
}

/// Returns true if messages marked as whole text are uncompressed: compressed ones are marked in the same way
/// (RFC 7692, 6).
fn extensions_leave_text(headers: &HeaderMap) -> bool {
    let mut agreed = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    agreed.all(|line| line.as_bytes().starts_with(b"permessage-deflate") && !line.as_bytes().contains(&b','))
}

/// The string argument of a JSONP call, as far as it has come; any other body unchanged.
fn without_call(body: &[u8]) -> Cow<'_, [u8]> {
    let text = || {
        let call = body.strip_prefix(b"___eio[")?;
        let digits = call.iter().take_while(|b| b.is_ascii_digit()).count();
        let (quote, text) = call[digits..].strip_prefix(b"](")?.split_first()?;
        matches!(quote, b'"' | b'\'').then(|| unescaped(text, *quote))
    };
    text().map_or(Cow::Borrowed(body), Cow::Owned)
}

/// The string up to this quote. Only escapes of quotes and backslashes are decoded: the packets in question
/// have no others.
fn unescaped(text: &[u8], quote: u8) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next().filter(|byte| *byte != quote) {
        match byte {
            b'\\' => match bytes.next() {
                Some(escaped @ (b'"' | b'\'' | b'\\' | b'/')) => plain.push(escaped),
                Some(other) => plain.extend_from_slice(&[byte, other]),
                None => {}
            },
            _ => plain.push(byte),
        }
    }
    plain
}

/// The first packet of a payload, and the bytes behind it, without its length.
fn without_length(payload: &[u8]) -> &[u8] {
    /// The byte in front of a binary length that marks a text packet.
    const TEXT: u8 = 0;
    const END: u8 = 0xff;
    let behind = |of: &'_ [u8], digit: fn(&u8) -> bool, end: u8| {
        let digits = of.iter().take_while(|b| digit(b)).count();
        (digits > 0 && of.get(digits) == Some(&end)).then_some(digits + 1)
    };
    match payload.split_first() {
        Some((&TEXT, rest)) => behind(rest, |b| *b <= 9, END).map_or(payload, |begin| &rest[begin..]),
        _ => behind(payload, u8::is_ascii_digit, b':').map_or(payload, |begin| &payload[begin..]),
    }
}

/// The payload of a server's first WebSocket message, if it is text in one frame (RFC 6455, 5.2: servers
/// don't mask).
fn text_frame(bytes: &[u8]) -> Option<&[u8]> {
    const WHOLE_TEXT: u8 = 0x81;
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != WHOLE_TEXT {
        return None;
    }
    let (length, payload) = match length {
        0..=125 => (usize::from(*length), rest),
        126 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
        _ => return None,
    };
    payload.get(..length)
}

/// The session id in the open packet at the beginning of a payload.
fn session_of_packet(payload: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Open {
        sid: String,
    }
    let packet = without_length(payload);
    let json = packet.strip_prefix(b"0")?;
    // Further packets may follow it.
    let open = serde_json::Deserializer::from_slice(json).into_iter::<Open>().next()?.ok()?;
    // The query is compared without decoding: ids that would have to be escaped are ignored.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    let good = (1..=MAX_SESSION_BYTES).contains(&open.sid.len()) && open.sid.bytes().all(plain);
    good.then_some(open.sid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: &str = r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}"#;

    fn listening(query: &str, status: u16) -> Option<SessionSniffer> {
        SessionSniffer::to("sid", Some(query), StatusCode::from_u16(status).unwrap(), &HeaderMap::new())
    }

    fn heard(framed: bool, pieces: &[&[u8]]) -> Option<String> {
        let mut listening = SessionSniffer { framed, heard: Vec::new() };
        for piece in pieces {
            match listening.hear(Some(piece), false) {
                SniffResult::More(more) => listening = more,
                SniffResult::Session(session) => return Some(session),
                SniffResult::Nothing => return None,
            }
        }
        assert!(!matches!(listening.hear(None, true), SniffResult::More(_)), "it ends");
        None
    }

    /// Answers of servers to `transport=polling`: engine.io 6 and 3.6 (socket.io 4 and 2.5), engine.io 1.8
    /// (socket.io 1), python-engineio 3.14 (Flask-SocketIO 4), netty-socketio 1, by XHR and by JSONP.
    fn answers() -> Vec<(&'static str, Vec<u8>)> {
        let as_bytes = |packet: &str| {
            let digits = packet.len().to_string().bytes().map(|digit| digit - b'0').collect();
            [vec![0], digits, vec![0xff], packet.as_bytes().to_vec()].concat()
        };
        let call = |payload: &[u8], quote: &str| {
            let text = String::from_utf8_lossy(payload).replace(quote, &format!("\\{quote}"));
            format!("___eio[12]({quote}{text}{quote});").into_bytes()
        };
        let v3 = format!("97:{V4}2:40");
        // Within a call these bytes aren't valid UTF-8, and servers send them nevertheless.
        let raw = as_bytes(V4);
        let raw_call = [b"___eio[0](\"", &raw[..4], V4.replace('"', "\\\"").as_bytes(), b"\");"].concat();
        vec![
            ("version 4", V4.as_bytes().to_vec()),
            ("version 4, several packets", format!("{V4}\u{1e}40").into_bytes()),
            ("version 4 by JSONP", call(V4.as_bytes(), "\"")),
            ("version 3, text and base64", v3.clone().into_bytes()),
            ("version 3, bytes", raw),
            ("version 3, bytes, several packets", [as_bytes(V4), as_bytes("40")].concat()),
            ("version 3 by JSONP", call(v3.as_bytes(), "\"")),
            ("version 3 by JSONP, bytes", raw_call),
            ("version 3 by JSONP, other quotes", call(v3.as_bytes(), "'")),
        ]
    }

    #[test]
    fn the_first_answer_names_the_session() {
        let sid = Some("lv_VI97HAXpY6yYWAAAC".to_owned());
        for (what, body) in answers() {
            assert_eq!(heard(false, &[&body]), sid, "{what}");
            for cut in 1..body.len() {
                let (one, two) = body.split_at(cut);
                assert_eq!(heard(false, &[one, two]), sid, "{what} cut at {cut}");
            }
        }
        for body in [
            "",
            "ok",
            "40",
            "0",
            "0{}",
            "1{\"sid\":\"a\"}",
            "{\"sid\":\"a\"}",
            "0{\"sid\":\"a b\"}",
            "0{\"sid\":\"\"}",
            ":0{\"sid\":\"a\"}",
            "\0\u{1}0{\"sid\":\"a\"}",
            "\u{1}\u{1}0{\"sid\":\"a\"}",
            "___eio[0](0{\"sid\":\"a\"})",
            "___eio[x](\"0{\\\"sid\\\":\\\"a\\\"}\")",
            "___eio[0](\"1{\\\"sid\\\":\\\"a\\\"}\")",
            "___eio[0](\"\", \"0{\\\"sid\\\":\\\"a\\\"}\")",
        ] {
            assert_eq!(heard(false, &[body.as_bytes()]), None, "{body}");
        }
        assert_eq!(heard(false, &[format!("0{{\"sid\":\"{}\"}}", "a".repeat(201)).as_bytes()]), None);
    }

    #[test]
    fn so_does_the_first_message_of_a_websocket() {
        let frame = |payload: &str| match u8::try_from(payload.len()) {
            Ok(n) if n < 126 => [&[0x81, n], payload.as_bytes()].concat(),
            _ => [&[0x81, 126, 0, u8::try_from(payload.len()).unwrap()], payload.as_bytes()].concat(),
        };
        let long = format!("0{{\"sid\":\"s\",\"x\":\"{}\"}}", "y".repeat(200));
        assert_eq!(heard(true, &[&frame(V4)]).as_deref(), Some("lv_VI97HAXpY6yYWAAAC"));
        assert_eq!(heard(true, &[&frame(&long)]).as_deref(), Some("s"));
        let whole = frame(V4);
        for cut in 1..whole.len() {
            let (one, two) = whole.split_at(cut);
            assert!(heard(true, &[one, two]).is_some(), "cut at {cut}");
        }
        assert_eq!(heard(true, &[&[0x82, 2, b'0', b'{']]), None);
        let compressed = [&[0xc1], &whole[1..]].concat();
        assert_eq!(heard(true, &[&compressed]), None);
    }

    #[test]
    fn only_what_begins_a_session_is_heard() {
        assert!(listening("EIO=4&transport=polling&t=x", 200).is_some());
        assert!(listening("EIO=4&transport=websocket", 101).is_some());
        for (query, status) in [
            ("EIO=4&transport=polling&sid=a", 200),
            ("EIO=4&transport=polling", 400),
            ("EIO=4&transport=websocket", 200),
            ("EIO=4", 200),
            ("", 200),
        ] {
            assert!(listening(query, status).is_none(), "{query}");
        }
        let coded = HeaderMap::from_iter([(header::CONTENT_ENCODING, "gzip".parse().unwrap())]);
        assert!(SessionSniffer::to("sid", Some("transport=polling"), StatusCode::OK, &coded).is_none());
        // A compressed message is marked as such, and is not text.
        for (extensions, heard) in [
            ("permessage-deflate; server_no_context_takeover", true),
            ("x-mux", false),
            ("permessage-deflate, x", false),
        ] {
            let agreed =
                HeaderMap::from_iter([(header::SEC_WEBSOCKET_EXTENSIONS, extensions.parse().unwrap())]);
            let query = Some("transport=websocket");
            let listening = SessionSniffer::to("sid", query, StatusCode::SWITCHING_PROTOCOLS, &agreed);
            assert_eq!(listening.is_some(), heard, "{extensions}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_ends_the_listening(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..6), framed: bool) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            heard(framed, &pieces);
        }
    }
}
