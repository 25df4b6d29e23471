//! Converts flags to what is run: plans, layouts and dialers.

use crate::Failure;
use crate::cli::{
    ConnectionsArguments, IdleArguments, LatencyArguments, LatencyCommand, LoginArguments,
    ShapeArguments, StallsArguments, SweepArguments, ThroughputArguments,
};
use crate::host::certificates::CertificateFiles;
use crate::load::closed_loop::ClosedLoopPlan;
use crate::load::connections::ConnectionsPlan;
use crate::load::event_loop::Pacer;
use crate::load::idle::IdlePlan;
use crate::load::latency::LatencyPlan;
use crate::load::layout::Layout;
use crate::load::sweep::SweepPlan;
use crate::load::throughput::ThroughputPlan;
use crate::stalls::cases::Case;
use crate::stalls::rounds::StallsPlan;
use crate::stalls::stage::Contender;
use crate::units::CoreList;
use crate::wire::address::{Address, ServerUrl};
use crate::wire::connection::Dialer;
use crate::wire::credentials::Credentials;
use crate::wire::tls::{self, TlsFiles};
use std::time::Duration;

impl LoginArguments {
    fn credentials(&self) -> Result<Credentials, Failure> {
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            return Ok(Credentials::User { user: user.clone(), password: password.clone() });
        }
        if let Some(token) = &self.token {
            return Ok(Credentials::Token(token.clone()));
        }
        if let Some(nkey) = &self.nkey {
            return Credentials::from_seed_or_file(nkey);
        }
        if let Some(path) = &self.creds {
            return Credentials::from_credentials_file(path);
        }
        Ok(Credentials::None)
    }

    /// Returns a dialer for an address; these flags take precedence over the URL.
    ///
    /// # Errors
    /// If a file named by the flags cannot be used.
    pub fn dialer(&self, url: &ServerUrl) -> Result<Dialer, Failure> {
        self.dialer_with(url, None)
    }

    /// Returns a dialer for a server that was started with certificates made by the harness: they
    /// are used unless the flags name others.
    ///
    /// # Errors
    /// As `dialer`.
    pub fn dialer_with(
        &self,
        url: &ServerUrl,
        made: Option<&CertificateFiles>,
    ) -> Result<Dialer, Failure> {
        let mut dialer = Dialer::for_url(url);
        dialer.congestion.clone_from(&self.congestion);
        let credentials = self.credentials()?;
        if !matches!(credentials, Credentials::None) {
            dialer.credentials = credentials;
        }
        let given = self.tls_ca.is_some() || self.tls_cert.is_some() || self.tls_insecure;
        if given || matches!(url.address, Address::Tcp { tls: true, .. }) {
            let mut files = TlsFiles {
                authorities: self.tls_ca.clone(),
                certificate: self.tls_cert.clone(),
                key: self.tls_key.clone(),
                insecure: self.tls_insecure,
            };
            if let Some(made) = made {
                files.authorities.get_or_insert_with(|| made.authority.clone());
                if files.certificate.is_none() && files.key.is_none() {
                    files.certificate = Some(made.certificate.clone());
                    files.key = Some(made.key.clone());
                }
            }
            dialer.tls = Some(tls::settings(&files)?);
        }
        Ok(dialer)
    }
}

impl ShapeArguments {
    fn layout(&self) -> Layout {
        // Letters and digits, new for each run, so that late messages of an earlier run are not
        // taken for ours.
        let tag: String = std::iter::repeat_with(fastrand::alphanumeric).take(8).collect();
        Layout {
            publisher_count: usize::from(self.publishers),
            subscriber_count: usize::from(self.subscribers),
            subject_count: self.subjects as usize,
            wildcard: self.wildcard,
            queue: self.queue.then(|| "group".to_string()),
            payload_size: self.payload,
            subject_prefix: format!("bench.{tag}"),
            paired: false,
        }
    }
}

impl ThroughputArguments {
    pub fn plan(&self, pin_load: &CoreList) -> ThroughputPlan {
        ThroughputPlan {
            layout: self.shape.layout(),
            warmup: self.time.warmup,
            duration: self.time.duration,
            messages_per_publisher: self.messages,
            pin_load: self.time.pin_load.clone().unwrap_or_else(|| pin_load.clone()),
            seed: self.time.seed,
        }
    }
}

impl LatencyArguments {
    pub fn plan(&self, pin_load: &CoreList) -> LatencyPlan {
        let pin_load = self.time.pin_load.clone().unwrap_or_else(|| pin_load.clone());
        let late_limit = self.late_limit.unwrap_or(match self.pacer {
            Pacer::Spin => Duration::from_micros(100),
            Pacer::Sleep => Duration::from_millis(1),
        });
        LatencyPlan {
            layout: self.shape.layout(),
            mode: self.mode,
            rate: self.rate,
            arrival: self.arrival,
            pacer: self.pacer,
            warmup: self.time.warmup,
            duration: self.time.duration,
            load_threads: self.load_threads.map_or(pin_load.0.len().max(1), usize::from),
            pin_load,
            late_limit,
            late_share_max: self.late_share_max,
            seed: self.time.seed,
            beside: self.beside,
            pin_beside: self.pin_beside.clone().unwrap_or_default(),
        }
    }
}

impl LatencyCommand {
    pub fn closed_plan(&self, pin_load: &CoreList) -> ClosedLoopPlan {
        let mut plan = self.open_loop.plan(pin_load);
        if self.shift.is_some() {
            plan.layout.subject_count = plan.layout.subscriber_count;
            plan.layout.paired = true;
        }
        ClosedLoopPlan {
            layout: plan.layout,
            shift: self.shift,
            pacer: plan.pacer,
            warmup: plan.warmup,
            duration: plan.duration,
            pin_load: plan.pin_load,
            load_threads: plan.load_threads,
            seed: plan.seed,
        }
    }
}

impl SweepArguments {
    pub fn plan(&self, pin_load: &CoreList) -> SweepPlan {
        SweepPlan {
            latency: self.latency.plan(pin_load),
            objective: self.objective,
            objective_percentile: self.objective_percentile,
            step_duration: self.step,
        }
    }
}

impl ConnectionsArguments {
    pub fn plan(&self, pin_load: &CoreList) -> ConnectionsPlan {
        ConnectionsPlan {
            connection_count: self.connections,
            subscriptions_each: self.subscriptions,
            probe: self.probe.plan(pin_load),
        }
    }
}

impl IdleArguments {
    pub fn plan(&self) -> IdlePlan {
        IdlePlan { settle: self.time.warmup, duration: self.time.duration }
    }
}

impl StallsArguments {
    pub fn plan(&self) -> StallsPlan {
        let midge = |&count: &u16| Contender {
            name: match count {
                1 => "midge, 1 shard".to_string(),
                count => format!("midge, {count} shards"),
            },
            program: self.midge.to_string_lossy().into_owned(),
            shard_count: Some(usize::from(count)),
        };
        let mut contenders: Vec<Contender> = self.shards.iter().map(midge).collect();
        contenders.push(Contender {
            name: "nats-server".to_string(),
            program: self.nats.to_string_lossy().into_owned(),
            shard_count: None,
        });
        StallsPlan {
            contenders,
            cases: match self.cases.is_empty() {
                true => Case::all().to_vec(),
                false => self.cases.clone(),
            },
            rounds: self.rounds,
            pin_server: self.pin_server.clone().unwrap_or_default(),
            scale: self.scale,
        }
    }
}
