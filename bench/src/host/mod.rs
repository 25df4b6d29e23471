//! The machine underneath: cores, the server's process as /proc shows it, clocks, the environment.

pub mod certificates;
pub mod clock;
pub mod core_time;
pub mod descriptors;
pub mod environment;
pub mod interrupt;
pub mod pin;
pub mod process_finder;
pub mod server_process;
pub mod spawn;
