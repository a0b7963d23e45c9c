//! A client of a stream of events, over any protocol: reads event by event, as the HTML standard says.

use super::{tls::Http2, transfer::Head, End, Transfer, SOON};
use bytes::Bytes;
use flate2::write::GzDecoder;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::{collections::VecDeque, fmt::Write as _, io::Write as _, net::SocketAddr};
use tokio::time::timeout;

/// An event as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `event`, or `message`.
    pub name: String,
    /// `data`, its lines joined.
    pub data: String,
    /// `id`, if this event has one.
    pub id: Option<String>,
}

impl Event {
    /// The data as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Splits the text of a stream into events; a `retry` alone is an event of that name.
#[derive(Debug, Default)]
pub struct EventReader {
    bytes: Vec<u8>,
    read: VecDeque<Event>,
}

impl EventReader {
    /// Takes bytes as they come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while let Some(end) = self.bytes.windows(2).position(|two| two == b"\n\n") {
            let block = self.bytes.drain(..end + 2).collect();
            let block = String::from_utf8(block).expect("a stream of events is text");
            let (mut name, mut data, mut id) = (None, Vec::new(), None);
            for line in block.split_terminator('\n') {
                let (field, value) = line.split_once(": ").unwrap_or((line, ""));
                match field {
                    "event" => name = Some(value.to_owned()),
                    "data" => data.push(value.to_owned()),
                    "id" => id = Some(value.to_owned()),
                    "retry" => {
                        name = Some("retry".to_owned());
                        data.push(value.to_owned());
                    }
                    "" => {}
                    other => panic!("an unknown field {other:?} in {block:?}"),
                }
            }
            let name = name.unwrap_or_else(|| "message".to_owned());
            self.read.push_back(Event { name, data: data.join("\n"), id });
        }
    }

    /// The next event that has come whole.
    pub fn next(&mut self) -> Option<Event> {
        self.read.pop_front()
    }
}

/// The way that a stream comes.
#[derive(Debug)]
enum Carrier {
    Transfer(Transfer),
    /// The sender keeps the connection.
    Http2(#[allow(dead_code, reason = "dropping it ends the connection")] Http2, Incoming),
}

/// A stream of events.
#[derive(Debug)]
pub struct EventStream {
    carrier: Carrier,
    reader: EventReader,
    /// Of a stream in gzip.
    decoder: Option<GzDecoder<Vec<u8>>>,
    /// The number of bytes of its content, encoded as it came.
    pub received: usize,
    /// Its head.
    pub head: Head,
}

impl EventStream {
    /// Asks for a stream by HTTP/1.1; the answer has to be one.
    pub async fn open(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Self {
        let accept = [("Accept", "text/event-stream")];
        let fields: Vec<_> = accept.iter().chain(fields).copied().collect();
        Self::of(Transfer::ask_with(to, path, &fields).await).await
    }

    /// The stream that is the answer to this request.
    pub async fn of(mut transfer: Transfer) -> Self {
        let head = transfer.final_head().await;
        Self::begin(Carrier::Transfer(transfer), head)
    }

    /// The stream that is the answer to this request of HTTP/2.
    pub async fn by_http2(connection: Http2, request: Request<Full<Bytes>>) -> Self {
        let asking = connection.sender.clone().send_request(request);
        let (head, body) = timeout(SOON, asking).await.expect("a head").unwrap().into_parts();
        let mut text = format!("http/2 {}\n", head.status.as_u16());
        for (name, value) in &head.headers {
            writeln!(text, "{name}: {}", value.to_str().unwrap().to_ascii_lowercase()).unwrap();
        }
        let head = Head { status: head.status.as_u16(), text };
        Self::begin(Carrier::Http2(connection, body), head)
    }

    fn begin(carrier: Carrier, head: Head) -> Self {
        assert_eq!(
            (head.status, head.header("content-type")),
            (200, Some("text/event-stream")),
            "{}",
            head.text
        );
        let decoder = (head.header("content-encoding") == Some("gzip")).then(|| GzDecoder::new(Vec::new()));
        Self { carrier, reader: EventReader::default(), decoder, received: 0, head }
    }

    /// Takes content as it comes. A decoder gives all that can be known of it.
    fn feed(&mut self, content: &[u8]) {
        self.received += content.len();
        match &mut self.decoder {
            None => self.reader.feed(content),
            Some(decoder) => {
                decoder.write_all(content).and_then(|()| decoder.flush()).expect("a stream in gzip");
                self.reader.feed(&std::mem::take(decoder.get_mut()));
            }
        }
    }

    /// The end of the stream; the trailer of gzip has to be right.
    fn end(&mut self, end: End) -> End {
        if let (Some(decoder), End::Clean) = (&mut self.decoder, end) {
            decoder.try_finish().expect("a whole stream in gzip");
        }
        end
    }

    /// The next event; `Err`: how the stream ended.
    pub async fn try_next(&mut self) -> Result<Event, End> {
        loop {
            if let Some(event) = self.reader.next() {
                return Ok(event);
            }
            let piece = match &mut self.carrier {
                Carrier::Transfer(transfer) => transfer.piece().await,
                Carrier::Http2(_, body) => match body.frame().await {
                    Some(Ok(frame)) => Ok(frame.into_data().expect("no trailers")),
                    Some(Err(_)) => Err(End::Broken),
                    None => Err(End::Clean),
                },
            };
            match piece {
                Ok(content) => self.feed(&content),
                Err(end) => return Err(self.end(end)),
            }
        }
    }

    /// The next event that is no ping.
    pub async fn next(&mut self) -> Event {
        loop {
            let event = timeout(SOON, self.try_next()).await.expect("an event").expect("the stream goes on");
            if event.name != "ping" {
                return event;
            }
        }
    }

    /// The next event of this name; others are skipped.
    pub async fn next_named(&mut self, name: &str) -> Event {
        loop {
            let event = timeout(SOON, self.try_next()).await.expect("an event").expect("the stream goes on");
            if event.name == name {
                return event;
            }
        }
    }

    /// The events up to the end of the stream, and how it ended.
    pub async fn rest(&mut self) -> (Vec<Event>, End) {
        let mut events = Vec::new();
        loop {
            match timeout(SOON, self.try_next()).await.expect("an event, or the end") {
                Ok(event) => events.push(event),
                Err(end) => return (events, end),
            }
        }
    }
}
