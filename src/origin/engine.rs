//! The first packet of an Engine.IO session, as a server sends it: what names the session.
//!
//! Pure. A polling session begins with the body of the first answer, a WebSocket with its first message: both hold an
//! *open* packet, `0{"sid":"…",…}` (Engine.IO 4; in version 3 with its length before it, `96:0{…}`). What is anything
//! else, is compressed, or doesn't come within some kilobytes, names nothing: the session is then found by its cookie
//! or not at all.

use http::{header, HeaderMap, StatusCode};

/// How much of an answer is looked at.
const MOST: usize = 4 * 1024;
/// The longest name that a session may have.
const LONGEST: usize = 200;

/// Looks for the name of a session in an answer that passes.
#[derive(Debug)]
pub(super) struct Listening {
    framed: bool,
    heard: Vec<u8>,
}

impl Listening {
    /// For the answer to a request of this query; `None` where it begins no session: it has one already (`name`), or
    /// is none of Engine.IO.
    pub(super) fn to(
        name: &str,
        query: Option<&str>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let query = query?;
        if parameter(query, name).is_some() || headers.contains_key(header::CONTENT_ENCODING) {
            return None;
        }
        match (parameter(query, "transport")?, status) {
            ("polling", StatusCode::OK) => Some(Self { framed: false, heard: Vec::new() }),
            // Compressed messages are no text.
            ("websocket", StatusCode::SWITCHING_PROTOCOLS)
                if !headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) =>
            {
                Some(Self { framed: true, heard: Vec::new() })
            }
            _ => None,
        }
    }

    /// A piece of the answer; `end` says that it is the last one.
    pub(super) fn hear(mut self, piece: Option<&[u8]>, end: bool) -> Heard {
        if let Some(piece) = piece {
            let room = MOST - self.heard.len();
            self.heard.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let packet = if self.framed { text_frame(&self.heard) } else { Some(&self.heard[..]) };
        match packet.and_then(session) {
            Some(session) => Heard::Session(session),
            None if end || self.heard.len() >= MOST => Heard::Nothing,
            None => Heard::More(self),
        }
    }
}

/// What has been heard so far.
#[derive(Debug)]
pub(super) enum Heard {
    /// Nothing yet.
    More(Listening),
    /// The session's name.
    Session(String),
    /// Nothing, and nothing will be.
    Nothing,
}

/// The value of the first parameter of this name, as it stands in the query.
pub(super) fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
}

/// The payload of the first message of a server, where it is text in one piece (RFC 6455, 5.2: servers don't mask).
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

/// The name in an open packet.
fn session(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Open {
        sid: String,
    }
    // Version 3 says before each packet how long it is.
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let packet = match bytes.get(digits) {
        Some(b':') if digits > 0 => &bytes[digits + 1..],
        _ => bytes,
    };
    let json = packet.strip_prefix(b"0")?;
    // Further packets may follow it.
    let open = serde_json::Deserializer::from_slice(json).into_iter::<Open>().next()?.ok()?;
    // In a query it stands as it is: what would have to be escaped is not compared.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    let good = (1..=LONGEST).contains(&open.sid.len()) && open.sid.bytes().all(plain);
    good.then_some(open.sid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: &str = r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}"#;

    fn listening(query: &str, status: u16) -> Option<Listening> {
        Listening::to("sid", Some(query), StatusCode::from_u16(status).unwrap(), &HeaderMap::new())
    }

    fn heard(framed: bool, pieces: &[&[u8]]) -> Option<String> {
        let mut listening = Listening { framed, heard: Vec::new() };
        for piece in pieces {
            match listening.hear(Some(piece), false) {
                Heard::More(more) => listening = more,
                Heard::Session(session) => return Some(session),
                Heard::Nothing => return None,
            }
        }
        assert!(!matches!(listening.hear(None, true), Heard::More(_)), "it ends");
        None
    }

    #[test]
    fn the_first_answer_names_the_session() {
        let sid = Some("lv_VI97HAXpY6yYWAAAC".to_owned());
        let v3 = format!("97:{V4}2:40");
        for body in [V4, &format!("{V4}\u{1e}40"), &v3] {
            assert_eq!(heard(false, &[body.as_bytes()]), sid, "{body}");
            for cut in 1..V4.len() {
                let (one, two) = body.as_bytes().split_at(cut);
                assert_eq!(heard(false, &[one, two]), sid, "{body} cut at {cut}");
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
        assert!(Listening::to("sid", Some("transport=polling"), StatusCode::OK, &coded).is_none());
    }

    proptest! {
        #[test]
        fn any_answer_ends_the_listening(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..6), framed: bool) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            heard(framed, &pieces);
        }
    }
}
