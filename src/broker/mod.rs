//! One shard's routing state: who wants which subject, and where the copies go.

pub mod match_cache;
pub mod subject_table;
