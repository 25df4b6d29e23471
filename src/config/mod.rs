//! Floor 2: text to `Options`. Reads files through `surroundings` and does nothing else outside itself.

mod address;
pub mod advertise;
pub mod auth_options;
pub mod changes;
pub mod feature;
pub mod go_text;
pub mod later;
mod literals;
pub mod load;
pub mod option_table;
pub mod options;
pub mod parser;
mod read_accounts;
mod read_auth;
mod read_later;
pub mod read_rows;
pub mod read_tls;
pub mod reader;
pub mod reference;
pub mod row;
mod scanner;
pub mod surroundings;
pub mod tls_options;
pub mod value;
