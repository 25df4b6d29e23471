//! Records what a server answers, for steps whose lines in the file say something else.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::Replay;
use crate::format::{Expected, Step, escape};
use crate::lines::{info_fields, recorded_info};
use crate::support::WAIT_MAX;
use crate::support::raw_client::Fill;

/// Time without further bytes after which an answer is complete.
const QUIET: Duration = Duration::from_millis(120);

/// New lines to replace those of a step.
pub struct Recorded {
    pub lines: Range<usize>,
    pub text: Vec<String>,
}

impl Replay<'_> {
    /// Takes what the server answers until it is quiet; if that differs from the file, the lines of
    /// the step are replaced.
    pub(super) fn record_answer(
        &mut self,
        peer: char,
        step: &Step,
        expected: &[Expected],
        ends: bool,
    ) -> Result<(), String> {
        let raw = &mut self.client(peer)?.raw;
        // Something must come, or the step would not be there; then the server is given time to
        // finish.
        let mut fill = Fill::Grown;
        if raw.unread().is_empty() {
            fill = raw.fill(Instant::now() + WAIT_MAX);
        }
        while fill == Fill::Grown {
            fill = raw.fill(Instant::now() + if ends { WAIT_MAX } else { QUIET });
        }
        if raw.unread().is_empty() {
            return Err(format!("{peer} receives nothing"));
        }
        let answer = raw.unread().to_vec();
        if self.receive(&[peer], expected).is_ok() && self.client(peer)?.raw.unread().is_empty() {
            return Ok(());
        }
        let raw = &mut self.client(peer)?.raw;
        let rest = raw.unread().len();
        raw.consume(rest);

        let mut text = Vec::new();
        let mut known = expected.iter().filter_map(|one| match one {
            Expected::Info(fields) => Some(fields),
            _ => None,
        });
        for line in answer.split_inclusive(|byte| *byte == b'\n') {
            match info_fields(line) {
                Ok(got) => {
                    text.push(format!("{peer} ~ INFO {}", recorded_info(known.next(), &got)))
                }
                Err(_) => text.push(format!("{peer} << {}", escape(line))),
            }
        }
        let recording = self.recording.as_mut().expect("only called while recording");
        recording.push(Recorded { lines: step.lines.clone(), text });
        Ok(())
    }
}
