//! Runs workloads as the flags describe them, along with what they are compared with: the host's
//! noise floor and the raw relay.

use crate::Failure;
use crate::findings::result::RunResult;
use crate::jetstream;
use crate::load::endpoints::Mode;
use crate::load::floor::{self, FloorPlan};
use crate::load::shard_traffic::ShardTraffic;
use crate::load::{closed_loop, connections, cores, idle, latency, sweep, throughput};
use crate::progress::Progress;
use crate::relay;
use crate::units::CoreList;
use crate::wire::connection::Dialer;
use crate::workload::Workload;
use std::time::Duration;

/// The settings shared by all workloads of a command.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    pub pin_load: CoreList,
    pub pin_server: CoreList,
    /// Duration of each meter of the floor; None = no floor.
    pub floor: Option<Duration>,
    /// Congestion control of the load's own TCP sockets, if it is not the host's.
    pub congestion: Option<String>,
}

impl Setting {
    /// Runs one workload against one server.
    ///
    /// # Errors
    /// If it cannot be run at all.
    pub fn execute(
        &self,
        workload: &Workload,
        dialer: &Dialer,
        server: Result<u32, String>,
        progress: &Progress,
    ) -> Result<RunResult, Failure> {
        let pin = &self.pin_load;
        let before = ShardTraffic::read(dialer.monitor_port);
        let mut result = match workload {
            Workload::Throughput(arguments) => {
                throughput::run(dialer, &arguments.plan(pin), server, progress)
            }
            Workload::Latency(arguments) if arguments.closed_loop => {
                closed_loop::run(dialer, &arguments.closed_plan(pin), server, progress)
            }
            Workload::Latency(arguments) => {
                latency::run(dialer, &arguments.open_loop.plan(pin), server, progress)
            }
            Workload::Sweep(arguments) => {
                sweep::run(dialer, &arguments.plan(pin), &server, progress)
            }
            Workload::Connections(arguments) => {
                connections::run(dialer, &arguments.plan(pin), &server, progress)
            }
            Workload::Idle(arguments) => idle::run(dialer, &arguments.plan(), server, progress),
            Workload::JetStream(arguments) => {
                jetstream::run::run(dialer, &arguments.plan(pin), server, progress)
            }
        }?;
        if let (Some(before), Some(after)) = (before, ShardTraffic::read(dialer.monitor_port)) {
            after.report_since(&before, &mut result);
        }
        cores::judge(&mut result, workload.time().core_taken_max);
        Ok(result)
    }

    /// Returns a note for readers of the figures if the load's sockets do not have the host's
    /// congestion control.
    pub fn congestion_note(&self) -> Option<String> {
        self.congestion.as_ref().map(|name| {
            format!(
                "the load's own sockets have congestion control {name} (--congestion): what goes to the \
                 server is sent under it, what the server sends under the server's"
            )
        })
    }

    /// Measures the noise floor, if it is wanted.
    ///
    /// # Errors
    /// If a meter cannot be run.
    pub fn measure_floor(&self, progress: &Progress) -> Result<Option<RunResult>, Failure> {
        let Some(duration) = self.floor else { return Ok(None) };
        let plan = FloorPlan {
            duration,
            pin_load: self.pin_load.clone(),
            pin_server: self.pin_server.clone(),
        };
        floor::run(&plan, progress).map(Some)
    }

    /// Runs the same workload through the raw relay on the server's cores: the ceiling of
    /// throughput and the floor of one-way latency. Other workloads need a broker that understands
    /// them.
    ///
    /// # Errors
    /// If the relay cannot be run.
    pub fn reference(
        &self,
        workload: &Workload,
        progress: &Progress,
    ) -> Result<Option<RunResult>, Failure> {
        if self.floor.is_none() {
            return Ok(None);
        }
        let (layout, seed) = match workload {
            Workload::Throughput(arguments) => {
                (arguments.plan(&self.pin_load).layout, arguments.time.seed)
            }
            Workload::Latency(arguments) if arguments.open_loop.mode == Mode::OneWay => {
                let arguments = &arguments.open_loop;
                (arguments.plan(&self.pin_load).layout, arguments.time.seed)
            }
            _ => return Ok(None),
        };
        let Some(relay) = relay::process::start(&layout, seed, &self.pin_server)? else {
            return Ok(None);
        };
        progress.set_prefix(relay::process::SIDE);
        let server = Ok(relay.process_id());
        let dialer = Dialer { congestion: self.congestion.clone(), ..relay.dialer() };
        let result = self.execute(workload, &dialer, server, progress);
        progress.set_prefix("");
        let mut result = result?;
        result.side = relay::process::SIDE.to_string();
        Ok(Some(result))
    }
}
