//! Imports between modules: holds every file of `src/` to the tables in `docs/architecture.md`.
//!
//! Reads `use` trees and paths in the code, tests included; comments and texts don't count. The tables are parsed
//! out of the document, so that the document and this test can't differ. A path that a macro makes up isn't seen.
//! Circles among the files within a module: `circles`.
//! The tests that `docs/from-nginx.md` names are looked up as well, and the words of answers and records in `docs/errors.md`.

mod circles;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A module's path: `["cache", "key"]`.
type Module = Vec<String>;

/// A row of the first table: a module and the modules that it may use.
type Walls = BTreeMap<Module, Vec<Module>>;

/// The module that everyone may use.
const GROUND: &str = "http";

/// A row of the second table: a decider and the Pingora crates whose types it may name.
type Deciders = BTreeMap<Module, Vec<String>>;

fn module(text: &str) -> Module {
    text.split("::").map(str::to_owned).collect()
}

fn is_within(path: &[String], wall: &[String]) -> bool {
    path.starts_with(wall)
}

/// The rows of the table whose head begins with `first`; of each row its first two cells' `code` texts.
fn table(document: &str, first: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let rows: Vec<_> = document
        .lines()
        .skip_while(|line| !line.starts_with(&format!("| {first} |")))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            assert!(cells.len() >= 2, "a row without cells: {line}");
            (code(cells[0]), code(cells[1]))
        })
        .collect();
    assert!(!rows.is_empty(), "docs/architecture.md has no table of {first}");
    rows
}

fn walls(document: &str) -> Walls {
    let rows = table(document, "module");
    let each = |(names, may): (Vec<String>, Vec<String>)| {
        let may: Vec<Module> = may.iter().map(|m| module(m)).collect();
        names.into_iter().map(move |name| (module(&name), may.clone())).collect::<Vec<_>>()
    };
    rows.into_iter().flat_map(each).collect()
}

fn deciders(document: &str) -> Deciders {
    let rows = table(document, "decider");
    rows.into_iter()
        .flat_map(|(names, may)| names.into_iter().map(move |n| (module(&n), may.clone())))
        .collect()
}

/// The words and signs of a source text, without comments, texts, characters and lifetimes.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut out, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            // A character ends with a quote; a lifetime is a word that doesn't.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            } else if at(i + 2) == '\'' {
                i += 3;
            } else {
                i += 1;
            }
        } else if c.is_alphanumeric() || c == '_' {
            let begin = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            let word: String = chars[begin..i].iter().collect();
            let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
            if matches!(word.as_str(), "r" | "br") && at(i + hashes) == '"' {
                let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let rest: String = chars[i + hashes + 1..].iter().collect();
                let length = rest.find(&end).map_or(rest.len(), |b| rest[..b].chars().count());
                i += hashes + 1 + length + end.len();
            } else {
                out.push(word);
            }
        } else if c == ':' && at(i + 1) == ':' {
            out.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                out.push(c.to_string());
            }
            i += 1;
        }
    }
    out
}

/// Reads a path or a `use` tree that goes on at `tokens[at]`; where it ends.
fn tree(tokens: &[String], mut at: usize, base: &Module, found: &mut BTreeSet<Module>) -> usize {
    let mut path = base.clone();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t != "}") {
                    let next = tree(tokens, at, &path, found);
                    at = next.max(at + 1);
                    while tokens.get(at).is_some_and(|t| t != "," && t != "}") {
                        at += 1;
                    }
                    if tokens.get(at).is_some_and(|t| t == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some("super") => drop(path.pop()),
            Some("self") => {}
            Some(word) if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(word.to_owned())
            }
            _ => {
                found.insert(path);
                return at;
            }
        }
        at += 1;
        if tokens.get(at).is_none_or(|t| t != "::") {
            found.insert(path);
            return at;
        }
        at += 1;
    }
}

