//! One gateway before one recording origin, and how a case is judged.

use crate::{
    lanes::smuggling::cases::{Case, End, PROBE},
    support::{gateway::KPI, recorder::Record, strict, Gateway, GatewayBuilder, Recorder, Say, SOON},
};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The placeholder for the path of the route in a case.
pub const HERE: &str = "/HERE";

/// A gateway, its origin, and the keys of an ordinary day.
pub struct Stage {
    pub gateway: Gateway,
    pub origin: Recorder,
}

impl Stage {
    /// One with routes of every kind.
    pub async fn set() -> Self {
        let origin = Recorder::start(Say::plain).await;
        let gateway = GatewayBuilder::new(&origin.url())
            .route("/app/*", "max_body = \"1MiB\"")
            .route("/api/widgets/kpi", KPI)
            .route("/followed/*", "cache = \"origin\"")
            .event("order_created", &["kpi"])
            .start()
            .await;
        Self { gateway, origin }
    }

    /// Sends a case; the error says in which way it went wrong.
    pub async fn judge(&mut self, case: &Case, path: &str) -> Result<(), String> {
        let mut bytes = replace(&case.send, HERE, path);
        if !case.fin {
            bytes.extend_from_slice(PROBE.as_bytes());
        }
        let (said, ended) = exchange(self.gateway.address(), &bytes, case.fin).await;
        let record = self.origin.take();
        let ended = if ended { Ok(()) } else { Err("no end".to_owned()) };
        let fault = ended
            .and_then(|()| answers(case, path, &said))
            .and_then(|()| requests(case, path, &record))
            .err();
        fault.map_or(Ok(()), |fault| {
            let said = String::from_utf8_lossy(&said[..said.len().min(300)]).into_owned();
            Err(format!("\n--- {} ({path}): {fault}\nsaid: {said:?}\ncame: {}", case.what, shown(&record)))
        })
    }

    /// The gateway is as well as before.
    pub async fn sound(mut self) {
        self.gateway.assert_sound().await;
        assert!(self.gateway.metrics().await.value("tidegate_rejected_requests_total", &[]) > 0.0);
    }
}

/// The answers that the client got.
fn answers(case: &Case, path: &str, said: &[u8]) -> Result<(), String> {
    let mut methods = vec!["GET"; case.own.len()];
    methods.extend(case.passes.iter().map(|meant| meant.method));
    let (answers, _) = strict::responses(said, &methods).map_err(|illegal| format!("answers: {illegal}"))?;
    let mut answers = answers.into_iter();
    for status in &case.own {
        let answer = answers.next().ok_or("an answer is missing")?;
        if answer.status() != *status {
            return Err(format!("not {status}: {}", answer.head.line));
        }
    }
    for meant in &case.passes {
        let answer = answers.next().ok_or("an answer is missing")?;
        let wanted = format!("{} {}", meant.method, meant.target.replace(HERE, path));
        if answer.head.field("x-answers").as_deref() != Some(&wanted) {
            return Err(format!("an answer to something else than {wanted}: {}", answer.head.line));
        }
    }
    let last = answers.next();
    if let Some(more) = answers.next() {
        return Err(format!("one more answer: {}", more.head.line));
    }
    match (&case.end, last) {
        (End::Open, Some(probe)) if probe.text() == "GET /app/probe" => Ok(()),
        (End::Closed, None) => Ok(()),
        (End::Refused(statuses) | End::CutOff(statuses), Some(refusal)) => {
            let closes = refusal.head.field("connection").as_deref() == Some("close");
            match statuses.contains(&refusal.status()) && closes {
                true => Ok(()),
                false => Err(format!("not refused with {statuses:?} and closed: {}", refusal.head.line)),
            }
        }
        (end, last) => Err(format!("{end:?} was meant, but: {:?}", last.map(|last| last.head.line))),
    }
}

/// The requests that the origin got.
fn requests(case: &Case, path: &str, record: &Record) -> Result<(), String> {
    if !record.illegal.is_empty() {
        return Err(format!("the origin can't read: {:?}", record.illegal));
    }
    let came: Vec<_> = record
        .requests
        .iter()
        .map(|r| (r.method().to_owned(), r.target().to_owned(), r.body.clone()))
        .collect();
    let mut meant: Vec<_> = case
        .passes
        .iter()
        .map(|meant| (meant.method.to_owned(), meant.target.replace(HERE, path), meant.body.to_vec()))
        .collect();
    if case.end == End::Open {
        meant.push(("GET".to_owned(), "/app/probe".to_owned(), Vec::new()));
    }
    if came != meant {
        return Err(format!("the origin got {came:?} instead of {meant:?}"));
    }
    let of_this = |bytes: &&Vec<u8>| bytes.windows(path.len()).any(|w| w == path.as_bytes());
    match (&case.end, record.cut_off.iter().find(of_this)) {
        (End::Refused(_), Some(cut_off)) => {
            Err(format!("the origin got a part: {:?}", String::from_utf8_lossy(cut_off)))
        }
        _ => Ok(()),
    }
}

fn shown(record: &Record) -> String {
    let each =
        record.requests.iter().map(|r| format!("{} {:?}", r.head.line, String::from_utf8_lossy(&r.body)));
    each.collect::<Vec<_>>().join("\n      ")
}

fn replace(bytes: &[u8], what: &str, with: &str) -> Vec<u8> {
    let (what, mut out, mut at) = (what.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(what) {
            out.extend_from_slice(with.as_bytes());
            at += what.len();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// Writes these bytes and reads until the peer closes; whether it did.
pub async fn exchange(to: SocketAddr, bytes: &[u8], fin: bool) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let (mut from, mut into) = stream.split();
    let mut read = Vec::new();
    let write = async {
        // A refusal closes the connection under the writer.
        drop(into.write_all(bytes).await);
        if fin {
            drop(into.shutdown().await);
        }
        std::future::pending::<()>().await;
    };
    let answer = async { while from.read_buf(&mut read).await.is_ok_and(|n| n > 0) {} };
    let both = async {
        tokio::select! { () = write => {} () = answer => {} }
    };
    let ended = tokio::time::timeout(SOON, both).await.is_ok();
    (read, ended)
}
