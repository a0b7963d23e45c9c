//! The floor of a comparison: what an answer costs that nobody thinks about. One `read`, one `write`, bytes that were
//! made before; level-triggered epoll, one loop for each thread.
//!
//! It knows as much of HTTP as its load generator needs: where a head ends, the first bytes of a path, whether there
//! is an `If-None-Match`. It is no server, and is never asked by anyone but a benchmark.
//!
//! `floor PORT THREADS`, or `floor live PORT` for a fan-out.

mod live;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::{env, process, thread};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// A head of a request that doesn't fit is answered by closing the connection.
const READ_BYTES: usize = 16 * 1024;
const LISTENER: u64 = u64::MAX;
/// As wrk writes it.
const CONDITION: &[u8] = b"\r\nIf-None-Match:";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |place: usize| arguments.get(place).and_then(|text| text.parse::<u16>().ok());
    let is_live = arguments.first().is_some_and(|text| text == "live");
    let ran = match (is_live, number(0), number(1)) {
        (true, _, Some(port)) => live::run(port),
        (false, Some(port), Some(threads)) => run(port, threads),
        _ => {
            eprintln!("floor PORT THREADS | floor live PORT");
            process::exit(64);
        }
    };
    if let Err(error) = ran {
        eprintln!("floor: {error}");
        process::exit(1);
    }
}

/// Serves until one of its loops fails.
fn run(port: u16, threads: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    let answers = Answers::new();
    thread::scope(|scope| {
        let loops: Vec<_> = (0..threads).map(|_| scope.spawn(|| serve(&listener, &answers))).collect();
        loops
            .into_iter()
            .try_for_each(|each| each.join().unwrap_or_else(|_| Err(io::Error::other("a loop panicked"))))
    })
}

/// Everything there is to say, made once.
struct Answers {
    small: Vec<u8>,
    medium: Vec<u8>,
    large: Vec<u8>,
    unchanged: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let full = |size: usize| {
            let mut answer = format!(
                "HTTP/1.1 200 OK\r\nServer: floor\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json\r\n\
                 ETag: \"floor\"\r\nCache-Control: public, max-age=3600\r\nContent-Length: {size}\r\n\r\n"
            )
            .into_bytes();
            answer.resize(answer.len() + size, b' ');
            answer
        };
        Self {
            small: full(300),
            medium: full(3 * 1024),
            large: full(64 * 1024),
            unchanged:
                b"HTTP/1.1 304 Not Modified\r\nServer: floor\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
                         ETag: \"floor\"\r\nCache-Control: public, max-age=3600\r\n\r\n"
                    .to_vec(),
        }
    }

    fn to(&self, head: &[u8]) -> &[u8] {
        if head.windows(CONDITION.len()).any(|bytes| bytes == CONDITION) {
            return &self.unchanged;
        }
        match head.get(5..8) {
            Some(b"64k") => &self.large,
            Some(b"3kb") => &self.medium,
            _ => &self.small,
        }
    }
}

/// A client, what of its next request has come, and what of an answer the socket did not take.
struct Client {
    stream: TcpStream,
    begun: Vec<u8>,
    owed: Vec<u8>,
}

/// One loop: all its clients, and the listener that it shares.
fn serve(listener: &TcpListener, answers: &Answers) -> io::Result<()> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::EXCLUSIVE)?;
    let mut clients: Vec<Option<Client>> = Vec::new();
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
                accept(listener, poll.as_fd(), &mut clients)?;
                continue;
            }
            let Some(slot) = usize::try_from(token).ok().and_then(|token| clients.get_mut(token)) else {
                continue;
            };
            let Some(client) = slot else { continue };
            let owed_before = !client.owed.is_empty();
            // A client that is gone takes its descriptor out of the poll.
            if !client.turn(&mut buffer, answers) {
                *slot = None;
            } else if owed_before == client.owed.is_empty() {
                let flags = if owed_before { EventFlags::IN } else { EventFlags::OUT };
                epoll::modify(&poll, &client.stream, EventData::new_u64(token), flags)?;
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: rustix::fd::BorrowedFd<'_>,
    clients: &mut Vec<Option<Client>>,
) -> io::Result<()> {
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let slot = clients.iter().position(Option::is_none).unwrap_or(clients.len());
        epoll::add(poll, &stream, EventData::new_u64(slot as u64), EventFlags::IN)?;
        let client = Client { stream, begun: Vec::new(), owed: Vec::new() };
        if slot == clients.len() {
            clients.push(Some(client));
        } else {
            clients[slot] = Some(client);
        }
    }
    Ok(())
}

impl Client {
    /// Does the work at hand; returns true if the connection goes on.
    fn turn(&mut self, buffer: &mut [u8], answers: &Answers) -> bool {
        if !self.owed.is_empty() {
            let owed = std::mem::take(&mut self.owed);
            return self.write(&owed);
        }
        match self.stream.read(buffer) {
            Ok(0) => false,
            Ok(count) if self.begun.is_empty() => self.answer(&buffer[..count], answers),
            Ok(count) => {
                let mut bytes = std::mem::take(&mut self.begun);
                bytes.extend_from_slice(&buffer[..count]);
                self.answer(&bytes, answers)
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Answers each whole request in `bytes` with one write; keeps the rest for later.
    fn answer(&mut self, bytes: &[u8], answers: &Answers) -> bool {
        let (first, rest) = match head_of(bytes) {
            Some(parts) => parts,
            None => {
                self.begun = bytes.to_vec();
                return bytes.len() < READ_BYTES;
            }
        };
        if rest.is_empty() {
            return self.write(answers.to(first));
        }
        let mut all = answers.to(first).to_vec();
        let mut left = rest;
        while let Some((head, rest)) = head_of(left) {
            all.extend_from_slice(answers.to(head));
            left = rest;
        }
        self.begun = left.to_vec();
        self.write(&all)
    }

    fn write(&mut self, answer: &[u8]) -> bool {
        match self.stream.write(answer) {
            Ok(count) => {
                if count < answer.len() {
                    self.owed = answer[count..].to_vec();
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.owed = answer.to_vec();
                true
            }
            Err(_) => false,
        }
    }
}

/// The first head, with its end, and what follows it.
fn head_of(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(4).position(|window| window == END_OF_HEAD)? + 4;
    Some(bytes.split_at(end))
}
