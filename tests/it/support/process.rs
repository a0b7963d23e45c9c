//! A child process with its output collected, killed on drop.

use nix::{
    sys::signal::{kill, Signal},
    unistd::Pid,
};
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

/// The number of last lines that are kept for failure messages.
const KEPT_LINES: usize = 2_000;

/// A child process; its last lines of output are kept for failure messages.
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
    reading: Arc<Reading>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

/// The switch that pauses the reading of output.
#[derive(Default)]
struct Reading {
    is_paused: Mutex<bool>,
    changed: Condvar,
}

impl Process {
    /// Starts `command` with both outputs collected.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let reading = Arc::new(Reading::default());
        let readers = vec![
            collect(child.stdout.take().unwrap(), lines.clone(), reading.clone()),
            collect(child.stderr.take().unwrap(), lines.clone(), reading.clone()),
        ];
        Self { name: name.to_owned(), child, lines, reading, readers }
    }

    /// Stops or goes on reading its output: what it writes meanwhile fills the pipe.
    pub fn read_output(&self, read: bool) {
        *self.reading.is_paused.lock().unwrap() = !read;
        self.reading.changed.notify_all();
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    /// Returns true if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "{} did not end within {deadline:?}:\n{}",
                self.name,
                self.output()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // It may be gone already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// The last lines of its output.
    pub fn output(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// All that it has written, once it has ended.
    pub fn last_output(&mut self) -> String {
        self.read_output(true);
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        self.output()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.last_output();
            let tail: Vec<&str> = output.lines().rev().take(60).collect();
            eprintln!("--- the last lines of {} ---", self.name);
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

fn collect(
    from: impl Read + Send + 'static,
    lines: Arc<Mutex<VecDeque<String>>>,
    reading: Arc<Reading>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            drop(reading.changed.wait_while(reading.is_paused.lock().unwrap(), |paused| *paused).unwrap());
            let mut lines = lines.lock().unwrap();
            if lines.len() == KEPT_LINES {
                lines.pop_front();
            }
            lines.push_back(String::from_utf8_lossy(&line).into_owned());
        }
    })
}
