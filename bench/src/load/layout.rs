//! The shape of a workload: who publishes to which subject, and who listens to it.

/// The numbers that describe a workload's shape.
#[derive(Clone, Debug)]
pub struct Layout {
    pub publisher_count: usize,
    pub subscriber_count: usize,
    pub subject_count: usize,
    /// Every subscriber listens to all subjects by one wildcard.
    pub wildcard: bool,
    /// Subscribers share the messages as one queue group.
    pub queue: Option<String>,
    pub payload_size: usize,
    /// First tokens of every subject: unique to a run, so that runs do not receive each other's
    /// messages.
    pub subject_prefix: String,
    /// True if each responder answers a subject of its own; otherwise all responders share all
    /// subjects.
    pub paired: bool,
}

impl Layout {
    /// Returns the subjects, all of the same length, so that every frame of a run has the same
    /// size.
    pub fn subjects(&self) -> Vec<String> {
        let width = self.subject_count.saturating_sub(1).to_string().len();
        (0..self.subject_count)
            .map(|index| format!("{}.{index:0width$}", self.subject_prefix))
            .collect()
    }

    /// Returns which subjects subscriber `index` gets. With fewer subjects than subscribers several
    /// share one (fan-out); with more, each takes every n-th.
    pub fn subscribed(&self, index: usize) -> Vec<bool> {
        let everything = self.wildcard || self.queue.is_some() || self.subject_count == 1;
        let has = |subject: usize| {
            everything
                || if self.subject_count >= self.subscriber_count {
                    subject % self.subscriber_count == index
                } else {
                    index % self.subject_count == subject
                }
        };
        (0..self.subject_count).map(has).collect()
    }

    /// Returns the subjects that subscriber `index` sends in `SUB`.
    pub fn subscription_subjects(&self, index: usize) -> Vec<String> {
        if self.wildcard || (self.queue.is_some() && self.subject_count > 1) {
            return vec![format!("{}.*", self.subject_prefix)];
        }
        let subscribed = self.subscribed(index);
        let subjects = self.subjects().into_iter().zip(subscribed);
        subjects.filter(|(_, has)| *has).map(|(subject, _)| subject).collect()
    }

    /// Returns `2x4 128 B`, followed by what is special.
    pub fn label(&self) -> String {
        let mut label = format!(
            "{}x{} {}",
            self.publisher_count,
            self.subscriber_count,
            crate::units::size_text(self.payload_size as u64)
        );
        if self.subject_count > 1 {
            label.push_str(&format!(" {} subjects", self.subject_count));
        }
        if self.wildcard {
            label.push_str(" wildcard");
        }
        if self.queue.is_some() {
            label.push_str(" queue");
        }
        label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(subscriber_count: usize, subject_count: usize) -> Layout {
        Layout {
            publisher_count: 1,
            subscriber_count,
            subject_count,
            wildcard: false,
            queue: None,
            payload_size: 16,
            subject_prefix: "bench.x".to_string(),
            paired: false,
        }
    }

    #[test]
    fn every_subject_has_a_subscriber_and_every_subscriber_a_subject() {
        for subscriber_count in 1..12 {
            for subject_count in 1..12 {
                let layout = layout(subscriber_count, subject_count);
                let mut heard = vec![false; subject_count];
                for index in 0..subscriber_count {
                    let subscribed = layout.subscribed(index);
                    assert!(subscribed.iter().any(|&has| has));
                    let count = subscribed.iter().filter(|&&has| has).count();
                    assert_eq!(layout.subscription_subjects(index).len(), count);
                    subscribed.iter().zip(&mut heard).for_each(|(has, heard)| *heard |= has);
                }
                assert!(heard.iter().all(|&heard| heard), "{subscriber_count} {subject_count}");
            }
        }
    }

    #[test]
    fn subjects_are_equally_long() {
        let subjects = layout(1, 1000).subjects();
        assert_eq!(subjects[0], "bench.x.000");
        assert_eq!(subjects[999], "bench.x.999");
    }
}
