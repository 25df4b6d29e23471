//! `/connz`: open and closed connections.

mod list;
mod options;
mod report;

pub(crate) use list::{Described, Listed, filter_closed, fit, select};
pub(crate) use options::{ConnzOptions, SortBy, State, Subscriptions, parse_subscriptions};
pub(crate) use report::{connz, unknown_account};
