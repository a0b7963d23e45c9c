//! A client of a stream of events, over any protocol: reads event by event, as the HTML standard says.

use super::{transfer::Head, End, Transfer, SOON};
use std::{collections::VecDeque, net::SocketAddr};
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
    text: String,
    read: VecDeque<Event>,
}

impl EventReader {
    /// Takes bytes as they come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.text.push_str(std::str::from_utf8(bytes).expect("a stream of events is text"));
        while let Some(end) = self.text.find("\n\n") {
            let block: String = self.text.drain(..end + 2).collect();
            let (mut name, mut data, mut id) = (None, Vec::new(), None);
            for line in block.lines() {
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

/// A stream of events by HTTP/1.1.
#[derive(Debug)]
pub struct EventStream {
    transfer: Transfer,
    reader: EventReader,
    /// Its head.
    pub head: Head,
}

impl EventStream {
    /// Asks for a stream; the answer has to be one.
    pub async fn open(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Self {
        let accept = [("Accept", "text/event-stream")];
        let fields: Vec<_> = accept.iter().chain(fields).copied().collect();
        Self::of(Transfer::ask_with(to, path, &fields).await).await
    }

    /// The stream that is the answer to this request.
    pub async fn of(mut transfer: Transfer) -> Self {
        let head = transfer.final_head().await;
        assert_eq!(
            (head.status, head.header("content-type")),
            (200, Some("text/event-stream")),
            "{}",
            head.text
        );
        Self { transfer, reader: EventReader::default(), head }
    }

    /// The next event; `Err`: how the stream ended.
    pub async fn try_next(&mut self) -> Result<Event, End> {
        loop {
            if let Some(event) = self.reader.next() {
                return Ok(event);
            }
            let piece = self.transfer.piece().await?;
            self.reader.feed(&piece);
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
