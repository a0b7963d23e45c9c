//! The place of a value in the file, by which a fault is reported.

/// A position in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilePlace {
    /// Bytes from the beginning.
    pub(crate) offset: usize,
    /// The dotted key.
    pub(crate) key: String,
}

impl FilePlace {
    pub(crate) fn root() -> Self {
        Self { offset: 0, key: String::new() }
    }

    /// The place of `key` in the table that stands here.
    pub(crate) fn child(&self, key: &str, offset: usize) -> Self {
        let plain =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        let key = if plain { key.to_owned() } else { format!("{key:?}") };
        let key = if self.key.is_empty() { key } else { format!("{}.{key}", self.key) };
        Self { offset, key }
    }

    pub(crate) fn element(&self, index: usize, offset: usize) -> Self {
        Self { offset, key: format!("{}[{index}]", self.key) }
    }
}
