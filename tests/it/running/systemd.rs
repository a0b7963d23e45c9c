//! The service: what systemd says of its unit, and what the gateway tells it.

use crate::support::{
    gateway::{tidegate, GatewayBuilder},
    process::Process,
    *,
};
use nix::sys::signal::Signal;
use std::{
    path::Path,
    process::{Command, Output},
};
use tempfile::TempDir;
use tokio::{net::UnixDatagram, time::timeout};

const UNIT: &str = include_str!("../../../systemd/tidegate.service");
/// The exposure that `systemd-analyze security` may find, in tenths; without any setting it is 96.
const EXPOSURE: u32 = 20;

/// The unit with the binary under test, where systemd looks for units.
fn unit(dir: &TempDir) -> String {
    let path = dir.path().join("tidegate.service");
    std::fs::write(&path, UNIT.replace("/usr/local/bin/tidegate", env!("CARGO_BIN_EXE_tidegate"))).unwrap();
    path.to_str().unwrap().to_owned()
}

fn analyze(arguments: &[&str]) -> Output {
    Command::new("systemd-analyze").args(arguments).output().unwrap()
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    let dir = TempDir::new().unwrap();
    let output = analyze(&["verify", "--man=no", &unit(&dir)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_unit_leaves_little_to_take() {
    let dir = TempDir::new().unwrap();
    let threshold = format!("--threshold={EXPOSURE}");
    let output = analyze(&["security", "--offline=true", "--no-pager", &threshold, &unit(&dir)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The service manager of a unit of type `notify`.
struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Self { socket, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until this was said.
    async fn hears(&self, wanted: &str) {
        let mut heard = Vec::new();
        let listening = async {
            let mut buffer = [0; 4096];
            loop {
                let length = self.socket.recv(&mut buffer).await.unwrap();
                let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let is_it = said.lines().any(|line| line == wanted);
                heard.push(said);
                if is_it {
                    return;
                }
            }
        };
        assert!(timeout(SOON, listening).await.is_ok(), "{wanted} was not said, but {heard:?}");
    }
}

#[tokio::test]
async fn the_manager_hears_of_each_stage() {
    let manager = Manager::new();
    let file = manager.path().join("tidegate.toml");
    let toml = GatewayBuilder::new("http://127.0.0.1:9").route("/a", "").toml(free_address(), free_address());
    std::fs::write(&file, toml).unwrap();
    let mut command = tidegate(&["run", "--config", file.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", manager.path().join("notify")).env("WATCHDOG_USEC", "200000");
    let mut gateway = Process::spawn("tidegate", &mut command);
    manager.hears("READY=1").await;
    manager.hears("WATCHDOG=1").await;
    gateway.signal(Signal::SIGHUP);
    manager.hears("RELOADING=1").await;
    manager.hears("READY=1").await;
    manager.hears("WATCHDOG=1").await;
    gateway.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1").await;
    assert!(gateway.wait(SOON).await.success());
}
