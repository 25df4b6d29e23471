//! All streams as monitoring shows them.

use std::rc::Rc;

use super::api::account_info::{AccountJson, reserved};
use super::api::stream_info::StreamJson;
use super::directory::Directory;
use super::engine::Engine;
use super::host::Settings;
use crate::base::limits::LOOKED_AT_PER_TURN_MAX;
use crate::storage::disk::Disk;

/// The parts of a report that somebody asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReportOptions {
    /// Empty = all accounts.
    pub account: String,
    pub has_accounts: bool,
    pub has_streams: bool,
    pub offset: usize,
    pub limit: usize,
}

/// An account of a report.
pub(crate) struct AccountReport {
    pub name: String,
    pub figures: AccountJson,
    pub streams: Vec<StreamJson>,
}

/// Everything that an engine serves.
pub(crate) struct Report {
    pub settings: Rc<Settings>,
    pub memory: u64,
    pub store: u64,
    pub reserved: (u64, u64),
    pub accounts: usize,
    pub api_total: u64,
    pub api_errors: u64,
    pub streams: usize,
    pub consumers: usize,
    pub messages: u64,
    pub bytes: u64,
    pub details: Vec<AccountReport>,
}

impl<D: Disk> Engine<D> {
    /// Makes a report, some streams per turn.
    pub(crate) async fn survey(&self, options: &ReportOptions) -> Report {
        let usage = self.usage.get();
        let mut report = Report {
            settings: self.settings(),
            memory: usage.memory,
            store: usage.store,
            reserved: (0, 0),
            accounts: 0,
            api_total: 0,
            api_errors: 0,
            streams: 0,
            consumers: 0,
            messages: 0,
            bytes: 0,
            details: Vec::new(),
        };
        let directories: Vec<Rc<Directory>> = self.directories.borrow().values().cloned().collect();
        let mut detailed = Vec::new();
        for directory in directories {
            if !directory.account.is_enabled() {
                continue;
            }
            report.accounts += 1;
            report.api_total += directory.api_total.get();
            report.api_errors += directory.api_errors.get();
            let (memory, store) = reserved(&directory);
            report.reserved.0 = report.reserved.0.saturating_add(memory);
            report.reserved.1 = report.reserved.1.saturating_add(store);
            let is_wanted =
                options.account.is_empty() || *options.account == *directory.account.name;
            if is_wanted && (options.has_accounts || !options.account.is_empty()) {
                detailed.push(directory);
            }
        }
        self.count_all(&mut report).await;
        let page = detailed.iter().skip(options.offset).take(options.limit);
        for directory in page {
            let mut streams = Vec::new();
            if options.has_streams {
                let all: Vec<_> = directory.streams.borrow().values().cloned().collect();
                for (index, stream) in all.iter().enumerate() {
                    streams.extend(self.describe(stream).await);
                    self.end_slice(index % 64 == 63).await;
                }
            }
            report.details.push(AccountReport {
                name: directory.account.name.to_string(),
                figures: self.account_json(directory),
                streams,
            });
        }
        report
    }

    async fn count_all(&self, report: &mut Report) {
        let mut after = None;
        loop {
            let is_done = {
                let store = self.store.borrow();
                let mut looked_at = 0;
                for (id, held) in store.streams().iter_after(after).take(LOOKED_AT_PER_TURN_MAX) {
                    let totals = held.stream.totals();
                    report.streams += 1;
                    report.consumers += held.consumers.len();
                    report.messages += totals.messages;
                    report.bytes += totals.bytes;
                    after = Some(id);
                    looked_at += 1;
                }
                looked_at < LOOKED_AT_PER_TURN_MAX
            };
            if is_done {
                return;
            }
            self.host.yield_turn().await;
        }
    }
}
