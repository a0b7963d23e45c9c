//! Files: routes of files, and what an origin orders by `X-Accel-Redirect`. Real trees, a real gateway, and a secret
//! beside every root.

use std::{fs, os::unix::fs::symlink, path::Path};
use tempfile::TempDir;

mod accel;
mod elsewhere;
mod fields;
mod large;
mod routes;

const SECRET: &str = "the secret";
const DIGITS: &str = "0123456789";

/// A tree with `www/` to be sent, `big/` to be ordered, and a secret beside them.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(TempDir::new().unwrap());
        tree.write("secret", SECRET);
        tree.write("www/index.html", "<h1>home</h1>");
        tree.write("www/digits.txt", DIGITS);
        tree.write("www/docs/index.html", "<h1>docs</h1>");
        tree.write("www/.env", SECRET);
        tree.write("big/digits.bin", DIGITS);
        tree.write("big/big file.zip", "zipped");
        tree.write("big/sub/page.html", "<p>");
        tree.write("big/.hidden", SECRET);
        symlink("../secret", tree.at("www/out")).unwrap();
        symlink("digits.txt", tree.at("www/link")).unwrap();
        symlink("../secret", tree.at("big/out")).unwrap();
        tree
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, content).unwrap();
    }

    /// `files = { … }` of `www`, with more keys.
    fn files(&self, more: &str) -> String {
        format!("files = {{ root = {:?}{more} }}", self.at("www"))
    }

    /// `[[accel]]` of `big`.
    fn accel(&self) -> String {
        format!("[[accel]]\ninternal = \"/protected/\"\nroot = {:?}", self.at("big"))
    }
}
