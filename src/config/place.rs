//! The place of a value in the file, by which a fault is reported.

/// A position in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes from the beginning.
    pub(super) offset: usize,
    /// The dotted key.
    pub(super) key: String,
}

impl Place {
    pub(super) fn root() -> Self {
        Self { offset: 0, key: String::new() }
    }

    /// The place of `key` in the table that stands here.
    pub(super) fn child(&self, key: &str, offset: usize) -> Self {
        let plain =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        let key = if plain { key.to_owned() } else { format!("{key:?}") };
        let key = if self.key.is_empty() { key } else { format!("{}.{key}", self.key) };
        Self { offset, key }
    }

    pub(super) fn element(&self, index: usize, offset: usize) -> Self {
        Self { offset, key: format!("{}[{index}]", self.key) }
    }
}
