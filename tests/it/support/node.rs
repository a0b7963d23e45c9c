//! Scripts of `tests/browser`, run by Node.js with the packages that are pinned there.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Runs `tests/browser/<script>` to its end, and blocks meanwhile; the JSON that it prints.
pub fn run(script: &str, arguments: &[String]) -> serde_json::Value {
    let mut command = Command::new("node");
    command.arg(directory().join(script)).args(arguments);
    let output = command.output().expect("node can't be started: install Node.js 20 or later");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script} {arguments:?}: {errors}\nIts packages come by `npm ci --prefix tests/browser`."
    );
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

/// `tests/browser`
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}
