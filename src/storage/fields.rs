//! Reads the fields of records and of entries of manifests. A field that is cut short is `None`.

/// Reads fields off the front of bytes.
pub(super) struct Fields<'bytes> {
    pub(super) rest: &'bytes [u8],
}

impl<'bytes> Fields<'bytes> {
    pub(super) fn array<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let (array, rest) = self.rest.split_first_chunk::<COUNT>()?;
        self.rest = rest;
        Some(*array)
    }

    pub(super) fn word(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    /// Bytes that follow their length.
    pub(super) fn prefixed(&mut self) -> Option<&'bytes [u8]> {
        let length = usize::try_from(self.word()?).ok()?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    pub(super) fn all(&mut self) -> &'bytes [u8] {
        std::mem::take(&mut self.rest)
    }
}
