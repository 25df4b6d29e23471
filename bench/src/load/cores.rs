//! Judges, for every workload, whether load and server had their cores to themselves.

use crate::findings::kinds;
use crate::findings::result::{Better, RunResult};
use crate::host::core_time::{ThreadUse, taken_share};
use crate::host::server_process::{Border, Sampler};

pub const GENERATOR_FIGURE: &str = "generator_core_taken_share";
/// The figure by which an open loop's generator is judged.
pub const LATE_FIGURE: &str = "late_share";
pub const SERVER_FIGURE: &str = "server_core_taken_share";

/// The use that the threads of load and server made of their cores over a span.
#[derive(Default)]
pub struct Span {
    pub load: Vec<ThreadUse>,
    pub server: Vec<ThreadUse>,
}

/// Returns the server's use of its cores between two borders; empty if it is not read or a border
/// is missing.
pub fn server_use(
    sampler: Option<&Sampler>,
    from: Option<&Border>,
    until: Option<&Border>,
) -> Vec<ThreadUse> {
    match (sampler, from, until) {
        (Some(sampler), Some(from), Some(until)) => sampler.core_use(from, until),
        _ => Vec::new(),
    }
}

/// Returns the shares in which others had the cores of the generator and of the server: the larger
/// of the share of the measured window and that of the whole run. The kernel counts a wait once it
/// is over, so the window alone misses waits that outlast it, which may be all waits of a starved
/// thread.
pub fn taken_of(window: &Span, whole: &Span) -> (Option<f64>, Option<f64>) {
    let larger = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    let of_generator = |span: &Span| taken_share(&span.load, &span.server);
    let of_server = |span: &Span| taken_share(&span.server, &span.load);
    (larger(of_generator(window), of_generator(whole)), larger(of_server(window), of_server(whole)))
}

/// Records the shares in which others had the cores.
pub fn report(result: &mut RunResult, of_generator: Option<f64>, of_server: Option<f64>) {
    for (figure, share) in [(GENERATOR_FIGURE, of_generator), (SERVER_FIGURE, of_server)] {
        if let Some(share) = share {
            result.figure(figure, share, "", Better::Neither);
        }
    }
}

/// Keeps, for a run made of several, the worst share of its server.
pub fn keep_worst(result: &mut RunResult, part: &RunResult) {
    if let Some(share) = part.value(SERVER_FIGURE) {
        let before = result.value(SERVER_FIGURE).unwrap_or(0.0);
        result.figure(SERVER_FIGURE, share.max(before), "", Better::Neither);
    }
}

/// Invalidates a run whose server waited for its cores for more than the limit, or whose generator
/// did if nothing else judges it. The open loop's generator is judged by its late sends.
pub fn judge(result: &mut RunResult, taken_max: f64) {
    let closed = [kinds::THROUGHPUT, kinds::CLOSED_LOOP, kinds::JETSTREAM];
    let by_cores = closed.contains(&result.kind.as_str()) && result.value(LATE_FIGURE).is_none();
    for (figure, whose, flag, judged) in [
        (GENERATOR_FIGURE, "the generator", "--pin-load", by_cores),
        (SERVER_FIGURE, "the server", "--pin-server of `compare`", true),
    ] {
        let share = result.value(figure).unwrap_or(0.0);
        if judged && share > taken_max {
            result.invalidate(format!(
                "other programs had {whose}'s core for {:.0} % of the time, {:.0} % are allowed: end \
                 them, or give {whose} a core of its own, by {flag}; see scripts/tune-host.sh",
                100.0 * share,
                100.0 * taken_max
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(kind: &str, generator: f64, server: f64) -> Vec<String> {
        let mut run = RunResult::new(kind, "x");
        report(&mut run, Some(generator), Some(server));
        judge(&mut run, 0.1);
        assert_eq!(run.valid, run.faults.is_empty());
        run.faults
    }

    #[test]
    fn a_run_without_its_cores_is_not_valid() {
        assert!(faults("throughput", 0.1, 0.1).is_empty());
        let fault = &faults("throughput", 0.986, 0.0)[0];
        assert!(fault.contains("the generator's core for 99 % of the time"), "{fault}");
        assert_eq!(faults("closed-loop", 0.11, 0.0).len(), 1);
        let fault = &faults("latency", 0.5, 0.2)[0];
        assert!(fault.contains("the server's core for 20 % of the time"), "{fault}");
    }

    #[test]
    fn a_wait_that_outlasts_the_window_is_seen_in_the_whole() {
        let thread = |ran: f64, waited: f64, core: usize| ThreadUse {
            ran,
            waited,
            cores: crate::units::CoreList(vec![core]),
        };
        let window = Span { load: vec![thread(0.0, 0.0, 1)], server: vec![thread(0.4, 0.5, 0)] };
        let whole = Span { load: vec![thread(0.1, 0.7, 1)], server: vec![thread(0.9, 0.1, 0)] };
        let (of_generator, of_server) = taken_of(&window, &whole);
        assert!((of_generator.unwrap() - 0.7).abs() < 1e-9);
        assert!((of_server.unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(taken_of(&Span::default(), &Span::default()), (None, None));
    }

    #[test]
    fn the_worst_part_is_kept() {
        let mut whole = RunResult::new("sweep", "x");
        for share in [0.02, 0.3, 0.1] {
            let mut part = RunResult::new("latency", "x");
            report(&mut part, Some(0.9), Some(share));
            keep_worst(&mut whole, &part);
        }
        assert_eq!(whole.value(SERVER_FIGURE), Some(0.3));
        assert_eq!(whole.value(GENERATOR_FIGURE), None);
    }
}
