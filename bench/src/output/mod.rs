//! What a run found, and how it is shown and kept.

pub mod baseline;
pub mod chart;
pub mod console;
pub mod document;
pub mod files;
pub mod hlog;
pub mod html;
pub mod percentiles;
pub mod progress;
pub mod result;
pub mod table;
pub mod warnings;
