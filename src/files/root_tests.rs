//! Tests with a real tree, a secret beside it, and many paths that try to reach it.

use super::*;
use crate::files::path::relative_path;

use proptest::prelude::*;
use rustix::fs::mkfifoat;
use std::{
    fs,
    io::Read,
    os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener},
};
use tempfile::TempDir;

const SECRET: &str = "the secret";

/// `tree/` is the root; `secret` and `treehouse/secret` stand beside it.
struct House {
    dir: TempDir,
}

impl House {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["tree/a/b", "tree/empty", "treehouse"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["secret", "treehouse/secret"] {
            fs::write(at(name), SECRET).unwrap();
        }
        for name in ["tree/x", "tree/a/x", "tree/a/b/x", "tree/big file.zip", "tree/.hidden"] {
            fs::write(at(name), "inside").unwrap();
        }
        symlink("x", at("tree/to_file")).unwrap();
        symlink("a", at("tree/to_directory")).unwrap();
        symlink("../../x", at("tree/a/b/up_and_in")).unwrap();
        symlink("../secret", at("tree/out")).unwrap();
        symlink("..", at("tree/parent")).unwrap();
        symlink(at("secret"), at("tree/absolute")).unwrap();
        symlink(at("tree/x"), at("tree/absolute_in")).unwrap();
        symlink("/proc/self/root", at("tree/magic")).unwrap();
        symlink("loop", at("tree/loop")).unwrap();
        Self { dir }
    }

    fn root(&self, symlinks: bool, whole: bool) -> FileRoot {
        FileRoot { whole, ..FileRoot::new(self.dir.path().join("tree"), symlinks) }
    }
}

fn content(root: &FileRoot, raw: &[u8]) -> Result<String, String> {
    let path = relative_path(raw, true).map_err(|error| error.to_string())?;
    match root.open(&path, DiskWait::Any).map_err(|error| error.to_string())? {
        PathEntry::Directory => Ok("a directory".to_owned()),
        PathEntry::File(opened) => {
            let mut text = String::new();
            (&opened.file).read_to_string(&mut text).unwrap();
            assert_eq!(opened.stamp.length, text.len() as u64);
            Ok(text)
        }
    }
}

#[test]
fn the_kernel_of_these_tests_confines() {
    assert!(beneath::is_there(), "openat2 is not there: half of these tests say nothing");
}

#[test]
fn files_and_directories_are_found_however_they_are_opened() {
    let house = House::new();
    for (symlinks, whole) in [(false, true), (true, true), (false, false), (true, false)] {
        let root = house.root(symlinks, whole);
        for raw in ["x", "a/x", "a/b/x", "/a//x", "big%20file.zip", ".hidden"] {
            assert_eq!(content(&root, raw.as_bytes()).as_deref(), Ok("inside"), "{raw}");
        }
        for raw in ["", "a", "a/", "empty"] {
            assert_eq!(content(&root, raw.as_bytes()).as_deref(), Ok("a directory"), "{raw}");
        }
        for raw in ["y", "a/y", "x/y", "empty/x", &"n".repeat(300), &"d/".repeat(1900)] {
            let told = content(&root, raw.as_bytes());
            assert_eq!(told, Err(OpenError::NotFound.to_string()), "{raw}");
        }
    }
}

#[test]
fn links_are_followed_only_where_allowed_and_never_out() {
    let house = House::new();
    let refused = Err(OpenError::Link.to_string());
    let none = house.root(false, true);
    let within = house.root(true, true);
    for raw in ["to_file", "to_directory/x", "a/b/up_and_in"] {
        assert_eq!(content(&none, raw.as_bytes()), refused, "{raw}");
        assert_eq!(content(&within, raw.as_bytes()).as_deref(), Ok("inside"), "{raw}");
    }
    for raw in [
        "out",
        "parent/secret",
        "parent/treehouse/secret",
        "absolute",
        "absolute_in",
        "magic/etc/passwd",
        "loop",
    ] {
        assert_eq!(content(&none, raw.as_bytes()), refused, "{raw}");
        assert_eq!(content(&within, raw.as_bytes()), refused, "{raw}");
    }
    // Without openat2 none is followed.
    for root in [house.root(false, false), house.root(true, false)] {
        for raw in
            ["to_file", "to_directory/x", "out", "parent/secret", "absolute", "magic/etc/passwd", "loop"]
        {
            assert!(content(&root, raw.as_bytes()).is_err(), "{raw}");
        }
    }
}

