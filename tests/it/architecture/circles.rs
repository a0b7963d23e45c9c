//! Circles among the files within the modules: holds them to the table of circles in `docs/architecture.md`.
//!
//! A file uses another one if it names something that is defined there. Names are followed through imports and
//! re-exports to the file that defines them; a re-export (`pub use`) is no use of its own. Test code doesn't count,
//! and methods aren't seen: a call names no type.

use super::{document, files, is_within, module, table, tokens, Module};

use std::collections::{BTreeMap, BTreeSet};

/// Who uses whom: the user, the used file, and the names.
type Edges = BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>>;

/// A circle: files of which each can be reached from each.
type Circle = BTreeSet<Module>;

/// The words that declare an item.
const DECLARATIONS: [&str; 9] =
    ["struct", "enum", "trait", "fn", "const", "static", "type", "union", "macro_rules"];

/// The mark of code for tests.
const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// The most imports that a name is followed through.
const HOPS: usize = 16;

/// Where a path leads.
enum Place {
    /// To a module, and no further.
    Module(Module),
    /// To an item of this module.
    Item(Module),
}

/// What one module, of a file or inline, declares and imports.
#[derive(Default)]
struct Names {
    declared: BTreeSet<String>,
    /// Paths as they are written, by the name that they have here.
    imported: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
}

/// The crate without its tests.
#[derive(Default)]
struct House {
    files: BTreeSet<Module>,
    modules: BTreeMap<Module, Names>,
    /// The paths that are named, each with the module that does.
    paths: Vec<(Module, Vec<String>)>,
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Takes out what is marked with `#[cfg(test)]`; the modules that are declared so.
fn without_tests(tokens: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut names, mut at) = (Vec::with_capacity(tokens.len()), Vec::new(), 0);
    while at < tokens.len() {
        if !tokens[at..].iter().map(String::as_str).take(TEST.len()).eq(TEST) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += TEST.len();
        let mut depth = 0;
        while at < tokens.len() {
            match tokens[at].as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                "mod" if depth == 0 => names.push(tokens[at + 1].clone()),
                _ => {}
            }
            at += 1;
            if depth == 0 && matches!(tokens[at - 1].as_str(), "}" | ";") {
                break;
            }
        }
    }
    (kept, names)
}

/// Reads the `use` tree at `tokens[at]`: each path, with the name that it has here. Returns the end.
fn leaves(
    tokens: &[String],
    mut at: usize,
    base: &[String],
    found: &mut Vec<(Vec<String>, String)>,
) -> usize {
    let mut path = base.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("::") => {
                at += 1;
                continue;
            }
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t != "}") {
                    at = leaves(tokens, at, &path, found).max(at + 1);
                    at += usize::from(tokens.get(at).is_some_and(|t| t == ","));
                }
                return at + 1;
            }
            Some(word) if word == "*" || is_word(word) => path.push(word.to_owned()),
            _ => return at,
        }
        at += 1;
        let next = tokens.get(at).map(String::as_str);
        if next == Some("::") {
            continue;
        }
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let alias = (next == Some("as")).then(|| tokens.get(at + 1).cloned()).flatten();
        at += if alias.is_some() { 2 } else { 0 };
        let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
        found.push((path, name));
        return at;
    }
}