/// Every path into this crate that a file names. `here` is the file's module.
fn uses(here: &Module, source: &str) -> BTreeSet<Module> {
    let tokens = tokens(source);
    let is_main = here == &["main"];
    let mut found = BTreeSet::new();
    let (mut module, mut braces, mut at) = (here.clone(), Vec::new(), 0);
    while at < tokens.len() {
        let begins = at == 0 || tokens[at - 1] != "::";
        let goes_on = tokens.get(at + 1).is_some_and(|t| t == "::");
        let next = match tokens[at].as_str() {
            "crate" if goes_on => Some(tree(&tokens, at + 2, &Vec::new(), &mut found)),
            "tidegate" if goes_on && is_main && begins => {
                Some(tree(&tokens, at + 2, &Vec::new(), &mut found))
            }
            "super" | "self" if goes_on && begins => Some(tree(&tokens, at, &module, &mut found)),
            "{" => {
                let named = at >= 2 && tokens[at - 2] == "mod";
                if named {
                    module.push(tokens[at - 1].clone());
                }
                braces.push(named);
                None
            }
            "}" => {
                if braces.pop() == Some(true) {
                    module.pop();
                }
                None
            }
            _ => None,
        };
        at = next.unwrap_or(at + 1).max(at + 1);
    }
    found
}

/// The row that a module is held to: the longest that it lies within.
fn row<'w>(walls: &'w Walls, of: &Module) -> Option<(&'w Module, &'w Vec<Module>)> {
    walls.iter().filter(|(wall, _)| is_within(of, wall)).max_by_key(|(wall, _)| wall.len())
}

/// Returns the uses of a file that its row doesn't allow.
fn trespasses(walls: &Walls, here: &Module, source: &str) -> Vec<String> {
    let Some((own, may)) = row(walls, here) else {
        return vec![format!("{} has no row in docs/architecture.md", here.join("::"))];
    };
    let outside = |path: &Module| !path.is_empty() && !is_within(path, own);
    let allowed = |path: &Module| top(path) == GROUND || may.iter().any(|m| is_within(path, m));
    let found = uses(here, source);
    let refused = found.iter().filter(|path| outside(path) && !allowed(path));
    refused.map(|path| format!("{} may not use {}", here.join("::"), path.join("::"))).collect()
}

/// Returns the uses of a decider that only other modules may have.
fn impurities(here: &Module, source: &str, may: &[String]) -> Vec<String> {
    let tokens = tokens(source);
    let mut found = BTreeSet::new();
    for (i, token) in tokens.iter().enumerate() {
        let before = i.checked_sub(1).map_or("", |b| tokens[b].as_str());
        let after = tokens.get(i + 1).map_or("", String::as_str);
        let crates = token.starts_with("pingora") || token.starts_with("tokio") || token == "redis";
        let clock = match token.as_str() {
            "now" => before == "::",
            "now_ms" | "wall_ms" => after == "(",
            // Its types are values.
            "clock" => after == "::" && tokens.get(i + 2).is_none_or(|next| next != "ClockReading"),
            "elapsed" => before == ".",
            _ => false,
        };
        if (crates && !may.contains(token)) || clock {
            found.insert(format!("{}: a decider that uses `{token}`", here.join("::")));
        }
    }
    found.into_iter().collect()
}

/// A way around from a module to itself, among top-level modules.
fn circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(at: &str, edges: &BTreeMap<String, BTreeSet<String>>, way: &mut Vec<String>) -> bool {
        if let Some(begin) = way.iter().position(|m| m == at) {
            way.drain(..begin);
            return true;
        }
        way.push(at.to_owned());
        if edges.get(at).into_iter().flatten().any(|next| walk(next, edges, way)) {
            return true;
        }
        way.pop();
        false
    }
    edges.keys().find_map(|from| {
        let mut way = Vec::new();
        walk(from, edges, &mut way).then_some(way)
    })
}

fn top(module: &[String]) -> String {
    module.first().cloned().unwrap_or_default()
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    fs::read_to_string(path).expect("docs/architecture.md")
}

/// Every file of `src/` as its module and its text. `lib.rs` only lists the modules.
fn files() -> Vec<(Module, String)> {
    fn collect(directory: &Path, here: &Module, out: &mut Vec<(Module, String)>) {
        for entry in fs::read_dir(directory).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            let stem = path.file_stem().and_then(|s| s.to_str()).expect("a name in UTF-8").to_owned();
            // `headers_tests.rs` is `mod tests` of `headers.rs`, moved out by `#[path]`.
            let names = stem.strip_suffix("_tests").map_or(vec![stem.as_str()], |of| vec![of, "tests"]);
            let child = || here.iter().cloned().chain(names.iter().map(|n| (*n).to_owned())).collect();
            if path.is_dir() {
                collect(&path, &child(), out);
            } else if path.extension().is_some_and(|e| e == "rs") && !(here.is_empty() && stem == "lib") {
                let module = if stem == "mod" { here.clone() } else { child() };
                out.push((module, fs::read_to_string(&path).expect("a source file")));
            }
        }
    }
    let mut out = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &Vec::new(), &mut out);
    assert!(out.len() > 50, "only {} files were found", out.len());
    out
}

