//! The due times of an open-loop run's messages. The schedule is fixed before the run and never
//! waits for the server: a stall delays messages, and their latency counts from when they were due.

/// The distribution of due times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrival {
    /// One message every 1/rate
    Constant,
    /// Independent arrivals with the same mean rate: bursts as many independent clients make them
    Poisson,
}

/// The endless due times of one load thread, in nanoseconds since the run's epoch.
pub struct Schedule {
    arrival: Arrival,
    interval_ns: f64,
    start_ns: f64,
    /// Constant: number of messages so far. Poisson: unused.
    index: u64,
    next_ns: f64,
    random: fastrand::Rng,
}

impl Schedule {
    /// `rate` is in messages per second and must be above zero.
    pub fn new(arrival: Arrival, rate: f64, start_ns: u64, seed: u64) -> Schedule {
        assert!(rate > 0.0, "a schedule needs a rate");
        let mut schedule = Schedule {
            arrival,
            interval_ns: 1e9 / rate,
            start_ns: start_ns as f64,
            index: 0,
            next_ns: start_ns as f64,
            random: fastrand::Rng::with_seed(seed),
        };
        if arrival == Arrival::Poisson {
            schedule.advance();
        }
        schedule
    }

    /// Returns the time at which the next message is due.
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// Moves on to the message after it.
    pub fn advance(&mut self) {
        match self.arrival {
            // From the start each time: repeated addition would also add up rounding errors.
            Arrival::Constant => {
                self.index += 1;
                self.next_ns = self.start_ns + self.index as f64 * self.interval_ns;
            }
            Arrival::Poisson => {
                let uniform = 1.0 - self.random.f64(); // in (0, 1]
                self.next_ns -= uniform.ln() * self.interval_ns;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_schedule_is_exact_after_a_million_messages() {
        let mut schedule = Schedule::new(Arrival::Constant, 3e6, 500, 0);
        assert_eq!(schedule.next_ns(), 500);
        (0..3_000_000).for_each(|_| schedule.advance());
        assert_eq!(schedule.next_ns(), 1_000_000_500);
    }

    #[test]
    fn a_poisson_schedule_has_the_mean_and_the_spread_of_one() {
        let mut schedule = Schedule::new(Arrival::Poisson, 1000.0, 0, 42);
        let (mut last, mut longer_than_mean) = (0, 0);
        for _ in 0..100_000 {
            let next = schedule.next_ns();
            longer_than_mean += u32::from(next - last > 1_000_000);
            last = next;
            schedule.advance();
        }
        let mean_ns = last as f64 / 100_000.0;
        assert!((mean_ns - 1e6).abs() < 2e4, "{mean_ns}");
        // Of an exponential distribution 1/e, 36.8 %, lies above the mean.
        assert!((36_000..37_600).contains(&longer_than_mean), "{longer_than_mean}");
    }
}
