//! Any text on its way through the gateway and a parser that others wrote, the npm package `eventsource-parser`.

use crate::live::*;
use crate::support::node;
use flate2::read::GzDecoder;
use rand::{rngs::StdRng, seq::IndexedRandom, Rng, SeedableRng};
use std::{collections::BTreeMap, io::Read, sync::atomic::AtomicUsize};

/// The number of entries; each has two states.
const ENTRIES: usize = 200;
const RULES: &str = "cache = { namespace = \"kpi\", ttl = \"60s\" }\nlive = { ping = \"1s\" }";

/// Texts that mean something in a stream of events, to JSON, or to those who deal with lines.
const PIECES: &[&str] = &[
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\r\n",
    "\0",
    "\u{b}",
    "\u{c}",
    "\u{85}",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\u{7f}",
    "\t",
    " ",
    "  ",
    ":",
    ": ",
    "data",
    "data:",
    "data: x\n",
    "event: ping\n",
    "id: 7\n",
    "id: \0\n",
    "retry: 1\n",
    "{",
    "\"",
    "\\",
    "é",
    "図",
    "🦀",
    "\u{10ffff}",
    "a",
];

fn pieces(dice: &mut StdRng, most: usize) -> String {
    let count = dice.random_range(0..=most);
    let piece = |dice: &mut StdRng| match dice.random_ratio(1, 5) {
        true => dice.random::<char>().to_string(),
        false => (*PIECES.choose(dice).unwrap()).to_owned(),
    };
    (0..count).map(|_| piece(dice)).collect()
}

fn json_value(dice: &mut StdRng, depth: u32) -> Value {
    match dice.random_range(0..if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(dice.random::<bool>()),
        2 => json!(dice.random::<i64>()),
        3 => json!(dice.random::<f64>()),
        4 => Value::String(pieces(dice, 8)),
        5 => (0..dice.random_range(0..5)).map(|_| json_value(dice, depth - 1)).collect(),
        _ => Value::Object(
            (0..dice.random_range(0..5)).map(|_| (pieces(dice, 4), json_value(dice, depth - 1))).collect(),
        ),
    }
}

/// JSON in one line or in many, or any text; now and then with a line of up to 200 kB.
fn text(dice: &mut StdRng) -> String {
    match dice.random_range(0..10) {
        0..3 => json_value(dice, 3).to_string(),
        3..5 => serde_json::to_string_pretty(&json_value(dice, 3)).unwrap(),
        5 => {
            let line = pieces(dice, 6).replace(['\r', '\n'], "").repeat(dice.random_range(1..10_000));
            let length = line.char_indices().map(|(at, _)| at).take_while(|at| *at < 200_000).last();
            line[..length.unwrap_or_default()].to_owned() + &pieces(dice, 3)
        }
        _ => pieces(dice, 40),
    }
}

/// Two texts that aren't equal.
fn two_states(dice: &mut StdRng) -> [String; 2] {
    let first = text(dice);
    loop {
        let second = text(dice);
        if second != first {
            return [first, second];
        }
    }
}

/// The content of a stream, to its end.
async fn content(mut transfer: Transfer) -> Vec<u8> {
    let head = transfer.final_head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{}", head.text);
    let (content, end) = transfer.rest().await;
    assert_eq!(end, End::Clean);
    match head.header("content-encoding") {
        None => content,
        Some(_) => {
            let mut plain = Vec::new();
            GzDecoder::new(&content[..]).read_to_end(&mut plain).unwrap();
            plain
        }
    }
}

async fn until_told(gateway: &Gateway, states: usize) {
    until(&format!("{states} states are written"), 3 * SOON, || async {
        gateway.metrics().await.value("tidegate_live_events_total", &[]) >= states as f64
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_text_comes_out_of_a_parser_as_it_went_in() {
    let mut dice = StdRng::seed_from_u64(seed());
    let states: Vec<_> = (0..ENTRIES).map(|_| two_states(&mut dice)).collect();
    let (origin, turn) = (TestOrigin::start().await, Arc::new(AtomicUsize::new(0)));
    for (n, state) in states.iter().enumerate() {
        let (state, turn) = (state.clone(), turn.clone());
        origin.on(&format!("/text/{n}"), move |_| {
            Answer::new("text/plain; charset=utf-8", state[turn.load(Ordering::SeqCst)].clone())
        });
    }
    let mut gateway =
        Gateway::with(&origin).route("/text/*", RULES).event("order_created", &["kpi"]).start().await;
    let mut streams = Vec::new();
    for n in 0..ENTRIES {
        let fields = [("Accept", "text/event-stream"), ("Accept-Encoding", "gzip")];
        let fields = &fields[..1 + n % 2];
        let transfer = Transfer::ask_with(gateway.address(), &format!("/text/{n}"), fields).await;
        streams.push(tokio::spawn(content(transfer)));
    }
    until_told(&gateway, ENTRIES).await;
    turn.store(1, Ordering::SeqCst);
    gateway.bump("public").await;
    until_told(&gateway, 2 * ENTRIES).await;
    gateway.sigterm();
    let recorded = tempfile::TempDir::new().unwrap();
    for (n, stream) in streams.into_iter().enumerate() {
        std::fs::write(recorded.path().join(n.to_string()), stream.await.unwrap()).unwrap();
    }
    assert!(gateway.wait(SOON).await.success());

    let arguments = [recorded.path().display().to_string()];
    let read = tokio::task::spawn_blocking(move || node::run("events.mjs", &arguments)).await.unwrap();
    let read: BTreeMap<usize, Vec<(String, String, Option<String>)>> = serde_json::from_value(read).unwrap();
    assert_eq!(read.len(), ENTRIES);
    for (n, events) in read {
        let told: Vec<_> = events.iter().filter(|(name, ..)| name != "ping").collect();
        let data: Vec<_> = told.iter().map(|(_, data, _)| data.as_str()).collect();
        // CR, LF and CRLF each arrive as LF.
        let expected = states[n].each_ref().map(|state| state.replace("\r\n", "\n").replace('\r', "\n"));
        assert!(data == expected, "/text/{n}: {data:?}\nis not\n{expected:?}");
        assert!(
            told.iter().all(|(name, _, id)| name == "metric_update" && id.is_some()),
            "/text/{n}: {told:?}"
        );
    }
}