#[test]
fn nobody_uses_whom_the_table_does_not_allow() {
    let (walls, files) = (walls(&document()), files());
    let found: Vec<_> = files.iter().flat_map(|(here, source)| trespasses(&walls, here, source)).collect();
    assert!(found.is_empty(), "move the wall in docs/architecture.md or the code:\n{}", found.join("\n"));
}

#[test]
fn the_table_allows_nothing_that_is_not_there() {
    let (walls, files) = (walls(&document()), files());
    for (wall, may) in &walls {
        let held: Vec<_> =
            files.iter().filter(|(here, _)| row(&walls, here).is_some_and(|r| r.0 == wall)).collect();
        assert!(!held.is_empty(), "no file is held to the row of {}", wall.join("::"));
        let used: BTreeSet<_> = held.iter().flat_map(|(here, source)| uses(here, source)).collect();
        for target in may {
            let needed = used.iter().any(|path| is_within(path, target));
            assert!(
                needed,
                "{} doesn't use {}: take it out of the table",
                wall.join("::"),
                target.join("::")
            );
        }
    }
}

#[test]
fn the_wall_clock_is_read_in_one_place() {
    let reads = |(here, source): &(Module, String)| {
        let tokens = tokens(source);
        let read = tokens.windows(3).any(|three| three == ["SystemTime", "::", "now"]);
        (read && !matches!(here[0].as_str(), "clock" | "demo")).then(|| here.join("::"))
    };
    let found: Vec<_> = files().iter().filter_map(reads).collect();
    assert!(found.is_empty(), "lifetimes go by clock::now_ms, what is told by clock::wall: {found:?}");
}

#[test]
fn the_modules_stand_on_each_other_without_circles() {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (here, source) in files() {
        let found = uses(&here, &source);
        let others = found.iter().map(|path| top(path)).filter(|to| !to.is_empty() && *to != top(&here));
        edges.entry(top(&here)).or_default().extend(others);
    }
    assert_eq!(circle(&edges), None);
    let users = |of: &str| {
        edges.iter().filter(|(_, to)| to.contains(of)).map(|(m, _)| m.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(users("gateway"), ["listen", "server"]);
    assert!(!users("cache").contains(&"representation"));
}

/// All files with an extension below a directory.
fn files_below(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("a directory that can be read") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => left.push(path),
                false if path.extension().is_some_and(|e| e == extension) => found.push(path),
                false => {}
            }
        }
    }
    found
}

/// True if the tests hold `area::part::name`, in a file of `tests/it/` or `src/` whose path ends with `area/part`, or a file of
/// that name.
fn holds_test(named: &str) -> bool {
    let (place, name) = named.rsplit_once("::").map_or((named, None), |(place, name)| (place, Some(name)));
    let place = place.strip_suffix("::tests").unwrap_or(place).replace("::", "/");
    let ends = [".rs", "_tests.rs", "/mod.rs", "/tests.rs"].map(|end| format!("/{place}{end}"));
    let is_meant =
        |path: &&PathBuf| path.to_str().is_some_and(|path| ends.iter().any(|end| path.ends_with(end)));
    let mut files = files_below("tests/it", "rs");
    files.append(&mut files_below("src", "rs"));
    let mut meant = files.iter().filter(is_meant);
    match name.map(|name| format!("fn {name}(")) {
        None => meant.next().is_some(),
        Some(test) => meant.any(|file| fs::read_to_string(file).is_ok_and(|source| source.contains(&test))),
    }
}

