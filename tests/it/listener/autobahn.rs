//! Autobahn's cases for WebSocket servers, run against a server directly and through the gateway: the verdicts have to
//! be the same, case by case. The cases are Autobahn's own files; the client that runs them on Python 3 is `kosoku`.
//!
//! What each case exchanges, to the byte, is in `websocket_transcripts.rs`.

use crate::support::{
    process::Process,
    websocket::{echo, through_to, SocketServer},
    *,
};
use futures_util::StreamExt;
use serde_json::Value;
use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};
use tempfile::TempDir;

/// The longest run of all cases.
const RUN: Duration = Duration::from_secs(120);

/// The result of a case: its verdict, and the reason for it.
type Verdicts = BTreeMap<String, Vec<Value>>;

/// Runs the cases that fit these patterns.
async fn run(to: SocketAddr, cases: &[&str]) -> Verdicts {
    let reports = TempDir::new().unwrap();
    let directory = reports.path().to_str().unwrap().to_owned();
    let mut command = std::process::Command::new(python::python().await.with_file_name("kosoku"));
    for case in cases {
        command.args(["--include", case]);
    }
    command.args(["--parallelism", "4", "--outdir", &directory, &format!("ws://{to}/")]);
    // It exits with 1 where the server fails a case; the verdicts are for us to compare.
    let mut process = Process::spawn("kosoku", &mut command);
    process.wait(RUN).await;
    let verdicts = read(reports.path());
    assert!(!verdicts.is_empty(), "no verdict: {}", process.last_output());
    verdicts
}

fn read(reports: &Path) -> Verdicts {
    let index: Value = serde_json::from_slice(&std::fs::read(reports.join("index.json")).unwrap()).unwrap();
    let agent = index.as_object().unwrap().values().next().unwrap();
    let told =
        ["behavior", "behaviorClose", "remoteCloseCode", "remoteCloseReason", "rxFrameStats", "wasClean"];
    let verdict = |(case, entry): (&String, &Value)| {
        let file = reports.join(entry["reportfile"].as_str().unwrap());
        let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        (case.clone(), told.iter().map(|name| report[name].clone()).collect())
    };
    agent.as_object().unwrap().iter().map(verdict).collect()
}

/// Runs the cases both ways and compares; how many there were, and how many a direct client calls a failure.
async fn compare(direct: SocketAddr, cases: &[&str]) -> (usize, usize) {
    let mut gateway = through_to(direct).await;
    let through = run(gateway.address(), cases).await;
    let direct = run(direct, cases).await;
    assert_eq!(direct.keys().collect::<Vec<_>>(), through.keys().collect::<Vec<_>>());
    let differing: Vec<_> = direct.iter().filter(|(case, verdict)| through[*case] != **verdict).collect();
    for (case, verdict) in &differing {
        println!("{case}: directly {verdict:?}\n      through the gateway {:?}", through[*case]);
    }
    let failed = direct.values().filter(|verdict| verdict[0] == "FAILED" || verdict[1] == "FAILED").count();
    println!("{} cases, {} differ, {failed} fail without the gateway as well", direct.len(), differing.len());
    assert!(differing.is_empty());
    gateway.assert_sound().await;
    (direct.len(), failed)
}

/// Framing, pings, reserved bits, opcodes, fragments, UTF-8, closing, sizes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verdicts_are_the_same() {
    let server = SocketServer::start(|stream, _| async move {
        let mut socket = echo(stream).await;
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let groups = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"];
    let (cases, failed) = compare(server.address(), &groups).await;
    assert!(cases >= 300 && failed == 0, "{failed} of {cases}");
}

/// Compression is between the two ends: its extension passes, and so do its frames. One case of each set.
#[tokio::test]
async fn compressed_messages_pass() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/echo_deflate.py");
    let address = free_address();
    let mut command = std::process::Command::new(python::python().await);
    command.arg("-B").arg(script).arg(address.port().to_string());
    let server = Process::spawn("echo_deflate.py", &mut command);
    until("the server listens", 3 * SOON, || async { tokio::net::TcpStream::connect(address).await.is_ok() })
        .await;
    let sets = ["12.1.3", "12.2.3", "12.3.3", "12.4.3", "12.5.3"];
    let parameters = ["13.1.3", "13.2.3", "13.3.3", "13.4.3", "13.5.3", "13.6.3", "13.7.3"];
    let (cases, failed) = compare(address, &[&sets[..], &parameters].concat()).await;
    assert_eq!((cases, failed), (12, 0));
    drop(server);
}
