//! The least version that a request accepts (`Tidegate-Min-Version`), and how versions compare with it.

use super::{pickle, value::Version};
use crate::name::Namespace;

/// The most members of a field.
const MAX_MEMBERS: usize = 16;
/// The hexadecimal digits in the tag of a version that is no plain number.
const HASH_DIGITS: usize = 24;

/// The versions of one namespace that a request knows of: it accepts no earlier one. Mostly none, or one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MinVersion(Vec<Version>);

/// The reason why a field says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersionError {
    /// A member is not a namespace, `=` and a version.
    Malformed,
    /// A member names a namespace that there is not.
    UnknownNamespace,
    /// More than [`MAX_MEMBERS`].
    TooMany,
}

impl MinVersion {
    /// Reads the lines of a field, as `kpi=1764547200123, chart=1764547200124`, for one namespace. Members of
    /// other namespaces are checked and ignored; `is_known` tells if there is a namespace of this name.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse<'f>(
        lines: impl Iterator<Item = &'f [u8]>,
        namespace: &Namespace,
        is_known: impl Fn(&Namespace) -> bool,
    ) -> Result<Self, MinVersionError> {
        let mut least = Vec::new();
        for (place, member) in lines.flat_map(|line| line.split(|byte| *byte == b',')).enumerate() {
            if place >= MAX_MEMBERS {
                return Err(MinVersionError::TooMany);
            }
            let (name, version) = read_member(member).ok_or(MinVersionError::Malformed)?;
            match name == *namespace {
                true => least.push(version),
                false if is_known(&name) => {}
                false => return Err(MinVersionError::UnknownNamespace),
            }
        }
        Ok(Self(least))
    }

    /// Returns true if any version is accepted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares a version with this minimum: `Some(true)` if it is no earlier, `Some(false)` if it is earlier.
    /// `None`: there is no order between them, as one of them is no number.
    pub fn compare(&self, version: &Version) -> Option<bool> {
        let of_one = |least: &Version| match version == least || least.is_behind(version) {
            true => Some(true),
            false => version.is_behind(least).then_some(false),
        };
        let mut each = self.0.iter().map(of_one);
        match each.clone().any(|one| one == Some(false)) {
            true => Some(false),
            false => each.all(|one| one.is_some()).then_some(true),
        }
    }

    /// Returns true if a version is certainly no earlier.
    pub fn admits(&self, version: &Version) -> bool {
        self.compare(version) == Some(true)
    }
}

/// Reads a member: the namespace, and the version by its tag.
fn read_member(member: &[u8]) -> Option<(Namespace, Version)> {
    let (name, tag) = std::str::from_utf8(member.trim_ascii()).ok()?.split_once('=')?;
    Some((name.parse().ok()?, Version::named(is_tag(tag).then(|| tag.to_owned())?)))
}

/// Returns true if a text is a version as [`Version::tag`] writes it.
fn is_tag(text: &str) -> bool {
    let is_number = |text: &str| pickle::parse_digits(text.as_bytes()).is_some();
    let Some(hashed) = text.strip_prefix('x') else { return is_number(text) };
    let (hash, number) = hashed.split_once('-').map_or((hashed, None), |(hash, number)| (hash, Some(number)));
    let is_hash = hash.len() == HASH_DIGITS && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hash && number.is_none_or(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(field: &str) -> Result<MinVersion, MinVersionError> {
        let kpi = "kpi".parse().unwrap();
        MinVersion::parse(field.lines().map(str::as_bytes), &kpi, |name| name.as_str() == "chart")
    }

    fn version(value: &str) -> Version {
        Version::new(value.as_bytes())
    }

    #[test]
    fn members_of_the_namespace_count_and_those_of_others_are_checked() {
        for (field, expected) in [
            ("kpi=7", vec!["7"]),
            ("chart=7", vec![]),
            ("chart=8,\tkpi=7 ", vec!["7"]),
            ("kpi=7\nkpi=9, chart=1", vec!["7", "9"]),
            ("kpi=18446744073709551615", vec!["18446744073709551615"]),
        ] {
            let expected = MinVersion(expected.into_iter().map(version).collect());
            assert_eq!(parse(field), Ok(expected), "{field:?}");
        }
        let named = version("build-42");
        let least = parse(&format!("kpi={}", named.tag())).unwrap();
        assert_eq!(least.compare(&named), Some(true));
    }

    #[test]
    fn a_fault_anywhere_refuses_the_whole_field() {
        let many = vec!["kpi=1"; MAX_MEMBERS].join(", ");
        assert!(parse(&many).is_ok());
        let hash = "0".repeat(HASH_DIGITS);
        for (field, fault) in [
            (" ".to_owned(), MinVersionError::Malformed),
            ("kpi".to_owned(), MinVersionError::Malformed),
            ("kpi=".to_owned(), MinVersionError::Malformed),
            ("=7".to_owned(), MinVersionError::Malformed),
            ("kpi=7,".to_owned(), MinVersionError::Malformed),
            ("kpi = 7".to_owned(), MinVersionError::Malformed),
            ("kpi=-7".to_owned(), MinVersionError::Malformed),
            ("kpi=7;q=1".to_owned(), MinVersionError::Malformed),
            ("kpi=\"7\"".to_owned(), MinVersionError::Malformed),
            ("kpi=after-7".to_owned(), MinVersionError::Malformed),
            ("kpi=184467440737095516150".to_owned(), MinVersionError::Malformed),
            (format!("kpi=x{hash}0"), MinVersionError::Malformed),
            (format!("kpi=x{hash}-"), MinVersionError::Malformed),
            (format!("kpi=X{hash}"), MinVersionError::Malformed),
            ("kpi=7, chart=?".to_owned(), MinVersionError::Malformed),
            ("kpi=7, chary=1".to_owned(), MinVersionError::UnknownNamespace),
            (format!("{many}, kpi=1"), MinVersionError::TooMany),
        ] {
            assert_eq!(parse(&field), Err(fault), "{field:?}");
        }
    }

    #[test]
    fn numbers_have_an_order_and_other_values_have_none() {
        let (pickled, text) = (version("x"), version("build-42"));
        for (least, known, expected) in [
            (vec!["7"], version("7"), Some(true)),
            (vec!["7"], version("8"), Some(true)),
            (vec!["7"], version("6"), Some(false)),
            (vec!["7", "9"], version("8"), Some(false)),
            (vec!["7", "9"], version("9"), Some(true)),
            (vec!["1"], Version::absent(), Some(true)),
            (vec!["7"], Version::absent(), Some(false)),
            (vec!["build-42"], Version::absent(), Some(false)),
            (vec!["build-42"], text.clone(), Some(true)),
            (vec!["build-42"], pickled.clone(), None),
            (vec!["7"], text.clone(), None),
            (vec!["build-42"], version("7"), None),
            // Too close to the limit of Redis: only equality counts.
            (vec!["18446744073709551615"], version("7"), None),
            // The made-up name of a version that could not be read.
            (vec!["7"], Version::named("after-3-9".to_owned()), None),
            (vec![], pickled, Some(true)),
        ] {
            let minimum = MinVersion(least.iter().map(|value| version(value)).collect());
            assert_eq!(minimum.compare(&known), expected, "{known:?} for {least:?}");
            assert_eq!(minimum.admits(&known), expected == Some(true));
        }
    }

    proptest! {
        #[test]
        fn each_version_is_read_as_it_is_written(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let made = Version::new(&value);
            let field = format!("kpi={}", made.tag());
            prop_assert_eq!(parse(&field), Ok(MinVersion(vec![made])));
        }
    }
}
