//! A prepared reload takes effect: on every shard, in the log and for monitoring.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use crate::auth::state::AuthState;
use crate::config::surroundings::SystemSurroundings;
use crate::server::answers::endpoints::Live;
use crate::server::command::args;
use crate::server::run::all_shards::order_all;
use crate::server::run::announce::warn_of_account_names;
use crate::server::run::bootstrap::build_websocket;
use crate::server::run::reload;
use crate::server::run::running::{Server, build_monitor_tls, info};
use crate::shard::{Generation, ShardOrder};

impl Server<'_> {
    /// Reads the configuration again, prepares what has changed once for all shards, and lets each
    /// shard apply it on a turn of its own.
    pub(super) fn reload(&mut self) -> Result<(), String> {
        let reload =
            reload::prepare(&self.options, &self.flags, &SystemSurroundings::WHILE_RUNNING)?;
        let mut auth = AuthState::build(&reload.options, Some(&self.auth))
            .map_err(|error| error.to_string())?;
        let account_source = self.reload_accounts(&reload.options, &mut auth)?;
        // Files are read again even if the block is the same, since certificates are renewed in
        // place.
        let tls = args::build_tls(&reload.options)?;
        let certificate_ends = tls.as_ref().and_then(|tls| tls.not_after);
        let fingerprint = tls.as_ref().map(|tls| tls.fingerprint);
        let tls_renewed = fingerprint.is_some() && fingerprint != self.tls_fingerprint;
        let websocket_tls = args::build_websocket_tls(&reload.options)?;
        let websocket_address = self.shards.websocket_address;
        let websocket = build_websocket(&reload.options, websocket_tls, websocket_address)?;
        let monitor_tls = build_monitor_tls(&reload.options)?;
        reload.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let options = Arc::new(reload.options);
        if options.log != self.options.log {
            self.log.reconfigure(&options.log)?;
        }
        let auth = Arc::new(auth);
        warn_of_account_names(&auth);
        let info = Arc::new(info(&self.identity, &options, self.shards.address));
        self.generations += 1;
        let generation = Arc::new(Generation {
            number: self.generations,
            options: options.clone(),
            auth: auth.clone(),
            info: info.clone(),
            tls,
            websocket: websocket.clone(),
        });
        let staying = order_all(&self.shards, |done| ShardOrder::Reload(generation.clone(), done));
        let is_lowered = options.limits.connections_max < self.options.limits.connections_max;
        self.close_surplus(staying, &auth, is_lowered.then_some(options.limits.connections_max));
        self.move_files(&options);
        for line in reload::announcements(&reload.plan, &self.options, &options, tls_renewed) {
            tracing::info!("{line}");
        }
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Live {
            options: options.clone(),
            auth: auth.clone(),
            info: info.clone(),
            config_loaded: SystemTime::now(),
            tls: monitor_tls,
            certificate_ends,
            websocket,
            is_leaving: false,
        };
        self.tls_fingerprint = fingerprint;
        self.options = options;
        self.account_source = account_source.unwrap_or_default();
        self.auth = auth;
        self.shards.info = info;
        Ok(())
    }
}
