//! Floor 8: assembly of the process.