#[test]
fn the_tests_that_show_a_directive_are_there() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/from-nginx.md");
    let document = fs::read_to_string(path).expect("docs/from-nginx.md");
    let rows = document.lines().filter(|line| line.starts_with("| ") && line.ends_with("` |"));
    let named: Vec<_> = rows
        .filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | "))
        .flat_map(|(_, tests)| tests.split('`').skip(1).step_by(2))
        .collect();
    assert!(named.len() > 20, "only {} tests are named", named.len());
    let missing: Vec<_> = named.iter().filter(|test| !holds_test(test)).collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:?}");
}

#[test]
fn deciders_are_pure() {
    let (deciders, files) = (deciders(&document()), files());
    for (decider, may) in &deciders {
        let (here, source) = files
            .iter()
            .find(|(here, _)| here == decider)
            .unwrap_or_else(|| panic!("no {}", decider.join("::")));
        let found = impurities(here, source, may);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// The checker itself, on a made-up house.
mod checker {
    use super::*;

    const DOCUMENT: &str = "\
# A house

| module | may use | why |
|---|---|---|
| `roof` | `wall::brick`, `door` | |
| `wall` | – | stands on nothing |
| `wall::brick`, `door` | `wall` | |

| decider | may name |
|---|---|
| `door` | `pingora_http` |
";

    fn refused(here: &str, source: &str) -> Vec<String> {
        trespasses(&walls(DOCUMENT), &module(here), source)
    }

    #[test]
    fn a_violation_is_found_however_it_is_written() {
        for source in [
            "use crate::wall::Paint;",
            "use crate::{door::Handle, wall::{brick::Clay, Paint}};",
            "use crate::{\n    door,\n    wall::{self, brick},\n};",
            "fn f() { crate::wall::paint(); }",
            "fn f(x: Vec<crate::wall::Paint>) {}",
            "use super::wall;",
            "mod tests { use super::super::wall::Paint; }",
            "const A: char = '\"'; use crate::wall::Paint; const B: char = '\"';",
            "fn f<'a>(x: &'a str) { let _y = r#\"\"\"#; crate::wall::paint(x) }",
        ] {
            assert_eq!(refused("roof", source).len(), 1, "{source}: {:?}", refused("roof", source));
        }
        assert_eq!(refused("roof", "use crate::wall::Paint;"), ["roof may not use wall::Paint"]);
        assert_eq!(refused("cellar", "").len(), 1, "a module without a row");
    }

    #[test]
    fn what_is_allowed_or_is_no_code_passes() {
        for (here, source) in [
            ("roof", "use crate::{door::{self, Handle}, wall::brick::Clay as C};"),
            ("roof", "// crate::wall::Paint\n/* crate::wall /* :: */ ::Paint */ const X: &str = \"crate::wall::Paint\";"),
            ("roof", "const X: &str = r#\"\" crate::wall::Paint \"#; pub(crate) fn f() {}"),
            ("roof::tile", "use super::Roof; use crate::door::Handle; mod tests { use super::*; }"),
            ("wall", "use self::brick::Clay; use crate::wall::Paint;"),
            ("wall::brick", "use super::Paint;"),
            ("door", "mod inner { use super::Handle; } use crate::wall::Paint;"),
        ] {
            assert_eq!(refused(here, source), Vec::<String>::new(), "{source}");
        }
        assert_eq!(
            refused("wall::stone", "use crate::door::Handle;").len(),
            1,
            "a child is held to its parent's row"
        );
        assert_eq!(refused("wall::brick", "use crate::roof::Tile;").len(), 1);
    }

    #[test]
    fn the_program_itself_names_the_library() {
        assert_eq!(
            uses(&module("main"), "fn main() { tidegate::cli::main() }"),
            [module("cli::main")].into()
        );
        assert!(uses(&module("roof"), "fn f() { tidegate::cli::main() }").is_empty());
    }

    #[test]
    fn a_circle_is_found() {
        let edge = |from: &str, to: &[&str]| (from.to_owned(), to.iter().map(|t| (*t).to_owned()).collect());
        let straight = [edge("a", &["b", "c"]), edge("b", &["c"]), edge("c", &[])];
        assert_eq!(circle(&straight.into()), None);
        let round = [edge("a", &["b"]), edge("b", &["c", "d"]), edge("d", &["b"])];
        assert_eq!(circle(&round.into()), Some(vec!["b".to_owned(), "d".to_owned()]));
    }

    #[test]
    fn an_impure_decider_is_found() {
        let may = &deciders(DOCUMENT)[&module("door")];
        let found = |source: &str| impurities(&module("door"), source, may).len();
        for source in [
            "use tokio::sync::Mutex;",
            "fn f() { std::time::Instant::now(); }",
            "use std::time::SystemTime as T; fn f() { T::now(); }",
            "fn f() { let now = SystemTime::now(); }",
            "fn f() { crate::wall::now_ms(); }",
            "use crate::clock::{self, wall};",
            "fn f(t: Instant) { t.elapsed(); }",
            "use pingora_core::Error;",
        ] {
            assert_eq!(found(source), 1, "{source}");
        }
        let pure =
            "use pingora_http::ResponseHeader; fn f(now: Instant, now_ms: u64) {} // tokio, Instant::now()";
        assert_eq!(found(pure), 0);
    }
}

/// The text from `begin` to the next line that is `end`.
fn block<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
    let at = text.find(begin).unwrap_or_else(|| panic!("no {begin:?}"));
    let rest = &text[at..];
    &rest[..rest.find(&format!("\n{end}\n")).unwrap_or_else(|| panic!("{begin:?} has no end"))]
}

/// The words behind each `mark` in a text: what stands between the quotes, or in small letters and signs.
fn words_after<'t>(text: &'t str, mark: &str) -> Vec<&'t str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    let word = |rest: &'t str| &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
    text.split(mark).skip(1).map(word).filter(|word| word.len() > 1).collect()
}

