//! The rest of a message that a turn did not finish is routed in the next one.

use std::rc::Rc;

use super::Broker;
use super::fan_out::{FanOut, Stage};
use super::match_list::{ListBuilder, MatchList};
use super::no_responders::tell_publisher;
use super::passage::Routed;
use super::turn::Turn;

impl Broker {
    /// Continues with a message that a turn did not finish.
    pub fn resume(&mut self, mut fan_out: Box<FanOut>, turn: &mut Turn) -> Routed {
        if self.cuts.is_older(fan_out.began()) {
            fan_out.mark_late();
        }
        loop {
            match std::mem::replace(&mut fan_out.stage, Stage::Matching(None)) {
                Stage::Matching(builder) => match self.match_more(&fan_out, builder, false, turn) {
                    Ok(list) => fan_out.stage = Stage::Delivering(list, Box::default()),
                    Err(builder) => {
                        fan_out.stage = Stage::Matching(Some(builder));
                        break;
                    }
                },
                Stage::Delivering(list, mut progress) => {
                    turn.crossing = fan_out.crossing.take();
                    let is_done = fan_out
                        .with_passage(|passage| self.walk(passage, &list, &mut progress, turn));
                    if is_done {
                        return fan_out
                            .with_passage(|passage| self.end_of_passage(passage, &progress, turn));
                    }
                    fan_out.stage = Stage::Delivering(list, progress);
                    fan_out.crossing = turn.crossing.take();
                    break;
                }
                Stage::MatchingReply(builder) => {
                    match self.match_more(&fan_out, builder, true, turn) {
                        Ok(list) => fan_out.stage = Stage::FindingPublisher(list, 0),
                        Err(builder) => {
                            fan_out.stage = Stage::MatchingReply(Some(builder));
                            break;
                        }
                    }
                }
                Stage::FindingPublisher(list, looked_at) => {
                    let end = list.plain.len().min(looked_at + turn.room());
                    turn.spend(end - looked_at);
                    let part = &list.plain[looked_at..end];
                    let is_told = fan_out.with_passage(|passage| tell_publisher(passage, part));
                    if is_told || end == list.plain.len() {
                        return Routed::Nobody;
                    }
                    fan_out.stage = Stage::FindingPublisher(list, end);
                    break;
                }
            }
            if turn.is_over() {
                break;
            }
        }
        turn.unfinished = Some(fan_out);
        Routed::Unfinished
    }

    /// The list of a message's subject, or of its reply; Err = there is more to look through.
    fn match_more(
        &mut self,
        fan_out: &FanOut,
        builder: Option<Box<ListBuilder>>,
        of_reply: bool,
        turn: &mut Turn,
    ) -> Result<Rc<MatchList>, Box<ListBuilder>> {
        let room = turn.room();
        let mut budget = room;
        let found = match builder {
            Some(builder) => {
                let account = &mut self.accounts[builder.account().index()];
                builder.go_on(account, &mut budget)
            }
            None => fan_out.with_passage(|passage| {
                let id = passage.origin.source.account;
                let message = &passage.message;
                let routed_by = passage.origin.routed_by(message);
                let subject = if of_reply { message.reply } else { routed_by };
                self.accounts[id.index()].matched(id, subject, &mut budget)
            }),
        };
        turn.spend(room - budget);
        found
    }
}
