//! From the text of flags and configuration files to `Options`. Reads files through `surroundings`
//! and touches nothing else outside the process.

mod address;
pub(crate) mod advertise;
pub(crate) mod auth_options;
pub(crate) mod changes;
pub(crate) mod feature;
pub(crate) mod go_text;
pub(crate) mod import_options;
pub(crate) mod jetstream_options;
pub(crate) mod later;
mod literals;
pub(crate) mod load;
pub(crate) mod operator_options;
pub(crate) mod option_table;
pub(crate) mod options;
pub(crate) mod origin;
pub(crate) mod parser;
mod read_accounts;
mod read_auth;
mod read_imports;
mod read_jetstream;
mod read_later;
mod read_operator;
pub(crate) mod read_rows;
pub(crate) mod read_tls;
mod read_websocket;
pub(crate) mod reader;
#[cfg(test)]
mod reference;
pub(crate) mod row;
mod scanner;
pub(crate) mod secret;
pub(crate) mod surroundings;
pub(crate) mod tls_options;
pub(crate) mod value;
pub(crate) mod websocket_options;
