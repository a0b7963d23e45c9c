//! Requests at a fixed rate, far above what libraries can keep: how long each took from when it was due.
//!
//! One loop that never sleeps, so that nothing is late but for the server: what is due goes out on a connection that
//! rests, and waits, its time running, where none does. Answers are read as far as a benchmark needs it: the status, and
//! where they end by their `Content-Length`. What is due in the first second is not counted.
//!
//! `pace PORT PATH RATE SECONDS CONNECTIONS SIZE` writes one line of JSON: how many requests were due, how many were
//! answered, how many of them wrongly (another status than 200, another length than SIZE), and percentiles in µs.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use std::{env, process};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

const START: Duration = Duration::from_secs(1);
/// The time for requests that are under way at the end.
const GRACE: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 64 * 1024;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let told = match Told::of(&arguments) {
        Some(told) => told,
        None => {
            eprintln!("pace PORT PATH RATE SECONDS CONNECTIONS SIZE");
            process::exit(64);
        }
    };
    match run(&told) {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("pace: {error}");
            process::exit(1);
        }
    }
}

struct Told {
    port: u16,
    path: String,
    rate: u32,
    seconds: u32,
    connections: usize,
    size: usize,
}

impl Told {
    fn of(arguments: &[String]) -> Option<Self> {
        let [port, path, rate, seconds, connections, size] = arguments else { return None };
        Some(Self {
            port: port.parse().ok()?,
            path: path.clone(),
            rate: rate.parse().ok().filter(|rate| *rate > 0)?,
            seconds: seconds.parse().ok()?,
            connections: connections.parse().ok().filter(|connections| *connections > 0)?,
            size: size.parse().ok()?,
        })
    }
}

/// A connection, what of an answer has come, and since when the request was due.
struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    due: Instant,
}

/// The requests so far.
#[derive(Default)]
struct Count {
    due: usize,
    wrong: usize,
    /// Microseconds.
    took: Vec<f64>,
}

fn run(told: &Told) -> io::Result<String> {
    let request = format!("GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", told.path, told.port);
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(told.connections);
    for number in 0..told.connections {
        let stream = TcpStream::connect(("127.0.0.1", told.port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, EventData::new_u64(number as u64), EventFlags::IN)?;
        connections.push(Connection { stream, read: Vec::new(), due: Instant::now() });
    }
    let mut resting: VecDeque<usize> = (0..told.connections).collect();
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let (mut count, mut events) = (Count::default(), Vec::with_capacity(told.connections));
    let mut buffer = vec![0; READ_BYTES];
    let (begun, step) = (Instant::now(), Duration::from_secs(1) / told.rate);
    let end = begun + START + Duration::from_secs(u64::from(told.seconds));
    let mut next = begun;
    while Instant::now() < end + GRACE {
        let now = Instant::now();
        while next <= now && next < end {
            count.due += usize::from(next >= begun + START);
            waiting.push_back(next);
            next += step;
        }
        while !waiting.is_empty() && !resting.is_empty() {
            let (Some(due), Some(number)) = (waiting.pop_front(), resting.pop_front()) else { break };
            let connection = &mut connections[number];
            connection.due = due;
            // A request fits into what a connection that rests takes at once.
            connection.stream.write_all(request.as_bytes())?;
        }
        if resting.len() == told.connections && next >= end {
            break;
        }
        let at_once = Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 });
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), at_once)?;
        for event in events.drain(..) {
            let Some(number) = usize::try_from(event.data.u64()).ok() else { continue };
            let connection = &mut connections[number];
            let length = connection.stream.read(&mut buffer)?;
            if length == 0 {
                return Err(io::Error::other("the server closed a connection"));
            }
            connection.read.extend_from_slice(&buffer[..length]);
            let Some(right) = whole(&connection.read, told.size) else { continue };
            connection.read.clear();
            resting.push_back(number);
            if connection.due >= begun + START {
                count.took.push(connection.due.elapsed().as_secs_f64() * 1e6);
                count.wrong += usize::from(!right);
            }
        }
    }
    Ok(count.line())
}

/// Returns whether an answer is right, once it is complete.
fn whole(read: &[u8], size: usize) -> Option<bool> {
    let head = read.windows(END_OF_HEAD.len()).position(|bytes| bytes == END_OF_HEAD)?;
    let text = String::from_utf8_lossy(&read[..head]);
    let mut lines = text.split("\r\n");
    let right = lines.next().is_some_and(|line| line.starts_with("HTTP/1.1 200"));
    let mut fields = lines.filter_map(|line| line.split_once(": "));
    let (_, length) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = length.parse().ok()?;
    (read.len() >= head + END_OF_HEAD.len() + length).then_some(right && length == size)
}

impl Count {
    fn line(mut self) -> String {
        self.took.sort_by(f64::total_cmp);
        let at = |percentile: f64| {
            let place = (self.took.len() as f64 * percentile / 100.0).ceil() as usize;
            self.took.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
        };
        let percentiles: Vec<String> = PERCENTILES.iter().map(|one| format!("{:.1}", at(*one))).collect();
        format!(
            "{{\"due\":{},\"answered\":{},\"wrong\":{},\"percentiles\":[{}]}}",
            self.due,
            self.took.len(),
            self.wrong,
            percentiles.join(",")
        )
    }
}
