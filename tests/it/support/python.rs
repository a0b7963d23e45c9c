//! The application's side: real Flask-Caching, in the repository's own virtual environment.

use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tokio::sync::OnceCell;

static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();

/// Runs `tests/python/<script>` with `arguments` and gives back what it prints, trimmed.
pub async fn run(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(python().await);
    command.arg(root().join("tests/python").join(script)).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The interpreter of the virtual environment.
pub async fn python() -> &'static Path {
    PYTHON.get_or_init(|| async { tokio::task::spawn_blocking(environment).await.unwrap() }).await
}

/// A command of a module in the virtual environment, run in `tests/python`.
pub async fn module(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python().await);
    command.args(["-B", "-m", name]).args(arguments).current_dir(root().join("tests/python"));
    command
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `.venv/bin/python` with what `tests/python/requirements.txt` pins, made where it is missing or outdated.
fn environment() -> PathBuf {
    let (venv, wanted) = (root().join(".venv"), root().join("tests/python/requirements.txt"));
    let (python, stamp) = (venv.join("bin/python"), venv.join("requirements.txt"));
    if python.exists() && std::fs::read(&stamp).ok() == std::fs::read(&wanted).ok() {
        return python;
    }
    step(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    step(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(&wanted));
    std::fs::copy(&wanted, &stamp).unwrap();
    python
}

fn step(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}\nThe tests need python3 with venv and pip.");
}
