//! The figures of a run, and how they are shown and stored.

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