#[test]
fn what_is_no_regular_file_does_not_hang() {
    let house = House::new();
    let tree = house.dir.path().join("tree");
    let directory = File::open(&tree).unwrap();
    mkfifoat(&directory, "pipe", Mode::RUSR | Mode::WUSR).unwrap();
    let _listener = UnixListener::bind(tree.join("socket")).unwrap();
    for whole in [true, false] {
        let root = house.root(false, whole);
        for raw in ["pipe", "socket"] {
            let told = content(&root, raw.as_bytes());
            assert_eq!(told, Err(OpenError::NotRegular.to_string()), "{raw}");
        }
    }
    let devices = FileRoot::new("/dev".into(), false);
    assert_eq!(content(&devices, b"null"), Err(OpenError::NotRegular.to_string()));
}

#[test]
fn a_root_may_come_later_and_be_moved() {
    let dir = TempDir::new().unwrap();
    let root = FileRoot::new(dir.path().join("current"), false);
    assert_eq!(content(&root, b"x"), Err(OpenError::NotFound.to_string()));
    for release in ["one", "two"] {
        fs::create_dir(dir.path().join(release)).unwrap();
        fs::write(dir.path().join(release).join("x"), release).unwrap();
    }
    symlink("one", dir.path().join("current")).unwrap();
    assert_eq!(content(&root, b"x").as_deref(), Ok("one"));
    symlink("two", dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), dir.path().join("current")).unwrap();
    let long_ago = Instant::now().checked_sub(ROOT_LIFETIME).unwrap();
    root.open.lock().as_mut().unwrap().1 = long_ago;
    assert_eq!(content(&root, b"x").as_deref(), Ok("two"));
}

#[test]
fn what_is_in_memory_is_opened_without_waiting() {
    let house = House::new();
    let root = house.root(false, true);
    content(&root, b"a/x").unwrap();
    let path = relative_path(b"a/x", false).unwrap();
    assert!(matches!(root.open(&path, DiskWait::None), Ok(PathEntry::File(_))));
    assert!(matches!(house.root(false, false).open(&path, DiskWait::None), Err(OpenError::NotNow)));
}

/// Pieces of paths that have led out of something, somewhere.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "a", "b", "x", "secret", "tree", "treehouse", "to_file", "to_directory", "out", "parent", "absolute",
            "absolute_in", "magic", "up_and_in", "loop", "empty", ".hidden",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        6 => prop::sample::select(vec![
            "/", "//", "..", "../", "./", ".", "%2e", "%2E%2e", "%2f", "%5c", "\\", "%00", "..%2f", "..\\",
            "%252e%252e%252f", "%c0%ae", "\u{ff0e}\u{ff0e}", "\u{2024}\u{2024}", "C:", "~", "file:///", "proc/self/cwd",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_ever_leaves_the_root(raws in prop::collection::vec(soup(), 8), symlinks: bool, whole: bool) {
        static HOUSE: std::sync::OnceLock<House> = std::sync::OnceLock::new();
        let house = HOUSE.get_or_init(House::new);
        let root = house.root(symlinks, whole);
        let outside = house.dir.path().as_os_str().as_bytes().to_vec();
        for raw in raws {
            let absolute = [&outside[..], b"/", &raw].concat();
            for raw in [raw, absolute] {
                if let Ok(text) = content(&root, &raw) {
                    prop_assert!(text == "inside" || text == "a directory", "{}: {text}", String::from_utf8_lossy(&raw));
                }
            }
        }
    }

    /// The kernel confines paths as well, also those that `path` would refuse.
    #[test]
    fn the_system_alone_confines_as_well(raw in soup(), symlinks: bool) {
        static HOUSE: std::sync::OnceLock<House> = std::sync::OnceLock::new();
        let house = HOUSE.get_or_init(House::new);
        let root = house.root(symlinks, true);
        let Ok(text) = std::str::from_utf8(&raw) else { return Ok(()) };
        if let Ok(PathEntry::File(opened)) = root.open_at(text, DiskWait::Any) {
            let mut read = String::new();
            (&opened.file).read_to_string(&mut read).unwrap();
            prop_assert_eq!(read, "inside", "{}", text);
        }
    }
}

#[test]
fn a_directory_that_is_moved_out_takes_no_one_along() {
    let house = House::new();
    let (root, tree) = (house.root(true, true), house.dir.path().join("tree"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let outside = house.dir.path().join("moved");
                fs::rename(tree.join("a"), &outside).unwrap();
                fs::rename(outside, tree.join("a")).unwrap();
            }
        });
        for _ in 0..2000 {
            if let Ok(text) = content(&root, b"a/b/up_and_in") {
                assert_eq!(text, "inside");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
