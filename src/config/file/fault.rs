//! Faults in a configuration and their positions: the collector that every reader and check reports into, and
//! the lines that are shown to a person.
//!
//! A message never holds a secret: it names types, keys, variables and files, and quotes a value only where
//! the value is a word of a known list, a number with its unit or the name of something.

use super::{place::FilePlace, syntax};
use crate::config::file_stamp::FileStamp;
use std::{fmt, path::PathBuf};

/// Why a configuration is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, not readable or not UTF-8.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file was read, and this is wrong with it.
    #[error(transparent)]
    Faults(#[from] ConfigFaults),
}

/// Everything that is wrong with one file, in the file's order. Displayed as one line per fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults {
    file: String,
    faults: Vec<ConfigFault>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The dotted key, such as `route[2].cache.ttl`; empty where the TOML itself is broken.
    pub key: String,
    /// The description of the fault, without its place.
    pub message: String,
    /// The nearest known word.
    pub suggestion: Option<String>,
}

impl ConfigFaults {
    /// The faults, at least one.
    pub fn list(&self) -> &[ConfigFault] {
        &self.faults
    }
}

impl std::error::Error for ConfigFaults {}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let end_of_last = if index == 0 { "" } else { "\n" };
            write!(f, "{end_of_last}{}:{fault}", self.file)?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(word) => write!(f, ", did you mean {word:?}?"),
            None => Ok(()),
        }
    }
}

/// Collects faults and warnings while a file is read and checked.
#[derive(Debug, Default)]
pub(crate) struct FaultReport {
    faults: Vec<FaultNote>,
    warnings: Vec<FaultNote>,
    /// The files that secrets were read from.
    pub(crate) secret_files: Vec<(PathBuf, FileStamp)>,
}

#[derive(Debug)]
struct FaultNote {
    place: FilePlace,
    message: String,
    suggestion: Option<String>,
}

impl FaultReport {
    pub(crate) fn fault(&mut self, place: &FilePlace, message: impl Into<String>) {
        self.faults.push(FaultNote { place: place.clone(), message: message.into(), suggestion: None });
    }

    /// Reports `word`, which is none of `known`: names the nearest of them, or all if none is near.
    pub(crate) fn unknown<'k>(
        &mut self,
        place: &FilePlace,
        message: impl Into<String>,
        word: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) {
        let known: Vec<&str> = known.into_iter().collect();
        let suggestion = nearest(word, &known);
        let mut message = message.into();
        if suggestion.is_none() && !known.is_empty() {
            message.push_str(&format!(", known: {}", known.join(", ")));
        }
        self.faults.push(FaultNote { place: place.clone(), message, suggestion });
    }

    pub(crate) fn warn(&mut self, place: &FilePlace, message: impl Into<String>) {
        self.warnings.push(FaultNote { place: place.clone(), message: message.into(), suggestion: None });
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Adds the parser's errors, and drops other faults of the same lines, which follow from them.
    pub(crate) fn with_syntax(mut self, errors: &[toml::de::Error], text: &str) -> Self {
        let offsets: Vec<usize> = errors.iter().map(|e| e.span().map_or(0, |span| span.start)).collect();
        let broken: Vec<usize> = offsets.iter().map(|offset| position(text, *offset).0).collect();
        // Everything after an unclosed bracket was read as something else.
        let open = syntax::find_unclosed(text);
        let follows = |offset: usize| open.is_some_and(|open| offset >= open);
        self.faults.retain(|note| {
            !broken.contains(&position(text, note.place.offset).0) && !follows(note.place.offset)
        });
        if let Some(offset) = open {
            let place = FilePlace { offset, key: String::new() };
            self.fault(&place, "this bracket is not closed before the next key or table");
        }
        // The keys below a duplicate header are no faults of their own.
        let mut twice = None;
        for (error, offset) in errors.iter().zip(offsets).filter(|(_, offset)| !follows(*offset)) {
            let place = FilePlace { offset, key: String::new() };
            let hint = table_hint(text, offset);
            let header = header_before(text, offset);
            if hint.is_empty() && twice.is_some() && twice == header {
                continue;
            }
            twice = header.filter(|_| !hint.is_empty());
            self.fault(&place, format!("{}{hint}", error.message().replace('\n', " ")));
        }
        self
    }

    pub(crate) fn into_faults(self, text: &str, file: &str) -> ConfigFaults {
        ConfigFaults { file: file.to_owned(), faults: located(self.faults, text) }
    }

    pub(crate) fn into_warnings(self, text: &str, file: &str) -> Vec<String> {
        located(self.warnings, text).iter().map(|warning| format!("{file}:{warning}")).collect()
    }
}

/// The hint for a header `[name]` of a table that has to be written `[[name]]`.
fn table_hint(text: &str, offset: usize) -> String {
    let begin = text[..offset.min(text.len())].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[begin..].lines().next().unwrap_or_default();
    // A header without `]` gets a fault of its own.
    let name = syntax::header_name(line).filter(|_| line.contains(']'));
    match name.filter(|name| syntax::LISTS.contains(name)) {
        Some(name) => format!(": each of several stands under [[{name}]], not [{name}]"),
        None => String::new(),
    }
}

/// The offset of the table header that `offset` is in or under.
fn header_before(text: &str, offset: usize) -> Option<usize> {
    let mut begin = 0;
    let mut last = None;
    for line in text.split_inclusive('\n') {
        if begin > offset {
            break;
        }
        last = syntax::header_name(line).map(|_| begin).or(last);
        begin += line.len();
    }
    last
}

/// The notes in the file's order, with lines and columns.
fn located(mut notes: Vec<FaultNote>, text: &str) -> Vec<ConfigFault> {
    notes.sort_by_key(|note| note.place.offset);
    let locate = |note: FaultNote| {
        let (line, column) = position(text, note.place.offset);
        let FaultNote { place, message, suggestion } = note;
        ConfigFault { line, column, key: place.key, message, suggestion }
    };
    notes.into_iter().map(locate).collect()
}

/// Line and column (in characters), both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
}

/// The one of `known` that `word` was most likely meant to be: at most a third of its letters differ.
pub(crate) fn nearest(word: &str, known: &[&str]) -> Option<String> {
    let word = word.to_lowercase();
    let distance = |candidate: &&&str| strsim::osa_distance(&word, &candidate.to_lowercase());
    known
        .iter()
        .min_by_key(distance)
        .filter(|candidate| distance(candidate) <= (candidate.len().max(word.len()) / 3).max(1))
        .map(|candidate| (*candidate).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let text = "a = 1\n# é\nß = ü";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 4), (1, 5));
        assert_eq!(position(text, 5), (1, 6));
        assert_eq!(position(text, 6), (2, 1));
        assert_eq!(position(text, text.len()), (3, 6));
        assert_eq!(position(text, text.len() + 9), (3, 6));
        assert_eq!(position("", 0), (1, 1));
    }

    #[test]
    fn the_nearest_word_is_a_near_one() {
        let known = ["ttl", "scope", "stale_if_error", "stale_while_revalidate"];
        assert_eq!(nearest("tll", &known).as_deref(), Some("ttl"));
        assert_eq!(nearest("TTL", &known).as_deref(), Some("ttl"));
        assert_eq!(nearest("stale-if-error", &known).as_deref(), Some("stale_if_error"));
        assert_eq!(nearest("stale_if_eror", &known).as_deref(), Some("stale_if_error"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
