//! The floor of a fan-out: one loop that writes each pushed body once to each connection that watches.
//!
//! A GET watches, a POST pushes its body as an event. The event is made once; nothing is looked up, counted or timed.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::BorrowedFd;

const READ_BYTES: usize = 256 * 1024;
const LISTENER: u64 = u64::MAX;
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: floor\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
                      Transfer-Encoding: chunked\r\n\r\n";
const PUSHED: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// A connection, what of its request has come, and what of an event its socket did not take.
struct Watcher {
    stream: TcpStream,
    begun: Vec<u8>,
    owed: Vec<u8>,
    watches: bool,
}

/// Serves until the loop fails.
pub(crate) fn run(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    // The standard library's queue of 128 connections is full at once.
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut watchers: Vec<Option<Watcher>> = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut events = Vec::with_capacity(512);
    loop {
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => {}
        }
        for event in events.drain(..) {
            let token = event.data.u64();
            if token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let slot = EventData::new_u64(watchers.len() as u64);
                    epoll::add(&poll, &stream, slot, EventFlags::IN)?;
                    let (begun, owed) = (Vec::new(), Vec::new());
                    watchers.push(Some(Watcher { stream, begun, owed, watches: false }));
                }
                continue;
            }
            let Ok(place) = usize::try_from(token) else { continue };
            let Some(slot) = watchers.get_mut(place) else { continue };
            match slot.as_mut().map(|watcher| watcher.turn(&mut buffer)) {
                Some(Turn::Pushes(body)) => push(&event_of(&body), &mut watchers, poll.as_fd())?,
                Some(Turn::Wrote) => wait_for(poll.as_fd(), slot, place, EventFlags::IN)?,
                // A connection that is gone takes its descriptor out of the poll.
                Some(Turn::Ends) => *slot = None,
                Some(Turn::Waits) | None => {}
            }
        }
    }
}

/// Writes an event to each connection that watches.
fn push(event: &[u8], watchers: &mut [Option<Watcher>], poll: BorrowedFd<'_>) -> io::Result<()> {
    for (place, slot) in watchers.iter_mut().enumerate() {
        let Some(watcher) = slot.as_mut().filter(|watcher| watcher.watches) else { continue };
        if !watcher.write(event) {
            *slot = None;
        } else if !watcher.owed.is_empty() {
            wait_for(poll, slot, place, EventFlags::IN | EventFlags::OUT)?;
        }
    }
    Ok(())
}

fn wait_for(poll: BorrowedFd<'_>, slot: &Option<Watcher>, place: usize, flags: EventFlags) -> io::Result<()> {
    match slot {
        Some(watcher) => Ok(epoll::modify(poll, &watcher.stream, EventData::new_u64(place as u64), flags)?),
        None => Ok(()),
    }
}

/// What came of an event of the poll.
enum Turn {
    /// Nothing, or a part of a request.
    Waits,
    /// A body for all who watch.
    Pushes(Vec<u8>),
    /// What was owed has been written.
    Wrote,
    Ends,
}

impl Watcher {
    /// Does the work at hand.
    fn turn(&mut self, buffer: &mut [u8]) -> Turn {
        if !self.owed.is_empty() {
            let owed = std::mem::take(&mut self.owed);
            return match self.write(&owed) {
                true if self.owed.is_empty() => Turn::Wrote,
                true => Turn::Waits,
                false => Turn::Ends,
            };
        }
        match self.stream.read(buffer) {
            Ok(0) => return Turn::Ends,
            Ok(count) => self.begun.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Waits,
            Err(_) => return Turn::Ends,
        }
        let Some(head) = self.begun.windows(4).position(|bytes| bytes == END_OF_HEAD) else {
            return Turn::Waits;
        };
        if self.begun.starts_with(b"GET ") {
            (self.watches, self.begun) = (true, Vec::new());
            return if self.write(HEAD) { Turn::Waits } else { Turn::Ends };
        }
        let body = head + END_OF_HEAD.len();
        if self.begun.len() < body + length_of(&self.begun[..head]) {
            return Turn::Waits;
        }
        let body = self.begun.split_off(body);
        self.begun.clear();
        if self.write(PUSHED) {
            Turn::Pushes(body)
        } else {
            Turn::Ends
        }
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        if !self.owed.is_empty() {
            self.owed.extend_from_slice(bytes);
            return true;
        }
        match self.stream.write(bytes) {
            Ok(count) => self.owed.extend_from_slice(&bytes[count..]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.owed.extend_from_slice(bytes),
            Err(_) => return false,
        }
        true
    }
}

/// The `Content-Length` of a head; 0 if there is none.
fn length_of(head: &[u8]) -> usize {
    let text = String::from_utf8_lossy(head);
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

/// An event as a chunk of HTTP/1.1.
fn event_of(body: &[u8]) -> Vec<u8> {
    let mut event = b"event: metric_update\ndata: ".to_vec();
    event.extend_from_slice(body);
    event.extend_from_slice(b"\nid: 0123456789abcdef@1764547200123\n\n");
    let mut chunk = format!("{:x}\r\n", event.len()).into_bytes();
    chunk.extend_from_slice(&event);
    chunk.extend_from_slice(b"\r\n");
    chunk
}
