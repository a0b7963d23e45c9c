//! The previous versions of a slot.

use super::Version;

/// The number of versions that are remembered.
const REMEMBERED: usize = 8;

/// Hashes of the last versions that were replaced by another. Versions with equal hashes count as the same:
/// then a version that could have been trusted is replaced.
#[derive(Debug, Default)]
pub(crate) struct PastVersions {
    /// 0: none.
    hashes: [u32; REMEMBERED],
    next: u8,
}

impl PastVersions {
    /// Remembers a version that is replaced; the oldest one is forgotten.
    pub(crate) fn add(&mut self, version: &Version) {
        if !self.has(version) {
            let at = usize::from(self.next) % REMEMBERED;
            self.hashes[at] = hash(version);
            self.next = self.next.wrapping_add(1);
        }
    }

    /// Forgets a version that is known again.
    pub(crate) fn remove(&mut self, version: &Version) {
        let hash = hash(version);
        self.hashes.iter_mut().filter(|one| **one == hash).for_each(|one| *one = 0);
    }

    /// Returns true if a version was replaced before.
    pub(crate) fn has(&self, version: &Version) -> bool {
        self.hashes.contains(&hash(version))
    }
}

/// FNV-1a, never 0.
fn hash(version: &Version) -> u32 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    version.tag().as_bytes().iter().fold(0x811c_9dc5, step).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_versions_are_remembered() {
        let version = |number: usize| Version::new(number.to_string().as_bytes());
        let mut past = PastVersions::default();
        assert!((0..20).all(|number| !past.has(&version(number))));
        (0..20).for_each(|number| past.add(&version(number)));
        (0..20).for_each(|number| past.add(&version(number.min(19))));
        assert!((12..20).all(|number| past.has(&version(number))), "{past:?}");
        past.remove(&version(15));
        assert!(!past.has(&version(15)));
    }
}
