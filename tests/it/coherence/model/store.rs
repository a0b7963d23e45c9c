//! The store of the model: a version key, stored answers, and what it loses. Its scripts are those of `cache/redis/bump.rs`.

use std::collections::{BTreeMap, VecDeque};
use tidegate::cache::coherence::version::Version;

/// A message of the store to one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Report {
    /// The version key has changed.
    Changed,
    /// The version key is gone.
    Gone,
    /// Everything is gone.
    Flushed,
    /// A heartbeat that was sent then is answered.
    Beat(u64),
    /// The question of a fence is answered.
    Fence(u64),
}

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// The value of the version key.
    pub(crate) value: Option<Vec<u8>>,
    /// The value before the last write, which a failover loses.
    pub(crate) before: Option<Vec<u8>>,
    /// True if the application wrote it last.
    pub(crate) is_of_application: bool,
    /// All versions that ever stood there.
    pub(crate) seen: Vec<Version>,
    /// The truth in the answers, by the tag of their version.
    pub(crate) answers: BTreeMap<String, u64>,
    /// The reports on their way to each node; `None`: it has no link.
    pub(crate) wires: [Option<VecDeque<Report>>; 2],
}

impl Store {
    /// Writes the version and reports it.
    pub(crate) fn write(&mut self, value: Vec<u8>) {
        self.seen.push(Version::new(&value));
        self.before = self.value.replace(value);
        self.is_of_application = false;
        self.report(Report::Changed);
    }

    /// Loses the version, and what it was before.
    pub(crate) fn lose(&mut self, report: Report) {
        (self.value, self.before) = (None, None);
        self.report(report);
    }

    /// Writes as the application does: it pickles the next number after the one that is there, after 1 where none is.
    pub(crate) fn write_next(&mut self) {
        let number = self.value.as_deref().map_or(2, |value| Version::new(value).successor());
        self.write(pickle(number));
        self.is_of_application = true;
    }

    /// The script of a bump: where `judged` is given, only if that still stands there; else what stands there comes back.
    pub(crate) fn bump(&mut self, at: u64, judged: Option<&[u8]>) -> Result<Version, Vec<u8>> {
        let value = self.value.clone().unwrap_or_default();
        let number = match judged {
            Some(judged) if judged != value => return Err(value),
            Some(_) => at,
            None if value.is_empty() => at,
            None => match std::str::from_utf8(&value).ok().and_then(|text| text.parse::<u64>().ok()) {
                Some(number) => at.max(number + 1),
                None => return Err(value),
            },
        };
        let value = number.to_string().into_bytes();
        self.write(value.clone());
        Ok(Version::new(&value))
    }

    /// Reports to every node that has a link.
    pub(crate) fn report(&mut self, report: Report) {
        self.wires.iter_mut().flatten().for_each(|wire| wire.push_back(report));
    }
}

/// A number as Flask-Caching stores a `str`.
pub(crate) fn pickle(number: u64) -> Vec<u8> {
    let text = number.to_string();
    let length = u8::try_from(text.len()).unwrap();
    [&b"!\x80\x03X"[..], &[length, 0, 0, 0], text.as_bytes(), b"q\0."].concat()
}

#[test]
fn a_pickled_number_is_read() {
    assert_eq!(Version::new(&pickle(1_783_000_000_000)).successor(), 1_783_000_000_001);
}
