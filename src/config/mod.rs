//! From the text of flags and configuration files to `Options`. Reads files through `surroundings`
//! and touches nothing else outside the process.

mod address;
pub(crate) mod advertise;
pub mod auth_options;
pub(crate) mod changes;
pub(crate) mod feature;
pub(crate) mod go_text;
pub mod import_options;
pub mod later;
mod literals;
pub mod load;
pub mod option_table;
pub mod options;
pub(crate) mod parser;
mod read_accounts;
mod read_auth;
mod read_imports;
mod read_later;
pub(crate) mod read_rows;
pub(crate) mod read_tls;
pub(crate) mod reader;
#[cfg(test)]
mod reference;
pub(crate) mod row;
mod scanner;
pub mod surroundings;
pub mod tls_options;
pub(crate) mod value;
