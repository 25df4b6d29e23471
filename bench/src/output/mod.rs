//! How the findings of runs are shown and stored.

pub mod baseline;
pub mod chart;
pub mod console;
pub mod document;
pub mod files;
pub mod hlog;
pub mod html;
pub mod site;
pub mod table;
pub mod verdict;
pub mod warnings;