/// Every word that `result` and `detail` can be, as the code declares or writes it.
fn words_of_answers() -> BTreeSet<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let labels = read("src/telemetry/labels.rs");
    let enums = [
        "CacheResult",
        "FillOutcome",
        "RejectReason",
        "EventResult",
        "CutReason",
        "RefuseReason",
        "FileOutcome",
        "AccelOutcome",
    ];
    let mut words: BTreeSet<String> = BTreeSet::new();
    for name in enums {
        let found = words_after(block(&labels, &format!("    {name} {{"), "    }"), "=> \"");
        assert!(found.len() > 1, "{name} has no words");
        words.extend(found.into_iter().map(str::to_owned));
    }
    let identity = read("src/identity/mod.rs");
    let signature = read("src/events/signature.rs");
    for declared in [&identity, &signature].map(|source| block(source, "refusal_reasons! {\n", "}")) {
        words.extend(words_after(declared, "=> \"").into_iter().map(str::to_owned));
    }
    let follow = read("src/cache/policy/origin_driven/mod.rs");
    words.extend(
        words_after(block(&follow, "impl RevalidateReason {", "}"), "=> \"").into_iter().map(str::to_owned),
    );
    let mut files = files_below("src/gateway", "rs");
    files.append(&mut files_below("src/cache", "rs"));
    for path in files {
        let text = fs::read_to_string(&path).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let marks = [
            "detail = Some(\"",
            ".or(Some(\"",
            "Stale, Some(\"",
            "local(\"",
            "detail(Some(\"",
            "detail.unwrap_or(\"",
            "_ERROR: &str = \"",
            "_ORIGIN: &str = \"",
            "_ => \"",
        ];
        for mark in marks {
            words.extend(words_after(code, mark).into_iter().map(str::to_owned));
        }
    }
    let refusal = read("src/gateway/respond/errors.rs");
    words.extend(words_after(block(&refusal, "fn error_name", "}"), "=> \"").into_iter().map(str::to_owned));
    words
}

#[test]
fn every_word_of_answers_and_records_has_its_row() {
    let document = fs::read_to_string("docs/errors.md").expect("docs/errors.md");
    let cells = document.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let documented: BTreeSet<&str> = cells.flat_map(|cell| cell.split('`').step_by(2)).collect();
    let words = words_of_answers();
    let missing: Vec<_> = words.iter().filter(|word| !documented.contains(word.as_str())).collect();
    assert!(missing.is_empty(), "docs/errors.md has no row for {missing:?}");
    let unknown: Vec<_> = documented
        .iter()
        .filter(|word| !word.is_empty() && !word.starts_with(", ") && !words.contains(**word))
        .collect();
    assert!(unknown.is_empty(), "docs/errors.md has rows for words that the code doesn't have: {unknown:?}");
}