impl House {
    fn new<'s>(sources: impl IntoIterator<Item = (Module, &'s str)>) -> Self {
        let read: Vec<_> =
            sources.into_iter().map(|(here, source)| (here, without_tests(tokens(source)))).collect();
        let declared_for_tests = |(here, (_, names)): &(Module, (_, Vec<String>))| {
            names.iter().map(|name| child(here, name)).collect::<Vec<_>>()
        };
        let tests: Vec<Module> = read.iter().flat_map(declared_for_tests).collect();
        let is_test = |here: &Module| {
            here.last().is_some_and(|last| last == "tests") || tests.iter().any(|test| is_within(here, test))
        };
        let mut house = Self::default();
        for (here, (tokens, _)) in read.into_iter().filter(|(here, _)| !is_test(here)) {
            house.read(&here, &tokens);
            house.files.insert(here);
        }
        house
    }

    /// Collects what a file declares, imports and names.
    fn read(&mut self, here: &Module, tokens: &[String]) {
        let (mut module, mut braces, mut at) = (here.clone(), Vec::new(), 0);
        self.modules.entry(module.clone()).or_default();
        let token = |at: usize| tokens.get(at).map_or("", String::as_str);
        while at < tokens.len() {
            let before = at.checked_sub(1).map_or("", token);
            let (begins, next) = (!matches!(before, "::" | "."), token(at + 1));
            match token(at) {
                "use" if begins && next != "<" => {
                    let mut found = Vec::new();
                    at = leaves(tokens, at + 1, &[], &mut found);
                    self.import(&module, found, matches!(before, "pub" | ")"));
                    continue;
                }
                "{" => {
                    let is_module = at >= 2 && token(at - 2) == "mod";
                    if is_module {
                        module.push(before.to_owned());
                        self.modules.entry(module.clone()).or_default();
                    }
                    braces.push(is_module);
                }
                "}" => {
                    let ends_module = braces.pop() == Some(true);
                    module.truncate(module.len() - usize::from(ends_module));
                }
                word if DECLARATIONS.contains(&word)
                    && begins
                    && braces.iter().all(|is_module| *is_module) =>
                {
                    let name = if next == "!" { token(at + 2) } else { next };
                    self.modules.entry(module.clone()).or_default().declared.insert(name.to_owned());
                }
                word if is_word(word) && begins && next == "::" => {
                    let mut path = vec![word.to_owned()];
                    while token(at + 1) == "::" && is_word(token(at + 2)) {
                        path.push(token(at + 2).to_owned());
                        at += 2;
                    }
                    self.paths.push((module.clone(), path));
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn import(&mut self, module: &Module, found: Vec<(Vec<String>, String)>, is_public: bool) {
        for (mut path, name) in found {
            let names = self.modules.entry(module.clone()).or_default();
            if name == "*" {
                path.pop();
                names.globs.push(path);
                continue;
            }
            names.imported.insert(name, path.clone());
            if !is_public {
                self.paths.push((module.clone(), path));
            }
        }
    }

    /// Where a path leads that a module names; `None`: out of the crate.
    fn find(&self, from: &Module, path: &[String], hops: usize) -> Option<Place> {
        let (head, rest) = path.split_first()?;
        match head.as_str() {
            "crate" | "tidegate" => self.inside(Module::new(), rest, hops),
            "self" => self.inside(from.clone(), rest, hops),
            "super" => {
                let above = rest.iter().take_while(|word| *word == "super").count();
                let module = from.get(..from.len().checked_sub(above + 1)?)?;
                self.inside(module.to_vec(), &rest[above..], hops)
            }
            _ if self.is_known(from, head) => self.inside(from.clone(), path, hops),
            _ => None,
        }
    }

    fn is_known(&self, module: &Module, name: &str) -> bool {
        let knows = |names: &Names| names.declared.contains(name) || names.imported.contains_key(name);
        self.is_module(&child(module, name)) || self.modules.get(module).is_some_and(knows)
    }

    fn is_module(&self, module: &Module) -> bool {
        self.modules.contains_key(module)
    }

    /// Where a path leads from a module on.
    fn inside(&self, mut module: Module, path: &[String], hops: usize) -> Option<Place> {
        let (mut path, hops) = (path, hops.checked_sub(1)?);
        while let Some((name, rest)) = path.split_first() {
            let below = child(&module, name);
            if !self.is_module(&below) {
                break;
            }
            (module, path) = (below, rest);
        }
        let Some((name, rest)) = path.split_first() else { return Some(Place::Module(module)) };
        let Some(names) = self.modules.get(&module) else { return Some(Place::Item(module)) };
        if names.declared.contains(name) {
            return Some(Place::Item(module));
        }
        if let Some(import) = names.imported.get(name) {
            return match self.find(&module, import, hops)? {
                Place::Module(module) => self.inside(module, rest, hops),
                item @ Place::Item(_) => Some(item),
            };
        }
        let of_glob = names.globs.iter().find_map(|glob| match self.find(&module, glob, hops)? {
            Place::Module(opened) if self.is_known(&opened, name) => self.inside(opened, path, hops),
            _ => None,
        });
        of_glob.or(Some(Place::Item(module)))
    }

    /// The file that a module stands in.
    fn file(&self, module: &[String]) -> Option<&Module> {
        (1..=module.len()).rev().find_map(|length| self.files.get(&module[..length]))
    }

    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (from, path) in &self.paths {
            let Some(Place::Item(of)) = self.find(from, path, HOPS) else { continue };
            let (Some(user), Some(used)) = (self.file(from), self.file(&of)) else { continue };
            if user != used {
                let names = edges.entry(user.clone()).or_default().entry(used.clone()).or_default();
                names.insert(path.join("::"));
            }
        }
        edges
    }
}

fn child(module: &Module, name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

fn circles(edges: &Edges) -> BTreeSet<Circle> {
    let reached = |from: &Module| {
        let (mut seen, mut left) = (Circle::new(), vec![from]);
        while let Some(at) = left.pop() {
            left.extend(
                edges.get(at).into_iter().flat_map(BTreeMap::keys).filter(|to| seen.insert((*to).clone())),
            );
        }
        seen
    };
    let reach: BTreeMap<&Module, Circle> = edges.keys().map(|from| (from, reached(from))).collect();
    let leads = |from: &Module, to: &Module| reach.get(from).is_some_and(|seen| seen.contains(to));
    let round = reach.iter().filter(|(from, seen)| seen.contains(**from));
    round.map(|(from, seen)| seen.iter().filter(|to| leads(to, from)).cloned().collect()).collect()
}

/// A row of the table: the modules that the circle's files lie in, and the most files that it may have.
struct Row {
    modules: Vec<Module>,
    files: usize,
}

impl Row {
    fn is_of(&self, circle: &Circle) -> bool {
        circle.iter().all(|file| self.modules.iter().any(|module| is_within(file, module)))
            && self.modules.iter().all(|module| circle.iter().any(|file| is_within(file, module)))
    }
}

fn rows(document: &str) -> Vec<Row> {
    let row = |(modules, files): (Vec<String>, Vec<String>)| Row {
        modules: modules.iter().map(|name| module(name)).collect(),
        files: files.first().and_then(|files| files.parse().ok()).expect("a row with its number of files"),
    };
    table(document, "circle").into_iter().map(row).collect()
}

/// Where the circles differ from the table.
fn differences(edges: &Edges, rows: &[Row]) -> Vec<String> {
    let circles = circles(edges);
    let mut found = Vec::new();
    for circle in &circles {
        match rows.iter().find(|row| row.is_of(circle)) {
            None => found.push(format!("a circle that is not in the table:\n{}", drawn(edges, circle))),
            Some(row) if circle.len() > row.files => {
                let (files, of) = (circle.len(), row.files);
                found.push(format!("a circle of {files} files, above {of}:\n{}", drawn(edges, circle)));
            }
            Some(_) => {}
        }
    }
    for row in rows {
        let names: Vec<_> = row.modules.iter().map(|module| module.join("::")).collect();
        match circles.iter().filter(|circle| row.is_of(circle)).count() {
            0 => {
                found.push(format!("{}: there is no such circle: take it out of the table", names.join(", ")))
            }
            1 => {}
            several => found.push(format!("{}: {several} circles, not one", names.join(", "))),
        }
    }
    found
}

/// The uses that make a circle, one a line.
fn drawn(edges: &Edges, circle: &Circle) -> String {
    let line = |from: &Module, to: &Module, names: &BTreeSet<String>| {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        format!("  {} uses {}: {}", from.join("::"), to.join("::"), names.join(", "))
    };
    let within = edges.iter().filter(|(from, _)| circle.contains(*from));
    let lines = within.flat_map(|(from, uses)| {
        uses.iter().filter(|(to, _)| circle.contains(*to)).map(move |(to, names)| line(from, to, names))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_files_within_a_module_stand_on_each_other_without_circles_but_for_the_listed_ones() {
    let sources = files();
    let house = House::new(sources.iter().map(|(here, source)| (here.clone(), source.as_str())));
    let edges = house.edges();
    assert!(edges.len() > 100, "only {} files use others", edges.len());
    let found = differences(&edges, &rows(&document()));
    assert!(found.is_empty(), "open the circle, or defend it in docs/architecture.md:\n{}", found.join("\n"));
}

/// The uses of a made-up house, as `user used` lines.
fn uses_of(sources: &[(&str, &str)]) -> Vec<String> {
    let edges = House::new(sources.iter().map(|(here, source)| (module(here), *source))).edges();
    let pair = |from: &Module, to: &Module| format!("{} {}", from.join("::"), to.join("::"));
    edges.iter().flat_map(|(from, uses)| uses.keys().map(move |to| pair(from, to))).collect()
}

#[test]
fn a_use_is_of_the_file_that_defines_the_name() {
    let house = |user: &'static str| {
        [
            ("wall", "mod brick; mod paint; pub use brick::Clay; pub(super) use paint::{self as colour, *}; pub struct Stone;"),
            ("wall::brick", "pub struct Clay; pub mod kiln { pub fn fire() {} }"),
            ("wall::paint", "pub enum Hue { Red } pub fn paint() {}"),
            ("roof", user),
        ]
    };
    for (user, used) in [
        ("use crate::wall::Stone;", vec!["wall"]),
        ("use crate::wall::Clay;", vec!["wall::brick"]),
        ("use super::wall::{brick::kiln::fire, Clay as C};", vec!["wall::brick"]),
        ("use crate::wall::{self, Stone}; fn f() { wall::paint() }", vec!["wall"]),
        ("use crate::wall; fn f() { wall::colour::paint() }", vec!["wall::paint"]),
        ("fn f() -> crate::wall::Hue { crate::wall::Hue::Red }", vec!["wall::paint"]),
        ("use crate::wall as w; fn f() { w::brick::kiln::fire() }", vec!["wall::brick"]),
        ("mod tile { use super::super::wall::Stone; }", vec!["wall"]),
        ("use crate::wall;", vec![]),
        ("pub use crate::wall::Clay;", vec![]),
        ("use ::http::Method; use std::fmt; fn f() { fmt::Debug::fmt() }", vec![]),
        ("// use crate::wall::Clay;\nconst X: &str = \"crate::wall::Stone\";", vec![]),
        ("#[cfg(test)] mod tests { use crate::wall::Clay; }", vec![]),
        ("#[cfg(test)] use crate::wall::{Clay}; use crate::wall::Stone;", vec!["wall"]),
    ] {
        let expected: Vec<_> = used.iter().map(|used| format!("roof {used}")).collect();
        assert_eq!(uses_of(&house(user)), expected, "{user}");
    }
    let tests = [("wall", "#[cfg(test)] mod kit; pub struct Stone;"), ("wall::kit", "use super::Stone;")];
    assert!(uses_of(&tests).is_empty(), "a module of tests in a file of its own");
}

#[test]
fn a_circle_has_its_row_and_a_row_its_circle() {
    const DOCUMENT: &str = "\
| circle | most files | why |
|---|---|---|
| `wall` | `2` | a wall is made of bricks, and these know their wall |
";
    let found = |sources: &[(&str, &str)], document: &str| {
        let house = House::new(sources.iter().map(|(here, source)| (module(here), *source)));
        differences(&house.edges(), &if document.is_empty() { vec![] } else { rows(document) })
    };
    let wall = ("wall", "mod brick; use brick::Clay; pub struct Stone;");
    let brick = ("wall::brick", "use super::Stone; pub struct Clay;");
    let straight = ("wall::brick", "pub struct Clay;");
    assert_eq!(found(&[wall, brick], DOCUMENT), Vec::<String>::new());
    assert_eq!(
        found(&[wall, brick], ""),
        ["a circle that is not in the table:\n  wall uses wall::brick: brick::Clay\n  wall::brick uses wall: super::Stone"]
    );
    assert_eq!(found(&[wall, straight], ""), Vec::<String>::new());
    assert_eq!(
        found(&[wall, straight], DOCUMENT),
        ["wall: there is no such circle: take it out of the table"]
    );
    let more = [
        ("wall", "mod brick; mod tile; use brick::Clay; pub struct Stone;"),
        ("wall::brick", "use super::{tile::Tile, Stone}; pub struct Clay;"),
        ("wall::tile", "use super::Stone; pub struct Tile;"),
    ];
    assert_eq!(found(&more, DOCUMENT).len(), 1, "it grows");
    let another = [
        wall,
        brick,
        ("wall::a", "use super::b::B; pub struct A;"),
        ("wall::b", "use super::a::A; pub struct B;"),
    ];
    assert_eq!(found(&another, DOCUMENT), ["wall: 2 circles, not one"]);
    let elsewhere = [
        wall,
        brick,
        ("door", "mod hinge; use hinge::Pin; pub struct Leaf;"),
        ("door::hinge", "use super::Leaf; pub struct Pin;"),
    ];
    assert_eq!(found(&elsewhere, DOCUMENT).len(), 1, "its row is of another module");
}
